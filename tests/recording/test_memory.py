"""Memory that runs out in a run: one sentence, and a run whose steps are made is not lost."""

import numpy as np
import pytest
import tiny
import torch

from ldmkit.check import heard_by
from ldmkit.recording import record

CALL = {"num_inference_steps": 3, "guidance_scale": 4.0, "preview": "none"}
TORCHS = "CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has a total capacity of 14 GiB"


class Full:
    """Stands for a function of a network; memory runs out in some of its calls."""

    def __init__(self, function, fails):
        self.function, self.fails, self.calls = function, fails, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls in self.fails:
            raise torch.OutOfMemoryError(TORCHS)
        return self.function(*args, **kwargs)


@pytest.fixture
def pipe():
    return tiny.pipeline(size="small")


def run(pipe):
    said = []
    with heard_by(said.append):
        return record(pipe, "a red cat", seed=7, **CALL), said


@pytest.mark.parametrize("again", [False, True])
def test_the_picture_alone_is_lost_and_may_be_made_after_all(pipe, monkeypatch, again):
    bare, _ = run(pipe)
    fails = {1} if again else range(1, 100)
    monkeypatch.setattr(pipe.vae, "decode", Full(pipe.vae.decode, fails))
    traj, said = run(pipe)
    assert np.array_equal(traj.latents, bare.latents)
    assert not traj.stopped
    assert said[0].startswith("All steps were made and are kept, but then: The memory of cpu ran")
    assert "\n" not in said[0]
    if again:  # what the run held has been freed
        assert len(said) == 1
        assert np.abs(np.asarray(traj.image, int) - np.asarray(bare.image, int)).max() <= 1
    else:
        assert said[1].startswith("The picture can't be made of this run, which is kept without")
        assert traj.images == ()


def test_in_the_middle_it_is_an_error_of_one_sentence(pipe, monkeypatch):
    bare, _ = run(pipe)
    with monkeypatch.context() as patch:
        patch.setattr(pipe.unet, "forward", Full(pipe.unet.forward, {2}))
        with pytest.raises(torch.OutOfMemoryError, match=r"^The memory of cpu ran out") as raised:
            run(pipe)
        assert "\n" not in str(raised.value)
    again, said = run(pipe)
    assert said == []
    assert np.array_equal(again.latents, bare.latents)
