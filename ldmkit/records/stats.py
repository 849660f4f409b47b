"""What was measured: 95 % intervals in closed form, paired differences, and a small table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ldmkit.check import cut, plain, text
from ldmkit.records.record import RecordError, place_of

__all__ = ["Estimate", "Table", "Z", "mean_of", "paired_difference", "wilson"]

Z = 1.959964  # of the normal distribution, 95 % two-sided


class Estimate(NamedTuple):
    """A measured number and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} (95 %: {self.low:.2f} to {self.high:.2f})"


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The interval of a share (Wilson 1927): sensible for few, for none and for all.

    Args:
        hits: how often it happened.
        count: how often it could have.

    Returns:
        The ends, within 0…1; (0, 1) when nothing was counted.
    """
    if count == 0:
        return 0.0, 1.0
    share, zz = hits / count, Z * Z / count
    middle = (share + zz / 2) / (1 + zz)
    half = Z * math.sqrt(share * (1 - share) / count + zz / count / 4) / (1 + zz)
    # Rounding must not leave the share itself outside (none or all of them: an end is the share).
    return min(max(0.0, middle - half), share), max(min(1.0, middle + half), share)


def mean_of(values: ArrayLike) -> Estimate:
    """The mean: Wilson's interval where all values are 0 or 1, else mean ± 1.96 s/√n.

    NaN (not scored) is left out; the mean of nothing is NaN.
    """
    known = _known(values)
    if not len(known):
        return Estimate(math.nan, math.nan, math.nan)
    if _yes_or_no(known):
        return Estimate(float(known.mean()), *wilson(int(known.sum()), len(known)))
    return _normal(known)


def paired_difference(first: ArrayLike, second: ArrayLike) -> Estimate:
    """The mean of ``first − second``, pair by pair: what changed for the *same* question.

    Yes-or-no values get Bonett and Price's interval (2012, "Adjusted Wald confidence interval for
    a difference of binomial proportions based on paired data"): one more pair of each kind that
    disagrees is counted, so that a few pairs without any difference don't claim certainty. Others
    get mean ± 1.96 s/√n.

    Raises:
        RecordError: not as many of one as of the other.
    """
    a, b = np.asarray(first, dtype=np.float64).ravel(), np.asarray(second, np.float64).ravel()
    if a.shape != b.shape:
        raise RecordError(f"Pairs need as many of both, got {len(a)} and {len(b)}.")
    with np.errstate(over="ignore", invalid="ignore"):
        gaps = _known(a - b)
    if not len(gaps):
        return Estimate(math.nan, math.nan, math.nan)
    if not (_yes_or_no(_known(a)) and _yes_or_no(_known(b))):
        return _normal(gaps)
    n = len(gaps) + 2
    better, worse = (np.sum(gaps > 0) + 1) / n, (np.sum(gaps < 0) + 1) / n
    half = Z * math.sqrt((better + worse - (better - worse) ** 2) / n)
    middle = float(better - worse)
    return Estimate(float(gaps.mean()), max(-1.0, middle - half), min(1.0, middle + half))


def _known(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[~np.isnan(array)]


def _yes_or_no(values: NDArray[np.float64]) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _normal(values: NDArray[np.float64]) -> Estimate:
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, math.nan, math.nan)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite ones have no interval: NaN
        half = Z * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


# --- a table -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Table(Sequence[Mapping[str, Any]]):
    """Rows by number, each a mapping from column to value; shown as a table.

    Attributes:
        columns: names in the order they are shown.
        rows: one mapping per row; a missing value is shown empty.
        caption: one line under the table, such as what a unit means.
        digits: column to decimals shown, two where nothing is said.
    """

    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    caption: str = ""
    digits: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        """A row by number, several by slice, or a column's values by name."""
        if isinstance(index, str):
            if index not in self.columns:
                raise KeyError(f"no column {index!r}; there are {', '.join(self.columns)}.")
            return [row.get(index) for row in self.rows]
        if isinstance(index, slice):
            return self.rows[index]
        return self.rows[place_of("row", index, len(self))]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.rows)

    def __repr__(self) -> str:
        cells = [tuple(map(plain, self.columns)), *(self._texts(row) for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        numbers = [self._is_number(column) for column in self.columns]
        lines = [
            "  ".join(
                words.rjust(width) if number else words.ljust(width)
                for words, width, number in zip(row, widths, numbers, strict=True)
            ).rstrip()
            for row in cells
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([*lines, *([plain(self.caption)] if self.caption else [])])

    def _repr_html_(self) -> str:
        aligned = {
            column: "right" if self._is_number(column) else "left" for column in self.columns
        }
        cell = '<{tag} style="text-align:{align};padding:0.2em 0.8em">{text}</{tag}>'
        head = "".join(
            cell.format(tag="th", align=aligned[name], text=_markup(name)) for name in self.columns
        )
        body = "".join(
            "<tr>"
            + "".join(
                cell.format(tag="td", align=aligned[name], text=_markup(words))
                for name, words in zip(self.columns, self._texts(row), strict=True)
            )
            + "</tr>"
            for row in self.rows
        )
        caption = (
            f'<caption style="caption-side:bottom;text-align:left">{text(self.caption)}</caption>'
            if self.caption
            else ""
        )
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _texts(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(_cell(row.get(name), self.digits.get(name, 2)) for name in self.columns)

    def _is_number(self, column: str) -> bool:
        values = [row.get(column) for row in self.rows]
        kept = [value for value in values if value is not None]
        return bool(kept) and all(
            isinstance(value, (int, float)) and not isinstance(value, bool) for value in kept
        )


def _markup(words: str) -> str:
    """Short words stay on one line: a wide table is scrolled, a squeezed one can't be read.

    Long ones take what room there is: they push no other column out of sight.
    """
    style = "white-space:nowrap" if len(words) <= 40 else "min-width:20em;overflow-wrap:anywhere"
    return f'<div style="{style}">{text(words)}</div>'


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else cut(plain(str(value)), 300)
