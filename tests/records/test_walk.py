"""``Walk``: what it refuses, what comes back from its file, what it shows."""

import json

import numpy as np
import pytest
from PIL import Image

from ldmkit.records import Embedding, RecordError, Trajectory, Walk
from ldmkit.records.record import read_record

from .make import write_record

HOSTILE = "</script><script>alert(1)</script>\" onload='x' & <b>"


def picture(shade, size=(16, 12)):
    rng = np.random.default_rng(shade)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def make(k=4, **fields):
    vectors = np.random.default_rng(0).standard_normal((k, 6))
    values = {
        "images": [picture(i) for i in range(k)],
        "labels": [f"place {i}" for i in range(k)],
        "t": np.linspace(0, 1, k),
        "embeddings": [Embedding(v, f"e{i}", "path", "tiny") for i, v in enumerate(vectors)],
        "points": vectors,
        "space": "clip_image",
        "method": "slerp",
        "seed": 3,
        "call": {"num_inference_steps": 10},
        "model": "tiny",
        "versions": {"ldmkit": "0"},
        "verdicts": ["a cat"] * k,
    }
    return Walk(**{**values, **fields})


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("images", [np.zeros((4, 4, 3))] * 4, "images must be PIL"),
        ("images", [picture(0), picture(0, (8, 8))] * 2, "images must be of one size"),
        ("images", [picture(0)], "images must hold 4 entries"),
        ("labels", [1, 2, 3, 4], "labels must be strings"),
        ("labels", ["a"] * 5, "labels must hold 4 entries, one per place t, got 5"),
        ("embeddings", [np.zeros(3)] * 4, "embeddings must be Embedding"),
        ("verdicts", ["a"], "verdicts must hold 4"),
        ("t", [0, 1, 0.5, 2], "t must be finite numbers that rise"),
        ("t", [0, 1, 2, np.nan], "t must be finite"),
        ("t", [], "t must be finite"),
        ("t", "abcd", "t must be finite"),
        ("points", np.zeros((3, 2)), r"points must have the shape \(4, \.\.\.\)"),
        ("seed", 1.5, "seed must be int or None"),
        ("space", None, "space must be a string"),
    ],
)
def test_refuses_in_one_sentence(field, value, words):
    with pytest.raises(RecordError, match=words) as caught:
        make(**{field: value})
    assert "\n" not in str(caught.value)


def test_frozen_and_apart_from_the_callers_own():
    t, call, image = np.linspace(0, 1, 4), {"a": 1}, picture(0)
    walk = make(t=t, call=call, images=[image] * 4)
    t[0], call["a"] = 9, 2
    image.putpixel((0, 0), (1, 2, 3))
    assert (walk.t[0], walk.call) == (0, {"a": 1})
    assert walk.images[0].getpixel((0, 0)) != (1, 2, 3)
    with pytest.raises(ValueError, match="read-only"):
        walk.t[0] = 1
    assert (len(walk), walk.title) == (4, "place 0 → place 3")
    assert "\n" not in repr(make(title="a\nb" * 300))


def test_save_and_open_keep_every_bit(tmp_path):
    walk = make()
    twin = Walk.open(walk.save(tmp_path / "w.safetensors"))
    pairs = zip(walk.images, twin.images, strict=True)
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)
    assert np.array_equal(walk.t, twin.t)
    assert np.array_equal(walk.points, twin.points)
    pairs = zip(walk.embeddings, twin.embeddings, strict=True)
    assert all(np.array_equal(a.vector, b.vector) and repr(a) == repr(b) for a, b in pairs)
    for name in ("labels", "title", "axis", "space", "method", "seed", "call", "verdicts"):
        assert getattr(twin, name) == getattr(walk, name)


def test_a_bare_walk_travels_too(tmp_path):
    walk = make(1, embeddings=(), points=None, verdicts=(), seed=None)
    twin = Walk.open(walk.save(tmp_path / "w.safetensors"))
    assert (twin.embeddings, twin.points, twin.seed, len(twin)) == ((), None, None, 1)


