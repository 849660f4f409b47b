"""A walk's page in a real browser: the slider shows each picture, nothing leaves the file."""

from __future__ import annotations

import base64
import dataclasses

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from ldmkit.figures.html import asset, module
from ldmkit.figures.webp import webp
from ldmkit.panels.walk_view import Shown
from ldmkit.records import Walk

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>window.ran=1</script><img src=x onerror='window.ran=1'>\"'&lt;b>"


@pytest.fixture(scope="module")
def walk():
    shades = [Image.new("RGB", (64, 48), (40 * i, 200 - 30 * i, 90)) for i in range(6)]
    labels = [f"{HOSTILE} {i}" for i in range(6)]
    t = np.linspace(0, 1, 6)
    return Walk(images=shades, labels=labels, t=t, space="pixel", axis="θ", verdicts=["a cat"] * 6)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 390)])
def test_the_slider_walks(new_page, walk, tmp_path, shots, scheme, width):
    file = walk.to_html(tmp_path / "a walk.html")
    seen = new_page(color_scheme=scheme, viewport={"width": width, "height": 700})
    seen.page.goto(file.as_uri())
    place = seen.page.locator(".ldm-record")
    expect(place).to_have_attribute("data-place", "0")
    seen.page.locator(".ldm-slider").focus()
    for _ in range(4):
        seen.page.keyboard.press("ArrowRight")
    expect(place).to_have_attribute("data-place", "4")
    large = seen.page.locator(".ldm-walk-image")
    assert large.get_attribute("src") == seen.page.locator(".ldm-sheet-frames img").nth(
        4
    ).get_attribute("src")
    expect(seen.page.locator(".ldm-walk-side")).to_contain_text("θ = 0.8")
    expect(seen.page.locator(".ldm-walk-words")).to_contain_text("onerror='window.ran=1'")
    seen.page.locator(".ldm-sheet-frames img").nth(2).click()
    expect(place).to_have_attribute("data-place", "2")
    expect(seen.page.locator(".ldm-slider")).to_have_value("2")
    seen.page.screenshot(path=shots / f"walk-{scheme}-{width}.png", full_page=True)
    assert [url for url in seen.requests if not url.startswith("data:")] == [file.as_uri()]
    assert (seen.errors, seen.dialogs) == ([], [])
    assert seen.page.evaluate("window.ran") is None
    assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("verdicts", [["a cat"] * 6, ()])
def test_the_place_stands_once_beside_the_picture(new_page, walk, tmp_path, verdicts):
    labels = [f"θ = {t:.3g}" for t in walk.t]  # as a text diff's
    file = dataclasses.replace(walk, labels=labels, verdicts=verdicts).to_html(tmp_path / "w.html")
    page = new_page().page
    page.goto(file.as_uri())
    page.locator(".ldm-slider").fill("3")
    expect(page.locator(".ldm-walk-words")).to_have_text("a cat" if verdicts else "θ = 0.6")
    expect(page.locator(".ldm-walk-side .ldm-details")).to_have_text("θ = 0.6" if verdicts else "")
    expect(page.locator(".ldm-slider")).to_have_attribute(
        "aria-valuetext", "θ = 0.6, a cat" if verdicts else "θ = 0.6"
    )


def test_it_plays_there_and_back(new_page, walk, tmp_path):
    page = new_page().page
    page.clock.install()
    page.goto(walk.to_html(tmp_path / "a walk.html").as_uri())
    page.clock.pause_at(page.evaluate("Date.now() + 1000"))
    place = page.locator(".ldm-record")
    page.get_by_role("button", name="Play").click()
    seen = []
    for _ in range(7):
        page.clock.run_for(220)
        seen.append(int(place.get_attribute("data-place")))
    assert seen == [1, 2, 3, 4, 5, 4, 3]
    page.get_by_role("button", name="Pause").click()
    page.clock.run_for(2000)
    expect(place).to_have_attribute("data-place", "3")


def test_without_scripts_the_row_stays(new_page, walk, tmp_path):
    file = walk.to_html(tmp_path / "a walk.html")
    seen = new_page(java_script_enabled=False)
    seen.page.goto(file.as_uri())
    expect(seen.page.locator(".ldm-sheet-frames img")).to_have_count(6)
    expect(seen.page.locator(".ldm-sheet-frames img").last).to_be_visible()
    expect(seen.page.locator(".ldm-slider")).to_have_count(0)


GROWING = """async ([source, frames, data]) => {
    const url = URL.createObjectURL(new Blob([source], {type: "text/javascript"}));
    const {default: view} = await import(url);
    const state = {data, count: 0, place: 0, awake: false}, changed = {};
    window.made = count => {
        for (let i = 0; i < count; i++)
            state[`frame_${i}`] = Uint8Array.from(atob(frames[i]), letter => letter.charCodeAt(0));
        state.count = count;
        changed["change:count"]?.();
    };
    const on = (names, handler) => names.split(" ").forEach(name => { changed[name] = handler; });
    const set = (name, value) => { state[name] = value; };
    const model = {get: name => state[name], set, save_changes: () => {}, on, off: () => {}};
    made(1);
    view.render({model, el: document.body});
}"""


def test_while_pictures_come_the_slider_stands_under_the_last_one(new_page, walk, shots):
    """It is as long as the row of all that will be, and goes no further than what there is."""
    seen = new_page(viewport={"width": 1100, "height": 600})
    page = seen.page
    styles = asset("player.css") + asset("walk.css", "ldmkit.panels")
    page.set_content(f"<!doctype html><style>{styles}</style><body class=ldm-panel>")
    frames = [base64.b64encode(webp(picture, 64, 80)).decode() for picture in walk.images]
    data = Shown(walk.images, 6, walk.t, labels=walk.labels).data()
    page.evaluate(GROWING, [module("walk.mjs", "ldmkit.panels"), frames, data])
    slider, cells = page.locator(".ldm-slider"), page.locator(".ldm-cell")

    def apart():
        """From the thumb to the middle of the picture shown, in pixels."""
        box, shown = slider.bounding_box(), page.locator(".ldm-cell.ldm-shown").bounding_box()
        share = int(slider.input_value()) / int(slider.get_attribute("max"))
        thumb = box["x"] + box["width"] * (0.5 + share * 5) / 6
        return abs(thumb - shown["x"] - shown["width"] / 2)

    for count in (2, 4):
        page.evaluate("count => made(count)", count)
        expect(slider).to_have_value(str(count - 1))
        expect(cells).to_have_count(6)
        assert apart() < 12
    page.screenshot(path=shots / "walk-growing.png")
    for key in ("End", "ArrowRight"):
        slider.press(key)
        expect(slider).to_have_value("3")
    slider.press("ArrowLeft")
    expect(slider).to_have_value("2")
    page.evaluate("made(6)")
    slider.press("End")
    expect(slider).to_have_value("5")
    assert apart() < 12
    assert (seen.errors, seen.dialogs) == ([], [])
