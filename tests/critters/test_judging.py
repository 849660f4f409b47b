"""The shipped judge: right on unseen drawings, strict about what is no critter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ldmkit
from ldmkit.critters import Critter, Scene, UnknownWords, judge
from ldmkit.critters.judging import HEADS, judge_many, look, truth

_RNG = np.random.default_rng(500_000)
_CAT = Scene((Critter("cat", "red", "top hat", "happy"),), "plain", "blue", "cartoon",
             "medium", "centre")  # fmt: skip


@pytest.fixture(scope="module")
def unseen() -> tuple[list[Scene], list[Image.Image]]:
    scenes = [Scene.sample(i) for i in range(505_000, 505_400)]  # held-out ones among them
    return scenes, [s.draw(64, i) for i, s in enumerate(scenes)]


@pytest.mark.slow
def test_each_attribute_is_read_from_unseen_drawings(
    unseen: tuple[list[Scene], list[Image.Image]],
) -> None:
    scenes, pictures = unseen
    seen = look(pictures)
    for name in HEADS:
        right = [a[name][0] == truth(s)[name] for s, a in zip(scenes, seen, strict=True)
                 if name in truth(s)]  # fmt: skip
        assert len(right) >= 50
        assert np.mean(right) >= 0.95, name


@pytest.mark.slow
def test_drawings_obey_their_own_captions_and_not_another(
    unseen: tuple[list[Scene], list[Image.Image]],
) -> None:
    scenes, pictures = unseen
    captions = [s.caption(i) for i, s in enumerate(scenes)]
    own = judge_many(pictures, captions)
    other = judge_many(pictures, captions[1:] + captions[:1])
    assert np.mean([v.obeyed for v in own]) >= 0.9
    assert np.mean([v.obeyed for v in other]) <= 0.05


def test_blank_and_noise_obey_nothing() -> None:
    colours = _RNG.integers(0, 256, (60, 3))
    blank = [Image.new("RGB", (64, 64), tuple(map(int, c))) for c in colours]
    noise = [Image.fromarray(_RNG.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(60)]
    verdicts = judge_many(blank + noise, ["a red cat"] * 120)
    assert not any(v.obeyed for v in verdicts)
    assert all(v["animal"].seen is None for v in verdicts)


def test_a_verdict_tells_what_was_asked_and_seen() -> None:
    verdict = judge(_CAT.draw(), "a happy red dog with a top hat on a blue background")
    assert not verdict.obeyed
    assert verdict.asked.critters[0].animal == "dog"
    assert (verdict["animal"].asked, verdict["animal"].seen) == ("dog", "cat")
    assert verdict["animal"].obeyed is False
    assert verdict["wears"].obeyed is True
    assert 0.5 < verdict["wears"].confidence <= 1
    assert set(verdict.attributes) == {"animal", "colour", "wears", "mood", "place", "background",
                                       "number"}  # fmt: skip


def test_what_the_caption_itself_hides_is_not_judged() -> None:
    small = replace(_CAT, size="small")
    verdict = judge(small.draw(), "a small happy red cat")
    assert verdict["mood"].obeyed is None
    assert verdict.obeyed


def test_a_verdict_is_one_line_to_read() -> None:
    picture = _CAT.draw(64, 1)
    assert repr(judge(picture, "a red cat with a top hat")) == (
        "Verdict(obeyed: animal cat, colour red, wears top hat, number one)"
    )
    assert repr(judge(picture, "a blue cat with a scarf")) == (
        "Verdict(not obeyed: animal cat, colour red instead of blue, "
        "wears top hat instead of scarf, number one)"
    )
    assert "mood sad hidden" in repr(judge(picture, "a small sad red cat"))
    blank = Image.new("RGB", (64, 64), "white")
    assert "animal not seen instead of cat" in repr(judge(blank, "a cat"))


def test_two_critters_may_stand_either_way_round() -> None:
    pair = (Critter("cat", "red", "crown", "neutral"), Critter("dog", "blue", "nothing", "happy"))
    picture = replace(_CAT, critters=pair, size="small").draw()
    assert judge(picture, "a red cat with a crown and a blue dog").obeyed
    assert judge(picture, "a blue dog and a red cat with a crown").obeyed
    assert not judge(picture, "a blue cat with a crown and a red dog").obeyed
    assert not judge(picture, "a red cat").obeyed  # there are two


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK"])
def test_pictures_of_any_mode_and_size_are_looked_at(mode: str) -> None:
    assert judge(_CAT.draw(128).convert(mode), "a cat")["animal"].confidence > 0


def _turned(picture: Image.Image, folder: Path) -> Path:
    """As a camera held upside down saves it."""
    exif = Image.Exif()
    exif[0x0112] = 3
    picture.transpose(Image.Transpose.ROTATE_180).save(folder / "turned.png", exif=exif)
    return folder / "turned.png"


def test_the_judge_sees_the_picture_as_people_do(tmp_path: Path) -> None:
    """Turned by EXIF, an array, a file: one and the same right picture."""
    upright, caption = _CAT.draw(), _CAT.caption(0)
    assert judge(upright, caption).obeyed
    path = _turned(upright, tmp_path)
    pixels = np.asarray(upright)
    for same in (path, str(path), Image.open(path), pixels, pixels / 255):
        assert judge(same, caption) == judge(upright, caption)
        assert ldmkit.score(same, caption) == 1.0


def test_the_judge_sees_transparency_on_white_and_deep_greys_whole() -> None:
    pixels, caption = np.asarray(_CAT.draw()), _CAT.caption(0)
    clear = (np.abs(pixels.astype(int) - pixels[0, 0]).sum(axis=2) < 30)[..., None]  # its ground
    hidden = np.dstack([np.where(clear, 0, pixels), np.where(clear, 0, 255)]).astype(np.uint8)
    white = Image.fromarray(np.where(clear, 255, pixels).astype(np.uint8))
    assert judge(Image.fromarray(hidden), caption) == judge(white, caption)
    assert judge(white, caption) != judge(Image.fromarray(hidden[..., :3]), caption)
    grey = np.asarray(_CAT.draw().convert("L"))
    with pytest.warns(UserWarning, match="mode I;16"):
        seen = judge(Image.fromarray(grey.astype(np.uint16) * 257), caption)
    assert seen == judge(Image.fromarray(grey), caption)


def test_bad_input_is_refused() -> None:
    with pytest.raises(UnknownWords, match="spaceship"):
        judge(_CAT.draw(), "a spaceship")
    with pytest.raises(TypeError, match=r"PIL image, a path, .* there is no file 'cat.png'"):
        judge("cat.png", "a cat")
    with pytest.raises(TypeError, match="PIL image, a path, an array or a tensor, got NoneType"):
        judge(None, "a cat")
    with pytest.raises(ValueError, match="got 1 pictures and 2 captions"):
        judge_many([_CAT.draw()], ["a cat", "a dog"])
    with pytest.raises(ValueError, match="40,000,000 pixels, this one has 10000 × 10000"):
        judge(Image.new("1", (10_000, 10_000)), "a cat")
