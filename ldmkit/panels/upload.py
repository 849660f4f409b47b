"""Start pictures: bytes that somebody uploaded, or a PIL picture of any mode, to plain RGB."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps

__all__ = ["empty_upload", "prepared", "read_picture", "uploaded"]

MOST_BYTES = 20_000_000
MOST_PIXELS = 40_000_000  # 160 MB in memory
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
    return str(name), bytes(entry["content"])


def empty_upload(widget: Any) -> None:
    """The same file can be chosen again, and its bytes are not kept twice."""
    if isinstance(widget.value, dict):  # ipywidgets 7
        widget.data, widget.metadata = [], []
        widget._counter = 0
    else:
        widget.value = ()


def read_picture(name: str, content: bytes, what: str = "A start picture") -> Image.Image:
    """Decodes an uploaded picture; sizes are compared before anything is allocated.

    Args:
        name: of the file, for the sentences.
        content: its bytes.
        what: what the picture is called in them.

    Raises:
        ValueError: too large, or not a picture.
    """
    if len(content) > MOST_BYTES:
        raise ValueError(
            f"{what} may have {MOST_BYTES // 1_000_000} MB, {_short(name)} has "
            f"{len(content) / 1e6:.0f} MB; make it smaller."
        )
    try:
        picture = Image.open(io.BytesIO(content))
        _check_size(picture, name, what)
        picture.draft("RGB", (KEPT_SIDE, KEPT_SIDE))  # JPEG decodes to a smaller size at once
        return prepared(picture, what)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, Image.DecompressionBombError):
            words = f"has more than {MOST_PIXELS // 1_000_000} million pixels; make it smaller"
        else:
            words = "is none that can be read; save it as PNG or JPEG"
        raise ValueError(f"{what} must be a picture, and {_short(name)} {words}.") from None


def prepared(picture: Image.Image, what: str = "A start picture") -> Image.Image:
    """The picture upright, without transparency, as RGB of at most 1,024 pixels a side.

    Raises:
        ValueError: more pixels than a start picture may have.
    """
    _check_size(picture, "this one", what)
    upright = ImageOps.exif_transpose(picture)
    upright.thumbnail((KEPT_SIDE, KEPT_SIDE))
    return _as_rgb(upright)


def _check_size(picture: Image.Image, name: str, what: str) -> None:
    if picture.width * picture.height > MOST_PIXELS:
        raise ValueError(
            f"{what} may have {MOST_PIXELS // 1_000_000} million pixels, {_short(name)} "
            f"has {picture.width} × {picture.height}; make it smaller."
        )


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):  # 16 bits and more: pillow would clip at 255
        return _stretched(picture).convert("RGB")
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return picture.convert("RGB")


def _stretched(picture: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(picture, dtype=np.float64))
    if picture.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        low, high = float(values.min()), float(values.max())
    scaled = (values - low) / ((high - low) or 1.0) * 255
    return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))


def _short(name: str) -> str:
    return repr(name if len(name) <= 40 else f"{name[:39]}…") if name != "this one" else name
