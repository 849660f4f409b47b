"""Records side by side, linked panels and what scrubbing costs, in a real JupyterLab."""

from __future__ import annotations

import numpy as np
import pytest
from browser.lab import Sent, asked, at_step, brightness, canvas_pixels, only_from, run_all, scrub
from playwright.sync_api import expect
from records.make import make

from ldmkit.records.pictures import lane_array

pytestmark = pytest.mark.browser

COMPARE = """
import ipywidgets, traitlets
from ldmkit import Trajectory, TrajectoryPanel
short, long = (Trajectory.open(f"{n}.safetensors") for n in ("short", "run"))
panel = TrajectoryPanel(short, long)
heard = ipywidgets.Label().add_class("heard")
traitlets.dlink((panel, "step"), (heard, "value"), str)
ipywidgets.VBox([panel, heard])
""".strip()
LINKED = """
import traitlets
from ldmkit import Trajectory, TrajectoryPanel
traj = Trajectory.open("run.safetensors")
first, second = TrajectoryPanel(traj, lanes=["denoised"]), TrajectoryPanel(traj, lanes=["latents"])
traitlets.link((first, "step"), (second, "step"))
display(first, second)
""".strip()
BUSY = """
import pathlib, time
while not pathlib.Path("go").exists():
    time.sleep(0.05)
""".strip()


@pytest.fixture(scope="module", autouse=True)
def short(lab):
    traj = make(8)
    traj.save(lab.root / "short.safetensors")
    return traj


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_8_and_32_steps_under_one_slider(lab, open_notebook, shots, short, theme):
    lab.theme(f"JupyterLab {theme}")
    seen = open_notebook(lab.write(f"compare-{theme}.ipynb", COMPARE))
    page = seen.page
    run_all(page)
    at_step(page, 1)
    runs = page.locator(".ldm-column .ldm-title")
    expect(runs).to_have_text(["8 steps", "32 steps"])
    page.locator(".ldm-slider").fill("31")
    at_step(page, 32)
    expect(page.locator(".ldm-column .ldm-step")).to_have_text(
        ["Step 8 of 8 · timestep 31", "Step 32 of 32 · timestep 31"]
    )
    last = page.locator('.ldm-lane[data-lane="latents"] canvas')
    for canvas, traj in zip(last.all(), (short, make(32)), strict=True):
        want = lane_array(traj, "latents")[-1]
        assert np.array_equal(canvas_pixels(canvas).reshape(16, 16, 4)[..., :3], want)
    page.locator(".ldm-slider").press("Home")
    page.locator(".ldm-slider").press("PageUp")  # a tenth
    expect(page.locator(".heard")).not_to_have_text("31")
    expect(page.locator(".ldm-align")).to_contain_text("Lined up by noise")
    ink = brightness(page.locator(".ldm-prompt"), "color")
    assert (ink > 400) == (theme == "Dark")
    page.locator(".ldm-player").screenshot(path=shots / f"compare-{theme.lower()}.png")
    only_from(lab, seen)


def test_stock_widgets_compare_without_anywidget(lab, open_notebook, shots):
    def without_anywidget(page):
        page.route("**/extensions/anywidget/**", lambda route: route.abort())

    page = open_notebook(lab.write("stock-compare.ipynb", COMPARE), without_anywidget).page
    run_all(page)
    stock = page.locator(".ldm-stock")
    expect(stock.get_by_text("so plain widgets stand in")).to_be_visible()
    stock.locator(".noUi-handle, .ui-slider-handle").first.press("End")
    expect(page.locator(".heard")).to_have_text("31")
    words = "From the left: 8 steps (step 8 of 8); 32 steps (step 32 of 32)"
    expect(stock.get_by_text(words)).to_be_visible()
    size = stock.locator("img").evaluate("i => i.decode().then(() => i.naturalWidth)")
    assert size == 2 * 240 + 16
    page.screenshot(path=shots / "compare-stock.png")


def test_linked_panels_follow_each_other(lab, open_notebook):
    sent = Sent()
    page = open_notebook(lab.write("linked.ipynb", LINKED), sent.listen).page
    run_all(page)
    players = page.locator(".ldm-player")
    expect(players).to_have_count(2)
    for at in (0, 1):
        expect(players.nth(at)).to_have_attribute("data-step", "1")
    expect_quiet(lab)
    before = sent.messages
    players.nth(0).locator(".ldm-slider").fill("9")
    expect(players.nth(1)).to_have_attribute("data-step", "10")
    players.nth(1).locator(".ldm-slider").press("ArrowRight")
    expect(players.nth(0)).to_have_attribute("data-step", "11")
    expect_quiet(lab)
    assert sent.messages - before == 2  # one for each hand, no echo


def expect_quiet(lab):
    """The kernel has answered everything that was sent to it."""
    client = lab.kernel()
    try:
        asked(client, "1")
    finally:
        client.stop_channels()


def test_scrubbing_sends_nothing_and_needs_no_kernel(lab, open_notebook, shots):
    """Sixty frames by hand while the kernel is busy: every frame moves, one message at the end."""
    (lab.root / "go").unlink(missing_ok=True)
    sent = Sent()
    page = open_notebook(lab.write("busy.ipynb", COMPARE, BUSY), sent.listen).page
    run_all(page, wait=False)
    at_step(page, 1)
    expect(page.locator(".jp-InputPrompt").nth(1)).to_have_text("[*]:")
    before = sent.messages  # of the views that told that they stand
    painted = scrub(page, 60)
    assert sent.messages == before
    assert painted > 20
    page.locator(".ldm-slider").fill("20")
    at_step(page, 21)
    page.screenshot(path=shots / "busy.png")
    expect(page.locator(".heard")).to_have_text("0")  # the kernel knows nothing of it yet
    (lab.root / "go").touch()
    expect(page.locator(".heard")).to_have_text("20")
    assert sent.messages == before + 1
