"""Docstrings as this package writes them, in the words that Sphinx expects."""

from __future__ import annotations

import dataclasses
from typing import Any

from docutils import nodes
from ipywidgets import Widget
from sphinx.application import Sphinx
from sphinx.util import inspect

COLON = "\ue000"  # stands for a colon that napoleon would take for the end of a type
BEFORE_NAPOLEON, AFTER_NAPOLEON = 400, 600
# Records come out of a function, but for these.
MADE_BY_HAND = ("Embedding", "Scene", "Critter")
MADE_BY_LDMKIT = ("ClipSpace", "Job", "SideBySide")


def hide_colons(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """``Returns:`` and properties say words, never ``type: words`` (types are annotated)."""
    first = [0] if what in ("property", "attribute") else []
    for i in first + [i + 1 for i, line in enumerate(lines[:-1]) if line.strip() == "Returns:"]:
        if i < len(lines):
            lines[i] = lines[i].replace(":", COLON)


def mark_code(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Brings the colons back, and puts a ``::`` before a module's indented commands."""
    lines[:] = [line.replace(COLON, ":") for line in lines]
    if what != "module":
        return
    for i in range(len(lines) - 1, 0, -1):
        if lines[i].startswith("    ") and not lines[i - 1].strip():
            lines[i:i] = ["::", ""]


def mend_constructor(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, answer: Any
) -> tuple[str, Any] | None:
    """Tells no constructor that nobody calls; a panel's own, not that of all widgets."""
    if what != "class":
        return None
    record = dataclasses.is_dataclass(obj) and obj.__name__ not in MADE_BY_HAND
    if record or obj.__name__ in MADE_BY_LDMKIT:
        return "", None
    if issubclass(obj, Widget):
        own = inspect.signature(obj.__init__, bound_method=True)
        return inspect.stringify_signature(own, unqualified_typehints=True), None
    return None


def mend_dashes(app: Sphinx, document: nodes.document) -> None:
    """Between a name and its words: Sphinx leaves the dash to smartquotes, which are off."""
    for words in list(document.findall(nodes.Text)):
        before = words.parent.children[: words.parent.index(words)]
        if before and words.startswith(" -- "):
            words.parent.replace(words, nodes.Text(f" – {words[4:]}"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the changes with autodoc."""
    app.connect("autodoc-process-docstring", hide_colons, priority=BEFORE_NAPOLEON)
    app.connect("autodoc-process-docstring", mark_code, priority=AFTER_NAPOLEON)
    app.connect("autodoc-process-signature", mend_constructor)
    app.connect("doctree-read", mend_dashes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
