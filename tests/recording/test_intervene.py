"""What the network reads, changed for some layers or steps; everything put back after."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import tiny_encoders
import tiny_families
import tiny_rows
import tiny_unclip
import torch
from diffusers import EulerDiscreteScheduler
from tiny_encoders import same

from ldmkit.check import heard_by
from ldmkit.loading.siblings import twin_of
from ldmkit.recording import intervene as intervening
from ldmkit.recording import record
from ldmkit.recording.intervene import check_encoders, intervene

SIZE = {"height": 32, "width": 32}
QUICK = {"num_inference_steps": 4, "preview": "none", "guidance_scale": 3.0, **SIZE}
PROMPT, OTHER = "a red cat with a hat", "a black dog in the snow"
BUILD = {
    "sd": lambda: tiny.pipeline(size="small"),
    "sdxl": tiny_encoders.sdxl,
    "sd3": tiny_encoders.sd3,
    "flux": tiny_encoders.flux,
}


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(size="small")


def run(pipe, prompt=PROMPT, seed=7, **call):
    return record(pipe, prompt, seed=seed, **{**QUICK, **call})


@pytest.mark.parametrize("family", BUILD)
def test_other_words_from_the_first_step_are_a_run_with_those_words(family):
    pipe = BUILD[family]()
    bare, other = run(pipe), run(pipe, OTHER)
    with intervene(pipe, OTHER) as on:
        swapped = run(pipe)
    assert on.changed == 4
    assert np.abs(swapped.latents - other.latents).max() < 1e-5
    assert np.abs(bare.latents - other.latents).max() > 1e-4
    with intervene(pipe, OTHER, steps=range(2, 4)):
        late = run(pipe)
    assert np.array_equal(late.latents[:3], bare.latents[:3])  # before the third step's end
    assert not np.array_equal(late.latents[3], bare.latents[3])
    assert np.array_equal(run(pipe).latents, bare.latents)


@pytest.mark.parametrize("family", BUILD)
def test_what_does_nothing_leaves_the_picture_as_it_is(family):
    pipe = BUILD[family]()
    bare = run(pipe)
    for words, options in (
        (OTHER, {"amount": 0.0}),
        (OTHER, {"steps": ()}),
        (None, {"amount": lambda step: 0}),
        ({"cat": 1.0}, {}),
        (PROMPT, {}),
    ):
        with intervene(pipe, words, **options):
            assert same(run(pipe).image, bare.image), (words, options)


def test_no_words_are_the_empty_prompt(pipe):
    with intervene(pipe):
        away = run(pipe)
    assert np.abs(away.latents - run(pipe, "").latents).max() < 1e-5
    half = []
    for amount in (0.5, [0.5] * 4, lambda step: 0.5):
        with intervene(pipe, OTHER, amount=amount):
            half.append(run(pipe).latents)
    assert np.array_equal(half[0], half[1])
    assert np.array_equal(half[0], half[2])
    embeds = [pipe.encode_prompt(text, "cpu", 1, False)[0] for text in (PROMPT, OTHER, "")]
    mixed = record(
        pipe,
        prompt_embeds=torch.lerp(embeds[0], embeds[1], 0.5),
        negative_prompt_embeds=embeds[2],
        seed=7,
        **QUICK,
    )
    assert np.abs(half[0] - mixed.latents).max() < 1e-5


def test_some_layers_read_other_words(pipe):
    """A pre-hook of the test's own on the same layers, on the half with the words."""
    other = pipe.encode_prompt(OTHER, "cpu", 1, False)[0]

    def hook(module, args, kwargs):
        words = kwargs["encoder_hidden_states"].clone()
        words[1] = other[0]
        return args, {**kwargs, "encoder_hidden_states": words}

    layers = [m for n, m in pipe.unet.up_blocks.named_modules() if n.endswith("attn2")]
    hooks = [m.register_forward_pre_hook(hook, with_kwargs=True) for m in layers]
    wanted = run(pipe).latents
    for one in hooks:
        one.remove()
    with intervene(pipe, OTHER, layers="up_blocks"):
        got = run(pipe, keep=("latents", "attention"))
    assert np.array_equal(got.latents, wanted)
    names = [one.name for one in got.attention.layers]
    numbers = [i for i, name in enumerate(names) if name.startswith("up_blocks")]
    with intervene(pipe, OTHER, layers=numbers):  # as traj.attention.layers counts
        assert np.array_equal(run(pipe).latents, wanted)
    assert got.call["intervene"][0]["layers"] == sorted(names[i] for i in numbers)


