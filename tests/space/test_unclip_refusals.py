"""What ``sample_prior`` and ``decode_embedding`` refuse, and in which words."""

import warnings

import numpy as np
import pytest
import tiny
import tiny_unclip
import torch

from ldmkit.records import Embedding, RecordError
from ldmkit.space.clip import clip_space
from ldmkit.space.unclip import decode_embedding, sample_prior

PRIOR = {"num_inference_steps": 2, "guidance_scale": 3.0}
DECODER = {"num_inference_steps": 2, "guidance_scale": 2.5}
WIDTH = tiny_unclip.WIDTH


@pytest.fixture(scope="module")
def stable():
    return tiny_unclip.stable()


@pytest.fixture(scope="module")
def strangers(stable):
    from diffusers import StableUnCLIPImg2ImgPipeline

    parts = {k: v for k, v in stable.components.items() if not k.startswith("prior")}
    from_pictures = StableUnCLIPImg2ImgPipeline(
        feature_extractor=None, image_encoder=tiny_unclip.vision_encoder(), **parts
    )
    return {"plain": tiny.pipeline(size="small"), "no prior": from_pictures, "no pipeline": 7}


@pytest.mark.parametrize("name", ["plain", "no prior", "no pipeline"])
def test_a_family_without_a_prior_names_which_to_load(strangers, name):
    with pytest.raises(TypeError, match=r'has none; open one with ldmkit\.load\("critters-unclip"'):
        sample_prior(strangers[name], "a red cat")


@pytest.mark.parametrize("name", ["plain", "no pipeline"])
def test_a_family_that_decodes_nothing(strangers, name):
    with pytest.raises(TypeError, match=r'decode_embedding takes an unCLIP .*"critters-unclip"'):
        decode_embedding(strangers[name], np.ones(WIDTH))


def test_half_of_kandinsky():
    kandinsky = tiny_unclip.kandinsky()
    with pytest.raises(TypeError, match=r"makes embeddings and decodes none.*kandinsky22"):
        decode_embedding(kandinsky.prior_pipe, np.ones(WIDTH))
    with pytest.raises(TypeError, match=r"alone needs negative_image_embeds=.*kandinsky22"):
        decode_embedding(kandinsky.decoder_pipe, np.ones(WIDTH))
    with pytest.raises(TypeError, match="has none; open one"):
        sample_prior(kandinsky.decoder_pipe, "a red cat")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (None, "prompt must be a string, got None"),
        (7, "prompt must be a string or a list of strings, got 7"),
        (["a", 7], "prompt must be a string or a list of strings"),
    ],
)
def test_words_that_are_none(stable, prompt, words):
    with pytest.raises(TypeError, match=words):
        sample_prior(stable, prompt)


def test_empty_list_and_no_words(stable):
    with pytest.raises(ValueError, match="at least one string"):
        sample_prior(stable, [])
    assert sample_prior(stable, "", seed=0, **PRIOR).label == "no words"


def test_long_texts_are_cut_aloud(stable):
    with pytest.warns(UserWarning, match="tokens and the text encoder reads 30"):
        sample_prior(stable, "a red cat " * 40, seed=0, **PRIOR)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample_prior(stable, "a red cat", seed=0, **PRIOR)


@pytest.mark.parametrize(
    ("option", "error", "words"),
    [
        ({"best_of": 0}, ValueError, "best_of must be between 1 and 64 inclusive, got 0"),
        ({"best_of": 1.5}, TypeError, "best_of must be a whole number"),
        ({"best_of": None}, TypeError, "best_of must be a whole number"),
        ({"num_inference_steps": 0}, ValueError, "num_inference_steps must be between 1 and 1000"),
        ({"num_inference_steps": "5"}, TypeError, "num_inference_steps must be a whole number"),
        ({"guidance_scale": float("nan")}, ValueError, "guidance_scale must be a finite number"),
        ({"guidance_scale": "3"}, TypeError, "guidance_scale must be a number"),
        ({"seed": "7"}, TypeError, "seed must be a whole number"),
        ({"seed": -1}, ValueError, "seed must be between 0 and"),
        ({"seed": [1, 2]}, ValueError, "seed must be one number or a list of 1"),
        pytest.param(
            {"seed": 1, "generator": torch.Generator()},
            ValueError,
            "Give seed= or generator=",
            id="seed-and-generator",  # not the generator's address: names are the same each time
        ),
        ({"latents": np.zeros((1, WIDTH))}, None, ""),
        ({"latents": np.zeros((3, WIDTH))}, ValueError, r"shape \(2, 16\), got \(3, 16\)"),
        ({"latents": np.zeros((2, 5))}, ValueError, r"shape \(2, 16\), got \(2, 5\)"),
        ({"latents": np.full((2, WIDTH), np.nan)}, ValueError, "latents must be finite"),
    ],
    ids=str,
)
def test_options_of_the_prior(stable, option, error, words):
    if error is None:
        assert len(sample_prior(stable, "a red cat", **PRIOR | option)) == WIDTH
        return
    with pytest.raises(error, match=words):
        sample_prior(stable, "a red cat", **PRIOR | option)


