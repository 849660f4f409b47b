"""What recipes share: which drawings an empty caption goes with."""

from __future__ import annotations

import numpy as np

from ldmkit.critters.language import silence
from ldmkit.recipes.common import Unspoken, scene


def test_an_empty_caption_goes_with_what_nobody_would_speak_of() -> None:
    count = 2000
    weights = np.array([silence(scene(i)) for i in range(count)])
    picked = Unspoken(count).pick(50_000, np.random.default_rng(0))
    assert picked.min() >= 0
    assert picked.max() < count
    shares = np.bincount(picked, minlength=count) / len(picked)
    expected = weights / weights.sum()
    assert np.abs(shares - expected).max() < 5 * (expected.max() / len(picked)) ** 0.5
    bare = np.array([scene(i).critters[0].wears == "nothing" for i in range(count)])
    assert bare.mean() < 0.4  # three in ten
    assert bare[picked].mean() > 0.65
    alike = np.bincount(Unspoken(count, 0).pick(50_000, np.random.default_rng(0)))
    assert len(alike) == count
    assert alike.std() < 1.1 * alike.mean() ** 0.5
