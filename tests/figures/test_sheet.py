"""The one contact sheet and the one ladder of WebP, of any pictures."""

import numpy as np
import pytest
from PIL import Image
from tiny import picture

from ldmkit.figures.sheet import SheetRow, Tile, contact_sheet
from ldmkit.figures.webp import LADDER, fit, spread

WHITE = Tile(Image.new("RGB", (40, 40), "white"))


def bands(sheet, left=0, right=120):
    """Where ink stands: the first row of pixels of each run of them."""
    inked = (np.asarray(sheet.convert("L"))[:, left:right] < 200).any(axis=1)
    return np.flatnonzero(np.diff(inked.astype(int), prepend=0) == 1)


def test_words_stand_above_their_group_and_under_their_tile():
    rows = [SheetRow([WHITE], group="l"), SheetRow([WHITE]), SheetRow([WHITE], group="l")]
    places = bands(contact_sheet("", "", rows, side=40))
    first, second = places  # the second row has no group: nothing is written
    assert 16 <= first < 16 + 22
    assert second - first == 3 * 46 + 22 - 46
    under = bands(contact_sheet("", "", [SheetRow([Tile(None, "l")])], side=40))
    assert len(under) == 1
    assert 16 + 40 <= under[0] < 16 + 40 + 14


def test_tiles_stand_where_they_belong():
    tiles = [Tile(Image.new("RGB", (40, 30), colour)) for colour in ("red", "lime", "blue")]
    aside = Tile(Image.new("RGB", (80, 80), "black"))
    sheet = contact_sheet("", "", [SheetRow(tiles), SheetRow(tiles[:1])], side=40, aside=aside)
    pixel = sheet.getpixel
    assert [pixel((16 + 46 * k, 16)) for k in range(3)] == [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
    ]
    assert pixel((16, 16 + 30 + 6)) == (255, 0, 0)  # a row is as high as its pictures
    assert pixel((16 + 3 * 46 - 6 + 12, 16)) == (0, 0, 0)
    assert pixel((sheet.width - 1, 16)) == (255, 255, 255)


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_a_spread_holds_both_ends(count):
    for most in (1, 2, 5, 100):
        chosen = spread(count, most)
        assert (chosen[0], chosen[-1]) == (0, count - 1)
        assert len(chosen) <= max(2, most)
    assert spread(0, 5) == []


@pytest.mark.parametrize("limit", [400_000, 100_000, 12_000])
def test_no_ladder_ends_above_its_limit(limit):
    # Every second picture is tried first, and those say nothing of the others here.
    smooth, rough = Image.new("RGB", (300, 200), "red"), picture(0, (300, 200))
    lanes = {"even": [smooth, rough] * 4 + [smooth], "rough": [rough] * 9}
    fitted = fit(lanes, limit, side=512)
    sizes = [len(one) for own in fitted.pictures.values() for one in own.values()]
    assert 0 < sum(sizes) <= limit
    assert fitted.shrunk == (fitted.rung is not LADDER[0])
    for own in fitted.pictures.values():
        assert list(own) == fitted.rung.chosen(9)