@pytest.mark.parametrize(
    "pipe", [tiny_unclip.kandinsky(), tiny_unclip.karlo()], ids=["22", "karlo"]
)
def test_one_step_is_too_few_for_their_scheduler(pipe):
    with pytest.raises(ValueError, match="at least 2 with UnCLIPScheduler, got 1"):
        sample_prior(pipe, "a red cat", num_inference_steps=1)
    if type(pipe).__name__ == "UnCLIPPipeline":
        with pytest.raises(ValueError, match="at least 2 with UnCLIPScheduler, got 1"):
            decode_embedding(pipe, np.ones(WIDTH), num_inference_steps=1)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (None, TypeError, "An embedding, a vector"),
        ("a red cat", TypeError, "An embedding, a vector"),
        ([], ValueError, "Between 1 and 256 embeddings are needed, got 0"),
        (np.zeros((0, WIDTH)), ValueError, "Between 1 and 256 embeddings are needed, got 0"),
        (np.zeros((300, WIDTH)), ValueError, "Between 1 and 256 embeddings are needed, got 300"),
        (np.ones((2, 3, WIDTH)), TypeError, "An embedding, a vector"),
        (np.ones(WIDTH + 1), ValueError, "16 dimensions of .* got 17 dimensions"),
        (np.full(WIDTH, np.nan), RecordError, "must be finite"),
        ([1.0, "a"], TypeError, "An embedding, a vector"),
        ({"a": 1}, TypeError, "An embedding, a vector"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_embedding(stable, given, error, words):
    with pytest.raises(error, match=words):
        decode_embedding(stable, given, **DECODER)


def test_an_embedding_of_another_model(stable):
    critters = clip_space("critters").encode_text("a red cat")
    with pytest.raises(ValueError, match="got 128 dimensions of 'critters-clip'"):
        decode_embedding(stable, critters, **DECODER)


def test_one_clip_has_many_names():
    from ldmkit.space.encoders import embeddings_of

    large = Embedding(np.ones(8), model="openai/clip-vit-large-patch14")
    for name in ("karlo", "stable-unclip", "kakaobrain/karlo-v1-alpha", "UnCLIPPipeline"):
        assert embeddings_of(large, 8, name) == [large]
    with pytest.raises(ValueError, match="8 dimensions of 'kandinsky22', got 8 dimensions of 'op"):
        embeddings_of(large, 8, "kandinsky22")


@pytest.mark.parametrize(
    ("option", "error", "words"),
    [
        ({"steps": 3}, TypeError, "decode_embedding and .* know no keyword 'steps'"),
        ({"noise_lvl": 3}, TypeError, "did you mean 'noise_level'"),
        ({"image": 3}, TypeError, "know no keyword 'image'"),
        ({"num_inference_steps": 0}, ValueError, "num_inference_steps must be between 1 and 1024"),
        ({"guidance_scale": float("inf")}, ValueError, "must be a finite number"),
        ({"prompt": ["a"]}, TypeError, "takes one string as prompt"),
        ({"prompt": None}, TypeError, "takes one string as prompt"),
        ({"latents": np.zeros((3, 4, 8, 8))}, ValueError, "latents must have the shape"),
        ({"latents": np.zeros((4, 8, 8))}, ValueError, "latents must have the shape"),
        ({"latents": np.full((1, 4, 8, 8), np.inf)}, ValueError, "latents must be finite"),
        ({"keep": "images"}, ValueError, "keep takes names of arrays"),
        ({"preview": "big"}, ValueError, "preview must be one of"),
        ({"seed": [1, 2]}, ValueError, "a list of 1, one for each, got 2"),
    ],
    ids=str,
)
def test_options_of_the_decoder(stable, option, error, words):
    with pytest.raises(error, match=words):
        decode_embedding(stable, np.ones(WIDTH), **DECODER | option)


def test_words_for_a_decoder_that_reads_none():
    with pytest.raises(TypeError, match="takes no words, got 'a cat'"):
        decode_embedding(tiny_unclip.karlo(), np.ones(WIDTH), prompt="a cat")


def test_stop_keeps_the_part_and_nothing_stays_hooked(stable):
    traj = decode_embedding(stable, np.ones(WIDTH), seed=0, on_step=lambda step: False, **DECODER)
    assert traj.stopped
    assert len(traj.timesteps) == 1
    assert traj.image.size == (32, 32)
    assert "step" not in vars(stable.scheduler)
    sample_prior(stable, "a red cat", seed=0, **PRIOR)
    assert "step" not in vars(stable.prior_scheduler)
