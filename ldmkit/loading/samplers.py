"""Samplers by their short names, and a pipeline under another one: same networks, no training."""

from __future__ import annotations

import copy
from typing import Any

from ldmkit.check import did_you_mean, short
from ldmkit.loading.siblings import remember_as

__all__ = ["SAMPLERS", "sampler_name", "with_sampler"]

#: Short name to diffusers' class.
SAMPLERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "deis": "DEISMultistepScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "dpm++ single": "DPMSolverSinglestepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lcm": "LCMScheduler",
    "lms": "LMSDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "tcd": "TCDScheduler",
    "unipc": "UniPCMultistepScheduler",
}


def with_sampler(pipe: Any, sampler: Any) -> Any:
    """The same pipeline with another scheduler; ``pipe`` itself stays as it is.

    Networks are shared, nothing is copied or trained. A name or class takes over the noise
    schedule, prediction type and spacing of the pipeline's own scheduler.

    Args:
        pipe: a diffusers pipeline with a ``scheduler``.
        sampler: a name of ``SAMPLERS``, a scheduler class, or a scheduler, which is used with
            the settings that it has.

    Raises:
        TypeError: not a pipeline with a scheduler, or not a scheduler.
        ValueError: an unknown name; the nearest is told.
    """
    own = getattr(pipe, "scheduler", None)
    if own is None or not callable(pipe):
        raise TypeError(
            f"A pipeline with a scheduler is needed, got {short(pipe)}; "
            "open one with ldmkit.load(name)."
        )
    scheduler = _scheduler(sampler, own)
    twin = copy.copy(pipe)
    twin.scheduler = scheduler
    remember_as(twin, pipe)
    return twin


def _scheduler(sampler: Any, own: Any) -> Any:
    if isinstance(sampler, str):
        import diffusers

        sampler = getattr(diffusers, SAMPLERS[_known(sampler)])
    if callable(getattr(sampler, "step", None)) and callable(getattr(sampler, "from_config", None)):
        # Also of a scheduler a new one: it holds state while it runs, which two must not share.
        return sampler.from_config(own.config if isinstance(sampler, type) else sampler.config)
    raise TypeError(
        f"scheduler must be a name ({', '.join(SAMPLERS)}), a scheduler's class or a scheduler, "
        f"got {short(sampler)}."
    )


def _known(name: str) -> str:
    # diffusers' own names are understood, too: "EulerDiscreteScheduler", "EulerDiscrete".
    by_class = {kind.lower(): name for name, kind in SAMPLERS.items()}
    by_class |= {kind.removesuffix("scheduler"): name for kind, name in by_class.items()}
    wanted = " ".join(name.lower().split())
    wanted = by_class.get(wanted, wanted)
    if wanted in SAMPLERS:
        return wanted
    advice = did_you_mean(wanted, SAMPLERS, "take one of those.", cutoff=0.6)
    raise ValueError(f"scheduler must be one of {', '.join(SAMPLERS)}, got {short(name)}; {advice}")


def sampler_name(scheduler: Any) -> str:
    """The short name of a scheduler, or its class's name without ``Scheduler``."""
    kind = type(scheduler).__name__ if not isinstance(scheduler, type) else scheduler.__name__
    names = {kind: name for name, kind in SAMPLERS.items()}
    return names.get(kind, kind.removesuffix("Scheduler"))
