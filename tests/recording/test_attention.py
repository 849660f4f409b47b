"""Attention maps against softmax(QKᵀ/√d) in attention processors of this test's own."""

import math
import types

import numpy as np
import pytest
import tiny
import tiny_encoders
import tiny_families
import tiny_rows
import tiny_unclip
import torch
from diffusers.models.attention_processor import AttnProcessor, SlicedAttnProcessor
from diffusers.models.embeddings import apply_rotary_emb
from tiny_encoders import same

from ldmkit.loading.families import FAMILIES, Family
from ldmkit.recording import record, recorder
from ldmkit.recording.attention import maps_of
from ldmkit.recording.tokens import readings
from ldmkit.recording.watching import Watcher, watched
from ldmkit.records import RecordError, Trajectory

SIZE = {"height": 32, "width": 32}
QUICK = {"num_inference_steps": 2, "seed": 7, "preview": "none"}
ALL = ("latents", "attention")
PROMPT = "a red cat with a top hat"


class Plain:
    """An attention processor as the papers write it, which notes its probabilities.

    ``order`` says how picture and words are joined: "cross", "picture first", "words first".
    """

    def __init__(self, name, order, notes):
        self.name, self.order, self.notes = name, order, notes

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs
    ):  # (mask, rotary embedding)
        words, heads = encoder_hidden_states, attn.heads
        source = words if self.order == "cross" and words is not None else hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        q, k = (
            x if norm is None else norm(x)
            for x, norm in ((q, _norm(attn, "q")), (k, _norm(attn, "k")))
        )
        if self.order != "cross" and words is not None:
            added = [getattr(attn, f"add_{n}_proj")(words) for n in "qkv"]
            aq, ak, av = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in added)
            if getattr(attn, "norm_added_q", None) is not None:
                aq, ak = attn.norm_added_q(aq), attn.norm_added_k(ak)
            pairs = ((q, aq), (k, ak), (v, av))
            if self.order == "words first":
                pairs = tuple((b, a) for a, b in pairs)
            q, k, v = (torch.cat(pair, dim=2) for pair in pairs)
        turn = args[1] if len(args) > 1 else None  # FLUX turns both by their place
        if turn is not None:
            q, k = apply_rotary_emb(q, turn), apply_rotary_emb(k, turn)
        a = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
        self.notes.setdefault(self.name, []).append(a.numpy())
        out = (a @ v).transpose(1, 2).flatten(2)
        if self.order == "cross" or words is None:
            return out if attn.pre_only else attn.to_out[1](attn.to_out[0](out))
        n = words.shape[1]
        first, second = (out[:, :-n], out[:, -n:])
        if self.order == "words first":
            second, first = out[:, :n], out[:, n:]
        if not getattr(attn, "context_pre_only", False):
            second = attn.to_add_out(second)
        return attn.to_out[1](attn.to_out[0](first)), second


def _norm(attn, name):
    return getattr(attn, f"norm_{name}", None)


def noted(pipe, network, order, **call):
    """Layer -> one (batch, heads, queries, keys) for each call of the network."""
    notes = {}
    for name, module in network.named_modules():
        if hasattr(module, "processor"):
            if not hasattr(module, "pre_only"):
                module.pre_only = False
            module.processor = Plain(name, order, notes)
    pipe(PROMPT, generator=torch.Generator().manual_seed(7), num_inference_steps=2, **call)
    return notes


