"""``variations`` beside each pipeline's own call with a picture."""

from contextlib import nullcontext

import numpy as np
import pytest
import tiny
import tiny_unclip
import torch
from PIL import Image

from ldmkit.loading.quiet import no_retirement_notice
from ldmkit.records import Embedding
from ldmkit.space.clip import clip_space
from ldmkit.space.unclip import decode_embedding, variations

DECODER = {"num_inference_steps": 3, "guidance_scale": 2.5}
PICTURE = Image.fromarray(np.linspace(0, 255, 40 * 32 * 3).reshape(40, 32, 3).astype(np.uint8))


def generator(seed):
    return torch.Generator("cpu").manual_seed(seed)


def from_pictures(kind, pipe, **more):
    """The sibling that takes pictures, with a tower of its own."""
    parts = {k: v for k, v in pipe.components.items() if not k.startswith("prior")}
    with torch.random.fork_rng(devices=[]), no_retirement_notice():
        torch.manual_seed(0)
        tower = tiny_unclip.vision_encoder().eval().requires_grad_(False)
        made = kind(feature_extractor=tiny_unclip.processor(), image_encoder=tower, **parts)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def stable():
    from diffusers import StableUnCLIPImg2ImgPipeline

    return from_pictures(StableUnCLIPImg2ImgPipeline, tiny_unclip.stable())


@pytest.mark.parametrize("level", [0, 700])
def test_stables_are_the_pipelines_own(stable, level):
    traj = variations(stable, PICTURE, num_images=3, noise_level=level, seed=5, **DECODER)
    assert len(traj.images) == 3
    assert traj.seed == (5, 6, 7)
    own = stable(PICTURE, "", noise_level=level, generator=generator(5), **DECODER).images[0]
    alone = variations(stable, PICTURE, num_images=1, noise_level=level, seed=5, **DECODER)
    assert np.array_equal(np.asarray(own), np.asarray(alone.image))
    assert np.abs(alone.latents[:, 0] - traj.latents[:, 0]).max() <= 1e-4
    assert np.abs(traj.latents[-1, 0] - traj.latents[-1, 1]).max() > 1e-2


def test_karlos_are_the_pipelines_own():
    from diffusers import UnCLIPImageVariationPipeline

    karlo = from_pictures(UnCLIPImageVariationPipeline, tiny_unclip.karlo())
    own = karlo(
        PICTURE,
        generator=generator(5),
        decoder_num_inference_steps=3,
        decoder_guidance_scale=2.5,
        super_res_num_inference_steps=2,
    ).images[0]
    traj = variations(
        karlo, PICTURE, num_images=1, seed=5, super_res_num_inference_steps=2, **DECODER
    )
    assert np.array_equal(np.asarray(own), np.asarray(traj.image))


def test_kandinskys_are_the_pipelines_own():
    kandinsky = tiny_unclip.kandinsky()
    small = {"height": 32, "width": 32}
    # its own way from a picture to an embedding is a mixture of one
    made = kandinsky.prior_pipe.interpolate([PICTURE], [1.0], num_inference_steps=2)
    own = kandinsky.decoder_pipe(**made, generator=generator(5), **DECODER, **small).images[0]
    traj = variations(kandinsky, PICTURE, num_images=1, seed=5, **DECODER, **small)
    assert np.array_equal(np.asarray(own), np.asarray(traj.image))


def test_an_embedding_instead_of_a_picture(stable):
    z = clip_space(stable).encode_image(PICTURE, label="ramp.png")
    traj = variations(stable, z, num_images=2, seed=5, **DECODER)
    assert traj.call["embedding"] == ["ramp.png"] * 2
    assert np.array_equal(
        np.asarray(traj.images[1]),
        np.asarray(variations(stable, PICTURE, num_images=2, seed=5, **DECODER).images[1]),
    )


def test_noise_takes_them_further_from_each_other():
    """Two embeddings far apart come closer to one another, the more noise lies on both."""
    from ldmkit.space.unclip import unclip_of

    for pipe in (tiny_unclip.kandinsky(), tiny_unclip.karlo()):
        family = unclip_of(pipe)
        prior = family.prior()
        vectors = torch.randn(4, tiny_unclip.WIDTH, generator=generator(0)) * 3
        assert torch.equal(family.noised(vectors, 0, generator(1)), vectors)
        for level in (1, 400, 999):
            kept = float(prior.scheduler.alphas_cumprod[level])
            got = family.noised(vectors, level, generator(1))
            noise = torch.randn(4, tiny_unclip.WIDTH, generator=generator(1))
            mean, std = prior.network.clip_mean, prior.network.clip_std
            want = (vectors - mean) / std * kept**0.5 + noise * (1 - kept) ** 0.5
            assert (got - (want * std + mean)).abs().max() <= 1e-5


PICTURES = {
    "grey": Image.new("L", (9, 7), 40),
    "transparent": Image.new("RGBA", (9, 7), (0, 0, 0, 0)),
    "palette": Image.new("P", (9, 7), 3),
    "deep": Image.fromarray(np.full((9, 7), 60_000, np.uint16)),
    "one pixel": Image.new("RGB", (1, 1), "red"),
    "forty megapixels": Image.new("RGB", (8000, 5000), "red"),
    "a ribbon": Image.new("RGB", (30_000, 2), "red"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_as_people_have_them(stable, name):
    call = DECODER | {"num_inference_steps": 1}
    told = pytest.warns(UserWarning, match="eight bits") if name == "deep" else nullcontext()
    with told:
        traj = variations(stable, PICTURES[name], num_images=1, preview="none", keep=(), **call)
    assert traj.image.size == (32, 32)


def test_a_turned_picture_is_put_upright(stable):
    turned = PICTURE.copy()
    turned.getexif()[0x0112] = 3
    upright = PICTURE.transpose(Image.Transpose.ROTATE_180)
    call = DECODER | {"num_images": 1, "preview": "none"}
    first, second = (variations(stable, one, seed=1, **call) for one in (turned, upright))
    assert np.array_equal(first.latents, second.latents)


@pytest.mark.parametrize("stranger", [None, "cat.png", 7, b"\x89PNG", object()])
def test_what_is_no_picture(stable, stranger):
    with pytest.raises(TypeError, match="PIL"):
        variations(stable, stranger)


def test_refusals(stable):
    with pytest.raises(TypeError, match=r"variations takes an unCLIP pipeline.*critters-unclip"):
        variations(tiny.pipeline(size="small"), PICTURE)
    with pytest.raises(ValueError, match="num_images must be between 1 and 64 inclusive, got 0"):
        variations(stable, PICTURE, num_images=0)
    with pytest.raises(TypeError, match="seed must be a whole number"):
        variations(stable, PICTURE, seed=[1, 2])
    with pytest.raises(TypeError, match="no keyword 'noise_levels'; did you mean 'noise_level'"):
        variations(stable, PICTURE, noise_levels=3)
    with pytest.raises(RuntimeError, match="only the text half"):
        variations(tiny_unclip.karlo(), PICTURE)
    with pytest.raises(ValueError, match=r"16 dimensions of .* got 8 dimensions of 'other'"):
        variations(stable, Embedding(np.ones(8), model="other"))
    assert len(decode_embedding(stable, np.ones(16), seed=0, **DECODER).images) == 1
