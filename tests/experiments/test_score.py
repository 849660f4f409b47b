"""``score``: the judge where it knows the words, the CLIP cosine where one is given."""

import numpy as np
import pytest
from PIL import Image

import ldmkit
from ldmkit.critters import Scene, UnknownWords
from ldmkit.experiments.score import scorer_of

SEED = 400_000


@pytest.fixture(scope="module")
def drawn():
    scenes = [Scene.sample(seed, held_out=False) for seed in range(SEED, SEED + 12)]
    return [scene.draw() for scene in scenes], [
        scene.caption(seed) for seed, scene in enumerate(scenes, SEED)
    ]


def test_a_drawing_obeys_its_caption_and_not_another(drawn):
    pictures, captions = drawn
    own = [ldmkit.score(p, c) for p, c in zip(pictures, captions, strict=True)]
    other = [ldmkit.score(p, c) for p, c in zip(pictures, captions[1:] + captions[:1], strict=True)]
    assert set(own + other) <= {0.0, 1.0}
    assert np.mean(own) > 0.8
    assert np.mean(other) < 0.2


def test_many_are_scored_as_one(drawn):
    pictures, captions = drawn
    scorer = scorer_of(captions)
    assert scorer.measure == "obedience"
    assert scorer.of(pictures, captions) == [
        ldmkit.score(p, c) for p, c in zip(pictures, captions, strict=True)
    ]


def test_clip_cosine_is_the_spaces_own(drawn):
    (picture, other), (caption, _) = drawn[0][:2], drawn[1][:2]
    clip = ldmkit.clip_space("critters")
    want = clip.encode_image(picture).similarity(clip.encode_text(caption))
    assert ldmkit.score(picture, caption, clip=clip) == pytest.approx(want, abs=1e-6)
    assert ldmkit.score(picture, caption, clip="critters") == pytest.approx(want, abs=1e-6)
    assert want > ldmkit.score(other, caption, clip=clip)
    assert scorer_of([caption], clip).measure == "CLIP cosine"
    assert -1 <= ldmkit.score(picture, "an oil painting of Paris", clip=clip) <= 1


def test_unknown_words_say_what_to_do_next():
    with pytest.raises(ValueError, match=r"'elefant' \(nearest: .*give clip=") as raised:
        ldmkit.score(Image.new("RGB", (8, 8)), "a red elefant")
    assert not isinstance(raised.value, UnknownWords)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    ("picture", "caption", "words"),
    [
        (None, "a red cat", "must be a PIL image, a path, an array or a tensor, got NoneType"),
        (Image.new("RGB", (8, 8)), 3, "caption must be a string, got 3"),
    ],
)
def test_refuses(picture, caption, words):
    with pytest.raises(TypeError, match=words):
        ldmkit.score(picture, caption)
