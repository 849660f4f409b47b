"""What of the words reached each text encoder is told by name and number, for every family."""

import logging
import re
import threading
import time
import warnings

import pytest
import tiny
import tiny_encoders
import torch
from tiny_encoders import long

import ldmkit
from ldmkit.check import heard_by
from ldmkit.recording import record
from ldmkit.recording.words import Heard, heard

SIZE = {"height": 32, "width": 32}
QUICK = {"num_inference_steps": 2, "preview": "none", "seed": 1}


def sentences(pipe, prompt, **call):
    said = []
    with heard_by(said.append):
        record(pipe, prompt, **QUICK, **call)
    return said


@pytest.fixture(scope="module")
def sd():
    return tiny.pipeline(size="small")


@pytest.fixture(scope="module")
def sdxl():
    return tiny_encoders.sdxl()


@pytest.fixture(scope="module")
def sd3():
    return tiny_encoders.sd3()


@pytest.fixture(scope="module")
def flux():
    return tiny_encoders.flux()


def test_one_encoder(sd):
    assert sentences(sd, long(30)) == []  # 32 positions, two of them for begin and end
    assert sentences(sd, long(31), negative_prompt=long(45)) == [
        "The prompt has 31 tokens and the text encoder reads 30: the words after that have no "
        "effect; shorten it.",
        "The negative_prompt has 45 tokens and the text encoder reads 30: the words after that "
        "have no effect; shorten it.",
    ]


def test_of_a_batch_the_long_ones_are_numbered(sd):
    said = sentences(sd, ["a cat", long(40)], negative_prompt=[long(40), "snow"])
    assert {words.split(" has")[0] for words in said} == {
        "The prompt, number 2 of 2,",
        "The negative_prompt, number 1 of 2,",
    }
    assert sentences(sd, [long(40)] * 2) == [
        "The prompt, number 1 of 2, has 40 tokens and the text encoder reads 30: the words after "
        "that have no effect; shorten it."
    ]


def test_both_of_sdxl_stop(sdxl):
    assert sentences(sdxl, long(40), **SIZE) == [
        "The prompt is cut: text_encoder (CLIP) and text_encoder_2 (CLIP) stop after 30 of 40 "
        "tokens; the words after that have no effect; shorten it."
    ]


@pytest.mark.parametrize("name", ["prompt_2", "negative_prompt_2"])
def test_what_the_second_reads_alone(sdxl, name):
    call = {"negative_prompt": "snow"} if name == "negative_prompt_2" else {}
    assert sentences(sdxl, "a cat", **{name: long(40)}, **call, **SIZE) == [
        f"The {name} has 40 tokens and text_encoder_2 (CLIP) reads 30: the words after that have "
        "no effect; shorten it."
    ]


def test_sd3_reads_on(sd3):
    assert sentences(sd3, long(40), **SIZE) == [
        "The prompt is cut: text_encoder (CLIP) and text_encoder_2 (CLIP) stop after 30 of 40 "
        "tokens, text_encoder_3 (T5) reads on to the end, all 40; begin with what matters most."
    ]
    assert sentences(sd3, long(300), **SIZE) == [
        "The prompt is cut: text_encoder (CLIP) and text_encoder_2 (CLIP) stop after 30 of 300 "
        "tokens, text_encoder_3 (T5) reads on to 255 of 300; the words after that have no "
        "effect; begin with what matters most."
    ]
    assert sentences(sd3, "a cat", prompt_3=long(99), max_sequence_length=64, **SIZE) == [
        "The prompt_3 has 99 tokens and text_encoder_3 (T5) reads 63: the words after that have "
        "no effect; shorten it."
    ]
    assert sentences(sd3, "a", negative_prompt="a", negative_prompt_3=long(300), **SIZE) == [
        "The negative_prompt_3 has 300 tokens and text_encoder_3 (T5) reads 255: the words after "
        "that have no effect; shorten it."
    ]


