"""Levels of every scheduler that diffusers ships, against a network that knows them by itself.

The network's data is one picture, so that its exact answer follows from what it sees and is told:
the noise level of a timestep is written down here anew. A record that reads a level one place off
gets another clean estimate than the picture.
"""

import importlib
import sys
import types

import diffusers
import numpy as np
import pytest
import torch

from ldmkit.recording import record, recorder
from ldmkit.recording.noise_law import guess_of, space_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
    pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning"),
]

TARGET = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)).double()
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
BETAS |= {"num_train_timesteps": 1000}

EXPLODING = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "DPMSolverSDEScheduler",
)
PRESERVING = (
    "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler",
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "LCMScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
FLOW = (
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
)
UNKNOWN = (
    "DDIMInverseScheduler",
    "HeliosScheduler",
    "MiniMaxH3Scheduler",
)


def ratio(timestep):
    """sigma / alpha at a timestep, which may lie between two: log-linear, as in diffusers."""
    betas = np.linspace(BETAS["beta_start"] ** 0.5, BETAS["beta_end"] ** 0.5, 1000) ** 2
    kept = np.cumprod(1 - betas)
    return np.exp(np.interp(float(timestep), np.arange(1000), np.log(np.sqrt(1 / kept - 1))))


def answer(seen, timestep, flow):
    """The exact output of a network whose data is TARGET, ε or velocity."""
    seen = seen.double()
    if flow:
        sigma = float(timestep) / 1000
        return ((seen - (1 - sigma) * TARGET) / sigma - TARGET).float()
    alpha = 1 / np.sqrt(1 + ratio(timestep) ** 2)
    return ((seen - alpha * TARGET) / (alpha * ratio(timestep))).float()


# Schedulers with scalings of their own: (class, its config, the answer of a network whose data is
# TARGET, (alpha, sigma) by what the step was told). Written down from the papers.
def _edm(seen, sigma, data=0.5):
    """EDM, arXiv 2206.00364, eq. 7, of x0."""
    skip, scale = data**2 / (sigma**2 + data**2), sigma * data / np.sqrt(sigma**2 + data**2)
    return (TARGET - skip * seen) / scale


def _consistency(seen, sigma, data=0.5, least=0.002):
    """Consistency models, arXiv 2303.01469, appendix C."""
    skip = data**2 / ((sigma - least) ** 2 + data**2)
    return (TARGET - skip * seen) / ((sigma - least) * data / np.sqrt(sigma**2 + data**2))


def _wuerstchen(t):
    """Its own ᾱ, a squared cosine (arXiv 2102.09672, eq. 17)."""
    kept = np.clip(
        np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2,
        1e-4,
        0.9999,
    )
    return np.sqrt(kept), np.sqrt(1 - kept)


def _exploding(sigma):
    return 1.0, sigma


OWN = {
    "EDMEulerScheduler": ({}, _edm, _exploding),
    "EDMDPMSolverMultistepScheduler": ({}, _edm, _exploding),
    "CMStochasticIterativeScheduler": ({"clip_denoised": False}, _consistency, _exploding),
    "SCMScheduler": (
        {},
        lambda x, t: (np.cos(t) * x - TARGET) / np.sin(t),
        lambda t: (np.cos(t), 0.5 * np.sin(t)),
    ),
    "DDPMWuerstchenScheduler": (
        {},
        lambda x, t: (x - _wuerstchen(t)[0] * TARGET) / _wuerstchen(t)[1],
        _wuerstchen,
    ),
    "KarrasVeScheduler": ({}, lambda x, sigma: (TARGET - x) / sigma, _exploding),
    "ScoreSdeVeScheduler": ({}, lambda x, sigma: (TARGET - x) / sigma**2, _exploding),
}


@pytest.mark.filterwarnings("ignore:noise_pred_text, noise_pred_uncond can't be told")
@pytest.mark.parametrize("name", OWN)
def test_levels_and_estimates_of_schedulers_with_scalings_of_their_own(name):
    config, answer_of, level = OWN[name]
    scheduler = getattr(diffusers, name)(**config)
    only = {"intermediate_timesteps": None} if name == "SCMScheduler" else {}
    scheduler.set_timesteps(4, **only)
    told = [float(t) for t in scheduler.timesteps]
    steps = told[:-1] if name in ("SCMScheduler", "DDPMWuerstchenScheduler") else told
    sigmas = [float(s) for s in getattr(scheduler, "sigmas", steps)]
    if name == "KarrasVeScheduler":
        sigmas = [float(s) for s in scheduler.schedule[[int(t) for t in steps]]]
    if name == "ScoreSdeVeScheduler":
        scheduler.set_sigmas(4)
        sigmas = [0.01 * (1348 / 0.01) ** (int(t * 3) / 3) for t in steps]
    x = 2 * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    noise = torch.Generator().manual_seed(5)
    at = steps if name in ("SCMScheduler", "DDPMWuerstchenScheduler") else sigmas
    with recorder(scheduler, keep="all") as tape:
        for t, place in zip(scheduler.timesteps, at, strict=False):
            scaled = getattr(scheduler, "scale_model_input", lambda x, t: x)
            if name.startswith(("EDM", "CM")):
                scaled(x, t)
            said = answer_of(x.double(), place).float()
            if name == "KarrasVeScheduler":
                x = scheduler.step(said, place, place / 2, x).prev_sample
            elif name == "ScoreSdeVeScheduler":
                x = scheduler.step_pred(said, t, x, generator=noise).prev_sample
            elif name == "DDPMWuerstchenScheduler":
                x = scheduler.step(said, t.expand(1), x, generator=noise).prev_sample
            else:
                x = scheduler.step(said, t, x, generator=noise).prev_sample
    traj = tape.trajectory
    assert len(traj.sigmas) == len(steps)
    expected = np.array([level(place) for place in at[: len(steps)]])
    assert np.abs(traj.alphas - expected[:, 0]).max() <= 1e-6
    assert np.abs(traj.sigmas / expected[:, 1] - 1).max() <= 1e-5
    far = 1e-3 if "Score" in name or "EDM" in name or "Karras" in name else 1e-4
    assert np.abs(traj.denoised - TARGET.numpy()).max() <= far * max(1.0, traj.sigmas.max() / 80)
    alpha, sigma = (level.reshape(-1, 1, 1, 1, 1) for level in (traj.alphas, traj.sigmas))
    law = alpha * traj.denoised + sigma * traj.noise_pred - traj.latents[:-1]
    assert np.abs(law).max() <= 1e-5 * max(1.0, np.abs(traj.latents).max())


def made(name, monkeypatch):
    if name != "DPMSolverSDEScheduler":
        return getattr(diffusers, name)(**BETAS, timestep_spacing="trailing")
    # Its noise comes from a library that isn't installed here: without it the levels are the same.
    monkeypatch.setitem(sys.modules, "torchsde", types.ModuleType("torchsde"))
    module = importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde")
    monkeypatch.setattr(module, "BrownianTreeNoiseSampler", lambda *args: lambda a, b: 0.0)
    return module.DPMSolverSDEScheduler(**BETAS, timestep_spacing="trailing")


def run(scheduler, flow=False, steps=6):
    """A student's loop in the recorder: (record, sigmas that the scaled input betrays)."""
    scheduler.set_timesteps(steps)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    if not flow:
        x = x * scheduler.init_noise_sigma
    betrayed, before, back = [], None, None
    with recorder(scheduler, keep="all") as tape:
        for t in scheduler.timesteps:
            scaled = getattr(scheduler, "scale_model_input", lambda x, t: x)
            seen = scaled(x, t)
            share = float(x.double().norm() / seen.double().norm())
            betrayed.append(np.sqrt(max(0.0, share**2 - 1)))
            said = answer(seen, t, flow)
            if type(scheduler).__name__ == "CogVideoXDPMScheduler":  # CogVideoX's takes more
                out = scheduler.step(said, before, t, back, x)
                before, back = out[1], t
            else:
                out = scheduler.step(said, t, x, return_dict=False)
            x = out[0]
    return tape.trajectory, np.array(betrayed)


@pytest.mark.filterwarnings("ignore:noise_pred_text, noise_pred_uncond can't be told")
@pytest.mark.parametrize("name", EXPLODING)
def test_levels_where_noise_explodes(name, monkeypatch):
    scheduler = made(name, monkeypatch)
    traj, betrayed = run(scheduler)
    assert len(traj.sigmas) == (6 if name.startswith(("Euler", "LMS")) else 11)
    assert np.abs(traj.denoised - TARGET.numpy()).max() <= 2e-4
    assert np.abs(traj.sigmas / betrayed - 1).max() <= 1e-3, "the scheduler scales by another sigma"
    assert np.all(traj.alphas == 1.0)
    law = traj.denoised + traj.sigmas.reshape(-1, 1, 1, 1, 1) * traj.noise_pred
    assert np.abs(law - traj.latents[:-1]).max() <= 1e-5


@pytest.mark.filterwarnings("ignore:noise_pred_text, noise_pred_uncond can't be told")
@pytest.mark.parametrize("name", PRESERVING)
def test_levels_where_variance_is_kept(name):
    config = {**BETAS, "timestep_spacing": "trailing", "clip_sample": False}
    scheduler = getattr(diffusers, name).from_config(config)
    if name.startswith("CogVideoX"):
        scheduler = type(scheduler)(**BETAS, timestep_spacing="trailing", clip_sample=False)
        scheduler.alphas_cumprod = diffusers.DDIMScheduler(**BETAS).alphas_cumprod
    traj, _ = run(scheduler)
    assert np.abs(traj.denoised - TARGET.numpy()).max() <= 2e-4
    assert np.abs(traj.alphas**2 + traj.sigmas**2 - 1).max() <= 1e-6
    expected = np.array([ratio(t) for t in traj.timesteps])
    assert np.abs(traj.sigmas / traj.alphas / expected - 1).max() <= 1e-3


@pytest.mark.filterwarnings("ignore:noise_pred_text, noise_pred_uncond can't be told")
@pytest.mark.parametrize("name", FLOW)
def test_levels_of_flow_matching(name):
    traj, _ = run(getattr(diffusers, name)(), flow=True)
    assert np.abs(traj.denoised - TARGET.numpy()).max() <= 1e-5
    assert np.abs(traj.sigmas - traj.timesteps / 1000).max() <= 1e-6
    assert np.abs(traj.alphas + traj.sigmas - 1).max() <= 1e-12


@pytest.mark.filterwarnings("ignore:noise_pred_text, noise_pred_uncond can't be told")
@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_flow_sigmas_in_a_solver_of_both_kinds(name):
    kind = getattr(diffusers, name)
    scheduler = kind(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    traj, _ = run(scheduler, flow=True)
    assert np.abs(traj.denoised - TARGET.numpy()).max() <= 1e-2  # they tell whole timesteps


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_nobody_can_know_is_none(name):
    scheduler = getattr(diffusers, name)()
    assert space_of(scheduler) is None


@pytest.mark.filterwarnings("ignore:noise_pred_text, noise_pred_uncond can't be told")
def test_a_second_call_stands_at_a_sigma_of_its_own():
    """The fault that was found: 5.27 recorded where 16.11 was used."""
    scheduler = diffusers.KDPM2AncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing")
    traj, betrayed = run(scheduler)
    assert len(traj.sigmas) == 11
    second = traj.sigmas[1::2]
    assert np.all(second < traj.sigmas[:-1:2])
    assert np.abs(second / betrayed[1::2] - 1).max() < 1e-3


class Euler:
    """A scheduler that a student wrote: sigmas, timesteps, and a step that gives a tensor."""

    def __init__(self, flow=False):
        self.timesteps = torch.tensor([999.0, 700.0, 400.0, 100.0])
        self.sigmas = torch.tensor([*(ratio(t) for t in self.timesteps), 0.0])

    def step(self, eps, t, x):
        i = int((self.timesteps == t).nonzero()[0])
        return x + (self.sigmas[i + 1] - self.sigmas[i]) * eps


class Subclass(diffusers.EulerDiscreteScheduler):
    """A student's change to a scheduler of diffusers."""


def test_a_students_scheduler_with_sigmas():
    scheduler, x = Euler(), torch.randn(1, 4, 8, 8) * 14
    with recorder(scheduler) as tape:
        for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
            seen = x / (1 + sigma**2).sqrt()
            x = scheduler.step(answer(seen, t, flow=False), t, x)
    with pytest.warns(UserWarning, match="doesn't know Euler: its sigmas are read as") as said:
        traj = tape.trajectory
    assert len(said) == 1
    assert np.abs(traj.sigmas - scheduler.sigmas[:-1].numpy()).max() <= 1e-6
    assert np.abs(traj.denoised - TARGET.numpy()).max() <= 2e-4
    assert np.array_equal(traj.latents[-1], x.numpy())
    assert not traj.stopped


def test_a_subclass_follows_its_parent():
    scheduler = Subclass(**BETAS, timestep_spacing="trailing")
    assert space_of(scheduler) == "exploding"
    assert guess_of(scheduler) == ""


def test_a_name_of_a_scheduler_is_recorded_on_critters():
    """The whole way, as the fault was found: the embedded model in 6 steps."""
    import ldmkit

    pipe = ldmkit.load("critters")
    config = pipe.scheduler.config
    pipe.scheduler = diffusers.KDPM2AncestralDiscreteScheduler.from_config(config)
    used = []
    plain = pipe.scheduler.scale_model_input

    def scale_model_input(sample, timestep):
        seen = plain(sample, timestep)
        used.append(float((sample.double().norm() / seen.double().norm()) ** 2 - 1) ** 0.5)
        return seen

    pipe.scheduler.scale_model_input = scale_model_input
    traj = record(pipe, "a red cat", seed=7, num_inference_steps=6, preview="none")
    assert np.abs(traj.sigmas / np.array(used[-11:]) - 1).max() <= 1e-3
