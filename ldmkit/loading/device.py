"""Where a pipeline runs and in what precision, and how its memory comes back."""

from __future__ import annotations

import gc
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ldmkit.check import say, short

if TYPE_CHECKING:
    import torch

__all__ = [
    "RELEASED",
    "Released",
    "akin",
    "at_work",
    "check_open",
    "choose_device",
    "choose_dtype",
    "empty_cache",
    "fits",
    "in_use",
    "is_pipeline",
    "own",
    "place",
    "release",
    "works_on",
]

_owned: weakref.WeakSet[Any] = weakref.WeakSet()  # what load made, for release()
_akin: weakref.WeakSet[Any] = weakref.WeakSet()  # pipelines with twins that share their networks
_HEADROOM = 1.3  # activations of one picture beside the weights


def choose_device(device: Any = None) -> torch.device:
    """The device asked for, or the best there is: CUDA, then MPS, then the CPU.

    Raises:
        TypeError: not a device's name or number.
        ValueError: no such device on this machine.
    """
    import torch

    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    known = isinstance(device, (str, int, torch.device)) and not isinstance(device, bool)
    try:
        chosen = torch.device(device) if known else None
    except (RuntimeError, OverflowError, ValueError):
        chosen = None
    if chosen is None:
        raise (ValueError if known else TypeError)(
            f'device must be a name that torch knows, got {short(device)}; try "cpu" or "cuda".'
        )
    found = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (chosen.index or 0) >= {**found, "meta": 0}.get(chosen.type, math.inf):
        raise ValueError(
            f'device must be on this machine, got {short(device)} and torch finds none; use "cpu".'
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
            f'dtype must be "float32", "float16" or "bfloat16", got {short(dtype)}; '
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


def akin(*pipes: Any) -> None:
    """Notes pipelines that share networks, so that all of them say when those were released."""
    with suppress(TypeError):  # can't be referred to weakly: a stranger, which says nothing
        _akin.update(pipes)


class Released:
    """What a pipeline becomes: whatever is asked of it, it says what happened."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raises ``RuntimeError``."""
        raise RuntimeError(RELEASED)

    def __getattr__(self, name: str) -> Any:
        # Not AttributeError, which hasattr and getattr(..., None) would turn into "no pipeline".
        # What notebooks and inspectors poke at begins with _ and is merely not there.
        raise AttributeError(name) if name.startswith("_") else RuntimeError(RELEASED)

    def __setattr__(self, name: str, value: Any) -> None:
        """Raises ``RuntimeError``: a scheduler given to it would be lost."""
        raise RuntimeError(RELEASED)


def check_open(pipe: Any) -> None:
    """Refuses a pipeline that was released.

    Raises:
        RuntimeError: it was.
    """
    if isinstance(pipe, Released):
        raise RuntimeError(RELEASED)


RELEASED = "This pipeline was released and has no weights any more; load it again with ldmkit.load."


_uses: list[tuple[Any, Callable[[], None], threading.Event, threading.Thread]] = []
_gone: weakref.WeakSet[Any] = weakref.WeakSet()  # networks that were released, or are just being
_uses_lock = threading.Lock()


def being_released(pipe: Any) -> bool:
    """Whether a pipeline was released, or is just being."""
    return isinstance(pipe, Released) or any(part in _gone for part in _networks(pipe))


@contextmanager
def in_use(pipe: Any, stop: Callable[[], None]) -> Iterator[None]:
    """Notes while the block runs that this thread works with a pipeline.

    ``release`` asks it to end by ``stop()``, and waits until the block is left.

    Args:
        pipe: the pipeline; siblings that share its networks are meant, too.
        stop: asks the work to end after its present step.

    Raises:
        RuntimeError: the pipeline was released, or is just being.
    """
    use = (pipe, stop, threading.Event(), threading.current_thread())
    with _uses_lock:
        networks = set(_networks(pipe))
        if any(use[3] is one[3] and networks & set(_networks(one[0])) for one in _uses):
            nested = True  # a panel's run, of which this is a part: that one is asked to stop
        elif being_released(pipe):
            raise RuntimeError(RELEASED)
        else:
            nested = False
            _uses.append(use)
    if nested:
        yield
        return
    try:
        yield
    finally:
        with _uses_lock:
            _uses.remove(use)
        use[2].set()


@contextmanager
def _unused(pipes: list[Any]) -> Iterator[None]:
    """Stops whoever works with the pipelines' networks, waits for them, and keeps others out."""
    networks = {network for pipe in pipes for network in _networks(pipe)}
    with _uses_lock:
        mine = [use for use in _uses if networks.intersection(_networks(use[0]))]
        if any(thread is threading.current_thread() for *_, thread in mine):
            raise RuntimeError(
                "A pipeline can't be released by its own run (a callback of it); release it when "
                "the run has ended."
            )
        _gone.update(networks)
    try:
        for _, stop, over, _ in mine:
            stop()
            over.wait()
        if mine:
            say(
                f"release stopped {len(mine)} run{'s' if len(mine) > 1 else ''} of this pipeline "
                "first; what was made so far is kept.",
                stacklevel=4,
            )
        yield
    except BaseException:  # interrupted while it waited: nothing was released
        _gone.difference_update(networks)
        raise


def release(pipe: Any = None) -> None:
    """Frees a pipeline's memory; it is unusable afterwards, and so are siblings sharing its parts.

    A run that is on its way with it (a panel's, a sweep's, a record's in another thread) is
    stopped first, and keeps its part.

    Args:
        pipe: a pipeline, or ``None`` for all that ``load`` made.

    Raises:
        TypeError: not a pipeline.
        RuntimeError: called by the pipeline's own run.
    """
    if isinstance(pipe, Released):
        return
    if pipe is not None and not is_pipeline(pipe):
        raise TypeError(
            f"release takes a pipeline that load gave, got {short(pipe)}; "
            "release() without anything frees all of them."
        )
    pipes = list(_owned) if pipe is None else [pipe]
    with _unused(pipes):
        for one in pipes:
            _empty(one)
    gc.collect()
    empty_cache()


def is_pipeline(thing: Any) -> bool:
    """Whether this is an open pipeline: its parts are named, and it can be called.

    Raises:
        RuntimeError: it was one and is released.
    """
    return callable(thing) and not isinstance(thing, type) and hasattr(thing, "components")


def empty_cache() -> None:
    """Gives back what torch holds of a GPU's memory and no tensor uses."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _empty(pipe: Any) -> None:
    if isinstance(pipe, Released):
        return
    networks = _networks(pipe)
    gone = {id(network) for network in networks}
    others = [one for one in list(_akin) if gone.intersection(map(id, _networks(one)))]
    for part in networks:
        part.to("meta")  # whoever still holds the network holds no memory
    for one in (pipe, *others):
        kind = type(one)
        if not isinstance(one, Released):
            vars(one).clear()
            one.__class__ = type(f"Released{kind.__name__}", (Released,), {})
        _owned.discard(one)
        _akin.discard(one)


def _networks(pipe: Any) -> list[Any]:
    import torch

    parts = None
    if not isinstance(pipe, Released):
        with suppress(ValueError):  # diffusers' words on a pipeline that was changed by hand
            parts = getattr(pipe, "components", None)
    found = parts.values() if isinstance(parts, Mapping) else ()
    return [part for part in found if isinstance(part, torch.nn.Module)]
