"""Frames a second in the browser while a player is scrubbed by hand, one step a frame.

    python tests/bench/scrubbing.py [--seconds 5] [--chromium chromium]

For each record: frames of the browser (at most its 60 a second), in how many of them the player
had painted the step that the slider stood on, and the CPU time of a frame, which a busy machine
does not blur: under 16 ms leaves room for 60. The first pass also decodes every picture.
"""

import argparse
import base64
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))
from records.make import make

from ldmkit.figures import comparison_payload, trajectory_payload
from ldmkit.figures.html import asset, module

RUN = """async seconds => {
    const root = document.querySelector('.ldm-player');
    const slider = root.querySelector('.ldm-slider');
    const frame = () => new Promise(requestAnimationFrame);
    const begin = await frame();
    let frames = 0, painted = 0, at = 0, way = 1, now = begin;
    while (now - begin < 1000 * seconds) {
        if (at + way < 0 || at + way > slider.max) way = -way;
        slider.value = at += way;
        slider.dispatchEvent(new Event('input'));
        now = await frame();
        frames += 1;
        painted += root.dataset.step === String(at + 1);
    }
    const taken = (now - begin) / 1000;
    return [frames / taken, painted / taken];
}"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    options = parser.parse_args()
    both = ("denoised", "latents")
    large = make(32, side=64, size=512, previews=both)
    shown = ("latents", "denoised")
    players = {
        "one record, 64 pixels": trajectory_payload(make(32)),
        "one record, 512 pixels": trajectory_payload(large),
        "8 beside 32 steps, 64 pixels": comparison_payload((make(8), make(32)), lanes=shown),
        "two records, 512 pixels": comparison_payload((large, large), lanes=shown),
        "eight records, 64 pixels": comparison_payload([make(32)] * 8, lanes=shown),
    }
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=options.chromium, args=flags)
        for name, payload in players.items():
            page = browser.new_page(viewport={"width": 1100, "height": 900})
            _open(page, payload)
            print(f"{name}, {len(payload.frames) / 1e6:.2f} MB:")
            for _ in range(2):
                frames, painted, work = _scrub(page, options.seconds)
                print(f"  {frames:.0f} ({painted:.0f} painted), {work:.1f} ms of main thread each")
            page.close()
        browser.close()


def _scrub(page, seconds):
    """(frames, painted frames) a second, and the CPU's milliseconds a frame."""
    tools = page.context.new_cdp_session(page)
    tools.send("Performance.enable", {"timeDomain": "threadTicks"})
    before = _busy(tools)
    frames, painted = page.evaluate(RUN, seconds)
    return frames, painted, 1000 * (_busy(tools) - before) / (frames * seconds)


def _busy(tools):
    metrics = tools.send("Performance.getMetrics")["metrics"]
    return next(m["value"] for m in metrics if m["name"] == "TaskDuration")


MOUNT = """async ([source, data, base64]) => {
    const blob = new Blob([source], {type: 'text/javascript'});
    const {mount} = await import(URL.createObjectURL(blob));
    const frames = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
    await new Promise(ready => mount(document.body, data, frames, {onReady: ready}));
}"""


def _open(page, payload):
    page.set_content(f"<!doctype html><style>{asset('player.css')}</style><body></body>")
    frames = base64.b64encode(payload.frames).decode()
    page.evaluate(MOUNT, [module("player.mjs"), payload.data, frames])


if __name__ == "__main__":
    main()
