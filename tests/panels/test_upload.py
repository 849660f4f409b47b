"""Uploaded pictures: what the widgets hold, and what is refused. (Modes and kinds: test_rgb.)"""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from ldmkit.panels.upload import KEPT_SIDE, read_picture, uploaded

RED = (200, 30, 40)


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_exif_turns_it_upright():
    picture = Image.new("RGB", (8, 4), RED)
    picture.putpixel((0, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    found = read_picture("turned.png", encoded(picture, exif=exif))
    assert found.size == (4, 8)
    assert found.getpixel((3, 0)) == (0, 0, 255)


def test_large_pictures_are_made_smaller():
    assert read_picture("a", encoded(Image.new("RGB", (3000, 1500)))).size == (KEPT_SIDE, 512)


def png_header(width, height):
    """A PNG that claims a size and holds nothing."""
    chunk = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    crc = zlib.crc32(chunk).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + b"\0\0\0\r" + chunk + crc + b"\0\0\0\0IDAT"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "can't be read: 'it.png' is cut off, damaged, closed or none of PNG, JPEG"),
        (b"no picture at all", "save it again as PNG or JPEG"),
        (encoded(Image.effect_noise((64, 64), 50))[:500], "'it.png' is cut off"),
        (encoded(Image.new("RGB", (8, 8)), "EPS"), "'it.png' is cut off"),
        (png_header(9_000, 9_000), "'it.png' has 9000 × 9000; make it smaller"),
        (png_header(13_000, 13_000), "'it.png' has 13000 × 13000; make it smaller"),
        (png_header(60_000, 60_000), "'it.png' has many more; make it smaller"),
        (bytes(20_000_001), "may have 20 MB, 'it.png' has 20 MB; make it smaller"),
    ],
    ids=["empty", "text", "cut off", "eps", "large", "warned of", "bomb", "heavy"],
)
def test_what_is_no_picture_is_refused_in_one_sentence(content, words):
    with pytest.raises(ValueError, match="A start picture") as raised:
        read_picture("it.png", content)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_jpeg_and_the_first_frame_of_an_animation():
    noise = Image.effect_noise((300, 200), 30).convert("RGB")
    assert read_picture("a.jpg", encoded(noise, "JPEG")).size == (300, 200)
    frames = [Image.new("P", (6, 6), i) for i in range(3)]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_picture("a.gif", gif).size == (6, 6)


def test_a_deep_upload_is_scaled_and_told():
    deep = encoded(Image.fromarray(np.array([[0, 65535]], np.uint16)))
    with pytest.warns(UserWarning, match="A start picture of mode I;16"):
        assert read_picture("deep.png", deep).getpixel((1, 0)) == (255, 255, 255)


def test_uploads_of_both_ipywidgets():
    assert uploaded({}) is uploaded(()) is None
    assert uploaded({"a.png": {"metadata": {"name": "a.png"}, "content": b"x"}}) == ("a.png", b"x")
    assert uploaded(({"name": "a.png", "content": memoryview(b"x")},)) == ("a.png", b"x")
