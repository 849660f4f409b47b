"""On an NVIDIA GPU: embeddings, prior, decoder, walks, inversion and text diffs, beside the CPU."""

import numpy as np
import pytest
import torch

import ldmkit
from ldmkit import critters
from ldmkit.loading import memory

pytestmark = pytest.mark.cuda

WORDS = ["a red cat with a crown", "a blue dog in the snow"]
QUICK = {"num_inference_steps": 8}


@pytest.fixture(scope="module")
def unclip():
    pipe = ldmkit.load("critters-unclip", device="cuda")
    yield pipe
    ldmkit.release(pipe)


@pytest.fixture(scope="module")
def pipe():
    pipe = ldmkit.load("critters", device="cuda")
    yield pipe
    ldmkit.release(pipe)


@pytest.fixture(scope="module")
def drawings():
    scenes = [critters.Scene.sample(seed) for seed in range(500_000, 500_040)]
    alone = [scene for scene in scenes if len(scene.critters) == 1 and scene.size != "small"]
    return [scene.draw() for scene in alone[:4]]


def pixels(picture):
    return np.asarray(picture, np.float64)


def psnr(a, b):
    return 10 * np.log10(255**2 / max(1e-3, ((pixels(a) - pixels(b)) ** 2).mean()))


def test_clip_in_its_three_places(unclip, drawings):
    here = ldmkit.clip_space("critters", device="cpu")
    for there in (ldmkit.clip_space(unclip), ldmkit.clip_space("critters", device="cuda")):
        for name, what in (("encode_text", WORDS), ("encode_image", drawings)):
            pairs = zip(getattr(here, name)(what), getattr(there, name)(what), strict=True)
            assert max(np.abs(a.vector - b.vector).max() for a, b in pairs) <= 0.02  # of norm 12


def test_the_priors_draws_are_those_of_the_cpu(unclip):
    here = ldmkit.load("critters-unclip", device="cpu")
    pairs = zip(*(ldmkit.sample_prior(p, WORDS, seed=[0, 1]) for p in (unclip, here)), strict=True)
    assert min(a.similarity(b) for a, b in pairs) >= 0.999


@pytest.mark.parametrize("space", ["clip_image", "prompt", "latent", "pixel", "noise"])
def test_walks_through_every_space(unclip, pipe, drawings, space):
    ends = WORDS if space in ("clip_image", "prompt") else drawings[:2]
    ends = (1, 2) if space == "noise" else ends
    who = unclip if space == "clip_image" else pipe
    prompt = {"prompt": "a red cat"} if space == "noise" else {}
    steps = {} if space in ("latent", "pixel") else QUICK  # those run no denoising network
    walk = ldmkit.interpolate(who, *ends, num_frames=3, seed=0, space=space, **prompt, **steps)
    assert len(walk.images) == 3
    assert np.abs(pixels(walk.images[0]) - pixels(walk.images[2])).mean() > 1


def test_inversion_comes_back(pipe, drawings):
    noise = ldmkit.invert(pipe, drawings)
    assert noise.device.type == "cuda"
    back = pipe([""] * 4, latents=noise, num_inference_steps=64, guidance_scale=1.0).images
    alone = ldmkit.decode_latents(pipe, ldmkit.encode_image(pipe, drawings))
    lost = [psnr(p, a) - psnr(p, b) for p, a, b in zip(drawings, alone, back, strict=True)]
    assert np.mean(lost) <= 2  # dB: the design's bar


def test_text_diffs_and_variations(unclip, drawings):
    walk = ldmkit.text_diff(unclip, drawings[0], "", "wearing a crown", num_frames=2, **QUICK)
    assert np.abs(pixels(walk.images[0]) - pixels(walk.images[1])).mean() > 0.1
    traj = ldmkit.variations(unclip, drawings[0], num_images=2, seed=0, **QUICK)
    assert len(traj.images) == 2


def test_where_memory_is_short_everything_goes_on(unclip, drawings, monkeypatch):
    monkeypatch.setattr(memory, "how_it_fits", lambda *sizes: "by parts")
    short = ldmkit.load("critters-unclip", device="cuda")
    call = {"seed": 0, "num_frames": 2, **QUICK}
    for ends in (WORDS, drawings[:2]):
        parted = ldmkit.interpolate(short, *ends, **call)
        whole = ldmkit.interpolate(unclip, *ends, **call)
        for one, other in zip(whole.images, parted.images, strict=True):
            assert np.abs(pixels(one) - pixels(other)).mean() <= 1
    again = ldmkit.text_diff(short, drawings[0], "", "wearing a crown", num_frames=2, **QUICK)
    assert len(again.images) == 2
    assert torch.is_tensor(ldmkit.encode_image(short, drawings[0]))
    ldmkit.release(short)
