"""What ``record`` refuses: one clear sentence with the rule, the value and what to do next."""

import functools
import inspect
import logging
import math
import traceback
import warnings
from fractions import Fraction

import numpy as np
import pytest
import tiny
import tiny_encoders
import torch
from PIL import Image

from ldmkit.check import heard_by
from ldmkit.recording import record

QUICK = {"num_inference_steps": 2, "preview": "none"}


@functools.cache
def pipe():
    return tiny.pipeline(size="small")


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        ({"num_inference_steps": 0}, ValueError, "between 1 and 1024 inclusive, got 0"),
        ({"num_inference_steps": -1}, ValueError, "between 1 and 1024 inclusive, got -1"),
        ({"num_inference_steps": 1.5}, TypeError, "whole number between 1 and 1024, got 1.5"),
        ({"num_inference_steps": 10**6}, ValueError, "got 1000000"),
        ({"num_inference_steps": True}, TypeError, "got True"),
        ({"num_inference_steps": "8"}, TypeError, "got '8'"),
        ({"guidance_scale": math.nan}, ValueError, "finite number, got nan"),
        ({"guidance_scale": math.inf}, ValueError, "finite number, got inf"),
        ({"guidance_scale": "much"}, TypeError, "must be a number, got 'much'"),
        ({"num_inference_step": 8}, TypeError, "did you mean 'num_inference_steps'?"),
        ({"guidence_scale": 8}, TypeError, "did you mean 'guidance_scale'?"),
        ({"sed": 8}, TypeError, "did you mean 'seed'?"),
        ({"xyzzy": 8}, TypeError, "it takes: "),
        ({"callback": print}, TypeError, "know no keyword 'callback'"),
        ({"num_images_per_prompt": 0}, ValueError, "between 1 and 256 inclusive, got 0"),
        ({"height": 10**9}, ValueError, "height must be between 8 and 8192"),
        ({"seed": "seven"}, TypeError, "seed must be a whole number"),
        ({"seed": 1.5}, TypeError, "got 1.5"),
        ({"seed": -1}, ValueError, "got -1"),
        ({"seed": True}, TypeError, "got True"),
        ({"keep": "latent"}, ValueError, "did you mean 'latents'?"),
        ({"keep": ("latents", "attentoin")}, ValueError, "keep takes names of arrays"),
        ({"preview": "jpeg"}, ValueError, "one of auto, vae, linear, none"),
        ({"output_type": "np"}, ValueError, 'must be "pil" or "latent"'),
        ({"return_dict": False}, ValueError, "return_dict must stay True"),
    ],
    ids=str,
)
def test_keywords(call, kind, words):
    with pytest.raises(kind) as error:
        record(pipe(), "a cat", **call)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("prompt", "kind", "words"),
    [
        (7, TypeError, "string or a list of strings, got 7"),
        (b"a cat", TypeError, "got b'a cat'"),
        (["a cat", 7], TypeError, "list of strings"),
        ([], ValueError, "at least one string"),
        (None, TypeError, "needs a prompt, got None"),
        ("x" * 100_001, ValueError, "at most 100,000 characters, got 100,001"),
        ("half a \ud83d cat", ValueError, "lone surrogate"),
        (np.zeros(3), TypeError, "list of strings"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_prompts_that_are_refused(prompt, kind, words):
    with pytest.raises(kind) as error:
        record(pipe(), prompt, **QUICK)
    assert words in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "prompt", ["", "🐱🎩", "<script>alert(1)</script>", "</style><img src=x onerror=alert(1)>"]
)
@pytest.mark.filterwarnings("ignore:The prompt has")
def test_prompts_that_run(prompt):
    traj = record(pipe(), prompt, seed=0, **QUICK)
    assert traj.prompt == prompt
    assert traj.image.size == (32, 32)


def test_a_prompt_that_is_cut_is_said(capfd):
    with pytest.warns(UserWarning, match="has 3,334 tokens and the text encoder reads 30"):
        traj = record(pipe(), "a cat " * 1667, seed=0, **QUICK)  # 10,002 characters
    assert len(traj.prompt) == 10_002
    assert "a cat a cat" not in capfd.readouterr().err, "the libraries repeat the whole prompt"


HUGE = 10**5000  # Python refuses to write it out


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        ({"guidance_scale": 10**400}, ValueError, "guidance_scale must be a finite number"),
        ({"guidance_scale": None}, TypeError, "must not be None; leave it out for 7.5"),
        ({"guidance_scale": []}, TypeError, "must be a number, got []"),
        ({"guidance_rescale": HUGE}, ValueError, "guidance_rescale must be a finite number"),
        ({"eta": None}, TypeError, "leave it out for 0.0"),
        ({"num_inference_steps": None}, TypeError, "leave it out for 50"),
        ({"num_inference_steps": HUGE}, ValueError, "between 1 and 1024 inclusive, got a value"),
        ({"num_images_per_prompt": None}, TypeError, "leave it out for 1"),
        ({"clip_skip": 1.5}, TypeError, "clip_skip must be a whole number between 0 and 0"),
        ({"callback_on_step_end": 7}, TypeError, "must be a function or None, got 7"),
        ({"callback_on_step_end_tensor_inputs": 7}, TypeError, "must be a list of strings"),
        ({"cross_attention_kwargs": 7}, TypeError, "must be a dict like {'scale': 0.5}, got 7"),
        ({"generator": 7}, TypeError, "torch.Generator or a list of them, got 7; seed=7 makes"),
        ({"generator": []}, TypeError, "torch.Generator or a list of them, got []"),
        ({"latents": np.zeros(3)}, TypeError, "latents must be a torch.Tensor"),
        ({"latents": torch.zeros(0)}, TypeError, "latents must be a torch.Tensor, not empty"),
        ({"timesteps": []}, ValueError, "timesteps must hold at least one number"),
        ({"timesteps": 7}, TypeError, "timesteps must be a list of numbers, got 7"),
        ({"sigmas": [1.0, "x"]}, TypeError, "Each item of sigmas must be a number, got 'x'"),
        ({"sigmas": [10**400]}, ValueError, "Each item of sigmas must be a finite number"),
        ({"ip_adapter_image": 7}, TypeError, "must be a PIL picture, an array or a list"),
        ({"output_type": None}, TypeError, "output_type must not be None"),
        ({"output_type": 7}, TypeError, "output_type must be a string, got 7"),
        ({"return_dict": 7}, TypeError, "return_dict must be True or False, got 7"),
        ({"negative_prompt": []}, ValueError, "negative_prompt must hold at least one string"),
        ({"seed": []}, ValueError, "one whole number for each picture, got []"),
        ({"seed": 10**400}, ValueError, "between 0 and 2**63 - 1 inclusive"),
        ({"seed": [1, HUGE]}, ValueError, "inclusive, got a value of type int"),
        ({"keep": None}, TypeError, 'or "all", got None'),
        ({"keep": 7}, TypeError, 'or "all", got 7'),
        ({"keep": [[]]}, ValueError, 'or "all", got []'),
        ({"preview": None}, ValueError, "one of auto, vae, linear, none, got None"),
        ({"preview": HUGE}, ValueError, "got a value of type int"),
        ({"on_step": 7}, TypeError, "on_step must be a function or None, got 7"),
        ({"unsafe_previews": None}, TypeError, "unsafe_previews must be True or False, got None"),
        ({"on_step": lambda: 0}, TypeError, "on_step is called with (step), which"),
        (
            {"callback_on_step_end": lambda p: 0},
            TypeError,
            "write def callback_on_step_end(pipe, step, ",
        ),
        ({"callback_on_step_end_tensor_inputs": torch.tensor(2)}, TypeError, "a list of strings"),
        ({"latents": torch.tensor(2.0)}, ValueError, "must have the shape (batch, channels,"),
        ({"latents": torch.ones(4)}, ValueError, "got Tensor of shape (4,)"),
    ],
    ids=lambda value: str(value)[:60] if not isinstance(value, dict) else next(iter(value)),
)
def test_what_no_keyword_can_be(call, kind, words):
    ran = []
    with pytest.raises(kind) as error:
        record(pipe(), "a cat", **{"on_step": ran.append, **QUICK, **call})
    assert words in str(error.value).replace('"', "'").replace("'all'", '"all"')
    assert not ran


