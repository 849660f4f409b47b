"""``PromptPanel`` in a real JupyterLab, on the embedded model made slow enough to be stopped."""

from __future__ import annotations

import re

import pytest
from browser.lab import Sent, asked, at_step, brightness, only_from, run_all, scrub
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

SETUP = """
import time, ldmkit
pipe = ldmkit.load("critters")
began = []
def slowly(*_):
    began.append(time.time())
    time.sleep(0.08)
pipe.unet.register_forward_pre_hook(slowly)
panel = ldmkit.PromptPanel(pipe, "a red cat with a top hat", seed=3, num_inference_steps=12)
panel
""".strip()
SLOW = 120_000  # ms: the kernel imports torch first


@pytest.fixture
def open_panel(lab, open_notebook):
    """``open_panel(name, prepare=None) -> (Seen, panel)``: the notebook has run."""

    def open_(name, prepare=lambda page: None):
        seen = open_notebook(lab.write(name, SETUP), prepare)
        run_all(seen.page)
        panel = seen.page.locator(".ldm-prompt-panel")
        expect(panel.get_by_role("button", name="Run", exact=True)).to_be_enabled(timeout=SLOW)
        return seen, panel

    return open_


def button(panel, name):
    return panel.get_by_role("button", name=name, exact=True)


def status(panel, words):
    """Waits until the line beside the buttons says so; some steps pass between two looks."""
    expect(panel.locator(".ldm-status-line")).to_contain_text(words, timeout=60_000)


def picture(panel):
    """The picture beside the settings: its address once it is drawn."""
    stage = panel.locator(".ldm-stage img")
    expect(stage).to_be_visible(timeout=60_000)
    return stage.get_attribute("src")


def test_words_to_pictures_side_by_side(lab, open_panel, shots):
    seen, panel = open_panel("prompt.ipynb")
    page = seen.page
    page.screenshot(path=shots / "prompt-new.png")

    # Words that the model never learned are marked while they are typed, by the browser alone.
    field = panel.locator(".ldm-words-field")
    field.fill("a red cat with a monocle")
    expect(panel.locator("mark.ldm-unknown")).to_have_text(["monocle"])
    expect(panel.get_by_text("never learned “monocle”")).to_be_visible()
    field.fill("a \u202eturned\U0001f600 \u2067cat")  # the sentence round them stays as it is
    expect(panel.get_by_text("never learned “\ufffdturned\U0001f600”, “\ufffdcat”")).to_be_visible()
    field.fill("a red cat with a crown in the snow")
    expect(panel.locator("mark.ldm-unknown")).to_have_count(0)

    # The keyboard starts a run; its pictures come while it goes on.
    field.press("Control+Enter")
    status(panel, "Step ")
    early = picture(panel)
    page.screenshot(path=shots / "prompt-running.png")
    status(panel, "12 steps in")
    assert picture(panel) != early
    at_step(page, 1)
    expect(panel.locator(".ldm-player .ldm-prompt")).to_have_text(
        "a red cat with a crown in the snow"
    )

    # Another seed, another picture; both runs stand among the thumbnails.
    dice = panel.locator(".ldm-dice")
    seed = panel.get_by_label("Seed")
    old = seed.input_value()
    dice.click()
    expect(seed).not_to_have_value(old)
    button(panel, "Run").click()
    thumbs = panel.locator(".ldm-thumb button:visible")
    expect(thumbs).to_have_count(2, timeout=60_000)
    expect(panel.locator(".ldm-column")).to_have_count(0)

    # Side by side under one slider, by keys.
    panel.get_by_text("Side by side").click()
    expect(panel.locator(".ldm-column")).to_have_count(2)
    slider = panel.locator(".ldm-slider")
    slider.focus()
    for key, step in (("End", 12), ("ArrowLeft", 11), ("Home", 1), ("ArrowRight", 2)):
        slider.press(key)
        at_step(page, step)
    panel.locator(".ldm-player").scroll_into_view_if_needed()
    page.screenshot(path=shots / "prompt-pair.png")
    page.evaluate(THEME, "JupyterLab Dark")
    expect(page.locator("body")).to_have_attribute("data-jp-theme-light", "false")
    page.screenshot(path=shots / "prompt-pair-dark.png")
    panel.scroll_into_view_if_needed()
    field.focus()
    page.screenshot(path=shots / "prompt-dark.png")
    for words in (".ldm-player .ldm-prompt", ".ldm-words-title", ".ldm-status-line"):
        assert brightness(panel.locator(words), "color") > 380, words

    # One of them again.
    thumbs.nth(1).click()
    panel.get_by_text("Side by side").click()
    expect(panel.locator(".ldm-column")).to_have_count(0)
    only_from(lab, seen)


