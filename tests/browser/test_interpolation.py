"""``InterpolationPanel`` in a real JupyterLab, on the embedded model with few steps."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from browser.lab import Sent, asked, brightness, only_from, run_all
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

SETUP = """
import ldmkit
unclip = ldmkit.load("critters-unclip")
panel = ldmkit.InterpolationPanel(unclip, 3, "a blue dog", num_frames=5, num_inference_steps=5)
panel
""".strip()
# Runs, and keeps the kernel busy until the test has dragged the slider.
BUSY = """
import pathlib, time
panel.run()
while not pathlib.Path("walked").exists():
    time.sleep(0.05)
""".strip()
SLOW = 120_000  # ms: the kernel imports torch first
GIF = re.compile("^data:image/gif;base64,")
NAME = "a-small-brown-bear-in-the-city-to-a-img-src-x-oner.gif"
HOSTILE = "a <img src=x onerror='window.ran=1'> cat"
# What the shown picture holds, drawn by the browser itself.
PIXELS = """async image => {
    await image.decode();
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext('2d');
    context.drawImage(image, 0, 0);
    return Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data);
}"""


def picture(view):
    """The one picture that is visible, as (H * W * 4,)."""
    frames = view.locator(".ldm-frame:visible")
    assert frames.count() == 1
    return np.array(frames.evaluate(PIXELS), int)


def test_dragging_keyboard_and_what_is_wrong(lab, open_notebook, shots):
    sent = Sent()
    seen = open_notebook(lab.write("interpolation.ipynb", SETUP, BUSY), sent.listen)
    page = seen.page
    run_all(page, wait=False)
    panel = page.locator(".ldm-walk-panel")
    view = panel.locator(".ldm-walking")
    expect(view).to_have_attribute("data-count", "5", timeout=SLOW)
    expect(panel.locator(".ldm-nearest-row")).to_have_count(3, timeout=SLOW)
    expect(panel.locator(".ldm-end").first.locator("img")).to_be_visible()

    # The kernel is busy: whatever the slider shows now lies in the browser.
    slider = view.locator(".ldm-slider")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    before, shown = sent.messages, []
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for i in range(5):
        page.mouse.move(box["x"] + 2 + (box["width"] - 4) * i / 4, box["y"] + box["height"] / 2)
        expect(view).to_have_attribute("data-place", str(i))
        shown.append(picture(view))
    page.mouse.up()
    for one, other in pairwise(shown):
        assert np.abs(one - other).max() > 8  # another picture at every place
    expect(view.locator(".ldm-walk-label")).to_have_text("a blue dog")
    expect(view.locator("p.ldm-place")).to_have_text("t = 1")
    expect(view.locator(".ldm-seen")).to_contain_text("The judge sees")
    assert view.locator(".ldm-own").count() == 1 + 1  # in the plane, and in its legend

    slider.focus()
    for key, place in (("Home", 0), ("ArrowRight", 1), ("End", 4), ("ArrowLeft", 3)):
        slider.press(key)
        expect(view).to_have_attribute("data-place", str(place))
        assert np.array_equal(picture(view), shown[place])
    slider.press(" ")
    expect(view.get_by_role("button", name="Pause")).to_be_visible()
    expect(view).not_to_have_attribute("data-place", "3")  # it plays
    slider.press(" ")
    expect(view.get_by_role("button", name="Play")).to_be_visible()
    slider.press("Home")
    assert sent.messages - before <= 8  # where it rested, never a picture
    (lab.root / "walked").touch()
    client = lab.kernel()
    assert asked(client, "(panel.job.state, len(panel._jobs))") == "('done', 1)"  # no run of it

    # What is wrong stays in its field and is not run; what is right is.
    to = panel.locator(".ldm-set-b")
    to.locator("select").first.select_option(label="Picture")
    panel.get_by_role("button", name="Run", exact=True).click()
    wrong = panel.locator(".ldm-message .ldm-wrong")
    expect(wrong).to_have_text("To: no picture is chosen yet; choose one, or take words.")
    page.screenshot(path=shots / "interpolation-wrong.png")
    to.locator("select").first.select_option(label="Words")
    to.locator(".ldm-words-field").fill(HOSTILE)
    seed = panel.locator(".ldm-set-seed input")
    seed.fill("-4")
    seed.press("Tab")
    expect(wrong).to_contain_text("seed must be between 0 and")
    panel.get_by_role("button", name="Run", exact=True).click()
    expect(wrong).to_contain_text("seed must be between 0 and")
    assert asked(client, "len(panel._jobs)") == "1"
    seed.fill("4")
    seed.press("Tab")
    expect(wrong).to_have_count(0)
    to.locator(".ldm-words-field").press("Control+Enter")
    expect(view.locator(".ldm-prompt")).to_contain_text(HOSTILE, timeout=60_000)
    expect(panel.locator(".ldm-status-line")).to_contain_text("5 pictures in")
    panel.get_by_role("button", name="GIF").click()
    expect(panel.locator(".ldm-link a")).to_have_attribute("href", GIF)
    expect(panel.locator(".ldm-link a")).to_have_attribute("download", NAME)
    assert asked(client, "(panel.value['seed'], panel.result.seed, panel.place)") == "(4, 4, 0)"
    client.stop_channels()
    page.screenshot(path=shots / "interpolation-light.png")

    page.evaluate(
        "jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})"
    )
    expect(page.locator("body")).to_have_attribute("data-jp-theme-light", "false")
    expect(view.locator(".ldm-walk-label")).to_be_visible()
    page.wait_for_timeout(500)  # colours fade
    assert brightness(view.locator(".ldm-walk-label"), "color") > 400
    panel.screenshot(path=shots / "interpolation-dark.png")
    assert page.evaluate("window.ran") is None
    assert (seen.errors, seen.dialogs) == ([], [])
    only_from(lab, seen)
