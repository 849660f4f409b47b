"""What all records share: limits on both sides, copies, places, names of files, words."""

import itertools
import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ldmkit.figures import trajectory_figure
from ldmkit.records import Embedding, Gap, Grid, Plane, RecordError, Table, Trajectory, Walk, record
from ldmkit.records.record import (
    MAX_HEADER,
    MAX_PICTURES,
    entries_of,
    file_name,
    frozen,
    write_atomically,
)

from .make import make, write_record
from .make_grid import make_grid

TINY = Image.new("RGB", (1, 1), "red")
# Persian with a joiner inside a word, Hindi, a family, a flag of tags, letters of Unicode 17 and
# later; then what goes: half a pair, controls, letters turned round.
WHOLE = "می‌خواهم क्‍षत्रिय 👨‍👩‍👧 🏴\U000e0067\U000e007f \U00016ea0 \U0003347a a\u200fb"
BROKEN = "half \ud83d, \x1b[31m, \u202eturned"


def walk(k=3, **fields):
    values = {
        "images": [TINY] * k,
        "labels": [f"{i}" for i in range(k)],
        "t": np.linspace(0, 1, k),
    }
    return Walk(**{**values, **fields})


def grid(k, **fields):
    values = {
        "axes": {"seed": tuple(range(k))},
        "images": [TINY] * k,
        "prompts": ["a cat"] * k,
        "seeds": list(range(k)),
    }
    return Grid(**{**values, **fields})


# --- what saves opens ------------------------------------------------------------------------


def test_ten_thousand_and_one_pictures_come_back(tmp_path):
    many = 10_001
    assert len(Walk.open(walk(many).save(tmp_path / "w")).images) == many
    assert len(Grid.open(grid(many).save(tmp_path / "g")).images) == many
    sizes = [Image.new("RGB", (1 + i % 3, 1 + i % 2)) for i in range(many)]
    again = Grid.open(grid(many, images=sizes).save(tmp_path / "g")).images
    assert [image.size for image in again] == [image.size for image in sizes]
    traj = Trajectory(prompt="", timesteps=(), alphas=(), sigmas=(), images=sizes)
    assert len(Trajectory.open(traj.save(tmp_path / "t")).images) == many


def test_sixty_thousand_captions_come_back(tmp_path):
    captions = [f'caption {i} "with quotes", 🦊' for i in range(60_000)]
    kept = grid(len(captions), images=[None] * len(captions), prompts=captions)
    assert Grid.open(kept.save(tmp_path / "g")).prompts == tuple(captions)
    labels = walk(len(captions), labels=captions)
    assert Walk.open(labels.save(tmp_path / "w")).labels == tuple(captions)


@pytest.mark.parametrize("letter", ["x", '"', "\\", "é", "🦊", "\ud800", "\0"])
def test_words_at_the_limit_open_or_are_refused_on_saving(tmp_path, monkeypatch, letter):
    """However a letter grows in JSON that stands in JSON: one limit counts what is written."""
    monkeypatch.setattr(record, "MAX_HEADER", 20_000)
    saved = 0
    for count in (500, 1_000, 3_000, 4_000, 9_000, 15_000, 21_000):
        path = tmp_path / f"{count}"
        try:
            make(1, previews=(), prompt=letter * count).save(path)
        except RecordError as error:
            assert "may take 20,000 bytes, got" in str(error)  # noqa: PT017
            assert not path.exists()
        else:
            assert Trajectory.open(path).prompt == letter * count
            saved += 1
    assert 0 < saved < 7