def test_sd3_without_its_t5_reads_no_further(sd3):
    pipe = tiny_encoders.sd3()
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    (said,) = sentences(pipe, long(40), **SIZE)
    assert "text_encoder_3" not in said
    assert "the words after that have no effect" in said


def test_flux_reads_on(flux):
    assert sentences(flux, long(40), **SIZE) == [
        "The prompt is cut: text_encoder (CLIP) stops after 30 of 40 tokens, text_encoder_2 (T5) "
        "reads on to the end, all 40; begin with what matters most."
    ]
    assert sentences(flux, "a cat", prompt_2=long(40), **SIZE) == []
    assert sentences(flux, long(30), max_sequence_length=16, **SIZE) == [
        "The prompt is cut: text_encoder_2 (T5) stops after 15 of 30 tokens, text_encoder (CLIP) "
        "reads on to the end, all 30; begin with what matters most."
    ]


def test_learnt_words_are_counted_as_they_are_spelled_out():
    pipe = tiny.pipeline(size="small")
    pipe.load_textual_inversion(torch.randn(20, 16), token="<zorp>")  # 20 vectors
    assert sentences(pipe, f"{long(10)} <zorp>") == []
    assert sentences(pipe, f"{long(11)} <zorp>") == [
        "The prompt has 31 tokens and the text encoder reads 30: the words after that have no "
        "effect; shorten it."
    ]


def test_words_that_are_no_keyword_are_told_apart(sd):
    """Between prompts a walk reads all of its ends, and the empty text beside them."""
    found = Heard(sd, {"prompt": "a cat"})
    with heard_by((said := []).append), heard(found):
        for text in (long(40), "", "a dog"):
            sd.tokenizer(text, padding="max_length", truncation=True)
    assert len(said) == 1
    assert re.fullmatch(
        r"The text “cat cat .*…” has 40 tokens and the text encoder reads 30: .*", *said
    )


def test_it_is_said_before_the_first_step(sd):
    order = []
    with heard_by(lambda words: order.append("said")):
        record(sd, long(40), on_step=lambda step: order.append("step"), **QUICK)
    assert order == ["said", "step", "step"]


def test_a_warning_stands_at_the_readers_line(sd):
    with pytest.warns(UserWarning, match="has 40 tokens") as said:
        record(sd, long(40), **QUICK)
    assert [one.filename for one in said] == [__file__]


class Deaf:
    """A tokenizer that counts in a way of its own: it can't be asked without limits."""

    def __init__(self, inner):
        self._inner = inner
        self.model_max_length = inner.model_max_length

    def __call__(self, text, **options):
        if "verbose" in options:
            raise TypeError("unexpected keyword 'verbose'")
        return self._inner(text, **options)

    def __getattr__(self, name):
        return getattr(self._inner, name)


@pytest.fixture
def told():
    """What diffusers logs itself."""
    entries = []

    class Keeps(logging.Handler):
        def emit(self, entry):
            entries.append(entry.getMessage())

    handler, logger = Keeps(), logging.getLogger("diffusers")
    logger.addHandler(handler)
    yield entries
    logger.removeHandler(handler)


def test_where_nothing_is_heard_the_library_speaks(told):
    pipe = tiny.pipeline(size="small")
    pipe.tokenizer = Deaf(pipe.tokenizer)
    assert sentences(pipe, long(40)) == []
    assert any("was truncated because CLIP" in words for words in told)


def test_said_once_and_only_in_this_thread(sd, told):
    other = tiny.pipeline(size="small")

    def bare(step):  # another thread's own pipeline, which nobody records, beside the record
        if step.index == 0:
            worker = threading.Thread(target=lambda: other(long(50), num_inference_steps=1))
            worker.start()
            worker.join()

    with heard_by(lambda words: None):
        record(sd, long(40), on_step=bare, **QUICK)
    assert len([words for words in told if "was truncated" in words]) == 1


