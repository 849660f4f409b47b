"""Embeddings: arithmetic, labels, what is refused, and the file."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldmkit.records import Embedding, RecordError

from .make import write_record


def make(numbers, label, kind="text", model="critters-clip"):
    return Embedding(np.asarray(numbers, np.float32), label, kind, model)


CAT = make([3, 4, 0, 0], "a cat")
CROWN = make([1, 0, 2, 0], "a crown")
NOTHING = make([0, 1, 0, 1], "nothing")
PICTURE = make([0, 0, 0, 2], "photo.png", kind="image")


@pytest.mark.parametrize(
    ("made", "label", "kind"),
    [
        (CAT + CROWN, "a cat + a crown", "sum"),
        (CAT + 0.5 * (CROWN - NOTHING), "a cat + 0.5 × (a crown − nothing)", "sum"),
        (CAT - (CROWN + NOTHING), "a cat − (a crown + nothing)", "difference"),
        (CAT - CROWN + PICTURE, "a cat − a crown + photo.png", "sum"),
        (CAT * 2, "2 × a cat", "text"),
        (-CAT, "−a cat", "difference"),
        (CROWN + -CAT, "a crown + (−a cat)", "sum"),
        (CROWN - -0.5 * CAT, "a crown − (−0.5 × a cat)", "difference"),
        (sum([CAT, CROWN, NOTHING]) / 3, "(a cat + a crown + nothing) / 3", "sum"),
        ((CROWN - NOTHING).normalised(), "norm(a crown − nothing)", "difference"),
        (np.float32(0.25) * PICTURE, "0.25 × photo.png", "image"),
    ],
)
def test_labels_say_how_it_was_made(made, label, kind):
    assert (made.label, made.kind, made.model) == (label, kind, "critters-clip")


def test_arithmetic_is_numpys():
    made = 2 * (CAT - CROWN) / 4 + -NOTHING
    want = 2 * (CAT.vector - CROWN.vector) / 4 - NOTHING.vector
    assert np.abs(made.vector - want).max() <= 1e-6
    assert made.vector.dtype == np.float32


def test_cosine_norm_and_direction():
    assert CAT.norm == 5
    assert abs(CAT.similarity(CROWN) - 3 / (5 * 5**0.5)) <= 1e-12
    assert CAT.similarity(PICTURE) == 0
    unit = CAT.normalised()
    assert abs(unit.norm - 1) <= 1e-6
    assert unit.normalised() is unit
    assert abs(CAT.similarity(unit) - 1) <= 1e-6


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=4, max_size=4))
def test_a_cosine_stays_between_its_bounds(numbers):
    vector = make(numbers, "x")
    if vector.norm:
        assert -1 <= vector.similarity(CAT) <= 1
        assert abs(vector.similarity(vector) - 1) <= 1e-9


def test_frozen_and_a_copy():
    numbers = np.ones(4, np.float32)
    made = make(numbers, "x")
    numbers[0] = 9
    assert made.vector[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        made.vector[0] = 2
    with pytest.raises(AttributeError):
        made.label = "y"


@pytest.mark.parametrize("operation", ["__add__", "__sub__", "similarity"])
@pytest.mark.parametrize("stranger", [make(np.ones(4), "x", model="openai"), make(np.ones(6), "x")])
def test_strangers_are_refused_by_dimension_and_origin(operation, stranger):
    with pytest.raises(RecordError, match="encode both with one clip_space") as caught:
        getattr(CAT, operation)(stranger)
    for words in ("4 dimensions of 'critters-clip'", f"{len(stranger)} dimensions", stranger.model):
        assert words in str(caught.value)


def test_an_unnamed_vector_takes_the_name_of_the_other():
    assert (Embedding(np.ones(4)) + CAT).model == (CAT + Embedding(np.ones(4))).model == CAT.model


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        ([1, np.nan, 0], "got 1 of 3 NaN"),
        ([np.inf, np.nan], "got 2 of 2"),
        ([1e300], "got 1 of 1"),
        ([], r"shape \(d,\), got \(0,\)"),
        (np.ones((1, 4)), r"got \(1, 4\)"),
        (3.0, r"got \(\)"),
        ("words", "must be an array of numbers, got 'words'"),
        (None, "shape"),
    ],
)
def test_bad_vectors(vector, words):
    with pytest.raises(RecordError, match=words):
        Embedding(vector)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "poem"}, "kind must be one of text, image"),
        ({"kind": 3}, "kind must be a string, got int"),
        ({"label": None}, "label must be a string"),
        ({"model": b"x"}, "model must be a string"),
    ],
)
def test_bad_words(fields, words):
    with pytest.raises(RecordError, match=words):
        Embedding(np.ones(4), **fields)


@pytest.mark.parametrize(
    ("operation", "kind", "words"),
    [
        (lambda: CAT * np.nan, RecordError, "finite number, got nan"),
        (lambda: CAT / 0, RecordError, "divided by zero"),
        (lambda: CAT / np.inf, RecordError, "finite number"),
        (lambda: 1e39 * CAT, RecordError, "must be finite"),
        (lambda: CAT * CROWN, TypeError, "similarity"),
        (lambda: CAT * True, TypeError, "got bool"),
        (lambda: CAT + 1, TypeError, "with another, got int"),
        (lambda: 1 + CAT, TypeError, "unsupported operand"),
        (lambda: CAT + np.ones(4), TypeError, "got ndarray"),
        (lambda: (CAT - CAT).normalised(), RecordError, "zero vector"),
        (lambda: CAT.similarity(CAT - CAT), RecordError, "'a cat − a cat' is the zero vector"),
    ],
)
def test_bad_operations(operation, kind, words):
    with pytest.raises(kind, match=words):
        operation()


def test_a_long_sum_keeps_a_label_of_sensible_length():
    total = sum([CAT] * 2000)
    assert len(total.label) == 400
    assert total.label.endswith("…")
    assert total.vector[0] == 6000


def test_there_and_back(tmp_path):
    made = CAT + 0.5 * (CROWN - NOTHING)
    twin = Embedding.open(made.save(tmp_path / "e.safetensors"))
    assert np.array_equal(twin.vector, made.vector)
    assert (2 * twin).label == (2 * made).label
    assert (twin.kind, twin.model) == (made.kind, made.model)


@pytest.mark.parametrize(
    ("arrays", "meta", "words"),
    [
        ({}, {}, "not a whole embedding: it lacks 'vector'"),
        ({"vector": np.ones((2, 2), np.float32)}, {}, "not a whole embedding: .*shape"),
        ({"vector": np.full(3, np.nan, np.float32)}, {}, "NaN"),
        ({"vector": np.ones(3, np.float32)}, {"kind": "poem"}, "kind must be"),
        ({"vector": np.ones(3, np.float32)}, {"format": "trajectory"}, "not an embedding"),
        ({"vector": np.ones(3, np.float32)}, {"version": 2}, "version 2"),
    ],
)
def test_bad_files(tmp_path, arrays, meta, words):
    whole = {
        "format": "embedding",
        "version": 1,
        "label": "x",
        "kind": "text",
        "model": "m",
        "compound": False,
    }
    path = write_record(tmp_path / "e.safetensors", arrays, whole | meta)
    with pytest.raises(RecordError, match=words):
        Embedding.open(path)


def test_a_file_over_the_limit(tmp_path):
    path = make(np.ones(1000), "x").save(tmp_path / "e.safetensors")
    with pytest.raises(RecordError, match="the limit is 1,000"):
        Embedding.open(path, max_bytes=1000)
