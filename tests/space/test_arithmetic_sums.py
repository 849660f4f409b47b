"""Walked sums: turned as ``text_diff`` turns, added as ``weighted_sum`` adds; what is refused."""

import numpy as np
import pytest
import tiny_unclip
from tiny import picture

import ldmkit
from ldmkit.records import Embedding, RecordError
from ldmkit.space.arithmetic import difference, direction, parted, walk_sum, weighted_sum, written
from ldmkit.space.clip import clip_space

QUICK = {"num_inference_steps": 4}
pytestmark = pytest.mark.filterwarnings("ignore:The fixed point did not settle")


@pytest.fixture(scope="module")
def unclip():
    return tiny_unclip.with_eye()


@pytest.fixture(scope="module")
def clip(unclip):
    return clip_space(unclip)


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one.images, other.images, strict=True):
        assert np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1  # roundings
    for a, b in zip(one.embeddings, other.embeddings, strict=True):
        assert np.abs(a.vector - b.vector).max() <= 1e-5


@pytest.mark.parametrize("invert", [True, False])
def test_a_turn_by_two_captions_is_a_text_diff(unclip, invert):
    terms = [(1, picture()), (1, "a cat with a crown"), (-1, "a cat")]
    options = {"theta": 0.3, "num_frames": 3, "seed": 4, "invert": invert, **QUICK}
    walk = walk_sum(unclip, terms, **options)
    options["theta"] = (0, 0.3)
    same(walk, ldmkit.text_diff(unclip, picture(), "a cat", "a cat with a crown", **options))
    assert (walk.axis, walk.space, walk.method) == ("θ", "clip_image", "slerp")
    assert walk.title == "picture 1 + a cat with a crown − a cat"
    assert walk.labels[1] == "θ = 0.15"
    assert walk.call["inverted"] is invert
    assert walk.call["terms"][2] == (-1, "a cat")


def test_a_sum_ends_at_the_weighted_sum_decoded(unclip, clip):
    terms = [(1, picture()), (0.5, "a cat"), (-0.25, picture(1))]
    walk = walk_sum(unclip, terms, form="sum", num_frames=3, invert=False, seed=2, **QUICK)
    here, cat, other = clip.encode_image(picture()), clip.encode_text("a cat"), picture(1)
    want = weighted_sum([(1, here), (0.5, cat), (-0.25, clip.encode_image(other))])
    assert np.abs(walk.embeddings[-1].vector - want.vector).max() <= 1e-5
    assert np.abs(walk.embeddings[0].vector - here.vector).max() <= 1e-5
    alone = ldmkit.decode_embedding(unclip, want, seed=2, **QUICK)
    assert np.array_equal(np.asarray(walk.images[-1]), np.asarray(alone.image))
    assert (walk.axis, walk.method) == ("share", "sum")


def test_first_words_go_through_the_prior(unclip):
    walk = walk_sum(unclip, [(-1, "a dog"), (1, "a cat")], num_frames=2, seed=3, **QUICK)
    want = ldmkit.sample_prior(unclip, "a cat", seed=3)
    assert np.abs(walk.embeddings[0].vector - want.vector).max() <= 1e-5
    assert walk.title == "a cat − a dog"


def test_direction_is_the_difference_of_captions(clip):
    cat, crown = clip.encode_text(["a cat", "a cat with a crown"])
    got = direction([(1, crown), (-1, cat)])
    want = difference(clip, "a cat", "a cat with a crown")
    assert np.abs(got.vector - want.vector).max() <= 1e-6
    assert got.label == want.label


def test_weights_of_nothing_are_left_out():
    assert parted([(0, "x"), (-1, "a"), (2, "b"), (0.0, "y"), (1, "c")]) == (
        (2, "b"),
        [(-1, "a"), (1, "c")],
    )
    assert written([(-1, "a"), (0.5, "b"), (-2, "c")]) == "−a + 0.5 × b − 2 × c"


@pytest.mark.parametrize(
    ("terms", "options", "error", "words"),
    [
        ([], {}, RecordError, "The sum is empty"),
        ([(-1, "a cat")], {}, RecordError, "positive weight, got 1 with −"),
        ([(1, "a cat")], {}, RecordError, "something to add"),
        ([(1, "a cat"), (0, "a dog")], {}, RecordError, "something to add"),
        ([(1, "a cat"), (1, "a dog"), (-1, "a dog")], {}, RecordError, "has no direction"),
        ([(1, "a"), (1, "b")], {"theta": 1.2}, ValueError, "between 0 and 1 inclusive, got 1.2"),
        (
            [(1, "a"), (1, "b")],
            {"theta": float("nan")},
            ValueError,
            "theta must be a finite number, got nan",
        ),
        ([(1, "a"), (1, 3.5)], {}, TypeError, "A term is words.*got 3.5"),
        ([(1, "a"), (1, Embedding(np.ones(3)))], {}, RecordError, "Only embeddings of one model"),
    ],
)
def test_refuses_in_one_sentence(unclip, terms, options, error, words):
    with pytest.raises(error, match=words):
        walk_sum(unclip, terms, num_frames=2, **options, **QUICK)


def test_terms_that_cancel_are_nothing(unclip, clip):
    cat = clip.encode_text("a cat")
    with pytest.raises(RecordError, match="its terms cancel"):
        walk_sum(unclip, [(1, cat), (-1, cat)], form="sum", num_frames=2, **QUICK)
    zero = Embedding(np.zeros(16))
    with pytest.raises(RecordError, match="zero vector"):
        walk_sum(unclip, [(1, cat), (1, zero)], num_frames=2, **QUICK)


def test_another_pipeline_is_refused():
    with pytest.raises(TypeError, match="takes an unCLIP pipeline"):
        walk_sum(object(), [(1, "a"), (1, "b")])
