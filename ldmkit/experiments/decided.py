"""``decided``: at which step does a run settle what it will show?

The words are changed in mid-run, at one step after the other: what the picture still takes from
the new words had not been decided by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmkit.check import function, short, whole
from ldmkit.critters.judging import judge_many
from ldmkit.experiments.runs import Job, OnUpdate, gather
from ldmkit.experiments.score import scorer_of
from ldmkit.loading.siblings import origin_of
from ldmkit.recording import call as checks
from ldmkit.records.grid import Grid

__all__ = ["decided"]

_OWN = ("swap_at", "seeds", "batch_size", "clip", "on_update")
_MOVED = 0.2  # of the attribute: less, and there was nothing to decide


def decided(
    pipe: Any,
    first: str,
    second: str,
    *,
    swap_at: Iterable[int] | None = None,
    seeds: Iterable[int] = range(16),
    batch_size: int = 8,
    clip: Any = None,
    on_update: OnUpdate | None = None,
    **call: Any,
) -> Grid:
    """Changes the words at each of some steps and measures what became of the picture.

    ``ldmkit.decided(pipe, "a red cat", "a red dog", swap_at=range(0, 32, 2))`` makes a picture for
    each step and seed: up to the step the network reads the first words, from it on the second
    (``intervene``). On captions of the critters every attribute that the two name differently has
    a curve of its own, the share of pictures that show the second's; elsewhere it is one curve, by
    how much the CLIP cosine with the second words is above that with the first.

    Args:
        pipe: a pipeline that takes words.
        first: the words that the run begins with.
        second: the words that it ends with.
        swap_at: steps from 0; at 0 the first words are never read, at the number of steps the
            second never are. By default at most 16 of them, evenly spread.
        seeds: of the first noise, one picture each and per step.
        batch_size: pictures made side by side.
        clip: as for ``score``; needed for captions that the judge doesn't know.
        on_update: called with a ``Progress`` after each picture; ``False`` stops and keeps the
            part.
        **call: the pipeline's own keywords.

    Returns:
        A grid over ``swap_at`` and ``seed``. ``call["decided"]`` holds both texts and, for each
        attribute, ``"half"``: the step at which its curve stands half-way between its ends, by
        straight lines (``None`` where shares at its ends are less than 0.2 apart). ``score`` is
        that of the second words. ``figure()`` draws the curves.

    Raises:
        TypeError: no pipeline, an unknown keyword, or a wrong type.
        ValueError: a step out of range, words that are the same, or captions that can't be scored.
    """
    parameters = checks.parameters_of(pipe, "decided")
    checks.check_call(pipe, parameters, call, "decided", _OWN)
    function("on_update", on_update)
    for name, words in (("first", first), ("second", second)):
        if not isinstance(words, str):
            raise TypeError(f'{name} must be words like "a red cat", got {short(words)}.')
        checks.check_prompt(name, words)
    if first == second:
        raise ValueError(f"first and second must differ, got {short(first)} twice.")
    scorer = scorer_of([first, second], clip)
    steps = _steps(pipe, parameters, call, swap_at)
    numbers = _seeds(seeds)
    size = whole("batch_size", batch_size, 1, 256)
    jobs = [
        Job(
            pipe=pipe,
            sampler=None,
            prompts=(first,) * len(part),
            seeds=tuple(part),
            call=call,
            positions=tuple(k * len(numbers) + at + i for i in range(len(part))),
            swap=(second, step),
        )
        for k, step in enumerate(steps)
        for at in range(0, len(numbers), size)
        for part in [numbers[at : at + size]]
    ]
    blank = Grid(
        axes={"swap_at": tuple(steps), "seed": tuple(numbers)},
        images=(None,) * (len(steps) * len(numbers)),
        prompts=(second,) * (len(steps) * len(numbers)),
        seeds=tuple(numbers) * len(steps),
    )
    grid = gather(jobs, blank, on_update=on_update)
    shares = _shares(grid, first, second, scorer.of if clip is not None else None)
    made = [i for i, image in enumerate(grid.images) if image is not None]
    score = np.full(len(grid), np.nan)
    score[made] = scorer.of([grid.images[i] for i in made], [second] * len(made))  # type: ignore[misc]
    least = _MOVED if clip is None else 0.0
    half = {n: _half(steps, column.reshape(grid.shape), least) for n, column in shares.items()}
    told = {"first": first, "second": second, "half": half}
    return replace(
        grid,
        values={**grid.values, "score": score, **shares},
        measure=scorer.measure,
        call={**{k: v for k, v in grid.call.items() if k != "intervene"}, "decided": told},
    )


def _steps(
    pipe: Any, parameters: Mapping[str, Any], call: Mapping[str, Any], swap_at: Any
) -> list[int]:
    own = getattr(parameters.get("num_inference_steps"), "default", None)
    most = call.get("num_inference_steps", origin_of(pipe).defaults.get("num_inference_steps", own))
    most = most if isinstance(most, int) else 1000
    if swap_at is None:
        return sorted({round(i) for i in np.linspace(0, most, min(most + 1, 16))})
    several = [swap_at] if isinstance(swap_at, int) else list(swap_at)
    steps = [whole("Each of swap_at", one, 0, most) for one in several]
    if not steps or len(set(steps)) < len(steps):
        raise ValueError(f"swap_at must be different steps, got {short(several)}.")
    return steps


def _seeds(seeds: Any) -> list[int]:
    several = [seeds] if isinstance(seeds, int) else list(seeds)
    numbers = [whole("Each of seeds", one, 0, 2**63 - 1) for one in several]
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"seeds must be different whole numbers, got {short(several)}.")
    return numbers


def _shares(grid: Grid, first: str, second: str, cosines: Any) -> dict[str, NDArray[np.float64]]:
    """For each thing that the two texts say differently how far each picture shows the second's."""
    made = [i for i, image in enumerate(grid.images) if image is not None]
    pictures: Sequence[Any] = [grid.images[i] for i in made]
    found: dict[str, NDArray[np.float64]] = {}
    if cosines is not None:
        with_second = np.array(cosines(pictures, [second] * len(made)), np.float64)
        found["words"] = np.full(len(grid), np.nan)
        found["words"][made] = with_second - cosines(pictures, [first] * len(made))
        return found
    verdicts = [judge_many(pictures, [words] * len(made)) for words in (first, second)]
    for at, (own, other) in zip(made, zip(*verdicts, strict=True), strict=True):
        for name in {**other.attributes, **own.attributes}:
            before, after = own.attributes.get(name), other.attributes.get(name)
            if before is not None and after is not None and before.asked == after.asked:
                continue
            column = found.setdefault(name, np.full(len(grid), np.nan))
            seen = after if after is not None else before
            if seen is not None and seen.obeyed is not None:  # a style may hide it
                column[at] = float(seen.obeyed if after is not None else not seen.obeyed)
    return found


def _half(steps: Sequence[int], shares: NDArray[np.float64], least: float) -> float | None:
    """Where the mean curve over (steps, seeds) stands half-way between its ends."""
    order = np.argsort(steps)
    curve = [(steps[i], np.nanmean(shares[i])) for i in order if np.isfinite(shares[i]).any()]
    if len(curve) < 2 or abs(curve[-1][1] - curve[0][1]) < least:
        return None
    middle = (curve[0][1] + curve[-1][1]) / 2
    for (x0, y0), (x1, y1) in pairwise(curve):
        if min(y0, y1) <= middle <= max(y0, y1) and y0 != y1:
            return round(float(x0 + (middle - y0) / (y1 - y0) * (x1 - x0)), 2)
    return None
