"""One self-contained page: the player in a file that can be mailed.

Its content security policy allows the one script by its hash and nothing from any network, so
that even a mistake in escaping could neither run a prompt nor call home.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from ldmkit.figures.fragment import fragment
from ldmkit.figures.words import prompt_of, shorten, text
from ldmkit.records import Trajectory
from ldmkit.records.record import write_atomically

__all__ = ["made_with", "page_html", "whole_page", "write_page", "write_text"]

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
    title = shorten(prompt_of(traj, batch), 80) or "A recorded run"
    return whole_page(markup, script, title=title, footer=made_with("Recorded", traj.versions))


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


def write_page(traj: Trajectory, path: str | PathLike[str], *, batch: int = 0) -> Path:
    """Writes the page; see ``Trajectory.to_html``."""
    return write_text(path, page_html(traj, batch))


def write_text(path: str | PathLike[str], page: str) -> Path:
    """Writes a page whole or not at all; returns its path."""

    def write(part: Path) -> None:
        part.write_text(page, encoding="utf-8")

    return write_atomically(path, write)
