"""A small table that shows itself: HTML in a notebook, aligned columns elsewhere."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ldmkit.check import plain
from ldmkit.records.record import place_of

__all__ = ["Table", "text"]


def text(value: object) -> str:
    """Escaped for HTML text and for a double-quoted attribute; every border passes here."""
    return html.escape(plain(str(value)), quote=True)


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
            cell.format(tag="th", align=aligned[name], text=text(name)) for name in self.columns
        )
        body = "".join(
            "<tr>"
            + "".join(
                cell.format(tag="td", align=aligned[name], text=text(words))
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
        return tuple(_text(row.get(name), self.digits.get(name, 2)) for name in self.columns)

    def _is_number(self, column: str) -> bool:
        values = [row.get(column) for row in self.rows]
        kept = [value for value in values if value is not None]
        return bool(kept) and all(
            isinstance(value, (int, float)) and not isinstance(value, bool) for value in kept
        )


def _text(value: Any, digits: int) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else plain(str(value))
