"""Where the recorder stands: round ``scheduler.step`` and behind the network.

The scheduler's ``step`` is wrapped on the *instance* and the network gets a forward hook; both are
taken away again whatever happens. Nothing that passes is changed, so that a recorded picture is
the bare picture to the bit. Tensors are copied where they are and leave the device once, at
the end of the run: no step waits for the recorder.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ldmkit.recording.estimates import Level, level

__all__ = [
    "Call",
    "Stop",
    "Tape",
    "denoiser_of",
    "exclusive",
    "hooked",
    "is_mine",
    "prior_of",
    "scheduler_of",
]


class Stop(Exception):
    """Raised from a wrapped step to leave the pipeline's loop; never reaches the caller."""


@dataclass
class Call:
    """One call of ``scheduler.step``, tensors as they passed."""

    timestep: float
    level: Level | None
    latents: torch.Tensor  # (b, c, h, w), or as the family packs
    model_output: torch.Tensor  # guided, as the scheduler got it
    network: torch.Tensor | None  # unguided, uncond before cond in the batch
    output: torch.Tensor


@dataclass
class Tape:
    """What the hooks write on."""

    calls: list[Call] = field(default_factory=list)
    network: torch.Tensor | None = None  # waits here for the step that follows it


def scheduler_of(pipe: Any) -> Any | None:
    """The pipeline's scheduler (its decoder's, where a prior has one too), or ``None``."""
    for name in ("scheduler", "decoder_scheduler"):
        found = getattr(pipe, name, None)
        if callable(getattr(found, "step", None)):
            return found
    return None


def denoiser_of(pipe: Any) -> torch.nn.Module | None:
    """The network that predicts noise, or ``None`` where a pipeline keeps it elsewhere."""
    for name in ("unet", "transformer", "decoder"):
        found = getattr(pipe, name, None)
        if isinstance(found, torch.nn.Module):
            return found
    return None


def prior_of(pipe: Any) -> tuple[Any, Any] | None:
    """An unCLIP pipeline's prior, which runs before its decoder: (network, scheduler)."""
    scheduler = getattr(pipe, "prior_scheduler", None)
    for name in ("prior", "prior_prior"):
        network = getattr(pipe, name, None)
        # of embeddings; Wuerstchen's prior is another thing
        if hasattr(network, "clip_mean") and callable(getattr(scheduler, "step", None)):
            return network, scheduler
    return None


@contextmanager
def hooked(
    scheduler: Any,
    denoiser: torch.nn.Module | None,
    tape: Tape,
    after: Callable[[Call], None] | None = None,
) -> Iterator[Tape]:
    """Records each step on the tape while the block runs.

    Args:
        scheduler: the scheduler instance to wrap.
        denoiser: the network whose unguided output is wanted, or ``None``.
        tape: written to.
        after: called after each step; may raise ``Stop``.
    """
    with ExitStack() as stack:
        stack.callback(_restore, scheduler, vars(scheduler).get("step"))
        scheduler.step = _recording_step(scheduler, tape, after)
        if denoiser is not None:
            handle = denoiser.register_forward_hook(functools.partial(_keep_output, tape))
            stack.callback(handle.remove)
        yield tape


def _recording_step(
    scheduler: Any, tape: Tape, after: Callable[[Call], None] | None
) -> Callable[..., Any]:
    step = scheduler.step

    # Pipelines read the signature of `step` for eta and generator and silently drop what a
    # wrapper hides: hence `wraps`.
    @functools.wraps(step)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        model_output, timestep, sample = _arguments(args, kwargs)
        latents = sample.detach().clone()
        guided = model_output.detach().clone()
        sigmas = _sigmas_now(scheduler)
        result = step(*args, **kwargs)
        index = getattr(scheduler, "step_index", None)
        call = Call(
            timestep=float(timestep),
            level=level(scheduler, timestep, sigmas, None if index is None else index - 1),
            latents=latents,
            model_output=guided,
            network=tape.network,
            output=result[0].detach().clone(),
        )
        tape.network = None
        tape.calls.append(call)
        if after is not None:
            after(call)
        return result

    return recorded


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    names = ("model_output", "timestep", "sample")  # the order of every diffusers scheduler
    return tuple(args[i] if i < len(args) else kwargs[name] for i, name in enumerate(names))


def _sigmas_now(scheduler: Any) -> Any | None:
    # The second call of a KDPM2 step stands at sigmas of its own.
    if not getattr(scheduler, "state_in_first_order", True):
        return getattr(scheduler, "sigmas_interpol", getattr(scheduler, "sigmas", None))
    return getattr(scheduler, "sigmas", None)


def _keep_output(tape: Tape, module: torch.nn.Module, args: Any, output: Any) -> None:
    tensor = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
    if isinstance(tensor, torch.Tensor):
        tape.network = tensor.detach().clone()


def _restore(scheduler: Any, earlier: Any | None) -> None:
    if earlier is None:
        vars(scheduler).pop("step", None)
    else:
        scheduler.step = earlier


_locks: weakref.WeakKeyDictionary[Any, threading.Lock] = weakref.WeakKeyDictionary()
_locks_guard = threading.Lock()
_busy = threading.local()


@contextmanager
def exclusive(*parts: Any) -> Iterator[None]:
    """Holds the locks of a scheduler and a network: both carry state from step to step.

    Sibling pipelines share their parts, so the parts are locked rather than the pipeline.

    Raises:
        RuntimeError: this very thread is already recording with one of them.
    """
    mine: set[int] = _busy.__dict__.setdefault("parts", set())
    held = {id(part): part for part in parts if part is not None}
    if mine & held.keys():
        raise RuntimeError(
            "This pipeline is already being recorded by the same thread (on_step must not record "
            "again with it); wait until record returns."
        )
    with _locks_guard:
        locks = [_locks.setdefault(held[key], threading.Lock()) for key in sorted(held)]
    with ExitStack() as stack:
        for lock in locks:  # one order everywhere, so that two recorders can't wait on each other
            stack.enter_context(lock)
        mine.update(held)
        try:
            yield
        finally:
            mine.difference_update(held)


def is_mine(part: Any) -> bool:
    """Whether this thread holds a part's lock already, as inside ``on_step``."""
    return id(part) in _busy.__dict__.get("parts", ())
