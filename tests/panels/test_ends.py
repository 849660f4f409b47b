"""What may stand at an end, how it is kept, and the field that picks it."""

import io
from datetime import UTC, datetime

import ipywidgets
import numpy as np
import pytest
from PIL import Image
from records.make import make

from ldmkit.critters import Scene
from ldmkit.panels import end_field as ends
from ldmkit.panels.end_field import EndField, WalkFrame, checked_end, given, name_of, records_here
from ldmkit.panels.settings import LARGEST_SEED
from ldmkit.records import Embedding, Walk

RED = (200, 30, 40)
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def heard():
    return {"edit": [], "wrong": []}


@pytest.fixture
def field(heard):
    made = EndField("From", (), on_edit=heard["edit"].append, on_wrong=heard["wrong"].append)
    made.fill("a cat")
    return made


@pytest.fixture
def notebook(monkeypatch):
    """The variables of a notebook."""
    names = {}
    shell = type("Shell", (), {"user_ns": names})()
    module = type("IPython", (), {"get_ipython": staticmethod(lambda: shell)})
    monkeypatch.setitem(ends.sys.modules, "IPython", module)
    return names


def walk(count=3, label="place", **more):
    pictures = [Image.new("RGB", (8, 8), (60 * i, 0, 0)) for i in range(count)]
    labels = [f"{label} {i}" for i in range(count)]
    return Walk(images=pictures, labels=labels, t=np.linspace(0, 1, count), **more)


def pixel(picture):
    kept = checked_end("a", picture)
    assert (kept.mode, kept.info) == ("RGB", {})
    return kept.getpixel((0, 0))


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def upload(field, name, content):
    told = {"name": name, "type": "image/png", "size": len(content), "content": content}
    field._upload.value = ({**told, "last_modified": datetime.now(UTC)},)


def shown(field):
    return [name for name, part in field._parts.items() if part.layout.display != "none"]


# --- what is kept --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode", ["RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "P", "PA", "RGBX", "RGBa"]
)
def test_colours_survive_every_mode(mode):
    picture = Image.new("RGB", (8, 6), RED)
    if mode in ("P", "PA"):
        picture = picture.quantize().convert(mode)
    else:
        picture = (picture.convert("RGBA") if mode == "RGBa" else picture).convert(mode)
    assert np.abs(np.subtract(pixel(picture), RED)).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I", "F", "I;16"])
def test_greys_survive_every_mode(mode):
    if mode == "I;16":
        picture = Image.fromarray(np.full((4, 4), 65535, np.uint16))
    else:
        picture = Image.new("L", (4, 4), 255).convert(mode)
    assert picture.mode == mode
    assert pixel(picture) == (255, 255, 255)


def test_transparency_stands_on_white():
    assert pixel(Image.new("RGBA", (4, 4), (*RED, 0))) == (255, 255, 255)
    palette = Image.new("P", (4, 4))
    palette.putpalette([*RED, 0, 0, 0])
    palette.info["transparency"] = 0
    assert pixel(palette) == (255, 255, 255)