def test_a_picture_is_needed():
    with pytest.raises(TypeError, match=r"begins from a picture, got image=None; give image="):
        record(tiny.pipeline("img2img", size="small"), "a cat", image=None, **QUICK)


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK"])
def test_a_picture_of_other_bands_is_no_latents(mode):
    """diffusers takes four channels for latents, and makes another picture without a word."""
    picture = tiny.picture().convert(mode)
    with pytest.raises(ValueError, match=rf"got one of mode {mode}; write image.convert\(\"RGB"):
        record(tiny.pipeline("img2img", size="small"), "a cat", image=[picture], **QUICK)


@pytest.mark.parametrize("strength", [0, 0.4])
def test_a_strength_that_leaves_no_step(strength):
    """Said once the pipeline has failed: flow models make a step where others make none."""
    with pytest.raises(ValueError, match=f"got {strength} of 2 steps; ask for more of either"):
        record(
            tiny.pipeline("img2img", size="small"),
            "a cat",
            image=tiny.picture(),
            strength=strength,
            **QUICK,
        )


def test_numbers_of_other_kinds_are_pythons_own():
    """An np.uint8 of steps overflows in the scheduler, which has 1,024 timesteps."""
    plain = {"num_inference_steps": 2, "guidance_scale": 2.5, "eta": 0.5}
    odd = {"num_inference_steps": np.uint8(2), "guidance_scale": np.float32(2.5)}
    traj = record(pipe(), "a cat", seed=1, preview="none", eta=Fraction(1, 2), **odd)
    assert {name: traj.call[name] for name in plain} == plain
    assert {name: type(traj.call[name]) for name in plain} == {n: type(v) for n, v in plain.items()}


