"""Where a pipeline runs and in what precision, and how its memory comes back."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = [
    "Released",
    "at_work",
    "choose_device",
    "choose_dtype",
    "empty_cache",
    "fits",
    "own",
    "place",
    "release",
    "works_on",
]

_owned: weakref.WeakSet[Any] = weakref.WeakSet()  # what load made, for release()
_HEADROOM = 1.3  # activations of one picture beside the weights


def choose_device(device: Any = None) -> torch.device:
    """The device asked for, or the best there is: CUDA, then MPS, then the CPU.

    Raises:
        ValueError: no such device on this machine.
    """
    import torch

    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(
            f'device must be a name that torch knows, got {device!r}; try "cpu" or "cuda".'
        ) from None
    missing = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if missing.get(chosen.type, False):
        raise ValueError(
            f'device must be on this machine, got {device!r} and torch finds none; use "cpu".'
        )
    return chosen


def choose_dtype(dtype: Any, device: torch.device, *, embedded: bool) -> torch.dtype:
    """The precision asked for; else float32, and float16 for large models off the CPU.

    float16 rather than bfloat16, because a T4 has only the former.

    Raises:
        ValueError: not a floating-point type of torch.
    """
    import torch

    if dtype is None:
        return torch.float32 if embedded or device.type == "cpu" else torch.float16
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise ValueError(
            f'dtype must be "float32", "float16" or "bfloat16", got {dtype!r}; '
            'leave it out or say "float32".'
        )
    return chosen


def fits(weights: int, free: int) -> bool:
    """Whether weights of so many bytes, and a picture's activations, fit into free bytes."""
    return weights * _HEADROOM <= free


def place(pipe: Any, device: torch.device) -> Any:
    """Moves a pipeline to its device; part by part while it runs where memory is short."""
    import torch

    if device.type == "cuda":
        weights = sum(
            weight.numel() * weight.element_size()
            for part in _networks(pipe)
            for weight in part.parameters()
        )
        if not fits(weights, torch.cuda.mem_get_info(device)[0]):
            pipe.enable_model_cpu_offload(device=device)
            return pipe
    return pipe.to(device) if device.type != "cpu" else pipe


def works_on(part: Any) -> torch.device:
    """Where a network computes: where it is, or where accelerate brings it for each call."""
    import torch

    device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
    return part.device if device is None else torch.device(device)


@contextmanager
def at_work(part: Any) -> Iterator[torch.device]:
    """Calls a network's own methods inside; one that comes and goes is gone again afterwards.

    Methods other than ``forward`` bring it to its device but not what it is given.

    Args:
        part: a network of a pipeline, such as its autoencoder.

    Yields:
        The device that what it is given must be on.
    """
    before, device = part.device, works_on(part)
    try:
        yield device
    finally:
        # Of what comes and goes layer by layer nothing is anywhere ("meta") in between.
        if before != device and before.type != "meta":
            part.to(before)


def own(pipe: Any) -> Any:
    """Notes a pipeline that ``release()`` shall free."""
    _owned.add(pipe)
    return pipe


class Released:
    """What a pipeline becomes: every call says what happened."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raises ``RuntimeError``."""
        raise RuntimeError(
            "This pipeline was released and has no weights any more; load it again with "
            "ldmkit.load."
        )


def release(pipe: Any = None) -> None:
    """Frees a pipeline's memory; it is unusable afterwards, and so are siblings sharing its parts.

    Args:
        pipe: a pipeline, or ``None`` for all that ``load`` made.

    Raises:
        TypeError: not a pipeline.
    """
    if pipe is not None and not hasattr(pipe, "components") and not isinstance(pipe, Released):
        raise TypeError(
            f"release takes a pipeline that load gave, got {type(pipe).__name__}; "
            "release() without anything frees all of them."
        )
    for one in list(_owned) if pipe is None else [pipe]:
        _empty(one)
    gc.collect()
    empty_cache()


def empty_cache() -> None:
    """Gives back what torch holds of a GPU's memory and no tensor uses."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _empty(pipe: Any) -> None:
    if isinstance(pipe, Released):
        return
    for part in _networks(pipe):
        part.to("meta")  # whoever still holds the network holds no memory
    kind = type(pipe)
    vars(pipe).clear()
    pipe.__class__ = type(f"Released{kind.__name__}", (Released,), {})
    _owned.discard(pipe)


def _networks(pipe: Any) -> list[Any]:
    import torch

    parts = getattr(pipe, "components", {}).values()
    return [part for part in parts if isinstance(part, torch.nn.Module)]