def test_every_kind_says_what_is_too_much(tmp_path):
    long = "x" * MAX_HEADER
    for kept in (
        make(1, model=long),
        walk(title=long),
        grid(2, prompts=["", long]),
        Embedding([1.0], model=long),
    ):
        with pytest.raises(RecordError, match=f"words may take {MAX_HEADER:,} bytes"):
            kept.save(tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_more_pictures_than_a_file_holds_are_refused_at_once():
    many = [None] * (MAX_PICTURES + 1)
    told = "may hold 100,000 entries, got 100,001"
    with pytest.raises(RecordError, match=told):
        walk(images=many)
    with pytest.raises(RecordError, match=told):
        grid(1, images=many)
    with pytest.raises(RecordError, match=told):
        make(1, images=many)


def test_stages_are_counted_alike_on_both_sides(tmp_path):
    deep = stage = make(1, previews=())
    for _ in range(3):
        deep = make(1, previews=(), stages=(deep,))
    Trajectory.open(deep.save(tmp_path / "deep"))
    with pytest.raises(RecordError, match="at most 256 stages, 3 deep, got 1, 4 deep"):
        make(1, stages=(deep,))
    Trajectory.open(make(1, stages=(stage,) * 256).save(tmp_path / "wide"))
    with pytest.raises(RecordError, match="at most 256 stages, 3 deep, got 257, 1 deep"):
        make(1, stages=(stage,) * 257)


def test_many_values_and_lanes(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "MAX_ARRAYS", 20)
    values = {f"v{i}": [0.0] for i in range(19)}
    with pytest.raises(RecordError, match="may have 20 arrays, got 21"):
        grid(1, values=values).save(tmp_path / "g")
    del values["v0"]
    assert len(Grid.open(grid(1, values=values).save(tmp_path / "g")).values) == 18


def test_lists_in_lists_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(RecordError, match=r"must be plain JSON"):
        make(1, call={"n": 10**5000}).save(tmp_path / "x")
    for depth in (100, 5_000, 50_000):
        deep: list = []
        for _ in range(depth):
            deep = [deep]
        try:
            path = make(1, call={"deep": deep}, previews=()).save(tmp_path / "x")
        except RecordError:
            assert depth > 100
        else:
            Trajectory.open(path)


def test_a_file_larger_than_open_takes_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "MAX_BYTES", 1_000)
    with pytest.warns(UserWarning, match=r"more than open\(\) takes unasked; open it with max_byt"):
        path = make(2).save(tmp_path / "x")
    Trajectory.open(path, max_bytes=path.stat().st_size)


@pytest.mark.parametrize("most", [None, [], "1", 1.5, -1])
def test_max_bytes_is_checked(tmp_path, most):
    path = make(1).save(tmp_path / "x")
    for kind in (Trajectory, Walk, Grid, Embedding):
        with pytest.raises((TypeError, ValueError), match="max_bytes must be"):
            kind.open(path, max_bytes=most)


def test_files_of_earlier_versions_open(tmp_path):
    """Pictures stood one by one: images/0, images/1."""
    path = make(2, batch=2).save(tmp_path / "x")
    arrays, words = record.read_record(path, max_bytes=2**30)
    arrays |= {f"images/{i}": image for i, image in enumerate(arrays.pop("images"))}
    write_record(path, arrays, words | {"images": 2})
    assert len(Trajectory.open(path).images) == 2
    path = make_grid({"seed": (0, 1)}, images=[TINY, TINY.resize((2, 3))]).save(path)
    arrays, words = record.read_record(path, max_bytes=2**30)
    del arrays["pixels"], arrays["sizes"]
    arrays |= {"images/0": np.zeros((4, 5, 3), np.uint8), "images/1": np.zeros((1, 2, 3), np.uint8)}
    write_record(path, arrays, words)
    assert [image.size for image in Grid.open(path).images] == [(5, 4), (2, 1)]


@pytest.mark.parametrize(
    "sizes",
    [[[2, 2], [9, 9]], [[-1, 4], [2, 2]], [[1e300, 1], [1, 1]], [[np.nan, 1], [1, 1]], [1, 2]],
)
def test_sizes_that_contradict_the_pixels(tmp_path, sizes):
    path = make_grid({"seed": (0, 1)}, images=[TINY, TINY.resize((2, 3))]).save(tmp_path / "g")
    arrays, words = record.read_record(path, max_bytes=2**30)
    write_record(path, arrays | {"sizes": np.array(sizes, np.float64)}, words)
    with pytest.raises(RecordError, match="is not a whole grid: its parts contradict each other"):
        Grid.open(path)


