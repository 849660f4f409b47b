"""No public function lets junk through: one sentence of ldmkit's own, before anything runs.

A row is a function, an argument, and the junk that happens to be fine there. Every other value must
be refused by ldmkit's code itself (no TypeError of Python's or numpy's from below), with a
sentence that names what it is about, before a network is called, weights are read or the hub is
asked.
"""

import math
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ldmkit
from ldmkit.loading import fetch
from ldmkit.loading import open as opening
from ldmkit.loading.samplers import with_sampler
from ldmkit.space import clip as clips
from ldmkit.space.arithmetic import walk_sum, weighted_sum

JUNK = {
    "None": None,
    "[]": [],
    "{}": {},
    "10**400": 10**400,
    "nan": math.nan,
    "True": True,
    "3": 3,
    "-1": -1,
    "object": object(),
    "bytes": b"x",
    "[None]": [None],
}
PICTURE = Image.new("RGB", (64, 64), "red")
PACKAGE = str(Path(ldmkit.__file__).parent)
ANY = tuple(JUNK)  # everything is fine: an argument that is checked elsewhere
NUMBER = ("3",)
SIGNED = ("3", "-1")
FLAG = ("True",)
OPTIONAL = ("None",)
FUNCTION = ("None",)
PIPE = ("diffusers pipeline", "a pipeline", "an unCLIP pipeline", "A pipeline", "a hub id")

