"""``Grid``: what is selected, averaged and refused; its file gives everything back."""

import json
import math
import struct

import numpy as np
import pytest
from PIL import Image

import ldmkit
from ldmkit.records import Grid, RecordError
from ldmkit.records.stats import wilson

from .make import write_record
from .make_grid import AXES, make_grid


@pytest.fixture
def grid():
    return make_grid()


def same(a, b):
    assert repr(a) == repr(b)
    assert list(a.axes.items()) == list(b.axes.items())
    for name in ("prompts", "seeds", "measure", "call", "model", "versions"):
        assert getattr(a, name) == getattr(b, name), name
    assert list(a.values) == list(b.values)
    assert all(np.array_equal(a.values[k], b.values[k], equal_nan=True) for k in a.values)
    for left, right in zip(a.images, b.images, strict=True):
        assert (left is None) == (right is None)
        assert left is None or (left.size, left.tobytes()) == (right.size, right.tobytes())


def test_size_order_and_words(grid):
    assert (len(grid), grid.shape) == (24, (2, 4, 3))
    assert ldmkit.Grid is Grid
    assert repr(grid) == (
        "Grid(2 scheduler × 4 num_inference_steps × 3 prompt, 24 pictures, with obedience)"
    )
    assert grid.point(0) == {
        "scheduler": "ddim",
        "num_inference_steps": 2,
        "prompt": "a red cat",
    }
    assert grid.point(16)["num_inference_steps"] == 4  # the last axis changes fastest
    assert grid.point(-1)["prompt"] == "a pig at night"


def test_is_frozen(grid):
    with pytest.raises(AttributeError):
        grid.measure = ""
    with pytest.raises(ValueError, match="read-only"):
        grid.values["score"][0] = 1


def test_select_by_label_and_by_list(grid):
    one = grid.select(scheduler="euler", num_inference_steps=8, prompt="a blue dog")
    assert one.image.getpixel((0, 0)) == (19, 38, 57)  # 12 + 2 · 3 + 1
    assert list(one.axes) == ["scheduler"]  # something has to stay
    part = grid.select(scheduler="ddim", num_inference_steps=(8, 2))
    assert part.axes == {"num_inference_steps": (8, 2), "prompt": AXES["prompt"]}
    assert [image.getpixel((0, 0))[0] for image in part.images] == [6, 7, 8, 0, 1, 2]
    assert part.call == {"guidance_scale": 4.0, "scheduler": "ddim"}
    assert part.values["seconds"].tolist() == pytest.approx([0.3] * 3 + [0.1] * 3)


def test_image_needs_one(grid):
    with pytest.raises(RecordError, match="grid of one picture, got 24; take images"):
        grid.image  # noqa: B018


def test_table_averages_over_captions(grid):
    table = grid.table
    assert len(table) == 8
    row = table[2]
    assert (row["scheduler"], row["num_inference_steps"], row["pictures"]) == ("ddim", 8, 3)
    assert row["obedience"] == pytest.approx(2 / 3)
    assert (row["low"], row["high"]) == pytest.approx(wilson(2, 3))
    assert row["seconds"] == pytest.approx(0.3)
    assert (row["calls"], row["first_timestep"], row["first_alpha"]) == (8, 1023, 0.014)
    assert "0.014" in repr(table)
    assert [row["obedience"] for row in grid.rows(by=("prompt",))] == [0.75, 0.5, 0.25]
    assert len(list(grid.rows(by=()))) == 1


def test_table_of_single_pictures_has_no_interval():
    table = make_grid({"seed": (0, 1)}).table
    assert "low" not in table.columns
    assert "interval" not in table.caption


def test_what_is_unknown_is_left_out_of_the_table():
    grid = make_grid({"seed": (0, 1)}, values={"seconds": [np.nan, 2.0]}, measure="")
    assert grid.table["seconds"] == [None, 2.0]
    assert grid.select(seed=(0, 1)).estimate("seconds").value == 2.0


def test_estimate_and_paired_difference(grid):
    assert grid.estimate(num_inference_steps=8) == pytest.approx((2 / 3, *wilson(4, 6)))
    many, few = {"num_inference_steps": 16}, {"num_inference_steps": 2}
    value, low, high = grid.difference(many, few)
    assert value == 1.0
    assert 0.2 < low < 1 <= high
    assert grid.difference(few, many).value == -1.0
    assert grid.difference(many, few, "seconds").value == pytest.approx(0.3)
    with pytest.raises(RecordError, match=r"same prompts and seeds.*got 6 and 3 pictures"):
        grid.difference(many, {**few, "scheduler": "ddim"})
    with pytest.raises(RecordError, match=r"knows score, seconds, .*got 'loss'"):
        grid.estimate("loss")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"steps": 4}, "no axis 'steps'; did you mean 'num_inference_steps'?"),
        ({"colour": 4}, "no axis 'colour'; there are scheduler, num_inference_steps, prompt."),
        ({"scheduler": "eular"}, r"scheduler has the labels \('ddim', 'euler'\), got 'eular'"),
        ({"num_inference_steps": []}, r"needs one label or more, got \[\]"),
    ],
)
def test_select_refuses(grid, labels, words):
    with pytest.raises(RecordError, match=words):
        grid.select(**labels)


