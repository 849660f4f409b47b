"""The player in a real browser: pages from file://, cells as HTML, the panel's module."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
from playwright.sync_api import expect
from records.make import PROMPT, make

from ldmkit.figures import mimebundle, trajectory_payload
from ldmkit.figures.html import asset, module
from ldmkit.figures.side_by_side import align, side_by_side
from ldmkit.records.pictures import lane_array

pytestmark = pytest.mark.browser

HOSTILE = (
    "</script><script>window.ran=1;alert(1)</script><!--<script></style><style>*{display:none}"
    "</style><img src=x onerror='window.ran=1;alert(2)'>\"'><svg onload=alert(3)>&lt;b>\u2028"
    "</script x ><script/x >window.ran=1;alert(4)</script ><!-- <script "
)
PIXELS = """canvas => {
    const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return {width: canvas.width, height: canvas.height, data: Array.from(data)};
}"""


def canvas(page, lane):
    return page.locator(f'.ldm-lane[data-lane="{lane}"] canvas')


def pixels(page, lane):
    """(H, W, 3) as the canvas holds them."""
    got = canvas(page, lane).evaluate(PIXELS)
    return np.uint8(got["data"]).reshape(got["height"], got["width"], 4)[..., :3]


def at_step(page, step):
    """Waits until that step is painted."""
    expect(page.locator(".ldm-player")).to_have_attribute("data-step", str(step))


@pytest.fixture(scope="module")
def traj():
    return make(32)


@pytest.fixture(scope="module")
def file(traj, tmp_path_factory):
    return traj.to_html(tmp_path_factory.mktemp("pages") / "a page.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 390])
def test_page_from_a_file(new_page, file, shots, scheme, width):
    seen = new_page(color_scheme=scheme, viewport={"width": width, "height": 700})
    seen.page.goto(file.as_uri())
    at_step(seen.page, 1)
    seen.page.locator(".ldm-slider").fill("19")
    at_step(seen.page, 20)
    seen.page.screenshot(path=shots / f"page-{scheme}-{width}.png", full_page=True)
    assert seen.requests == [file.as_uri()]  # the page itself and nothing else
    assert seen.errors == []
    paper = seen.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    ink = seen.page.locator(".ldm-prompt").evaluate("e => getComputedStyle(e).color")
    paper, ink = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (paper, ink))
    assert (paper > ink + 400) if scheme == "light" else (ink > paper + 400)
    assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_canvas_shows_the_record_pixel_by_pixel(new_page, file, traj):
    page = new_page().page
    page.goto(file.as_uri())
    for step in (1, 7, 32):
        page.locator(".ldm-slider").fill(str(step - 1))
        at_step(page, step)
        for lane in ("latents", "noise_pred"):
            assert np.array_equal(pixels(page, lane), lane_array(traj, lane)[step - 1])
        want = lane_array(traj, "denoised")[step - 1].astype(float)
        assert np.sqrt(((pixels(page, "denoised") - want) ** 2).mean()) < 10
    final = np.asarray(traj.image, float)
    assert np.sqrt(((pixels(page, "final") - final) ** 2).mean()) < 10


def test_keys_move_the_steps_and_change_every_lane(new_page, file):
    page = new_page().page
    page.goto(file.as_uri())
    at_step(page, 1)
    before = {lane: pixels(page, lane) for lane in ("latents", "denoised", "noise_pred")}
    page.locator(".ldm-slider").focus()
    for key, step in (("ArrowRight", 2), ("ArrowUp", 3), ("End", 32), ("ArrowLeft", 31)):
        page.keyboard.press(key)
        at_step(page, step)
        assert all(not np.array_equal(pixels(page, lane), old) for lane, old in before.items())
    page.keyboard.press("Home")
    at_step(page, 1)
    assert all(np.array_equal(pixels(page, lane), old) for lane, old in before.items())
    for node in (".ldm-slider", ".ldm-play"):  # on what has the focus: an ancestor is too late
        assert page.locator(node).get_attribute("data-lm-suppress-shortcuts") == "true"


def test_words_of_a_step(new_page, file, traj):
    page = new_page().page
    page.goto(file.as_uri())
    page.locator(".ldm-slider").fill("4")
    at_step(page, 5)
    mix = f"{traj.alphas[4]:.2f} × picture + {traj.sigmas[4]:.2f} × noise"
    words = f"Step 5 of 32 · timestep {traj.timesteps[4]:g}"
    expect(page.locator(".ldm-status")).to_have_text(words + mix)
    expect(page.locator(".ldm-slider")).to_have_attribute("aria-valuetext", f"{words}, {mix}")
    expect(page.locator(".ldm-factor").first).to_have_text(f"{traj.alphas[4]:.2f} ×")
    cursor = page.locator(".ldm-cursor").bounding_box()
    plot = page.locator(".ldm-plot").bounding_box()
    assert abs((cursor["x"] + 0.5 - plot["x"]) / plot["width"] - 4 / 31) < 0.005


def test_curves_are_alpha_and_sigma(new_page, file, traj):
    page = new_page().page
    page.goto(file.as_uri())
    for kind, values in (("picture", traj.alphas), ("noise", traj.sigmas)):
        points = page.locator(f"polyline.ldm-{kind}").get_attribute("points")
        heights = [1 - float(point.split(",")[1]) / 100 for point in points.split()]
        assert np.abs(np.array(heights) - values).max() < 1e-3


def test_everything_that_is_drawn_has_words(new_page, file):
    page = new_page().page
    page.goto(file.as_uri())
    page.locator(".ldm-slider").fill("4")
    at_step(page, 5)
    labels = [c.get_attribute("aria-label") for c in page.locator("canvas").all()]
    assert labels == [
        f"Noisy picture: {PROMPT} (step 5 of 32)",
        f"Clean estimate: {PROMPT} (step 5 of 32)",
        f"Predicted noise: {PROMPT} (step 5 of 32)",
        f"Final picture: {PROMPT}",
    ]
    assert {c.get_attribute("role") for c in page.locator("canvas").all()} == {"img"}
    expect(page.get_by_role("slider", name="Step")).to_be_visible()
    expect(page.get_by_role("button", name="Play")).to_be_visible()


def test_play_pause_and_again(new_page, tmp_path):
    path = make(8).to_html(tmp_path / "page.html")
    page = new_page().page
    page.clock.install()
    page.goto(path.as_uri())
    at_step(page, 1)
    page.get_by_role("button", name="Play").click()
    page.clock.run_for(300)
    at_step(page, 2)
    page.get_by_role("button", name="Pause").click()
    page.clock.run_for(3000)
    at_step(page, 2)
    page.locator(".ldm-slider").press(" ")
    page.clock.run_for(6 * 300)
    at_step(page, 8)
    page.clock.run_for(300)
    page.get_by_role("button", name="Play").click()  # from the end it begins again
    at_step(page, 1)
    page.clock.run_for(300)
    at_step(page, 2)


def test_reduced_motion(new_page, tmp_path):
    path = make(8).to_html(tmp_path / "page.html")
    page = new_page(reduced_motion="reduce").page
    page.clock.install()
    page.goto(path.as_uri())
    at_step(page, 1)
    page.clock.run_for(60_000)
    at_step(page, 1)  # nothing moves by itself
    page.get_by_role("button", name="Play").click()
    page.clock.run_for(700)
    at_step(page, 1)
    page.clock.run_for(100)
    at_step(page, 2)


def test_without_scripts_the_sheet_stays(new_page, file, shots):
    page = new_page(java_script_enabled=False).page
    page.goto(file.as_uri())
    sheet = page.locator(".ldm-sheet")
    expect(sheet).to_be_visible()
    assert sheet.locator("img").count() == 25
    assert all(PROMPT in img.get_attribute("alt") for img in sheet.locator("img").all())
    page.screenshot(path=shots / "sheet.png", full_page=True)


def test_player_hides_the_sheet(new_page, file):
    page = new_page().page
    page.goto(file.as_uri())
    at_step(page, 1)
    expect(page.locator(".ldm-sheet")).to_be_hidden()


def test_without_webp_the_sheet_stays(new_page, file):
    page = new_page().page
    page.add_init_script("window.createImageBitmap = () => Promise.reject(new Error('no'))")
    page.goto(file.as_uri())
    expect(page.locator(".ldm-player")).to_have_count(0)
    expect(page.locator(".ldm-sheet")).to_be_visible()


@pytest.mark.parametrize("policy", [True, False], ids=["page", "without its policy"])
def test_hostile_words_run_nothing(new_page, tmp_path, shots, policy):
    """Escaping must hold on its own: the second run takes the page's policy away."""
    traj = make(
        3,
        prompt=HOSTILE,
        negative_prompt=HOSTILE,
        model=HOSTILE,
        versions={HOSTILE: HOSTILE},
        call={"num_inference_steps": 3, "scheduler": HOSTILE, "guidance_scale": HOSTILE},
    )
    path = traj.to_html(tmp_path / "page.html")
    if not policy:
        page_text = path.read_text(encoding="utf-8")
        bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page_text)
        assert bare != page_text
        path.write_text(bare, encoding="utf-8")
    seen = new_page()
    seen.page.goto(path.as_uri())
    at_step(seen.page, 1)
    seen.page.get_by_role("button", name="Play").hover()
    expect(seen.page.locator(".ldm-prompt")).to_contain_text("</script><script>window.ran=1")
    assert seen.page.evaluate("window.ran") is None
    assert seen.dialogs == []
    assert seen.errors == []
    assert seen.requests == [path.as_uri()]
    seen.page.screenshot(path=shots / "hostile.png", full_page=True)


