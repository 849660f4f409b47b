"""Scenes: sampling, completeness, what is held out."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from ldmkit.critters import Critter, Scene, held_out
from ldmkit.critters.world import ANIMALS, COLOURS, PLACES, STYLES, WEARS, hidden


def test_same_seed_same_scene_and_seeds_differ() -> None:
    assert Scene.sample(500_001) == Scene.sample(500_001)
    assert len({Scene.sample(i) for i in range(500)}) > 480


@pytest.mark.parametrize("wanted", [True, False])
def test_held_out_is_kept_apart(wanted: bool) -> None:
    assert all(held_out(Scene.sample(i, held_out=wanted)) is wanted for i in range(300))


def test_about_one_in_ten_pairs_is_held_out() -> None:
    colours = [(a, c) for a in ANIMALS for c in COLOURS if held_out(_scene(animal=a, colour=c))]
    wears = [(a, w) for a in ANIMALS for w in WEARS if held_out(_scene(animal=a, wears=w))]
    styles = [(s, p) for s in STYLES for p in PLACES if held_out(Scene(style=s, place=p))]
    assert 6 <= len(colours) <= 11  # of 88
    assert 4 <= len(wears) <= 8  # of 56
    assert 2 <= len(styles) <= 4  # of 20


def test_nothing_unsaid_holds_a_scene_out() -> None:
    assert not held_out(Scene())


def test_a_scene_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Scene().place = "city"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"place": "moon"}, "place must be one of .* got 'moon'"),
        ({"critters": ()}, "one or two critters, got 0"),
        ({"critters": (Critter(),) * 3}, "one or two critters, got 3"),
        ({"place": "city", "background": "red"}, "background colour needs place='plain'"),
    ],
)
def test_bad_scenes_are_refused(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Scene(**arguments)


def test_small_faces_and_pairs_hide_moods() -> None:
    assert hidden(Scene(size="small")) == {"mood"}
    assert hidden(Scene(critters=(Critter(), Critter()))) == {"mood", "size", "side"}
    assert hidden(Scene(size="big")) == frozenset()


def _scene(**critter: str) -> Scene:
    return Scene(critters=(Critter(**critter),))
