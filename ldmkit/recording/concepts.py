"""Maps of concepts that are not in the prompt: ConceptAttention (arXiv 2502.04320).

Where words and picture attend to each other jointly (FLUX, SD 3), tokens of a few concepts go
through the same blocks beside the words, by the words' own weights. They look at the picture's
tokens and at each other, and nothing looks at them, so that the picture is the same to the bit:

    o_c = softmax(q_c [k_c, k_x]ᵀ / √d) [v_c, v_x]

A concept's map in a block is how much more like it, among the concepts, the picture's own output
of the attention is at each place (dot products before the projection, heads side by side):

    φ(x, c) = softmax over c of (o_x · o_c)

The authors found these maps sharper than those of the words' attention weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ldmkit.check import short
from ldmkit.loading.families import Family, family_of
from ldmkit.recording.attention import WORK, MapRecorder
from ldmkit.recording.call import check_prompt
from ldmkit.recording.intervene import check_encoders, encoded
from ldmkit.recording.tokens import Reading, readings
from ldmkit.recording.truncation import Heard
from ldmkit.recording.watching import Run, Seen, Watcher, check_visible
from ldmkit.records.attention import split_words

__all__ = ["ConceptRecorder", "alike", "check_concepts", "map_recorder"]

MOST = 64  # concepts
# Blocks of FLUX and SD 3: their halves for words have one set of names, which `_told` follows.
_JOINT = ("FluxTransformerBlock", "JointTransformerBlock")


def check_concepts(concepts: Any, words: Sequence[str] | None) -> tuple[str, ...]:
    """The concepts that are asked for; none where ``None`` was given.

    Args:
        concepts: anything.
        words: of the prompt, whose maps are asked for; ``None``: none are.

    Raises:
        TypeError: no list of words.
        ValueError: one alone, one twice, one without letters, or words of the prompt besides.
    """
    if concepts is None:
        return ()
    like = 'like concepts=("cat", "grass", "sky")'
    if isinstance(concepts, str) or (isinstance(concepts, (list, tuple)) and len(concepts) < 2):
        raise ValueError(
            "concepts must be two or more, since a map tells which of them each place is most "
            f"like, got {short(concepts)}; name what else there may be, {like}."
        )
    if not isinstance(concepts, (list, tuple)) or not all(isinstance(c, str) for c in concepts):
        raise TypeError(f"concepts must be words, {like}, or None, got {short(concepts)}.")
    check_prompt("concepts", concepts)
    found = tuple(" ".join(one.split()) for one in concepts)
    for one in found:
        if not split_words(one):
            raise ValueError(
                f"Each concept must have letters or digits, got {short(one)}; name it in words."
            )
    if len(found) > MOST:
        raise ValueError(f"concepts must be at most {MOST}, got {len(found)}; name fewer.")
    twice = [one for i, one in enumerate(found) if one.lower() in map(str.lower, found[:i])]
    if twice:
        raise ValueError(f"Each concept must be another, got {short(twice[0])} twice; drop one.")
    if words is not None:
        raise ValueError(
            "Give attention or concepts, not both; record once with each: the same seed draws the "
            "same picture, and a word of the prompt can be a concept, too."
        )
    return found


def map_recorder(
    pipe: Any,
    networks: Sequence[torch.nn.Module],
    call: Mapping[str, Any],
    scheduler: Any,
    words: Sequence[str] | None,
    concepts: Sequence[str],
    most: int,
    heard: Heard | None = None,
) -> MapRecorder | None:
    """What keeps the maps of a run, of words or of concepts; ``None`` where none are asked for.

    Raises:
        ValueError: the network's attention can't be heard, or it has none of that kind.
    """
    if not concepts and words is None:
        return None
    check_visible(pipe, networks, "concepts" if concepts else "attention")
    if not concepts:
        return MapRecorder(pipe, family_of(pipe), call, words or (), most, scheduler, heard)
    _check_joint(pipe, networks)
    return ConceptRecorder(pipe, family_of(pipe), call, concepts, most, scheduler)


def _check_joint(pipe: Any, networks: Sequence[torch.nn.Module]) -> None:
    for network in networks:
        if not joint_blocks(network):
            raise ValueError(
                "concepts go through blocks where words and picture attend to each other jointly, "
                f"as FLUX and SD 3 have them, and {type(network).__name__} has none of those; "
                'take words of the prompt: attention=("hat", "cat").'
            )
    check_encoders(pipe)
    reader = family_of(pipe).text_tokens[0]
    if getattr(pipe, str(reader), None) is None:
        raise ValueError(
            f"concepts must be read by the pipeline's own {reader} and text encoder, and this "
            f"{type(pipe).__name__} was loaded without; load it whole."
        )


def joint_blocks(network: torch.nn.Module) -> dict[str, Any]:
    """The blocks that concepts go through, by the name of their attention."""
    return {
        f"{name}.attn": block
        for name, block in network.named_modules()
        if any(kind.__name__ in _JOINT for kind in type(block).__mro__)
    }


class ConceptRecorder(MapRecorder):
    """Keeps the maps of concepts, as ``MapRecorder`` those of words.

    A concept begins as the network's embedding of what the family's first text encoder (FLUX: T5,
    SD 3: CLIP) makes of it alone; of several tokens it is their mean. As in the authors' code for
    SD 3, concepts are modulated by the vector that modulates the words.
    """

    fewer = "fewer concepts"
    of_concepts = True

    def __init__(
        self,
        pipe: Any,
        family: Family,
        call: Mapping[str, Any],
        concepts: Sequence[str],
        most: int,
        scheduler: Any,
    ) -> None:
        super().__init__(pipe, family, call, (), most, scheduler)
        self.heads = False  # their outputs are one vector
        self.concepts = tuple(concepts)
        self._blocks: dict[str, Any] = {}
        self._network: Any = None
        self._embeds: Any = None  # (concepts, d) as the encoder gives them
        self._state: Any = None  # (pictures, concepts, d) between two blocks
        self._given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})  # what modulates the words
        self._been: set[str] = set()  # blocks of this call of the network

    def hooks(self, module: torch.nn.Module) -> Iterable[Any]:
        """Notes in each block what its words are modulated by."""
        self._blocks |= joint_blocks(module)
        for block in joint_blocks(module).values():
            yield block.norm1_context.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.here:
            self._given = args[1:], kwargs

    def begin(self, module: torch.nn.Module, given: Mapping[str, Any]) -> None:
        """Begins a call of the network; the concepts are read once in a run."""
        Watcher.begin(self, module, given)
        self._network, self._state, self._been = module, None, set()
        if self._embeds is None:
            self._embeds = _read(self.pipe, self.concepts, self.call)
            prompts, names = self.call.get("prompt") or "", [*self.concepts]
            texts = [prompts] * self.texts if isinstance(prompts, str) else prompts
            rows = [[i] for i in range(len(names))]
            self.readings = [Reading(str(text), names, rows, names, rows) for text in texts]

    def attend(self, seen: Seen, run: Run) -> torch.Tensor:
        """Runs the attention as it is, then lets the concepts look, beside it."""
        output = run()
        rows, block = self._rows(), self._blocks.get(seen.layer)
        if rows is None or block is None:
            return output
        if seen.layer in self._been:
            raise ValueError(
                f"{seen.layer} attends twice in a call of the network, as for perturbed attention, "
                "and concepts can follow it once; leave that or the concepts out."
            )
        self._been.add(seen.layer)
        with torch.no_grad():
            if self._state is None:
                first = self._network.context_embedder(self._embeds.to(seen.query))
                self._state = first.expand(len(rows), *first.shape)
            looked, gates = self._look(block, seen, rows, self._state)

            def made(row: int, reading: Reading) -> torch.Tensor:
                return alike(output[row, :, seen.picture], looked[row - rows.start])[:, None]

            self._keep(seen, rows, 1, made)
            self._state = _next(block, self._state, looked, gates) if gates else None
        return output

    def _look(
        self, block: Any, seen: Seen, rows: range, state: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """What the concepts' attention gives, (pictures, heads, concepts, d), and the gates."""

        def ours(value: Any) -> Any:
            batched = isinstance(value, torch.Tensor) and len(value) == self.batch
            return value[rows.start : rows.stop] if batched else value

        args, named = self._given
        found = block.norm1_context(
            state, *map(ours, args), **{name: ours(value) for name, value in named.items()}
        )
        # The last block of SD 3 modulates what its words are asked, and hands them on no more.
        normed, *gates = found if isinstance(found, tuple) else (found,)
        attn, heads = block.attn, seen.query.shape[1]
        q, k, v = (
            part(normed).unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        )
        # FLUX turns by place, and words stand at place 0, where nothing turns.
        q = q if attn.norm_added_q is None else attn.norm_added_q(q)
        k = k if attn.norm_added_k is None else attn.norm_added_k(k)
        first = seen.text.start == 0  # the words stand before the picture, or after it
        picture = slice(seen.text.stop, None) if first else slice(seen.text.start)
        looked = torch.stack(
            [
                _attended(q[i], k[i], v[i], seen.key[row, :, picture], seen.value[row, :, picture])
                for i, row in enumerate(rows)
            ]
        )
        return looked, tuple(gates)


