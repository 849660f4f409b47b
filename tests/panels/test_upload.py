"""Start pictures of any mode, any size, any file."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from ldmkit.panels.upload import prepared, read_picture, uploaded

RED = (200, 30, 40)


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "P", "RGBX"])
def test_colours_survive_every_mode(mode):
    picture = Image.new("RGB", (8, 6), RED)
    picture = picture.quantize() if mode == "P" else picture.convert(mode)
    found = prepared(picture)
    assert (found.mode, found.size) == ("RGB", (8, 6))
    assert np.abs(np.asarray(found, int)[0, 0] - RED).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I", "F", "I;16"])
def test_grey_survives_every_mode(mode):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    picture = Image.fromarray(ramp)
    if mode in ("I", "F"):
        picture = Image.fromarray(ramp.astype({"I": np.int32, "F": np.float32}[mode]) * 40)
    elif mode == "I;16":
        picture = Image.fromarray(ramp.astype(np.uint16) * 257)
    else:
        picture = picture.convert(mode)
    assert picture.mode == mode
    found = np.asarray(prepared(picture), int)
    assert np.ptp(found, axis=2).max() == 0, "grey"
    assert (found.min(), found.max()) == (0, 255)
    if mode != "1":
        assert np.abs(found[0, :, 0] - np.arange(256)).max() <= 1


def test_transparency_stands_on_white():
    layer = Image.new("RGBA", (4, 4), (*RED, 0))
    assert prepared(layer).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4))
    palette.putpalette([*RED, 0, 0, 0])
    palette.info["transparency"] = 0
    assert prepared(palette).getpixel((0, 0)) == (255, 255, 255)


def test_exif_turns_it_upright():
    picture = Image.new("RGB", (8, 4), RED)
    picture.putpixel((0, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    found = read_picture("turned.png", encoded(picture, exif=exif))
    assert found.size == (4, 8)
    assert found.getpixel((3, 0)) == (0, 0, 255)


def test_large_pictures_are_made_smaller_and_huge_ones_refused():
    assert prepared(Image.new("RGB", (3000, 1500))).size == (1024, 512)
    with pytest.raises(ValueError, match=r"40 million pixels, this one has 10000 × 5000"):
        prepared(Image.new("1", (10_000, 5_000)))


def png_header(width, height):
    """A PNG that claims a size and holds nothing."""
    chunk = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    crc = zlib.crc32(chunk).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + b"\0\0\0\r" + chunk + crc + b"\0\0\0\0IDAT"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "'it.png' is none that can be read; save it as PNG or JPEG"),
        (b"no picture at all", "is none that can be read"),
        (encoded(Image.effect_noise((64, 64), 50))[:500], "is none that can be read"),
        (png_header(9_000, 9_000), "has 9000 × 9000; make it smaller"),
        (png_header(60_000, 60_000), "has more than 40 million pixels; make it smaller"),
        (bytes(20_000_001), "may have 20 MB, 'it.png' has 20 MB; make it smaller"),
    ],
    ids=["empty", "text", "cut off", "large", "bomb", "heavy"],
)
def test_what_is_no_picture_is_refused_in_one_sentence(content, words):
    with pytest.raises(ValueError, match="start picture") as raised:
        read_picture("it.png", content)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_jpeg_and_the_first_frame_of_an_animation():
    noise = Image.effect_noise((300, 200), 30).convert("RGB")
    assert read_picture("a.jpg", encoded(noise, "JPEG")).size == (300, 200)
    frames = [Image.new("P", (6, 6), i) for i in range(3)]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_picture("a.gif", gif).size == (6, 6)


def test_uploads_of_both_ipywidgets():
    assert uploaded({}) is uploaded(()) is None
    assert uploaded({"a.png": {"metadata": {"name": "a.png"}, "content": b"x"}}) == ("a.png", b"x")
    assert uploaded(({"name": "a.png", "content": memoryview(b"x")},)) == ("a.png", b"x")
