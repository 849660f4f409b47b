"""Records and panels in a real JupyterLab: trusted, reopened, mailed, dark, live."""

from __future__ import annotations

import json

import numpy as np
import pytest
from browser.lab import (
    KERNEL_ANSWERS,
    asked,
    at_step,
    brightness,
    command,
    only_from,
    pixels,
    run_all,
)
from playwright.sync_api import expect
from records.make import PROMPT, make

pytestmark = pytest.mark.browser

SHOW = 'from ldmkit import Trajectory\ntraj = Trajectory.open("run.safetensors")\ntraj'
PANEL = """
import ipywidgets, traitlets
from ldmkit import Trajectory, TrajectoryPanel
panel = TrajectoryPanel(Trajectory.open("run.safetensors"), step=1)
heard = ipywidgets.Label().add_class("heard")
traitlets.dlink((panel, "step"), (heard, "value"), str)
ipywidgets.VBox([panel, heard])
""".strip()
LANES = ("latents", "denoised", "noise_pred")


def test_player_lives_is_saved_and_plays_without_a_kernel(lab, open_notebook, shots):
    name = lab.write("kept.ipynb", SHOW)
    seen = open_notebook(name)
    page = seen.page
    run_all(page)
    at_step(page, 1)
    expect(page.locator(".ldm-sheet")).to_be_hidden()
    first = {lane: pixels(page, lane) for lane in LANES}
    page.locator(".ldm-slider").fill("15")
    at_step(page, 16)
    assert all(not np.array_equal(pixels(page, lane), first[lane]) for lane in LANES)
    page.locator(".ldm-slider").press("ArrowRight")  # Lab would go to the next cell
    at_step(page, 17)
    page.screenshot(path=shots / "lab-cell.png")
    only_from(lab, seen)
    command(page, "docmanager:save")
    page.close()
    lab.end_sessions()
    outputs = json.loads((lab.root / name).read_text())["cells"][0]["outputs"]
    assert "text/html" in outputs[0]["data"]

    seen = open_notebook(name, without_kernels)
    page = seen.page
    page.locator(".jp-Dialog").get_by_role("button", name="No Kernel").click()
    at_step(page, 1)
    assert all(np.array_equal(pixels(page, lane), first[lane]) for lane in LANES)
    page.get_by_role("button", name="Play").click()
    expect(page.locator(".ldm-player")).not_to_have_attribute("data-step", "1")
    page.screenshot(path=shots / "lab-reopened.png")
    assert lab.api("sessions") == []
    only_from(lab, seen)


def without_kernels(page):
    """As on a machine where the notebook's kernel isn't installed."""
    none = json.dumps({"default": "", "kernelspecs": {}})
    page.route("**/api/kernelspecs*", lambda route: route.fulfill(body=none))


def test_untrusted_notebook_shows_the_sheet_and_runs_nothing(lab, open_notebook, shots):
    traj = make(32)
    bundle = traj._repr_mimebundle_()
    bundle["text/html"] += "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'>"
    name = lab.write("mailed.ipynb", "traj", outputs=[bundle])
    seen = open_notebook(name)
    page = seen.page
    pictures = page.locator(".ldm-sheet img")
    expect(pictures).to_have_count(3 * 8 + 1)
    expect(pictures.first).to_be_visible()
    alts = pictures.evaluate_all("images => images.map(i => [i.alt, i.naturalWidth])")
    assert all(PROMPT in alt and width > 0 for alt, width in alts)
    expect(page.locator(".jp-OutputArea script, .jp-OutputArea style")).to_have_count(0)
    expect(page.locator(".ldm-player")).to_have_count(0)
    page.evaluate(KERNEL_ANSWERS)  # time enough for a script
    assert page.evaluate("window.ran") is None
    expect(page.locator(".ldm-player")).to_have_count(0)
    page.screenshot(path=shots / "lab-untrusted.png")
    only_from(lab, seen)

    lab.trust(name)  # the same file, trusted: what was kept from running does run
    page = open_notebook(name).page
    at_step(page, 1)
    page.wait_for_function("window.ran")


def test_panel_and_kernel_share_the_step(lab, open_notebook, shots):
    seen = open_notebook(lab.write("panel.ipynb", PANEL))
    page = seen.page
    run_all(page)
    at_step(page, 2)  # step=1 counts from 0
    before = pixels(page, "latents")
    page.locator(".ldm-slider").fill("11")
    at_step(page, 12)
    assert not np.array_equal(pixels(page, "latents"), before)
    expect(page.locator(".heard")).to_have_text("11")
    client = lab.kernel()
    try:
        assert asked(client, "panel.step") == "11"
        asked(client, "setattr(panel, 'step', 29)")
        at_step(page, 30)
        assert page.locator(".ldm-slider").input_value() == "29"
        asked(client, "setattr(panel, 'lanes', ['denoised'])")
        expect(page.locator(".ldm-lane[data-lane=noise_pred]")).to_have_count(0)
        at_step(page, 30)
        asked(client, "setattr(panel, 'lanes', ['latents', 'denoised', 'noise_pred'])")
        expect(page.locator(".ldm-lane[data-lane=noise_pred]")).to_have_count(1)
        at_step(page, 30)
        page.screenshot(path=shots / "lab-panel.png")
        # The style sheet alone hides the stand-in, also while the kernel is too busy to do so.
        stock = page.locator(".ldm-stock")
        shown = stock.evaluate("e => (e.style.display = '', getComputedStyle(e).display)")
        assert shown == "none"
        asked(client, "panel.close()")
        expect(page.locator(".ldm-player")).to_have_count(0)
    finally:
        client.stop_channels()
    only_from(lab, seen)


def test_stock_widgets_stand_in_without_anywidget(lab, open_notebook, shots):
    def without_anywidget(page):
        page.route("**/extensions/anywidget/**", lambda route: route.abort())

    seen = open_notebook(lab.write("hub.ipynb", PANEL), without_anywidget)
    page = seen.page
    run_all(page)
    stock = page.locator(".ldm-stock")
    expect(stock.get_by_text("The player did not start, so plain widgets stand in")).to_be_visible()
    expect(page.locator(".ldm-player")).to_have_count(0)
    expect(page.get_by_text("Click to show javascript error")).to_be_hidden()
    picture = stock.locator("img")
    before = picture.get_attribute("src")
    thumb = stock.locator(".noUi-handle, .ui-slider-handle").first
    thumb.press("ArrowRight")
    expect(page.locator(".heard")).to_have_text("2")
    expect(stock.get_by_text("Step 3 of 32")).to_be_visible()
    expect(picture).not_to_have_attribute("src", before)
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 752
    page.screenshot(path=shots / "lab-stock.png")
    only_from(lab, seen)


def test_dark_theme(lab, open_notebook, shots):
    lab.theme("JupyterLab Dark")
    seen = open_notebook(lab.write("dark.ipynb", SHOW, PANEL))
    page = seen.page
    run_all(page)
    players = page.locator(".ldm-player")
    expect(players).to_have_count(2)
    for player in players.all():
        player.locator(".ldm-slider").fill("19")
        expect(player).to_have_attribute("data-step", "20")
        ink = brightness(player.locator(".ldm-prompt"), "color")
        assert ink > 400, "light ink on Lab's dark paper"
    assert brightness(page.locator(".jp-Notebook"), "backgroundColor") < 200
    page.screenshot(path=shots / "lab-dark.png")
    only_from(lab, seen)