def test_exif_turns_it_upright():
    picture = Image.new("RGB", (8, 4), RED)
    picture.putpixel((0, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    kept = checked_end("a", Image.open(io.BytesIO(encoded(picture, exif=exif))))
    assert (kept.size, kept.getpixel((3, 0))) == ((4, 8), (0, 0, 255))


def test_the_readers_picture_stays_as_it_is():
    picture = Image.new("RGB", (2000, 500), RED)
    kept = checked_end("a", picture)
    assert (kept.size, picture.size) == ((1024, 256), (2000, 500))
    kept.putpixel((0, 0), (0, 0, 0))
    assert picture.getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("size", "kept"),
    [((1, 1), (1, 1)), ((3000, 1), (1024, 1)), ((10_000, 4_000), (1024, 410))],
)
def test_sizes_that_are_taken(size, kept):
    assert checked_end("a", Image.new("1", size)).size == kept


@pytest.mark.parametrize("size", [(0, 5), (10_000, 4_001)])
def test_sizes_that_are_refused(size):
    with pytest.raises(ValueError, match="may have 1 to 40,000,000 pixels, got"):
        checked_end("a", Image.new("1", size))


def test_a_file_that_is_cut_off_is_refused():
    noise = Image.effect_noise((64, 64), 50)
    broken = Image.open(io.BytesIO(encoded(noise)[:500]))
    with pytest.raises(ValueError, match=r"can't be read .* save it again as PNG"):
        checked_end("a", broken)


@pytest.mark.parametrize(
    ("entry", "error", "words"),
    [
        (None, TypeError, "a must be words, a PIL picture"),
        (True, TypeError, "got True"),
        (0.5, TypeError, "got 0.5"),
        (b"GIF89a", TypeError, "PIL.Image.open"),
        (np.zeros((4, 4, 3)), TypeError, "a must be words, a PIL picture"),
        (["a cat"], TypeError, "a must be words, a PIL picture"),
        (-1, ValueError, "must be between 0 and"),
        (LARGEST_SEED + 1, ValueError, f"got {LARGEST_SEED + 1}"),
        ("a" * 1_000_000, ValueError, "a must"),
    ],
)
def test_everything_else_is_refused_in_one_sentence(entry, error, words):
    with pytest.raises(error) as raised:
        checked_end("a", entry)
    assert words in str(raised.value)
    assert len(str(raised.value)) < 400
    assert "\n" not in str(raised.value)


def test_what_is_kept_as_it_is():
    for entry in ("a cat", "", Scene.sample(3), Embedding(np.ones(4)), make(2)):
        assert checked_end("a", entry) is entry
    assert checked_end("a", np.int64(3)) == Scene.sample(3)


def test_a_walk_is_its_last_picture():
    points = [Embedding(np.eye(4)[i], f"point {i}") for i in range(3)]
    kept = checked_end("a", walk(embeddings=points))
    assert (kept.index, name_of(kept)) == (2, "place 2")
    assert given(kept, as_picture=False) is kept.walk.embeddings[2]
    assert given(kept, as_picture=True) is kept.walk.images[2]
    bare = checked_end("a", walk())  # of pixels: no embedding
    assert given(bare, as_picture=False) is bare.walk.images[2]
    assert given("a cat", as_picture=True) == "a cat"


# --- the field -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "part", "said", "side"),
    [
        ("a cat", "words", None, None),
        (Scene.sample(11), "critter", Scene.sample(11).caption(0), 96),
        (Image.new("RGB", (1, 1)), "picture", "picture 2", 1),
        (make(2, size=64), "record", "a red cat with a top hat in the snow, at night", 64),
        (Embedding(np.ones(4), HOSTILE), "record", "&lt;img src=x onerror=alert(1)&gt;", None),
        (WalkFrame(walk(), 1), "record", "place 1", 8),
    ],
)
def test_each_kind_shows_its_part(field, heard, entry, part, said, side):
    field.count_as(1)
    field.fill(entry)
    assert (shown(field), field.end, field.standing()) == ([part], entry, entry)
    assert field._kind.value == part
    if said is not None:
        assert field._said.value == said
    drawn = field._thumb.value
    assert (field._thumb.layout.display == "none") == (side is None)
    if side is not None:
        assert Image.open(io.BytesIO(drawn)).width == side
    assert heard == {"edit": [], "wrong": []}  # nobody has edited


def test_a_seed_given_by_number_stands_in_its_field(field, heard):
    field.fill(checked_end("a", 4711))
    assert field._seed.value == 4711
    field._seed.value = 4712
    assert heard["edit"] == [Scene.sample(4712)]
    field._dice.click()
    assert heard["edit"][-1] == Scene.sample(field._seed.value)
    assert 0 <= field._seed.value < 100_000


