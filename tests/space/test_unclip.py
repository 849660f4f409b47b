"""``sample_prior`` and ``decode_embedding`` beside each pipeline's own call."""

import numpy as np
import pytest
import tiny_unclip
import torch

from ldmkit.space.unclip import decode_embedding, sample_prior

PRIOR = {"num_inference_steps": 5, "guidance_scale": 3.0}
DECODER = {"num_inference_steps": 3, "guidance_scale": 2.5}


def generator(seed=7):
    return torch.Generator("cpu").manual_seed(seed)


@pytest.fixture(scope="module")
def stable():
    return tiny_unclip.stable()


class Heard(Exception):
    """Carries what a pipeline's own prior stage gave."""


def own_prior(pipe, monkeypatch, **call):
    """What the pipeline's own prior gives, taken where it leaves the prior: (b, d)."""
    prior = pipe.prior if hasattr(pipe, "prior") else pipe.prior_prior
    original, found = prior.post_process_latents, []

    def spying(latents):
        found.append(original(latents).clone())
        raise Heard

    with monkeypatch.context() as patched:
        patched.setattr(prior, "post_process_latents", spying)
        with pytest.raises(Heard):
            pipe(**call)
    return found[0].numpy()


def test_stable_prior_is_the_pipelines_own(stable, monkeypatch):
    own = own_prior(
        stable,
        monkeypatch,
        prompt="a red cat",
        generator=generator(),
        prior_num_inference_steps=5,
        prior_guidance_scale=3.0,
    )
    ours = sample_prior(stable, "a red cat", seed=7, best_of=1, **PRIOR)
    assert np.abs(own[0] - ours.vector).max() == 0
    assert (ours.label, ours.kind) == ("a red cat", "prior")


def test_the_best_of_two_is_that_of_the_pipelines_own_batch(stable, monkeypatch):
    own = own_prior(
        stable,
        monkeypatch,
        prompt="a red cat",
        generator=generator(),
        num_images_per_prompt=2,
        prior_num_inference_steps=5,
        prior_guidance_scale=3.0,
    )
    words = stable.prior_tokenizer("a red cat", padding="max_length", return_tensors="pt")
    text = stable.prior_text_encoder(words.input_ids).text_embeds[0].numpy()
    best = int(np.argmax(own @ text))
    ours = sample_prior(stable, "a red cat", seed=7, **PRIOR)
    assert np.abs(own[best] - ours.vector).max() <= 1e-6
    assert np.abs(own[1 - best] - ours.vector).max() > 1e-2


def test_stable_decoder_is_the_pipelines_own(stable):
    z = sample_prior(stable, "a red cat", seed=7, **PRIOR)
    from diffusers import StableUnCLIPImg2ImgPipeline

    parts = {k: v for k, v in stable.components.items() if not k.startswith("prior")}
    own = StableUnCLIPImg2ImgPipeline(
        feature_extractor=None, image_encoder=tiny_unclip.vision_encoder(), **parts
    )
    own.set_progress_bar_config(disable=True)
    for level in (0, 300):
        bare = own(
            image_embeds=torch.tensor(z.vector)[None],
            noise_level=level,
            generator=generator(3),
            **DECODER,
        ).images[0]
        traj = decode_embedding(stable, z, seed=3, noise_level=level, **DECODER)
        assert np.array_equal(np.asarray(bare), np.asarray(traj.image))


def test_both_halves_are_the_whole(stable):
    """Prior and decoder of one generator give the picture of the pipeline's own call."""
    whole = stable(
        "a red cat",
        generator=generator(),
        prompt_embeds=None,
        prior_num_inference_steps=5,
        prior_guidance_scale=3.0,
        **DECODER,
    ).images[0]
    one = generator()
    z = sample_prior(stable, "a red cat", generator=one, best_of=1, **PRIOR)
    traj = decode_embedding(stable, z, prompt="a red cat", generator=one, **DECODER)
    assert np.array_equal(np.asarray(whole), np.asarray(traj.image))


def test_what_a_decoded_record_says(stable):
    z = sample_prior(stable, "a red cat", seed=7, **PRIOR)
    traj = decode_embedding(stable, z, seed=3, noise_level=5, **DECODER)
    assert traj.prompt == ""
    assert traj.seed == 3
    assert traj.call["embedding"] == "a red cat"
    assert traj.call["noise_level"] == 5
    assert traj.model == "StableUnCLIPPipeline"
    assert len(traj.timesteps) == 3
    assert len(traj.stages) == 1


def test_the_stage_is_the_run_that_drew_the_embedding(stable):
    z = sample_prior(stable, "a red cat", seed=7, **PRIOR)
    (stage,) = decode_embedding(stable, z, seed=3, **DECODER).stages
    assert stage.prompt == "a red cat"
    assert stage.seed == 7
    assert stage.latents.shape == (6, 1, tiny_unclip.WIDTH, 1, 1)
    assert np.array_equal(stage.latents[-1, 0, :, 0, 0], z.vector)
    # the scheduler predicts x0 here, so the last clean estimate is the embedding
    assert np.abs(stage.denoised[-1, 0, :, 0, 0] - z.vector).max() <= 1e-4


def test_a_batch_of_prompts_and_of_embeddings(stable):
    words = ["a red cat", "a blue dog"]
    both = sample_prior(stable, words, seed=[1, 2], **PRIOR)
    for word, seed, z in zip(words, (1, 2), both, strict=True):
        alone = sample_prior(stable, word, seed=seed, **PRIOR)
        assert np.abs(alone.vector - z.vector).max() <= 1e-5
    batch = decode_embedding(stable, both, seed=[3, 4], **DECODER)
    assert batch.prompt == ""
    assert batch.call["embedding"] == words
    for i, (z, seed) in enumerate(zip(both, (3, 4), strict=True)):
        alone = decode_embedding(stable, z, seed=seed, **DECODER)
        assert np.abs(alone.latents[:, 0] - batch.latents[:, i]).max() <= 1e-4


@pytest.mark.parametrize("form", ["vector", "row", "tensor", "list", "embeddings"])
def test_forms_of_an_embedding(stable, form):
    z = sample_prior(stable, "a red cat", seed=7, **PRIOR)
    given = {
        "vector": z.vector,
        "row": z.vector[None],
        "tensor": torch.tensor(z.vector),
        "list": z.vector.tolist(),
        "embeddings": [z],
    }[form]
    expected = decode_embedding(stable, z, seed=3, **DECODER).image
    assert np.array_equal(
        np.asarray(expected), np.asarray(decode_embedding(stable, given, seed=3, **DECODER).image)
    )