def test_the_policy_stops_a_script_that_slipped_through(new_page, file, tmp_path):
    page_text = file.read_text(encoding="utf-8")
    path = tmp_path / "page.html"
    path.write_text(page_text.replace("</main>", "<script>window.ran=1</script></main>"))
    seen = new_page()
    seen.page.goto(path.as_uri())
    at_step(seen.page, 1)
    assert seen.page.evaluate("window.ran") is None
    assert "Content Security Policy" in " ".join(seen.errors)


def test_two_cells_and_a_copy_of_one(new_page, tmp_path):
    """Outputs share one document, and a second view of an output repeats its id."""
    first, second = (mimebundle(make(4, seed=s, prompt=f"run {s}"))["text/html"] for s in (1, 2))
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><meta charset=utf-8>{first}{first}{second}", encoding="utf-8")
    seen = new_page()
    seen.page.goto(path.as_uri())
    players = seen.page.locator(".ldm-player")
    expect(players).to_have_count(3)
    assert [p.locator(".ldm-prompt").inner_text() for p in players.all()] == [
        "run 1",
        "run 1",
        "run 2",
    ]
    players.nth(2).locator(".ldm-slider").fill("3")
    expect(players.nth(2)).to_have_attribute("data-step", "4")
    expect(players.nth(0)).to_have_attribute("data-step", "1")
    assert seen.errors == []


