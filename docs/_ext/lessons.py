"""The notebooks as pages: copied beside the other sources, readable without a kernel.

A record's output plays in a page as it stands. A panel can't: it talks to a kernel. Its place is
taken by its screenshot from ``docs/images`` (``PromptPanel`` -> ``prompt-panel.webp``).
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_nb.core.render import WIDGET_VIEW_MIMETYPE
from myst_nb.sphinx_ import NbMetadataCollector
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).parents[2]
FOLDER = "notebooks"  # below docs/, ignored by git
HOW_TO_RUN = (
    "*This page is the notebook {{download}}`{name} <../../notebooks/{name}>` with its outputs. To "
    "run it yourself: `ldmkit lab` copies all notebooks into a folder of yours and opens "
    "JupyterLab there.*"
)


def package_digest() -> str:
    """A short name for the package as it is, weights included."""
    files = [*ROOT.glob("ldmkit/**/*"), *ROOT.glob("tests/constraints.txt")]
    digest = hashlib.sha256()
    for path in sorted(p for p in files if p.is_file() and p.suffix not in (".pyc", ".md")):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def copy_notebooks(app: Sphinx, config: Config) -> None:
    """Brings docs/notebooks up to date; what didn't change is left alone, so isn't built again."""
    if Path(app.srcdir) != Path(app.confdir):  # other sources under this configuration: a test
        return
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(exist_ok=True)
    wanted = {path.name: _page(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    for path in folder.glob("*.ipynb"):
        if path.name not in wanted:
            path.unlink()
    for name, page in wanted.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != page:
            path.write_text(page, encoding="utf-8")


def _page(path: Path) -> str:
    """The notebook with a line under its title that says what it is."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    first = notebook["cells"][0]
    title, _, rest = "".join(first["source"]).partition("\n")
    first["source"] = f"{title}\n\n{HOW_TO_RUN.format(name=path.name)}\n{rest}"
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"


class StandIns(SphinxTransform):
    """Puts a picture and a sentence where a notebook shows a live widget."""

    default_priority = 200

    def apply(self, **kwargs: Any) -> None:
        """Changes the page that was just read."""
        for bundle in list(self.document.findall(nodes.container)):
            if bundle.get("nb_element") != "mime_bundle":
                continue
            by_type = {child["mime_type"]: child for child in bundle.children}
            if WIDGET_VIEW_MIMETYPE not in by_type:
                continue
            place = by_type[WIDGET_VIEW_MIMETYPE]
            plain = by_type["text/plain"].astext() if "text/plain" in by_type else ""
            place.children.clear()
            place += _stand_in(plain, Path(self.env.srcdir))
            bundle.children[:] = [place]
        # The widgets' state, megabytes that nothing here could show.
        NbMetadataCollector.get_js_files(self.env, self.env.docname).pop("ipywidgets_state", None)


def _stand_in(plain: str, folder: Path) -> nodes.container:
    name = (re.match(r"\w*", plain) or [""])[0]
    stem = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
    box = nodes.container(classes=["ldm-stand-in"])
    pictures = [(f"{stem}{dark}", theme) for dark, theme in (("", "light"), ("-dark", "dark"))]
    if all((folder / "images" / f"{file}.webp").exists() for file, _ in pictures):
        for file, theme in pictures:
            alt = f"A {name} in JupyterLab"
            box += nodes.image(uri=f"/images/{file}.webp", alt=alt, classes=[f"only-{theme}"])
        told = [
            _reference(name),
            nodes.Text(" lives in a running notebook. This is a picture of one."),
        ]
    else:
        told = [nodes.Text("A live widget stands here in a running notebook.")]
    box += nodes.paragraph("", "", *told)
    return box


def _reference(name: str) -> addnodes.pending_xref:
    target = {"refdomain": "py", "reftype": "class", "reftarget": f"ldmkit.{name}"}
    return addnodes.pending_xref("", nodes.literal(name, name), **target)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the two with Sphinx."""
    app.connect("config-inited", copy_notebooks)
    app.add_transform(StandIns)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
