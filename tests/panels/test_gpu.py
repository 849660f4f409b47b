"""On an NVIDIA GPU: a panel's runs leave nothing there, and a full memory is told and got over."""

import contextlib
import gc

import numpy as np
import pytest
import torch
from panels.hands import settled

import ldmkit
from ldmkit.panels.job import FULL, JobError

pytestmark = pytest.mark.cuda

PROMPT = "a red cat wearing a top hat in the snow"


@pytest.fixture(scope="module")
def pipe():
    pipe = ldmkit.load("critters", device="cuda")
    yield pipe
    ldmkit.release(pipe)


@pytest.fixture
def panel(pipe):
    panel = ldmkit.PromptPanel(pipe, PROMPT, seed=7)
    yield panel
    panel.close()


def held():
    gc.collect()
    return torch.cuda.memory_allocated()


def test_the_panels_picture_is_the_records(pipe, panel):
    traj = panel.run().wait(60)
    settled(panel)
    again = ldmkit.record(pipe, PROMPT, seed=7)
    assert np.array_equal(np.asarray(traj.image), np.asarray(again.image))
    assert panel.job.preview  # live pictures came


def test_runs_leave_the_memory_flat(panel):
    panel.run().wait(60)
    settled(panel)
    before = held()
    for seed in range(10):
        panel.value = {"seed": seed}
        panel.run().wait(60)
        settled(panel)
    assert held() <= before


def test_a_full_memory_is_told_and_got_over(pipe, panel):
    panel.value = {"num_inference_steps": 4}
    good = panel.run().wait(60)
    settled(panel)
    before = held()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 1e6) / total)
    hog = []
    try:
        with contextlib.suppress(torch.cuda.OutOfMemoryError):
            while True:  # what is left within what is reserved
                hog.append(torch.empty(2**16, device="cuda"))
        with pytest.raises(JobError, match="The memory is full"):
            panel.run().wait(60)
        settled(panel)
    finally:
        hog.clear()
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert FULL.split(":")[0] in panel._form._message.value
    assert panel.result is good
    assert held() <= before  # no frame of the error holds a tensor
    again = panel.run().wait(60)
    settled(panel)
    assert np.array_equal(np.asarray(good.image), np.asarray(again.image))


def test_an_interpolation_panel_walks(pipe):
    unclip = ldmkit.load("critters-unclip", device="cuda")
    panel = ldmkit.InterpolationPanel(
        unclip, "a red cat", "a blue dog", seed=7, num_frames=3, num_inference_steps=8
    )
    walk = panel.run().wait(120)
    assert len(walk.images) == 3
    panel.close()
    ldmkit.release(unclip)
