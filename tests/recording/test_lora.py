"""LoRA by peft: the picture stays the bare one, and the record says what acted in it."""

import numpy as np
import pytest
import tiny
import torch

from ldmkit.recording import record

peft = pytest.importorskip("peft")

CALL = {"num_inference_steps": 2, "guidance_scale": 3.0}


def adapt(network, name, *targets, seed=0):
    """Random weights of rank 2, with alpha twice the rank, as files often have it."""
    torch.manual_seed(seed)
    settings = {"r": 2, "lora_alpha": 4, "init_lora_weights": False}
    network.add_adapter(peft.LoraConfig(**settings, target_modules=list(targets)), name)


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny.pipeline(size="small")
    adapt(pipe.unet, "one", "to_q", "to_v")
    with pytest.warns(UserWarning, match="multiple adapters"):  # peft's
        adapt(pipe.unet, "two", "to_q", "to_v", seed=1)
    adapt(pipe.text_encoder, "one", "q_proj")
    return pipe


def pixels(picture):
    return np.asarray(picture, np.int16)


@pytest.mark.parametrize(
    ("names", "weights", "call", "told"),
    [
        ("one", None, {}, {"text_encoder": {"one": 1.0}, "unet": {"one": 1.0}}),
        (
            ["one", "two"],
            [0.7, 0.3],
            {"cross_attention_kwargs": {"scale": 0.5}},
            {"text_encoder": {"one": 0.7}, "unet": {"one": 0.7, "two": 0.3}},
        ),
        (
            "one",
            {"text_encoder": 0.4, "unet": {"down": 0.2, "mid": 0.2, "up": 0.9}},
            {},
            {"text_encoder": {"one": 0.4}, "unet": {"one": "0.2 to 0.9, by block"}},
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::UserWarning:diffusers")
def test_the_picture_is_the_bare_one_and_its_keywords_repeat_it(pipe, names, weights, call, told):
    pipe.set_adapters(names, weights)
    noise = torch.Generator("cpu").manual_seed(7)
    bare = pipe("a red cat", generator=noise, **CALL, **call).images[0]
    traj = record(pipe, "a red cat", seed=7, keep="all", preview="none", **CALL, **call)
    assert np.array_equal(pixels(traj.image), pixels(bare))
    assert traj.call["adapters"] == told
    with pytest.warns(UserWarning, match="load its adapters first: "):
        again = record(pipe, preview="none", **traj.keywords)
    assert np.array_equal(pixels(again.image), pixels(bare))
    pipe.disable_lora()
    without = record(pipe, "a red cat", seed=7, preview="none", **CALL)
    pipe.enable_lora()
    assert "adapters" not in without.call
    assert np.abs(pixels(without.image) - pixels(bare)).max() > 1


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_fused_weights_are_told_with_their_scale(pipe):
    """Of a picture that can't be asked for by keywords alone, ``keywords`` say what to load."""
    pipe.set_adapters("one", 0.8)
    told = {"text_encoder": {"one": 0.8}}
    for scale, words in ((1.0, "fused at 0.8"), (0.5, "fused at 0.4")):
        pipe.fuse_lora(components=["unet"], lora_scale=scale)
        fused = record(pipe, "a red cat", seed=7, preview="none", **CALL)
        pipe.unfuse_lora(components=["unet"])
        assert fused.call["adapters"] == told | {"unet": {"one": words}}
        with pytest.warns(UserWarning, match=rf"load its adapters first: .*one \({words}\)"):
            assert fused.keywords["seed"] == 7
    pipe.set_adapters("one", {"text_encoder": 0.8, "unet": 0.4})  # which makes it again
    again = record(pipe, "a red cat", seed=7, preview="none", **CALL)
    assert np.abs(pixels(again.image) - pixels(fused.image)).max() <= 1
