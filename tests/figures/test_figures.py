"""Records drawn: what the player is given, the sheet, the cell, the page, the plot."""

import base64
import io
import json
import re
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from PIL import Image
from records.make import PROMPT, make

from ldmkit.figures import (
    mimebundle,
    sheet_html,
    sheet_image,
    trajectory_figure,
    trajectory_payload,
)
from ldmkit.figures.html import asset, module
from ldmkit.figures.player import page_html
from ldmkit.figures.webp import MAX_BYTES
from ldmkit.records import RecordError, pictures
from ldmkit.records.pictures import lane_array

from .test_html import HOSTILE, Reader

MB = 1_000_000


def frames_of(payload):
    """lane name -> its pictures, cut as player.mjs cuts them."""
    at, cut = 0, {}
    for lane in payload.data["lanes"]:
        cut[lane["name"]] = []
        for size in lane["sizes"]:
            cut[lane["name"]].append(Image.open(io.BytesIO(payload.frames[at : at + size])))
            at += size
    assert at + payload.data["final"]["size"] == len(payload.frames)
    return cut


def test_payload_holds_every_lane_and_step():
    traj = make(5)
    payload = trajectory_payload(traj)
    cut = frames_of(payload)
    assert list(cut) == ["latents", "denoised", "noise_pred"]
    assert payload.data["index"] == [0, 1, 2, 3, 4]
    for lane in ("latents", "noise_pred"):  # single latents: exact
        for frame, want in zip(cut[lane], lane_array(traj, lane), strict=True):
            assert np.array_equal(np.asarray(frame.convert("RGB")), want)
    last = np.asarray(cut["denoised"][-1].convert("RGB"), np.float64)
    error = last - lane_array(traj, "denoised")[-1]
    assert np.sqrt((error**2).mean()) < 10  # lossy, the picture still
    assert [lane["crisp"] for lane in payload.data["lanes"]] == [True, False, True]
    assert payload.data["note"] == ""
    json.dumps(payload.data, allow_nan=False)


def test_payload_shows_the_asked_picture_of_the_batch():
    traj = make(3, batch=2)
    first, second = (trajectory_payload(traj, b) for b in (0, 1))
    assert first.frames != second.frames
    assert "Picture 2 of 2" in second.data["note"]
    with pytest.raises(RecordError, match="batch must be between"):
        trajectory_payload(traj, 2)


def test_payload_shrinks_and_says_so():
    traj = make(40, size=256, previews=("denoised", "latents"))
    payload = trajectory_payload(traj, max_bytes=60_000)
    assert len(payload.frames) - payload.data["final"]["size"] <= 60_000
    assert re.search(r"Shrunk .*at most \d+ pixels a side, .*one step in \d+", payload.data["note"])
    index = payload.data["index"]
    assert index[0] == 0
    assert index[-1] == 39
    assert all(len(lane["sizes"]) == len(index) for lane in payload.data["lanes"])
    frames_of(payload)


def test_non_finite_numbers_become_null():
    data = trajectory_payload(make(2, sigmas=[np.nan, 0.5])).data
    assert data["sigmas"] == [None, 0.5]


def test_missing_lanes_are_told():
    data = trajectory_payload(make(3, noise_pred=None, latents=None)).data
    assert [lane["name"] for lane in data["lanes"]] == ["denoised"]
    assert data["note"] == "Not kept in this record: noisy picture and predicted noise."


@pytest.mark.parametrize(
    ("traj", "limit"),
    [
        (make(32), 0.5 * MB),
        (make(32, previews=("denoised", "latents")), 0.5 * MB),
        (make(32, side=64, size=512, previews=("denoised", "latents")), 3 * MB),
        (make(32, side=64, size=512), 3 * MB),
    ],
    ids=["embedded", "embedded decoded", "512 decoded", "512 linear"],
)
def test_page_size(traj, limit, tmp_path):
    path = traj.to_html(tmp_path / "page.html")
    assert path.stat().st_size <= limit


LARGE = (60, 1, 256, 256, 3)


