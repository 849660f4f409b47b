"""The instruments, against cases whose answer is known."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldmkit.critters.scene import Scene
from ldmkit.recipes import evaluate


def test_entropy_in_closed_form() -> None:
    assert evaluate.entropy(["a"] * 64) == 0
    assert abs(evaluate.entropy(["a", "b", "c", "d"] * 16) - np.log(4)) < 1e-12


def test_what_a_caption_says() -> None:
    assert evaluate.said("a red cat in the snow") == {"colour", "place", "background"}
    assert evaluate.said("a sleepy pig, neon") == {"mood", "style"}


def test_distances_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    training = rng.normal(size=(50, 4, 3, 3)).astype(np.float16)
    queries = rng.normal(size=(7, 36)).astype(np.float32)
    flat = training.reshape(50, 36).astype(np.float64)
    gaps = ((queries[:, None].astype(np.float64) - flat[None]) ** 2).mean(-1) ** 0.5
    assert np.abs(evaluate.nearest(queries, training) - gaps.min(axis=1)).max() < 1e-5
    copies = training[:3].reshape(3, 36).astype(np.float32)
    assert evaluate.nearest(copies, training).max() < 1e-3


@pytest.mark.slow
def test_drawings_are_as_various_as_drawings_and_one_picture_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "_POOL", 500)
    found = iter(range(400_000, 500_000))

    def draw(caption: str) -> list[Image.Image]:
        pictures: list[Image.Image] = []
        for seed in found:
            scene = Scene.sample(seed, held_out=False)
            if len(scene.critters) == 1 and scene.critters[0].animal in caption:
                pictures.append(scene.draw(64, seed))
            if len(pictures) == evaluate.SEEDS:
                break
        return pictures

    captions = ("a cat", "a dog")
    many = evaluate.variety(draw, tmp_path, captions)
    assert 0.9 < many["ratio"] < 1.4, (
        many
    )  # an unsaid detail is often the plain one, drawn ones less
    same = evaluate.variety(lambda caption: draw(caption)[:1] * 64, tmp_path, captions)
    assert same["ratio"] == 0


def test_calibration_error_in_closed_form() -> None:
    right = np.array([True] * 9 + [False])
    assert evaluate.ece(np.full(10, 0.9, np.float32), right) < 1e-6
    assert abs(evaluate.ece(np.full(10, 0.5, np.float32), right) - 0.4) < 1e-6
    two = np.array([0.95] * 10 + [0.15] * 10, np.float32)
    half = np.array(([True] * 5 + [False] * 5) * 2)
    assert abs(evaluate.ece(two, half) - 0.4) < 1e-6  # (0.45 + 0.35) / 2


@pytest.mark.slow
def test_one_animal_is_told_from_two_laid_over_each_other() -> None:
    sure = evaluate.calibration()
    assert sure.ece <= 0.05
    drawings = [s.draw(64, i) for s, i in evaluate.scenes(30, 410_000)]
    assert np.mean(sure.one_animal(drawings)) > 0.9
    blends = [Image.blend(a, b, 0.5) for a, b in zip(drawings[::2], drawings[1::2], strict=True)]
    assert np.mean(sure.one_animal(blends)) < 0.7
