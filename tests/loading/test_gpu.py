"""On an NVIDIA GPU: where a pipeline stands, what it draws there, how its memory comes back."""

import gc
import warnings

import numpy as np
import pytest
import torch

import ldmkit
from ldmkit.loading import device as devices
from ldmkit.loading import memory

pytestmark = pytest.mark.cuda

PROMPT = "a red cat wearing a top hat in the snow"


def held():
    """Bytes of the GPU's memory that tensors hold."""
    gc.collect()
    return torch.cuda.memory_allocated()


def pixels(picture):
    return np.asarray(picture, np.int16)


@pytest.fixture
def pipe():
    pipe = ldmkit.load("critters")
    yield pipe
    ldmkit.release(pipe)


def test_the_gpu_is_taken_by_itself(pipe):
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert part.device.type == "cuda"
        assert part.dtype == torch.float32


def test_the_picture_is_that_of_the_cpu(pipe):
    """The same first noise; kernels round otherwise, and steps carry that on."""
    there = ldmkit.record(pipe, PROMPT, seed=7)
    here = ldmkit.record(ldmkit.load("critters", device="cpu"), PROMPT, seed=7)
    assert np.abs(there.latents[0] - here.latents[0]).max() == 0
    assert np.abs(there.latents[1] - here.latents[1]).max() <= 0.02
    assert np.abs(pixels(there.image) - pixels(here.image)).mean() <= 2


def test_release_gives_the_memory_back():
    before = held()
    pipe = ldmkit.load("critters")
    ldmkit.record(pipe, PROMPT, seed=7, num_inference_steps=2)
    assert held() > before + 1e6
    ldmkit.release(pipe)
    assert held() <= before
    with pytest.raises(RuntimeError, match="was released"):
        pipe("a cat")


@pytest.fixture(params=["by parts", "by layers"])
def short(request, monkeypatch):
    """A pipeline that its GPU's memory has no room for: parts or layers come and go."""
    monkeypatch.setattr(memory, "how_it_fits", lambda *sizes: request.param)
    with pytest.warns(UserWarning, match=f"works {request.param}: what isn't at work waits"):
        pipe = ldmkit.load("critters")
    yield pipe
    ldmkit.release(pipe)


def test_where_memory_is_short_the_picture_is_the_same(pipe, short):
    assert short.unet.device.type == "cpu"
    whole = ldmkit.record(pipe, PROMPT, seed=7, keep="all", preview="vae")
    parted = ldmkit.record(short, PROMPT, seed=7, keep="all", preview="vae")
    assert np.array_equal(pixels(whole.image), pixels(parted.image))
    for one, other in zip(whole.pictures("denoised"), parted.pictures("denoised"), strict=True):
        assert np.abs(pixels(one) - pixels(other)).max() <= 1
    assert short.unet.device.type == "cpu"


def test_where_memory_is_short_a_stopped_run_leaves_nothing_there(short):
    traj = ldmkit.record(short, PROMPT, seed=7, on_step=lambda step: step.index < 3)
    assert traj.stopped
    assert traj.image.size == (64, 64)
    assert short.unet.device.type == "cpu"


def test_where_memory_is_short_latents_are_coded_too(pipe, short):
    picture = ldmkit.critters.Scene.sample(500_000).draw()
    whole, parted = (ldmkit.encode_image(one, picture) for one in (pipe, short))
    assert (whole.cpu() - parted.cpu()).abs().max() <= 1e-3
    one, other = (ldmkit.decode_latents(p, whole) for p in (pipe, short))
    assert np.abs(pixels(one) - pixels(other)).max() <= 1


def test_anatomy_waits_for_the_gpu(pipe):
    rows = {row["part"]: row for row in ldmkit.anatomy(pipe).rows}
    assert 0 < rows["unet"]["milliseconds"] < 1000


def test_the_gpu_says_why_it_is_taken_and_what_it_has():
    device, why = devices.found_device()
    assert device == "cuda"
    assert torch.cuda.get_device_name() in why
    free, total = torch.cuda.mem_get_info()
    assert free <= memory.free_memory(torch.device("cuda")) <= total


@pytest.fixture
def little(pipe):
    """64 MiB beside the pipeline are all that this process may take."""
    held()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**26) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_memory_that_runs_out_is_one_sentence_and_comes_back(pipe, little):
    before = held()
    with pytest.raises(torch.OutOfMemoryError, match=r"^The memory of cuda:0 ran out"):
        ldmkit.record(pipe, PROMPT, height=1024, width=1024, num_inference_steps=1)
    assert held() <= before + 1e6
    assert ldmkit.record(pipe, PROMPT, seed=7).image.size == (64, 64)


@pytest.mark.parametrize("plan", ["whole", "by parts", "by layers"])
def test_a_released_model_leaves_nothing_on_the_gpu(plan, monkeypatch):
    monkeypatch.setattr(memory, "how_it_fits", lambda *sizes: plan)
    before = held()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        pipe = ldmkit.load("critters")
    unet = pipe.unet
    ldmkit.record(pipe, PROMPT, seed=7, num_inference_steps=2)
    ldmkit.release(pipe)
    assert all(weight.is_meta for weight in unet.parameters())
    assert held() <= before
