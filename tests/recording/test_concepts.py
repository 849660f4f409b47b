"""Maps of concepts against diffusers' own blocks, run again with the concepts as their words."""

import threading

import numpy as np
import pytest
import tiny
import tiny_encoders
import tiny_families
import torch
from diffusers.models.embeddings import apply_rotary_emb
from tiny_encoders import same

from ldmkit.recording import record
from ldmkit.recording.concepts import _read, alike
from ldmkit.recording.intervene import intervene
from ldmkit.records import RecordError, Trajectory

SIZE = {"height": 32, "width": 32}
CALL = {"num_inference_steps": 2, **SIZE}
QUICK = {**CALL, "seed": 7, "preview": "none"}
PROMPT = "a red cat"
CONCEPTS = ("dog", "snow", "hat")  # none is in the prompt


def deep(kind):
    """A pipeline of two joint blocks, with weights large enough for what is asked to matter."""
    pipe = getattr(tiny_encoders, kind)()
    config = {**pipe.transformer.config, "num_layers": 2}
    if kind == "sd3":
        config |= {"dual_attention_layers": (0,), "qk_norm": "rms_norm"}  # as SD 3.5's
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        pipe.transformer = type(pipe.transformer).from_config(config).eval().requires_grad_(False)
        for weight in pipe.transformer.parameters():
            if weight.ndim > 1:
                weight.data.normal_(0, 0.2 if kind == "sd3" else 0.15)
    return pipe


class Joint:
    """Attention of words and picture as SD 3's paper writes it, which notes its two outputs."""

    def __init__(self, notes, words_first):
        self.notes, self.words_first = notes, words_first

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        turn = kwargs.get("image_rotary_emb", args[1] if len(args) > 1 else None)
        streams = [(hidden_states, "to_{}", "norm_{}")]
        if encoder_hidden_states is not None:
            streams.append((encoder_hidden_states, "add_{}_proj", "norm_added_{}"))
        if self.words_first:
            streams.reverse()
        parts = []
        for x, project, norm in streams:
            qkv = [
                getattr(attn, project.format(n))(x).unflatten(-1, (attn.heads, -1)) for n in "qkv"
            ]
            for i, n in enumerate("qk"):
                if getattr(attn, norm.format(n), None) is not None:
                    qkv[i] = getattr(attn, norm.format(n))(qkv[i])
            parts.append([one.transpose(1, 2) for one in qkv])
        q, k, v = (torch.cat(each, 2) for each in zip(*parts, strict=True))
        if turn is not None:
            q, k = apply_rotary_emb(q, turn), apply_rotary_emb(k, turn)
        out = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v
        out = out.transpose(1, 2).flatten(2)
        if encoder_hidden_states is None:
            return out if not hasattr(attn, "to_out") else attn.to_out[0](out)
        n = encoder_hidden_states.shape[1]
        words, picture = (
            (out[:, :n], out[:, n:]) if self.words_first else (out[:, -n:], out[:, :-n])
        )
        self.notes.append((picture, words))
        if not attn.context_pre_only:
            words = attn.to_add_out(words)
        return attn.to_out[0](picture), words


def expected(pipe, first, row):
    """For each step and block softmax over concepts of o_x · o_c, (concepts, places)."""
    notes, found, state = [], [], {}

    def begin(module, args):
        state["concepts"] = pipe.transformer.context_embedder(first)

    def again(module, args, kwargs, output):
        if "busy" in state:
            return
        state["busy"] = True
        concepts = state["concepts"]
        batch, length = len(kwargs["temb"]), kwargs["encoder_hidden_states"].shape[1]
        other = {**kwargs, "encoder_hidden_states": concepts.expand(batch, -1, -1)}
        if kwargs.get("image_rotary_emb") is not None:
            n = concepts.shape[-2]
            other["image_rotary_emb"] = tuple(
                torch.cat([one[:n], one[length:]]) for one in kwargs["image_rotary_emb"]
            )
        words, _ = module(**other)
        (picture, _), (_, own) = notes[-2:]
        found.append(torch.softmax(own[row] @ picture[row].T, 0).numpy())
        state["concepts"] = None if words is None else words[row : row + 1]
        del state["busy"]

    for block in pipe.transformer.transformer_blocks:
        block.register_forward_hook(again, with_kwargs=True)
    pipe.transformer.register_forward_pre_hook(begin)
    for module in pipe.transformer.modules():
        if hasattr(module, "processor"):
            module.processor = Joint(notes, type(pipe).__name__ == "FluxPipeline")
    return found


