"""Pictures that somebody uploaded: what the widget holds, to plain RGB."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from PIL import Image

from ldmkit.check import heard_by, plain, short
from ldmkit.records.rgb import to_rgb

__all__ = ["KEPT_SIDE", "read_picture", "take", "uploaded"]

MOST_BYTES = 20_000_000
KEPT_SIDE = 1024  # pixels; a start picture is resized for the pipeline anyway


def uploaded(value: Any) -> tuple[str, bytes] | None:
    """Name and content of what a ``FileUpload`` holds, in ipywidgets 7 (dict) and 8 (tuple)."""
    if not value:
        return None
    if isinstance(value, dict):
        name, entry = next(iter(value.items()))
    else:
        entry = value[0]
        name = entry["name"]
    return plain(str(name)), bytes(entry["content"])


def take(
    widget: Any,
    use: Callable[[Image.Image], None],
    refuse: Callable[[str], None],
    tell: Callable[[str], None],
    what: str = "A start picture",
) -> None:
    """Hands on the picture that was chosen in a ``FileUpload``, and empties it.

    Args:
        widget: the ``FileUpload``.
        use: takes the picture, whose ``filename`` is set.
        refuse: takes the sentence on what can't be read, or what ``use`` refuses.
        tell: takes what is to be known of a picture that was read, such as what became white.
        what: as for ``read_picture``.
    """
    found = uploaded(widget.value)
    if found is None:
        return
    told: list[str] = []
    try:
        with heard_by(told.append):
            picture = read_picture(*found, what)
        picture.filename = found[0]  # type: ignore[attr-defined]
        use(picture)
    except ValueError as error:
        refuse(str(error))
    else:
        for words in told:
            tell(words)
    _empty(widget)


def _empty(widget: Any) -> None:
    """The same file can be chosen again, and its bytes are not kept twice."""
    if isinstance(widget.value, dict):  # ipywidgets 7
        widget.data, widget.metadata = [], []
        widget._counter = 0
    else:
        widget.value = ()


def read_picture(name: str, content: bytes, what: str = "A start picture") -> Image.Image:
    """Decodes an uploaded picture to RGB of at most 1,024 pixels a side.

    Args:
        name: of the file, for the sentences.
        content: its bytes.
        what: what the picture is called in them.

    Raises:
        ValueError: too large, or not a picture that is read here (see ``records.rgb.to_rgb``).
    """
    if len(content) > MOST_BYTES:
        raise ValueError(
            f"{what} may have {MOST_BYTES // 1_000_000} MB, {short(name)} has "
            f"{len(content) / 1e6:.0f} MB; make it smaller."
        )
    return to_rgb(io.BytesIO(content), what, side=KEPT_SIDE, name=name)
