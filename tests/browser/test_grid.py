"""Grids in a real JupyterLab: mailed and untrusted; live with the number of steps on a slider."""

from __future__ import annotations

from itertools import pairwise

import pytest
from browser.lab import command, only_from, run_all
from playwright.sync_api import expect
from records.make_grid import make_grid

pytestmark = pytest.mark.browser

PANEL = """
from ldmkit import ComparePanel, Grid
panel = ComparePanel(Grid.open("grid.safetensors"), num_inference_steps=4)
panel
""".strip()


@pytest.fixture(scope="module")
def grid():
    return make_grid(size=(64, 64))


def sources(page, selector):
    """What the pictures show, once all of them are decoded."""
    return page.locator(selector).evaluate_all(
        "images => Promise.all(images.map(async i => (await i.decode(), i.currentSrc)))"
    )


def test_a_mailed_notebook_shows_all_pictures_and_numbers(lab, grid, open_notebook, shots):
    name = lab.write("grid.ipynb", "grid", outputs=[grid._repr_mimebundle_()])
    lab.theme("JupyterLab Dark")
    seen = open_notebook(name)
    page = seen.page
    expect(page.locator(".ldm-sheet img")).to_have_count(24)
    assert len(set(sources(page, ".ldm-sheet img"))) == 24
    output = page.locator(".jp-RenderedHTMLCommon").last
    expect(output).to_contain_text("a pig at night")
    expect(output).to_contain_text("low, high: 95 % interval of obedience")
    heads = page.locator(".ldm-sheet th[scope=col]").all_inner_texts()
    assert heads[:4] == ["2 steps", "4 steps", "8 steps", "16 steps"]
    boxes = [page.locator(".ldm-sheet img").nth(i).bounding_box() for i in (0, 1, 4)]
    assert boxes[0]["y"] == boxes[1]["y"] < boxes[2]["y"]
    assert 60 < boxes[1]["x"] - boxes[0]["x"] < 120  # columns keep together
    page.screenshot(path=shots / "lab-grid-mailed.png")
    only_from(lab, seen)


def test_the_slider_changes_pictures_and_the_kernel_hears(lab, grid, open_notebook, shots):
    grid.save(lab.root / "grid.safetensors")
    name = lab.write("compare.ipynb", PANEL, "print(panel.value)")
    seen = open_notebook(name)
    page = seen.page
    run_all(page)
    panel = page.locator(".ldm-compare")
    expect(panel.get_by_text("a red cat", exact=True)).to_be_visible()
    expect(panel.locator("img")).to_have_count(2 + 8)
    before = sources(page, ".ldm-compare img")
    panel.locator("[role=slider]").focus()
    panel.locator("[role=slider]").press("ArrowRight")
    expect(panel.locator(".widget-readout")).to_have_text("8 steps")
    expect(panel.get_by_text("0.30 s a picture, 8 calls").first).to_be_visible()
    after = sources(page, ".ldm-compare img")
    assert before[0] != after[0]
    assert before[2:] == after[2:]  # the overview shows the same pictures, another column marked
    panel.locator("select").select_option(label="3: a pig at night")
    expect(panel.get_by_text("a pig at night", exact=True)).to_be_visible()
    page.screenshot(path=shots / "lab-compare.png")
    page.locator(".jp-CodeCell").nth(1).locator(".cm-content").click()
    command(page, "notebook:run-cell")
    words = "{'num_inference_steps': 8, 'prompt': 'a pig at night'}"
    expect(page.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea-output")).to_have_text(words)
    only_from(lab, seen)


LONG = ("a very detailed oil painting of a red cat with a crown " * 5, "Elektrizitätswerk" * 9, "x")


@pytest.mark.parametrize(
    "axes",
    [
        {"seed": (1, 2), "prompt": LONG},  # captions above the columns
        {"prompt": LONG, "num_inference_steps": (2, 4, 8)},  # and above the rows
        {"negative_prompt": LONG, "num_inference_steps": (2, 4, 8)},  # and at their left
        {"prompt": LONG},  # and under the pictures
    ],
)
def test_long_words_push_no_column(new_page, tmp_path, axes):
    page = new_page(viewport={"width": 700, "height": 700}).page
    page.goto(make_grid(axes, size=(64, 64)).to_html(tmp_path / "g.html").as_uri())
    row = page.locator(".ldm-sheet tr:has(img)").first.locator("img")
    lefts = [row.nth(i).bounding_box()["x"] for i in range(3)]
    assert all(72 <= right - left <= 88 for left, right in pairwise(lefts))
    assert lefts[0] < 240
    right = "s => Math.max(...[...document.querySelectorAll(s)].map(e => e.scrollWidth))"
    assert page.evaluate(right, ".ldm-sheet, .ldm-sheet *") <= 660
    assert page.evaluate(right, "table") < 1300  # of eleven columns, which are scrolled
    for words in axes.get("num_inference_steps", ()):  # short ones stay on one line
        assert page.get_by_text(f"{words} steps", exact=True).bounding_box()["height"] < 24
