"""AttentionMaps asked, kept in a file, drawn."""

import re

import numpy as np
import pytest

from ldmkit.figures.player import trajectory_payload
from ldmkit.figures.side_by_side import comparison_payload
from ldmkit.records import AttentionMaps, RecordError, Trajectory
from ldmkit.records.attention import brightness, split_words

from .make import make, write_record

LAYERS = (("down.attn2", 4, 4, 2), ("up.attn2", 8, 8, 1))


def maps(prompt="a red cat with a hat", steps=4, **fields):
    rng = np.random.default_rng(0)
    words = tuple(prompt[a:b] for a, b in split_words(prompt))
    tokens = ("<start>", *words, "<padding>")
    arrays = [
        rng.random((steps, len(tokens), heads, h, w), np.float32) for _, h, w, heads in LAYERS
    ]
    own = {
        "prompt": prompt,
        "tokens": tokens,
        "words": words,
        "rows": tuple((i + 1,) for i in range(len(words))),
        "layers": LAYERS,
        "maps": tuple(arrays),
    }
    return AttentionMaps(**{**own, **fields})


def test_a_word_is_the_mean_of_layers_and_heads():
    found = maps()
    small, large = found.maps[0][:, 3].mean(1), found.maps[1][:, 3].mean(1)
    cat = found["cat"]
    assert cat.shape == (4, 8, 8)
    # Twice as many places, linear between their middles: 3/4 of the nearest, 1/4 of the next.
    inner = 2 * cat - large
    wanted = 0.75 * small[:, 0, 0] + 0.25 * small[:, 0, 1]
    assert np.allclose(inner[:, 0, 1], wanted, atol=1e-6)
    assert np.allclose(inner[:, 0, 0], small[:, 0, 0], atol=1e-6)
    assert np.array_equal(found["CAT"], cat)
    assert np.array_equal(found.at("cat", step=2, layer="down", head=1), found.maps[0][2, 3, 1])
    assert np.allclose(found.at("cat", step=2, layer=0), small[2])
    assert np.allclose(found["red cat"], found["red"] + cat)
    assert found.shown == (("a", 0), "red", "cat", "with", ("a", 1), "hat", "<start>", "<padding>")
    assert found["<start>"].shape == (4, 8, 8)
    assert not found.maps[0].flags.writeable


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda m: m["hatt"], "no word 'hatt'; did you mean 'hat'"),
        (lambda m: m["a"], "'a' 2 times; take maps['a', 0] to maps['a', 1]"),
        (lambda m: m["a", 2], "between 0 and 1 inclusive, got 2"),
        (lambda m: m[3], "must be a string"),
        (lambda m: m["cat", 0, 0], "must be a string, or a pair"),
        (lambda m: m.at("cat", layer="down.atn2"), "no layer 'down.atn2'; did you mean 'down.attn"),
        (lambda m: m.at("cat", layer="attn2"), "2 names of a layer have 'attn2' in them"),
        (lambda m: m.at("cat", layer=2), "layer must be between 0 and 1 inclusive, got 2"),
        (lambda m: m.at("cat", head=2), "head must be between 0 and 1 inclusive, got 2"),
        (lambda m: m.at("cat", step=4), "step must be between -4 and 3 inclusive, got 4"),
        (lambda m: m.of(1), "batch must be between 0 and 0 inclusive, got 1"),
        (lambda m: m.overlay("cat"), "overlay needs the clean estimates"),
        (lambda m: list(m), "asked by word"),
    ],
)
def test_a_wrong_question(ask, words):
    with pytest.raises((RecordError, IndexError, TypeError), match=re.escape(words)):
        ask(maps())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rows": ((99,),) * 6}, "Each of rows"),
        ({"rows": ()}, "rows must be told for 6 words"),
        ({"layers": LAYERS[:1]}, "one array for each"),
        ({"layers": (("a", 4, 4), LAYERS[1])}, "must be (name, height, width, heads)"),
        ({"tokens": ("a",) * 7}, "shape"),
        ({"others": (1,)}, "others must be"),
    ],
)
def test_parts_that_contradict_each_other(fields, words):
    with pytest.raises(RecordError, match=re.escape(words)):
        maps(**fields)
    short = maps(steps=3)
    with pytest.raises(RecordError, match="must have 4 steps"):
        make(4, attention=short)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_in_a_file(tmp_path, dtype):
    second = maps("a <b>dog</b>", others=())
    traj = make(4, batch=2, attention=maps(others=(second,)))
    again = Trajectory.open(traj.save(tmp_path / "run.safetensors", dtype=dtype)).attention
    exact = dtype == "float32"
    assert np.abs(again["hat"] - traj.attention["hat"]).max() <= (0 if exact else 1e-3)
    assert again.of(1).words == ("a", "b", "dog", "b")
    assert again.layers == traj.attention.layers
    assert (
        again.overlay("hat", step=1).tobytes() == traj.attention.overlay("hat", step=1).tobytes()
        or not exact
    )


