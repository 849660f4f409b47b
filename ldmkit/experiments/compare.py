"""``compare``: models or samplers on the same captions from the same first noise."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ldmkit.check import function, short, whole
from ldmkit.experiments.runs import Job, OnUpdate, Stopped, gather, run
from ldmkit.experiments.score import scorer_of
from ldmkit.loading.samplers import sampler_name, with_sampler
from ldmkit.recording import call as checks
from ldmkit.records.grid import Grid, Label

__all__ = ["compare"]

_OWN = ("scheduler", "seed", "batch_size", "clip", "on_update")


def compare(
    models: Any,
    prompts: str | Sequence[str],
    *,
    num_inference_steps: int | Sequence[int] | None = None,
    scheduler: Any = None,
    seed: int | Sequence[int] = 0,
    batch_size: int = 8,
    clip: Any = None,
    on_update: OnUpdate | None = None,
    **call: Any,
) -> Grid:
    """Makes every caption's picture with each model, sampler and number of steps.

    Picture i of every row starts from the first noise of its own CPU generator, seed + i, so that
    only what is compared differs. That noise is the same for all samplers up to a factor: Euler
    and kin multiply it by their first sigma (``init_noise_sigma``), which their arithmetic undoes.
    Samplers that add noise at each step (DDPM, Euler ancestral, LCM) go on drawing from the same
    generators. Seconds are wall time on this machine, everything included; one picture per model
    is made first and thrown away, so that nobody pays for the first run.

    Args:
        models: a pipeline, or label to pipeline, such as ``{"teacher": pipe, "student": other}``;
            in place of a pipeline also number of steps to pipeline, as students are, each made for
            its own: ``{"teacher": pipe, "student": {8: one, 4: another}}``. With other numbers of
            steps that model makes no picture.
        prompts: captions, one picture each and per row.
        num_inference_steps: one number or several; by default the pipeline's.
        scheduler: one or several, as a name (``"ddim"``), class or scheduler, or label to these;
            a name takes over the noise schedule and the spacing of the pipeline's own scheduler.
            By default each pipeline's own.
        seed: of the first caption, the next has the next; or one per caption.
        batch_size: pictures made side by side.
        clip: see ``score``; ``False`` scores nothing.
        on_update: called with a ``Progress`` after each picture; ``False`` stops and keeps the
            part.
        **call: the pipelines' own keywords (``guidance_scale``, ...). What a model of ``load``
            was made for is its default.

    Returns:
        A grid over the axes ``model`` and ``scheduler`` (where given), ``num_inference_steps``
        (where given) and ``prompt``; ``grid.table`` has obedience with Wilson's interval.

    Raises:
        TypeError: no pipeline, an unknown keyword (the nearest name is told), or a wrong type.
        ValueError: a value out of its range, or captions that can't be scored.
    """
    function("on_update", on_update)
    pipes = _models(models)
    samplers = _samplers(scheduler)
    texts = _texts(prompts)
    steps = _steps(num_inference_steps)
    _check_students(pipes, steps)
    seeds = _seeds(seed, len(texts))
    batch_size = whole("batch_size", batch_size, 1, 256)
    for model, sampler, number in itertools.product(pipes.values(), samplers.values(), steps):
        if (pipe := _at(model, number)) is not None:
            _check(pipe, sampler, _with_steps(call, number))
    scorer = None if clip is False else scorer_of(texts, clip)
    axes = _axes(models, scheduler, pipes, samplers, steps, texts)
    rows = len(pipes) * len(samplers) * len(steps)
    blank = Grid(
        axes=axes,
        images=(None,) * (rows * len(texts)),
        prompts=tuple(texts) * rows,
        seeds=seeds * rows,
    )
    jobs = list(_jobs(pipes, samplers, steps, texts, seeds, batch_size, call))
    if len(jobs) > len(pipes):
        with suppress(Stopped):  # released meanwhile: the first job says it
            _warm_up(jobs)
    return gather(jobs, blank, scorer=scorer, on_update=on_update)


def _models(models: Any) -> dict[str, Any]:
    if not isinstance(models, Mapping):
        models = {"": models}
    if not models:
        raise ValueError('compare needs a pipeline, got {}; write {"teacher": pipe}.')
    for model in models.values():
        if None in (model.values() if isinstance(model, Mapping) else [model]):
            raise TypeError('compare needs a pipeline, got None; write {"teacher": pipe}.')
    return {str(label): pipe for label, pipe in models.items()}


def _check_students(models: Mapping[str, Any], steps: list[Any]) -> None:
    for label, model in models.items():
        if not isinstance(model, Mapping):
            continue
        known = [whole(f"A number of steps of {short(label)}", number, 1) for number in model]
        if not set(known) & set(steps):
            asked = "none" if steps == [None] else ", ".join(map(str, steps))
            raise ValueError(
                f"num_inference_steps must hold one or more of those that {short(label)} has "
                f"pipelines for ({', '.join(map(str, known)) or 'none'}), got {asked}."
            )


def _at(model: Any, steps: Any) -> Any:
    """The pipeline for a number of steps; ``None`` where a model has none."""
    return model.get(steps) if isinstance(model, Mapping) else model


def _samplers(scheduler: Any) -> dict[str, Any]:
    if scheduler is None:
        return {"": None}
    if isinstance(scheduler, Mapping):
        chosen = {str(label): sampler for label, sampler in scheduler.items()}
    else:
        several = list(scheduler) if isinstance(scheduler, (list, tuple)) else [scheduler]
        for one in several:
            if one is None:
                raise TypeError("scheduler must name samplers, got None among them; drop it.")
        chosen = {sampler_label(one): one for one in several}
        if len(chosen) < len(several):
            raise ValueError(
                f"Schedulers must differ by name, got {', '.join(map(sampler_label, several))}; "
                'label them: scheduler={"trailing": a, "leading": b}.'
            )
    if not chosen:
        raise ValueError('scheduler must name one or more, got none; try ("ddim", "euler").')
    return chosen


def sampler_label(sampler: Any) -> str:
    """What a sampler is called in a table."""
    return sampler if isinstance(sampler, str) else sampler_name(sampler)


def _texts(prompts: Any) -> list[str]:
    checks.check_prompt("prompts", prompts)
    if prompts is None:
        raise TypeError("compare needs prompts, got None; give a list of captions.")
    return [prompts] if isinstance(prompts, str) else list(prompts)


def _steps(steps: Any) -> list[Any]:
    if steps is None:
        return [None]
    one = isinstance(steps, (str, bytes)) or not isinstance(steps, Iterable)
    numbers = [whole("num_inference_steps", step, 1) for step in ([steps] if one else steps)]
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(
            f"num_inference_steps must be different whole numbers, got {short(steps)}; "
            "give (1, 2, 4, 8)."
        )
    return numbers


def _seeds(seed: Any, count: int) -> tuple[int, ...]:
    checked = checks.check_seed(seed, None, True)
    if isinstance(checked, tuple):
        if len(checked) != count:
            raise ValueError(
                f"seed must be one number or {count}, one per prompt, got {len(checked)}."
            )
        return checked
    if checked is None:
        raise TypeError("seed must be a whole number, got None; leave it out for 0.")
    return tuple(checked + i for i in range(count))


def _with_steps(call: Mapping[str, Any], steps: Any) -> dict[str, Any]:
    return dict(call) if steps is None else {**call, "num_inference_steps": steps}


def _check(pipe: Any, sampler: Any, call: Mapping[str, Any]) -> None:
    """Everything that can be known to fail, before the first picture."""
    parameters = checks.parameters_of(pipe, "compare")
    checks.check_call(pipe, parameters, call, "compare", _OWN)
    if sampler is not None:
        with_sampler(pipe, sampler)


def _axes(
    models: Any,
    scheduler: Any,
    pipes: Mapping[str, Any],
    samplers: Mapping[str, Any],
    steps: list[Any],
    texts: list[str],
) -> dict[str, tuple[Label, ...]]:
    axes: dict[str, tuple[Label, ...]] = {}
    if isinstance(models, Mapping):
        axes["model"] = tuple(pipes)
    if scheduler is not None:
        axes["scheduler"] = tuple(samplers)
    if steps != [None]:
        axes["num_inference_steps"] = tuple(map(int, steps))
    return {**axes, "prompt": distinct(texts)}


def distinct(texts: Sequence[str]) -> tuple[str, ...]:
    """Labels for captions; a repeated one is numbered."""
    seen: dict[str, int] = {}
    labels: list[str] = []
    for text in texts:
        label = text
        while label in seen:
            seen[text] += 1
            label = f"{text} ({seen[text]})"
        seen[label] = 1
        labels.append(label)
    return tuple(labels)


def _jobs(
    pipes: Mapping[str, Any],
    samplers: Mapping[str, Any],
    steps: list[Any],
    texts: list[str],
    seeds: tuple[int, ...],
    batch_size: int,
    call: Mapping[str, Any],
) -> Iterator[Job]:
    """Captions outermost: a run that is stopped has compared the first of them with all."""
    for begin in range(0, len(texts), batch_size):
        part = slice(begin, begin + batch_size)
        rows = itertools.product(pipes.values(), samplers.values(), steps)
        for row, (model, sampler, number) in enumerate(rows):
            if (pipe := _at(model, number)) is None:
                continue
            positions = range(row * len(texts), (row + 1) * len(texts))[part]
            made = _with_steps(call, number)
            yield Job(pipe, sampler, tuple(texts[part]), seeds[part], made, tuple(positions))


def _warm_up(jobs: Sequence[Job]) -> None:
    """One picture per model, thrown away."""
    first = {id(job.pipe): job for job in reversed(jobs)}
    for job in first.values():
        one = slice(1)
        run(
            Job(
                job.pipe,
                job.sampler,
                None if job.prompts is None else job.prompts[one],
                None if job.seeds is None else job.seeds[one],
                job.call,
                job.positions[one],
            )
        )