def t5(pipe):
    words = [
        pipe.tokenizer_2(one, return_tensors="pt", padding="max_length", max_length=512)
        for one in CONCEPTS
    ]
    return torch.cat([pipe.text_encoder_2(one.input_ids)[0][:, 0] for one in words])[None]


def clips(pipe):
    sides = []
    for reader, encoder in (
        (pipe.tokenizer, pipe.text_encoder),
        (pipe.tokenizer_2, pipe.text_encoder_2),
    ):
        ids = [
            reader(one, return_tensors="pt", padding="max_length", max_length=32).input_ids
            for one in CONCEPTS
        ]
        read = [encoder(one, output_hidden_states=True).hidden_states[-2][:, 1] for one in ids]
        sides.append(torch.cat(read))
    return torch.cat(sides, -1)[None]


CASES = {"flux": (t5, 0, {}), "sd3": (clips, 1, {"guidance_scale": 3.0})}


@pytest.mark.parametrize("kind", CASES)
def test_the_maps_are_those_of_the_blocks_own_code(kind):
    read, row, more = CASES[kind]
    pipe = deep(kind)
    with torch.no_grad():
        first = read(pipe)
    noise = lambda: torch.Generator().manual_seed(7)  # noqa: E731
    bare = pipe(PROMPT, generator=noise(), **CALL, **more).images[0]
    traj = record(pipe, PROMPT, concepts=CONCEPTS, **QUICK, **more)
    assert same(traj.image, bare)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in pipe.transformer.modules())
    maps = traj.attention
    assert maps.concepts
    assert maps.words == maps.tokens == CONCEPTS
    assert [layer.name for layer in maps.layers] == [f"transformer_blocks.{i}.attn" for i in (0, 1)]
    wanted = expected(pipe, first, row)
    pipe(PROMPT, generator=noise(), **CALL, **more)
    assert len(wanted) == 4
    for step in range(2):
        for k in range(2):
            got = maps.maps[k][step, :, 0].reshape(3, -1)
            assert np.abs(got - wanted[2 * step + k]).max() <= 1e-5
            assert got.std(1).max() > 0.005  # they tell something
    assert np.allclose(sum(maps[one] for one in CONCEPTS), 1, atol=1e-5)


@pytest.fixture(scope="module")
def flux():
    return deep("flux")


def test_each_picture_of_a_batch_has_its_own(flux, tmp_path):
    """And so has a stopped run its part; a concept of several tokens is their mean."""
    asked = ("snow", "zebra")
    texts = ["a red cat", "a dog"]
    both = record(flux, texts, concepts=asked, **{**QUICK, "seed": [7, 8]})
    alone = record(
        flux, texts[1], concepts=asked, on_step=lambda step: False, **QUICK | {"seed": 8}
    )
    second = both.attention.of(1)
    assert [both.attention.prompt, second.prompt] == texts
    assert alone.stopped
    assert len(alone.attention) == 1
    assert np.abs(second["zebra"][0] - alone.attention["zebra"][0]).max() <= 1e-4
    assert np.abs(second["zebra"] - both.attention["zebra"]).max() > 1e-3
    again = Trajectory.open(both.save(tmp_path / "run.safetensors")).attention.of(1)
    assert again.concepts
    assert np.array_equal(again["zebra"], second["zebra"])
    ids = flux.tokenizer_2("zebra", return_tensors="pt", padding="max_length", max_length=512)
    count = int(ids.attention_mask.sum()) - 1  # without the end
    assert count > 1
    with torch.no_grad():
        read = flux.text_encoder_2(ids.input_ids)[0][0]
    assert torch.allclose(_read(flux, asked, {})[1], read[:count].mean(0), atol=1e-6)


def test_nothing_else_is_told_of_them(flux):
    maps = record(flux, PROMPT, concepts=("top hat", "snow"), **QUICK).attention
    with pytest.raises(RecordError, match="have no concept 'snwo'; did you mean 'snow'"):
        maps["snwo"]
    with pytest.raises(RecordError, match="no concept 'cat'; they have top hat, snow"):
        maps["cat"]  # a word of the prompt
    assert maps["Top Hat"].shape == (2, 4, 4)
    assert "2 concepts: top hat, snow" in repr(maps)
    html = maps._repr_mimebundle_()["text/html"]
    assert "Which of these concepts each place is most like" in html
    assert "looked at" not in html
    assert "concept “snow”" in maps.figure("snow", steps=2).get_suptitle()


