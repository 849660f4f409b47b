"""The noise law: alpha, sigma, clean estimate and noise, for each scheduler and prediction.

One law holds for every scheduler that a record describes (``ldmkit.records.noise_law``):

    latents = alpha * x0 + sigma * noise

- *variance preserving* (DDIM, DDPM, PNDM, LCM, TCD; DPM++, UniPC, DEIS): alpha² + sigma² = 1
  (DDPM, arXiv 2006.11239, eq. 4);
- *variance exploding* (Euler, Heun, LMS and kin): alpha = 1 (EDM, arXiv 2206.00364, eq. 1);
- *flow matching*: alpha = 1 - sigma (arXiv 2210.02747, eq. 22; with ``invert_sigmas``, as OmniGen
  has it, a scheduler's own sigma is alpha);
- *TrigFlow* (Sana Sprint): alpha = cos t, sigma = σ_data · sin t (sCM, arXiv 2410.11081, eq. 4).

Where a scheduler has scalings of its own for what the network gives (EDM, arXiv 2206.00364, eq. 7;
consistency models, arXiv 2303.01469, appendix C), the clean estimate is what these make of it.

Numpy only, apart from reading numbers off a scheduler. Clipping or thresholding that a scheduler
may do afterwards is not part of an estimate: it is what the network said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ldmkit.records.noise_law import both_of

__all__ = [
    "PREDICTIONS",
    "Place",
    "estimates",
    "guess_of",
    "number",
    "place_of",
    "prediction_of",
    "space_of",
]

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow")  # as ``prediction_of`` names them
Space = Literal[
    "vp_timestep", "vp_ratio", "vp_sigma", "exploding", "told", "flow", "flow_turned", "trig"
]

# Read from diffusers 0.42. A subclass follows its parent; any other scheduler is told apart by
# what it has.
_SPACES: dict[str, Space | None] = {
    **dict.fromkeys(
        (
            "CogVideoXDDIMScheduler",
            "CogVideoXDPMScheduler",
            "DDIMScheduler",
            "DDIMParallelScheduler",
            "DDPMScheduler",
            "DDPMParallelScheduler",
            "LCMScheduler",
            "PNDMScheduler",
            "RePaintScheduler",
            "TCDScheduler",
            "UnCLIPScheduler",
        ),
        "vp_timestep",
    ),
    **dict.fromkeys(
        (
            "DEISMultistepScheduler",
            "DPMSolverMultistepScheduler",
            "DPMSolverMultistepInverseScheduler",
            "DPMSolverSinglestepScheduler",
            "SASolverScheduler",
            "UniPCMultistepScheduler",
        ),
        "vp_sigma",
    ),
    **dict.fromkeys(
        (
            "CMStochasticIterativeScheduler",
            "CosineDPMSolverMultistepScheduler",
            "DPMSolverSDEScheduler",
            "EDMDPMSolverMultistepScheduler",
            "EDMEulerScheduler",
            "EulerDiscreteScheduler",
            "EulerAncestralDiscreteScheduler",
            "HeunDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "LMSDiscreteScheduler",
        ),
        "exploding",
    ),
    "LTXEulerAncestralRFScheduler": "flow",
    "DDPMWuerstchenScheduler": "vp_ratio",
    "KarrasVeScheduler": "told",
    "SCMScheduler": "trig",
    "ScoreSdeVeScheduler": "exploding",
    "DDIMInverseScheduler": None,  # tells the network where it goes to, not where it stands
    # Of films: paths of their own between noise and picture.
    **dict.fromkeys(("HeliosScheduler", "HeliosDMDScheduler", "MiniMaxH3Scheduler"), None),
}

# These precondition the network's input and output in ways of their own: no guess is right.
_OWN_SCALINGS = ("precondition_inputs", "get_scalings", "get_scalings_for_boundary_condition")

# Where the second call of a step of second order stands: (table of sigmas, offset of the index).
# Others, such as Heun's, stand in the ordinary table.
_SECOND_CALLS = {
    "KDPM2DiscreteScheduler": ("sigmas_interpol", 0),
    "KDPM2AncestralDiscreteScheduler": ("sigmas_interpol", -1),
    "DPMSolverSDEScheduler": ("mid_point_sigma", 0),
}


def _names(scheduler: Any) -> list[str]:
    return [kind.__name__ for kind in type(scheduler).__mro__]


def _is_known(scheduler: Any) -> bool:
    return any(name in _SPACES or name.startswith("FlowMatch") for name in _names(scheduler))


def space_of(scheduler: Any) -> Space | None:
    """Tells which of the noise laws a scheduler follows; ``None`` where nobody can know."""
    for name in _names(scheduler):
        if name in _SPACES:
            return _SPACES[name]
        if name.startswith("FlowMatch"):  # Cosmos gives it EDM's sigmas, up to 80, and ε
            return "exploding" if float(_setting(scheduler, "sigma_max") or 1.0) > 1.0 else "flow"
    if any(hasattr(scheduler, own) for own in _OWN_SCALINGS):
        return None
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        return "vp_sigma"
    if hasattr(scheduler, "alphas_cumprod"):
        return "exploding" if hasattr(scheduler, "sigmas") else "vp_timestep"
    return "exploding" if hasattr(scheduler, "sigmas") else None


def guess_of(scheduler: Any) -> str:
    """What is taken for granted of a scheduler that ldmkit doesn't know, in words; or nothing."""
    if _is_known(scheduler):
        return ""
    guesses = []
    if space_of(scheduler) == "exploding":
        guesses.append("its sigmas are read as Euler's (latents = x0 + sigma · noise)")
    if space_of(scheduler) is not None and _setting(scheduler, "prediction_type") is None:
        guesses.append("its network's output as ε, since prediction_type is not said")
    return " and ".join(guesses)