CASES = {
    "sd": (lambda: tiny.pipeline(size="small"), "unet", "cross", {"guidance_scale": 3.0}, 0, 1),
    "unguided": (
        lambda: tiny.pipeline(size="small"),
        "unet",
        "cross",
        {"guidance_scale": 1.0},
        0,
        0,
    ),
    "sdxl": (tiny_encoders.sdxl, "unet", "cross", {"guidance_scale": 3.0}, 0, 1),
    "sd3": (tiny_encoders.sd3, "transformer", "picture first", {"guidance_scale": 3.0}, "last", 1),
    "flux": (tiny_encoders.flux, "transformer", "words first", {}, 0, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_maps_are_the_softmax(case):
    build, part, order, call, place, row = CASES[case]
    call |= SIZE
    pipe = build()
    bare = pipe(PROMPT, generator=torch.Generator().manual_seed(7), num_inference_steps=2, **call)
    traj = record(pipe, PROMPT, keep=ALL, **QUICK, **call)
    assert same(traj.image, bare.images[0])
    maps = traj.attention
    wanted = noted(pipe, getattr(pipe, part), order, **call)
    length = sum(len(columns) for columns in _columns(traj, pipe, case))
    assert maps.layers
    for k, layer in enumerate(maps.layers):
        for step in range(2):
            a = wanted[layer.name][step][row]  # (heads, queries, keys)
            size = layer.height * layer.width
            picture = a[:, :size] if place == "last" or order == "cross" else a[:, -size:]
            text = picture[..., -length:] if place == "last" else picture[..., :length]
            assert layer.heads == len(a)
            # Rows that are one token each stand in the order of the keys; padding is their rest.
            columns = _columns(traj, pipe, case)
            for r, own in enumerate(columns):
                expected = text[..., own].sum(-1)
                got = maps.maps[k][step, r].reshape(layer.heads, size)
                assert np.abs(got - expected).max() <= 1e-5
    hat = maps["hat"]
    assert hat.shape == (2, *maps.size)
    if order == "cross":
        assert np.allclose(maps.maps[0].sum(1), 1, atol=1e-5)
    if case == "sd3":  # CLIP's tokens and T5's
        assert [len(rows) for rows in maps.rows] == [2] * 7


def _columns(traj, pipe, case):
    """The keys of each row, found from the tokens' names alone."""
    columns, at = [], 0
    tokens = traj.attention.tokens
    widths = {"sd3": (32, 256), "flux": (512,)}.get(case, (32,))
    for width in widths:
        start = at
        for token in tokens[len(columns) :]:
            if token == "<padding>":
                columns.append(list(range(at, start + width)))
                break
            columns.append([at])
            at += 1
        at = start + width
    assert len(columns) == len(tokens)
    return columns


def test_another_schedule_of_heads_words_and_pieces():
    """Shared keys, masks and small pieces against the formula in one line."""
    make = torch.Generator().manual_seed(0)
    q, k = torch.randn(4, 30, 8, generator=make), torch.randn(2, 17, 8, generator=make)
    mask = torch.randn(4, 30, 17, generator=make) > -1
    scores = q @ k.repeat_interleave(2, 0).transpose(1, 2) * 0.3
    a = torch.softmax(scores.masked_fill(~mask, -math.inf), -1)
    wanted = torch.stack([a[..., 3], a[..., [5, 6]].sum(-1)])
    for work in (1, 4000, 10**6):
        got = maps_of(q, k, [[3], [5, 6]], scale=0.3, mask=mask, work=work)
        assert (got - wanted).abs().max() < 1e-6
        mean = maps_of(q, k, [[3], [5, 6]], scale=0.3, mask=mask, heads=False, work=work)
        assert (mean - wanted.mean(1, keepdim=True)).abs().max() < 1e-6


@pytest.fixture(scope="module")
def small():
    return tiny.pipeline(size="small")


def test_each_picture_has_its_own_words(small, tmp_path):
    texts = ["a red cat", "a dog with a hat and a zebra"]
    traj = record(small, texts, keep="attention", num_images_per_prompt=2, **QUICK)
    maps = traj.attention
    assert [maps.of(i).prompt for i in range(4)] == [texts[0]] * 2 + [texts[1]] * 2
    second = maps.of(2)
    assert second.words == ("a", "dog", "with", "a", "hat", "and", "a", "zebra")
    assert len(second.rows[-1]) > 1  # a word of several tokens, added together
    parts = [second.maps[0][:, r].mean(1) for r in second.rows[-1]]
    assert np.allclose(second.at("zebra", step=1, layer=0), sum(parts)[1])
    assert np.array_equal(second["a", 2], second["a", 2])
    with pytest.raises(RecordError, match=r"'a' 3 times; take maps\['a', 0\]"):
        second["a"]
    alone = record(small, texts[1], attention=("zebra", "dog"), **QUICK).attention
    assert alone.shown == ("dog", "zebra")
    with pytest.raises(RecordError, match="'hat' was not kept"):
        alone["hat"]
    again = Trajectory.open(traj.save(tmp_path / "run.safetensors")).attention
    assert np.array_equal(again.of(2)["zebra"], second["zebra"])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ({"attention": ("catt",)}, ValueError, "got 'catt'; did you mean 'cat'"),
        ({"attention": 3}, TypeError, "must be words of the prompt"),
        ({"attention": ()}, ValueError, "one word or more"),
        ({"attention": ("cat",), "attention_bytes": 0}, ValueError, "attention_bytes must be"),
        ({"attentoin": ("cat",)}, TypeError, "did you mean 'attention'"),
        (
            {"attention": ("cat",), "attention_bytes": 300},
            ValueError,
            "take 2,048 bytes .*allows 300",
        ),
    ],
)
def test_what_is_asked_must_be_there(small, call, error, words):
    with pytest.raises(error, match=words):
        record(small, "a red cat", **QUICK, **call)