@pytest.mark.parametrize("family", ["sd", "sd3", "flux"])
def test_a_word_weighed_is_its_column_times_the_weight(family):
    """The first layer's output moves along the word's own share, as far as the weight says."""
    pipe = BUILD[family]()
    moved = []
    for weight in (0.0, 1.0, 3.0):
        with intervene(pipe, {"cat": weight}, steps=0):
            moved.append(_first_output(pipe))
    down, up = moved[0] - moved[1], moved[2] - moved[1]
    assert np.abs(down).max() > 1e-5
    assert np.allclose(up, -2 * down, atol=1e-5)  # (w - 1) A_cat V_cat


def _first_output(pipe):
    """What the first layer that reads words gives for the picture, in the half with the words."""
    network = getattr(pipe, "unet", None) or pipe.transformer
    layer = next(
        m
        for n, m in network.named_modules()
        if hasattr(m, "processor") and n.endswith(("attn2", ".attn"))
    )
    seen = []

    def keep(module, args, output):
        seen.append((output[0] if isinstance(output, tuple) else output)[-1].clone().numpy())

    hook = layer.register_forward_hook(keep)
    run(pipe, num_inference_steps=1)
    hook.remove()
    return seen[0]


def test_maps_of_one_picture_are_given_to_the_others(pipe):
    """Prompt-to-prompt (arXiv 2208.01626, section 3.2): A of one, V of each."""
    prompts = ["a red cat in the snow", "a red dog in the snow"]
    both = {"prompt": prompts, "seed": [7, 7], "keep": ("latents", "attention")}
    bare = run(pipe, **both)
    with intervene(pipe, attention=0):
        given = run(pipe, **both)
    maps = given.attention
    assert np.array_equal(given.latents[:, 0], bare.latents[:, 0])
    assert not np.allclose(given.latents[-1, 1], bare.latents[-1, 1])
    first, second = (m.maps[0] for m in (maps, maps.of(1)))
    assert np.array_equal(first, second)
    assert not np.allclose(bare.attention.maps[0], bare.attention.of(1).maps[0])
    with intervene(pipe, attention=0), pytest.raises(ValueError, match="as many tokens"):
        run(pipe, ["a cat", "a cat with a hat"], seed=[7, 7])
    with intervene(pipe, attention=0), pytest.raises(ValueError, match="a batch of 1"):
        run(pipe)


def test_a_record_says_that_its_words_were_changed(pipe):
    with intervene(pipe, {"cat": 0.0}, steps=[0, 1]):
        traj = run(pipe)
    assert traj.call["intervene"] == [
        {"words": {"cat": 0.0}, "layers": None, "steps": [0, 1], "amount": 1.0}
    ]
    said = []
    with heard_by(said.append):
        assert "intervene" not in traj.keywords
    assert 'run within ldmkit.intervene(...) again, as call["intervene"] says' in said[0]
    assert "intervene" not in run(pipe).call


def test_steps_are_the_schedulers_own_in_every_run(pipe):
    """Bare, twice in a row, by a twin, with a scheduler that calls twice a step."""
    wanted = run(pipe).latents
    bare = {k: v for k, v in QUICK.items() if k != "preview"}
    generator = torch.Generator
    with intervene(pipe, None, steps=3) as on:
        for own in (pipe, pipe, twin_of(pipe)):
            own(PROMPT, generator=generator().manual_seed(7), **bare)
        assert on.changed == 3
        late = run(pipe)
        assert np.array_equal(late.latents[:4], wanted[:4])
        with intervene(pipe, OTHER, steps=0):  # one in another
            both = run(pipe)
    assert not np.array_equal(both.latents[1], late.latents[1])
    heun = tiny.pipeline(size="small", scheduler_name="HeunDiscreteScheduler")
    with intervene(heun, None, steps=6) as on:
        changed = run(heun)
    assert on.changed == 1
    assert np.array_equal(changed.latents[:7], run(heun).latents[:7])


@pytest.mark.parametrize(
    ("words", "options", "error", "told"),
    [
        (3, {}, TypeError, "words must be a string, a dict"),
        ({}, {}, TypeError, "words must map words to weights"),
        ({"cat": "x"}, {}, TypeError, "The weight of 'cat'"),
        ({"catt": 0}, {}, ValueError, "got 'catt'; did you mean 'cat'"),
        (None, {"layers": "up_block.1"}, ValueError, "did you mean 'up_blocks"),
        (None, {"layers": 99}, ValueError, "numbers from 0 to 6"),
        (None, {"layers": []}, ValueError, "one layer or more"),
        (None, {"steps": range(9)}, ValueError, "3 at most, the last step of this run, got 8"),
        (None, {"steps": range(2, 10**12)}, ValueError, "steps must be 10000 at most"),
        (None, {"steps": itertools.count()}, ValueError, "steps must be 10000 at most"),
        (None, {"steps": -1}, ValueError, "counted from 0, got -1"),
        (None, {"steps": "early"}, TypeError, "whole numbers like range"),
        (None, {"amount": 2}, ValueError, "amount must be between 0 and 1"),
        (None, {"amount": [0.5]}, ValueError, "4 numbers, one for each step"),
        (None, {"attention": 0}, ValueError, "words or attention, not both"),
    ],
)
def test_what_is_asked_must_be_there(pipe, words, options, error, told):
    with pytest.raises(error, match=told), intervene(pipe, words, **options):
        run(pipe)
    assert untouched(pipe)


