"""``TrajectoryPanel`` as the kernel sees it; tests/browser looks at it."""

import io

import ipywidgets
import numpy as np
import pytest
from panels.hands import living
from PIL import Image
from records.make import make

import ldmkit
from ldmkit.panels import TrajectoryPanel
from ldmkit.panels.trajectory import Player
from ldmkit.records import RecordError
from ldmkit.records.pictures import lane_array

LANES = ("latents", "denoised", "noise_pred")


@pytest.fixture
def traj():
    return make(8)


@pytest.fixture
def panel(traj):
    panel = TrajectoryPanel(traj)
    yield panel
    panel.close()


def stock_picture(panel):
    image = next(c for c in panel._stock.children if isinstance(c, ipywidgets.Image))
    return np.asarray(Image.open(io.BytesIO(image.value)).convert("RGB"))


def test_starts_as_asked(traj):
    panel = TrajectoryPanel(traj, step=5, lanes=["denoised"])
    assert panel.value == {"step": 5, "batch": 0, "lanes": ("denoised",)}
    assert (panel.step, panel.batch, panel.lanes) == (5, 0, ("denoised",))
    assert panel._player.step == 5
    assert [lane["name"] for lane in panel._player.data["lanes"]] == ["denoised"]
    panel.close()


def test_defaults_and_result(panel, traj):
    assert panel.value == {"step": 0, "batch": 0, "lanes": LANES}
    assert panel.result is traj
    assert isinstance(panel, ipywidgets.VBox)
    assert ldmkit.TrajectoryPanel is TrajectoryPanel
    assert repr(panel) == "TrajectoryPanel(step 0 of 0 to 7, latents, denoised, noise_pred)"


def test_traits_are_documented():
    traits = TrajectoryPanel.class_own_traits()
    assert set(traits) == {"step", "batch", "lanes", "value"}
    for name, trait in [*traits.items(), *Player.class_own_traits().items()]:
        assert name == name.lower()
        assert trait.help, name


def test_value_goes_round(panel):
    panel.value = {"step": 3, "lanes": ["noise_pred", "denoised"]}
    assert (panel.step, panel.lanes) == (3, ("noise_pred", "denoised"))
    assert panel.value == {"step": 3, "batch": 0, "lanes": ("noise_pred", "denoised")}
    panel.step = np.int64(6)
    assert panel.value["step"] == 6
    assert type(panel.step) is int
    saved = panel.value
    panel.value = {"step": 0, "lanes": LANES}
    panel.value = saved
    assert panel.value == saved


def test_observe(panel):
    seen = []
    panel.observe(lambda change: seen.append((change["name"], change["new"])), ["step", "value"])
    panel.step = 4
    assert dict(seen) == {"step": 4, "value": {"step": 4, "batch": 0, "lanes": LANES}}
    assert len(seen) == 2
    panel.step = 4
    assert len(seen) == 2


def test_both_sliders_and_the_kernel_share_one_step(panel):
    panel._player.set_state({"step": 2})  # as a message from the browser does
    assert (panel.step, panel._stock.slider.value) == (2, 2)
    panel._stock.slider.set_state({"value": 5})
    assert (panel.step, panel._player.step) == (5, 5)
    panel.step = 7
    assert (panel._player.step, panel._stock.slider.value) == (7, 7)


def test_batch_and_lanes_change_the_frames():
    traj = make(3, batch=2)
    panel = TrajectoryPanel(traj)
    first = panel._player.frames
    panel.batch = 1
    assert panel._player.frames != first
    assert "Picture 2 of 2" in panel._player.data["note"]
    panel.lanes = ("latents",)
    data = panel._player.data
    assert [lane["name"] for lane in data["lanes"]] == ["latents"]
    sizes = [*data["lanes"][0]["sizes"], data["final"]["size"]]
    assert sum(sizes) == len(panel._player.frames)
    frame = Image.open(io.BytesIO(panel._player.frames[: sizes[0]])).convert("RGB")
    assert np.array_equal(np.asarray(frame), lane_array(traj, "latents", 1)[0])
    panel.close()


def test_lanes_before_guidance():
    noise = make(3).noise_pred
    panel = TrajectoryPanel(
        make(3, noise_pred_text=noise, noise_pred_uncond=noise[::-1]),
        lanes=("noise_pred_uncond", "noise_pred_text"),
    )
    titles = [lane["title"] for lane in panel._player.data["lanes"]]
    assert titles == ["Noise, without the words", "Noise, with the words"]
    assert panel._player.data["note"] == ""
    panel.close()


