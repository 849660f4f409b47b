"""Takes the pictures in docs/images again, from the embedded models as they are.

    python docs/make_images.py [NAME ...]

It opens a JupyterLab of its own in chromium (as the browser tests do), runs each picture's cells
and photographs what they show, light and dark. Needs extra "test" and chromium; some minutes.
"""

from __future__ import annotations

import base64
import io
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, expect, sync_playwright

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT / "tests"))

from browser import lab as lab_server  # noqa: E402

import ldmkit  # noqa: E402

PROMPT = "a red cat wearing a top hat in the snow"
THEMES = {"": "JupyterLab Light", "-dark": "JupyterLab Dark"}
WIDTH = 960  # pixels of the browser: wide enough for a panel, narrow enough to read when shrunk
SLOW = 300_000  # ms: kernels import torch first, on whatever machine this is


@dataclass(frozen=True)
class Shot:
    """One picture.

    Attributes:
        cells: the notebook's cells; ``ldmkit`` and ``pipe`` are there.
        of: selector of what is photographed.
        prepare: what a hand does before.
    """

    cells: tuple[str, ...]
    of: str
    prepare: Callable[[Page], None] = lambda page: None


def to_step(step: int) -> Callable[[Page], None]:
    """Moves the player's slider to a step, counted from 1."""

    def prepare(page: Page) -> None:
        expect(page.locator(".ldm-player")).to_be_visible(timeout=SLOW)
        page.locator(".ldm-slider").fill(str(step - 1))
        expect(page.locator(".ldm-player")).to_have_attribute("data-step", str(step))

    return prepare


def two_runs(page: Page) -> None:
    """Chooses both runs among the thumbnails, side by side."""
    expect(page.locator(".ldm-thumb button:visible")).to_have_count(2, timeout=SLOW)
    page.locator(".ldm-prompt-panel").get_by_text("Side by side").click()
    expect(page.locator(".ldm-column")).to_have_count(2)
    to_step(9)(page)


def two_words(page: Page) -> None:
    """Presses two words of a prompt, at the ninth step."""
    to_step(9)(page)
    for word in ("hat", "snow"):
        page.get_by_role("button", name=word, exact=True).click()
    page.mouse.move(0, 0)


def learned(page: Page) -> None:
    """Waits until the student has had all its updates."""
    expect(page.locator(".ldm-status-line")).to_contain_text("updates in", timeout=6 * SLOW)
    expect(page.locator(".ldm-rung img")).to_have_count(3)


PANEL = f'panel = ldmkit.PromptPanel(pipe, "{PROMPT}", seed=7)'
SHOTS = {
    "prompt-panel": Shot((f"{PANEL}\npanel", "panel.run();"), ".ldm-prompt-panel", to_step(9)),
    "prompt-panel-pair": Shot(
        (f"{PANEL}\npanel", "panel.run(); panel.value = {'seed': 8}; panel.run();"),
        ".ldm-prompt-panel",
        two_runs,
    ),
    "trajectory-panel": Shot(
        (
            f'runs = [ldmkit.record(pipe, "{PROMPT}", seed=7, num_inference_steps=n) '
            "for n in (32, 8)]\nldmkit.TrajectoryPanel(*runs, step=8)",
        ),
        ".ldm-panel",
        to_step(9),
    ),
    "compare-panel": Shot(
        (
            f'grid = ldmkit.compare(pipe, ["{PROMPT}", "a blue dog with a crown at the beach"], '
            'scheduler=("ddim", "ddpm", "dpm++", "euler"), num_inference_steps=(2, 4, 8, 32))\n'
            "ldmkit.ComparePanel(grid, num_inference_steps=4)",
        ),
        ".ldm-compare",
    ),
    "interpolation-panel": Shot(
        (
            'unclip = ldmkit.load("critters-unclip")\npanel = ldmkit.InterpolationPanel('
            'unclip, "a red cat with a crown", "a blue dog", seed=7)\npanel',
            "panel.run().wait(); panel.place = 5",
        ),
        ".ldm-walk-panel",
    ),
    "arithmetic-panel": Shot(
        (
            'panel = ldmkit.ArithmeticPanel(ldmkit.load("critters-unclip"))\npanel',
            "panel.run().wait(); panel.place = 6",
        ),
        ".ldm-walk-panel",
    ),
    "attention-player": Shot(
        (
            'ldmkit.record(pipe, "a red cat with a top hat in the snow", seed=7, '
            'num_inference_steps=16, keep=("latents", "denoised", "noise_pred", "attention"))',
        ),
        ".ldm-record",
        two_words,
    ),
    "distill-panel": Shot(
        (
            "panel = ldmkit.DistillPanel(pipe, rung=2, updates=120, batch_size=8, seed=7)\npanel",
            "panel.run();",
        ),
        ".ldm-prompt-panel",
        learned,
    ),
    "walk": Shot(
        ('ldmkit.interpolate(pipe, "a red cat", "a blue dog", space="prompt", seed=7)',),
        ".ldm-record",
        lambda page: page.locator(".ldm-slider").fill("5"),
    ),
}


