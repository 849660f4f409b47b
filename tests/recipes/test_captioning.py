"""Captions in training: which drawings the empty one goes with."""

from __future__ import annotations

import numpy as np
import pytest

from ldmkit.critters.language import silence
from ldmkit.critters.scene import parse
from ldmkit.recipes.captioning import Captioned, captions_of
from ldmkit.recipes.common import scene

_COUNT, _ALL = 2000, 40_000


def _unspoken(power: float) -> np.ndarray:
    picked, captions = Captioned(_COUNT, 1.0, power).batch(_ALL, 0, np.random.default_rng(0))
    assert captions == [""] * _ALL
    assert picked.min() >= 0
    return np.bincount(picked, minlength=_COUNT) / _ALL


def test_an_empty_caption_goes_with_what_nobody_would_speak_of() -> None:
    weights = np.array([silence(scene(i)) for i in range(_COUNT)])
    expected = weights / weights.sum()
    shares = _unspoken(1)
    assert len(shares) == _COUNT
    assert np.abs(shares - expected).max() < 5 * (expected.max() / _ALL) ** 0.5
    bare = np.array([scene(i).critters[0].wears == "nothing" for i in range(_COUNT)])
    assert bare.mean() < 0.4  # three in ten
    assert shares[bare].sum() > 0.65


def test_or_with_all_drawings_alike() -> None:
    shares = _unspoken(0)
    assert np.abs(shares - 1 / _COUNT).max() < 5 * (1 / _COUNT / _ALL) ** 0.5


def test_captions_are_of_their_drawings() -> None:
    captioned, rng = Captioned(_COUNT, 0.25, 1.0), np.random.default_rng(1)
    empty = 0
    for step in range(20):
        picked, captions = captioned.batch(64, step, rng)
        assert len(picked) == len(captions) == 64
        empty += captions.count("")
        for index, caption in zip(picked, captions, strict=True):
            animals = {critter.animal for critter in scene(int(index)).critters}
            words = caption.replace("bunny", "rabbit").replace(",", "").split()
            assert not caption or animals <= set(words)
    assert empty / (20 * 64) == pytest.approx(0.25, abs=0.06)


def _unfitting(mistaken: float) -> tuple[float, float]:
    """Share of drawings without their caption's animals, and of those how many wear nothing."""
    captioned, rng = Captioned(_COUNT, 0.0, 1.0, mistaken=mistaken), np.random.default_rng(1)
    wrong, bare = [], []
    for step in range(60):
        for index, caption in zip(*captioned.batch(64, step, rng), strict=True):
            shown, said = scene(int(index)), parse(caption)
            wrong.append([c.animal for c in shown.critters] != [c.animal for c in said.critters])
            if wrong[-1]:
                bare.append(shown.critters[0].wears == "nothing")
    return float(np.mean(wrong)), float(np.mean(bare or [np.nan]))


def test_captions_are_mistaken_as_often_as_asked() -> None:
    """And the drawing that stands there instead is one that empty captions go with."""
    always, bare = _unfitting(1.0)
    assert 0.8 < always < 1  # by chance it has the caption's animals
    assert bare > 0.65
    assert _unfitting(0.3)[0] == pytest.approx(0.3 * always, abs=0.03)
    assert _unfitting(0.0)[0] == 0


def test_hats_and_moods_are_left_out_as_often_as_asked() -> None:
    indices = np.arange(_COUNT)
    whole, fewer, none = (captions_of(indices, 7, omitted) for omitted in (0.0, 0.4, 1.0))
    assert whole == [scene(i).caption(7 * 1_000_003 + i) for i in range(_COUNT)]
    for name in ("wears", "mood"):
        said = [
            sum(
                getattr(critter, name) is not None
                for c in captions
                for critter in parse(c).critters
            )
            for captions in (whole, fewer, none)
        ]
        assert said[1] / said[0] == pytest.approx(0.6, abs=0.05)
        assert said[2] == 0
    colours = [sum(c.critters[0].colour is not None for c in map(parse, t)) for t in (whole, none)]
    assert colours[1] / colours[0] == pytest.approx(1, abs=0.05)


def test_what_is_left_out_counts_as_silence() -> None:
    scenes = [scene(i) for i in range(_COUNT)]
    hats = [s for s in scenes if len(s.critters) == 1 and s.critters[0].wears != "nothing"]
    assert all(silence(s, 0.5) > silence(s) for s in hats)
    bare = next(
        s
        for s in scenes
        if len(s.critters) == 1
        and s.critters[0].wears == "nothing"
        and s.critters[0].mood == "neutral"
    )
    assert silence(bare, 0.5) == silence(bare)