# --- copies ----------------------------------------------------------------------------------


def test_no_record_changes_with_the_callers_arrays():
    latents, t, values = np.zeros((2, 1, 4, 2, 2), np.float32), np.linspace(0, 1, 3), np.ones(2)
    previews = np.zeros((1, 1, 4, 4, 3), np.uint8)
    picture, points, vector = Image.new("RGB", (4, 4)), np.zeros((3, 2), np.float32), np.ones(3)
    call = {"swap_at": [1, 2], "deep": {"a": [1]}}
    axes = np.eye(2, 3)
    traj = make(
        1, latents=latents, denoised=None, noise_pred=None, images=[picture], previews=(), call=call
    )
    traj = replace(traj, previews={"denoised": previews})
    way = walk(3, t=t, points=points, images=[picture] * 3, call=call)
    table = grid(2, values={"score": values}, images=[picture] * 2, call=call)
    one, plane = (
        Embedding(vector.astype(np.float32)),
        Plane(np.zeros(3), axes, np.ones(2), ("", "")),
    )
    for array in (latents, t, values, previews, points, vector, axes):
        array += 7
    picture.putpixel((0, 0), (255, 0, 0))
    call["swap_at"].append(3)
    call["deep"]["a"].append(3)
    assert traj.latents.max() == traj.previews["denoised"].max() == way.points.max() == 0
    assert (way.t.max(), table.values["score"].max(), one.vector.max()) == (1, 1, 1)
    assert plane.axes.max() == 1
    for kept in (traj, way, table):
        assert kept.images[0].getpixel((0, 0)) == (0, 0, 0)
        assert kept.call == {"swap_at": [1, 2], "deep": {"a": [1]}}
    for array in (traj.latents, traj.alphas, way.t, way.points, one.vector, plane.axes):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 1


def test_a_view_that_only_its_owner_can_write_to_is_copied():
    mine = np.zeros(3)
    view = mine.view()
    view.flags.writeable = False
    kept = Embedding(view.astype(np.float32)), walk(3, t=view)
    mine += 1
    assert kept[1].t.max() == 0


@pytest.mark.parametrize("value", [None, "abc", [[1], [1, 2]], [10**400], object(), [object()]])
def test_what_is_no_array_gets_a_sentence(value):
    for made in (
        lambda: make(1, alphas=value),
        lambda: make(1, timesteps=value),
        lambda: make(1, latents=value if value is not None else "x"),
        lambda: make(1, rgb=value if value is not None else "x"),
        lambda: replace(make(1, previews=()), previews={"denoised": value}),
        lambda: walk(3, t=value),
        lambda: walk(3, points=value if value is not None else "x"),
        lambda: grid(1, values={"score": value}),
        lambda: Embedding(value),
    ):
        with pytest.raises(RecordError):
            made()


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.uint16, bool])
def test_step_pictures_that_eight_bits_would_wrap_are_refused(kind):
    with pytest.raises(RecordError, match=r"previews\['denoised'\] must be uint8, got"):
        replace(make(1, previews=()), previews={"denoised": np.ones((1, 1, 4, 4, 3), kind)})


@pytest.mark.parametrize("value", [["1", "2"], [1j, 2], np.array(["a", "b"]), [None, "x"]])
def test_numbers_in_words_are_none(value):
    with pytest.raises(RecordError, match=r"t must be finite|must be an array of numbers"):
        walk(2, t=value)
    with pytest.raises(RecordError, match="must be an array of numbers, got"):
        grid(2, values={"score": value})


@pytest.mark.parametrize("value", [None, 3, "ab", [1]])
def test_what_is_no_dict_gets_a_sentence(value):
    for made in (
        lambda: make(1, call=value),
        lambda: make(1, versions=value),
        lambda: replace(make(1), previews=value),
        lambda: walk(3, call=value),
        lambda: grid(1, axes=value),
        lambda: grid(1, values=value),
    ):
        with pytest.raises(RecordError, match="must be a dict, got"):
            made()


