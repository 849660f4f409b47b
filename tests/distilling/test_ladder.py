"""A student's target is where two of diffusers' own DDIM steps land, everywhere on every rung."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from diffusers import DDIMScheduler

from ldmkit.distilling.ladder import Rung, ddim_step, loss, noised, rung_of, two_steps, walked

RUNGS = (32, 16, 8, 4, 2, 1)


def _teacher(channels=4, seed=0):
    """A v that depends on everything it is given, and isn't linear in any of it."""
    weights = 0.3 * torch.randn(channels, channels, generator=torch.Generator().manual_seed(seed))

    def v(z, t):
        mixed = torch.einsum("ij,bjhw->bihw", weights.to(z), z)
        return mixed.tanh() + (t.to(z) / 700).sin().view(-1, 1, 1, 1)

    return v


def _noise(count, seed=1):
    return torch.randn(count, 4, 3, 3, generator=torch.Generator().manual_seed(seed))


def _diffusers_steps(scheduler, steps, first, z, v, count):
    """``count`` steps of diffusers' own from number ``first`` of ``steps``."""
    twin = copy.deepcopy(scheduler)
    twin.set_timesteps(steps)
    for t in twin.timesteps[first : first + count]:
        z = twin.step(v(z, t.expand(len(z))), t, z).prev_sample
    return z


@pytest.mark.parametrize("n", RUNGS)
def test_one_step_on_the_target_lands_where_two_of_the_teachers_do(n):
    scheduler, v = tiny.scheduler(), _teacher()
    rung, worst = rung_of(scheduler, n), 0.0
    for k in range(n):
        z = _noise(2, seed=k)
        target, landing = two_steps(v, z, rung, torch.full((2,), k))
        two = _diffusers_steps(scheduler, 2 * n, 2 * k, z, v, 2)
        one = _diffusers_steps(scheduler, n, k, z, lambda z, t, target=target: target, 1)
        worst = max(worst, float((one - two).abs().max()), float((landing - two).abs().max()))
    assert worst <= 1e-5


@pytest.mark.parametrize("n", RUNGS)
def test_the_grid_is_the_pipelines_own_and_ends_at_a_clean_picture(n):
    scheduler = tiny.scheduler()
    rung = rung_of(scheduler, n)
    scheduler.set_timesteps(n)
    assert rung.timesteps.tolist() == scheduler.timesteps.tolist()
    assert float(rung.alphas[2, -1]) == 1.0
    assert float(rung.sigmas[2, -1]) == 0.0
    # It lands at its own next timestep's level.
    assert torch.equal(rung.alphas[2, :-1], rung.alphas[0, 1:])
    assert float((rung.alphas**2 + rung.sigmas**2 - 1).abs().max()) <= 1e-6


def test_a_step_is_diffusers_step():
    scheduler, z = tiny.scheduler(), _noise(2)
    scheduler.set_timesteps(8)
    rung, v = rung_of(scheduler, 8), _noise(2, seed=3)
    for k, t in enumerate(scheduler.timesteps):
        steps = torch.full((2,), k)
        ours = ddim_step(z, v, rung.level(0, steps), rung.level(2, steps))
        assert float((ours - scheduler.step(v, t, z).prev_sample).abs().max()) <= 1e-5


def test_algorithm_2_noises_drawings_to_the_students_timesteps():
    scheduler, v = tiny.scheduler(), _teacher()
    rung = rung_of(scheduler, 4)
    x0, noise, steps = _noise(4, 5), _noise(4, 6), torch.arange(4)
    lesson = noised(v, rung, x0, noise, steps)
    theirs = scheduler.add_noise(x0, noise, rung.timesteps)
    assert float((lesson.latents[1:] - theirs[1:]).abs().max()) <= 1e-6
    assert torch.equal(lesson.latents[0], noise[0])  # the pipeline starts from noise alone
    assert torch.equal(lesson.target, two_steps(v, lesson.latents, rung, steps)[0])


def test_walks_follow_the_teacher_or_the_student():
    scheduler, teacher, student = tiny.scheduler(), _teacher(), _teacher(seed=9)
    rung, noise = rung_of(scheduler, 4), _noise(2)
    lesson = walked(teacher, student, rung, noise, torch.tensor([False, True]))
    assert lesson.steps.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    for k in range(4):
        after_teacher = _diffusers_steps(scheduler, 8, 0, noise, teacher, 2 * k)
        after_student = _diffusers_steps(scheduler, 4, 0, noise, student, k)
        ours = lesson.latents[2 * k : 2 * k + 2]
        assert float((ours[0] - after_teacher[0]).abs().max()) <= 1e-5
        assert float((ours[1] - after_student[1]).abs().max()) <= 1e-5
        target = two_steps(teacher, ours, rung, torch.full((2,), k))[0]
        assert torch.equal(target, lesson.target[2 * k : 2 * k + 2])


def test_the_error_of_v_weighs_that_of_x_by_snr_plus_one():
    rung = rung_of(tiny.scheduler(), 4)
    lesson = noised(_teacher(), rung, _noise(4, 5), _noise(4, 6), torch.arange(4))
    said = _noise(4, 7)
    alpha, sigma = rung.level(0, lesson.steps)
    error_of_x = sigma * (said - lesson.target)  # x = α z − σ v
    snr = (alpha / sigma) ** 2
    found = loss(lambda z, t: said, rung, lesson)
    assert float((found - ((snr + 1) * error_of_x.square()).mean()).abs()) <= 1e-5


def _with(**options):
    return DDIMScheduler.from_config(tiny.scheduler().config, **options)


@pytest.mark.parametrize(
    ("scheduler", "n", "words"),
    [
        (_with(timestep_spacing="leading"), 8, "timestep_spacing='trailing'.*got 'leading'"),
        (_with(timestep_spacing="linspace"), 8, "timestep_spacing='trailing'.*got 'linspace'"),
        (_with(num_train_timesteps=1000), 32, "64 divides, got 'trailing' and 1000"),
        (_with(), 3, "6 divides, got 'trailing' and 1024"),
        (_with(), 1024, "2048 divides"),
        (_with(prediction_type="sample"), 8, "got prediction_type 'sample'"),
        (_with(clip_sample=True), 8, "clip_sample=True"),
        (_with(thresholding=True), 8, "thresholding=True"),
        (_with(prediction_type="epsilon", rescale_betas_zero_snr=True), 8, "says nothing of it"),
        (
            tiny.pipeline(size="small", scheduler_name="EulerDiscreteScheduler").scheduler,
            8,
            "Euler",
        ),
        (tiny.pipeline(size="small", scheduler_name="LCMScheduler").scheduler, 8, "got LCM"),
    ],
)
def test_schedulers_whose_student_would_not_land_are_refused(scheduler, n, words):
    with pytest.raises(ValueError, match=words):
        rung_of(scheduler, n)


def test_the_advice_for_a_thousand_steps_fits():
    with pytest.raises(ValueError, match=r"such as \(20, 10, 5\)"):
        rung_of(_with(num_train_timesteps=1000), 32)
    for n in (20, 10, 5):
        assert isinstance(rung_of(_with(num_train_timesteps=1000), n), Rung)
