"""``slerp``, ``lerp`` and ``path`` against their closed forms, in numpy and in torch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldmkit.records import Embedding, RecordError
from ldmkit.space.paths import leg, lerp, path, slerp


def closed_form(a, b, t):
    omega = np.arccos(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))
    return (np.sin((1 - t) * omega) * a + np.sin(t * omega) * b) / np.sin(omega)


def unit(rng, d=128):
    vector = rng.standard_normal(d)
    return vector / np.linalg.norm(vector)


TIMES = np.linspace(0, 1, 9)


def test_slerp_is_the_closed_form():
    rng = np.random.default_rng(0)
    for scale in (1.0, 1e-3, 40.0):
        a, b = scale * unit(rng), scale * unit(rng)
        want = np.stack([closed_form(a, b, t) for t in TIMES])
        assert np.abs(slerp(a, b, TIMES) - want).max() <= 1e-12 * scale
        assert np.abs(slerp(torch.tensor(a), torch.tensor(b), TIMES).numpy() - want).max() <= 1e-12


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)]
)
def test_precision_of_tensors(dtype, bound):
    rng = np.random.default_rng(1)
    a, b = (torch.tensor(unit(rng)).to(dtype) for _ in range(2))
    got = slerp(a, b, 0.3)
    want = closed_form(a.double().numpy(), b.double().numpy(), 0.3)
    assert got.dtype == dtype
    assert np.abs(got.double().numpy() - want).max() <= bound


def test_float16_noise_does_not_overflow():
    """Squares of 300 are beyond float16 (65504): the sum must be taken elsewhere."""
    a, b = torch.full((1, 4, 16, 16), 300.0).half(), torch.randn(1, 4, 16, 16).half()
    for one, other in ((a, b), (a.numpy(), b.numpy())):
        got = slerp(one, other, 0.5)
        assert got.dtype == one.dtype
        assert np.isfinite(np.asarray(got, np.float64)).all()


def test_noise_keeps_its_length_and_a_straight_line_does_not():
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 4, 16, 16))
    middle, straight = slerp(a, b, 0.5), lerp(a, b, 0.5)
    assert abs(np.linalg.norm(middle) / 32 - 1) <= 0.06
    assert np.linalg.norm(straight) / 32 <= 0.78  # √½
    assert np.abs(straight - (a + b) / 2).max() <= 1e-12


def test_ends_come_back_to_the_bit():
    rng = np.random.default_rng(3)
    for kind in (np.float32, np.float64, np.float16):
        a, b = (rng.standard_normal(64).astype(kind) for _ in range(2))
        for walk in (slerp, lerp):
            assert np.array_equal(walk(a, b, 0), a)
            assert np.array_equal(walk(a, b, 1.0), b)


def test_equal_ends_stay():
    a = unit(np.random.default_rng(4))
    assert np.abs(slerp(a, a, TIMES) - a).max() <= 1e-15
    assert np.abs(slerp(a, 3 * a, 0.5) - 2 * a).max() <= 1e-15
    nearly = a + 1e-12
    assert np.abs(slerp(a, nearly, 0.5) - a).max() <= 1e-11


def test_opposite_ends_walk_a_half_circle():
    a = unit(np.random.default_rng(5))
    for b in (-a, -a + 1e-9):
        points = slerp(a, b, TIMES)
        assert np.abs(np.linalg.norm(points, axis=1) - 1).max() <= 1e-7
        assert np.abs(points @ a - np.cos(TIMES * np.pi)).max() <= 1e-6
    assert np.array_equal(slerp(a, -a, 0.4), slerp(a, -a, 0.4))


def test_zero_tiny_huge_and_one_number():
    a = unit(np.random.default_rng(6))
    assert np.abs(slerp(0 * a, a, 0.25) - 0.25 * a).max() <= 1e-15
    assert np.array_equal(slerp(0 * a, 0 * a, 0.5), 0 * a)
    b = unit(np.random.default_rng(7))
    want = closed_form(a, b, 0.3)
    for scale in (1e-300, 1e-200, 1e-40, 1e200):
        assert np.abs(slerp(scale * a, scale * b, 0.3) / scale - want).max() <= 1e-12
    tiny = torch.tensor(a).half() * 1e-6  # subnormal in float16
    assert torch.isfinite(slerp(tiny, -tiny, TIMES)).all()
    assert slerp(np.array([1.0]), np.array([-1.0]), 0.5) == 0.0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3),
    st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3),
    st.floats(0, 1),
)
def test_finite_and_never_longer_than_its_ends(a, b, t):
    a, b = np.array(a), np.array(b)
    point = slerp(a, b, t)
    assert np.isfinite(point).all()
    assert np.linalg.norm(point) <= max(np.linalg.norm(a), np.linalg.norm(b)) * (1 + 1e-9)


def test_lengths_change_in_proportion():
    rng = np.random.default_rng(8)
    a, b = unit(rng), 3 * unit(rng)
    lengths = np.linalg.norm(slerp(a, b, TIMES), axis=1)
    assert np.abs(lengths - (1 + 2 * TIMES)).max() <= 1e-12


def test_integers_become_floats():
    assert np.allclose(slerp([1, 0], [0, 1], 0.5), 0.5**0.5)
    assert torch.allclose(
        slerp(torch.tensor([1, 0]), torch.tensor([0, 1]), 0.5), torch.tensor(0.5**0.5).double()
    )


def embedding(numbers, label, model="m"):
    return Embedding(numbers, label, "image", model)


def test_embeddings():
    a, b = embedding([1, 0, 0], "a cat"), embedding([0, 1, 0], "a dog")
    middle = slerp(a, b, 0.5)
    assert np.abs(middle.vector - [0.5**0.5, 0.5**0.5, 0]).max() <= 1e-6
    assert (middle.label, middle.kind, middle.model) == ("a cat → a dog at 0.5", "path", "m")
    assert (2 * middle).label == "2 × (a cat → a dog at 0.5)"
    assert slerp(a, b, 0) is a
    assert [type(point) for point in slerp(a, b, [0, 0.5, 1])] == [Embedding] * 3
    with pytest.raises(RecordError, match="walked between, got 3 dimensions of 'm'"):
        slerp(a, embedding([0, 1, 0], "x", "other"), 0.5)


def test_path_meets_every_end():
    ends = [*np.eye(4)]
    points = path(ends, [0, 1 / 3, 0.5, 2 / 3, 1])
    assert np.abs(points[[0, 1, 3, 4]] - np.eye(4)).max() <= 1e-12
    assert np.abs(points[2] - slerp(ends[1], ends[2], 0.5)).max() <= 1e-12
    assert np.abs(path(ends, 1 / 6, method="lerp") - (ends[0] + ends[1]) / 2).max() <= 1e-12
    assert path([torch.eye(2)[0], torch.eye(2)[1]], [0, 1]).equal(torch.eye(2))


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (([1, 0], [0, 1], 1.5), ValueError, "between 0 and 1, or a row of them, got 1.5"),
        (([1, 0], [0, 1], np.nan), ValueError, "between 0 and 1"),
        (([1, 0], [0, 1], []), ValueError, r"a row of them, got the shape \(0,\)"),
        (([1, 0], [0, 1], "half"), TypeError, "t must be a number"),
        (([1, 0], [0, 1, 0], 0.5), ValueError, r"one shape, got \(2,\) and \(3,\)"),
        (([1, np.nan], [0, 1], 0.5), ValueError, "finite numbers, got 2 of which 1"),
        (([], [], 0.5), ValueError, "finite numbers, got 0"),
        (
            (torch.ones(2), np.ones(2), 0.5),
            TypeError,
            "one kind .* got Tensor of .* and ndarray",
        ),
        ((Embedding([1, 0]), np.ones(2), 0.5), TypeError, "got Embedding.* and ndarray"),
    ],
)
def test_refused_in_one_sentence(arguments, kind, words):
    with pytest.raises(kind, match=words):
        slerp(*arguments)


def test_bad_paths():
    with pytest.raises(ValueError, match="two ends or more, got 1"):
        path([np.ones(3)], 0.5)
    with pytest.raises(ValueError, match="method must be one of slerp, lerp, got 'spline'"):
        path([np.ones(3)] * 2, 0.5, method="spline")


@pytest.mark.parametrize("ends", [2, 3, 4, 5, 6, 7, 11, 50, 100])
def test_every_end_that_a_frame_stands_at_is_that_end(ends):
    """With six ends and six frames one read "100 % picture 4, 4.44e-14 % picture 5"."""
    vectors = list(np.random.default_rng(3).standard_normal((ends, 4)))
    for rounds in range(1, 8):
        frames = rounds * (ends - 1) + 1
        for places in (
            [i / (frames - 1) for i in range(frames)],
            np.linspace(0, 1, frames),
            np.linspace(0, 1, frames).astype(np.float32) if frames < 3 else [0.0, 1.0],
        ):
            got = path(vectors, places)
            at = range(0, frames, rounds) if len(places) == frames else (0, -1)
            for i in at:
                number = i // rounds if i >= 0 else ends - 1
                assert np.array_equal(got[i], vectors[number]), (ends, frames, number)
                assert leg(float(places[i]), ends) in ((number, 0.0), (number - 1, 1.0))


def test_between_two_ends_no_place_is_snapped():
    for ends in (2, 6, 100):
        for share in (1e-9, 0.25, 1 - 1e-9):
            first, found = leg((1 + share) / (ends - 1) if ends > 2 else share, ends)
            assert first == (1 if ends > 2 else 0)
            assert abs(found - share) <= 1e-12
