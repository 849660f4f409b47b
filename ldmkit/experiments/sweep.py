"""``sweep``: every combination of some keywords of a pipeline, here or on other machines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from ldmkit.check import did_you_mean, function, short
from ldmkit.experiments.compare import distinct, sampler_label
from ldmkit.experiments.runs import Job, OnUpdate, gather, lend, plain
from ldmkit.experiments.score import Scorer, scorer_of
from ldmkit.loading import load
from ldmkit.loading.samplers import with_sampler
from ldmkit.recording import call as checks
from ldmkit.records.grid import Grid, Label
from ldmkit.records.record import MAX_PICTURES

__all__ = ["sweep"]

_NOISE = ("seed", "generator", "latents")  # each says where the first noise comes from
_OWN = ("prompt", "scheduler", "seed", "executor", "clip", "on_update")


def sweep(
    pipe: Any,
    axes: Mapping[str, Iterable[Any]],
    prompt: str | None = None,
    *,
    seed: int | None = None,
    scheduler: Any = None,
    executor: Executor | None = None,
    clip: Any = None,
    on_update: OnUpdate | None = None,
    **call: Any,
) -> Grid:
    """Makes one picture for every combination of the axes' values.

    ``ldmkit.sweep(pipe, {"seed": range(6), "guidance_scale": [1, 3, 5]}, prompt="a red cat")``
    gives 18 pictures. All start from the noise of seed 0 unless an axis or keyword says otherwise,
    so that two pictures differ by the axes alone.

    Args:
        pipe: a pipeline, or a name that ``load`` takes; with an executor of other processes the
            name is better, since each opens the model once instead of receiving it.
        axes: keyword of the pipeline's call, ``"seed"`` or ``"scheduler"``, to its values; the
            last changes fastest.
        prompt: the words, where they are no axis.
        seed: of every picture, where it is no axis.
        scheduler: another sampler for every picture, where it is no axis; see ``compare``.
        executor: any ``concurrent.futures`` executor (a process pool, ipyparallel's
            ``Client.executor()``, Dask's ``Client.get_executor()``); by default this thread, one
            picture after the other. Runs within one process take turns. Where a worker dies, what
            the others make is kept: ``images`` holds ``None`` for the rest, which is said.
        clip: see ``score``. Without it the judge scores where it understands every caption.
        on_update: called in this thread with a ``Progress`` after each picture; ``False`` stops
            and keeps the part (``images`` holds ``None`` where none was made).
        **call: further keywords of the pipeline, the same for all.

    Returns:
        A grid: ``.images`` flat, ``.axes``, ``.table``; it shows itself.

    Raises:
        TypeError: no pipeline, an unknown axis or keyword (the nearest name is told), or a wrong
            type.
        ValueError: an empty axis, values that repeat, one out of its range, or too many pictures.
        RuntimeError: every worker died before a picture was made.

    Several processes, each of which opens the model once, and two engines of ipyparallel::

        with ipyparallel.Cluster(n=2) as engines:
            grid = ldmkit.sweep(
                "critters", {"seed": range(6)}, "a red cat", executor=engines.executor()
            )
    """
    function("on_update", on_update)
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(
            f"executor must be a concurrent.futures executor or None, got {short(executor)}; "
            "leave it out to run here."
        )
    model = load(pipe) if isinstance(pipe, str) else pipe
    parameters = checks.parameters_of(model, "sweep")
    values = _values(model, axes, parameters)
    settings = {"prompt": prompt, "seed": seed, "scheduler": scheduler, **call}
    fixed = _fixed(model, settings, values, parameters)
    jobs = []
    for position, combination in enumerate(itertools.product(*values.values())):
        chosen = {**fixed, **dict(zip(values, combination, strict=True))}
        jobs.append(_job(pipe, chosen, position))
        _check(model, parameters, chosen, jobs[-1])
    blank = Grid(
        axes={name: _labels(name, several) for name, several in values.items()},
        images=(None,) * len(jobs),
        prompts=tuple("" if job.prompts is None else job.prompts[0] for job in jobs),
        seeds=tuple(None if job.seeds is None else job.seeds[0] for job in jobs),
    )
    scorer = _scorer(jobs, clip)
    if isinstance(pipe, str):
        lend(pipe, model)
    return gather(jobs, blank, scorer=scorer, executor=executor, on_update=on_update)


def _values(pipe: Any, axes: Any, parameters: Mapping[str, Any]) -> dict[str, list[Any]]:
    if not isinstance(axes, Mapping) or not axes:
        raise TypeError(
            f"axes must be a dict of keyword to values, got {short(axes)}; "
            'write {"seed": range(6)}.'
        )
    known = sorted({*parameters, "seed", "scheduler"} - {"output_type", "return_dict"})
    values: dict[str, list[Any]] = {}
    for name, several in axes.items():
        if name not in known:
            advice = did_you_mean(name, known, f"it takes: {', '.join(known)}.")
            raise TypeError(f"sweep and {type(pipe).__name__} know no axis {short(name)}; {advice}")
        alone = isinstance(several, (str, bytes)) or getattr(several, "ndim", 1) == 0
        if alone or not isinstance(several, Iterable):
            raise TypeError(
                f"The axis {name!r} needs a list of values, got {type(several).__name__}; "
                f"write {{{name!r}: [...]}}."
            )
        values[name] = list(itertools.islice(several, MAX_PICTURES + 1))
        if not values[name]:
            raise ValueError(f"The axis {name!r} needs one value or more, got none; add some.")
    count = math.prod(map(len, values.values()))
    if count > MAX_PICTURES:
        cut = any(len(several) > MAX_PICTURES for several in values.values())
        raise ValueError(
            f"A sweep makes at most {MAX_PICTURES:,} pictures, got {'more than ' * cut}"
            f"{count - cut:,}; take fewer."
        )
    return values


def _fixed(
    model: Any,
    settings: Mapping[str, Any],
    values: Mapping[str, Any],
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    """What all pictures share: what was given, and a seed where nothing says the noise."""
    fixed = {name: value for name, value in settings.items() if value is not None}
    for name in fixed.keys() & values.keys():
        raise ValueError(f"{name} can't be an axis and a keyword at once; leave one of them out.")
    known = {*fixed, *values}
    if "prompt" in parameters and not {"prompt", "prompt_embeds"} & known:
        raise TypeError(
            f"{type(model).__name__} needs a prompt, got None; write sweep(pipe, axes, "
            '"a red cat"), or "" for no words.'
        )
    if "generator" in parameters and not known.intersection(_NOISE):
        fixed["seed"] = 0
    return fixed


def _job(pipe: Any, settings: Mapping[str, Any], position: int) -> Job:
    call = {k: v for k, v in settings.items() if k not in ("prompt", "seed", "scheduler")}
    prompt, seed = settings.get("prompt"), settings.get("seed")
    return Job(
        pipe=pipe,
        sampler=settings.get("scheduler"),
        prompts=None if prompt is None else (prompt,),
        seeds=None if seed is None else (seed,),
        call=call,
        positions=(position,),
    )


def _check(
    model: Any, parameters: Mapping[str, Any], settings: Mapping[str, Any], job: Job
) -> None:
    """Everything that can be known to fail, before the first picture."""
    checks.check_call(model, parameters, job.call, "sweep", _OWN)
    for name in ("prompt", "negative_prompt"):
        value = settings.get(name)
        if value is not None and not isinstance(value, str):
            raise TypeError(
                f"{name} must be one string per picture, got {type(value).__name__}; several "
                f"make an axis: {{{name!r}: [...]}}."
            )
        checks.check_prompt(name, value)
    if isinstance(settings.get("seed"), (list, tuple)):
        raise TypeError(
            'seed must be one number per picture; several make an axis: {"seed": [...]}.'
        )
    checks.check_seed(settings.get("seed"), settings.get("generator"), "generator" in parameters)
    if job.sampler is not None:
        with_sampler(model, job.sampler)


def _labels(name: str, values: Sequence[Any]) -> tuple[Label, ...]:
    if name == "scheduler":
        values = [sampler_label(value) for value in values]
    labels = plain(name, values)
    if name in ("prompt", "scheduler"):
        return distinct([str(label) for label in labels])
    if len(set(labels)) < len(labels):
        raise ValueError(
            f"Values of the axis {name!r} must differ, got {short(list(labels))}; drop some."
        )
    return labels


def _scorer(jobs: Sequence[Job], clip: Any) -> Scorer | None:
    captions = [job.prompts[0] for job in jobs if job.prompts is not None]
    if clip is False or not captions:
        return None
    try:
        return scorer_of(captions, clip)
    except ValueError:
        if clip is not None:
            raise
        return None  # words of another world: pictures alone
