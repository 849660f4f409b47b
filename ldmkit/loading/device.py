"""Which device and precision a pipeline works in, and how its memory comes back."""

from __future__ import annotations

import functools
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
    "ReleasedError",
    "akin",
    "at_work",
    "check_open",
    "choose_device",
    "choose_dtype",
    "empty_cache",
    "found_device",
    "group_device",
    "in_use",
    "is_pipeline",
    "networks_of",
    "own",
    "release",
    "works_on",
]

_owned: weakref.WeakSet[Any] = weakref.WeakSet()  # what load made, for release()
_akin: weakref.WeakSet[Any] = weakref.WeakSet()  # pipelines with twins that share their networks


# --- which device ------------------------------------------------------------------------------


def found_device() -> tuple[str, str]:
    """The best device that torch can work on here, and why it is this one.

    CUDA (or AMD's ROCm, which torch calls so, too), then Apple's MPS, then the CPU.
    """
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        trouble = _trouble("cuda")
        if not trouble:
            return "cuda", f"{name}, the first of {_counted(torch.cuda.device_count(), 'GPU')}"
        without = f"{name} is here, but a first computation on it failed: {trouble}"
    elif torch.version.cuda or torch.version.hip:
        without = "torch finds no GPU that its build for CUDA or ROCm can use"
    else:
        without = "this torch is a build without CUDA"
    if torch.backends.mps.is_available():
        trouble = _trouble("mps")
        if not trouble:
            return "mps", f"Apple's GPU; {without}"
        return "cpu", f"{without}; Apple's GPU failed a first computation: {trouble}"
    return "cpu", f"{without}, and there is no Apple GPU"


def _trouble(device: str) -> str:
    """What a first computation on a device fails with; empty where it works."""
    import torch

    try:
        torch.ones(1, device=device).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # a card too old, taken...
        return " ".join(str(error).split())[:120] or type(error).__name__
    return ""


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def choose_device(device: Any = None) -> torch.device:
    """The device asked for, or the best there is: CUDA, then MPS, then the CPU.

    Raises:
        TypeError: not a device's name or number.
        ValueError: no such device on this machine.
    """
    import torch

    if device is None:
        return torch.device(found_device()[0])
    known = isinstance(device, (str, int, torch.device)) and not isinstance(device, bool)
    try:
        chosen = torch.device(device) if known else None
    except (RuntimeError, OverflowError, ValueError):
        chosen = None
    if chosen is None:
        raise (ValueError if known else TypeError)(
            f'device must be a name that torch knows, got {short(device)}; try "cpu" or "cuda".'
        )
    if (chosen.index or 0) >= _count(chosen.type):
        raise ValueError(
            f'device must be on this machine, got {short(device)} and torch finds none; use "cpu".'
        )
    return chosen


def _count(kind: str) -> float:
    """How many devices of a kind torch can work on here."""
    import torch

    if kind in ("cpu", "mps"):
        return math.inf if kind == "cpu" else int(torch.backends.mps.is_available())
    backend: Any = getattr(torch, kind, None)  # torch.cuda, torch.xpu, ... ; "meta" has none
    if not callable(getattr(backend, "is_available", None)) or not backend.is_available():
        return 0
    return int(backend.device_count())


def choose_dtype(
    dtype: Any, device: torch.device, *, embedded: bool, made_in: str = "float16"
) -> torch.dtype:
    """The precision asked for; else float32, and that of large models off the CPU.

    float16 rather than bfloat16 where the model bears it, because a T4 has only the former.

    Args:
        dtype: a name, torch's own, or ``None``.
        device: where the model will work.
        embedded: a small model, in float32 everywhere.
        made_in: what a large model works in off the CPU.

    Raises:
        ValueError: not a floating-point type of torch.
    """
    import torch

    if dtype is None:
        if embedded or device.type == "cpu":
            return torch.float32
        if made_in == "bfloat16" and not _has_bfloat16(device):
            say(
                "This model overflows in float16 and this GPU has no bfloat16 of its own, so torch "
                'imitates it, slowly; take dtype="float16" to try, or a newer GPU.'
            )
        return getattr(torch, made_in)
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise ValueError(
            f'dtype must be "float32", "float16" or "bfloat16", got {short(dtype)}; '
            'leave it out or say "float32".'
        )
    return chosen


