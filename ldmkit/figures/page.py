"""One self-contained page: the player in a file that can be mailed.

Its content security policy allows the one script by its hash and nothing from any network, so
that even a mistake in escaping could neither run a prompt nor call home.
"""

from __future__ import annotations

import base64
import hashlib
from os import PathLike
from pathlib import Path

from ldmkit.figures.fragment import fragment
from ldmkit.figures.words import prompt_of, shorten, text
from ldmkit.records import Trajectory
from ldmkit.records.files import write_atomically

__all__ = ["page_html", "write_page"]

STYLE = """
:root { color-scheme: light dark; background: light-dark(#fbfaf8, #17181b);
  color: light-dark(#1d1f23, #e7e6e3); }
body { margin: 0 auto; max-width: 1000px; padding: 40px 28px; }
footer { font: 12px/1.4 system-ui, sans-serif; margin-top: 36px; opacity: 0.6; }
@media (max-width: 640px) { body { padding: 20px 14px; } }
"""


def page_html(traj: Trajectory, batch: int = 0) -> str:
    """The page as one string."""
    markup, script = fragment(traj, batch)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    title = text(shorten(prompt_of(traj, batch), 80) or "A recorded run")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>{markup}</main>\n"
        f"<footer>{_footer(traj)}</footer>\n"
        f'<script type="module">{script}</script>\n</body>\n</html>\n'
    )


def _footer(traj: Trajectory) -> str:
    versions = " · ".join(f"{name} {version}" for name, version in traj.versions.items())
    return text(f"Recorded with {shorten(versions, 300)}" if versions else "Recorded with ldmkit")


def write_page(traj: Trajectory, path: str | PathLike[str], *, batch: int = 0) -> Path:
    """Writes the page; see ``Trajectory.to_html``."""
    page = page_html(traj, batch)
    return write_atomically(path, lambda part: _write(part, page))


def _write(part: Path, page: str) -> None:
    part.write_text(page, encoding="utf-8")
