"""``ArithmeticPanel`` in a real JupyterLab, on the embedded model with few steps."""

from __future__ import annotations

import pytest
from browser.lab import Sent, asked, brightness, only_from, run_all
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

SETUP = """
import ldmkit
unclip = ldmkit.load("critters-unclip")
panel = ldmkit.ArithmeticPanel(unclip, num_frames=5, num_inference_steps=5)
panel
""".strip()
# Runs, and keeps the kernel busy until the test has dragged the slider.
BUSY = """
import pathlib, time
panel.run()
while not pathlib.Path("dragged").exists():
    time.sleep(0.05)
""".strip()
SLOW = 120_000  # ms: the kernel imports torch first
HOSTILE = "a <img src=x onerror='window.ran=1'> cat"


def test_chips_theta_and_what_changed(lab, open_notebook, shots):
    sent = Sent()
    seen = open_notebook(lab.write("arithmetic.ipynb", SETUP, BUSY), sent.listen)
    page = seen.page
    run_all(page, wait=False)
    panel = page.locator(".ldm-walk-panel")
    view = panel.locator(".ldm-walking")
    expect(panel.locator(".ldm-sum")).to_have_text(
        "a big blue fox in the snow + a cat wearing a scarf − a cat", timeout=SLOW
    )
    expect(panel.locator(".ldm-nearest-row")).to_have_count(3, timeout=SLOW)
    expect(view).to_have_attribute("data-count", "5")

    # The kernel is busy: whatever the slider shows now lies in the browser.
    slider = view.locator(".ldm-slider")
    slider.focus()
    before = sent.messages
    for key, place in (("End", 4), ("ArrowLeft", 3), ("Home", 0), ("End", 4)):
        slider.press(key)
        expect(view).to_have_attribute("data-place", str(place))
    expect(view.locator(".ldm-walk-label")).to_have_text("θ = 0.4")
    expect(view.locator(".ldm-seen")).to_contain_text("Changed: wears nothing → scarf")
    expect(view.locator(".ldm-seen")).to_contain_text("Stayed: number, place")
    expect(view.locator(".ldm-nearest-row").first).to_contain_text("a blue fox with a scarf")
    assert view.locator(".ldm-own").count() == 2 + 1  # words in the plane, and in its legend
    assert sent.messages - before <= 4  # where it rested, never a picture
    (lab.root / "dragged").touch()

    # Terms are added, subtracted and taken out; what is wrong stays and is told.
    panel.get_by_role("button", name="Add a term").click()
    chips = panel.locator(".ldm-chip")
    expect(chips).to_have_count(4)
    chips.last.locator(".ldm-words-field").fill(HOSTILE)
    chips.last.get_by_role("button", name="−").click()
    expect(panel.locator(".ldm-sum")).to_contain_text(f"− {HOSTILE}")
    weight = chips.last.locator(".ldm-weight input")
    weight.fill("99")
    weight.press("Tab")
    wrong = panel.locator(".ldm-message .ldm-wrong")
    expect(wrong).to_contain_text("The weight of term 4 must be between -10 and 10")
    page.screenshot(path=shots / "arithmetic-light.png")
    chips.last.locator(".ldm-small").first.click()
    expect(chips).to_have_count(3)
    expect(wrong).to_have_count(0)
    panel.locator(".ldm-set-theta input").fill("0.3")
    panel.locator(".ldm-set-theta input").press("Tab")
    panel.get_by_role("button", name="Run", exact=True).click()
    expect(view.locator(".ldm-walk-label")).to_have_text("θ = 0.3", timeout=60_000)
    expect(panel.locator(".ldm-status-line")).to_contain_text("5 pictures in")
    panel.get_by_role("button", name="GIF").click()
    expect(panel.locator(".ldm-link a")).to_have_attribute(
        "download", "a-big-blue-fox-in-the-snow-a-cat-wearing-a-scarf-a.gif"
    )
    client = lab.kernel()
    assert asked(client, "(panel.place, panel.result.t[-1].item())") == "(4, 0.3)"
    client.stop_channels()

    page.evaluate(
        "jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})"
    )
    expect(page.locator("body")).to_have_attribute("data-jp-theme-light", "false")
    expect(panel.locator(".ldm-sum")).to_be_visible()
    page.wait_for_timeout(500)  # colours fade
    assert brightness(panel.locator(".ldm-sum"), "color") > 400
    panel.screenshot(path=shots / "arithmetic-dark.png")
    assert page.evaluate("window.ran") is None
    only_from(lab, seen)