def test_pictures_that_clip_when_saved_say_so(tmp_path):
    deep = Image.fromarray(np.array([[0, 65535]], np.uint16))
    flat = Image.fromarray(np.array([[0.0, 1.0]], np.float32))
    for picture in (deep, flat):
        traj, table = make(1, images=[picture], previews=()), grid(1, images=[picture])
        for save, reread in (
            (traj.save, Trajectory.open),
            (traj.to_png, Trajectory.from_png),
            (table.save, Grid.open),
        ):
            with pytest.warns(UserWarning, match="more than the eight bits that are kept"):
                path = save(tmp_path / "x.png")
            again = reread(path).images[0]
            assert [again.getpixel((i, 0))[0] for i in range(2)] == [0, 255]
        traj._repr_mimebundle_(), table._repr_mimebundle_()  # shown without a word
    with pytest.warns(UserWarning, match="more than the eight bits"):
        assert walk(1, images=[deep]).images[0].getpixel((1, 0)) == (255, 255, 255)


def test_transparent_pictures_stand_on_white_in_files(tmp_path):
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    traj = make(1, images=[clear], previews=())
    assert traj.image.mode == "RGBA"
    for again in (
        Trajectory.open(traj.save(tmp_path / "x")),
        Trajectory.from_png(traj.to_png(tmp_path / "y")),
    ):
        assert again.image.getpixel((0, 0)) == (255, 255, 255)


# --- which one -------------------------------------------------------------------------------

ODD = [None, [], "1", 0.0, True, 7, -1, 10**400, np.arange(2)]


@pytest.mark.parametrize("odd", ODD)
def test_places_that_are_none_get_one_sentence(tmp_path, odd):
    traj, way = make(3, batch=2), walk(3)
    bare = Trajectory.from_png(traj.to_png(tmp_path / "bare"))
    (tmp_path / "bare").unlink()
    for ask in (
        lambda: bare.to_html(tmp_path / "x", batch=odd),
        lambda: trajectory_figure(bare, batch=odd),
        lambda: traj.to_html(tmp_path / "x", batch=odd),
        lambda: traj.to_png(tmp_path / "x", batch=odd),
        lambda: traj.to_gif(tmp_path / "x", batch=odd),
        lambda: traj.to_webp(tmp_path / "x", batch=odd),
        lambda: traj.pictures(batch=odd),
        lambda: traj.guidance_figure(0, batch=odd),
        lambda: way.to_png(tmp_path / "x", index=7 if odd is None else odd),
        lambda: traj.to_gif(tmp_path / "x", duration=odd),
        lambda: traj.to_gif(tmp_path / "x", size=odd),
        lambda: way.to_webp(tmp_path / "x", duration=odd),
        lambda: traj.pictures(size="x" if odd is None else odd),
    ):
        with pytest.raises(RecordError, match="must be") as told:
            ask()
        assert len(str(told.value)) < 200
        assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("odd", [*ODD[:5], *ODD[7:], -4, 3])
def test_steps_rows_and_points(odd):
    table = Table(("a",), ({"a": 1},) * 3)
    for ask in (lambda: make(3).steps[odd], lambda: grid(3).point(odd), lambda: table[odd]):
        with pytest.raises((TypeError, IndexError, KeyError), match=r"must be|no column"):
            ask()
    assert make(3).steps[-1].index == 2
    assert [step.index for step in make(3).steps] == [0, 1, 2]
    assert list(table)[-1] == table[-1] == table[1:][0]


@pytest.mark.parametrize("odd", [None, [], "4", 0, -1, 1.5, True])
def test_how_many_are_shown(odd):
    for ask in (lambda: make(2).figure(every=odd), lambda: grid(2).figure(rows=odd)):
        with pytest.raises(RecordError, match="must be"):
            ask()
    assert make(2).figure(every=10**400)


@pytest.mark.parametrize("lane", [None, [], 3, "noise", ("latents",)])
def test_lanes(lane):
    with pytest.raises(RecordError, match="lane must be one of latents, denoised"):
        make(2).pictures(lane)