def untouched(pipe):
    network = getattr(pipe, "unet", None) or pipe.transformer
    hooks = [h for m in network.modules() for h in (m._forward_pre_hooks, m._forward_hooks)]
    return (
        not any(hooks) and "step" not in vars(pipe.scheduler) and not vars(network).get("forward")
    )


def test_everything_is_put_back_after_an_exception(pipe):
    def leave(step):
        raise KeyboardInterrupt

    wanted = run(pipe)
    with pytest.raises(KeyboardInterrupt), intervene(pipe, OTHER, steps=range(2)):
        run(pipe, on_step=leave)
    assert untouched(pipe)
    assert same(run(pipe).image, wanted.image)


def test_what_can_not_be_changed_is_said():
    flux = tiny_encoders.flux()
    with (
        pytest.raises(ValueError, match=r"attend jointly.*words in them"),
        intervene(flux, OTHER, layers="single_transformer_blocks"),
    ):
        pass
    with (
        pytest.raises(ValueError, match="attend jointly; weigh words"),
        intervene(flux, attention=0),
    ):
        pass
    with (
        pytest.raises(ValueError, match="one embedding of a picture"),
        intervene(tiny_unclip.kandinsky()),
    ):
        pass
    with pytest.raises(TypeError, match="intervene takes a diffusers pipeline"), intervene("x"):
        pass
    blind = type(flux)(**{**flux.components, "text_encoder_2": None})
    with pytest.raises(ValueError, match="without its text_encoder_2; load it whole"):
        intervene(blind, OTHER).__enter__()
    embeds, pooled, _ = flux.encode_prompt(PROMPT, None)
    given = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
    with (
        intervene(blind, {"cat": 0}),
        pytest.raises(ValueError, match="none that can be told apart"),
    ):
        record(blind, seed=7, **QUICK, **given)


def test_no_words_and_an_empty_prompt_are_two_things_to_sdxl():
    pipe = tiny_encoders.sdxl()
    with intervene(pipe, ""):
        empty = run(pipe)
    with intervene(pipe, None):
        none = run(pipe)
    assert np.array_equal(empty.latents, run(pipe, "").latents)
    assert not np.array_equal(empty.latents, none.latents), "zeros, as its other half reads"


def test_an_encoder_may_be_missing_with_its_tokenizer_where_another_reads():
    parts = {"text_encoder": None, "tokenizer": None, "text_encoder_2": 1, "tokenizer_2": 2}
    check_encoders(SimpleNamespace(components=parts))  # SDXL's refiner
    for gone in ({"tokenizer": 3}, {"text_encoder_2": None, "tokenizer_2": None}):
        with pytest.raises(ValueError, match="loaded without its text_encoder; load it whole"):
            check_encoders(SimpleNamespace(components=parts | gone))


@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        ("AmusedPipeline", {"red": 0}, "can't tell the pictures"),
        ("HunyuanDiTPipeline", OTHER, "a second time"),
    ],
)
def test_a_change_that_would_not_be_whole_is_refused(name, words, told, monkeypatch):
    case = (tiny_families.CASES | tiny_rows.CASES)[name]
    read = {"embeds": torch.zeros_like(case.call.get("prompt_embeds", torch.zeros(1)))}
    monkeypatch.setattr(intervening, "encoded", lambda *args: read)
    monkeypatch.setattr(intervening, "check_encoders", lambda pipe: None)  # a case has none
    pipe = case.build()
    with intervene(pipe, words), pytest.raises(ValueError, match=told):
        record(pipe, seed=7, preview="none", **case.call)
    own = tiny.pipeline(size="small")
    own.scheduler = EulerDiscreteScheduler.from_config(own.scheduler.config)
    with intervene(own, None), pytest.raises(ValueError, match="called by none"):
        own.unet(torch.zeros(1, 4, 8, 8), 5, torch.zeros(1, 32, 16))