def test_heads_are_averaged_where_each_is_too_much(small):
    whole = record(small, "a red cat", keep="attention", **QUICK).attention
    room = 8 * sum(m.nbytes for m in whole.maps) - 1  # an eighth is for heads
    mean = record(small, "a red cat", keep="attention", attention_bytes=room, **QUICK).attention
    assert all(m.shape[2] == 1 for m in mean.maps)
    assert np.abs(mean["cat"] - whole["cat"]).max() < 1e-6
    layer = next(i for i, one in enumerate(whole.layers) if one.heads > 1)
    assert np.allclose(mean.at("cat", layer=layer), whole.at("cat", layer=layer))
    with pytest.raises(RecordError, match="2 heads of which the mean was kept"):
        mean.at("cat", layer=layer, head=1)


def test_what_hides_maps_is_refused():
    pipe = tiny.pipeline(size="small")
    unet = pipe.unet
    for hides in (SlicedAttnProcessor(1), AttnProcessor()):
        unet.set_attn_processor(hides)
        with pytest.raises(ValueError, match=f"{type(hides).__name__} computes it out of sight"):
            record(pipe, "a cat", attention=("cat",), **QUICK)
    fresh = tiny.pipeline(size="small")
    next(
        m for m in fresh.unet.modules() if hasattr(m, "processor")
    ).processor._attention_backend = "flash"
    with pytest.raises(ValueError, match="the back end flash"):
        record(fresh, "a cat", attention=("cat",), **QUICK)
    fresh = tiny.pipeline(size="small")
    fresh.unet._compiled_call_impl = fresh.unet._call_impl  # what unet.compile() leaves there
    with pytest.raises(ValueError, match="can't hear a compiled"):
        record(fresh, "a cat", attention=("cat",), **QUICK)


def test_where_there_are_no_words_the_reason_is_told():
    with pytest.raises(ValueError, match="reads one embedding of a picture"):
        record(tiny_unclip.kandinsky(), "a cat", attention=("cat",))
    with pytest.raises(ValueError, match="takes no encoder_hidden_states"):
        record(tiny_families.dit(), class_labels=[1], keep="attention")


@pytest.mark.filterwarnings("ignore")
def test_words_before_the_picture_among_the_keys():
    """Karlo: four tokens of CLIP's vector, the words, then the picture (added keys)."""
    call = {f"{part}_num_inference_steps": 2 for part in ("prior", "decoder", "super_res")}
    maps = record(tiny_unclip.karlo(), "a red cat", keep="attention", seed=7, **call).attention
    assert maps.words == ("a", "red", "cat")
    total = sum(maps.maps[0][0, :, 0])
    assert (total > 0).all()
    assert (total < 1).all()  # the rest looks at the picture


def test_of_two_calls_a_step_the_first_has_the_words():
    pipe, call = tiny_families.flux(), tiny_families.FLUX_CALL
    call = {**call, "seed": 7, "keep": "attention", "preview": "none"}
    one = record(pipe, **call).attention
    two = record(pipe, **call, **tiny_families.FLUX_TRUE_GUIDANCE)
    # No prompt was given: its tokens have numbers.
    assert two.attention.tokens == tuple(f"token {i}" for i in range(5))
    assert np.array_equal(two.attention.maps[0][0], one.maps[0][0])


def test_a_learnt_word_of_several_tokens_is_one_word():
    pipe = tiny.pipeline(size="small")
    for name in ("<toy>", "<toy>_1"):  # as load_textual_inversion leaves them
        pipe.tokenizer.add_tokens(name)
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
    maps = record(pipe, "a <toy> hat", keep="attention", **QUICK).attention
    assert maps.words == ("a", "<toy>", "hat")
    assert [len(rows) for rows in maps.rows] == [1, 2, 1]
    assert np.allclose(maps["<toy>"], maps._mean(maps.rows[1]))