def test_broken_files_are_told_in_one_sentence(tmp_path):
    path = make().save(tmp_path / "w.safetensors")
    arrays, meta = read_record(path, max_bytes=2**20)
    cases = [
        (arrays, {**meta, "format": "trajectory"}, "not a walk"),
        (arrays, {**meta, "version": 9}, "version 9"),
        (arrays, {**meta, "labels": 3}, "not a whole walk"),
        (arrays, {**meta, "call": None}, "not a whole walk"),
        (arrays, {**meta, "embeddings": []}, "not a whole walk"),
        (arrays, {**meta, "embeddings": 3}, "not a whole walk"),
        ({**arrays, "images": arrays["images"][:, 0]}, meta, "images must be"),
        ({**arrays, "images": arrays["t"]}, meta, "images must be"),
        ({**arrays, "t": arrays["t"][:2]}, meta, "not a whole walk"),
        ({"t": arrays["t"]}, meta, "not a whole walk"),
    ]
    for broken, words, told in cases:
        write_record(path, broken, words)
        with pytest.raises(RecordError, match=told) as caught:
            Walk.open(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(RecordError, match="cut off"):
        Walk.open(path)


@pytest.mark.parametrize(("kind", "name"), [("GIF", "to_gif"), ("WEBP", "to_webp")])
def test_animations_go_there_and_back(tmp_path, kind, name):
    walk = make(4)
    there = getattr(walk, name)(tmp_path / "w", size=32, bounce=False, duration=80)
    with Image.open(there) as moving:
        assert (moving.format, moving.n_frames, moving.size) == (kind, 4, (32, 24))
        assert moving.info["loop"] == 0
    with Image.open(getattr(walk, name)(tmp_path / "w", size=32)) as moving:
        assert moving.n_frames == 6
        seen = []
        for i in range(6):
            moving.seek(i)
            seen.append(np.asarray(moving.convert("RGB"), np.float32))
    alike = np.abs(seen[1] - seen[5]).mean()
    assert alike < 8 < np.abs(seen[1] - seen[2]).mean()


@pytest.mark.parametrize(
    "options", [{"duration": 1}, {"duration": float("nan")}, {"size": 1}, {"size": True}]
)
def test_animations_refuse_and_leave_nothing_behind(tmp_path, options):
    with pytest.raises(RecordError, match=f"{next(iter(options))} must be between"):
        make().to_gif(tmp_path / "w.gif", **options)
    with pytest.raises(OSError, match="No such file"):
        make().to_gif(tmp_path / "none" / "w.gif")
    assert not list(tmp_path.iterdir())


def test_pictures_carry_the_walks_words(tmp_path):
    walk = make(4)
    with Image.open(walk.to_png(tmp_path / "one.png", 2)) as one:
        told = json.loads(one.text["ldmkit"])
        assert np.array_equal(np.asarray(one), np.asarray(walk.images[2]))
    assert (told["labels"], told["t"], told["space"]) == (["place 2"], [2 / 3], "clip_image")
    with Image.open(walk.to_png(tmp_path / "all.png")) as sheet:
        assert sheet.width > 300
        assert len(json.loads(sheet.text["ldmkit"])["labels"]) == 4
    with pytest.raises(RecordError, match="between 0 and 3 inclusive, got 4"):
        walk.to_png(tmp_path / "x.png", 4)
    with pytest.raises(RecordError, match=r"'all.png' holds a call.*it is of a 'walk'"):
        Trajectory.from_png(tmp_path / "all.png")


@pytest.mark.parametrize(
    ("name", "lacking", "plain"),
    [("axis", "θ", "theta"), ("title", "a − b → c", "a - b to c"), ("model", "a−b", "a-b")],
)
def test_sheet_writes_what_its_font_has(name, lacking, plain):
    ours, latin, other = (
        make(**{name: words})._repr_mimebundle_()["image/png"] for words in (lacking, plain, "t")
    )
    assert ours == latin
    assert ours != other


def test_page_holds_no_foreign_markup(tmp_path):
    walk = make(labels=[HOSTILE] * 4, verdicts=[HOSTILE] * 4, axis=HOSTILE, model=HOSTILE)
    page = walk.to_html(tmp_path / "w.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1
    assert "alert(1)</script>" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    html = walk._repr_mimebundle_()["text/html"]
    assert html.count("<img") == 4
    assert html.count("<script") == 1
    assert json.dumps(html)


def test_a_label_that_says_the_place_is_said_once():
    places = [f"θ = {t:.3g}" for t in np.linspace(0, 1, 4)]
    html = make(labels=places, axis="θ")._repr_mimebundle_()["text/html"]
    assert html.count("θ = 0.333") == 2  # under the picture, and for who can't see it
    assert html.count(">θ = 1</") == 1  # of an end, too
    assert 'title="a cat"' in html
    bare = make(labels=places, axis="θ", verdicts=())._repr_mimebundle_()["text/html"]
    assert 'title="θ = 0.333"' in bare


def test_large_walks_are_shrunk_aloud(tmp_path):
    shades = [picture(i, (256, 256)) for i in range(60)]
    page = make(60, images=shades, points=None, embeddings=()).to_html(tmp_path / "w.html")
    assert page.stat().st_size < 3_500_000
    assert "Shrunk to keep this output small" in page.read_text(encoding="utf-8")


def test_figure_has_a_picture_per_place_and_the_cosines():
    walk = make(4)
    axes = walk.figure().axes
    assert len(axes) == 5
    line = axes[-1].lines[0].get_ydata()
    want = [e.similarity(walk.embeddings[0]) for e in walk.embeddings]
    assert np.abs(np.asarray(line) - want).max() < 1e-6
    assert len(make(4, embeddings=()).figure().axes) == 4
