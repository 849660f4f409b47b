"""``Gap`` and ``Plane`` on points whose answers are known."""

import numpy as np
import pytest

from ldmkit.records import Embedding, Gap, Plane, RecordError


def points(rows, kind="text", model="m"):
    return [Embedding(row, f"{kind} {i}", kind, model) for i, row in enumerate(rows)]


def cloud(count, middle, *, d=16, seed=0, spread=0.4):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, d)) * spread + np.asarray(middle)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


APART = np.eye(16)[0] * 1.2
TEXTS, PICTURES = cloud(60, -APART, seed=1), cloud(60, APART, seed=2)


def gap(texts=TEXTS, pictures=PICTURES):
    return Gap(points(texts), points(pictures, "image"))


def test_the_numbers_are_their_definitions():
    found, u, v = gap(), unit(TEXTS), unit(PICTURES)
    n = len(u)
    off = ~np.eye(n, dtype=bool)
    assert abs(found.texts_within.value - (u @ u.T)[off].mean()) <= 1e-6
    assert abs(found.pictures_within.value - (v @ v.T)[off].mean()) <= 1e-6
    assert abs(found.between.value - (u @ v.T)[off].mean()) <= 1e-6
    assert abs(found.own.value - (u * v).sum(axis=1).mean()) <= 1e-6
    assert np.abs(found.cosines - u @ v.T).max() <= 1e-6
    squared = found.texts_within.value + found.pictures_within.value - 2 * found.between.value
    assert abs(found.distance.value - squared**0.5) <= 1e-9
    assert abs(found.distance.value - np.linalg.norm(u.mean(0) - v.mean(0))) <= 0.03


def test_without_pairs_every_text_meets_every_picture():
    found, u, v = gap(TEXTS[:20]), unit(TEXTS[:20]), unit(PICTURES)
    assert not found.paired
    assert abs(found.between.value - (u @ v.T).mean()) <= 1e-6
    assert np.isnan(found.own.value)
    assert "own picture" not in " ".join(found.table["what"])


def test_intervals_hold_what_they_promise():
    """Of many small samples of one world, about 95 % hold its numbers."""
    whole = Gap(points(cloud(4000, -APART, seed=3)), points(cloud(4000, APART, seed=4), "image"))
    for name in ("texts_within", "between", "distance"):
        true, held = getattr(whole, name).value, 0
        for seed in range(60):
            small = Gap(
                points(cloud(25, -APART, seed=100 + seed)),
                points(cloud(30, APART, seed=900 + seed), "image"),
            )
            low, high = getattr(small, name)[1:]
            held += low <= true <= high
        assert 52 <= held <= 60, name


def test_no_gap_is_no_distance():
    """Two samples of one cloud: the plain distance of their means would be 0.3 and more."""
    distances = []
    for seed in range(30):
        middle = np.eye(16)[1]
        texts, pictures = cloud(10, middle, seed=seed), cloud(10, middle, seed=1000 + seed)
        found = gap(texts, pictures)
        assert found.told_apart.low <= 0.5 or found.told_apart.value < 0.9
        distances.append(found.distance.value)
        assert found.distance.low <= 0.1
    assert np.mean(distances) <= 0.15


def test_told_apart_by_points_that_were_not_fitted():
    assert gap().told_apart.value >= 0.95
    # More dimensions than points: a border that judged its own points would be right always.
    same = gap(cloud(20, 0, d=64, seed=5), cloud(20, 0, d=64, seed=6))
    assert 0.25 <= same.told_apart.value <= 0.75


def test_the_mean_gap_moves_texts_to_the_pictures():
    found = gap(3 * TEXTS, 5 * PICTURES)
    want = 5 * PICTURES.mean(axis=0) - 3 * TEXTS.mean(axis=0)
    assert np.abs(found.mean.vector - want).max() <= 1e-5
    assert (found.mean.label, found.mean.kind, found.mean.model) == (
        "the mean gap",
        "difference",
        "m",
    )


def test_table_and_display():
    found = gap()
    assert len(found.table) == 6
    shown = found._repr_mimebundle_()
    assert shown["text/html"].count("<img") == 1
    assert "distance of the two middles" in shown["text/html"]
    assert len(shown["image/png"]) > 1000
    assert repr(found).startswith("Gap(60 texts, 60 pictures of 'm', distance 1.")
    assert "told apart" in shown["text/plain"]


def test_figure_draws_every_group():
    left, middle, right = gap().figure().axes
    assert [len(c.get_offsets()) for c in left.collections] == [60, 60]
    assert len(left.lines) == 60  # one for each pair
    assert "gap 1." in " ".join(text.get_text() for text in middle.texts)
    assert len(right.get_legend().get_texts()) == 4
    assert len(gap(TEXTS[:9]).figure().axes[2].get_legend().get_texts()) == 3


def test_a_hostile_name_stays_text():
    evil = [Embedding(row, "x", "text", "<script>alert(1)</script>") for row in TEXTS]
    shown = Gap(evil, points(PICTURES, model=evil[0].model))._repr_mimebundle_()["text/html"]
    assert "<script>" not in shown


def test_planes():
    rows = cloud(200, 0, seed=7, spread=0.1)
    rows[:, 3] += np.linspace(-3, 3, 200)
    rows[:, 5] += np.tile([-1, 1], 100)
    rows[:, 0] += 3
    plane = Plane.fit(points(rows))
    assert abs(plane.axes[0, 3]) > 0.9
    assert abs(plane.axes[1, 5]) > 0.9
    assert np.abs(plane.axes @ plane.axes.T - np.eye(2)).max() <= 1e-9
    want = np.linalg.svd(unit(rows) - unit(rows).mean(0), compute_uv=False)
    assert np.abs(plane.explained - want[:2] ** 2 / (want**2).sum()).max() <= 1e-6
    coordinates = plane.project(points(rows[:5]))
    assert np.abs(coordinates - (unit(rows[:5]) - plane.mean) @ plane.axes.T).max() <= 1e-6
    across = Plane.across(points(TEXTS), points(PICTURES))
    u, v = (across.project(points(rows)).mean(axis=0) for rows in (TEXTS, PICTURES))
    assert abs((v - u)[0] - np.linalg.norm(unit(TEXTS).mean(0) - unit(PICTURES).mean(0))) <= 1e-6
    assert abs((v - u)[1]) <= 1e-6  # nothing of the gap is left for the second axis


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: gap(TEXTS[:2]), "3 points at least are needed, got 2"),
        (lambda: gap(TEXTS, []), "got 0"),
        (lambda: Gap(points(TEXTS), TEXTS), "pictures must be Embedding"),
        (lambda: Gap(points(TEXTS), points(PICTURES, model="other")), "'m' and 16 dimensions of"),
        (lambda: gap(0 * TEXTS), "zero vector"),
        (lambda: Plane.across(points(TEXTS), points(TEXTS)), "the same middle"),
        (lambda: Plane.fit(points(np.ones((3, 1)))), "needs 2 dimensions, got 1"),
        (lambda: Plane.fit(points(TEXTS)).project(points(np.ones((1, 3)))), "drawn, got 16"),
    ],
)
def test_refused_in_one_sentence(make, words):
    with pytest.raises(RecordError, match=words):
        make()
