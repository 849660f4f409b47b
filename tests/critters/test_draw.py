"""Drawings: the same bytes, every combination, every size, different things look different."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from PIL import Image

from ldmkit.critters import Critter, Scene
from ldmkit.critters.world import ANIMALS, BACKGROUNDS, COLOURS, MOODS, PLACES, STYLES, WEARS

_SCENE = Scene((Critter("cat", "red", "nothing", "neutral"),), "plain", "green", "cartoon",
               "medium", "centre")  # fmt: skip


def _pixels(scene: Scene, size: int = 64, seed: int = 3) -> np.ndarray:
    return np.asarray(scene.draw(size, seed)).astype(int)


def _with(**critter: str) -> Scene:
    return replace(_SCENE, critters=(replace(_SCENE.critters[0], **critter),))


def test_same_seed_same_bytes_other_seed_other_picture() -> None:
    assert _SCENE.draw(64, 3).tobytes() == _SCENE.draw(64, 3).tobytes()
    assert _SCENE.draw(64, 3).tobytes() != _SCENE.draw(64, 4).tobytes()


def test_every_animal_thing_mood_in_every_style_draws() -> None:
    for animal, wears, style in product(ANIMALS, WEARS, STYLES):
        picture = replace(_with(animal=animal, wears=wears), style=style).draw()
        assert picture.mode == "RGB"
        assert picture.size == (64, 64)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("name", "values"),
    [("animal", ANIMALS), ("colour", COLOURS), ("wears", WEARS), ("mood", MOODS)],
)
def test_every_style_shows_each_attribute(style: str, name: str, values: tuple[str, ...]) -> None:
    pictures = [_pixels(replace(_with(**{name: v}), style=style)) for v in values]
    for i, first in enumerate(pictures):
        for second in pictures[:i]:
            assert (np.abs(first - second).max(-1) > 24).sum() >= 12  # pixels that clearly differ


@pytest.mark.parametrize("style", STYLES)
def test_every_style_shows_each_background_and_place(style: str) -> None:
    scenes = [replace(_SCENE, style=style, background=b) for b in BACKGROUNDS]
    scenes += [replace(_SCENE, style=style, place=p, background=None) for p in PLACES[1:]]
    pictures = [_pixels(s) for s in scenes]
    for i, first in enumerate(pictures):
        for second in pictures[:i]:
            assert (np.abs(first - second).max(-1) > 10).mean() > 0.1


@pytest.mark.parametrize("size", [16, 37, 64, 128, 200, 512])
@pytest.mark.parametrize("style", STYLES)
def test_sizes_show_the_same_picture(size: int, style: str) -> None:
    scene = replace(_SCENE, style=style)
    picture = scene.draw(size, 1)
    assert picture.size == (size, size)
    small = np.asarray(picture.resize((16, 16), Image.Resampling.BOX)).astype(int)
    reference = np.asarray(scene.draw(64, 1).resize((16, 16), Image.Resampling.BOX)).astype(int)
    assert np.abs(small - reference).mean() < 12


@pytest.mark.parametrize("size", [0, 15, 513, 64.0, "64"])
def test_bad_sizes_are_refused(size: object) -> None:
    with pytest.raises(ValueError, match="between 16 and 512 pixels, got"):
        _SCENE.draw(size)  # type: ignore[arg-type]


def test_an_unsaid_attribute_is_named() -> None:
    with pytest.raises(ValueError, match="mood is unsaid"):
        replace(_SCENE, critters=(Critter("cat", "red", "crown"),)).draw()