# function -> (arguments that would run, {argument: (junk that is fine, words that tell of it)})
ROWS = {
    "load": (
        {"what": "critters"},
        {"what": ((), PIPE), "device": (OPTIONAL, ()), "dtype": (OPTIONAL, ()),
         "variant": (OPTIONAL, ())},
    ),
    "fetch": ({"name": "critters"}, {"name": ((), PIPE)}),
    "release": ({"pipe": "unclip"}, {"pipe": (OPTIONAL, PIPE)}),
    "anatomy": ({"pipe": "pipe"}, {"pipe": ((), PIPE)}),
    "with_sampler": (
        {"pipe": "pipe", "sampler": "ddim"}, {"pipe": ((), PIPE), "sampler": ((), ("scheduler",))},
    ),
    "clip_space": (
        {"what": "critters"},
        {"what": ((), ("clip_space",)), "device": (OPTIONAL, ()), "dtype": (OPTIONAL, ()),
         "processor": (OPTIONAL, ())},
    ),
    "score": (
        {"picture": PICTURE, "caption": "a red cat"},
        {"picture": ((), ()), "caption": ((), ()), "clip": (OPTIONAL, ())},
    ),
    "sweep": (
        {"pipe": "pipe", "axes": {"seed": [1]}, "prompt": "a red cat", "num_inference_steps": 1},
        {"pipe": ((), PIPE), "axes": ((), ()), "prompt": ((), ()), "seed": (("None", "3"), ()),
         "scheduler": (OPTIONAL, ()), "executor": (OPTIONAL, ()), "clip": (OPTIONAL, ()),
         "on_update": (FUNCTION, ())},
    ),
    "compare": (
        {"models": "pipe", "prompts": "a red cat", "num_inference_steps": 1},
        {"models": ((), (*PIPE, "compare needs")), "prompts": ((), ()),
         "num_inference_steps": (("None", "3"), ()), "scheduler": (OPTIONAL, ("scheduler",)),
         "seed": (NUMBER, ()), "batch_size": (NUMBER, ()), "clip": (OPTIONAL, ()),
         "on_update": (FUNCTION, ())},
    ),
    "sample_prior": (
        {"unclip": "unclip", "prompt": "a red cat"},
        {"unclip": ((), PIPE), "prompt": ((), ()), "seed": (("None", "3"), ()),
         "best_of": (NUMBER, ()), "num_inference_steps": (("None", "3"), ()),
         "guidance_scale": (("None", *SIGNED), ()), "generator": (OPTIONAL, ()),
         "latents": (OPTIONAL, ())},
    ),
    "decode_embedding": (
        {"unclip": "unclip", "embedding": np.ones(128, np.float32), "num_inference_steps": 1},
        {"unclip": ((), PIPE), "embedding": ((), ("mbedding",)), "seed": (("None", "3"), ()),
         "noise_level": (NUMBER, ()), "prompt": ((), ()), "latents": (OPTIONAL, ()),
         "keep": (("[]", "{}"), ()), "preview": ((), ()), "on_step": (FUNCTION, ()),
         "num_inference_steps": (("None", "3"), ()), "guidance_scale": (("None", *SIGNED), ()),
         "generator": (OPTIONAL, ())},
    ),
    "variations": (
        {"unclip": "unclip", "picture": PICTURE, "num_inference_steps": 1},
        {"unclip": ((), PIPE), "picture": ((), ()), "num_images": (NUMBER, ()),
         "noise_level": (NUMBER, ()), "seed": (NUMBER, ()), "on_step": (FUNCTION, ()),
         "latents": (OPTIONAL, ()), "guidance_scale": (("None", *SIGNED), ()),
         "generator": (OPTIONAL, ())},
    ),
    "interpolate": (
        {"pipe": "pipe", "a": "a cat", "b": "a dog", "space": "prompt", "num_inference_steps": 1},
        {"pipe": ((), PIPE), "a": ((), ("end 1",)), "b": ((), ("end 2",)),
         "num_frames": (NUMBER, ()), "t": (OPTIONAL, ()), "seed": (NUMBER, ()),
         "space": ((), ()), "method": (OPTIONAL, ()), "invert": ((), ()),
         "batch_size": (("None", "3"), ()), "on_frame": (FUNCTION, ()), "on_step": (FUNCTION, ())},
    ),
    "interpolate clip_image": (
        {"pipe": "unclip", "a": PICTURE, "b": PICTURE, "space": "clip_image"},
        {"pipe": ((), PIPE), "a": ((), ("end 1",)), "b": ((), ("end 2",)), "invert": (FLAG, ()),
         "latents": (OPTIONAL, ()), "guidance_scale": (("None", *SIGNED), ()),
         "noise_level": (NUMBER, ())},
    ),
    "interpolate noise": (
        {"pipe": "pipe", "a": 1, "b": 2, "space": "noise", "prompt": "a cat"},
        {"pipe": ((), PIPE), "a": (NUMBER, ("end 1", "seed")), "b": (NUMBER, ("end 2", "seed")),
         "prompt": ((), ())},
    ),
    "interpolate latent": (
        {"pipe": "pipe", "a": PICTURE, "b": PICTURE, "space": "latent"},
        {"pipe": ((), PIPE), "a": ((), ("end 1",)), "b": ((), ("end 2",))},
    ),
    "interpolate pixel": (
        {"pipe": None, "a": PICTURE, "b": PICTURE, "space": "pixel"},
        {"a": ((), ("end 1",)), "b": ((), ("end 2",))},
    ),
    "text_diff": (
        {"unclip": "unclip", "picture": PICTURE, "source": "a cat", "target": "a dog"},
        {"unclip": ((), PIPE), "picture": ((), ()), "source": ((), ()), "target": ((), ()),
         "theta": ((), ()), "num_frames": (NUMBER, ()), "seed": (NUMBER, ()),
         "invert": (FLAG, ()), "fixed_point": (NUMBER, ()), "clip": (OPTIONAL, ()),
         "on_frame": (FUNCTION, ()), "on_step": (FUNCTION, ()),
         "guidance_scale": (("None", *SIGNED), ()), "num_inference_steps": (("None", "3"), ()),
         "latents": (("None", ), ()), "batch_size": (("None", "3"), ()), "method": (OPTIONAL, ()),
         "noise_level": (NUMBER, ()), "height": (("None",), ())},
    ),
    "walk_sum": (
        {"unclip": "unclip", "terms": [(1, PICTURE), (1, "a crown")]},
        {"unclip": ((), PIPE), "terms": ((), ("term", "sum")), "form": ((), ()),
         "theta": ((), ()), "num_frames": (NUMBER, ()), "seed": (NUMBER, ()),
         "invert": (FLAG, ()), "fixed_point": (NUMBER, ()), "clip": (OPTIONAL, ()),
         "on_frame": (FUNCTION, ()), "on_step": (FUNCTION, ())},
    ),
    "invert": (
        {"pipe": "pipe", "picture": PICTURE, "prompt": "a cat"},
        {"pipe": ((), PIPE), "picture": ((), ()), "prompt": ((), ()),
         "embedding": (OPTIONAL, ()), "num_inference_steps": (NUMBER, ()),
         "fixed_point": (NUMBER, ()), "seed": (NUMBER, ())},
    ),
    "invert unclip": (
        {"pipe": "unclip", "picture": PICTURE},
        {"picture": ((), ()), "prompt": ((), ()), "embedding": (OPTIONAL, ("mbedding",)),
         "num_inference_steps": (NUMBER, ()), "fixed_point": (NUMBER, ()), "seed": (NUMBER, ()),
         "noise_level": (NUMBER, ()), "height": (OPTIONAL, ()), "latents": ((), ()),
         "num_images_per_prompt": ((), ())},
    ),
    "encode_image": (
        {"pipe": "pipe", "picture": PICTURE}, {"pipe": ((), PIPE), "picture": ((), ())},
    ),
    "decode_latents": (
        {"pipe": "pipe", "latents": np.zeros((1, 4, 16, 16))},
        {"pipe": ((), PIPE), "latents": ((), ())},
    ),
    "slerp": (
        {"a": np.ones(3), "b": np.arange(3.0), "t": 0.5},
        {"a": ((), ("ends",)), "b": ((), ("ends",)), "t": ((), ())},
    ),
    "clip encode_text": ({"text": "a cat"}, {"text": ((), ())}),
    "clip encode_image": (
        {"picture": PICTURE},
        {"picture": ((), ("PIL picture", "PIL image")), "label": (OPTIONAL, ())},
    ),
    "clip encode": ({"points": ["a cat"]}, {"points": (("[]",), ("picture",))}),
    "clip similarity": (
        {"a": ["a cat"]}, {"a": ((), ("picture",)), "b": (OPTIONAL, ("picture",))},
    ),
    "clip nearest": (
        {"point": "a cat", "candidates": ["a dog"]},
        {"point": ((), ("picture",)), "candidates": ((), ("picture",)),
         "count": (("None", "3", "10**400"), ())},
    ),
    "clip zero_shot": (
        {"picture": PICTURE, "texts": ["a cat"]},
        {"picture": ((), ("picture",)), "texts": ((), ("text",))},
    ),
    "clip gap": (
        {"texts": ["a", "b", "c"], "pictures": [PICTURE] * 3},
        {"texts": ((), ("picture", "point")), "pictures": ((), ("picture", "point"))},
    ),
    "weighted_sum": ({"terms": []}, {"terms": ((), ("term",))}),
}  # fmt: skip
FUNCTIONS = {
    "fetch": fetch,
    "with_sampler": with_sampler,
    "walk_sum": walk_sum,
    "weighted_sum": weighted_sum,
}
CASES = [
    (function, argument, junk)
    for function, (_, arguments) in ROWS.items()
    for argument, (fine, _) in arguments.items()
    for junk in JUNK
    if junk not in fine
]


