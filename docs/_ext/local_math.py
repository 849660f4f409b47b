"""Formulas as MathML, which browsers draw themselves: MathJax would come from a network."""

from __future__ import annotations

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def inline(writer: HTML5Translator, node: nodes.math) -> None:
    """Writes a formula within a line."""
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def block(writer: HTML5Translator, node: nodes.math_block) -> None:
    """Writes a formula on lines of its own."""
    writer.body.append(f"<div>{tex2mathml(node.astext(), as_block=True)}</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the renderer and chooses it."""
    app.add_html_math_renderer("local", (inline, None), (block, None))
    app.connect("config-inited", lambda app, config: setattr(config, "html_math_renderer", "local"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