def test_true_is_no_label_one():
    grid = make_grid({"seed": (0, 1), "num_inference_steps": (2, 4)})
    assert grid.select(seed=np.int64(1)).seeds == grid.select(seed=1).seeds
    with pytest.raises(RecordError, match=r"seed has the labels \(0, 1\), got True"):
        grid.select(seed=True)


PICTURE = Image.new("RGB", (2, 2))
ONE = {"axes": {"seed": (0,)}, "images": [PICTURE], "prompts": ["x"], "seeds": [0]}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"axes": {}}, "needs one axis or more"),
        ({"axes": {"seed": ()}}, "needs a name and labels"),
        ({"axes": {"seed": (0, 0)}}, "must differ"),
        ({"axes": {"seed": ([],)}}, "must be words or numbers"),
        ({"axes": {"seed": (float("nan"),)}}, "must be words or numbers"),
        ({"axes": {"a": range(1000), "b": range(1000)}}, "at most 100,000 pictures, got 1,000,000"),
        ({"images": []}, "images must hold 1 entries"),
        ({"images": ["x"]}, "images must be PIL pictures, got 'x'"),
        ({"prompts": [3]}, "prompts can't hold int"),
        ({"seeds": [True]}, "seeds can't hold bool"),
        ({"images": [Image.new("RGB", (0, 4))]}, "one pixel at least"),
        ({"values": {"score": [1, 2]}}, r"values\['score'\] must have the shape \(1,\)"),
        ({"measure": "taste"}, "measure must be one of"),
        ({"model": 3}, "model must be a string"),
    ],
)
def test_refuses_what_contradicts_itself(fields, words):
    Grid(**ONE)
    with pytest.raises(RecordError, match=words):
        Grid(**{**ONE, **fields})


def test_round_trip(tmp_path, grid):
    same(grid, Grid.open(grid.save(tmp_path / "g.safetensors")))
    pictures = [PICTURE, None, Image.new("RGB", (3, 5), "red")]  # sizes differ, one not made
    odd = make_grid(
        {"négative": (None, True, 1.5)},
        images=pictures,
        prompts=["</script>\ud800", "", "🦊"],
        seeds=[None, 0, 2**60],
        values={"score": [0.5, np.nan, 0.1]},
        measure="CLIP cosine",
    )
    same(odd, Grid.open(odd.save(tmp_path / "odd")))
    none = make_grid({"seed": (0, 1)}, images=[None, None])
    same(none, Grid.open(none.save(tmp_path / "none")))


def test_files_that_are_no_grid(tmp_path, grid):
    from .make import make

    path = tmp_path / "x.safetensors"
    make(2).save(path)
    with pytest.raises(RecordError, match=r"'x.safetensors' holds 'trajectory', not a grid"):
        Grid.open(path)
    with pytest.raises(RecordError, match=r"the limit is 100; raise it with max_bytes"):
        Grid.open(grid.save(path), max_bytes=100)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(RecordError, match="cut off or damaged"):
        Grid.open(path)


def meddled(grid, path, change):
    """The grid's file with other words."""
    raw = grid.save(path).read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    meta = json.loads(header["__metadata__"]["ldmkit"])
    arrays = {"made": np.ones(2, np.uint8), "images": np.zeros((2, 4, 4, 3), np.uint8)}
    return write_record(path, arrays, {**meta, "values": [], **change})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 99}, "is of version 99, this ldmkit reads 1"),
        ({"axes": 3}, "is not a whole grid: its parts contradict"),
        ({"axes": [["seed", [0, 1, 2]]]}, "images must hold 3 entries"),
        ({"axes": [["seed", [0]], ["seed", [0, 1]]]}, "two of its axes have one name"),
        ({"values": ["score"]}, "is not a whole grid: it lacks 'values/score'"),
        ({"prompts": None}, "is not a whole grid: prompts must be a list"),
        ({"measure": []}, "measure must be one of"),
    ],
)
def test_files_that_contradict_themselves(tmp_path, change, words):
    path = tmp_path / "g"
    grid = make_grid({"seed": (0, 1)}, values={}, measure="")
    meddled(grid, path, {})
    Grid.open(path)
    meddled(grid, path, change)
    with pytest.raises(RecordError, match=words):
        Grid.open(path)


def test_more_made_than_pictures(tmp_path):
    path = tmp_path / "g"
    words = {"format": "grid", "version": 1, "prompts": ["", ""], "seeds": [0, 1], "values": []}
    words |= {"measure": "", "call": {}, "model": "", "versions": {}, "axes": [["seed", [0, 1]]]}
    write_record(path, {"made": np.ones(2, np.uint8)}, words)
    with pytest.raises(RecordError, match="is not a whole grid"):
        Grid.open(path)


def test_selections_that_are_none_are_refused_in_one_sentence():
    grid = make_grid()
    with pytest.raises(RecordError, match=r"first must be a dict, got None"):
        grid.difference(None, {})
    with pytest.raises(RecordError, match=r"prompt has the labels .* got array\(3\)"):
        grid.select(prompt=np.array(3))


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e300])
def test_scores_beyond_measure_are_shown(value):
    """A file may hold them; numpy's warnings are no one's business."""
    values = {"score": [value, -value / 2]}
    grid = make_grid({"eta": (0, 1)}, values=values, measure="", seeds=[7, 7])
    assert grid._repr_mimebundle_()["text/html"]
    grid.difference({"eta": 0}, {"eta": 1})
