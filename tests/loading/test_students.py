"""A student is run as it was made, or its reader is told."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import tiny
from diffusers import LatentConsistencyModelPipeline, UNet2DConditionModel

import ldmkit
from ldmkit.loading.catalog import CATALOG
from ldmkit.loading.folder import write_student
from ldmkit.loading.samplers import with_sampler


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("students") / "small"
    pipe = tiny.pipeline(size="small")
    pipe.save_pretrained(folder)
    write_student(folder, 4, pipe.unet.state_dict())
    return folder


@pytest.fixture
def student(folder):
    return ldmkit.load(folder, variant="steps4", device="cpu")


def _words(pipe, **call):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ldmkit.record(pipe, "a red cat", seed=0, preview="none", **call)
    return [str(one.message) for one in told if one.category is UserWarning]


def test_as_it_was_made_nothing_is_said(student, folder):
    assert _words(student) == []
    assert _words(student, guidance_scale=1.0, num_inference_steps=4) == []
    assert _words(with_sampler(student, "ddim")) == []
    # The usual weights may be run as one likes.
    assert (
        _words(ldmkit.load(folder, device="cpu"), guidance_scale=3.5, num_inference_steps=4) == []
    )


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ({"guidance_scale": 3.5}, "this run has guidance_scale 3.5"),
        ({"num_inference_steps": 8}, "this run has num_inference_steps 8"),
        (
            {"num_inference_steps": 8, "guidance_scale": 0.0},
            "num_inference_steps 8 and guidance_scale 0",
        ),
    ],
)
def test_other_guidance_or_steps_are_told(student, call, told):
    (words,) = _words(student, **call)
    assert told in words
    assert "small:steps4 was distilled for 4 DDIM steps" in words


@pytest.mark.parametrize("sampler", ["euler", "dpm++", "lcm", "tcd", "ddpm"])
def test_another_scheduler_is_told(student, sampler):
    (words,) = _words(with_sampler(student, sampler))
    assert f"this run has {type(with_sampler(student, sampler).scheduler).__name__}" in words


def test_another_spacing_is_told(student):
    student.scheduler = type(student.scheduler).from_config(
        student.scheduler.config, timestep_spacing="leading"
    )
    (words,) = _words(student)
    assert "DDIMScheduler with leading spacing" in words


def test_the_warning_points_at_the_readers_line(student):
    with pytest.warns(UserWarning, match="distilled for 4") as told:
        ldmkit.record(student, "a red cat", seed=0, preview="none", guidance_scale=2.0)
    assert told[0].filename == __file__


def test_what_is_written_keeps_what_was_there(folder, tmp_path):
    settings = folder / "ldmkit.json"
    before = json.loads(settings.read_text())
    settings.write_text(json.dumps(before | {"critters_version": "1"}))
    write_student(folder, 8, tiny.pipeline(size="small", seed=1).unet.state_dict())
    assert json.loads(settings.read_text()) == {
        "critters_version": "1",
        "variants": {
            "steps4": {"num_inference_steps": 4, "guidance_scale": 1.0},
            "steps8": {"num_inference_steps": 8, "guidance_scale": 1.0},
        },
    }
    assert (folder / "unet" / "diffusion_pytorch_model.steps8.safetensors").stat().st_mode & 0o444
    assert not list(folder.rglob("*.part"))


# --- the others beside it ----------------------------------------------------------------------


def test_a_latent_consistency_model_loads_and_is_recorded(tmp_path):
    """What ``load("lcm-dreamshaper")`` opens, with random weights: guidance is an input of it."""
    parts = tiny.pipeline(size="small", prediction_type="epsilon", scheduler_name="LCMScheduler")
    unet = UNet2DConditionModel.from_config(parts.unet.config, time_cond_proj_dim=16)
    pipe = LatentConsistencyModelPipeline(
        **{k: v for k, v in parts.components.items() if k != "unet"},
        unet=unet.eval(),
        requires_safety_checker=False,
    )
    pipe.save_pretrained(tmp_path / "lcm")
    row = CATALOG["lcm-dreamshaper"]
    opened = ldmkit.load(tmp_path / "lcm", device="cpu")
    assert type(opened).__name__ == row.family
    traj = ldmkit.record(opened, "a red cat", seed=0, preview="none", **row.defaults)
    assert len(traj.timesteps) == 4
    assert np.isfinite(traj.latents).all()


@pytest.mark.parametrize("sampler", ["lcm", "tcd"])
def test_their_schedulers_are_names(sampler):
    pipe = with_sampler(tiny.pipeline(size="small"), sampler)
    traj = ldmkit.record(pipe, "a red cat", seed=0, preview="none", num_inference_steps=4)
    assert traj.call["scheduler"] == f"{sampler.upper()}Scheduler"
    assert len(traj.timesteps) == 4
