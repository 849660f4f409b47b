"""Pictures of every mode, size and turn become upright RGB; what is none is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from ldmkit.records.rgb import MAX_PIXELS, to_rgb

MODES = ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "La", "PA")
MODES = (*MODES, "RGBa", "RGBX", "I;16", "I;16B", "I;16L")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (64, 64)])
def test_every_mode_and_size(mode, size):
    shown = to_rgb(Image.new(mode, size))
    assert (shown.mode, shown.size) == ("RGB", size)


def test_rgb_keeps_its_pixels_in_a_new_picture():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    given = Image.fromarray(pixels)
    shown = to_rgb(given)
    assert np.array_equal(np.asarray(shown), pixels)
    shown.putpixel((0, 0), (1, 2, 3))
    assert np.array_equal(np.asarray(given), pixels)


def test_transparency_shows_white():
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    half.putpixel((1, 0), (255, 0, 0, 255))
    assert [to_rgb(half).getpixel(xy) for xy in ((0, 0), (1, 0))] == [(255,) * 3, (255, 0, 0)]
    palette = half.convert("RGB").quantize(4)
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_exif_turn():
    picture = Image.new("RGB", (20, 10), "white")
    picture.paste("red", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it
    file = io.BytesIO()
    picture.save(file, "JPEG", exif=exif, quality=95)
    shown = to_rgb(Image.open(file))
    assert shown.size == (10, 20)
    red, white = shown.getpixel((5, 3)), shown.getpixel((5, 16))
    assert red[0] > 200 > 60 > red[1]
    assert min(white) > 200


@pytest.mark.parametrize(
    ("values", "want"),
    [
        (np.array([[0, 65535]], np.uint16), (0, 255)),
        (np.array([[0.0, 1.0]], np.float32), (0, 255)),
        (np.array([[0.0, 255.0]], np.float32), (0, 255)),
        (np.array([[0, 200]], np.int32), (0, 200)),
        (np.array([[np.nan, 1.0]], np.float32), (0, 255)),
    ],
)
def test_deep_greys(values, want):
    shown = to_rgb(Image.fromarray(values))
    assert tuple(shown.getpixel((i, 0))[0] for i in range(2)) == want


@pytest.mark.parametrize("other", [None, "cat.png", b"\x89PNG", np.zeros((8, 8, 3)), 7])
def test_not_a_picture(other):
    with pytest.raises(TypeError, match="must be a PIL image, got"):
        to_rgb(other)


def test_over_40_megapixels_is_refused_before_it_is_decoded():
    huge = Image.new("1", (MAX_PIXELS // 4, 4))
    assert to_rgb(Image.new("L", (8, 8)), max_pixels=64).size == (8, 8)
    with pytest.raises(ValueError, match=r"40,000,000 pixels, got 10000000 × 5"):
        to_rgb(Image.new("1", (huge.width, 5)))


def test_a_file_that_is_cut_off():
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "JPEG")
    cut = Image.open(io.BytesIO(file.getvalue()[:900]))
    with pytest.raises(ValueError, match=r"can't be read .*save it again"):
        to_rgb(cut)
