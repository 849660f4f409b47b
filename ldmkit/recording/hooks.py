"""Where the recorder stands: round ``scheduler.step`` and behind the network.

The scheduler's ``step`` is wrapped on the *instance* and the network gets a forward hook; both are
taken away again whatever happens. Nothing that passes is changed, so that a recorded picture is
the bare picture to the bit. Tensors are copied where they are and leave the device once, at
the end of the run: no step waits for the recorder.

Schedulers and pipelines carry state from step to step. While one is recorded, only the recording
thread may use it: a record waits for a run that is under way, and later runs of other threads wait
for the record.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from ldmkit.check import say, short
from ldmkit.loading.families import step_of
from ldmkit.recording.noise_law import place_of

__all__ = [
    "Call",
    "Stop",
    "Tape",
    "Wrapped",
    "call_at_work",
    "exclusive",
    "guarded",
    "hooked",
    "is_mine",
    "pipeline_at_work",
    "runs_elsewhere",
    "telling",
]


class Stop(BaseException):
    """Raised from a wrapped step to leave a loop; never reaches the caller.

    Not an ``Exception``: pipelines that report those would report this.
    """


class Located(Protocol):
    """Where a step stands: a ``Place`` of a scheduler, or what a loop told itself."""

    @property
    def timestep(self) -> Any:
        """What the network was told."""

    def level(self) -> tuple[float, float]:
        """(alpha, sigma) of what enters the step."""

    def scalings(self) -> tuple[float, float]:
        """(skip, scale): the prediction is skip · latents + scale · model output."""


@dataclass
class Call:
    """One call of ``scheduler.step``, tensors as they passed."""

    place: Located
    latents: torch.Tensor  # (b, c, h, w), or as the family packs
    model_output: torch.Tensor  # guided, as the scheduler got it
    network: list[torch.Tensor]  # what the network gave for this step, before guidance
    output: Any  # a tensor, or None where a student's step gave none


@dataclass
class Tape:
    """What the hooks write on.

    Attributes:
        calls: the steps.
        network: what the network gave waits here for the step that follows it.
        owner: the scheduler whose steps these are, or the copy of it that a pipeline made.
        aside: steps of other copies of the scheduler.
        runs: how many steps there were when ``set_timesteps`` was called, each time.
    """

    calls: list[Call] = field(default_factory=list)
    network: list[torch.Tensor] = field(default_factory=list)
    owner: Any = None
    aside: int = 0
    runs: list[int] = field(default_factory=list)

    def say_how_many_runs(self, kept: int) -> None:
        """Says it where the steps that are kept, the last ones, are of several runs."""
        first, end = len(self.calls) - kept, len(self.calls)
        if again := {begun for begun in self.runs if first < begun < end}:
            say(
                f"{len(again) + 1} runs passed one after the other: the record holds the steps of "
                "all and the picture of the last; give each run a recorder of its own."
            )


# --- what passes -------------------------------------------------------------------------------


@contextmanager
def hooked(
    scheduler: Any,
    networks: Iterable[torch.nn.Module],
    tape: Tape,
    after: Callable[[Call], None] | None = None,
) -> Iterator[Tape]:
    """Records each step on the tape while the block runs.

    Args:
        scheduler: the scheduler instance to wrap.
        networks: those whose unguided output is wanted.
        tape: written to.
        after: called after each step; may raise ``Stop``.

    Raises:
        TypeError: the scheduler allows no attributes of its own.
    """
    if not hasattr(scheduler, "__dict__"):
        raise TypeError(
            f"{type(scheduler).__name__} has __slots__ and no __dict__, so its steps can't be "
            "heard; add one, or tell the steps yourself: ldmkit.recorder() and tape.step(...)."
        )
    networks, here = tuple(networks), threading.get_ident()
    step = step_of(scheduler)
    methods = {
        step: functools.partial(
            _record_step, scheduler, _names_of(getattr(scheduler, step)), tape, here, after
        ),
        "scale_model_input": functools.partial(_refuse_others, scheduler, here),
        "set_timesteps": functools.partial(_make_others_wait, scheduler, here, tape),
    }
    with ExitStack() as stack:
        for name, around in methods.items():
            if callable(getattr(scheduler, name, None)):
                wrapped = Wrapped(scheduler, name, getattr(scheduler, name), around)
                stack.callback(wrapped.take_away, vars(scheduler).get(name))
                setattr(scheduler, name, wrapped)
        _let_others_out(scheduler, methods)
        for network in networks:
            keep = functools.partial(_keep_output, tape, here)
            stack.callback(network.register_forward_hook(keep).remove)
        yield tape


class Wrapped:
    """Stands on an instance in the place of one of its methods.

    A pipeline that copies its scheduler in mid-run would copy this, too, and step the original:
    a copy's method is that of the copy.
    """

    def __init__(self, owner: Any, name: str, method: Any, around: Callable[..., Any]) -> None:
        # Pipelines read the signature of `step` for eta and generator and silently drop what a
        # wrapper hides.
        functools.update_wrapper(self, method)
        self._owner, self._name, self._method, self._around = owner, name, method, around
        self._copies: list[weakref.ref[Any]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The method, with what stands round it."""
        return self._around(self._owner, self._method, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        owner = memo.get(id(self._owner))
        if owner is None:  # the state alone is copied, to be put back on the original
            return self
        method = self._method
        if isinstance(method, types.MethodType):
            method = types.MethodType(method.__func__, owner)
        self._copies.append(weakref.ref(owner))
        return Wrapped(owner, self._name, method, self._around)

    def take_away(self, earlier: Any | None) -> None:
        """Gives the owner its method back (``earlier``: one of its own instance), and copies."""
        _restore(self._owner, self._name, earlier)
        for copied in (ref() for ref in self._copies):
            if isinstance(vars(copied or self).get(self._name), Wrapped):
                _restore(copied, self._name, None)


def _restore(owner: Any, name: str, earlier: Any | None) -> None:
    if earlier is None:
        vars(owner).pop(name, None)
    else:
        setattr(owner, name, earlier)


def _record_step(
    scheduler: Any,
    names: tuple[str, ...],
    tape: Tape,
    here: int,
    after: Callable[[Call], None] | None,
    owner: Any,
    step: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    _refuse_others(scheduler, here, owner, lambda: None, (), {})
    if threading.get_ident() != here or not _follows(tape, scheduler, owner):
        return step(*args, **kwargs)
    model_output, timestep, sample = _arguments(scheduler, names, args, kwargs)
    latents, guided = _copy(sample), _copy(model_output)
    if latents is None:
        raise TypeError(
            f"{type(scheduler).__name__}.step must get the latents as a tensor or an array of "
            f"numbers to be recorded, got {short(sample)}."
        )
    place = place_of(owner, timestep)
    result = step(*args, **kwargs)
    call = Call(place(), latents, guided, tape.network, _copy(_first(result)))
    tape.network = []
    if tape.calls:
        tape.calls[-1].output = None  # only the last output is an array of its own
    tape.calls.append(call)
    if after is not None:
        after(call)
        tape.network = []  # on_step may ask the network, too
    return result


def _follows(tape: Tape, scheduler: Any, owner: Any) -> bool:
    """Whether this step is recorded: the scheduler's own are, or those of its first copy.

    Some pipelines make copies to run beside the scheduler, others run copies alone.
    """
    if owner is scheduler and tape.owner is not scheduler:
        tape.aside += len(tape.calls)
        tape.calls.clear()
        tape.owner = owner
    elif tape.owner is None:
        tape.owner = owner
    tape.aside += owner is not tape.owner
    return owner is tape.owner


def _names_of(step: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a step's arguments, as they stand."""
    try:
        return tuple(inspect.signature(step).parameters)
    except ValueError:  # one that Python can't read, such as a built-in
        return ()


# The scheduler of EDM's first form tells its noise level itself and has names of its own.
_OF_KARRAS = ("model_output", "sigma_hat", "sample_hat")


def _arguments(
    scheduler: Any, names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    """(model output, timestep, sample) by name; in this order where a student named them."""
    given = dict(zip(names, args, strict=False)) | kwargs
    for wanted in (("model_output", "timestep", "sample"), _OF_KARRAS):
        if given.keys() >= set(wanted):
            return tuple(given[name] for name in wanted)
    own = sorted(kwargs, key=lambda name: names.index(name) if name in names else len(names))
    found = (*args, *(kwargs[name] for name in own))[:3]
    if len(found) < 3:
        raise TypeError(
            f"{type(scheduler).__name__}.step must get (model_output, timestep, sample) to be "
            f"recorded, got {len(found)} of them; or tell the steps yourself: ldmkit.recorder() "
            "and tape.step(...)."
        )
    return found


def _first(result: Any) -> Any:
    """What leaves a step: the scheduler's output, the first of a tuple, or a tensor alone."""
    if isinstance(result, (torch.Tensor, np.ndarray)):
        return result
    if isinstance(result, Mapping):
        return result.get("prev_sample")
    return getattr(result, "prev_sample", result[0] if isinstance(result, tuple) else None)


def _copy(tensor: Any) -> Any:
    """A tensor as it is now: pipelines may go on writing into theirs."""
    if isinstance(tensor, np.ndarray) and tensor.dtype.kind in "fiu":  # a loop in numpy
        tensor = torch.tensor(tensor.astype(np.float32))
    if not isinstance(tensor, torch.Tensor):
        return None
    return tensor.detach().clone()


def _keep_output(tape: Tape, here: int, module: torch.nn.Module, args: Any, output: Any) -> None:
    if threading.get_ident() != here:
        return
    items = tuple(output.values()) if isinstance(output, Mapping) else output
    first = items[0] if isinstance(items, tuple) and items else items
    found = getattr(output, "sample", first)
    if isinstance(found, list) and all(isinstance(part, torch.Tensor) for part in found):
        found = torch.stack(found) if len({part.shape for part in found}) == 1 else None
    if isinstance(found, torch.Tensor):
        tape.network.append(found.detach().clone())


# --- whose turn it is --------------------------------------------------------------------------

_locks: dict[int, threading.Lock] = {}  # by identity: a student's scheduler may have no hash
_locks_guard = threading.Lock()
_busy = threading.local()


def _lock_of(part: Any) -> threading.Lock:
    if id(part) not in _locks:
        try:
            weakref.finalize(part, _locks.pop, id(part), None)
        except TypeError:  # allows no such thing: nobody else can be told of it
            return threading.Lock()
        _locks[id(part)] = threading.Lock()
    return _locks[id(part)]


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
        locks = [_lock_of(held[key]) for key in sorted(held)]
    with ExitStack() as stack:
        for lock in locks:  # one order everywhere: no two recorders wait on each other
            stack.enter_context(lock)
        mine.update(held)
        try:
            yield
        finally:
            mine.difference_update(held)


def is_mine(part: Any) -> bool:
    """Whether this thread holds a part's lock already, as inside ``on_step``."""
    return id(part) in _busy.__dict__.get("parts", ())


def runs_elsewhere(codes: Container[Any]) -> bool:
    """Whether another thread is within one of these pieces of code."""
    here = threading.get_ident()
    others = [frame for thread, frame in sys._current_frames().items() if thread != here]
    while others:
        if any(frame.f_code in codes for frame in others):
            return True
        others = [frame.f_back for frame in others if frame.f_back is not None]
    return False


@contextmanager
def telling() -> Iterator[None]:
    """While the block runs, a reader's ``on_step`` has the word: it may not run the pipeline.

    It may run, and record, another.
    """
    before: frozenset[int] = getattr(_busy, "told", frozenset())
    _busy.told = frozenset(_busy.__dict__.get("parts", ()))
    try:
        yield
    finally:
        _busy.told = before


def _refuse_while_told(*parts: Any) -> None:
    if not getattr(_busy, "told", frozenset()).isdisjoint(map(id, parts)):
        raise RuntimeError(
            "This pipeline is already being recorded by the same thread (on_step must not run it "
            "again); wait until record returns."
        )


_UNDER_WAY = (
    "This {} is being recorded in another thread, which began while this run was under way; run it "
    "again when the record is done, or give each thread a scheduler of its own."
)
_PATIENCE = 5.0  # seconds; a step takes milliseconds
_RECORDED = "_recorded_by_ldmkit"  # on the class that a pipeline has while it is recorded
# What a pipeline notes of a call on itself; others, such as _interrupt, are set from outside.
_OF_A_CALL = ("_guidance_scale", "_guidance_rescale", "_clip_skip", "_cross_attention_kwargs")


def _make_others_wait(
    scheduler: Any,
    here: int,
    tape: Tape,
    owner: Any,
    method: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """A run begins with ``set_timesteps``: one of another thread waits here for the record.

    Not so a run of the recorded pipeline itself that was reading its words when the record began:
    guidance and steps that it noted on the pipeline are the record's by now.
    """
    if owner is scheduler:
        _refuse_while_told(scheduler)
        if threading.get_ident() != here:
            if hasattr(type(pipeline_at_work(scheduler)), _RECORDED):
                raise RuntimeError(_UNDER_WAY.format(type(scheduler).__name__))
            with exclusive(scheduler):  # or the next record would begin in the midst of it
                return method(*args, **kwargs)
        tape.runs.append(len(tape.calls))
    return method(*args, **kwargs)


def _let_others_out(scheduler: Any, methods: Iterable[str]) -> None:
    """Waits for threads that were within a method of the scheduler when its guards came to stand.

    Which thread is where is read from the code that runs, never from its names; another scheduler
    of the same class is waited for, too, for a few milliseconds.
    """
    found = [getattr(type(scheduler), name, None) for name in methods]
    codes = {getattr(inspect.unwrap(one), "__code__", None) for one in found if one is not None}
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and runs_elsewhere(codes):
        time.sleep(0.001)


def _refuse_others(
    scheduler: Any,
    here: int,
    owner: Any,
    method: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """A run of another thread that was under way when the record began can't go on."""
    if owner is scheduler and threading.get_ident() != here:
        raise RuntimeError(_UNDER_WAY.format(type(scheduler).__name__))
    return method(*args, **kwargs)


def pipeline_at_work(scheduler: Any) -> Any | None:
    """The pipeline with this scheduler that this thread is within; ``None`` in a loop of a cell."""
    return call_at_work(scheduler).get("self")


def call_at_work(scheduler: Any) -> Mapping[str, Any]:
    """The names of that pipeline's running call, ``self`` among them; nothing in a cell's loop.

    Of this thread alone: to read what stands on another's stack while it runs may end the process.
    """
    frame = sys._getframe(1)
    while frame and not _runs(frame, scheduler):
        frame = frame.f_back  # type: ignore[assignment]
    return frame.f_locals if frame else {}


def _runs(frame: types.FrameType, scheduler: Any) -> bool:
    if frame.f_code.co_name != "__call__":
        return False
    one = frame.f_locals.get("self")
    parts = {} if isinstance(one, Wrapped) else getattr(one, "__dict__", {})
    return any(part is scheduler for part in list(parts.values()))


@contextmanager
def guarded(pipe: Any, *parts: Any) -> Iterator[None]:
    """While the block runs, a bare call of the pipeline from another thread waits for its end.

    A pipeline notes guidance and steps on itself before it touches its scheduler, so that the
    scheduler's guard comes too late for the very same pipeline. ``pipe(...)`` is looked up on the
    class: for a while the instance has a class of its own.

    Args:
        pipe: the pipeline that is being recorded by this thread.
        parts: what the recording thread holds by ``exclusive``.
    """
    kind, here = type(pipe), threading.get_ident()

    @functools.wraps(kind.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not pipe:  # made of it meanwhile: it has its own turn with the scheduler
            return kind.__call__(self, *args, **kwargs)
        if threading.get_ident() != here:
            with exclusive(*parts):
                return type(self).__call__(self, *args, **kwargs)
        _refuse_while_told(*parts)
        return kind.__call__(self, *args, **kwargs)

    def reduced(self: Any, protocol: Any) -> Any:
        """A copy that is made meanwhile is one of the pipeline's own class."""
        function, args, *rest = super(stand_in, self).__reduce_ex__(protocol)
        return (function, tuple(kind if one is stand_in else one for one in args), *rest)

    def noted(self: Any, name: str, value: Any) -> None:
        """A call that another thread began just before the record notes nothing any more."""
        if name in _OF_A_CALL and self is pipe and threading.get_ident() != here:
            raise RuntimeError(_UNDER_WAY.format(kind.__name__))
        super(stand_in, self).__setattr__(name, value)

    methods = {"__call__": call, "__reduce_ex__": reduced, "__setattr__": noted, _RECORDED: True}
    names = {**methods, "__module__": kind.__module__, "__slots__": ()}
    stand_in: Any = type(kind.__name__, (kind,), names)
    try:
        pipe.__class__ = stand_in
    except TypeError:  # a pipeline of a student's that allows no such thing stays as it is
        yield
        return
    try:
        yield
    finally:
        if type(pipe) is stand_in:  # and was not released meanwhile
            pipe.__class__ = kind