Scalings = Callable[[float], tuple[float, float]]


@dataclass(frozen=True)
class Place:
    """Where a scheduler stands when a step begins.

    The table is kept by reference and ``level`` reads it at the end of a run: a number that lies
    on a GPU would make each step wait for it.

    Attributes:
        space: the law that the scheduler follows, ``None`` where nobody can know.
        timestep: what the network was told.
        table: ᾱ for each timestep, or sigma (TrigFlow: t) for each step, as it stood before the
            step; a function of the timestep where ᾱ is continuous.
        index: number of the step in a table of sigmas.
        data: deviation of clean latents, σ_data of TrigFlow.
        own: the scheduler's scalings of what the network gives, by sigma (TrigFlow: t).
    """

    space: Space | None
    timestep: Any
    table: Any
    index: int | None
    data: float = 1.0
    own: Scalings | None = None

    def level(self) -> tuple[float, float]:
        """(alpha, sigma) of what enters the step; NaN where nothing says it."""
        value = self._value()
        if math.isnan(value):
            return math.nan, math.nan
        if self.space in ("vp_timestep", "vp_ratio"):  # ᾱ of DDPM, eq. 4
            return math.sqrt(value), math.sqrt(max(0.0, 1.0 - value))
        if self.space == "flow":
            return 1.0 - value, value
        if self.space == "flow_turned":
            return value, 1.0 - value
        if self.space == "trig":
            return math.cos(value), self.data * math.sin(value)
        if self.space in ("exploding", "told"):
            return 1.0, value
        alpha = 1.0 / math.sqrt(1.0 + value * value)  # their sigma is the ratio sigma/alpha
        return alpha, value * alpha

    def scalings(self) -> tuple[float, float]:
        """(skip, scale): the prediction is skip · latents + scale · model output."""
        value = self._value()
        return (0.0, 1.0) if self.own is None or math.isnan(value) else self.own(value)

    def _value(self) -> float:
        """What the table says of this step; NaN where nothing does."""
        if self.space == "told":
            return number(self.timestep)
        if self.space == "vp_ratio":
            return float(self.table(self.timestep.flatten()[:1], self.timestep.device))
        at = number(self.timestep) if self.space == "vp_timestep" else self.index
        if self.space is None or self.table is None or at is None or math.isnan(at):
            return math.nan
        if np.ndim(self.table) and (at != int(at) or not 0 <= at < len(self.table)):
            return math.nan
        return float(self.table[int(at)] if np.ndim(self.table) else self.table)


def place_of(scheduler: Any, timestep: Any) -> Callable[[], Place]:
    """Notes where a scheduler stands; to be called before its step, and the answer after it.

    Only after its step does a scheduler surely know its number, while its tables may be others by
    then.

    Args:
        scheduler: the scheduler.
        timestep: what the network was told.
    """
    space = space_of(scheduler)
    if space == "vp_sigma" and _setting(scheduler, "use_flow_sigmas"):
        space = "flow"
    if space == "flow" and _setting(scheduler, "invert_sigmas"):  # OmniGen's go up, to the picture
        space = "flow_turned"
    tables = {"vp_timestep": "alphas_cumprod", "vp_ratio": "_alpha_cumprod", "trig": "timesteps"}
    name, offset = tables.get(str(space), "sigmas"), 0
    if "ScoreSdeVeScheduler" in _names(scheduler):
        name = "discrete_sigmas"
    if not getattr(scheduler, "state_in_first_order", True):
        kinds = [kind for kind in _names(scheduler) if kind in _SECOND_CALLS]
        name, offset = _SECOND_CALLS[kinds[0]] if kinds else (name, offset)
    table, data = getattr(scheduler, name, None), 1.0
    if space == "trig":
        data = float(_setting(scheduler, "sigma_data") or 1.0)
    own = _scalings_of(scheduler)

    def place() -> Place:
        index = getattr(scheduler, "step_index", None)
        if index is None or not _is_known(scheduler):  # a student's may count as it likes
            return Place(space, timestep, table, _found(scheduler, timestep), data, own)
        return Place(space, timestep, table, index - 1 + offset, data, own)

    return place