THEME = "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})"


# The kernel's clock is this machine's, too.
NOTE_CLICK = "b => b.addEventListener('click', () => (window.clicked = Date.now() / 1000), true)"


def test_stop_and_a_busy_kernel(lab, open_panel, shots):
    sent = Sent()
    seen, panel = open_panel("stop.ipynb", sent.listen)
    page = seen.page
    client = lab.kernel()  # before the run, whose updates keep a client from getting ready
    try:
        panel.get_by_label("Steps").fill("90")
        button(panel, "Run").click()
        status(panel, re.compile(r"Step ([5-9]|\d\d) of 90"))
        # Another cell is answered while the picture forms.
        assert asked(client, "6 * 7, panel.job.state") == "(42, 'running')"
        button(panel, "Stop").evaluate(NOTE_CLICK)
        button(panel, "Stop").click()
        status(panel, "Stopped after step")
        clicked = page.evaluate("window.clicked")
        later = asked(client, f"panel.job.wait() and sum(t > {clicked} for t in began)")
        assert int(later) <= 1
        steps = asked(client, "len(panel.result.timesteps)")
        expect(panel.locator(".ldm-player .ldm-details")).to_contain_text(
            f"stopped after {steps} of 90"
        )
        expect(button(panel, "Run")).to_be_enabled()
        expect(button(panel, "Stop")).to_be_disabled()
        page.screenshot(path=shots / "prompt-stopped.png")

        # What is refused is said under the fields, and the record stays.
        panel.get_by_label("Steps").fill("0")
        panel.get_by_label("Steps").press("Enter")
        expect(panel.get_by_role("alert")).to_contain_text("num_inference_steps must be")
        page.screenshot(path=shots / "prompt-wrong.png")
        assert asked(client, "len(panel.result.timesteps)") == steps
        panel.get_by_label("Steps").fill("4")
        panel.get_by_label("Steps").press("Enter")
        expect(panel.get_by_role("alert")).to_have_count(0)

        # A busy kernel: the player still scrubs, and sends nothing meanwhile.
        client.execute("time.sleep(3)")
        before = sent.messages
        assert scrub(page, 60) > 2
        assert sent.messages == before
    finally:
        client.stop_channels()
    only_from(lab, seen)


def test_stock_widgets_stand_in_for_the_panels_views(open_panel, shots):
    def without_anywidget(page):
        page.route("**/extensions/anywidget/**", lambda route: route.abort())

    seen, panel = open_panel("stock-prompt.ipynb", without_anywidget)
    page = seen.page
    field = panel.locator(".ldm-words-stock textarea")
    expect(field).to_be_visible()
    field.fill("a blue dog")
    for count in (1, 2):
        button(panel, "Run").click()
        thumbs = panel.locator(".ldm-thumb button:visible")
        expect(thumbs).to_have_count(count, timeout=60_000)
    stock = panel.locator(".ldm-stock")
    expect(stock.get_by_text("Step 1 of 12")).to_be_visible()
    expect(stock.get_by_text(re.compile("a blue dog"))).to_be_visible()
    panel.get_by_text("Side by side").click()
    expect(stock.get_by_text("From the left: Run 1")).to_be_visible()
    for broken in page.get_by_text("Click to show javascript error").all():
        expect(broken).to_be_hidden()
    stock.scroll_into_view_if_needed()
    page.screenshot(path=shots / "prompt-stock.png")