def test_axes_that_are_none():
    for by in ("seed", ["sed"], [[]], 3):
        with pytest.raises(RecordError, match=r"no axis|must be a list"):
            list(grid(2).rows(by=by))
    for name in (None, [], "x"):
        with pytest.raises(RecordError, match="This grid knows"):
            grid(2).estimate(name)


@pytest.mark.parametrize("factor", [10**400, float("nan"), float("-inf")])
def test_factors_of_embeddings(factor):
    for ask in (lambda e: e * factor, lambda e: factor * e, lambda e: e / factor):
        with pytest.raises(RecordError, match="a finite number, got"):
            ask(Embedding([1.0, 2.0]))


# --- words -----------------------------------------------------------------------------------


def shown(kept, folder):
    """All that a record says of itself in HTML, the text of its pages included."""
    bundle = kept._repr_mimebundle_()
    bundle["text/plain"].encode()
    page = kept.to_html(folder / "page.html").read_text("utf-8")
    return bundle["text/html"] + page


@pytest.mark.parametrize("words", [WHOLE, BROKEN])
def test_a_records_words_are_shown_whole_and_lose_no_output(tmp_path, words):
    kinds = (
        make(2, previews=(), prompt=words, model=words, negative_prompt=words),
        walk(3, labels=[words] * 3, title=words, axis=words, model=words, verdicts=[words] * 3),
        make_grid(
            {words: (words, "b"), "prompt": (words,)}, model=words,
            values={words: [1.0, 2.0], "score": [1.0, 0.0]},
        ),
    )  # fmt: skip
    for kept in kinds:
        html = shown(kept, tmp_path)
        kept.figure()._repr_png_()
        assert repr(kept).encode("utf-8")
        again = type(kept).open(kept.save(tmp_path / "x"))
        assert again._repr_mimebundle_()["text/plain"] == repr(kept)
        if words is WHOLE:
            assert "\ufffd" not in html
            assert WHOLE in html
        else:
            assert "\ufffd" in html
            assert not set("\x1b\u202e") & set(html)
    kinds[0].to_png(tmp_path / "p.png"), kinds[1].to_png(tmp_path / "w.png")
    assert Trajectory.from_png(tmp_path / "p.png").prompt == words
    grid_ = Grid.open(kinds[2].save(tmp_path / "x"))
    assert list(grid_.values) == [words, "score"]
    assert grid_.table[words] == [1.0, 2.0]
    repr(grid_.table).encode()


def test_a_gap_and_its_table_show_any_words():
    points = np.random.default_rng(0).standard_normal((6, 4))
    made = [Embedding(v, BROKEN, model=BROKEN) for v in points]
    bundle = Gap(tuple(made[:3]), tuple(made[3:]))._repr_mimebundle_()
    for words in bundle.values():
        words.encode()
    assert "\x1b" not in Table((BROKEN,), ({BROKEN: BROKEN},), BROKEN)._repr_html_()
    assert "\x1b" not in repr(Table((BROKEN,), ({BROKEN: BROKEN},), BROKEN))


# --- paths -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [None, [], 3, "a\0b", "half \ud800", b"\0"])
def test_what_is_no_path_gets_one_sentence(path):
    traj = make(1)
    for kind in (Trajectory, Walk, Grid, Embedding):
        with pytest.raises((TypeError, ValueError), match=r"path (must be|holds letters)"):
            kind.open(path)
    for ask in (traj.save, traj.to_html, traj.to_png, traj.to_gif, walk(2).to_html, grid(1).to_html,
                Trajectory.from_png, walk(2).to_png, walk(2).to_webp, grid(1).save):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=r"path (must be|holds letters)"):
            ask(path)


def test_a_folder_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, "", ".", str(tmp_path).encode()):
        for ask in (make(1).save, make(1).to_html, make(1).to_png, walk(2).to_gif):
            with pytest.raises(IsADirectoryError, match="is a folder; add the name of a file"):
                ask(path)
    assert not list(tmp_path.iterdir())