def test_to_and_fro_between_kinds_loses_nothing(field, heard):
    field._kind.value = "critter"
    field._seed.value = 7
    assert (field.end, shown(field)) == (Scene.sample(7), ["critter"])
    field._kind.value = "words"
    assert field.end == "a cat"
    field._kind.value = "critter"
    assert field.end == Scene.sample(7)
    assert heard["edit"] == [Scene.sample(0), Scene.sample(7), "a cat", Scene.sample(7)]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("picture", "From: no picture is chosen yet; choose one, or take words."),
        ("record", "From: no earlier record is chosen yet; choose one, or take words."),
    ],
)
def test_a_kind_without_a_thing_is_no_end(field, heard, kind, words):
    field._kind.value = kind
    assert (field.end, heard["edit"], shown(field)) == ("a cat", [], [kind])
    assert field._thumb.layout.display == "none"
    with pytest.raises(ValueError, match=words):
        field.standing()
    field._kind.value = "words"
    assert field.standing() == "a cat"


def test_what_is_refused_stays_and_is_no_end(field, heard):
    field._kind.value = "critter"
    field._seed.value = -1
    assert heard["wrong"] == [
        f"From, as a critter's seed, must be between 0 and {LARGEST_SEED} inclusive, got -1."
    ]
    assert (field.end, field._seed.value) == (Scene.sample(0), -1)
    for _ in range(2):  # also after a look at another kind
        with pytest.raises(ValueError, match=r"Term 3, as a critter's seed, .* got -1"):
            field.standing("Term 3")
        field._kind.value = "words"
        assert field.standing() == "a cat"
        field._kind.value = "critter"
    assert len(heard["wrong"]) == 3
    field._seed.value = 5
    assert field.standing() is field.end
    assert field.end == Scene.sample(5)


def test_filling_mends_what_was_refused(field):
    kept = checked_end("a", 8)
    field.fill(kept)
    field._seed.value = -1
    field.fill(kept)
    assert (field._seed.value, field.standing()) == (8, kept)
    field._kind.value = "picture"
    field.fill(kept)
    assert (field._kind.value, shown(field)) == ("critter", ["critter"])


def test_a_picture_is_uploaded(field, heard):
    field._kind.value = "picture"
    upload(field, "<b>own.png", encoded(Image.new("RGBA", (2100, 700), (*RED, 255))))
    (kept,) = heard["edit"]
    assert (kept.size, kept.getpixel((5, 5))) == ((1024, 341), RED)
    assert field._said.value == "&lt;b&gt;own.png"
    assert not field._upload.value  # its bytes are not kept twice
    upload(field, "notes.txt", b"no picture at all")
    assert "A picture here must be a picture, and 'notes.txt' is none" in heard["wrong"][0]
    assert field.standing() is kept


def test_records_of_the_notebook(field, heard, notebook):
    panel = ipywidgets.Box()
    panel.result = walk(9, HOSTILE)
    notebook |= {
        "dog": Embedding(np.ones(4), "a blue dog"),
        "run": make(2),
        "_": make(2),
        "shop": panel,
        "number": 3,
    }
    assert list(records_here()) == [
        "dog: a blue dog",
        "run: a red cat with a top hat in the snow, at night",
        *(f"shop.result, t = {i / 8:.2g}: {HOSTILE} {i}" for i in (0, 2, 4, 6, 8)),
    ]
    field._kind.value = "record"
    names = [name for name, _ in field._records.options]
    assert names[:2] == ["choose one", "dog: a blue dog"]
    assert len(names) == 8
    field._records.value = 0
    assert heard["edit"] == [notebook["dog"]]
    field._records.value = 6
    assert (field.end.index, field.end.walk) == (8, panel.result)
    assert "&lt;img src=x" in field._said.value
    notebook["new"] = Embedding(np.ones(4), "a new one")
    field._again.click()
    names = [name for name, _ in field._records.options]
    assert names[1].startswith("now: <img")  # an option is text in every front end
    assert names[-1] == "new: a new one"
    assert len(heard["edit"]) == 2  # a look chooses nothing


def test_the_list_of_records_is_short(notebook):
    notebook |= {f"e{i}": Embedding(np.ones(2), f"no {i}") for i in range(200)}
    assert len(records_here()) == ends.MOST_RECORDS
    assert "e199: no 199" in records_here()