@pytest.mark.slow
def test_a_cell_stays_under_4_mb():
    rng = np.random.default_rng(0)  # nothing compresses worse
    noise = {
        lane: rng.integers(0, 255, (60, 1, 256, 256, 3), np.uint8)
        for lane in ("denoised", "latents")
    }
    bundle = mimebundle(_with(noise))
    assert sum(map(len, bundle.values())) < 4 * MB
    assert "Shrunk to keep this output small" in bundle["text/html"]


def _with(previews):
    traj = make(60, side=128, size=256, previews=())
    fields = {name: getattr(traj, name) for name in traj.__dataclass_fields__}
    return type(traj)(**fields | {"previews": previews})


def test_bundle():
    bundle = make(4)._repr_mimebundle_()
    assert list(bundle) == ["text/html", "image/png", "text/plain"]
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).format == "PNG"
    assert PROMPT in bundle["text/plain"]


def test_ids_differ_between_outputs():
    ids = {re.search(r'id="(ldm-\w+)"', make(2)._repr_mimebundle_()["text/html"])[1] for _ in "ab"}
    assert len(ids) == 2


ODD = {
    "no lanes": {"latents": None, "denoised": None, "noise_pred": None, "previews": {}},
    "no matrix": {"rgb": None, "previews": {}},
    "nothing": {"latents": None, "denoised": None, "noise_pred": None, "images": ()},
    "no final": {"images": (), "stopped": True},
    "empty prompt": {"prompt": ""},
    "emoji": {"prompt": "🦊" * 10_000},
    "hostile": {"prompt": HOSTILE, "model": HOSTILE, "call": {"guidance_scale": HOSTILE}},
    "surrogate": {"prompt": "\ud800$x$\x00"},
    "nan": {"latents": np.full((4, 1, 4, 16, 16), np.nan)},
    "wide": {"images": (Image.new("RGB", (96, 32)),)},
    "grey": {"images": (Image.new("L", (64, 64)),)},
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("n", [1, 3])
def test_every_record_shows_itself(odd, n, tmp_path):
    fields = ODD[odd]
    if odd == "nan":
        fields = {"latents": np.full((n + 1, 1, 4, 16, 16), np.nan)}
    traj = make(n, **fields) if "previews" in fields else make(n, previews=(), **fields)
    assert len(traj._repr_mimebundle_()["image/png"]) > 100
    traj.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert traj.figure()._repr_png_().startswith(b"\x89PNG")


def test_a_run_stopped_before_its_first_step():
    traj = make(1)
    none = dict.fromkeys(("latents", "denoised", "noise_pred"))
    empty = type(traj)(prompt="x", timesteps=[], alphas=[], sigmas=[], stopped=True, **none)
    assert "keeps no lane" in empty._repr_mimebundle_()["text/html"]
    empty.figure()


def test_sheet_is_plain_pictures_with_alt_text():
    reader = Reader()
    reader.feed(sheet_html(make(32)))
    pictures = [a for tag, a in zip(reader.tags, reader.attributes, strict=True) if tag == "img"]
    assert len(pictures) == 3 * 8 + 1
    assert all(a["src"].startswith("data:image/webp;base64,") for a in pictures)
    assert all(PROMPT in a["alt"] for a in pictures)
    assert not set(reader.tags) & {"script", "style", "svg", "canvas"}
    # What JupyterLab's sanitiser drops must not be needed.
    styles = " ".join(a.get("style") or "" for a in reader.attributes)
    assert "var(" not in styles
    assert "image-rendering" not in styles
    assert "critters · seed 7 · 32 steps · guidance 4 · DDIM" in reader.text


def test_a_display_draws_and_encodes_each_frame_once(monkeypatch):
    traj = make(20, size=64, previews=("denoised",))
    drawn, encoded, resized, whole = [], [], [], []
    lane_latents, save, resize = pictures.lane_latents, Image.Image.save, Image.Image.resize

    def counted_save(image, file, kind=None, **options):
        (encoded if kind == "WEBP" else whole).append(image.size)
        return save(image, file, kind, **options)

    monkeypatch.setattr(pictures, "lane_latents", lambda *a: drawn.append(a[1]) or lane_latents(*a))
    monkeypatch.setattr(Image.Image, "save", counted_save)
    monkeypatch.setattr(Image.Image, "resize", lambda *a, **k: resized.append(1) or resize(*a, **k))
    bundle = traj._repr_mimebundle_()
    assert sorted(drawn) == ["latents", "noise_pred"]  # the third lane is decoded already
    # Three lanes of 20 steps and the picture for the player; cells of 8 steps enlarged beside it.
    assert len(encoded) == 3 * 20 + 1 + 2 * 8
    assert len(whole) == 1
    # Enlarged cells of the sheet; three lanes of 6 steps, thumbnail and place, and the picture.
    assert len(resized) <= 2 * 8 + 2 * 3 * 6 + 1
    # The sheet's small pictures are the player's own.
    data = json.loads(re.search(r'class="ldm-data">(.*?)</script>', bundle["text/html"])[1])
    player = base64.b64decode(data["frames"])
    shown = re.findall(r'src="data:image/webp;base64,([^"]+)"', bundle["text/html"])
    assert sum(base64.b64decode(one) in player for one in shown) == 8 + 1


def test_what_is_drawable_is_what_draws():
    kept = ("latents", "denoised", "noise_pred", "noise_pred_text", "noise_pred_uncond")
    for left_out in [(), *combinations(kept, 1), *combinations(kept, 2), *combinations(kept, 4)]:
        traj = make(2, **dict.fromkeys(left_out))
        for lane in pictures.LANES:
            told = lane in traj.previews or pictures.lane_latents(traj, lane) is not None
            assert pictures.drawable(traj, lane) == told, (left_out, lane)


def test_hostile_words_add_no_element():
    calm, hostile = (
        make(3, prompt=p, model=p, negative_prompt=p, versions={p: p}, call={"scheduler": p})
        for p in ("calm", HOSTILE)
    )
    tags = []
    for traj in (calm, hostile):
        reader = Reader()
        reader.feed(page_html(traj))
        tags.append(reader.tags)
    assert tags[0] == tags[1]


def test_assets_end_no_element():
    assert "</script" not in module("player.mjs").lower()
    assert "<!--" not in module("player.mjs")
    assert "</style" not in asset("player.css").lower()
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", module("player.mjs"))
    assert "url(" not in asset("player.css")
    assert len(module("player.mjs").encode()) < 20_000


def test_nothing_half_written(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("old")
    with pytest.raises(RecordError):
        make(2).to_html(page, batch=5)
    assert page.read_text() == "old"
    with pytest.raises(OSError, match="missing"):
        make(2).to_html(tmp_path / "missing" / "page.html")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_sheet_image():
    picture = sheet_image(make(32))
    assert picture.mode == "RGB"
    assert 600 < picture.width < 1400
    final = np.asarray(picture)[70:250, -200:-30]
    assert final.std() > 20  # the picture stands at the right


def test_figure_shows_every_fourth_step_and_the_last():
    fig = trajectory_figure(make(10), every=4)
    titles = [axes.get_title() for axes in fig.axes if axes.get_title()]
    assert [t.split("\n")[0] for t in titles] == [
        "step 1",
        "step 5",
        "step 9",
        "step 10",
        "final picture",
    ]
    curves = [line for axes in fig.axes for line in axes.get_lines()]
    assert any(np.allclose(line.get_ydata(), make(10).alphas) for line in curves)
    assert fig._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "4"])
def test_figure_refuses(every):
    with pytest.raises(RecordError, match="every must be"):
        make(2).figure(every=every)


def test_imports_are_light():
    code = (
        "import sys, ldmkit.records, ldmkit.figures;"
        "heavy = {'torch', 'diffusers', 'transformers', 'matplotlib', 'ipywidgets', 'IPython'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_budget_leaves_room_for_base64_and_sheet():
    assert MAX_BYTES * 4 / 3 < 3 * MB
