"""On an NVIDIA GPU: the picture stays the same to the bit, the law holds, no tensor stays there."""

import gc

import diffusers
import numpy as np
import pytest
import sized
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


@pytest.fixture(scope="module")
def halves():
    """The same run in float32 and in float16, and at which steps they are apart."""
    runs = {}
    for dtype in ("float32", "float16"):
        pipe = ldmkit.load("critters", device="cuda", dtype=dtype)
        runs[dtype] = record(pipe, PROMPT, seed=7, keep="all", preview="none")
        ldmkit.release(pipe)
    return runs


def apart(one, other):
    """The largest difference of each step, in shares of its largest value."""
    sizes = np.abs(one).reshape(len(one), -1).max(1)
    return np.abs(one - other).reshape(len(one), -1).max(1) / sizes


def test_half_precision_begins_alike_and_drifts(halves):
    """The first step has the same input, so that its answer shows the network's own rounding.

    From there on each run walks on what it has: shown with ``-s``, step by step.
    """
    whole, half = halves["float32"], halves["float16"]
    latents, answers = (
        apart(getattr(whole, name), getattr(half, name)) for name in ("latents", "model_output")
    )
    first = next((i for i, gap in enumerate(latents) if gap > 0.02), None)
    for i, gap in enumerate(answers):
        print(f"step {i + 1:2}: latents {latents[i]:.4f}, answer {gap:.4f} apart")
    print(f"latents apart by more than 0.02 first at the input of step {first and first + 1}")
    pixels = np.asarray(whole.image, np.int16) - np.asarray(half.image, np.int16)
    print(f"picture: largest {np.abs(pixels).max()}, mean {np.abs(pixels).mean():.2f} of 255")
    assert latents[0] <= 2**-10  # one rounding to eleven bits
    assert answers[0] <= 0.01
    assert np.isfinite(half.latents).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_of_stable_diffusions_size(dtype):
    """The picture to the bit, and what recording adds to the peak of memory."""
    pipe = sized.stable("cuda", dtype)
    call = {"num_inference_steps": 5, "guidance_scale": 3.0}

    def peak(run):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        made = run()
        torch.cuda.synchronize()
        return made, torch.cuda.max_memory_allocated()

    def bare():
        noise = torch.Generator("cpu").manual_seed(7)
        return pipe("a red cat", generator=noise, **call).images[0]

    bare()  # what libraries keep for themselves
    picture, alone = peak(bare)
    traj, recorded = peak(lambda: record(pipe, "a red cat", seed=7, preview="none", **call))
    assert np.array_equal(np.asarray(picture), np.asarray(traj.image))
    added = (recorded - alone) / 2**20
    print(f"{dtype}: peak {alone / 2**30:.2f} GiB bare, recording adds {added:.1f} MiB")
    assert added <= 64
