"""Records side by side: which step stands beside which, the player's data, the cell, the page."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from records.make import PROMPT, make

import ldmkit
from ldmkit.figures import comparison_payload, trajectory_payload
from ldmkit.figures.side_by_side import align, side_by_side
from ldmkit.records import RecordError
from ldmkit.records.pictures import lane_array

from .test_html import HOSTILE, Reader

LANES = ("latents", "denoised")


def angle(traj):
    return np.arctan2(traj.sigmas, traj.alphas)


def apart(lined, k, traj):
    """How far each shown step's noise is from its position's, over what any step could reach."""
    ticks = np.arctan2(lined.sigmas, lined.alphas)
    shown = np.abs(angle(traj)[list(lined.steps[k])] - ticks)
    return (shown - np.abs(angle(traj) - ticks[:, None]).min(axis=1)).max()


def test_runs_of_one_schedule_stand_step_beside_step():
    lined = align([make(6), make(6, seed=8)])
    assert lined.steps == (tuple(range(6)),) * 2
    assert lined.words == ""
    assert np.array_equal(lined.alphas, make(6).alphas)
    assert np.array_equal(lined.timesteps, make(6).timesteps)


def test_8_steps_beside_32():
    short, long = make(8), make(32)
    lined = align([short, long])
    assert lined.steps[1] == tuple(range(32))
    assert sorted(set(lined.steps[0])) == list(range(8))  # none is left out
    assert list(lined.steps[0]) == sorted(lined.steps[0])
    assert apart(lined, 0, short) < 1e-5
    assert np.abs(np.arctan2(lined.sigmas, lined.alphas) - angle(long)).max() < 1e-12
    assert "noise" in lined.words
    assert np.isnan(lined.timesteps).all()


def test_eulers_sigmas_of_14_stand_beside_the_same_noise():
    ddim, euler = make(8), make(8, euler=True)
    assert euler.sigmas.max() > 14
    lined = align([euler, ddim])
    assert lined.steps == (tuple(range(8)),) * 2


def test_a_stopped_run_waits_at_its_last_step():
    whole = make(32)
    cut = {name: getattr(whole, name)[:10] for name in ("timesteps", "alphas", "sigmas")}
    none = dict.fromkeys(("latents", "denoised", "noise_pred"))
    stopped = make(10, stopped=True, previews=(), **cut, **none)
    lined = align([whole, stopped])
    assert lined.steps[1] == (*range(10), *[9] * 22)
    # The longest is the stopped one: the slider goes on with the other's cleaner steps.
    short = make(6)
    lined = align([short, stopped])
    last = sum(angle(short) >= angle(stopped).min())
    assert lined.steps[1] == (*range(10), *[9] * (6 - last))
    assert lined.steps[0][10:] == tuple(range(last, 6))


def test_a_level_visited_twice_shows_both_calls():
    levels = np.linspace(1.5, 0.1, 5).repeat(2)[1:]  # as Heun calls
    heun = make(9, alphas=np.cos(levels), sigmas=np.sin(levels))
    lined = align([heun, make(4)])
    assert lined.steps[0] == tuple(range(9))


def test_unknown_noise_is_lined_up_by_share_and_said():
    unknown = make(5, alphas=[np.nan] * 5, sigmas=[np.nan] * 5)
    lined = align([unknown, make(9)])
    assert lined.steps == ((0, 0, 1, 2, 2, 2, 3, 4, 4), tuple(range(9)))
    assert "share of their steps" in lined.words


def frames_of(payload):
    """run -> lane -> its frames, cut as player.mjs cuts them."""
    at, cut = 0, []
    for run in payload.data["runs"]:
        lanes = {}
        for lane in run["lanes"]:
            for size in lane["sizes"]:
                frame = payload.frames[at : at + size]
                lanes.setdefault(lane["name"], []).append(Image.open(io.BytesIO(frame)))
                at += size
        at += run["final"]["size"]
        cut.append(lanes)
    assert at == len(payload.frames)
    return cut


def test_payload_holds_each_record_as_its_own_player_has_it():
    trajs = (make(8), make(32, seed=3))
    payload = comparison_payload(trajs, lanes=LANES)
    json.dumps(payload.data, allow_nan=False)
    assert len(payload.data["runs"]) == 2
    for run, lanes, traj in zip(payload.data["runs"], frames_of(payload), trajs, strict=True):
        assert run["total"] == len(traj.timesteps)
        assert run["alphas"] == trajectory_payload(traj, lanes=LANES).data["alphas"]
        assert len(run["at"]) == payload.data["total"] == 32
        for position in (0, 13, 31):
            frame = np.asarray(lanes["latents"][run["at"][position]].convert("RGB"))
            step = run["index"][run["at"][position]]
            assert np.array_equal(frame, lane_array(traj, "latents")[step])


def test_common_words_stand_once_and_what_differs_heads_the_columns():
    data = comparison_payload((make(8), make(32)), lanes=LANES).data
    assert data["prompt"] == PROMPT
    assert data["details"] == ["critters", "seed 7", "guidance 4", "DDIM"]
    assert [run["title"] for run in data["runs"]] == ["8 steps", "32 steps"]
    data = comparison_payload((make(4), make(4, seed=2, prompt="a dog")), lanes=LANES).data
    assert data["prompt"] == "2 runs side by side"
    titles = [run["title"] for run in data["runs"]]
    assert titles == [f"{PROMPT} · seed 7", "a dog · seed 2"]
    data = comparison_payload((make(4), make(4)), lanes=LANES).data
    assert [run["title"] for run in data["runs"]] == ["Run 1", "Run 2"]


@pytest.mark.parametrize("count", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_all_records_share_one_limit(count):
    big = make(24, size=256, previews=("denoised", "latents"))
    payload = comparison_payload([big] * count, lanes=LANES, max_bytes=400_000)
    final = sum(run["final"]["size"] for run in payload.data["runs"])
    assert len(payload.frames) - final <= 400_000
    assert payload.data["note"].count("Shrunk") == 1
    run = payload.data["runs"][0]
    steps = [run["index"][at] for at in run["at"]]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, 23)


# --- without a kernel ----------------------------------------------------------------------------


def test_a_cell_shows_all_records_and_stays_small():
    shown = ldmkit.side_by_side(make(8), make(32))
    bundle = shown._repr_mimebundle_()
    assert list(bundle) == ["text/html", "image/png", "text/plain"]
    reader = Reader()
    reader.feed(bundle["text/html"])
    pictures = [a for tag, a in zip(reader.tags, reader.attributes, strict=True) if tag == "img"]
    assert len(pictures) == 2 * (2 * 6 + 1)  # two lanes of six steps and the end, for each
    assert all(PROMPT in a["alt"] for a in pictures)
    both = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert both.height > 1.9 * 200
    assert bundle["text/plain"].startswith("SideBySide(Trajectory(")


@pytest.mark.slow
def test_eight_records_of_noise_stay_under_4_mb():
    rng = np.random.default_rng(0)  # nothing compresses worse
    shape = (20, 1, 256, 256, 3)
    noise = {lane: rng.integers(0, 255, shape, np.uint8) for lane in ("denoised", "latents")}
    fields = {n: getattr(make(20, side=8), n) for n in type(make(1)).__dataclass_fields__}
    loud = type(make(1))(**fields | {"previews": noise})
    bundle = side_by_side(*[loud] * 8)._repr_mimebundle_()
    assert sum(map(len, bundle.values())) < 4_000_000


def test_hostile_words_add_no_element(tmp_path):
    tags = []
    for words in ("calm", HOSTILE):
        trajs = (make(2, prompt=words, model=words), make(3, prompt=words + "!", model=words))
        reader = Reader()
        page = side_by_side(*trajs).to_html(tmp_path / "page.html")
        reader.feed(page.read_text(encoding="utf-8"))
        tags.append(reader.tags)
    assert tags[0] == tags[1]


def test_lanes_and_batch_are_chosen():
    trajs = (make(3, batch=2), make(4, batch=2))
    html = side_by_side(*trajs, batch=1, lanes=["noise_pred"])._repr_mimebundle_()["text/html"]
    assert "Predicted noise" in html
    assert "Picture 2 of 2" in html
    assert "Clean estimate" not in html.split("<script")[0]


WRONG = [
    ((), {}, TypeError, "side_by_side takes two records or more, got 0; one shows itself"),
    ((make(2),), {}, TypeError, "takes two records or more, got 1; one shows itself"),
    ((make(2),) * 9, {}, TypeError, "takes 1 to 8 records, got 9; show one"),
    ((make(2), None), {}, TypeError, "takes a Trajectory first, got None; make one with"),
    ((make(2), make(3)), {"lanes": ["maps"]}, ValueError, "got 'maps'; these records can show"),
    ((make(2), make(3)), {"batch": 1}, RecordError, "batch must be between 0 and 0 inclusive, got"),
]


@pytest.mark.parametrize(("trajs", "options", "error", "words"), WRONG)
def test_refused(trajs, options, error, words):
    with pytest.raises(error) as raised:
        side_by_side(*trajs, **options)
    assert words in str(raised.value)
