"""On an NVIDIA GPU: the picture stays the same to the bit, the law holds, no tensor stays there."""

import gc

import diffusers
import numpy as np
import pytest
import tiny
import torch

import ldmkit
from ldmkit.recording import record

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
    pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning"),
]
PROMPT = "a red cat wearing a top hat in the snow"


@pytest.fixture(scope="module")
def pipe():
    pipe = ldmkit.load("critters", device="cuda")
    yield pipe
    ldmkit.release(pipe)


@pytest.fixture
def scheduler(pipe):
    """Sets a scheduler by name; the pipeline's own comes back."""
    own = pipe.scheduler

    def choose(name):
        pipe.scheduler = getattr(diffusers, name).from_config(own.config)

    yield choose
    pipe.scheduler = own


@pytest.mark.parametrize("guidance_scale", [1.0, 3.5])
@pytest.mark.parametrize("name", tiny.SCHEDULERS)
def test_the_recorded_picture_is_the_bare_picture(pipe, scheduler, name, guidance_scale):
    scheduler(name)
    call = {"num_inference_steps": 6, "guidance_scale": guidance_scale}
    bare = pipe(PROMPT, generator=torch.Generator("cpu").manual_seed(7), **call).images[0]
    traj = record(pipe, PROMPT, seed=7, keep="all", preview="none", **call)
    assert np.array_equal(np.asarray(bare), np.asarray(traj.image))
    alphas, sigmas = (v.reshape(-1, 1, 1, 1, 1) for v in (traj.alphas, traj.sigmas))
    law = alphas * traj.denoised + sigmas * traj.noise_pred
    # Latents of exploding schedulers begin at a size of 70: rounding grows with them.
    assert np.abs(law - traj.latents[:-1]).max() <= 1e-5 * max(1.0, np.abs(traj.latents).max())


def test_no_tensor_stays_on_the_gpu(pipe):
    record(pipe, PROMPT, seed=0)  # what libraries keep for themselves
    gc.collect()
    before = torch.cuda.memory_allocated()
    call = {"keep": "all", "preview": "vae"}
    kept = [record(pipe, [PROMPT] * 4, seed=[seed] * 4, **call) for seed in range(5)]
    assert len(kept) == 5
    gc.collect()
    assert torch.cuda.memory_allocated() <= before


def test_a_run_stopped_by_its_listener(pipe):
    traj = record(pipe, PROMPT, seed=7, on_step=lambda step: step.index < 9)
    whole = record(pipe, PROMPT, seed=7)
    assert traj.stopped
    assert np.array_equal(traj.latents, whole.latents[: len(traj.latents)])


def test_half_precision_keeps_the_law_as_well_as_it_can():
    pipe = ldmkit.load("critters", device="cuda", dtype="float16")
    traj = record(pipe, PROMPT, seed=7, keep="all", preview="vae")
    alphas, sigmas = (v.reshape(-1, 1, 1, 1, 1) for v in (traj.alphas, traj.sigmas))
    law = alphas * traj.denoised + sigmas * traj.noise_pred
    assert np.abs(law - traj.latents[:-1]).max() <= 1e-5  # worked out in float32 from halves
    assert len(traj.pictures("denoised")) == len(traj.steps)
    ldmkit.release(pipe)