def _attended(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """softmax(q [k, keys]ᵀ / √d) [v, values] of (heads, tokens, d)."""
    out = torch.empty_like(q)
    for h in range(len(q)):  # a head at a time: large models' keys are not copied all at once
        seen = torch.cat([k[h], keys[h]]).float()
        weights = torch.softmax(q[h].float() @ seen.T * q.shape[-1] ** -0.5, dim=-1)
        out[h] = (weights @ torch.cat([v[h], values[h]]).float()).to(out.dtype)
    return out


def alike(places: torch.Tensor, concepts: torch.Tensor, work: int = WORK) -> torch.Tensor:
    """φ: how much more each place is like each concept than like the others.

    Args:
        places: (heads, places, d) outputs of the picture's attention.
        concepts: (heads, concepts, d) outputs of the concepts'.
        work: bytes of the largest array on the way.

    Returns:
        (concepts, places) float32, which sums to 1 over the concepts.
    """
    heads, count, d = places.shape
    step = max(1, work // (4 * heads * d))
    parts = [
        torch.einsum("hpd,hcd->cp", places[:, i : i + step].float(), concepts.float())
        for i in range(0, count, step)
    ]
    return torch.softmax(torch.cat(parts, dim=1), dim=0)


def _next(
    block: Any, state: torch.Tensor, looked: torch.Tensor, gates: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    """The concepts after a block, (pictures, concepts, d): what it does with its words."""
    gate, shift, scale, gate_mlp = (part[:, None] for part in gates)
    side_by_side = looked.transpose(1, 2).flatten(2)  # (p, concepts, heads · d)
    state = state + gate * block.attn.to_add_out(side_by_side)
    normed = block.norm2_context(state) * (1 + scale) + shift
    state = state + gate_mlp * block.ff_context(normed)
    return state.clip(-65504, 65504) if state.dtype == torch.float16 else state


def _read(pipe: Any, concepts: Sequence[str], call: Mapping[str, Any]) -> torch.Tensor:
    """(concepts, d): each read alone, the mean of its tokens by the family's first encoder.

    Raises:
        ValueError: one is cut off.
    """
    embeds = encoded(pipe, list(concepts), call)["embeds"]  # (concepts, tokens, d)
    family = family_of(pipe)
    first = replace(family, text_tokens=family.text_tokens[:1])
    each = readings(pipe, first, {"prompt": list(concepts)}, embeds.shape[1])
    means = []
    for own, reading in zip(embeds, each, strict=True):
        if not all(reading.rows):
            raise ValueError(f"The concept {short(reading.text)} is cut off; shorten it.")
        rows = dict.fromkeys(row for rows in reading.rows for row in rows)
        means.append(own[[c for row in rows for c in reading.columns[row]]].mean(0))
    return torch.stack(means)
