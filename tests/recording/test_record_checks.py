"""What ``record`` refuses: one clear sentence with the rule, the value and what to do next."""

import functools
import math

import numpy as np
import pytest
import tiny

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
        ({"keep": ("latents", "attention")}, ValueError, "keep takes names of arrays"),
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


def test_a_negative_prompt_is_checked_too():
    with pytest.raises(TypeError, match="negative_prompt must be a string"):
        record(pipe(), "a cat", negative_prompt=3, **QUICK)


def test_seed_and_generator_together():
    import torch

    with pytest.raises(ValueError, match="seed= or generator=, not both"):
        record(pipe(), "a cat", seed=1, generator=torch.Generator(), **QUICK)


@pytest.mark.parametrize("stranger", ["critters", None, 7, dict, print])
def test_what_is_no_pipeline(stranger):
    with pytest.raises(TypeError) as error:
        record(stranger, "a cat")
    assert "record takes a" in str(error.value)
    assert "pipeline" in str(error.value)