def first_picture() -> None:
    """The picture in the README: a record as mail clients and slides show it."""
    traj = ldmkit.record(ldmkit.load("critters"), PROMPT, seed=7)
    png = base64.b64decode(traj._repr_mimebundle_()["image/png"])
    (IMAGES / "first-picture.png").write_bytes(png)


def photograph(page: Page, what: Locator, name: str) -> None:
    """Writes the light and the dark picture of what the page shows."""
    for suffix, theme in THEMES.items():
        page.evaluate(
            "t => jupyterapp.commands.execute('apputils:change-theme', {theme: t})", theme
        )
        light = "true" if suffix == "" else "false"
        expect(page.locator("body")).to_have_attribute("data-jp-theme-light", light)
        page.wait_for_timeout(500)  # colours fade
        shot = Image.open(io.BytesIO(what.screenshot(animations="disabled"))).convert("RGB")
        shot.save(IMAGES / f"{name}{suffix}.webp", quality=80, method=6)
        print(f"{name}{suffix}.webp", shot.size, (IMAGES / f"{name}{suffix}.webp").stat().st_size)


def take(page: Page, lab: lab_server.Lab, name: str, shot: Shot) -> None:
    """Runs a picture's cells and takes it."""
    start = 'import ldmkit\npipe = ldmkit.load("critters")'
    page.goto(f"{lab.url}/doc/tree/{lab.write(f'{name}.ipynb', start, *shot.cells)}?reset")
    expect(page.locator(".jp-Notebook .jp-Cell").first).to_be_visible(timeout=SLOW)
    lab_server.run_all(page)
    what = page.locator(shot.of)
    expect(what).to_be_visible(timeout=SLOW)
    shot.prepare(page)
    page.evaluate("document.activeElement.blur()")
    # Room round the picture, and none of the notebook's own marks in it.
    what.evaluate("e => { e.style.padding = '16px'; }")
    photograph(page, what, name)
    lab.end_sessions()


def main(names: list[str]) -> None:
    """Takes the named pictures, by default all."""
    unknown = set(names) - {"first-picture", *SHOTS}
    if unknown:
        raise SystemExit(
            f"No picture {sorted(unknown)}; there are first-picture, {', '.join(SHOTS)}."
        )
    IMAGES.mkdir(exist_ok=True)
    if not names or "first-picture" in names:
        first_picture()
    shots = {name: shot for name, shot in SHOTS.items() if not names or name in names}
    home = Path(tempfile.mkdtemp())
    lab = lab_server.start(home)
    try:
        with sync_playwright() as playwright:
            flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
            chromium = shutil.which("chromium") or shutil.which("chromium-browser")
            browser = playwright.chromium.launch(executable_path=chromium, args=flags)
            size = {"width": WIDTH, "height": 1600}
            page = browser.new_page(viewport=size, device_scale_factor=1.5)
            page.set_default_timeout(SLOW)
            for name, shot in shots.items():
                take(page, lab, name, shot)
            browser.close()
    finally:
        lab_server.stop(lab)
        shutil.rmtree(home)


if __name__ == "__main__":
    main(sys.argv[1:])