def test_a_picture_that_is_no_square(small):
    wide = {"height": 32, "width": 64}
    layers = record(small, "a cat", attention=("cat",), **QUICK, **wide).attention.layers
    assert {(one.height, one.width) for one in layers} == {(8, 16), (4, 8)}
    flux = record(tiny_encoders.flux(), "a cat", attention=("cat",), **QUICK, **wide).attention
    assert flux.size == (4, 8)


def test_watchers_that_leave_out_of_turn_leave_nothing(small):
    """Two threads may stand round one network, and the first to come be the first to go."""

    class Counts(Watcher):
        calls = 0

        def begin(self, module, given):
            self.calls += 1

    first, second = Counts(Family()), Counts(Family())
    given = torch.zeros(1, 4, 8, 8), 1, torch.zeros(1, 32, small.unet.config.cross_attention_dim)
    one, other = watched(small.unet, first), watched(small.unet, second)
    one.__enter__()
    other.__enter__()
    small.unet(*given)
    one.__exit__(None, None, None)
    small.unet(*given)
    assert (first.calls, second.calls) == (1, 2)
    other.__exit__(None, None, None)
    small.unet(*given)
    assert (first.calls, second.calls) == (1, 2)
    assert "forward" not in vars(small.unet)


def test_everything_is_put_back(small):
    before = vars(small.unet).get("forward")

    def leave(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(small, "a cat", attention=("cat",), on_step=leave, **QUICK)
    assert vars(small.unet).get("forward") is before
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in small.unet.modules())
    part = record(small, "a cat", attention=("cat",), on_step=lambda step: False, **QUICK)
    assert part.stopped
    assert len(part.attention) == 1


def test_a_loop_of_ones_own_has_maps(small):
    """Those of the pipeline, whose loop it is; what could be mistaken is refused."""
    wanted = record(small, "a red cat", attention=("red", "cat"), guidance_scale=3.0, **QUICK)
    told = {"prompt": "a red cat", "tokenizer": small.tokenizer, "attention": ("red", "cat")}
    loop = (small.scheduler, small.unet)

    def looped(ask, batch=1, **other):
        small.scheduler.set_timesteps(2)
        x = small.prepare_latents(
            batch, 4, 32, 32, torch.float32, "cpu", torch.Generator().manual_seed(7)
        )
        with torch.no_grad(), recorder(*loop, preview="none", **told | other) as tape:
            words, none = small.encode_prompt("a red cat", "cpu", batch, True)
            for t in small.scheduler.timesteps:
                noise, own = ask(x, t, torch.cat([none, words])).chunk(2)
                x = small.scheduler.step(noise + 3.0 * (own - noise), t, x).prev_sample
        return tape.trajectory.attention

    def at_once(x, t, words):
        return small.unet(torch.cat([x, x]), t, words).sample

    def twice(x, t, words):
        return torch.cat([small.unet(x, t, own).sample for own in words.chunk(2)])

    maps = looped(at_once)
    assert maps.shown == ("red", "cat")
    assert np.abs(maps["cat"] - wanted.attention["cat"]).max() <= 1e-5
    with pytest.raises(ValueError, match="each of the loop's 2 pictures for their maps, got 1"):
        looped(at_once, batch=2)
    with pytest.raises(ValueError, match="asks its network 2 times a step"):
        looped(twice)
    with pytest.raises(ValueError, match=r"give recorder tokenizer=pipe\.tokenizer, or leave"):
        looped(at_once, tokenizer=None)
    for wrong in (small.tokenizer.tokenize, small.unet, print, type(small.tokenizer)):
        with pytest.raises(TypeError, match="tokenizer must be one of transformers"):
            looped(at_once, tokenizer=wrong)
    with pytest.raises(ValueError, match="none that can be told apart"):
        record(small, "", attention="cat", **QUICK)
    with recorder(small.scheduler, [small.unet, small.unet], preview="none", **told):
        pass
    with pytest.raises(ValueError, match='its scheduler, its network, prompt="a red cat"'):
        recorder(keep=("attention",)).__enter__()
    flux, call = tiny_families.flux(), tiny_families.FLUX_CALL
    with (
        pytest.raises(ValueError, match=r"attn words and picture attend jointly"),
        recorder(flux.scheduler, flux.transformer, preview="none", **told),
    ):
        flux(**call)
    assert "forward" not in vars(flux.transformer)


