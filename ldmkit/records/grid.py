"""``Grid``: pictures over every combination of some settings, with what was measured of each.

Made by ``compare`` and ``sweep``, which live elsewhere: this file knows numpy and pillow only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldmkit.check import did_you_mean, plain, short
from ldmkit.records.display import drawn
from ldmkit.records.record import (
    MAX_BYTES,
    MAX_PICTURES,
    Arrays,
    RecordError,
    array_name,
    check_seed,
    copied,
    entries_of,
    frozen,
    images_of,
    open_record,
    pack_pictures,
    place_of,
    save_record,
    string,
    unpack_pictures,
)
from ldmkit.records.stats import Estimate, Table, mean_of, paired_difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AVERAGED", "Grid", "Label"]

Label = str | int | float | bool | None
Float64 = NDArray[np.float64]

AVERAGED = ("prompt", "seed")  # axes of repetition: a table takes the mean over them
MEASURES = ("", "obedience", "CLIP cosine")
WORDS = ("prompts", "seeds", "measure", "call", "model", "versions")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Grid:
    """Pictures for every combination of the axes' labels, the last axis changing fastest.

    n counts the combinations, which is the product of the axes' lengths.

    Attributes:
        axes: name to labels, such as ``{"scheduler": ("ddim", "euler"), "seed": (0, 1)}``.
        images: n pictures; ``None`` where a stopped run made none.
        prompts: n captions, one per picture.
        seeds: n seeds of the first noise; ``None`` where another generator made it.
        values: name to (n,) float64, NaN where unknown. ``score`` is what ``measure`` says,
            ``seconds`` are per picture, ``calls`` counts the scheduler's steps, the first of
            which stood at ``first_timestep``, where ``first_alpha`` of the picture and
            √(1 − first_alpha²) of noise were left.
        measure: what ``score`` is: ``"obedience"`` (the critters' judge: 1 where everything
            asked was right, else 0), ``"CLIP cosine"`` (−1…1), or nothing.
        call: the keywords that all pictures share, as far as JSON can hold them.
        model: name of the pipeline, or names.
        versions: of the packages that a picture depends on.

    Raises:
        RecordError: a field has the wrong type, or counts other combinations than the axes.
    """

    axes: Mapping[str, tuple[Label, ...]]
    images: tuple[Image.Image | None, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int | None, ...]
    values: Mapping[str, Float64] = field(default_factory=dict)
    measure: str = ""
    call: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        axes = copied("axes", self.axes)
        put("axes", {name: entries_of(f"axes[{name!r}]", axes[name]) for name in axes})
        for name in ("prompts", "seeds"):
            put(name, entries_of(name, getattr(self, name)))
        for name in ("call", "versions"):
            put(name, copied(name, getattr(self, name)))
        put("images", images_of(self.images, missing=True))
        self._check_axes()
        self._check_pictures()
        values = copied("values", self.values).items()
        shape = (len(self),)
        put("values", {k: frozen(f"values[{k!r}]", v, np.float64, shape) for k, v in values})
        if self.measure not in MEASURES:
            raise RecordError(f"measure must be one of {MEASURES}, got {short(self.measure)}.")
        string("model", self.model)

    def _check_axes(self) -> None:
        if not self.axes:
            raise RecordError("A grid needs one axis or more, got none; give {name: labels}.")
        for name, labels in self.axes.items():
            if not isinstance(name, str) or not labels:
                raise RecordError(f"An axis needs a name and labels, got {short(name)}.")
            for label in labels:
                if not isinstance(label, (str, int, float, bool, type(None))) or label != label:
                    raise RecordError(
                        f"Labels of the axis {name!r} must be words or numbers, got "
                        f"{short(label)}; use str(value)."
                    )
            if len(set(labels)) < len(labels):
                raise RecordError(f"Labels of the axis {name!r} must differ, got {short(labels)}.")
        if len(self) > MAX_PICTURES:
            raise RecordError(
                f"A grid holds at most {MAX_PICTURES:,} pictures, got {len(self):,}; "
                "take fewer labels."
            )

    def _check_pictures(self) -> None:
        for name, kinds in (
            ("images", object),
            ("prompts", str),
            ("seeds", (int, type(None))),
        ):
            entries = getattr(self, name)
            if len(entries) != len(self):
                raise RecordError(
                    f"{name} must hold {len(self)} entries, the product of the axes, "
                    f"got {len(entries)}."
                )
            for entry in entries:
                if not isinstance(entry, kinds) or isinstance(entry, bool):
                    raise RecordError(f"{name} can't hold {type(entry).__name__}: {short(entry)}.")
        for seed in self.seeds:
            if seed is not None:
                check_seed("A seed", seed)

    def __len__(self) -> int:
        return math.prod(self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The axes' lengths, in their order."""
        return tuple(len(labels) for labels in self.axes.values())

    @property
    def image(self) -> Image.Image:
        """The picture of a grid of one, as ``grid.select(...)`` may leave it."""
        if len(self) != 1 or self.images[0] is None:
            made = sum(image is not None for image in self.images)
            raise RecordError(
                f"image needs a grid of one picture, got {made}; take images[i] or select more."
            )
        return self.images[0]

    def point(self, index: int) -> dict[str, Label]:
        """The label on each axis of a picture, by its position in ``images``."""
        where = np.unravel_index(place_of("picture", index, len(self)), self.shape)
        return {
            name: labels[int(i)] for (name, labels), i in zip(self.axes.items(), where, strict=True)
        }

    def select(self, **labels: Any) -> Grid:
        """A smaller grid: ``grid.select(scheduler="ddim", num_inference_steps=(4, 32))``.

        Args:
            **labels: axis to the label that stays, or to a list of them. An axis with one label
                that was not given as a list is left out, unless none would be left.

        Raises:
            RecordError: unknown axis or label; the nearest name is told.
        """
        kept, dropped = self._positions(labels)
        flat = np.arange(len(self)).reshape(self.shape)[np.ix_(*kept.values())].ravel()
        axes = {name: tuple(self.axes[name][i] for i in kept[name]) for name in self.axes}
        left = {name: axes[name] for name in axes if name not in dropped}
        return replace(
            self,
            axes=left or dict(itertools.islice(axes.items(), 1)),
            images=tuple(self.images[i] for i in flat),
            prompts=tuple(self.prompts[i] for i in flat),
            seeds=tuple(self.seeds[i] for i in flat),
            values={name: column[flat] for name, column in self.values.items()},
            call={**self.call, **{name: axes[name][0] for name in dropped}},
        )

    def _positions(self, labels: Mapping[str, Any]) -> tuple[dict[str, list[int]], set[str]]:
        kept = {name: list(range(len(all_))) for name, all_ in self.axes.items()}
        dropped = set()
        for name, wanted in labels.items():
            if name not in self.axes:
                raise RecordError(_unknown_axis(name, tuple(self.axes)))
            several = np.ndim(wanted) > 0 if isinstance(wanted, np.ndarray) else _several(wanted)
            if not several:
                dropped.add(name)
            kept[name] = [self._position(name, one) for one in (wanted if several else [wanted])]
            if not kept[name]:
                raise RecordError(f"{name} needs one label or more, got {short(wanted)}.")
        return kept, dropped

    def _position(self, axis: str, label: Any) -> int:
        flag = isinstance(label, (bool, np.bool_))  # True == 1 is no seed
        for i, known in enumerate(self.axes[axis]):
            if known == label and isinstance(known, bool) == flag:
                return i
        raise RecordError(
            f"{axis} has the labels {short(self.axes[axis], 200)}, got {short(label)}."
        )

    def estimate(self, name: str = "score", **labels: Any) -> Estimate:
        """Mean of one of the values over a selection, with its 95 % interval.

        Obedience gets Wilson's interval; what was not measured is left out.
        """
        return mean_of(self._column(name, self.select(**labels)))

    def difference(
        self, first: Mapping[str, Any], second: Mapping[str, Any], name: str = "score"
    ) -> Estimate:
        """How much more ``first`` has than ``second``, with the 95 % interval.

        Both are selections of as many pictures. They are compared pair by pair, same prompt with
        same prompt, which is far surer than two intervals side by side:
        ``grid.difference({"num_inference_steps": 32}, {"num_inference_steps": 4})``.
        """
        a, b = self.select(**copied("first", first)), self.select(**copied("second", second))
        if (a.prompts, a.seeds) != (b.prompts, b.seeds):
            raise RecordError(
                "Both selections must hold the same prompts and seeds in the same order; "
                f"got {len(a)} and {len(b)} pictures: select the same axes in both."
            )
        return paired_difference(self._column(name, a), self._column(name, b))

    def _column(self, name: str, grid: Grid) -> Float64:
        if name not in list(self.values):
            raise RecordError(
                f"This grid knows {', '.join(self.values) or 'no values'}, got {short(name)}."
            )
        return grid.values[name]

    def rows(self, by: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """What was measured, one mapping per combination of the axes in ``by``.

        Args:
            by: names of axes; by default all but ``prompt`` and ``seed``, over which means are
                taken (all axes where there are no others).

        Yields:
            The labels, ``pictures`` (how many were made), the score under its measure's name with
            ``low`` and ``high`` (95 %), and the median of the other values, such as ``seconds``.
        """
        names = self._kept_apart() if by is None else entries_of("by", by)
        for name in names:
            if name not in list(self.axes):  # any object may be asked for
                raise RecordError(_unknown_axis(name, tuple(self.axes)))
        for labels in itertools.product(*(self.axes[name] for name in names)):
            point = dict(zip(names, labels, strict=True))
            part = self.select(**point)
            row: dict[str, Any] = point | {"pictures": sum(im is not None for im in part.images)}
            if self.measure and "score" in self.values:
                score = mean_of(part.values["score"])
                row[self.measure] = score.value
                if len(part) > 1:  # one picture is no sample
                    row |= {"low": score.low, "high": score.high}
            for name, column in part.values.items():
                if name in self.shares:
                    row[name] = mean_of(column).value
                elif name != "score":
                    row[name] = _median(column)
            yield {key: _said(value) for key, value in row.items()}

    @property
    def shares(self) -> tuple[str, ...]:
        """Names of the values that ``decided`` drew curves of: attributes of the pictures."""
        told = self.call.get("decided")
        half = told.get("half") if isinstance(told, Mapping) else None
        return tuple(name for name in self.values if isinstance(half, Mapping) and name in half)

    def _kept_apart(self) -> tuple[str, ...]:
        return tuple(name for name in self.axes if name not in AVERAGED) or tuple(self.axes)

    @property
    def table(self) -> Table:
        """``rows`` as a table that shows itself: ``grid.table["seconds"]`` is one column."""
        rows = tuple(self.rows())
        notes = []
        if "low" in rows[0]:
            notes.append(f"low, high: 95 % interval of {self.measure}")
        if "seconds" in rows[0]:
            notes.append("seconds: median per picture")
        digits = {"seconds": 3, "first_alpha": 3, "calls": 0, "first_timestep": 0}
        return Table(columns=tuple(rows[0]), rows=rows, caption="; ".join(notes), digits=digits)

    def figure(self, *, rows: int = 8) -> Figure:
        """A matplotlib figure: the pictures, and score and seconds as curves with their bands.

        Args:
            rows: how many rows of pictures are shown at most.
        """
        return drawn("grid", self, rows=rows)

    def to_html(self, path: str | PathLike[str]) -> Path:
        """Writes one self-contained page with all pictures and the table; returns its path.

        Raises:
            OSError: the folder is missing or not writable; no half-written file stays.
        """
        return drawn("grid's page", self, path)

    def save(self, path: str | PathLike[str]) -> Path:
        """Writes the record as one safetensors file; returns its path.

        Raises:
            RecordError: words that JSON does not hold, or too many.
            OSError: the folder is missing or not writable; no half-written file stays.
        """
        arrays = {f"values/{name}": column for name, column in self.values.items()}
        arrays["made"] = np.array([image is not None for image in self.images], dtype=np.uint8)
        arrays |= pack_pictures(image for image in self.images if image is not None)
        words = {name: getattr(self, name) for name in WORDS}
        words["values"] = list(self.values)  # safetensors sorts its names
        # A list of pairs: JSON objects keep their order only by courtesy, and the order is meant.
        words["axes"] = [[name, list(labels)] for name, labels in self.axes.items()]
        return save_record(path, "grid", arrays, words)

    @classmethod
    def open(cls, path: str | PathLike[str], *, max_bytes: int = MAX_BYTES) -> Grid:
        """Reads a record that ``save`` wrote; sizes are compared before anything is allocated.

        Raises:
            RecordError: the file is truncated, foreign, too large or contradicts itself.
            OSError: the file is missing or not readable.
        """
        return open_record(path, "grid", _unpack, max_bytes=max_bytes)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return drawn("grid's cell", self)

    def __repr__(self) -> str:
        axes = " × ".join(f"{len(labels)} {plain(name)}" for name, labels in self.axes.items())
        missing = sum(image is None for image in self.images)
        return (
            f"Grid({axes}, {len(self)} pictures"
            f"{f', {missing} of them not made' if missing else ''}"
            f"{f', with {self.measure}' if self.measure else ''})"
        )


def _several(wanted: Any) -> bool:
    return isinstance(wanted, Sequence) and not isinstance(wanted, str)


def _median(column: Float64) -> float:
    known = column[~np.isnan(column)]
    return float(np.median(known)) if len(known) else math.nan


def _said(value: Any) -> Any:
    """NaN is said as nothing."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _unknown_axis(name: object, axes: tuple[str, ...]) -> str:
    advice = did_you_mean(name, axes, f"there are {', '.join(axes)}.", cutoff=0.41)  # "steps", too
    return f"This grid has no axis {short(name)}; {advice}"


def _unpack(arrays: Arrays, words: Mapping[str, Any]) -> Grid:
    pictures = iter(unpack_pictures(arrays))
    images = [next(pictures) if made else None for made in arrays["made"].tolist()]
    axes = {name: tuple(labels) for name, labels in words["axes"]}
    if len(axes) < len(words["axes"]):
        raise RecordError("two of its axes have one name.")
    values = {name: arrays[array_name(f"values/{name}")] for name in words["values"]}
    fields: dict[str, Any] = {name: words[name] for name in WORDS}
    return Grid(axes=axes, images=tuple(images), values=values, **fields)