def test_files_without_maps_and_hostile_ones(tmp_path):
    from ldmkit.records.trajectory import _pack

    traj = make(4, attention=maps())
    arrays, words = _pack(traj, np.dtype(np.float32))
    old = {name: value for name, value in words.items() if name != "attention"}
    plain = {name: a for name, a in arrays.items() if not name.startswith("attention/")}
    path = tmp_path / "run.safetensors"
    # As an earlier ldmkit wrote it.
    assert Trajectory.open(write_record(path, plain, {"format": "trajectory", "version": 1, **old}))
    own = words["attention"][0]
    for change in (
        {"layers": [["x", 1, 1, 1]] * 2000},
        {"rows": [[-1]] * 6},
        {"words": 7},
        {"layers": [["x", 9, 9, 2], LAYERS[1]]},
    ):
        told = {"format": "trajectory", "version": 1, **words, "attention": [{**own, **change}]}
        with pytest.raises(RecordError, match="not a whole trajectory"):
            Trajectory.open(write_record(path, arrays, told))


def test_the_overlay_is_brightest_where_the_word_is_looked_at():
    light = np.zeros((4, 8, 1, 8, 8), np.float32)
    light[:, 6, :, :2, 5:] = 1  # the hat's row: up and right
    found = maps(layers=LAYERS[1:], maps=(light,))
    traj = make(4, attention=found)
    lit = np.asarray(traj.attention.overlay("hat", step=3, size=64), float)
    amber = lit[..., 0] - lit[..., 2]
    assert amber[4:10, 48:60].mean() > 100
    assert abs(amber[30:60, :30].mean()) < 30
    html = traj.attention._repr_mimebundle_()["text/html"]
    assert "<script" not in html


def test_words_of_a_record_are_escaped_where_they_are_drawn():
    evil = "a <img> cat"
    found = maps(evil, words=("<script>", "img", "cat"), rows=((1,), (2,), (3,)))
    traj = make(4, attention=found)
    html = traj._repr_mimebundle_()["text/html"]
    assert "<script>" not in html.replace('<script type="', "")
    assert "&lt;script&gt;" in html
    assert found.figure("cat", steps=2).axes
    assert len(traj.attention.figure("cat", "img", steps=3).axes) == 6


def test_what_a_player_gets():
    """The bytes of the maps stand behind the pictures; side by side there are none."""
    traj = make(4, attention=maps())
    payload, plain = trajectory_payload(traj), trajectory_payload(make(4))
    told, more = payload.data["attention"], payload.frames[len(plain.frames) :]
    assert payload.frames[: len(plain.frames)] == plain.frames
    assert told["words"][:3] == ["a (0)", "red", "cat"]
    sizes = [layer["height"] * layer["width"] for layer in told["layers"]]
    assert len(more) == sum(sizes) * len(told["words"]) * 4
    assert [layer["name"] for layer in told["layers"]] == ["all layers", "down attn2", "up attn2"]
    red = np.frombuffer(more[4 * 64 : 8 * 64], np.uint8).reshape(4, 8, 8)  # the second word
    assert np.array_equal(red, brightness(traj.attention["red"]))
    both = comparison_payload([traj, traj], lanes=("denoised",))
    assert both.frames == comparison_payload([make(4)] * 2, lanes=("denoised",)).frames
