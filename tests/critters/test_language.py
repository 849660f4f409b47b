"""Captions and their parser: what is said comes back, what isn't known is named."""

from __future__ import annotations

from random import Random

import pytest

from ldmkit.critters import Critter, Scene, UnknownWords, parse, words
from ldmkit.critters.language import silence
from ldmkit.critters.world import hidden

_CRITTER = ("animal", "colour", "wears", "mood")
_SCENE = ("place", "background", "style", "size", "side")


def test_parse_gives_back_what_captions_say_over_10_000_scenes() -> None:
    said = dict.fromkeys((*_CRITTER, *_SCENE), 0)
    for seed in range(10_000):
        scene = Scene.sample(seed)
        text = scene.caption(seed + 1)
        read = parse(text)
        assert len(read.critters) == len(scene.critters), text
        pairs = list(zip(read.critters, scene.critters, strict=True))
        for name in _CRITTER:
            for found, true in pairs:
                assert getattr(found, name) in (None, getattr(true, name)), text
                said[name] += getattr(found, name) is not None
        for name in _SCENE:
            assert getattr(read, name) in (None, getattr(scene, name)), text
            said[name] += getattr(read, name) is not None
        for name in hidden(scene):
            values = [getattr(read, name, None), *(getattr(c, name, None) for c in read.critters)]
            assert values.count(None) == len(values), text
    assert said["animal"] > 11_000  # an animal is always said
    assert min(said.values()) > 1000  # nothing is never said


def test_captions_vary_with_their_seed_only() -> None:
    scene = Scene.sample(500_003)
    assert scene.caption(1) == scene.caption(1)
    assert len({scene.caption(i) for i in range(50)}) > 5


def test_silence_is_how_often_captions_say_nothing_but_the_animals() -> None:
    animals = Scene((Critter("cat"), Critter("dog")))
    assert silence(animals) == silence(Scene()) == 1  # nothing to say
    rng = Random(0)
    for plain in (True, False):
        scene = Scene(
            critters=(Critter("cat", None, "nothing" if plain else "scarf", "neutral"),),
            style="cartoon" if plain else "neon",
            size="medium" if plain else "big",
            side="centre",
        )
        texts = [scene.caption(rng.randrange(10**9)) for _ in range(20_000)]
        quiet = sum(set(text.split()) <= {"a", "cat"} for text in texts) / len(texts)
        expected = silence(scene)
        assert abs(quiet - expected) < 5 * (expected * (1 - expected) / len(texts)) ** 0.5
    assert silence(Scene((Critter(mood="sad"),), size="small")) == pytest.approx(0.2)  # hidden


@pytest.mark.parametrize(
    ("text", "scene"),
    [
        ("", Scene()),
        ("  A RED Cat!! ", Scene(critters=(Critter("cat", "red"),))),
        ("cat, top hat, red", Scene(critters=(Critter("cat", "red", "top hat"),))),
        ("on the beach", Scene(place="beach")),
        ("a little grey bunny", Scene(critters=(Critter("rabbit", "gray"),), size="small")),
        ("a pig on a blue background", Scene((Critter("pig"),), "plain", "blue")),
        (
            "a red cat with a crown and a blue dog in the snow, neon",
            Scene((Critter("cat", "red", "crown"), Critter("dog", "blue")), "snow", style="neon"),
        ),
    ],
)
def test_free_phrasings(text: str, scene: Scene) -> None:
    assert parse(text) == scene


def test_unknown_words_are_named_with_their_nearest() -> None:
    with pytest.raises(UnknownWords, match="'dgo' \\(nearest: 'dog'\\)") as caught:
        parse("a red dgo with a spaceship")
    assert caught.value.unknown == ("dgo", "spaceship")
    assert caught.value.nearest["dgo"] == "dog"


@pytest.mark.parametrize("text", ["a cat 🐱", "<script>alert(1)</script>", "top of the hat", "猫"])
def test_words_without_meaning_are_refused(text: str) -> None:
    with pytest.raises(UnknownWords):
        parse(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a red blue cat", "one colour, got 'red' and 'blue'"),
        ("a cat and a dog and a pig", "two animals"),
        ("a cat in the city in the snow", "one place"),
        ("a cat " * 200, "1000 characters, got 1200"),
    ],
)
def test_contradictions_are_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse(text)


def test_a_caption_is_text() -> None:
    with pytest.raises(TypeError, match="must be a string, got int"):
        parse(7)  # type: ignore[arg-type]


def test_every_word_of_captions_is_known() -> None:
    used = {w.strip(",") for i in range(3000) for w in Scene.sample(i).caption(i).split()}
    assert used <= words
    assert len(words) < 80
