"""Every scheduler: the picture stays the same to the bit, and alpha, sigma and x0 are right."""

import functools

import diffusers
import numpy as np
import pytest
import tiny
import tiny_families
import torch
import toy

from ldmkit.recording import record

# What diffusers' own code says to numpy 2 and of its own options.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
    pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning"),
]
BARELY = 1e-5  # the bar of the design, as largest absolute difference
# What diffusers itself has no formula for.
IMPOSSIBLE = {("PNDMScheduler", "sample"), ("EulerAncestralDiscreteScheduler", "sample")}


@functools.cache
def pipeline(prediction_type):
    return tiny.pipeline(size="small", prediction_type=prediction_type)


def with_scheduler(name, prediction_type="v_prediction", **options):
    pipe = pipeline(prediction_type)
    config = tiny.scheduler(prediction_type).config
    pipe.scheduler = getattr(diffusers, name).from_config(config, **options)
    return pipe


def column(values):
    return values.reshape(-1, 1, 1, 1, 1)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("name", tiny.SCHEDULERS)
def test_the_recorded_picture_is_the_bare_picture(name, guidance_scale):
    pipe = with_scheduler(name)
    call = {"num_inference_steps": 5, "guidance_scale": guidance_scale}
    bare = pipe("a red cat", generator=torch.Generator("cpu").manual_seed(7), **call).images[0]
    traj = record(pipe, "a red cat", seed=7, keep="all", preview="none", **call)
    assert np.array_equal(np.asarray(bare), np.asarray(traj.image))
    again = pipe("a red cat", generator=torch.Generator("cpu").manual_seed(7), **call).images[0]
    assert np.array_equal(np.asarray(bare), np.asarray(again)), "the hooks left something behind"

    law = column(traj.alphas) * traj.denoised + column(traj.sigmas) * traj.noise_pred
    assert np.abs(law - traj.latents[:-1]).max() <= BARELY
    if guidance_scale == 1.0:
        assert traj.noise_pred_uncond is None
        assert np.abs(traj.noise_pred_text - traj.noise_pred).max() <= BARELY
    else:  # classifier-free guidance, arXiv 2207.12598, eq. 6 in diffusers' convention
        without, words = traj.noise_pred_uncond, traj.noise_pred_text
        guided = without + guidance_scale * (words - without)
        assert np.abs(guided - traj.noise_pred).max() <= BARELY
        assert np.abs(words - without).max() > 1e-4, "words and no words were mixed up"


@pytest.mark.parametrize(
    ("name", "prediction_type"),
    [
        (name, kind)
        for name in tiny.SCHEDULERS
        for kind in ("epsilon", "v_prediction", "sample")
        if (name, kind) not in IMPOSSIBLE
    ],
)
def test_the_clean_estimate_in_closed_form(name, prediction_type):
    # The end of SD's own schedule: at the embedded one's, ε-prediction divides by alpha = 0.014.
    pipe = with_scheduler(name, prediction_type, beta_end=0.012)
    target = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    toy.install(pipe, target, prediction_type)
    try:
        call = {"num_inference_steps": 8, "guidance_scale": 1.0}
        traj = record(pipe, "", seed=1, keep="all", preview="none", **call)
    finally:
        del pipe.unet.forward
    assert np.abs(traj.denoised - target.numpy()).max() <= BARELY
    law = column(traj.alphas) * target.numpy() + column(traj.sigmas) * traj.noise_pred
    assert np.abs(law - traj.latents[:-1]).max() <= BARELY
    assert (np.diff(traj.sigmas) <= 0).mean() >= 0.5
    expected = 1.0 if name.startswith(("Euler", "Heun", "LMS")) else None
    if expected is not None:
        assert np.all(traj.alphas == expected)
    else:
        assert np.abs(traj.alphas**2 + traj.sigmas**2 - 1).max() <= 1e-6


@pytest.mark.parametrize(
    ("name", "steps", "calls"),
    [("HeunDiscreteScheduler", 10, 19), ("PNDMScheduler", 8, 17), ("DDIMScheduler", 8, 8)],
)
def test_steps_are_the_schedulers_calls(name, steps, calls):
    seen = []
    call = {"num_inference_steps": steps, "preview": "none", "on_step": seen.append}
    traj = record(with_scheduler(name), "a cat", seed=0, **call)
    assert len(traj.timesteps) == len(traj.steps) == calls
    assert traj.latents.shape[0] == calls + 1
    for i, step in enumerate(seen):  # what leaves a step enters the next
        assert np.array_equal(step.output, traj.latents[i + 1])