def test_the_tokenizer_is_left_as_it_was(sd):
    kind = type(sd.tokenizer)
    record(sd, "a cat", **QUICK)
    assert type(sd.tokenizer) is kind
    with pytest.raises(ZeroDivisionError):
        record(sd, "a cat", on_step=lambda step: 1 / 0, **QUICK)
    assert type(sd.tokenizer) is kind


def test_two_records_at_once_share_a_tokenizer(sd):
    pipe = tiny.pipeline(size="small")
    pipe.register_modules(tokenizer=sd.tokenizer)
    kind, said = type(sd.tokenizer), []

    def beside(step):
        if step.index == 0:
            worker = threading.Thread(target=lambda: said.extend(sentences(pipe, long(50))))
            worker.start()
            worker.join()

    with warnings.catch_warnings(), heard_by(said.append):
        record(sd, long(40), on_step=beside, **QUICK)
    assert [words.split(" tokens")[0] for words in said] == [
        "The prompt has 40",
        "The prompt has 50",
    ]
    assert type(sd.tokenizer) is kind


def test_threads_read_one_after_the_other(sd, monkeypatch):
    """A tokenizer holds how it pads: one's "longest" was another's 2 tokens, not 32."""
    kind, inside, most = type(sd.tokenizer), [], []
    read = kind.__call__

    def slowly(self, *args, **options):
        inside.append(0)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return read(self, *args, **options)

    monkeypatch.setattr(kind, "__call__", slowly)
    threads = [threading.Thread(target=sd.tokenizer, args=("a cat",)) for _ in range(3)]
    with heard(Heard(sd, {"prompt": "a cat"})):
        for thread in threads:
            thread.start()
        sd.tokenizer("a cat")
        for thread in threads:
            thread.join()
    assert len(most) == 4
    assert max(most) == 1


@pytest.mark.parametrize("make", [tiny_encoders.sdxl, tiny_encoders.sd3, tiny_encoders.flux])
def test_listening_changes_no_picture(make):
    pipe, prompt = make(), long(40)
    bare = pipe(prompt, generator=torch.Generator().manual_seed(1), num_inference_steps=2, **SIZE)
    with heard_by(lambda words: None):
        traj = record(pipe, prompt, **QUICK, **SIZE)
    assert tiny_encoders.same(bare.images[0], traj.image)


class Templated:
    """As Qwen-Image reads: a template round the words, and its embeddings cut once more."""

    prompt_template_encode_start_idx = 4  # the mark of the beginning, and three words

    def __init__(self):
        self.tokenizer = tiny.tokenizer()

    def __call__(self, prompt, max_sequence_length=12):
        text = f"a red dog {prompt} in the snow"
        self.tokenizer(text, max_length=20 + 4, truncation=True, padding=True)


@pytest.mark.parametrize(("most", "reads"), [({}, 12), ({"max_sequence_length": 99}, 20)])
def test_a_template_round_the_words(most, reads):
    said, pipe = [], Templated()
    call = {"prompt": long(25), **most}
    with heard_by(said.append), heard(Heard(pipe, call)):
        pipe(**call)
    assert said == [
        f"The prompt has 25 tokens and text_encoder reads {reads}: the words after that have no "
        "effect; shorten it."
    ]
    with heard_by(said.append), heard(Heard(pipe, {"prompt": "cat"})):
        pipe("cat")
    assert len(said) == 1


def test_a_walks_two_ends_are_told_apart():
    """No keyword holds them, and they are two texts of one encoder, not one text of two."""
    pipe, ends, said = ldmkit.load("critters"), ("a red cat " * 20, "a blue dog " * 12), []
    with heard_by(said.append):
        ldmkit.interpolate(pipe, *ends, space="prompt", t=[0.5], num_inference_steps=1)
    rest = " tokens and the text encoder reads 30: the words after that have no effect; shorten it."
    second = "“a blue dog a blue dog a blue dog a blue…”"
    assert said == [f"The prompt has 60{rest}", f"The text {second} has 36{rest}"]