def _scalings_of(scheduler: Any) -> Scalings | None:
    """A scheduler's own way from latents and model output to x0: (skip, scale) by sigma."""
    names = _names(scheduler) if _is_known(scheduler) else []
    if space_of(scheduler) == "flow" and _setting(scheduler, "invert_sigmas"):
        return lambda sigma: (0.0, -1.0)  # its velocity is x0 - noise
    if "SCMScheduler" in names:  # x0 = cos t · x - sin t · F, sCM, eq. 5
        return lambda t: (math.cos(t), -math.sin(t))
    if "ScoreSdeVeScheduler" in names:  # a score is -noise / sigma
        return lambda sigma: (1.0, sigma * sigma)
    if "KarrasVeScheduler" in names:
        return lambda sigma: (1.0, sigma)
    if "CMStochasticIterativeScheduler" in names:
        boundary = scheduler.get_scalings_for_boundary_condition
        return lambda sigma: tuple(map(float, boundary(sigma)))  # type: ignore[return-value]
    if hasattr(scheduler, "precondition_outputs") and names:
        made: Any = scheduler.precondition_outputs  # linear in (latents, model output, sigma)
        one, zero = np.float64(1), np.float64(0)

        def edm(sigma: float) -> tuple[float, float]:
            return float(made(one, zero, sigma)), float(made(zero, one, sigma))

        return edm
    return None


def _found(scheduler: Any, timestep: Any) -> int | None:
    """The number of a step in the schedule of a scheduler that doesn't count."""
    if "ScoreSdeVeScheduler" in _names(scheduler):  # its sigmas go up, its t from 1 to 0
        return int(number(timestep) * (len(scheduler.timesteps) - 1))
    if space_of(scheduler) in (None, "vp_timestep"):
        return None
    schedule = [number(t) for t in getattr(scheduler, "timesteps", ())]
    return schedule.index(number(timestep)) if number(timestep) in schedule else None


def number(timestep: Any) -> float:
    """A timestep as a plain number; one for each picture or token are told by the first.

    NaN where a student's loop counts by something else, or not at all.
    """
    if hasattr(timestep, "flatten"):
        timestep = timestep.flatten()[0]
    try:
        return float(timestep)
    except (TypeError, ValueError):
        return math.nan


def prediction_of(scheduler: Any) -> str:
    """What the network predicts, one of ``PREDICTIONS``, or a name that nobody knows."""
    if space_of(scheduler) == "flow":
        return "flow"
    if _scalings_of(scheduler) is not None:
        return "sample"  # what the scheduler's own scalings give
    name = _setting(scheduler, "prediction_type") or "epsilon"
    return {"original_sample": "sample", "flow_prediction": "flow"}.get(name, name)


def _setting(scheduler: Any, name: str) -> Any:
    """A setting in a scheduler's config or, where a student wrote it, on itself; or ``None``."""
    config = getattr(scheduler, "config", None)
    if isinstance(config, Mapping) and config.get(name) is not None:
        return config[name]
    found = getattr(config, name, None)
    return getattr(scheduler, name, None) if found is None else found


def estimates(
    latents: NDArray[np.float32],
    output: NDArray[np.float32],
    alpha: NDArray[np.float64],
    sigma: NDArray[np.float64],
    prediction: str,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Clean estimate and noise from what the network gave, as a record keeps them.

    The formulas are those of ``records.noise_law.both_of``.

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
    with np.errstate(divide="ignore", invalid="ignore"):  # alpha 0 at pure noise: inf, not a crash
        x0, noise = both_of(latents, output, alpha, sigma, prediction)
    if prediction == "sample":  # where there is none of it, it is none
        noise = np.where(sigma > 0, noise, 0.0)
    return x0.astype(np.float32), noise.astype(np.float32)
