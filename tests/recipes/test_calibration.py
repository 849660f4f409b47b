"""The judge's confidence against its hits, and what single changes are asked of text diffs."""

import numpy as np
import pytest
from PIL import Image

from ldmkit.critters import parse
from ldmkit.recipes import calibration, measure_unclip


def test_calibration_error_in_closed_form() -> None:
    right = np.array([True] * 9 + [False])
    assert calibration.ece(np.full(10, 0.9, np.float32), right) < 1e-6
    assert abs(calibration.ece(np.full(10, 0.5, np.float32), right) - 0.4) < 1e-6
    two = np.array([0.95] * 10 + [0.15] * 10, np.float32)
    half = np.array(([True] * 5 + [False] * 5) * 2)
    assert abs(calibration.ece(two, half) - 0.4) < 1e-6  # (0.45 + 0.35) / 2


def test_a_single_change_is_one_that_captions_can_say() -> None:
    for scene, seed in measure_unclip.scenes(200, 400_000):
        name, value, before, after = measure_unclip.one_change(scene, seed)
        asked, then = parse(after), parse(before)
        both = {**vars(asked), **vars(asked.critters[0])}
        assert both[name] == value
        assert {**vars(then), **vars(then.critters[0])}[name] != value
        assert asked.critters[0].animal == scene.critters[0].animal


@pytest.mark.slow
def test_one_animal_is_told_from_two_laid_over_each_other() -> None:
    sure = calibration.calibration()
    assert sure.ece <= 0.05
    drawings = [s.draw(64, i) for s, i in measure_unclip.scenes(30, 410_000)]
    assert np.mean(sure.one_animal(drawings)) > 0.9
    blends = [Image.blend(a, b, 0.5) for a, b in zip(drawings[::2], drawings[1::2], strict=True)]
    assert np.mean(sure.one_animal(blends)) < 0.7
