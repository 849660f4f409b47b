"""Records in words, and words on their way into HTML."""

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records.make import make

from ldmkit.figures.captions import alt_text, details, prompt_of
from ldmkit.figures.html import json_script, shorten, text
from ldmkit.figures.sheet import sheet_html

HOSTILE = "</script><script>alert(1)</script><!--<script></style><img src=x onerror=a()>\"'&\u2028"


class Reader(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_data(self, data):
        self.text += data


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_text_and_attribute_come_back_as_they_were(words):
    reader = Reader()
    reader.feed(f'<p title="{text(words)}">{text(words)}</p>')
    reader.close()
    assert reader.tags == ["p"]
    steered = set(words) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068")
    assert reader.attributes == [{"title": words}] or steered
    assert reader.text == words or steered


@pytest.mark.parametrize(
    "words",
    [
        "می‌خواهم",  # a joiner that parts, inside a Persian word
        "क्‍षत्रिय",  # and one that joins, in Hindi
        "👨‍👩‍👧‍👦 ❤️‍🔥 👩🏽‍🚀",
        "\U00016ea0\U0003347a",  # letters of Unicode 17 and of no Unicode yet
        "\ue000\u00ad\ufeff\u200e\u200f",  # private, soft, and marks of direction
        "\u2067עברית\u2069 abc",
    ],
)
def test_letters_of_all_scripts_stay(words):
    assert text(words).rstrip("\u2069") == words
    assert shorten(words, 99).rstrip("\u2069") == words
    traj = make(2, prompt=words)
    assert words in alt_text(traj, "denoised", 0)
    assert words in "".join(sheet_html(traj))


def test_a_change_of_direction_ends_with_the_words():
    assert text("\u202b\u2067abc") == "\u202b\u2067abc\u202c\u2069"
    assert text(text("\u202babc")) == "\u202babc\u202c"
    assert text("gpj\u202eexe\u202d") == "gpj\ufffdexe\ufffd"


def test_pairs_of_surrogates_are_joined():
    assert text("\ud83e\udd8a") == "🦊"


def test_characters_that_utf8_or_a_page_cannot_hold_are_replaced():
    assert text("a\ud800b\x00c\x1b") == "a\ufffdb\ufffdc\ufffd"


@given(st.recursive(st.text() | st.integers(), lambda x: st.dictionaries(st.text(), x)))
def test_json_in_a_script_comes_back_and_ends_no_script(value):
    dumped = json_script(value)
    assert json.loads(dumped) == value
    assert not set("<>&\u2028\u2029") & set(dumped)


def test_json_of_the_hostile_prompt():
    assert json.loads(json_script([HOSTILE])) == [HOSTILE]
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_script(float("nan"))


@given(st.text(), st.integers(1, 50))
def test_shorten_keeps_the_limit_and_one_line(words, limit):
    short = shorten(words, limit)
    assert len(short) <= limit
    assert "\n" not in short


def test_details():
    assert details(make(8)) == ["critters", "seed 7", "8 steps", "guidance 4", "DDIM"]
    heun = make(
        19,
        call={"num_inference_steps": 10, "scheduler": "HeunDiscreteScheduler"},
        negative_prompt="blurry",
        seed=None,
        model="",
    )
    assert details(heun) == ["10 steps in 19 calls", "HeunDiscrete", "not “blurry”"]
    stopped = make(3, call={"num_inference_steps": 10}, stopped=True, seed=(4, 5), batch=2)
    assert details(stopped, 1) == ["critters", "seed 5", "stopped after 3 of 10 steps"]


def test_details_of_odd_values_stay_short():
    odd = make(2, call={"num_inference_steps": "x" * 999, "guidance_scale": [1] * 999})
    assert max(map(len, details(odd))) < 80


def test_prompts_of_a_batch():
    traj = make(2, batch=4, prompt=("a cat", "a dog"))  # num_images_per_prompt=2
    assert [prompt_of(traj, b) for b in range(4)] == ["a cat", "a cat", "a dog", "a dog"]


def test_alt_text():
    assert (
        alt_text(make(8, prompt="a cat"), "denoised", 4) == "Clean estimate at step 5 of 8: a cat"
    )
    assert alt_text(make(8, prompt=""), "noise_pred", 0).endswith("step 1 of 8: no prompt")


def test_a_picture_of_an_embedding_says_of_whose():
    call = {"embedding": "a red cat − a hat", "noise_level": 300}
    traj = make(prompt="", call=call)
    assert prompt_of(traj) == "embedding of a red cat − a hat"
    assert "embedding of a red cat − a hat" in alt_text(traj, "denoised", 0)
    assert "noise level 300" in details(traj)
    assert prompt_of(make(prompt="", call={"embedding": ""})) == "an embedding"
    both = make(prompt="in the snow", call=call)
    assert prompt_of(both) == "in the snow, with the embedding of a red cat − a hat"


def test_each_picture_of_a_batch_has_its_embedding():
    traj = make(prompt="", batch=2, call={"embedding": ["a cat", "a dog"]})
    assert [prompt_of(traj, i) for i in range(2)] == ["embedding of a cat", "embedding of a dog"]
    odd = make(prompt="", batch=2, call={"embedding": [{"<b>": 1}]})
    assert prompt_of(odd, 1).startswith("embedding of {")
