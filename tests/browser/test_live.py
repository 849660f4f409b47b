"""A live ``PromptPanel`` in a real JupyterLab: letters are typed, pictures follow."""

from __future__ import annotations

import pytest
from browser.lab import only_from, run_all
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

SETUP = """
import ldmkit
pipe = ldmkit.load("critters", variant="steps4")
panel = ldmkit.PromptPanel(pipe, "a blue owl", seed=7, live=True)
panel
""".strip()
# Every picture that the browser draws, by what stands in the field then.
WATCH = """image => {
    window.drawn = [];
    const field = document.querySelector('.ldm-words-field');
    new MutationObserver(() => window.drawn.push(field.value))
        .observe(image, {attributes: true, attributeFilter: ['src']});
}"""


def test_the_picture_follows_the_letters(lab, open_notebook, shots):
    seen = open_notebook(lab.write("live.ipynb", SETUP))
    page = seen.page
    run_all(page)
    panel = page.locator(".ldm-prompt-panel")
    image = panel.locator(".ldm-stage img")
    expect(panel.locator(".ldm-thumb button:visible")).to_have_count(1, timeout=120_000)
    status = panel.locator(".ldm-status-line")
    expect(status).to_contain_text("4 steps in", timeout=60_000)

    image.evaluate(WATCH)
    before = image.get_attribute("src")
    field = panel.locator(".ldm-words-field")
    field.fill("")
    field.press_sequentially("a red cat with a top hat", delay=150)
    expect(image).not_to_have_attribute("src", before)
    while_typing = [words for words in page.evaluate("window.drawn") if words]
    assert {words for words in while_typing if not words.endswith("hat")}
    page.screenshot(path=shots / "live-typed.png")

    # It settles: the record is kept, once, and its player stands below.
    expect(panel.locator(".ldm-thumb button:visible")).to_have_count(2, timeout=60_000)
    expect(panel.locator(".ldm-player .ldm-prompt")).to_have_text("a red cat with a top hat")
    page.screenshot(path=shots / "live-settled.png")

    # A slider is dragged.
    slider = panel.locator(".ldm-set-num-inference-steps .noUi-handle")
    page.evaluate("window.drawn = []")
    slider.focus()
    for _ in range(3):
        slider.press("ArrowRight")
    expect(panel.get_by_text("was distilled for 4 DDIM steps")).to_be_visible(timeout=30_000)
    assert page.evaluate("window.drawn.length") >= 1
    page.screenshot(path=shots / "live-slider.png")
    only_from(lab, seen)
