"""``WalkView``: what crosses to the browser once, and the stand-in; tests/browser drags it."""

import io

import numpy as np
import pytest
from PIL import Image

from ldmkit.panels.walk_view import SIDE, Shown, WalkView

HOSTILE = "<img src=x onerror=alert(1)>\u2028</script>"


@pytest.fixture
def view():
    return WalkView()


def picture(shade=0, size=(32, 24)):
    return Image.new("RGB", size, (shade, 10, 200 - shade))


def shown(count=4, total=None, **more):
    total = count if total is None else total
    t = np.linspace(0, 1, total).tolist()
    labels = [f"label {i}" for i in range(total)]
    pictures = [picture(40 * i) for i in range(count)]
    return Shown(pictures, total, t, "t", labels, **more)


def frames(made):
    """The pictures as a browser gets them."""
    view = WalkView()
    view.show(made)
    sent = [getattr(view._view, f"frame_{i}") for i in range(view._view.count)]
    return [Image.open(io.BytesIO(one)).convert("RGB") for one in sent]


def test_small_pictures_cross_to_the_bit():
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 48, 3), dtype=np.uint8) for _ in range(3)]
    made = Shown([Image.fromarray(one) for one in noise], 3, [0, 0.5, 1], "t", ["a", "b", "c"])
    for one, back in zip(noise, frames(made), strict=True):
        assert np.array_equal(one, np.asarray(back))


@pytest.mark.parametrize(("size", "sent"), [((2000, 1000), (SIDE, 256)), ((1, 1), (1, 1))])
def test_large_pictures_are_made_smaller(size, sent):
    one = picture(size=size)
    made = Shown([one], 1, [0], "t", [""])
    (back,) = frames(made)
    assert (back.size, one.size) == (sent, size)
    assert np.abs(np.subtract(back.getpixel((0, 0)), one.getpixel((0, 0)))).max() <= 8


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_pictures_of_any_mode(mode):
    made = Shown([picture().convert(mode)], 1, [0], "t", [""])
    assert frames(made)[0].mode == "RGB"


def test_words_of_each_place():
    made = shown(
        3,
        verdicts=["a red cat\nand a hat", "a dog"],
        nearest=[[("a cat", 0.98765)], [("b" * 200, -0.5)]],
        title=" two\nlines ",
        details=["slerp", "seed 3"],
    )
    data = made.data()
    first, second, third = data["places"]
    assert first == {
        "place": "t = 0",
        "label": "label 0",
        "seen": "a red cat\nand a hat",
        "nearest": [["a cat", 0.988]],
    }
    assert len(second["nearest"][0][0]) == 80
    assert (third["seen"], third["nearest"], third["place"]) == ("", [], "t = 1")
    assert (data["title"], data["details"], data["plane"]) == ("two lines", "slerp · seed 3", {})


def test_a_label_that_is_the_place_is_said_once():
    made = Shown([picture()] * 2, 2, [0, 0.4], "θ", ["θ = 0", "θ = 0.4 and more"])
    assert [place["place"] for place in made.data()["places"]] == ["", "θ = 0.4"]


def test_pictures_come_one_by_one(view):
    assert "ldm-empty" in view._dom_classes
    for count in (1, 2, 4):
        view.show(shown(count, total=4))
        assert "ldm-empty" not in view._dom_classes
        assert (view._view.data["total"], view._view.count) == (4, count)
        assert len(view._view.data["places"]) == 4
        assert all(getattr(view._view, f"frame_{i}") for i in range(count))
    view.show(Shown())
    assert "ldm-empty" in view._dom_classes


def test_one_message_for_words_and_pictures(view, monkeypatch):
    sent = []
    monkeypatch.setattr(view._view, "send_state", lambda key=None: sent.append(set(key)))
    view.show(shown(4))
    assert sent == [{"data", "count", "frame_0", "frame_1", "frame_2", "frame_3"}]


def test_a_place_is_linked_and_stays_in_a_shorter_walk(view):
    view.show(shown(6))
    view._view.place = 5  # the browser's slider rests
    assert (view.place, view._slider.value) == (5, 5)
    view.place = 4
    assert (view._view.place, view._slider.value) == (4, 4)
    view.show(shown(3))
    assert (view.place, view._view.place, view._slider.value, view._slider.max) == (2, 2, 2, 2)
    view.show(shown(6))
    assert (view.place, view._slider.max) == (2, 5)


def test_the_stand_in_shows_the_place_in_plain_widgets(view):
    words = [HOSTILE] * 3
    t = [0, 0.5, 1]
    made = Shown(
        [picture(0), picture(90), picture(180)],
        3,
        t,
        "t",
        words,
        verdicts=words,
        nearest=[[(HOSTILE, 0.5)]] * 3,
        title=HOSTILE,
    )
    view.show(made)
    seen = []
    for i in range(3):
        view._slider.value = i
        seen.append(Image.open(io.BytesIO(view._image.value)).convert("RGB").getpixel((0, 0)))
        assert f"t = {t[i]:.2g}" in view._words.value
    assert seen == [one.getpixel((0, 0)) for one in made.pictures]
    assert "<img" not in view._words.value
    assert view._words.value.count("&lt;img src=x") == 3
    assert "(0.50)" in view._words.value


def test_the_stand_in_goes_when_a_view_stands(view):
    view.show(shown(3))
    before = view._image.value
    view._view.awake = True
    assert view._stock.layout.display == "none"
    view.place = 2  # nothing is drawn for nobody
    assert view._image.value == before


def test_letting_go(view):
    view.show(shown(3))
    view.clear()
    assert view._frames == []
    view.place = 1  # without pictures nothing is drawn
