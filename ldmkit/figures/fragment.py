"""A record in a notebook cell: contact sheet first, a player that wakes where scripts may run.

The order matters. ``text/html`` holds plain pictures, so that an untrusted notebook shows the
sheet; the module then finds its root by a random id (``currentScript`` is null in a module and
fixed ids collide between outputs), draws the first frame and only then hides the sheet.
"""

from __future__ import annotations

import base64
import io
import re
import secrets
from functools import cache
from importlib.resources import files
from typing import Any

from PIL import Image

from ldmkit.figures.frames import Drawn, Payload, drawn, trajectory_payload
from ldmkit.figures.sheet import sheet_html, sheet_image
from ldmkit.figures.words import json_script
from ldmkit.records import Trajectory
from ldmkit.records.record import index_of

__all__ = ["asset", "bundled", "fragment", "inlined", "mimebundle", "module"]


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


def fragment(traj: Trajectory, batch: int = 0, arrays: Drawn | None = None) -> tuple[str, str]:
    """HTML that shows one picture of the batch, and the script that wakes its player.

    Returns:
        The HTML up to the script, and the module's source; a page hashes the source.

    Raises:
        RecordError: the batch has no such picture.
    """
    batch = index_of("batch", batch, traj.batch_size)
    arrays = drawn(traj, batch) if arrays is None else arrays
    payload = trajectory_payload(traj, batch, arrays=arrays)
    return inlined(payload, sheet_html(traj, batch, arrays=arrays, payload=payload))


def inlined(payload: Payload, sheet: str) -> tuple[str, str]:
    """The HTML of a player over its sheet, and its script; see ``fragment``."""
    data = payload.data | {"frames": base64.b64encode(payload.frames).decode()}
    root = f"ldm-{secrets.token_hex(8)}"
    markup = (
        f'<div class="ldm-record" id="{root}"><style>{asset("player.css")}</style>{sheet}'
        f'<script type="application/json" class="ldm-data">{json_script(data)}</script></div>'
    )
    return markup, f'{module("player.mjs")}\nmountInlined("{root}");\n'


def mimebundle(traj: Trajectory) -> dict[str, Any]:
    """What a cell shows: the player over its sheet, else one picture, else a line of text."""
    arrays = drawn(traj)  # once for player, sheet and picture
    return bundled(fragment(traj, arrays=arrays), sheet_image(traj, arrays=arrays), repr(traj))


def bundled(whole: tuple[str, str], picture: Image.Image, words: str) -> dict[str, Any]:
    """A fragment, a picture and words as the three kinds of output of a cell."""
    markup, script = whole
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=4)  # the last 3 % take seven times as long
    return {
        "text/html": f'{markup}<script type="module">{script}</script>',
        "image/png": base64.b64encode(file.getvalue()).decode(),
        "text/plain": words,
    }
