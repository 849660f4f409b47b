"""``TrajectoryPanel`` with several records, and panels that are linked."""

import io
from itertools import pairwise

import ipywidgets
import numpy as np
import pytest
import traitlets
from PIL import Image
from records.make import make

from ldmkit.panels import TrajectoryPanel
from ldmkit.records import RecordError

LANES = ("latents", "denoised")


@pytest.fixture
def short():
    return make(8)


@pytest.fixture
def long():
    return make(32, seed=3)


@pytest.fixture
def panel(short, long):
    panel = TrajectoryPanel(short, long)
    yield panel
    panel.close()


def stock_picture(panel):
    image = next(c for c in panel._stock.children if isinstance(c, ipywidgets.Image))
    return np.asarray(Image.open(io.BytesIO(image.value)).convert("RGB"), float)


def test_one_slider_for_8_and_32_steps(panel, short, long):
    assert panel.value == {"step": 0, "batch": 0, "lanes": LANES}
    assert panel.result == (short, long)
    assert [run["total"] for run in panel._player.data["runs"]] == [8, 32]
    assert repr(panel) == "TrajectoryPanel(2 records, step 0 of 0 to 31, latents, denoised)"
    assert panel.steps == (0, 0)
    panel.step = 31
    assert panel.steps == (7, 31)
    panel._player.set_state({"step": 16})  # as a message from the browser does
    assert panel.steps[1] == 16
    shown = [t.steps[i] for t, i in zip((short, long), panel.steps, strict=True)]
    levels = [np.arctan2(step.sigma, step.alpha) for step in shown]
    nearest = np.abs(np.arctan2(short.sigmas, short.alphas) - levels[1]).min()
    assert abs(levels[0] - levels[1]) - nearest < 1e-9
    with pytest.raises(ValueError, match="step must be between 0 and 31"):
        panel.step = 32


def test_stock_widgets_compare_too(panel):
    panel.step = 0
    first = stock_picture(panel)
    assert first.shape == (2 * 240 + 16, 2 * 240 + 16, 3)
    panel.step = 31
    last = stock_picture(panel)
    for y in (0, 256):
        for x in (0, 256):
            assert np.abs(last - first)[y : y + 240, x : x + 240].mean() > 8
    words = panel._stock.children[0].value
    assert "Position 32 of 32" in words
    assert (
        "From the left: seed 7 · 8 steps (step 8 of 8); seed 3 · 32 steps (step 32 of 32)" in words
    )
    assert "From the top: noisy picture, clean estimate" in words
    assert "Lined up by noise" in words


def test_stock_columns_stay_in_the_page(short):
    panel = TrajectoryPanel(*[short] * 8)
    assert stock_picture(panel).shape[1] <= 920
    panel.close()


def test_show_changes_the_records_in_place(panel, short, long):
    seen = []
    panel.observe(lambda change: seen.append(change["new"]), "step")
    panel.step = 30
    panel.show(short, step=5)
    assert panel.result is short
    assert panel.value == {"step": 5, "batch": 0, "lanes": ("latents", "denoised", "noise_pred")}
    assert "runs" not in panel._player.data
    assert (panel._stock.slider.max, panel._stock.slider.value) == (7, 5)
    panel.show(long, short, lanes=["denoised"])
    assert panel.value == {"step": 0, "batch": 0, "lanes": ("denoised",)}
    assert panel._stock.slider.max == 31
    panel.lanes = LANES  # it still redraws
    assert len(panel._player.data["lanes"]) == 2
    assert seen == [30, 5, 0]


def test_a_refused_record_leaves_the_panel_as_it_was(panel, short, long):
    panel.step = 20
    for wrong, error in (((None,), TypeError), ((), TypeError), ((short,) * 9, TypeError)):
        with pytest.raises(error, match="TrajectoryPanel takes"):
            panel.show(*wrong)
    with pytest.raises(ValueError, match="step must be between 0 and 7"):
        panel.show(short, step=20)
    assert panel.result == (short, long)
    assert panel.value == {"step": 20, "batch": 0, "lanes": LANES}
    panel.step = 31


def test_records_without_a_common_lane():
    none = dict.fromkeys(("latents", "denoised", "noise_pred"))
    only = [make(4, **{**none, lane: getattr(make(4), lane)}, previews=()) for lane in LANES]
    with pytest.raises(RecordError, match="no lane in common; record again"):
        TrajectoryPanel(*only)


def test_linked_panels_follow_each_other_without_a_loop(short):
    panels = [TrajectoryPanel(short) for _ in range(3)]
    links = [traitlets.link((a, "step"), (b, "step")) for a, b in pairwise(panels)]
    sent = dict.fromkeys(panels, 0)

    def count(change, panel):
        sent[panel] += 1

    for panel in panels:
        panel._player.observe(lambda change, panel=panel: count(change, panel), "step")
    panels[1]._player.set_state({"step": 5})
    assert [panel.step for panel in panels] == [5, 5, 5]
    panels[0].step = 2
    assert [panel._player.step for panel in panels] == [2, 2, 2]
    assert set(sent.values()) == {2}  # once per move each
    for link in links:
        link.unlink()
    for panel in panels:
        panel.close()
