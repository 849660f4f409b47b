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
        ({"critters": ()}, r"one or two Critter, got \(\)"),
        ({"critters": (Critter(),) * 3}, r"one or two Critter, got \(Critter"),
        ({"critters": None}, "one or two Critter, got None"),
        ({"critters": ("a cat",)}, "one or two Critter, got"),
        ({"place": "x" * 9999}, r"got 'x{1,60}\.\.\.; take one"),
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


@pytest.mark.parametrize(
    "junk", [[], "maybe", 3, 10**5000, "\ud800"], ids=["[]", "word", "3", "huge", "half a letter"]
)
def test_junk_is_refused_and_never_waited_for(junk: Any) -> None:
    scene = Scene.sample(1)
    for name, ask in {
        "held_out": lambda: Scene.sample(1, junk),  # no scene is held out "maybe": without end
        "scene": lambda: held_out(junk),
    }.items():
        with pytest.raises((TypeError, ValueError), match=f"{name} must be .*, got"):
            ask()
    if junk != 3:
        for ask in (Scene.sample, scene.caption, lambda seed: scene.draw(64, seed)):
            with pytest.raises((TypeError, ValueError), match=r"seed must be .*got .*\.$"):
                ask(junk)


def test_a_list_of_critters_is_kept_as_a_tuple() -> None:
    scene = Scene(critters=[Critter("cat")])  # type: ignore[arg-type]
    assert hash(scene) == hash(Scene(critters=(Critter("cat"),)))
