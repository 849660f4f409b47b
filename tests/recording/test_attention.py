"""Attention maps against softmax(QKᵀ/√d) in attention processors of this test's own."""

import math

import numpy as np
import pytest
import tiny
import tiny_encoders
import torch
from diffusers.models.attention_processor import AttnProcessor, SlicedAttnProcessor
from diffusers.models.embeddings import apply_rotary_emb
from tiny_encoders import same

from ldmkit.recording import record, recorder
from ldmkit.recording.attention import maps_of
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

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):  # (mask, rotary embedding)
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
        assert np.allclose([m.sum(1) for m in maps.maps][0], 1, atol=1e-5)
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