# As anywidget does it: the module is imported from a blob, traits are read from a model.
PANEL = """async ([source, data, base64]) => {
  const blob = new Blob([source], {type: 'text/javascript'});
  const module = await import(URL.createObjectURL(blob));
  const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
  const shifted = new Uint8Array(bytes.length + 12);  // a trait's view seldom starts at zero
  shifted.set(bytes, 5);
  const listeners = new Set();
  const frames = new DataView(shifted.buffer, 5, bytes.length);
  const state = {data: JSON.parse(data), frames, step: 1};
  const notify = name => listeners.forEach(([names, l]) => names.includes(`change:${name}`) && l());
  window.model = {
    saved: [],
    get: name => state[name],
    set: (name, value) => { state[name] = value; notify(name); },
    save_changes: () => window.model.saved.push({step: state.step, awake: state.awake}),
    on: (names, l) => listeners.add([names.split(' '), l]),
    off: (_, l) => listeners.forEach(pair => pair[1] === l && listeners.delete(pair)),
    listeners,
  };
  window.cleanUp = module.default.render({model: window.model, el: document.body});
}"""


def test_panel_module(new_page):
    """anywidget's contract: binary traits as DataView, redraw on change, a clean-up."""
    traj = make(4)
    payload = trajectory_payload(traj)
    seen = new_page()
    page = seen.page
    page.set_content(f"<!doctype html><style>{asset('player.css')}</style><body></body>")
    frames = base64.b64encode(payload.frames).decode()
    page.evaluate(PANEL, [module("player.mjs"), json.dumps(payload.data), frames])
    at_step(page, 2)
    assert np.array_equal(pixels(page, "latents"), lane_array(traj, "latents")[1])
    page.wait_for_function("window.model.saved.length")
    assert page.evaluate("window.model.saved") == [{"step": 1, "awake": True}]
    page.locator(".ldm-slider").press("ArrowRight")
    at_step(page, 3)
    page.wait_for_function("window.model.saved.at(-1).step === 2")  # once the slider rests
    page.evaluate("window.model.set('step', 0)")
    at_step(page, 1)
    assert page.evaluate("window.model.saved.length") == 2  # the kernel's move isn't sent back
    data = payload.data | {"prompt": "new words"}
    page.evaluate("data => window.model.set('data', data)", data)
    expect(page.locator(".ldm-prompt")).to_have_text("new words")
    expect(page.locator(".ldm-player")).to_have_count(1)
    page.evaluate("window.cleanUp()")
    expect(page.locator(".ldm-player")).to_have_count(0)
    assert page.evaluate("window.model.listeners.size") == 0
    assert seen.errors == []