@pytest.fixture(scope="module")
def models():
    return {
        "pipe": ldmkit.load("critters"),
        "unclip": ldmkit.load("critters-unclip"),
        "clip": ldmkit.clip_space("critters"),
    }


@pytest.fixture
def nothing_runs(monkeypatch):
    """Networks, weights and the hub: whoever reaches for them fails the test."""

    def ran(*args, **kwargs):
        pytest.fail("it ran")

    for module, name in (
        (opening, "_open_folder"),
        (opening, "_open_hub"),
        (clips, "open_folder"),
    ):
        monkeypatch.setattr(module, name, ran)
    handle = torch.nn.modules.module.register_module_forward_pre_hook(ran)
    yield
    handle.remove()


@pytest.mark.parametrize(("function", "argument", "junk"), CASES)
def test_junk_is_refused_in_one_sentence(models, nothing_runs, function, argument, junk):
    given, arguments = ROWS[function]
    words = (argument, *arguments[argument][1])
    call = {k: models.get(v, v) if isinstance(v, str) else v for k, v in given.items()}
    name, _, way = function.partition(" ")
    run = getattr(models["clip"], way) if name == "clip" else FUNCTIONS.get(name)
    run = run or getattr(ldmkit, name)
    with pytest.raises((TypeError, ValueError)) as raised:
        run(**{**call, argument: JUNK[junk]})
    last = traceback.extract_tb(raised.value.__traceback__)[-1]
    assert last.filename.startswith(PACKAGE), f"raised by {last}"
    said = str(raised.value)
    assert any(word in said for word in words), said
    assert said.endswith((".", "?", ")")), said
    assert len(said) <= 600, said
    assert "\n" not in said