BAD = (None, [], (), {}, 10**400, HUGE, -1, 0.5, "x", 7, True, math.nan, object(), [None])


def fault_of(subject, call):
    """(whether it was refused, what is wrong with how it was)."""
    try:
        with heard_by(lambda words: None), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record(subject, **call)
    except Exception as error:
        words, at = str(error), traceback.extract_tb(error.__traceback__)[-1].filename
        ours = isinstance(error, (TypeError, ValueError)) and "/ldmkit/" in at.replace("\\", "/")
        sentence = words.endswith((".", "?")) and "\n" not in words and len(words) < 600
        return True, "" if ours and sentence else f"{type(error).__name__}: {words[:200]}"
    return False, ""


@pytest.mark.parametrize("kind", ["text2img", "img2img", "sdxl"])
def test_every_keyword_with_everything(kind, monkeypatch):
    """What runs, runs; all else is one sentence of ldmkit's own, before the first step."""
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    base = {"prompt": "a cat", **QUICK}
    if kind == "sdxl":
        subject, base = tiny_encoders.sdxl(), {**base, "height": 32, "width": 32}
    else:
        subject = tiny.pipeline(kind, size="small")
    if kind == "img2img":
        base["image"] = Image.new("RGB", (32, 32))
    names = [n for n, p in inspect.signature(subject.__call__).parameters.items() if p.kind == 1]
    names += ["seed", "keep", "preview", "on_step", "unsafe_previews"]
    assert len(names) > 20
    found = {
        f"{name}={type(value).__name__} ({i})": fault_of(subject, {**base, name: value})
        for name in names
        for i, value in enumerate(BAD)
    }
    assert {case: fault for case, (_, fault) in found.items() if fault} == {}
    assert sum(refused for refused, _ in found.values()) > 9 * len(names)


def test_a_negative_prompt_is_checked_too():
    with pytest.raises(TypeError, match="negative_prompt must be a string"):
        record(pipe(), "a cat", negative_prompt=3, **QUICK)


def test_seed_and_generator_together():
    with pytest.raises(ValueError, match="seed= or generator=, not both"):
        record(pipe(), "a cat", seed=1, generator=torch.Generator(), **QUICK)


@pytest.mark.parametrize("stranger", ["critters", None, 7, dict, print])
def test_what_is_no_pipeline(stranger):
    with pytest.raises(TypeError) as error:
        record(stranger, "a cat")
    assert "record takes a" in str(error.value)
    assert "pipeline" in str(error.value)
