"""What a step says: alpha, sigma, clean estimate and noise, for each scheduler and prediction.

One law holds for every scheduler that a record describes:

    latents = alpha * x0 + sigma * noise

- *variance preserving* (DDIM, DDPM, PNDM, LCM, TCD; DPM++, UniPC, DEIS): alpha² + sigma² = 1
  (DDPM, arXiv 2006.11239, eq. 4);
- *variance exploding* (Euler, Heun, LMS and kin): alpha = 1 (EDM, arXiv 2206.00364, eq. 1);
- *flow matching*: alpha = 1 - sigma (arXiv 2210.02747, eq. 22).

Numpy only, apart from reading numbers off a scheduler. Clipping or thresholding that a scheduler
may do afterwards is not part of an estimate: it is what the network said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Level", "estimates", "level", "space_of"]

Space = Literal["vp_timestep", "vp_sigma", "exploding", "flow"]

# Read from diffusers 0.42; a scheduler that isn't listed is told apart by what it has.
_SPACES: dict[str, Space] = {
    **dict.fromkeys(
        (
            "DDIMScheduler",
            "DDIMParallelScheduler",
            "DDPMScheduler",
            "DDPMParallelScheduler",
            "PNDMScheduler",
            "LCMScheduler",
            "TCDScheduler",
            "UnCLIPScheduler",
        ),
        "vp_timestep",
    ),
    **dict.fromkeys(
        (
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "UniPCMultistepScheduler",
            "DEISMultistepScheduler",
            "SASolverScheduler",
        ),
        "vp_sigma",
    ),
    **dict.fromkeys(
        (
            "EulerDiscreteScheduler",
            "EulerAncestralDiscreteScheduler",
            "HeunDiscreteScheduler",
            "LMSDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
        ),
        "exploding",
    ),
}

# These precondition the network's input and output in ways of their own: no guess is right.
_OWN_SCALINGS = ("precondition_inputs", "get_scalings", "get_scalings_for_boundary_condition")
_MIDPOINTS = ("DPMSolverSDEScheduler",)  # its second calls stand at sigmas that it keeps to itself


@dataclass(frozen=True)
class Level:
    """The noise level of what enters one step: ``latents = alpha * x0 + sigma * noise``."""

    alpha: float
    sigma: float


def space_of(scheduler: Any) -> Space | None:
    """Tells which of the noise laws a scheduler follows; ``None`` where nobody can know."""
    name = type(scheduler).__name__
    if name in _SPACES:
        return _SPACES[name]
    if name.startswith("FlowMatch"):
        return "flow"
    if name in _MIDPOINTS or any(hasattr(scheduler, own) for own in _OWN_SCALINGS):
        return None
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        return "vp_sigma"
    if hasattr(scheduler, "sigmas"):
        return "exploding"
    return "vp_timestep" if hasattr(scheduler, "alphas_cumprod") else None


def level(scheduler: Any, timestep: Any, sigmas: Any, index: int | None) -> Level | None:
    """The noise level of a step.

    Args:
        scheduler: the diffusers scheduler.
        timestep: what the network was told.
        sigmas: the scheduler's table of sigmas as it stood *before* the step, if any.
        index: number of the step in that table, if any.

    Returns:
        The level, or ``None`` where the scheduler's law is unknown.
    """
    space = space_of(scheduler)
    if space is None:
        return None
    if space == "vp_timestep":
        kept = float(scheduler.alphas_cumprod[int(timestep)])  # ᾱ of DDPM, eq. 4
        return Level(math.sqrt(kept), math.sqrt(max(0.0, 1.0 - kept)))
    if sigmas is None or index is None or not 0 <= index < len(sigmas):
        return None
    sigma = float(sigmas[index])
    if space == "flow" or (space == "vp_sigma" and _uses_flow(scheduler)):
        return Level(1.0 - sigma, sigma)
    if space == "exploding":
        return Level(1.0, sigma)
    alpha = 1.0 / math.sqrt(1.0 + sigma * sigma)  # their sigma is the ratio sigma/alpha
    return Level(alpha, sigma * alpha)


def _uses_flow(scheduler: Any) -> bool:
    return bool(getattr(scheduler.config, "use_flow_sigmas", False))


def prediction_of(scheduler: Any) -> str:
    """What the network predicts: ``epsilon``, ``v_prediction``, ``sample`` or ``flow``."""
    if space_of(scheduler) == "flow":
        return "flow"
    name = getattr(scheduler.config, "prediction_type", "epsilon")
    return {"original_sample": "sample", "flow_prediction": "flow"}.get(name, name)


def estimates(
    latents: NDArray[np.float32],
    output: NDArray[np.float32],
    alpha: NDArray[np.float64],
    sigma: NDArray[np.float64],
    prediction: str,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Clean estimate and noise from what the network gave.

    With c = √(alpha² + sigma²), v-prediction (arXiv 2202.00512, appendix D) speaks of latents at
    unit variance: v = (alpha · noise - sigma · x0) / c.

    Args:
        latents: what entered the step, any shape that broadcasts with ``alpha``.
        output: what the network gave, same shape.
        alpha: share of the clean latents.
        sigma: share of the noise.
        prediction: ``"epsilon"``, ``"v_prediction"``, ``"sample"`` or ``"flow"``.

    Returns:
        (x0, noise), float32, with ``alpha * x0 + sigma * noise = latents``.

    Raises:
        ValueError: the prediction type is unknown.
    """
    x0: NDArray[np.floating[Any]]
    noise: NDArray[np.floating[Any]]
    with np.errstate(divide="ignore", invalid="ignore"):  # alpha 0 at pure noise: inf, not a crash
        if prediction == "epsilon":
            noise = output
            x0 = (latents - sigma * output) / alpha
        elif prediction == "sample":
            x0 = output
            noise = np.where(sigma > 0, (latents - alpha * output) / sigma, 0.0)
        elif prediction == "v_prediction":
            c = np.sqrt(alpha**2 + sigma**2)
            x0 = (alpha * latents / c - sigma * output) / c
            noise = (sigma * latents / c + alpha * output) / c
        elif prediction == "flow":
            x0 = latents - sigma * output  # v = noise - x0
            noise = latents + alpha * output
        else:
            raise ValueError(
                "prediction_type must be epsilon, v_prediction, sample or flow_prediction, "
                f"got {prediction!r}; set it in the scheduler's config."
            )
    return x0.astype(np.float32), noise.astype(np.float32)
