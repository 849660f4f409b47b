"""Checked values and sentences: what is refused, in which words, and who hears what is told."""

import threading
import warnings

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldmkit import check
from ldmkit.check import cut, heard_by, plain, say, short


def test_a_warning_where_nobody_listens():
    def caller():
        say("mind this", stacklevel=1)

    with pytest.warns(UserWarning, match="^mind this$") as caught:
        caller()
    assert caught[0].filename == __file__


def test_a_listener_hears_it_and_only_in_its_thread():
    heard, elsewhere = [], []

    def other():
        try:
            say("from the other thread", stacklevel=1)
        except UserWarning as warning:
            elsewhere.append(str(warning))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with heard_by(heard.append):
            say("one", stacklevel=1)
            with heard_by(lambda words: None):
                say("two", stacklevel=1)
            say("three", stacklevel=1)
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        with pytest.raises(UserWarning, match="four"):
            say("four", stacklevel=1)
    assert heard == ["one", "three"]
    assert elsewhere == ["from the other thread"]


class Shy:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a" * 100, "'" + "a" * 56 + "..."),
        (7, "7"),
        (10**5000, "a value of type int"),
        (Shy(), "a value of type Shy"),
    ],
    ids=["text", "number", "huge", "shy"],
)
def test_a_value_fits_into_a_sentence(value, words):
    assert check.short(value) == words


@pytest.mark.parametrize("value", [3, np.int64(3), np.array(3), torch.tensor(3)])
def test_whole_numbers_of_every_make_become_plain(value):
    found = check.whole("steps", value, 1, 9)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize(
    "value", [None, True, np.True_, 2.0, "2", [], [2], np.arange(2), torch.ones(2)]
)
def test_what_is_no_whole_number(value):
    with pytest.raises(TypeError, match=r"^steps must be a whole number between 1 and 9, got "):
        check.whole("steps", value, 1, 9)


@pytest.mark.parametrize(
    ("least", "most", "rule"),
    [(1, 9, "between 1 and 9 inclusive"), (1, None, "1 or more"), (None, -1, "-1 at most")],
)
@pytest.mark.parametrize("check_one", [check.whole, check.number])
def test_the_range_is_told(least, most, rule, check_one):
    value = 0
    with pytest.raises(ValueError, match=f"^x must be {rule}, got 0"):
        check_one("x", value, least, most)


@pytest.mark.parametrize("value", [10**400, float("inf"), float("nan"), np.float32("nan")])
def test_a_number_is_finite(value):
    with pytest.raises(ValueError, match=r"^x must be a finite number, got .*; give one like 4\.0"):
        check.number("x", value, like="4.0")


@pytest.mark.parametrize("value", [None, True, "4", [], 1j])
def test_what_is_no_number(value):
    with pytest.raises(TypeError, match=r"^x must be a number, got "):
        check.number("x", value)


def test_numbers_become_plain():
    assert type(check.number("x", np.float32(0.5))) is float
    assert check.number("x", 2, 0, 2) == 2.0


@pytest.mark.parametrize("value", ["slrp", None, 3, ["slerp"]])
def test_one_of_a_few_names(value):
    with pytest.raises(ValueError, match=r"^method must be one of slerp, lerp, got "):
        check.choice("method", value, ("slerp", "lerp"))


def test_the_nearest_name_is_told():
    with pytest.raises(ValueError, match="did you mean 'slerp'"):
        check.choice("method", "slrp", ("slerp", "lerp"))
    assert check.choice("method", "lerp", ("slerp", "lerp")) == "lerp"
    assert check.did_you_mean("zzz", ("slerp",), "take it.") == "take it."


def test_a_function_or_nothing():
    assert check.function("on_step", None) is None
    assert check.function("on_step", print) is print
    assert check.function("on_frame", lambda number, picture, more=3: 0)
    with pytest.raises(TypeError, match=r"on_frame is called with \(number, picture\), which"):
        check.function("on_frame", lambda number: 0)
    with pytest.raises(TypeError, match=r"^on_step must be a function or None, got 3"):
        check.function("on_step", 3)


@pytest.mark.parametrize(
    ("words", "limit", "want"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdef", 5, "abcd…"),
        ("abc  def", 6, "abc…"),
        ("ab👨‍👩‍👧", 5, "ab…"),
        ("ab👩🏽", 3, "ab…"),
        ("abकि!", 4, "ab…"),
        ("e\u0301f\u0301x", 4, "e\u0301…"),
        ("\u0301" * 99, 30, "\u0301" * 29 + "…"),
        ("ab", 1, "…"),
    ],
)
def test_cut_takes_no_letter_apart(words, limit, want):
    assert cut(words, limit) == want
    assert len(cut(words, limit)) <= limit


@given(st.text(max_size=60), st.integers(1, 60))
def test_cut_keeps_the_limit(words, limit):
    assert len(cut(words, limit)) <= limit


def test_plain_is_plain_at_once():
    """Twice does no more than once, all of it is UTF-8, and only what steers goes."""
    for words in ("a\ud800\x1b\x9b\u202e", "\u202b\u2066 x", "می‌خواهم 👨‍👩‍👧 \U0003347a\t\n"):
        assert plain(plain(words)) == plain(words)
        plain(words).encode()
    assert plain("می‌خواهم 👨‍👩‍👧 \U0003347a\t\n") == "می‌خواهم 👨‍👩‍👧 \U0003347a\t\n"
    assert plain("a\ud800\x1b\x9b\u202e\r\x7f") == "a\ufffd\ufffd\ufffd\ufffd\r\ufffd"


def test_short_is_one_line():
    assert short([[1, 2], "a\nb"]) == "[[1, 2], 'a\\nb']"

    class Tall:
        def __repr__(self):
            return "one\n    two"

    assert short(Tall()) == "one two"


def test_of_a_pipeline_its_kind_is_told_not_its_configuration():
    assert check.short(tiny.pipeline(size="small")) == "StableDiffusionPipeline"


@pytest.mark.parametrize(
    ("answer", "no"),
    [(False, True), (np.False_, True), (True, False), (None, False), (0, False), ("", False)],
)
def test_only_false_says_no(answer, no):
    assert check.says_no(answer) is no
