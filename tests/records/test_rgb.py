"""Pictures of every mode, size, turn and kind become upright RGB; what is none is refused."""

import io
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, features

from ldmkit.records.rgb import FORMATS, MAX_PIXELS, is_picture_like, to_rgb, upright

MODES = ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "LA", "La", "PA")
MODES = (*MODES, "RGBa", "RGBX")
DEEP = ("I", "F", "I;16", "I;16B", "I;16L")


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def quietly(picture, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return to_rgb(picture, **options)


@pytest.mark.parametrize("mode", MODES + DEEP)
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (64, 64)])
def test_every_mode_and_size(mode, size):
    shown = quietly(Image.new(mode, size))
    assert (shown.mode, shown.size) == ("RGB", size)
    assert max(quietly(Image.new(mode, size), side=2).size) == min(2, max(size))


def test_rgb_keeps_its_pixels_in_a_new_picture():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    mine = Image.fromarray(pixels)
    shown = to_rgb(mine)
    assert np.array_equal(np.asarray(shown), pixels)
    shown.putpixel((0, 0), (1, 2, 3))
    assert np.array_equal(np.asarray(mine), pixels)


def test_transparency_shows_white():
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    half.putpixel((1, 0), (255, 0, 0, 255))
    for one in (half, half.convert("RGBa"), Image.open(io.BytesIO(encoded(half)))):
        assert [to_rgb(one).getpixel(xy) for xy in ((0, 0), (1, 0))] == [(255,) * 3, (255, 0, 0)]
    palette = half.convert("RGB").quantize(4)
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("La", (1, 1), (0, 0))).getpixel((0, 0)) == (255, 255, 255)
    keyed = Image.open(io.BytesIO(encoded(Image.new("L", (1, 1), 7), transparency=7)))
    assert to_rgb(keyed).getpixel((0, 0)) == (255, 255, 255)


def test_the_key_of_a_sixteen_bit_grey_shows_white():
    deep = Image.fromarray(np.array([[0, 30_000]], np.uint16))
    deep.info["transparency"] = 0
    with pytest.warns(UserWarning, match="mode I;16"):
        shown = to_rgb(deep)
    assert [shown.getpixel((i, 0))[0] for i in range(2)] == [255, 117]