def test_stock_shows_the_step_until_the_player_is_awake(panel, traj):
    first = stock_picture(panel)
    panel.step = 7
    last = stock_picture(panel)
    assert last.shape == (240, 3 * 240 + 2 * 16, 3)
    cell = last[7:240:15, 7:240:15].astype(float)  # 16 × 16 latents, the middle of each
    assert np.abs(cell - lane_array(traj, "latents")[7]).mean() < 8  # lossy
    assert np.abs(last.astype(float) - first).mean() > 8
    assert "Step 8 of 8: 0.99 × picture + 0.12 × noise" in panel._stock.children[0].value
    panel._player.set_state({"awake": True})
    panel.step = 0
    assert np.array_equal(stock_picture(panel), last)
    assert panel._stock.layout.display == "none"


def test_stock_of_a_sampled_record_shows_the_last_step_not_beyond(panel, monkeypatch):
    data = {**panel._payload.data, "index": [0, 3, 7]}
    lanes = [{**lane, "sizes": lane["sizes"][:3]} for lane in data["lanes"][:1]]
    payload = type(panel._payload)({**data, "lanes": lanes}, panel._payload.frames)
    panel._stock.show(payload, 6)
    assert "Step 4 of 8" in panel._stock.children[0].value


def test_stock_escapes_the_prompt():
    panel = TrajectoryPanel(make(2, prompt="<script>alert(1)</script>"))
    assert "<script" not in panel._stock.children[0].value
    assert "&lt;script&gt;" in panel._stock.children[0].value
    panel.close()


def test_close_leaves_nothing_behind(traj):
    before = living()
    panel = TrajectoryPanel(traj)
    assert len(living() - before) > 5
    panel.close()
    assert living() == before
    panel.close()


NOT_A_RECORD = [None, "run.safetensors", np.zeros(3), object()]


@pytest.mark.parametrize("thing", NOT_A_RECORD, ids=lambda thing: type(thing).__name__)
def test_refuses_what_is_no_record(thing):
    with pytest.raises(
        TypeError, match=r"takes a Trajectory first, got .*; make one with ldmkit\.rec"
    ):
        TrajectoryPanel(thing)


def test_refuses_a_record_without_pictures(traj):
    before = living()
    none = dict.fromkeys(LANES)
    with pytest.raises(
        RecordError, match=r"needs a record with step pictures.*; record again with"
    ):
        TrajectoryPanel(make(4, previews=(), **none))
    empty = type(traj)(prompt="x", timesteps=[], alphas=[], sigmas=[], stopped=True)
    with pytest.raises(RecordError, match=r"at least one step.*; record again"):
        TrajectoryPanel(empty)
    assert living() == before


WRONG = [
    ("step", 8, ValueError, "step must be between 0 and 7 inclusive, got 8."),
    ("step", -1, ValueError, "step must be between 0 and 7 inclusive, got -1."),
    ("step", 1.5, TypeError, "step must be a whole number between 0 and 7, got 1.5."),
    ("step", True, TypeError, "step must be a whole number between 0 and 7, got True."),
    ("batch", 1, ValueError, "batch must be between 0 and 0 inclusive, got 1."),
    ("lanes", "denoised", TypeError, "lanes must be a list of names, got 'denoised'; this record"),
    ("lanes", ["maps"], ValueError, "lanes must be different names of drawable lanes, got 'maps';"),
    ("lanes", [[]], ValueError, "lanes must be different names of drawable lanes, got []; this"),
    ("lanes", [], ValueError, "lanes must be different names of drawable lanes, got []; this"),
    ("lanes", LANES[:1] * 2, ValueError, "lanes must be different names of drawable lanes, got ['"),
    ("value", 3, TypeError, "value must be a dict of step, batch, lanes, got 3"),
    ("value", {"stpe": 1}, ValueError, "got 'stpe'; did you mean 'step'?"),
    ("value", {"step": 99, "batch": 0}, ValueError, "step must be between 0 and 7"),
]


@pytest.mark.parametrize(("name", "wrong", "error", "words"), WRONG)
def test_wrong_settings_are_refused_and_change_nothing(panel, traj, name, wrong, error, words):
    before, living_before = panel.value, living()
    with pytest.raises(error) as raised:
        setattr(panel, name, wrong)
    assert words in str(raised.value)
    assert panel.value == before
    assert (panel.step, panel.batch, panel.lanes) == tuple(before.values())
    if name != "value":
        with pytest.raises(error) as raised:
            TrajectoryPanel(traj, **{name: wrong})
        assert words in str(raised.value)
    assert living() == living_before  # nothing half-made stays
