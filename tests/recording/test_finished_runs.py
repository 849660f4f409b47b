"""A finished run is never lost: what can't be made of it is one sentence, the rest is there."""

import copy
import sys
import warnings

import diffusers
import numpy as np
import pytest
import tiny
import tiny_families as families
import torch
from PIL import Image

from ldmkit.recording import arrays, pictures, preview, record
from ldmkit.records import Trajectory

QUICK = {"num_inference_steps": 3, "guidance_scale": 4.0}
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def pipe():
    return tiny.pipeline(size="small")


def same(first, second):
    return np.array_equal(np.asarray(first), np.asarray(second))


def said_by(work):
    """What the run made and every sentence it said, each with the file that it points to."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = work()
    ours = [one for one in caught if one.category is UserWarning]
    assert all(one.filename == __file__ for one in ours), "points to the reader's own line"
    return made, [str(one.message) for one in ours]


def boom(*args, **kwargs):
    raise RuntimeError("boom\nand more")


@pytest.mark.parametrize("part", ["decode", "linear_rgb"])
def test_pictures_of_steps_that_fail(pipe, part, monkeypatch, tmp_path):
    bare = pipe("a cat", generator=torch.Generator("cpu").manual_seed(7), **QUICK).images[0]
    monkeypatch.setattr(preview, part, boom)
    traj, said = said_by(lambda: record(pipe, "a cat", seed=7, keep="all", **QUICK))
    assert len(said) == 1
    assert "pictures of the steps can't be made" in said[0]
    assert "RuntimeError: boom and more" in said[0]
    assert same(traj.image, bare)
    assert traj.noise_pred_uncond is not None
    assert traj.previews == {}
    Trajectory.open(traj.save(tmp_path / "run.safetensors"))


def test_a_missing_scaling_factor(pipe, monkeypatch):
    monkeypatch.setattr(preview, "_factor", lambda vae: vae.config.no_such_value)
    traj, said = said_by(lambda: record(pipe, "a cat", seed=7, **QUICK))
    assert len(said) == 1
    assert len(traj.images) == 1


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize(
    ("build", "call"),
    [(families.flux, families.FLUX_CALL), (families.qwen, families.QWEN_CALL)],
    ids=["flux", "qwen"],
)
def test_packed_latents(build, call, stop):
    pipe = build()
    bare = pipe(generator=torch.Generator("cpu").manual_seed(7), **call).images[0]
    on_step = (lambda step: step.index < 1) if stop else None
    traj, said = said_by(lambda: record(pipe, seed=7, on_step=on_step, **call))
    assert traj.stopped is stop
    assert traj.latents.shape == (3 if stop else 4, 1, 4, 8, 8)
    assert np.isfinite(traj.denoised).all()
    assert said == []
    assert stop or same(traj.image, bare)
    assert traj.image.size == (32, 32)
    traj._repr_mimebundle_()


def test_a_guidance_split_that_fails(pipe, monkeypatch):
    monkeypatch.setattr(arrays, "sides", boom)
    traj, said = said_by(lambda: record(pipe, "a cat", seed=7, keep="all", **QUICK))
    assert len(said) == 1
    assert traj.noise_pred_text is None
    assert traj.denoised.shape == (3, 1, 4, 8, 8)
    assert traj.images


def test_arrays_that_can_not_be_made(pipe, monkeypatch):
    monkeypatch.setattr(sys.modules["ldmkit.recording.recorder"], "arrays_of", boom)
    traj, said = said_by(lambda: record(pipe, "a cat", seed=7, keep="all", **QUICK))
    assert len(said) == 1
    assert "arrays of the steps can't be made" in said[0]
    assert len(traj.images) == 1
    assert len(traj.timesteps) == 0


class Film:
    """A pipeline over latents (b, c, frames, h, w) with pictures as nested lists."""

    def __init__(self, frames):
        self.scheduler, self.frames = tiny.scheduler("epsilon"), frames
        self.unet = torch.nn.Identity()
        self.vae = tiny.pipeline(size="small").vae

    def __call__(self, prompt, num_inference_steps=3, generator=None):
        self.scheduler.set_timesteps(num_inference_steps)
        x = torch.randn(1, 4, self.frames, 8, 8, generator=generator)
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(self.unet(x) * 0.1, t, x).prev_sample
        frames = [Image.new("RGB", (16, 16), (i + 1, 0, 0)) for i in range(self.frames)]
        return type("Output", (), {"frames": None})() if not frames else _output(frames=[frames])


def _output(**fields):
    output = type("Output", (), {})()
    vars(output).update(fields)
    return output


@pytest.mark.parametrize("frames", [1, 5])
def test_a_film_is_said(frames):
    pipe = Film(frames)
    traj, said = said_by(lambda: record(pipe, "a cat", seed=1))
    assert traj.latents.shape == (4, 1, 4, 8 * frames, 8)
    assert [image.getpixel((0, 0))[0] for image in traj.images] == [*range(1, frames + 1)]
    assert ["those of a film" in one for one in said] == [True] * (frames > 1)
    assert (traj.rgb is None) is (frames > 1)


ARRAY = np.linspace(0, 1, 2 * 4 * 6 * 3).reshape(2, 4, 6, 3)


@pytest.mark.parametrize(
    ("output", "count", "mode"),
    [
        (_output(image=[Image.new("RGB", (6, 4))]), 1, "RGB"),
        (_output(images=[[Image.new("RGB", (6, 4))] * 2, [Image.new("L", (6, 4))]]), 3, None),
        (_output(images=ARRAY), 2, "RGB"),
        (_output(images=(ARRAY * 255).astype(np.uint8)), 2, "RGB"),
        (_output(images=[ARRAY[0], ARRAY[1]]), 2, "RGB"),
        (_output(images=torch.from_numpy(ARRAY).permute(0, 3, 1, 2)), 2, "RGB"),
        (_output(images=torch.rand(1, 4, 6)), 1, "L"),
        (_output(frames=torch.from_numpy(ARRAY).permute(0, 3, 1, 2)[None]), 2, "RGB"),
        (([Image.new("RGB", (6, 4))], None), 1, "RGB"),
        ([Image.new("RGB", (6, 4))], 1, "RGB"),
        (Image.new("RGB", (6, 4)), 1, "RGB"),
        ({"images": [Image.new("RGB", (6, 4))]}, 1, "RGB"),
        (_output(sound=np.zeros(8)), 0, None),
    ],
)
def test_pictures_under_any_name_and_kind(output, count, mode):
    images = pictures.images_of(output)
    assert len(images) == count
    assert all(isinstance(image, Image.Image) and image.size == (6, 4) for image in images)
    assert mode is None or {image.mode for image in images} == {mode}
    if mode == "RGB" and count == 2:
        assert np.abs(np.asarray(images[1]) / 255 - ARRAY[1]).max() <= 1 / 255


@pytest.mark.parametrize("output", [_output(images=torch.zeros(1, 16, 8, 8)), _output(images=7)])
def test_what_is_no_picture_is_said(pipe, output, monkeypatch):
    plain = type(pipe).__call__

    def other(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        return output

    other.__wrapped__ = plain
    monkeypatch.setattr(type(pipe), "__call__", other)
    traj, said = said_by(lambda: record(pipe, "a cat", seed=7, **QUICK))
    assert len(said) == 1
    assert said[0].startswith("The picture can't be made of this run")
    assert len(traj.timesteps) == 3


class Copying(Film):
    """A pipeline that deep-copies its scheduler, as LTX 2 (beside) and SkyReels (instead) do."""

    def __init__(self, beside, instead):
        super().__init__(1)
        self.beside, self.instead = beside, instead
        self.scheduler = diffusers.UniPCMultistepScheduler.from_config(self.scheduler.config)

    def __call__(self, prompt, num_inference_steps=4, generator=None):
        self.scheduler.set_timesteps(num_inference_steps)
        first = self.scheduler if not self.instead else copy.deepcopy(self.scheduler)
        second = copy.deepcopy(self.scheduler)
        x = torch.randn(1, 3, 8, 8, generator=generator)
        sound = torch.randn(1, 3, 8, 8, generator=generator)
        for t in first.timesteps:
            x = first.step(torch.tanh(x), t, x).prev_sample
            if self.beside:
                sound = second.step(torch.tanh(sound), t, sound).prev_sample
        self.last = x, sound, first, second
        pixels = (x[0] / 8 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()
        return _output(images=[Image.fromarray((pixels * 255).astype(np.uint8))])


@pytest.mark.parametrize(("beside", "instead"), [(True, False), (False, True), (True, True)])
def test_pipelines_that_copy_their_scheduler(beside, instead):
    pipe = Copying(beside, instead)
    pipe.vae = None
    bare = pipe("a cat", generator=torch.Generator("cpu").manual_seed(7)).images[0]
    x, sound = pipe.last[:2]
    traj, said = said_by(lambda: record(pipe, "a cat", seed=7))
    assert same(traj.image, bare)
    assert torch.equal(pipe.last[0], x)
    assert torch.equal(pipe.last[1], sound)
    assert len(traj.timesteps) == 4
    assert np.array_equal(traj.latents[-1], x.numpy())
    assert np.isfinite(traj.denoised).all()
    assert len(said) == beside
    assert not said or "4 steps of its copies are left out" in said[0]
    for scheduler in pipe.last[2:]:
        assert "step" not in vars(scheduler), "the copies are as bare as the original"


def test_a_run_without_steps_and_pictures():
    with pytest.raises(RuntimeError, match="made no scheduler step"):
        record(_Idle(), "a cat")


def test_a_pipeline_that_puts_its_schedulers_state_back():
    """MultiDiffusion copies the state for each of its windows, and what was wrapped with it."""
    parts = tiny.pipeline(size="small").components
    pipe = diffusers.StableDiffusionPanoramaPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    call = {"height": 32, "width": 64, **QUICK}
    bare = pipe("a cat", generator=torch.Generator("cpu").manual_seed(7), **call).images[0]
    traj, _ = said_by(lambda: record(pipe, "a cat", seed=7, **call))
    assert same(traj.image, bare)
    assert not {"step", "set_timesteps", "scale_model_input"} & set(vars(pipe.scheduler))


def test_a_run_whose_steps_nobody_heard():
    """Its scheduler is another than the pipeline shows."""
    traj, said = said_by(lambda: record(_Deaf(), "a cat"))
    assert len(traj.images) == 1
    assert len(traj.timesteps) == 0
    assert said == [
        "No step passed the pipeline's own scheduler: the record holds the picture alone."
    ]


class _Deaf:
    def __init__(self):
        self.scheduler = tiny.scheduler()

    def __call__(self, prompt):
        return _output(images=[Image.new("RGB", (8, 8))])


class _Idle:
    def __init__(self):
        self.scheduler = tiny.scheduler()

    def __call__(self, prompt):
        return _output(images=[])


def test_interrupting_by_diffusers_own_way_is_stopped(pipe):
    def on_end(pipe, step, timestep, inputs):
        pipe._interrupt = step == 1
        return {}

    traj = record(pipe, "a cat", seed=7, callback_on_step_end=on_end, **QUICK)
    assert traj.stopped
    assert len(traj.timesteps) == 2
    assert not record(pipe, "a cat", seed=7, **QUICK).stopped


def test_an_error_of_the_pipelines_own_is_passed_on(pipe, monkeypatch):
    monkeypatch.setattr(pipe.vae, "decode", boom)
    with pytest.raises(RuntimeError, match="boom"):
        record(pipe, "a cat", seed=7, **QUICK)
    assert "step" not in vars(pipe.scheduler)