@pytest.mark.parametrize("kind", CASES)
def test_words_may_be_changed_besides(kind):
    """By weight in every layer, or for others: the maps are of the picture that is made."""
    pipe, more = deep(kind), CASES[kind][2]
    asked = {"concepts": ("snow", "hat"), **QUICK, **more}
    plain = record(pipe, PROMPT, **asked)
    looked = {"attention": ("cat",), **QUICK, **more}
    with intervene(pipe, {"cat": 1}):
        same_weight = record(pipe, PROMPT, **asked)
        words = record(pipe, PROMPT, **looked).attention
    wanted = record(pipe, PROMPT, **looked).attention
    assert [one.name for one in words.layers] == [one.name for one in wanted.layers]
    for one, other in zip(words.maps, wanted.maps, strict=True):
        assert np.abs(one - other).max() <= 1e-5
    assert [one.name for one in same_weight.attention.layers] == [
        one.name for one in plain.attention.layers
    ]
    assert np.abs(same_weight.attention["snow"] - plain.attention["snow"]).max() <= 1e-5
    with intervene(pipe, {"cat": 50}):
        changed = record(pipe, PROMPT, **asked)
    assert np.abs(changed.attention["snow"][0] - plain.attention["snow"][0]).max() > 1e-3
    with intervene(pipe, "a dog"):
        other = record(pipe, PROMPT, **asked).attention
    assert np.abs(other["snow"] - plain.attention["snow"]).max() > 1e-4


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ({"concepts": "snow"}, ValueError, "two or more.*got 'snow'; name what else"),
        ({"concepts": []}, ValueError, r"two or more.*got \[\]; name what else"),
        ({"concepts": [f"snow {i}" for i in range(65)]}, ValueError, "64, got 65; name fewer"),
        ({"concepts": ["snow"]}, ValueError, "two or more"),
        ({"concepts": ("snow", 3)}, TypeError, "concepts must be words"),
        ({"concepts": ("snow", "!")}, ValueError, "letters or digits, got '!'; name it"),
        ({"concepts": ("snow", "Snow")}, ValueError, "got 'Snow' twice; drop one"),
        ({"concepts": ("snow", "hat"), "attention": "cat"}, ValueError, "not both"),
        ({"concepts": ("snow", "hat " * 513)}, ValueError, "'hat hat .* is cut off; shorten it"),
        ({"concept": ("snow", "hat")}, TypeError, "did you mean 'concepts'"),
        (
            {"concepts": ("snow", "hat"), "attention_bytes": 100},
            ValueError,
            "take 512 bytes .2 steps, 2 layers.*allows 100; give fewer concepts",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:The text .* is cut")
def test_what_is_asked_must_be_concepts(flux, call, error, words):
    with pytest.raises(error, match=words):
        record(flux, PROMPT, **QUICK, **call)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in flux.transformer.modules())


def test_other_pipelines_refuse_with_a_reason():
    asked = {"concepts": ("snow", "hat")}
    with pytest.raises(ValueError, match="UNet2DConditionModel has none of those; take words"):
        record(tiny.pipeline(size="small"), PROMPT, **asked, **QUICK)
    call = {**tiny_families.FLUX_CALL, "seed": 7}
    with pytest.raises(ValueError, match=r"loaded without its text_encoder; load it whole"):
        record(tiny_families.flux(), **asked, **call)


def test_small_pieces_and_another_thread_change_nothing(flux):
    make = torch.Generator().manual_seed(0)
    x, c = torch.randn(2, 9, 4, generator=make), torch.randn(2, 3, 4, generator=make)
    wanted = torch.softmax((c[:, :, None] * x[:, None]).sum((0, 3)), 0)
    for work in (1, 70, 10**6):
        assert (alike(x, c, work) - wanted).abs().max() < 1e-6
    given = []

    def note(module, args, kwargs):
        given.append(kwargs)

    hook = flux.transformer.register_forward_pre_hook(note, with_kwargs=True)
    asked = {"concepts": ("snow", "hat"), **QUICK}
    alone = record(flux, PROMPT, **asked).attention
    hook.remove()

    def another(step):
        """The same network at work elsewhere, between two steps."""
        thread = threading.Thread(target=lambda: flux.transformer(**given[0]))
        thread.start()
        thread.join()

    beside = record(flux, PROMPT, on_step=another, **asked).attention
    assert np.array_equal(beside["snow"], alone["snow"])
