"""What of the words reached each text encoder is told by name and number, for every family."""

import inspect
import logging
import re
import threading
import time
import warnings

import diffusers
import pytest
import tiny
import tiny_encoders
import tokenizers
import torch
import transformers
from tiny_encoders import long

import ldmkit
from ldmkit.check import heard_by
from ldmkit.recording import record
from ldmkit.recording.truncation import Heard, heard

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
    read = kind._encode_plus

    def slowly(self, *args, **options):
        inside.append(0)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return read(self, *args, **options)

    monkeypatch.setattr(kind, "_encode_plus", slowly)
    with heard(Heard(sd, {"prompt": "a cat"})):
        calls = (sd.tokenizer, sd.tokenizer.encode, sd.tokenizer)
        threads = [threading.Thread(target=call, args=("a cat",)) for call in calls]
        for thread in threads:
            thread.start()
        sd.tokenizer("a cat")
        for thread in threads:
            thread.join()
    assert len(most) == 4
    assert max(most) == 1


@pytest.mark.parametrize("way", ["__call__", "encode"])
def test_a_thread_that_is_inside_when_a_record_opens(sd, monkeypatch, way):
    """It has noted how it pads on the tokenizer that both share, and goes on when it is through."""
    inside, go_on, mine = threading.Event(), threading.Event(), threading.get_ident()
    kind, made, said = type(sd.tokenizer), [], []
    note = kind.set_truncation_and_padding

    def pause(self, *args, **options):
        note(self, *args, **options)
        if threading.get_ident() != mine:
            inside.set()
            go_on.wait(20)

    def beside():
        read = getattr(sd.tokenizer, way)([long(50), "a cat"] if way == "__call__" else long(50))
        made.append(getattr(read, "input_ids", read))

    monkeypatch.setattr(kind, "set_truncation_and_padding", pause)
    thread = threading.Thread(target=beside)
    thread.start()
    assert inside.wait(20)
    with heard_by(said.append), heard(Heard(sd, {"prompt": long(40)})):
        read = sd.tokenizer(long(40), padding="max_length", truncation=True)
        go_on.set()
        thread.join(20)
        again = sd.tokenizer("a cat", padding="max_length", truncation=True)
    lengths = [len(one) for one in made[0]] if way == "__call__" else [len(made[0])]
    assert lengths == ([52, 4] if way == "__call__" else [52]), "it read as the record reads"
    assert [len(one.input_ids) for one in (read, again)] == [32, 32]
    assert [words.split(" tokens")[0] for words in said] == ["The prompt has 40"]
    assert type(sd.tokenizer) is kind


@pytest.mark.parametrize("make", [tiny_encoders.sdxl, tiny_encoders.sd3, tiny_encoders.flux])
def test_listening_changes_no_picture(make):
    pipe, prompt = make(), long(40)
    bare = pipe(prompt, generator=torch.Generator().manual_seed(1), num_inference_steps=2, **SIZE)
    with heard_by(lambda words: None):
        traj = record(pipe, prompt, **QUICK, **SIZE)
    assert tiny_encoders.same(bare.images[0], traj.image)


class _Numbers(torch.nn.Module):
    """A text encoder whose hidden states are the tokens' own numbers: what is read can be seen."""

    dtype, device = torch.float32, torch.device("cpu")

    def forward(self, input_ids, **options):
        self.hidden_states = [input_ids[..., None].float().repeat(1, 1, 4)] * 40
        self.pooler_output = self.last_hidden_state = self.hidden_states[0]
        return self

    def __getitem__(self, key):
        return self.hidden_states if key == "hidden_states" else self.last_hidden_state

    def get_input_embeddings(self):
        return self


def chatting():
    """A tokenizer of whole words, "cat" the second, with marks as Qwen's in a chat's template."""
    words = {"[unk]": 0, "[pad]": 1, "cat": 2}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[unk]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[unk]", pad_token="[pad]", model_max_length=4096
    )
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content if m.content is string else m.content[0].text }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return made


CHATS = "ZImage Flux2Klein Flux2 QwenImage Krea2 OvisImage Lumina2 Kandinsky5T2I Sana"


@pytest.mark.parametrize("kind", CHATS.split())
def test_a_template_round_the_words(kind):
    """How many words are told to be read is counted in what the pipeline's own encoder got."""
    known = getattr(diffusers, f"{kind}Pipeline")
    parts = dict.fromkeys(list(inspect.signature(known.__init__).parameters)[1:])
    pipe = known(**{name: None for name in parts if name not in ("is_distilled", "patch_size")})
    for number in ("", "_2") if "tokenizer_2" in parts else ("",):
        setattr(pipe, f"tokenizer{number}", chatting())
        setattr(pipe, f"text_encoder{number}", _Numbers())
    template = getattr(pipe, "prompt_template_encode", "") or getattr(pipe, "prompt_template", "")
    template = template or getattr(pipe, "prompt_template_encode_prefix", "")
    if template:  # as many as it has for this tokenizer
        ahead = template.split("{}")[0]
        pipe.prompt_template_encode_start_idx = len(pipe.tokenizer(ahead).input_ids)
    prompt, most, said = long(600), {"max_sequence_length": 50}, []
    takes = inspect.signature(pipe.encode_prompt).parameters
    own = {"do_classifier_free_guidance": False, "prompt_2": None, "device": "cpu"}
    own = most | {name: value for name, value in own.items() if name in takes}
    with heard_by(said.append), heard(Heard(pipe, {"prompt": prompt} | most)):
        got = pipe.encode_prompt([prompt] if "Kandinsky" in kind else prompt, **own)
    got = got[0]
    while not isinstance(got, torch.Tensor):
        got = got[0]
    read = int((got.reshape(-1, got.shape[-1])[:, 0] == 2).sum())
    read //= got.shape[-2] if kind == "Krea2" else 1  # it gives each of its layers
    assert 0 < read < 600
    (words,) = said
    assert f"encoder reads {read}:" in words or f"stops after {read} of 600 " in words


def test_a_walks_two_ends_are_told_apart():
    """No keyword holds them, and they are two texts of one encoder, not one text of two."""
    pipe, ends, said = ldmkit.load("critters"), ("a red cat " * 20, "a blue dog " * 12), []
    with heard_by(said.append):
        ldmkit.interpolate(pipe, *ends, space="prompt", t=[0.5], num_inference_steps=1)
    rest = " tokens and the text encoder reads 30: the words after that have no effect; shorten it."
    second = "“a blue dog a blue dog a blue dog a blue…”"
    assert said == [f"The prompt has 60{rest}", f"The text {second} has 36{rest}"]
