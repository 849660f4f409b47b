"""Captions in training: which drawings the empty one goes with."""

from __future__ import annotations

import numpy as np
import pytest

from ldmkit.critters.language import silence
from ldmkit.recipes.captioning import Captioned
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
