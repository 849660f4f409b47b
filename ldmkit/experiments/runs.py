"""Many runs of pipelines into one ``Grid``: in this thread, or in any executor."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from ldmkit.check import say, says_no
from ldmkit.experiments.score import Scorer
from ldmkit.loading import load
from ldmkit.loading.device import Released, ReleasedError, being_released
from ldmkit.loading.samplers import with_sampler
from ldmkit.loading.siblings import twin_of
from ldmkit.recording import record
from ldmkit.recording.intervene import intervene
from ldmkit.records.grid import Grid, Label
from ldmkit.records.noise_law import at_unit_variance

__all__ = ["Job", "Progress", "Stopped", "gather", "lend", "plain"]

_MEASURED = ("score", "seconds", "calls", "first_timestep", "first_alpha")


@dataclass(frozen=True)
class Job:
    """One call of a pipeline: pictures side by side with the same settings.

    Attributes:
        pipe: a pipeline, or a name for ``load``, so that another process can open it itself.
        sampler: another scheduler than the pipeline's own, or ``None``.
        prompts: one per picture; ``None`` for a pipeline that takes no words.
        seeds: one per picture; ``None`` where the call says where noise comes from.
        call: the pipeline's keywords.
        positions: where in the grid the pictures belong.
        swap: other words and the step from which on they are read, or ``None``.
    """

    pipe: Any
    sampler: Any
    prompts: tuple[str, ...] | None
    seeds: tuple[int, ...] | None
    call: Mapping[str, Any]
    positions: tuple[int, ...]
    swap: tuple[str, int] | None = None


@dataclass(frozen=True)
class Made:
    """What a job brings home; small enough to travel between processes."""

    images: tuple[Image.Image, ...]
    seconds: float  # per picture
    calls: int
    first_timestep: float
    first_alpha: float
    call: Mapping[str, Any]
    model: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Progress:
    """A picture that has just been made.

    Attributes:
        index: its position in the grid's ``images``.
        done: how many are made, this one among them.
        total: how many there will be.
        point: its label on each axis.
        image: the picture.
        score: its score, or ``None``.
        seconds: how long it took.
    """

    index: int
    done: int
    total: int
    point: Mapping[str, Label]
    image: Image.Image
    score: float | None
    seconds: float


OnUpdate = Callable[[Progress], bool | None]


class Stopped(Exception):
    """``on_update`` returned ``False``, or the pipeline is being released."""


def gather(
    jobs: Sequence[Job],
    blank: Grid,
    *,
    scorer: Scorer | None = None,
    executor: Executor | None = None,
    on_update: OnUpdate | None = None,
) -> Grid:
    """Runs the jobs and fills a grid that has its axes, prompts and seeds already.

    ``on_update`` is called in this thread after each picture; ``False`` stops and keeps what is
    made. Without an executor the jobs run in their order. What a worker's death takes with it is
    left out and said.
    """
    table = _Table(blank, sum(len(job.positions) for job in jobs), scorer, on_update)
    lost: list[BaseException] = []
    try:
        here = ((job, run(job)) for job in jobs)
        for job, made in here if executor is None else _as_they_come(jobs, executor, lost):
            table.add(job, made)
    except Stopped:
        pass
    except ReleasedError:  # between two pictures, or while the last one was decoded
        if not table.made:
            raise
        say(f"The pipeline was released: {table.made} of {len(blank)} pictures are made and kept.")
    if lost:
        _say_what_is_lost(table.made, len(blank), lost[0])
    return table.grid()


def _say_what_is_lost(made: int, total: int, death: BaseException) -> None:
    reason = f"({type(death).__name__})"
    if not made:
        raise RuntimeError(
            f"Every worker of the executor died {reason} before a picture was made; does each "
            "have the memory for the model, and is ldmkit installed there?"
        ) from death
    say(
        f"A worker of the executor died {reason}: {made} of {total} pictures were made and are "
        "kept, images holds None for the others; run those again."
    )


def _as_they_come(
    jobs: Sequence[Job], executor: Executor, lost: list[BaseException]
) -> Iterator[tuple[Job, Made]]:
    futures: dict[Future[Made], Job] = {}
    try:
        try:
            for job in jobs:
                futures[executor.submit(run, job)] = job
        except Exception as error:  # the pool broke while it was being filled
            if not _is_death(error):
                raise
            lost.append(error)
        for future in as_completed(futures):
            failure = future.exception()
            if failure is None:
                yield futures[future], future.result()
            elif _is_death(failure):  # other workers may live: their pictures come
                lost.append(failure)
            else:
                raise failure
    finally:  # an error or a stop: what has not begun never will
        for future in futures:
            future.cancel()


# What executors raise for a worker that is gone: concurrent.futures and loky, ipyparallel, Dask.
_DEATHS = {"BrokenExecutor", "EngineError", "KilledWorker", "CommClosedError"}


def _is_death(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    names.add(getattr(error, "ename", ""))  # ipyparallel's RemoteError tells what it stands for
    return bool(names & _DEATHS)


_turn = threading.Lock()  # runs in one process share its networks and cores: time them one by one


def run(job: Job) -> Made:
    """Runs one job; a function of the module, so that executors can send it."""
    pipe = twin_of(_opened(job.pipe))  # on schedulers of its own, whatever runs beside it
    if job.sampler is not None:
        pipe = with_sampler(pipe, job.sampler)
    words, seeds, call = _told(job)
    with _turn, nullcontext() if job.swap is None else _swapped(pipe, *job.swap):
        start = time.perf_counter()
        traj = record(pipe, words, seed=seeds, keep=(), preview="none", **call)
        seconds = time.perf_counter() - start
    if traj.stopped and being_released(pipe):
        raise Stopped  # release said so
    count = len(job.positions)
    if not traj.images:
        raise RuntimeError(
            "A run made no picture: its memory ran out, or output_type asks for none; take smaller "
            "pictures, or leave output_type out."
        )
    if len(traj.images) != count:
        raise RuntimeError(
            f"The pipeline made {len(traj.images)} pictures where {count} were asked for; leave "
            "out num_images_per_prompt and output_type (a seed axis gives more pictures)."
        )
    # At unit variance, since Euler's latents grow to sigma. Without a step there is no first place.
    places = traj.timesteps, at_unit_variance(traj.alphas, traj.alphas, traj.sigmas)
    first = [float(array[0]) if len(array) else math.nan for array in places]
    return Made(
        images=traj.images,
        seconds=seconds / count,
        calls=len(traj.timesteps),
        first_timestep=first[0],
        first_alpha=first[1],
        call=traj.call,
        model=traj.model,
        versions=traj.versions,
    )


def _swapped(pipe: Any, words: str, step: int) -> Any:
    return intervene(pipe, words, amount=lambda at: float(at >= step))


def _told(job: Job) -> tuple[Any, Any, dict[str, Any]]:
    """Prompt, seed and keywords: plain for one picture, lists for several."""
    call, count = dict(job.call), len(job.positions)
    if count == 1:
        return job.prompts and job.prompts[0], None if job.seeds is None else job.seeds[0], call
    if isinstance(call.get("negative_prompt"), str):  # a pipeline wants both of one kind
        call["negative_prompt"] = [call["negative_prompt"]] * count
    return job.prompts and list(job.prompts), job.seeds, call


_lent: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_kept: dict[str, Any] = {}  # what a worker process opened: once, whatever number of jobs it gets
_opening = threading.Lock()


def lend(name: str, pipe: Any) -> None:
    """Lets jobs of this process find a model under its name as long as somebody holds it."""
    _lent[name] = pipe


def _opened(pipe: Any) -> Any:
    if not isinstance(pipe, str):
        return pipe
    with _opening:
        lent = _lent.get(pipe)
        if lent is not None:
            return lent
        if pipe not in _kept or isinstance(_kept[pipe], Released):
            _kept.clear()
            _kept[pipe] = load(pipe)
        return _kept[pipe]


class _Table:
    """The grid while it is being filled."""

    def __init__(
        self, blank: Grid, total: int, scorer: Scorer | None, on_update: OnUpdate | None
    ) -> None:
        self._blank, self._total = blank, total
        self._scorer, self._on_update = scorer, on_update
        self._images: list[Image.Image | None] = [None] * len(blank)
        self._values = {name: np.full(len(blank), np.nan) for name in _MEASURED}
        self._call: dict[str, Any] | None = None
        self._models: dict[str, None] = {}
        self._versions: Mapping[str, str] = {}
        self._done = 0

    @property
    def made(self) -> int:
        """How many pictures there are."""
        return sum(image is not None for image in self._images)

    def add(self, job: Job, made: Made) -> None:
        scores: Sequence[float | None] = [None] * len(made.images)
        if self._scorer is not None and job.prompts is not None:
            scores = self._scorer.of(made.images, job.prompts)
        self._remember(made)
        for position, image, score in zip(job.positions, made.images, scores, strict=True):
            self._images[position] = image
            for name in _MEASURED[1:]:
                self._values[name][position] = getattr(made, name)
            self._values["score"][position] = np.nan if score is None else score
        for told in zip(job.positions, made.images, scores, strict=True):  # all are kept by now
            self._tell(*told, made.seconds)

    def _remember(self, made: Made) -> None:
        own = {name: value for name, value in made.call.items() if name not in self._blank.axes}
        before = own if self._call is None else self._call
        # Only what all pictures share: a student's own guidance is not the teacher's.
        self._call = {k: v for k, v in before.items() if k in own and own[k] == v}
        self._models[made.model] = None
        self._versions = made.versions

    def _tell(self, index: int, image: Image.Image, score: float | None, seconds: float) -> None:
        self._done += 1
        if self._on_update is None:
            return
        point = self._blank.point(index)
        told = Progress(index, self._done, self._total, point, image, score, seconds)
        answer = self._on_update(told)
        if says_no(answer):
            raise Stopped

    def grid(self) -> Grid:
        values = {k: v for k, v in self._values.items() if self._scorer or k != "score"}
        return replace(
            self._blank,
            images=tuple(self._images),
            values=values,
            measure=self._scorer.measure if self._scorer else "",
            call=self._call or {},
            model=", ".join(self._models),
            versions=self._versions,
        )


def plain(name: str, values: Sequence[Any]) -> tuple[Label, ...]:
    """Labels for an axis' values: themselves where they are words or numbers, else numbered."""
    labels = []
    for i, value in enumerate(values):
        value = value.item() if isinstance(value, np.generic) else value
        known = isinstance(value, (str, int, float, bool, type(None)))
        labels.append(value if known else f"{name} {i + 1}")
    return tuple(labels)