def test_exif_turn():
    picture = Image.new("RGB", (20, 10), "white")
    picture.paste("red", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it
    content = encoded(picture, "JPEG", exif=exif, quality=95)
    for one in (Image.open(io.BytesIO(content)), io.BytesIO(content)):
        shown = to_rgb(one)
        assert shown.size == (10, 20)
        red, white = shown.getpixel((5, 3)), shown.getpixel((5, 16))
        assert red[0] > 200 > 60 > red[1]
        assert min(white) > 200


@pytest.mark.parametrize(
    ("values", "want", "told"),
    [
        (np.array([[0, 65535]], np.uint16), (0, 255), "mode I;16 .* 0 became black and 65,535 wh"),
        (np.array([[0, 257]], np.uint16), (0, 1), "65,535 white"),  # dark, not stretched
        (np.array([[0.0, 1.0]], np.float32), (0, 255), "0 became black and 1 white"),
        (np.array([[-1.0, 0.0, 1.0]], np.float32), (0, 128), "-1 became black and 1 white"),
        (np.array([[0.0, 255.0]], np.float32), (0, 255), "0 became black and 255 white"),
        (np.array([[-50.0, 1000.0]], np.float32), (0, 255), "-50 became black and 1,000 white"),
        (np.array([[0, 200]], np.int32), (0, 200), "mode I .* 255 white"),
        (np.array([[0, 65535]], np.int32), (0, 255), "65,535 white"),
        (np.array([[np.nan, 1.0]], np.float32), (0, 255), "1 NaN are black"),
        (np.array([[-np.inf, np.inf, 0.5]], np.float32), (0, 255), "0 became black and 1 white"),
    ],
)
def test_more_than_eight_bits_are_scaled_and_told(values, want, told):
    with pytest.warns(UserWarning, match=told):
        shown = to_rgb(Image.fromarray(values))
    assert tuple(shown.getpixel((i, 0))[0] for i in range(2)) == want


# --- arrays --------------------------------------------------------------------------------------

RAMP = np.arange(120, dtype=np.uint8).reshape(5, 8, 3) * 2


@pytest.mark.parametrize(
    "same",
    [
        RAMP,
        RAMP[None],
        RAMP.astype(np.int64),
        RAMP / 255,
        (RAMP / 255).astype(np.float32),
        np.dstack([RAMP, np.full((5, 8), 255, np.uint8)]),
        RAMP[::-1][::-1],
    ],
)
def test_arrays(same):
    assert np.array_equal(np.asarray(to_rgb(same)), RAMP)


def test_arrays_of_one_channel():
    grey = RAMP[..., 0]
    want = grey[..., None].repeat(3, axis=2)
    for same in (grey, grey[..., None]):
        assert np.array_equal(np.asarray(to_rgb(same)), want)
    assert np.array_equal(np.asarray(to_rgb(grey > 50)), (want > 50) * 255)
    clear = np.dstack([grey, np.zeros_like(grey)])
    assert (np.asarray(to_rgb(clear)) == 255).all()
    with pytest.warns(UserWarning, match="16 bits .* 65,535 white"):
        assert np.array_equal(np.asarray(to_rgb(RAMP.astype(np.uint16) * 257)), RAMP)


def test_tensors():
    torch = pytest.importorskip("torch")
    first = torch.tensor(RAMP).permute(2, 0, 1)  # (3, h, w)
    halves = (first / 255).to(torch.bfloat16)
    for same in (
        first,
        first[None],
        first / 255,
        torch.tensor(RAMP),
        (first / 255).requires_grad_(),
    ):
        assert np.array_equal(np.asarray(to_rgb(same)), RAMP)
    assert np.abs(np.asarray(to_rgb(halves), int) - RAMP).max() <= 1
    assert to_rgb(torch.zeros(3, 7)).size == (7, 3)
    with pytest.raises(ValueError, match=r"as a tensor, got \(8, 3, 9\)"):
        to_rgb(torch.zeros(8, 3, 9))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (RAMP / 127.5 - 1, "floats from 0 to 1, got -1 to 0.8666667"),
        (RAMP.astype(float), "floats from 0 to 1, got 0 to 238"),
        (np.full((2, 2, 3), np.nan), "floats from 0 to 1, got nan to nan"),
        (np.full((2, 2, 3), np.inf), "floats from 0 to 1"),
        (RAMP.astype(int) - 1, "whole numbers from 0 to 255, got -1 to 237"),
        (RAMP.astype(int) * 2, "whole numbers from 0 to 255"),
        (RAMP.transpose(2, 0, 1), r"the shape \(h, w, 3\) as an array, got \(3"),
        (np.zeros(7), "the shape"),
        (np.zeros((2, 5, 5, 3)), "the shape"),
        (np.zeros(()), "the shape"),
        (np.zeros((0, 5, 3)), "1 to 40,000,000 pixels, this one has 5 × 0"),
        (np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (10**5, 10**5, 3), (0, 0, 0)),
         "this one has 100000 × 100000; make it smaller"),
    ],
)  # fmt: skip
def test_arrays_out_of_range(array, words):
    with pytest.raises(ValueError, match=words):
        to_rgb(array)


def test_a_networks_overshoot_is_no_fault():
    assert to_rgb(np.array([[-0.001, 1.0015]])).getpixel((1, 0)) == (255,) * 3


@pytest.mark.parametrize(
    "other",
    [None, 7, b"\x89PNG", [[0, 1]], {}, np.array([["a"]]), np.zeros((2, 2), "O")],
)
def test_not_a_picture(other):
    with pytest.raises(TypeError, match="A picture must"):
        to_rgb(other)


# --- files ---------------------------------------------------------------------------------------


def photo(size=(40, 30)):
    picture = Image.new("RGB", size, "navy")
    ImageDraw.Draw(picture).ellipse((5, 5, 30, 25), fill="orange")
    return picture