@pytest.mark.parametrize(
    "options",
    [
        {"name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True},
        {"name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"},
        {"name": "EulerDiscreteScheduler", "use_karras_sigmas": True},
        {"name": "EulerDiscreteScheduler", "timestep_spacing": "linspace"},
        {"name": "KDPM2DiscreteScheduler"},
        {"name": "DDIMScheduler", "rescale_betas_zero_snr": True},
        {"name": "DDIMScheduler", "timestep_spacing": "leading"},
        {"name": "DPMSolverSinglestepScheduler", "solver_order": 3},
    ],
    ids=str,
)
def test_options_of_schedulers(options):
    options = dict(options)
    pipe = with_scheduler(options.pop("name"), **options)
    call = {"num_inference_steps": 6, "guidance_scale": 4.0}
    bare = pipe("a cat", generator=torch.Generator("cpu").manual_seed(7), **call).images[0]
    traj = record(pipe, "a cat", seed=7, keep="all", preview="none", **call)
    assert np.array_equal(np.asarray(bare), np.asarray(traj.image))
    law = column(traj.alphas) * traj.denoised + column(traj.sigmas) * traj.noise_pred
    assert np.abs(law - traj.latents[:-1]).max() <= BARELY


@pytest.mark.parametrize(
    "given", [{"timesteps": [901, 500, 100]}, {"sigmas": [10.0, 3.0, 0.5]}], ids=str
)
def test_a_schedule_by_hand(given):
    """Steps are at the places that were asked for, and each estimate says the next latents."""
    pipe = with_scheduler("EulerDiscreteScheduler", "epsilon")
    bare = pipe("a red cat", generator=torch.Generator("cpu").manual_seed(7), **given).images[0]
    traj = record(pipe, "a red cat", seed=7, keep="all", preview="none", **given)
    assert np.array_equal(np.asarray(bare), np.asarray(traj.image))
    table = np.sqrt(1 / tiny.scheduler("epsilon").alphas_cumprod.numpy() - 1)
    if "timesteps" in given:
        assert traj.timesteps.tolist() == given["timesteps"]
        wanted = table[given["timesteps"]]
    else:
        wanted = np.array(given["sigmas"][:-1])  # Euler's last one is where it ends
        assert np.abs(np.interp(traj.timesteps, range(len(table)), table) / wanted - 1).max() < 0.01
    assert np.abs(traj.sigmas / wanted - 1).max() <= 1e-5
    assert (traj.alphas == 1).all()
    follows = traj.denoised[:-1] + column(traj.sigmas[1:]) * traj.noise_pred[:-1]
    assert np.abs(follows - traj.latents[1:-1]).max() <= BARELY * wanted[0]
    assert traj.call.get("num_inference_steps", len(wanted)) == len(wanted)


def test_a_flow_by_hand():
    pipe, call = tiny_families.flux(), dict(tiny_families.FLUX_CALL)
    del call["num_inference_steps"]
    traj = record(pipe, seed=7, preview="none", sigmas=[1.0, 0.6, 0.2], **call)
    assert np.abs(traj.sigmas - [1.0, 0.6, 0.2]).max() <= 1e-6
    assert np.abs(traj.alphas - [0.0, 0.4, 0.8]).max() <= 1e-6


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "LCMScheduler"])
def test_the_clean_estimate_is_the_schedulers_own(name):
    """Where a scheduler hands out its own x0, ours is the same; another's wrapper stays on."""
    pipe = with_scheduler(name)
    step, outputs = pipe.scheduler.step, []

    @functools.wraps(step)
    def keeping(*args, **kwargs):
        outputs.append(step(*args, **kwargs))
        return outputs[-1]

    pipe.scheduler.step = keeping
    traj = record(pipe, "a cat", seed=7, num_inference_steps=4, preview="none")
    assert pipe.scheduler.step is keeping
    own = np.stack([output[1].numpy() for output in outputs])
    # LCM mixes a trace of its input into what it calls denoised (arXiv 2310.04378, eq. 9).
    assert np.abs(own - traj.denoised).max() <= (1e-3 if name == "LCMScheduler" else BARELY)