def test_clean_up_stops_the_clock(new_page, file):
    page = new_page().page
    page.clock.install()
    page.goto(file.as_uri())
    at_step(page, 1)
    page.get_by_role("button", name="Play").click()
    player = page.locator(".ldm-player").element_handle()
    player.evaluate("e => e.remove()")  # as a notebook clears an output
    page.clock.run_for(5000)
    assert player.get_attribute("data-step") == "1"


@pytest.mark.parametrize("width", [1100, 390])
def test_records_side_by_side(new_page, tmp_path, shots, width):
    short, long = make(8), make(32)
    path = side_by_side(short, long, lanes=["latents"]).to_html(tmp_path / "page.html")
    seen = new_page(viewport={"width": width, "height": 700})
    page = seen.page
    page.goto(path.as_uri())
    at_step(page, 1)
    expect(page.locator(".ldm-sheet").first).to_be_hidden()
    steps = align((short, long)).steps
    for position in (0, 10, 31):
        page.locator(".ldm-slider").fill(str(position))
        at_step(page, position + 1)
        for k, traj in enumerate((short, long)):
            got = canvas(page, "latents").nth(k).evaluate(PIXELS)
            shown = np.uint8(got["data"]).reshape(16, 16, 4)[..., :3]
            assert np.array_equal(shown, lane_array(traj, "latents")[steps[k][position]])
            words = page.locator(".ldm-column .ldm-step").nth(k)
            expect(words).to_contain_text(f"Step {steps[k][position] + 1} of {len(traj.timesteps)}")
    for k, traj in enumerate((short, long)):
        final = canvas(page, "final").nth(k).evaluate(PIXELS)
        error = np.uint8(final["data"]).reshape(64, 64, 4)[..., :3] - np.asarray(traj.image, float)
        assert np.sqrt((error**2).mean()) < 10
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=shots / f"side-by-side-{width}.png", full_page=True)
    assert seen.requests == [path.as_uri()]


def test_sampled_runs_name_the_true_step(new_page, tmp_path, monkeypatch):
    def small(traj, batch, **drawn):
        return trajectory_payload(traj, batch, max_bytes=20_000, **drawn)

    monkeypatch.setattr("ldmkit.figures.player.trajectory_payload", small)
    path = make(40, size=128).to_html(tmp_path / "page.html")
    page = new_page().page
    page.goto(path.as_uri())
    assert int(page.locator(".ldm-slider").get_attribute("max")) < 20
    page.locator(".ldm-slider").press("End")
    at_step(page, 40)
    expect(page.locator(".ldm-note")).to_contain_text("Shrunk to keep this output small")