@pytest.mark.parametrize("kind", FORMATS)
def test_named_formats_from_a_path_and_from_bytes(tmp_path, kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this pillow has no AVIF")
    path = tmp_path / "a picture.of any ending"
    photo().save(path, kind)
    for one in (path, str(path), io.BytesIO(path.read_bytes()), Image.open(path)):
        shown = to_rgb(one)
        assert (shown.mode, shown.size) == ("RGB", (40, 30))
        assert np.abs(np.asarray(shown, int) - np.asarray(photo(), int)).mean() < 12
    assert is_picture_like(path)
    assert is_picture_like(str(path))


def test_no_other_format_is_opened(tmp_path, monkeypatch):
    """EPS would start Ghostscript."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("Ghostscript"))
    path = tmp_path / "cat.png"
    for kind in ("EPS", "PPM", "ICO", "PCX", "TGA"):
        photo().save(path, kind)
        for one in (path, io.BytesIO(path.read_bytes())):
            with pytest.raises(
                ValueError, match=r"none of PNG, JPEG.*save it again as PNG or JPEG"
            ):
                to_rgb(one)


def test_missing_files_and_folders(tmp_path):
    for words in ("a red cat", "a red cat " * 999, "a\0b"):
        with pytest.raises(TypeError, match="must be a PIL image, a path, an array or a tensor, "):
            to_rgb(words)
    with pytest.raises(FileNotFoundError, match=r"and there is no file 'a red cat'; open a file"):
        to_rgb(Path("a red cat"))
    with pytest.raises(ValueError, match="got the folder"):
        to_rgb(tmp_path)


def opened(content):
    """A lazily opened picture, if Image.open itself takes it."""
    try:
        return [Image.open(io.BytesIO(content))]
    except Exception:  # AVIF's RuntimeError, for one
        return []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_files_that_are_cut_off(kind):
    whole = encoded(Image.effect_noise((64, 64), 50).convert("RGB"), kind)
    for one in (io.BytesIO(whole[: len(whole) // 3]), *opened(whole[: 2 * len(whole) // 3])):
        with pytest.raises(ValueError, match=r"A picture can't be read: .*save it again") as caught:
            to_rgb(one)
        assert "\n" not in str(caught.value)


AVIF = encoded(photo(), "AVIF") if features.check("avif") else b""


@pytest.mark.skipif(not AVIF, reason="this pillow has no AVIF")
@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, len(AVIF) * 8 - 1))
@example(place=712)
def test_an_avif_with_one_bit_flipped_is_read_or_refused(place):
    damaged = bytearray(AVIF)
    damaged[place // 8] ^= 1 << place % 8
    for one in (io.BytesIO(damaged), *opened(bytes(damaged))):
        try:
            assert to_rgb(one).mode == "RGB"
        except ValueError as error:  # no RuntimeError, which is what the decoder raises
            assert re.search("make it smaller|save it again", str(error))  # noqa: PT017


def test_pictures_that_are_none_any_more(tmp_path):
    Image.effect_noise((200, 200), 50).save(tmp_path / "x.png")
    closed = Image.open(tmp_path / "x.png")
    closed.close()
    emptied = Image.open(tmp_path / "x.png")
    os.truncate(tmp_path / "x.png", 10_000)
    for one in (closed, emptied):
        with pytest.raises(
            ValueError, match=r"can't be read: this one is cut off, damaged, closed"
        ):
            to_rgb(one)
    palette = Image.new("P", (4, 4))
    palette.info["transparency"] = "junk"
    with pytest.raises(ValueError, match=r"can't be read: this one is cut off, damaged"):
        upright(palette)  # a record keeps its mode and draws it later
    for one in (Image.Image(), Image.new("RGB", (0, 4)), Image.new("L", (4, 0))):
        with pytest.raises(ValueError, match=r"1 to 40,000,000 pixels, this one has . × ."):
            to_rgb(one)


def test_over_40_megapixels_is_refused_before_it_is_decoded():
    assert to_rgb(Image.new("L", (8, 8)), max_pixels=64).size == (8, 8)
    with pytest.raises(ValueError, match=r"40,000,000 pixels, this one has 10000000 × 5"):
        to_rgb(Image.new("1", (MAX_PIXELS // 4, 5)))
    assert to_rgb(Image.new("1", (MAX_PIXELS // 4, 5)), max_pixels=None, side=8).size == (8, 1)


def test_side_makes_what_is_longer_smaller():
    assert to_rgb(photo((400, 200)), side=100).size == (100, 50)
    assert to_rgb(photo((40, 20)), side=100).size == (40, 20)
    big = photo((4000, 2000))
    assert to_rgb(io.BytesIO(encoded(big, "JPEG")), side=100).size == (100, 50)
    mine = Image.open(io.BytesIO(encoded(big, "JPEG")))
    to_rgb(mine, side=100)
    assert mine.size == (4000, 2000), "the reader's own picture stays"


def test_several_are_no_picture():
    assert not is_picture_like([photo()])
    assert not is_picture_like(np.zeros((2, 5, 5, 3)))
    assert is_picture_like(np.zeros((5, 5, 3)))
