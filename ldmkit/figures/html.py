"""HTML: words and JSON crossing into it, a view inlined, a cell's output, one mailable page.

Every string of a record is untrusted: a prompt may hold ``<script>``. Text enters HTML through
``text`` alone (the records' own table needs it, too) and JSON inside a ``<script>`` through
``json_script`` alone. A page's content security policy allows the one script by its hash and
nothing from any network, so that even a mistake in escaping could neither run a prompt nor call
home.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import secrets
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image

from ldmkit.check import cut, plain, text
from ldmkit.records.record import write_atomically

__all__ = [
    "asset",
    "bundled",
    "img",
    "json_script",
    "made_with",
    "module",
    "new_id",
    "shorten",
    "text",
    "whole_page",
    "write_page",
]

STYLE = """
:root { color-scheme: light dark; background: light-dark(#fbfaf8, #17181b);
  color: light-dark(#1d1f23, #e7e6e3); }
body { margin: 0 auto; max-width: 1000px; padding: 40px 28px; }
footer { font: 12px/1.4 system-ui, sans-serif; margin-top: 36px; opacity: 0.6; }
@media (max-width: 640px) { body { padding: 20px 14px; } }
"""


def shorten(words: str, limit: int) -> str:
    """At most ``limit`` characters in one line, cut with an ellipsis."""
    return cut(" ".join(plain(words).split()), limit)


def json_script(value: Any) -> str:
    """JSON that may stand inside a ``<script>``: no ``</script>``, ``<!--`` or U+2028 in it."""
    dumped = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII: U+2028 is escaped
    return dumped.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def img(data: bytes, alt: str, width: int, *, title: str = "", gap: int = 0, more: str = "") -> str:
    """A WebP as ``<img>``, which JupyterLab's sanitiser lets through.

    Args:
        data: the WebP.
        alt: plain words, escaped here.
        width: in pixels.
        title: plain words for a pointer that rests on it, by default ``alt``.
        gap: pixels under it.
        more: markup, such as another attribute.
    """
    source, over = base64.b64encode(data).decode(), text(title or alt)
    return (
        f'<img src="data:image/webp;base64,{source}" alt="{text(alt)}" title="{over}" {more}'
        f'width="{width}" style="display:block;margin:0 0 {gap}px">'
    )


# --- views ---------------------------------------------------------------------------------------


@cache
def asset(name: str, package: str = "ldmkit.figures") -> str:
    """The text of a file beside this module, or in another package: ``"player.css"``."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def module(name: str, package: str = "ldmkit.figures") -> str:
    """The source of a view: what all views share, then the file's own; a page can't import.

    Lines that are comments stay behind: every output of every notebook would carry them.
    """
    source = asset("transport.mjs") + asset(name, package)
    return re.sub(r"^ *(//|/\*\*| \*).*\n", "", source, flags=re.MULTILINE)


def new_id() -> str:
    """An id for a view's root: ids that are fixed collide between the outputs of a notebook."""
    return f"ldm-{secrets.token_hex(8)}"


def bundled(whole: tuple[str, str], picture: Image.Image, words: str) -> dict[str, Any]:
    """Markup with its script, a picture and words as the three kinds of output of a cell."""
    markup, script = whole
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=4)  # the last 3 % take seven times as long
    return {
        "text/html": f'{markup}<script type="module">{script}</script>' if script else markup,
        "image/png": base64.b64encode(file.getvalue()).decode(),
        "text/plain": words,
    }


# --- a page --------------------------------------------------------------------------------------


def whole_page(markup: str, script: str, *, title: str, footer: str) -> str:
    """A page round a fragment; ``title`` and ``footer`` are plain words, escaped here."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>{markup}</main>\n"
        f"<footer>{text(footer)}</footer>\n"
        f'<script type="module">{script}</script>\n</body>\n</html>\n'
    )


def made_with(verb: str, versions: Mapping[str, str]) -> str:
    """The footer's words: ``"Recorded with torch 2.9 · …"``."""
    words = " · ".join(f"{name} {version}" for name, version in versions.items())
    return f"{verb} with {shorten(words, 300) or 'ldmkit'}"


def write_page(path: str | PathLike[str], page: str) -> Path:
    """Writes a page whole or not at all; returns its path."""

    def write(part: Path) -> None:
        part.write_text(page, encoding="utf-8")

    return write_atomically(path, write)