# --- where the words of each family stand ---------------------------------------------------------

EVERY = tiny_families.CASES | tiny_rows.CASES


def row_of(name):
    return next((row for row in FAMILIES if name.startswith(row.classes)), Family())


JOINT = [
    name
    for name, case in EVERY.items()
    if row_of(name).tokens != "apart" and "prompt_embeds" in case.call and "Control" not in name
]
UNHEARD = ["HunyuanImagePipeline"]  # two texts in one, in an order of their masks


def looked(pipe, call, monkeypatch):
    """(query, key, mask) of each attention of a bare run."""
    seen, real = [], torch.nn.functional.scaled_dot_product_attention

    def attend(*args, **options):
        names = ("query", "key", "value", "attn_mask")
        given = dict(zip(names, args, strict=False)) | options
        seen.append(tuple(given.get(name) for name in ("query", "key", "attn_mask")))
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
        pipe(**call, generator=torch.Generator().manual_seed(7))
    return seen


@pytest.mark.filterwarnings("ignore::FutureWarning:diffusers")
@pytest.mark.parametrize("name", sorted(set(JOINT) - set(UNHEARD)))
def test_words_stand_where_the_row_says(name, monkeypatch):
    """One word's embedding is another: its key changes, and the map of that key is the word's."""
    pipe, call = EVERY[name].build(), {**EVERY[name].call, "num_inference_steps": 1}
    maps = record(pipe, seed=7, keep=ALL, preview="none", **call).attention
    assert maps.tokens == ("token 0", "token 1", "token 2", *maps.tokens[3:])
    bare = [one for one in looked(pipe, call, monkeypatch) if one[1].shape[-2] > len(maps.tokens)]
    call["prompt_embeds"] = call["prompt_embeds"].clone()
    call["prompt_embeds"][:, 2] += 1
    other = [one for one in looked(pipe, call, monkeypatch) if one[1].shape[-2] > len(maps.tokens)]
    changed = (bare[0][1] - other[0][1]).abs().amax(dim=(1, 3)) > 1e-6  # (batch, keys)
    row = int(changed.any(dim=1).nonzero()[0, 0])
    keys = changed[row].nonzero().flatten().tolist()
    column = keys[0] if len(keys) == 1 else keys[0] + 2  # words that looked at each other before
    assert len(keys) in (1, len(maps.tokens))
    for i, layer in enumerate(maps.layers):
        query, key, mask = bare[i]
        scores = query[row] @ key[row].transpose(-1, -2) / math.sqrt(query.shape[-1])
        if mask is not None:
            own = mask[row if len(mask) > 1 else 0]
            scores = (
                scores.masked_fill(~own, -math.inf) if own.dtype == torch.bool else scores + own
            )
        size = layer.height * layer.width
        first = row_of(name).tokens == "image_first" or query.shape[-2] == size
        places = slice(0, size) if first else slice(-size, None)
        expected = scores.softmax(-1)[:, places, column].numpy()
        got = maps.maps[i][0, 2].reshape(layer.heads, size)
        assert np.abs(got - expected).max() <= 1e-5


def test_words_within_a_pipelines_own_are_refused(small, monkeypatch):
    """Which key is which word is known where the encoder read the prompt alone."""
    real = small.encode_prompt
    monkeypatch.setattr(
        small, "encode_prompt", lambda prompt, *a, **k: real(f"draw well {prompt}", *a, **k)
    )
    with pytest.raises(ValueError, match="puts words of its own round the prompt"):
        record(small, PROMPT, keep=ALL, **QUICK)
    assert record(small, PROMPT, **QUICK).latents is not None


def test_padding_before_the_words():
    """CogView 4 pads its text on the left."""
    words = tiny.tokenizer()
    words.padding_side = "left"
    pipe = types.SimpleNamespace(tokenizer=words)
    (reading,) = readings(pipe, Family(tokens="text_first"), {"prompt": "a red cat"}, 16)
    assert [reading.tokens[row] for row in reading.rows[1]] == ["red"]
    assert reading.columns[reading.rows[1][0]] == [16 - len(words("a red cat").input_ids) + 2]
    assert reading.columns[0] == list(range(16 - len(words("a red cat").input_ids)))
