"""The documentation: complete, and in a browser as in a notebook, without a kernel or a network.

Sphinx is of extra "docs", which the other tests don't need: without it the pages' tests are
skipped, unless LDMKIT_REQUIRE_DOCS=1 (CI sets it).
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import v4
from playwright.sync_api import expect
from records.make import make

import ldmkit
from ldmkit import critters

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.rst"))
DIRECTIVE = re.compile(r"^\.\. (currentmodule|auto\w+|data):: *(\S+)", re.MULTILINE)


def described():
    """Full names of all that the reference describes."""
    names = set()
    for page in (DOCS / "api").glob("*.rst"):
        module = "ldmkit"
        for directive, name in DIRECTIVE.findall(page.read_text(encoding="utf-8")):
            if directive in ("currentmodule", "automodule"):
                module = name
            names.add(name if name.startswith("ldmkit.") else f"{module}.{name}")
    return names


@pytest.mark.parametrize("package", [ldmkit, critters], ids=["ldmkit", "critters"])
def test_every_public_name_is_in_the_reference(package):
    wanted = {f"{package.__name__}.{name}" for name in package.__all__ if name != "__version__"}
    missing = sorted(wanted - described())
    assert not missing, f"add to docs/api/*.rst, such as '.. autofunction:: {missing[0]}'"


def test_every_recipe_is_in_the_reference():
    recipes = {path.stem for path in (ROOT / "ldmkit/recipes").glob("[a-z]*.py")}
    missing = sorted(recipes - {name.rpartition(".")[2] for name in described()})
    assert not missing, (
        f"add to docs/api/recipes.rst: '.. automodule:: ldmkit.recipes.{missing[0]}'"
    )


def test_pictures_of_the_pages_exist_light_and_dark():
    pages = [ROOT / "README.md", *DOCS.glob("*.md")]
    shown = {
        (page.parent / path).resolve()
        for page in pages
        for path in re.findall(r"[\w./-]+/[\w-]+\.(?:png|webp)", page.read_text(encoding="utf-8"))
    }
    assert len(shown) >= 9
    assert {path for path in shown if not path.is_file()} == set()
    light = {path.name for path in shown if path.suffix == ".webp" and "-dark" not in path.name}
    assert {name.replace(".webp", "-dark.webp") for name in light} <= {p.name for p in shown}
    assert all(path.stat().st_size < 300_000 for path in (DOCS / "images").iterdir())


@pytest.mark.parametrize("name", [name for name in ldmkit.__all__ if name.endswith("Panel")])
def test_every_panel_has_its_picture(name):
    """It stands in for the panel in the pages of the notebooks."""
    stem = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
    for file in (f"{stem}.webp", f"{stem}-dark.webp"):
        assert (DOCS / "images" / file).is_file(), "see docs/make_images.py"


# --- pages, by Sphinx -----------------------------------------------------------------------------


def sphinx(*words):
    if importlib.util.find_spec("sphinx") is None or importlib.util.find_spec("myst_nb") is None:
        told = 'Sphinx is not installed; pip install -c tests/constraints.txt -e ".[docs]" adds it.'
        if os.environ.get("LDMKIT_REQUIRE_DOCS") == "1":
            pytest.fail(told)
        pytest.skip(told)
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", *map(str, words)],
        env=os.environ | {"LDMKIT_DOCS_EXECUTE": "off"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_builds_without_a_warning(tmp_path):
    sphinx(DOCS, tmp_path / "html")
    pages = {path.relative_to(tmp_path / "html").as_posix() for path in tmp_path.rglob("*.html")}
    lessons = {f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert lessons | {"index.html", "panels.html", "model-card.html", "changelog.html"} <= pages
    for page in tmp_path.rglob("*.html"):
        # Links to read on are welcome; what a page needs to be read is not to come from elsewhere.
        fetched = re.findall(
            r'<(?:script|img|link)[^>]+(?:src|href)="(https?:)?//', page.read_text()
        )
        assert fetched == [], page.name


VIEW = {"application/vnd.jupyter.widget-view+json": {"model_id": "ab", "version_major": 2}}
VIEW_STATE = "application/vnd.jupyter.widget-state+json"
STATE = {"state": {"ab": {"model_name": "VBoxModel", "state": {}}}, "version_major": 2}


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    """The page of a notebook with two records, a panel, another widget, and a formula."""
    folder = tmp_path_factory.mktemp("lesson")
    shown = [
        make(32)._repr_mimebundle_(),
        make(8)._repr_mimebundle_(),
        VIEW | {"text/plain": "PromptPanel('a cat', None)"},
        VIEW | {"text/plain": "HBox(children=(IntSlider(value=0),))"},
    ]
    metadata = {"widgets": {VIEW_STATE: STATE}, "language_info": {"name": "python"}}
    notebook = v4.new_notebook(metadata=metadata)
    notebook.cells = [v4.new_markdown_cell("# Lesson\n\n$x_t = \\alpha x_0 + \\sigma \\epsilon$")]
    for data in shown:
        output = v4.new_output("execute_result", data, execution_count=1)
        notebook.cells.append(v4.new_code_cell("it", outputs=[output], execution_count=1))
    source = folder / "source"
    source.mkdir()
    nbformat.write(notebook, source / "index.ipynb")
    (source / "images").symlink_to(DOCS / "images")
    sphinx("-c", DOCS, source, folder / "html")
    return folder / "html/index.html"


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 400)])
def test_a_lesson_plays_without_kernel_and_network(new_page, lesson, shots, scheme, width):
    seen = new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    seen.page.goto(lesson.as_uri())
    players = seen.page.locator(".ldm-player")
    expect(players).to_have_count(2)
    expect(seen.page.locator(".ldm-sheet:visible")).to_have_count(0)
    for player in players.all():
        expect(player).to_have_attribute("data-step", "1")
    players.nth(0).locator(".ldm-slider").fill("19")
    expect(players.nth(0)).to_have_attribute("data-step", "20")
    expect(players.nth(1)).to_have_attribute("data-step", "1")  # each slider moves its own
    ids = seen.page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))

    # Where panels stood: a picture of the panel, a sentence for any other widget.
    stands = seen.page.locator(".ldm-stand-in")
    expect(stands).to_have_count(2)
    expect(stands.nth(0).locator(f"img.only-{scheme}")).to_be_visible()
    expect(stands.nth(0).locator("img:visible")).to_have_count(1)
    expect(stands.nth(0)).to_contain_text("PromptPanel lives in a running notebook")
    expect(stands.nth(1)).to_contain_text("A live widget stands here")
    expect(seen.page.get_by_text("HBox(children")).to_have_count(0)
    assert "widget-state" not in lesson.read_text(encoding="utf-8")
    expect(seen.page.locator("math")).to_have_count(1)
    seen.page.screenshot(path=shots / f"docs-{scheme}-{width}.png", full_page=True)
    assert [url for url in seen.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert (seen.errors, seen.dialogs) == ([], [])
    assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