def _has_bfloat16(device: torch.device) -> bool:
    import torch

    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


# --- what comes and goes -----------------------------------------------------------------------


def group_device(part: Any) -> torch.device | None:
    """The device that diffusers' group offloading brings a network's layers to, if it does."""
    modules = part.modules() if callable(getattr(part, "modules", None)) else ()
    for module in modules:
        for hook in getattr(getattr(module, "_diffusers_hook", None), "hooks", {}).values():
            device: torch.device | None = getattr(
                getattr(hook, "config", None), "onload_device", None
            )
            if device is not None:
                return device
    return None


def works_on(part: Any) -> torch.device:
    """Where a network computes: where it is, or where accelerate brings it for each call."""
    import torch

    device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
    device = group_device(part) if device is None else device
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


class ReleasedError(RuntimeError):
    """A pipeline was asked for something and has no weights any more."""


class Released:
    """What a pipeline becomes: whatever is asked of it, it says what happened."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raises ``RuntimeError``."""
        raise ReleasedError(RELEASED)

    def __getattr__(self, name: str) -> Any:
        # Not AttributeError, which hasattr and getattr(..., None) would turn into "no pipeline".
        # What notebooks and inspectors poke at begins with _ and is merely not there; a run that
        # is on its way asks for such names, too.
        raise AttributeError(RELEASED) if name.startswith("_") else ReleasedError(RELEASED)

    def __setattr__(self, name: str, value: Any) -> None:
        """Raises ``RuntimeError``: a scheduler given to it would be lost."""
        raise ReleasedError(RELEASED)


def check_open(pipe: Any) -> None:
    """Refuses a pipeline that was released.

    Raises:
        RuntimeError: it was.
    """
    if isinstance(pipe, Released):
        raise ReleasedError(RELEASED)


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
            raise ReleasedError(RELEASED)
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


def _let_go(part: Any) -> None:
    """Leaves a network without memory, whoever still holds it.

    A run that nobody recorded, in another thread, is told of it by the next weight that it needs.
    """
    import torch

    gone_kind = _gone_kind()
    if hasattr(part, "_hf_hook"):
        from accelerate.hooks import remove_hook_from_module

        remove_hook_from_module(part, recurse=True)  # they keep weights of layers that aren't here
    for module in part.modules():
        if vars(module).pop("_diffusers_hook", None) is not None:  # so do those of its groups
            vars(module).pop("forward", None)
        for kept in (module._parameters, module._buffers):
            for name, tensor in kept.items():
                if tensor is not None:
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
                    gone = torch.Tensor._make_subclass(gone_kind, empty, False)
                    gone._is_param = kept is module._parameters  # what torch knows a Parameter by
                    kept[name] = gone


@functools.cache
def _gone_kind() -> Any:
    import torch

    class Gone(torch.Tensor):
        """A weight whose memory was given back: it has a shape, and says so to who needs more."""

        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func.__name__ == "__get__":  # shape, dtype, device, is_meta
                kind: Any = super()
                return kind.__torch_function__(func, types, args, kwargs or {})
            raise ReleasedError(RELEASED)

        def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
            return f"Gone(shape={tuple(self.shape)})"

    return Gone


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
        _let_go(part)
    for one in (pipe, *others):
        kind = type(one)
        if not isinstance(one, Released):
            vars(one).clear()
            one.__class__ = type(f"Released{kind.__name__}", (Released,), {})
        _owned.discard(one)
        _akin.discard(one)


def _networks(pipe: Any) -> list[Any]:
    return list(networks_of(pipe).values())


def networks_of(pipe: Any) -> dict[str, Any]:
    """A pipeline's networks by the names of its parts."""
    import torch

    parts = None
    if not isinstance(pipe, Released):
        with suppress(ValueError):  # diffusers' words on a pipeline that was changed by hand
            parts = getattr(pipe, "components", None)
    found = parts.items() if isinstance(parts, Mapping) else ()
    return {name: part for name, part in found if isinstance(part, torch.nn.Module)}