# --- names of files --------------------------------------------------------------------------


def test_a_name_that_the_disk_takes_is_taken(tmp_path):
    for name in ("字" * 83 + ".md", "ش" * 125 + ".s", "🦊" * 63, "a" * 255, "." + "b" * 254):
        assert 252 <= len(name.encode()) <= 255
        assert make(1, previews=()).save(tmp_path / name) == tmp_path / name
        assert make(1).to_png(tmp_path / name).read_bytes()
    assert len(list(tmp_path.iterdir())) == 5


def test_the_part_is_no_longer_than_any_name(tmp_path):
    parts = []
    write_atomically(tmp_path / "x", lambda part: (parts.append(part), part.touch()))
    assert len(parts[0].name) <= 14
    assert parts[0].parent == tmp_path


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("a red cat → a blue dog", "a-red-cat-to-a-blue-dog"),
        ('a<b>c:d"e/f\\g|h?i*j', "a-b-c-d-e-f-g-h-i-j"),
        ("CON", "con-"),
        ("nul.", "nul-"),
        ("Com¹", "com¹-"),
        ("lpt9", "lpt9-"),
        ("console", "console"),
        ("../../etc/passwd", "etc-passwd"),
        (" .hidden. ", "hidden"),
        ("", "ldmkit"),
        ("???", "ldmkit"),
        ("photo\u202egpj.exe", "photo-gpj-exe"),
        ("\x00\n\x1f\ud800", "ldmkit"),
        ("می‌خواهم", "می‌خواهم"),
        ("क्‍षत्रिय", "क्‍षत्रिय"),
        ("👨‍👩‍👧 family", "👨‍👩‍👧-family"),
    ],
)
def test_names_out_of_prompts(words, name):
    assert file_name(words, ".png") == name + ".png"


@given(st.text(max_size=300))
def test_names_are_clean_everywhere(words):
    name = file_name(words, ".safetensors")
    assert len(name.encode()) <= 250
    assert not set(name) & set('<>:"/\\|?*\u202e\ufffd')
    assert not any(unicodedata.category(letter) in ("Cc", "Cs", "Zs") for letter in name)
    assert Path(name).name == name
    stem = name.removesuffix(".safetensors")
    assert stem
    assert stem[0] not in ". -"
    assert stem[-1] not in ". "
    json.dumps(name).encode()


class Odd:
    """Numpy trips over it in words of its own, as it does over an empty PIL picture."""

    @property
    def __array_interface__(self):
        raise KeyError("mode")


@pytest.mark.parametrize("junk", [Odd(), Image.Image(), [[1], [1, 2]], 1j])
def test_whatever_is_no_array_is_refused_in_one_sentence(junk):
    with pytest.raises(RecordError, match=r"x must be an array of numbers, got .*\.$"):
        frozen("x", junk, np.float32)


def test_entries_are_counted_while_they_come():
    with pytest.raises(RecordError, match=r"x may hold 100,000 entries, got more; make several"):
        entries_of("x", itertools.count())
    with pytest.raises(RecordError, match=r"x must be a list, got array\(3\.\)\."):
        entries_of("x", np.array(3.0))


def test_seeds_and_flags_of_records_are_such():
    walk = {"images": [Image.new("RGB", (4, 4))], "labels": ["a"], "t": [0]}
    for make_one in (
        lambda seed: Trajectory(prompt="", timesteps=(), alphas=(), sigmas=(), seed=seed),
        lambda seed: Walk(**walk, seed=seed),
        lambda seed: Grid(axes={"a": [1]}, images=[None], prompts=[""], seeds=[seed]),
    ):
        make_one(2**64 - 1)
        with pytest.raises(RecordError, match=r"seed must be between .*got .*\.$"):
            make_one(10**5000)  # Python refuses to write it, and so did every display
    with pytest.raises(RecordError, match="stopped must be True or False, got None"):
        make(1, side=4, size=8, stopped=None)
    with pytest.raises(RecordError, match="compound must be True or False, got 3"):
        Embedding(np.ones(3), compound=3)
