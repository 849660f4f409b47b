"""``decided``: words changed at each step, and what the picture still takes of the new ones."""

import re

import numpy as np
import pytest
import tiny
from PIL import Image
from tiny_encoders import same

import ldmkit
from ldmkit.critters.judging import judge
from ldmkit.experiments.decided import _half, decided
from ldmkit.records import Grid

FIRST, SECOND = "a red cat", "a blue dog"


@pytest.fixture(scope="module")
def critters():
    return ldmkit.load("critters")


@pytest.fixture(scope="module")
def grid(critters):
    options = {"swap_at": (0, 3, 6), "seeds": (500000, 500001), "num_inference_steps": 6}
    return decided(critters, FIRST, SECOND, **options)


def test_the_ends_are_runs_with_the_one_or_the_other_words(critters, grid):
    assert grid.axes == {"swap_at": (0, 3, 6), "seed": (500000, 500001)}
    for step, words in ((0, SECOND), (6, FIRST)):
        # The batch is the same: a picture of its own rounds otherwise.
        seeds = [500000, 500001]
        whole = ldmkit.record(
            critters, [words] * 2, seed=seeds, num_inference_steps=6, preview="none"
        )
        for one, other in zip(grid.select(swap_at=step).images, whole.images, strict=True):
            assert np.abs(np.asarray(one, float) - np.asarray(other, float)).max() <= 1
    assert not same(grid.select(swap_at=3, seed=500000).image, grid.images[0])


def test_each_attribute_is_the_judges(grid):
    assert set(grid.shares) == {"animal", "colour"}
    for image, animal, score in zip(
        grid.images, grid.values["animal"], grid.values["score"], strict=True
    ):
        verdict = judge(image, SECOND)
        assert animal == float(verdict["animal"].obeyed)
        assert score == float(verdict.obeyed)
    told = grid.call["decided"]
    assert (told["first"], told["second"]) == (FIRST, SECOND)
    assert set(told["half"]) == {"animal", "colour"}
    for name, half in told["half"].items():
        assert half is None or 0 <= half <= 6
        row = next(grid.rows())
        assert row[name] == grid.select(swap_at=0).values[name].mean()


def test_it_shows_and_keeps_itself(grid, tmp_path):
    figure = grid.figure()
    legend = [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]
    half = grid.call["decided"]["half"]["animal"]
    assert legend[0] == (f"animal: half-way at step {half:g}" if half else "animal: no half-way")
    again = Grid.open(grid.save(tmp_path / "grid.safetensors"))
    assert again.shares == grid.shares
    assert "a red cat → a blue dog" in again._repr_mimebundle_()["text/html"]


def test_half_way():
    shares = np.array([[1, 1], [1, 1], [1, 0], [0, 0]], float)
    assert _half((0, 4, 8, 12), shares, 0.2) == 8
    assert _half((12, 8, 4, 0), shares[::-1], 0.2) == 8  # in any order
    shares[2] = [0, 0]
    assert _half((0, 4, 8, 12), shares, 0.2) == 6
    assert _half((0, 4), np.ones((2, 2)), 0.2) is None
    assert _half((0, 4), np.full((2, 2), np.nan), 0.2) is None


def test_a_stop_keeps_the_part(critters):
    options = {"swap_at": (0, 1), "seeds": (1, 2), "num_inference_steps": 2, "batch_size": 1}
    part = decided(critters, FIRST, SECOND, on_update=lambda told: False, **options)
    assert [image is not None for image in part.images] == [True, False, False, False]
    assert np.isnan(part.values["animal"][1:]).all()


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        ({"swap_at": [99]}, ValueError, "between 0 and 32"),
        ({"swap_at": []}, ValueError, "different steps, got []"),
        ({"seeds": [1, 1]}, ValueError, "different whole numbers"),
        ({"swop_at": [1]}, TypeError, "did you mean 'swap_at'"),
        ({"second": FIRST}, ValueError, "must differ"),
        ({"second": 3}, TypeError, "second must be words"),
        ({"second": "a zebra"}, ValueError, "give clip="),
    ],
)
def test_refusals(critters, call, error, told):
    with pytest.raises(error, match=re.escape(told)):
        decided(critters, FIRST, **{"second": SECOND, **call})


def test_other_models_by_the_cosine():
    pipe = tiny.pipeline(size="small")
    grid = decided(
        pipe, "zebra", "yak", swap_at=(0, 2), seeds=(1,), num_inference_steps=2, clip="critters"
    )
    assert grid.measure == "CLIP cosine"
    assert grid.shares == ("words",)
    space = ldmkit.clip_space("critters")
    image = space.encode_image(grid.images[0])
    cosine = [image.similarity(space.encode_text(words)) for words in ("yak", "zebra")]
    assert np.isclose(grid.values["words"][0], cosine[0] - cosine[1], atol=1e-5)
    assert isinstance(grid.images[0], Image.Image)
