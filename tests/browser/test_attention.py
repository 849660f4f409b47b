"""Words above the clean estimate: pointed at, pressed, compared, layer by layer."""

import numpy as np
import pytest
from playwright.sync_api import expect
from records.make import make

from ldmkit.records import AttentionMaps

pytestmark = pytest.mark.browser

PIXELS = """c => {
    const copy = document.createElement("canvas");
    Object.assign(copy, {width: c.width, height: c.height});
    const pen = copy.getContext("2d", {willReadFrequently: true});
    pen.drawImage(c, 0, 0);
    return {w: c.width, h: c.height, d: [...pen.getImageData(0, 0, c.width, c.height).data]};
}"""


def maps(steps):
    """“hat” is looked at above, “<b>cat” below; a second layer knows another place of the hat."""
    small = np.zeros((steps, 2, 1, 4, 4), np.float32)
    large = np.zeros((steps, 2, 1, 8, 8), np.float32)
    large[:, 0, 0, :2], large[:, 1, 0, 6:] = 1, 1
    large[0] = 0  # nothing in the first step
    small[:, 0, 0, :, :1] = 1
    return AttentionMaps(
        prompt="hat <b>cat",
        tokens=("hat", "<b>cat"),
        words=("hat", "<b>cat"),
        rows=((0,), (1,)),
        layers=(("up_blocks.0.attn2", 8, 8, 1), ("mid_block.attn2", 4, 4, 1)),
        maps=(large, small),
    )


def heat(page):
    """(h, w, 4) of the canvas above the clean estimate."""
    got = page.locator(".ldm-lane[data-lane='denoised'] .ldm-heat").evaluate(PIXELS)
    return np.uint8(got["d"]).reshape(got["h"], got["w"], 4)


def test_words_light_up(new_page, tmp_path, shots):
    file = make(4, attention=maps(4)).to_html(tmp_path / "page.html")
    seen = new_page(viewport={"width": 1000, "height": 760})
    page = seen.page
    page.goto(file.as_uri())
    expect(page.locator(".ldm-player")).to_have_attribute("data-step", "1")
    page.locator(".ldm-slider").press("End")
    chips = page.locator(".ldm-word")
    expect(chips).to_have_text(["hat", "<b>cat"])
    lane = page.locator(".ldm-lane[data-lane='denoised']")
    expect(lane).not_to_have_class("ldm-lane ldm-lit")
    chips.first.hover()
    expect(lane).to_have_class("ldm-lane ldm-lit")
    light = heat(page)[..., 3].astype(int)
    assert light[:2].mean() > 5 * light[4:, 4:].mean() + 50
    page.mouse.move(0, 0)
    expect(lane).not_to_have_class("ldm-lane ldm-lit")
    chips.first.click()
    chips.nth(1).click()
    expect(page.locator(".ldm-word[aria-pressed='true']")).to_have_count(2)
    page.mouse.move(0, 0)
    both = heat(page).astype(int)
    assert both[0, 4, 0] > both[0, 4, 2]  # amber above,
    assert both[7, 4, 2] > both[7, 4, 0]  # blue below
    page.screenshot(path=shots / "attention.png")
    chips.nth(1).click()
    page.mouse.move(0, 0)
    page.get_by_label("Layer").select_option("mid attn2")
    only = heat(page)[..., 3].astype(int)
    assert only.shape == (4, 4)
    assert only[:, 0].min() > 200
    assert only[:, 1:].max() == 0
    page.get_by_label("Layer").select_option("up 0 attn2")
    page.locator(".ldm-slider").press("Home")
    expect(page.locator(".ldm-player")).to_have_attribute("data-step", "1")
    assert heat(page)[..., 3].max() == 0  # the first step looked at nothing
    chips.nth(1).focus()
    page.keyboard.press("Enter")
    expect(chips.nth(1)).to_have_attribute("aria-pressed", "true")
    assert page.locator("b", has_text="cat").count() == 0
    assert seen.errors == []
    assert seen.requests == [file.as_uri()]
