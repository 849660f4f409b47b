"""Samplers by name: the same networks, the same first noise, the pipeline untouched."""

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

import ldmkit
from ldmkit.loading.samplers import SAMPLERS, sampler_name, with_sampler
from ldmkit.loading.siblings import Origin, origin_of, remember


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(size="small")


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_name_runs_with_the_pipelines_own_noise_schedule(pipe, name):
    own = pipe.scheduler
    twin = with_sampler(pipe, name)
    assert type(twin.scheduler).__name__ == SAMPLERS[name]
    assert sampler_name(twin.scheduler) == name
    assert twin.scheduler.config.timestep_spacing == "trailing" or name == "lcm" or name == "tcd"
    assert np.abs(twin.scheduler.betas.numpy() - own.betas.numpy()).max() == 0
    assert twin.unet is pipe.unet
    assert pipe.scheduler is own
    assert tuple(pipe.config.scheduler) == ("diffusers", "DDIMScheduler")
    steps = 4 if name == "pndm" else 2  # which begins with a Runge-Kutta of order four
    assert ldmkit.record(twin, "a red cat", seed=0, num_inference_steps=steps, keep=()).images


def test_the_first_noise_is_the_same_up_to_the_first_sigma(pipe):
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(5)).numpy()
    for name in ("ddim", "ddpm", "dpm++", "euler", "euler ancestral"):
        twin = with_sampler(pipe, name)
        traj = ldmkit.record(twin, "a red cat", seed=5, num_inference_steps=3, preview="none")
        first = traj.latents[0] / float(twin.scheduler.init_noise_sigma)
        assert np.abs(first - noise).max() < 1e-5, name


def test_ddim_and_euler_are_one_rule_in_two_scales(pipe):
    ends = []
    for name in ("ddim", "euler"):
        twin = with_sampler(pipe, name)
        traj = ldmkit.record(twin, "a red cat", seed=5, num_inference_steps=8, preview="none")
        ends.append(traj.latents[-1])
    assert np.abs(ends[0] - ends[1]).max() < 1e-3


def test_classes_schedulers_and_other_spellings(pipe):
    assert isinstance(with_sampler(pipe, EulerDiscreteScheduler).scheduler, EulerDiscreteScheduler)
    assert isinstance(with_sampler(pipe, " DDIMScheduler ").scheduler, DDIMScheduler)
    assert isinstance(with_sampler(pipe, "EulerDiscrete").scheduler, EulerDiscreteScheduler)
    leading = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="leading")
    twin = with_sampler(pipe, leading)
    assert twin.scheduler.config.timestep_spacing == "leading"
    assert twin.scheduler is not leading
    assert sampler_name(DDIMScheduler) == "ddim"
    assert sampler_name(type("OddScheduler", (), {})()) == "Odd"


def test_a_twin_has_the_name_and_defaults_of_its_original():
    pipe = tiny.pipeline(size="small")
    assert origin_of(with_sampler(pipe, "euler")).name == "StableDiffusionPipeline"
    remember(pipe, Origin("mine", {"guidance_scale": 3.0}))
    assert origin_of(with_sampler(pipe, "euler")) == Origin("mine", {"guidance_scale": 3.0})


@pytest.mark.parametrize(
    ("sampler", "error", "words"),
    [
        ("eular", ValueError, "got 'eular'; did you mean 'euler'?"),
        ("x" * 99, ValueError, "take one of those"),
        (3, TypeError, "a scheduler's class or a scheduler, got 3"),
        (dict, TypeError, "got <class 'dict'>"),
    ],
)
def test_refuses(pipe, sampler, error, words):
    with pytest.raises(error) as raised:
        with_sampler(pipe, sampler)
    assert words in str(raised.value)


def test_needs_a_pipeline():
    with pytest.raises(TypeError, match=r"with a scheduler is needed, got 3; open one with"):
        with_sampler(3, "euler")
