"""Attention maps, made while a pipeline runs.

The queries and keys of every attention to words are looked at once more, beside the run
(watching.py): the softmax runs over all keys, a piece of the queries at a time, and only the
columns of the wanted words are kept of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ldmkit.check import short, whole
from ldmkit.loading.families import Family
from ldmkit.recording.tokens import Reading, as_read, check_tokenizer, readings
from ldmkit.recording.truncation import Heard
from ldmkit.recording.watching import Run, Seen, Watcher, rows_with_words
from ldmkit.records.attention import AttentionMaps, Layer

__all__ = ["Loop", "MapRecorder", "check_attention", "loop_of", "maps_of"]

WORK = 8 * 2**20  # bytes that one piece of a softmax takes


def check_attention(
    keep: Any, attention: Any, most: Any
) -> tuple[Any, tuple[str, ...] | None, int]:
    """What is asked of maps: (``keep`` without them, the words, bytes).

    The words are ``None`` where no maps are wanted and empty where all are.

    Raises:
        TypeError: a wrong type.
        ValueError: no word, or bytes out of range.
    """
    most = whole("attention_bytes", most, 1, 2**40)
    if isinstance(keep, (list, tuple)) and "attention" in keep:
        keep = tuple(name for name in keep if name != "attention")
        asked: tuple[str, ...] | None = ()
    else:
        asked = () if isinstance(keep, str) and keep == "attention" else None
        keep = () if asked == () else keep
    if attention is None:
        return keep, asked, most
    words = (attention,) if isinstance(attention, str) else attention
    if not isinstance(words, (list, tuple)) or not all(isinstance(one, str) for one in words):
        raise TypeError(
            'attention must be words of the prompt like ("hat", "cat"), or None, got '
            f'{short(attention)}; all words: keep=("latents", "denoised", "attention").'
        )
    if not words or not all(one.strip() for one in words):
        raise ValueError('attention must name one word or more, got none; write ("hat", "cat").')
    return keep, tuple(words), most


@dataclass
class Loop:
    """What stands for a pipeline where a reader's own loop asks the network.

    Nobody says what such a loop is made of, so maps are kept of what can't be mistaken: one
    call a step, words by cross-attention, guidance's half without words first.
    """

    tokenizer: Any


def loop_of(scheduler: Any, networks: Sequence[Any], prompt: Any, tokenizer: Any) -> Loop:
    """Refuses a loop in which no words can be found.

    Raises:
        ValueError: what is missing.
        TypeError: no tokenizer.
    """
    given = {
        "its scheduler": scheduler is not None,
        "its network": bool(networks),
        'prompt="a red cat"': bool(prompt),
        "tokenizer=pipe.tokenizer": callable(tokenizer),
    }
    if missing := [name for name, there in given.items() if not there]:
        raise ValueError(
            "Attention maps of a loop of your own need its scheduler, its network, its prompt and "
            f"the prompt's tokenizer; give recorder {', '.join(missing)}, or leave attention out."
        )
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a processor's, or a pipeline's
    check_tokenizer(tokenizer)
    return Loop(tokenizer)


def maps_of(
    query: torch.Tensor,
    key: torch.Tensor,
    columns: Sequence[Sequence[int]],
    *,
    scale: float | None = None,
    mask: torch.Tensor | None = None,
    causal: bool = False,
    heads: bool = True,
    work: int = WORK,
) -> torch.Tensor:
    """softmax(Q Kᵀ · scale) over all keys, of which the columns of some rows are kept.

    Args:
        query: (heads, queries, d).
        key: (heads, keys, d), or of fewer heads that several queries share.
        columns: for each row the keys that are added in it.
        scale: by default 1/√d.
        mask: what broadcasts to (heads, queries, keys): added, or ``False`` where none may look.
        causal: each query sees the keys up to its own place.
        heads: whether each head is kept, else their mean.
        work: bytes of the largest array on the way.

    Returns:
        (rows, heads or 1, queries) float32.
    """
    count, queries, d = query.shape
    shared = count // key.shape[0]
    keys, scale = key.shape[1], d**-0.5 if scale is None else scale
    together = 4 * keys * count * min(queries, 64) <= work
    groups = [range(count)] if together else [range(i, i + 1) for i in range(count)]
    flat = torch.tensor([c for own in columns for c in own], device=query.device)
    row_of = torch.tensor([r for r, own in enumerate(columns) for _ in own], device=query.device)
    out = query.new_zeros(len(columns), count if heads else 1, queries, dtype=torch.float32)
    for group in groups:
        k = key[[h // shared for h in group]].float().transpose(1, 2)  # (g, d, keys)
        step = max(1, work // (4 * keys * len(group)))
        for start in range(0, queries, step):
            here = slice(start, min(start + step, queries))
            scores = torch.matmul(query[group.start : group.stop, here].float(), k).mul_(scale)
            _masked(scores, mask, causal, group, here)
            scores.sub_(scores.amax(-1, keepdim=True)).exp_()
            total = scores.sum(-1, keepdim=True)
            part = scores.index_select(-1, flat).div_(total)  # (g, q, columns)
            rows = part.new_zeros(len(columns), *part.shape[:2])
            rows.index_add_(0, row_of, part.permute(2, 0, 1))
            if heads:
                out[:, group.start : group.stop, here] = rows
            else:
                out[:, 0, here] += rows.sum(1) / count
            del scores, part, rows
    return out


def _masked(
    scores: torch.Tensor, mask: torch.Tensor | None, causal: bool, group: range, here: slice
) -> None:
    """Writes a mask into (g, q, keys) scores."""
    if causal:
        at = torch.arange(here.start, here.stop, device=scores.device)[:, None]
        later = torch.arange(scores.shape[-1], device=scores.device) > at
        scores.masked_fill_(later, -math.inf)
    if mask is None:
        return
    mask = mask[group.start : group.stop] if mask.ndim == 3 and mask.shape[0] > 1 else mask
    mask = mask[..., here, :] if mask.ndim > 1 and mask.shape[-2] > 1 else mask
    if mask.dtype == torch.bool:
        scores.masked_fill_(~mask, -math.inf)
    else:
        scores.add_(mask)


class MapRecorder(Watcher):
    """Keeps the maps of a run: for each step, layer and picture.

    Attributes:
        fewer: what of a run would take less room, in words.
        of_concepts: whether the maps are of concepts (concepts.py).

    Args:
        pipe: the pipeline.
        family: of its kind.
        call: the keywords of the run; the prompt among them.
        wanted: words whose maps are kept; empty for every token.
        most: bytes that all maps may take. Each head is kept where that takes an eighth at most,
            else the mean of a layer's heads.
        scheduler: says how many steps there will be.
        heard: what the text encoders were given to read, where somebody listened.
    """

    fewer = 'fewer words (attention=("hat",))'
    of_concepts = False

    def __init__(
        self,
        pipe: Any,
        family: Family,
        call: Mapping[str, Any],
        wanted: Sequence[str],
        most: int,
        scheduler: Any,
        heard: Heard | None = None,
    ) -> None:
        super().__init__(family)
        self.heard = heard
        self.pipe, self.call, self.wanted, self.most = pipe, call, wanted, most
        self.scheduler = scheduler
        self.heads, self.texts = True, self._texts()
        self.readings: list[Reading] = []
        self.names: dict[str, int] = {}  # layer -> heads, in the order of a step
        self.steps: list[dict[str, list[torch.Tensor]]] = []
        self._now: dict[str, list[torch.Tensor]] = {}
        self._calls = self._bytes = self._needed = 0
        self._made: AttentionMaps | None = None
        if wanted and isinstance(call.get("prompt"), (str, list, tuple)):
            for one in readings(pipe, family, call, 2**16):  # a misspelt word costs no step
                one.only(wanted)

    def _texts(self) -> int:
        prompts = self.call.get("prompt")
        if isinstance(prompts, (list, tuple)):
            return len(prompts)
        embeds = self.call.get("prompt_embeds")
        return len(embeds) if prompts is None and isinstance(embeds, torch.Tensor) else 1

    @property
    def pictures(self) -> int:
        """Made side by side."""
        each = self.call.get("num_images_per_prompt") or self.call.get("num_videos_per_prompt")
        return self.texts * (each if isinstance(each, int) else 1)

    def network(self, module: torch.nn.Module, given: dict[str, Any]) -> dict[str, Any]:
        """Counts the calls within a step."""
        self._calls += 1
        return given

    def begin(self, module: torch.nn.Module, given: Mapping[str, Any]) -> None:
        """Finds the words among the keys, once."""
        super().begin(module, given)
        if not self.readings and self.length:
            self._check_alone()
            every = readings(self.pipe, self.family, self.call, self.length)
            self.readings = [one.only(self.wanted) if self.wanted else one for one in every]

    def _check_alone(self) -> None:
        """Refuses words that the pipeline put among others: which key is which word isn't known.

        Raises:
            ValueError: such as Lumina 2's, behind a sentence for the system.
        """
        prompts, heard = self.call.get("prompt") or (), self.heard
        if heard is None:
            return
        for part in (part for part in self.family.text_tokens if isinstance(part, str)):
            tokenizer = getattr(self.pipe, part, None)
            for text in [prompts] if isinstance(prompts, str) else prompts:
                if heard.framed(part, as_read(self.pipe, tokenizer, text)):
                    raise ValueError(
                        f"{type(self.pipe).__name__} puts words of its own round the prompt, and "
                        "nobody described where they end, so attention can't be told by words; "
                        "leave attention out."
                    )

    def attend(self, seen: Seen, run: Run) -> torch.Tensor:
        """Runs the attention as it is, then looks at the same queries and keys again."""
        output = run()
        rows = self._rows()
        if rows is not None:
            with torch.no_grad():
                made = functools.partial(self._softmax, seen)
                self._keep(seen, rows, seen.query.shape[1], made)
        return output

    def _rows(self) -> range | None:
        """Which rows of this call's batch read the words."""
        if not self.readings:
            return None
        return rows_with_words(self, self.pictures, self._calls - 1, self.pipe)

    def _keep(
        self, seen: Seen, rows: range, heads: int, made: Callable[[int, Reading], torch.Tensor]
    ) -> None:
        """Keeps the maps of each picture, (rows, heads or 1, places); ``made`` makes one's."""
        each = self.pictures // len(self.readings)
        half = seen.query.dtype in (torch.float16, torch.bfloat16)
        name = seen.layer
        while name in self._now:  # one module that looks twice in a step
            name += "+"
        self.names.setdefault(name, heads)
        kept = []
        for picture, row in enumerate(rows):
            reading = self.readings[picture // each]
            if self._fits(len(reading.columns), heads, seen.picture, half):
                found = made(row, reading)
                kept.append(found.half() if half else found)
        self._now[name] = kept

    def _softmax(self, seen: Seen, row: int, reading: Reading) -> torch.Tensor:
        if isinstance(self.pipe, Loop) and seen.text != slice(0, seen.key.shape[2]):
            raise ValueError(
                f"In {seen.layer} words and picture attend jointly, and only a pipeline says where "
                "the words stand there; take ldmkit.record(pipe, ...), or leave attention out."
            )
        columns = [[seen.text.start + c for c in own] for own in reading.columns]
        mask = seen.options.get("attn_mask")
        if mask is not None and mask.ndim == 4:
            mask = mask[row if len(mask) > 1 else 0]
        return maps_of(
            seen.query[row, :, seen.picture],
            seen.key[row],
            columns,
            scale=seen.options.get("scale"),
            mask=mask,
            causal=bool(seen.options.get("is_causal")),
            heads=self.heads,
        )

    def _fits(self, rows: int, heads: int, places: slice, half: bool) -> bool:
        """Whether there is room; where each head is too much, their mean is kept from here on."""
        if self.steps:
            return True
        size = rows * (places.stop - places.start) * (2 if half else 4)
        self._needed += size
        self._bytes += size * (heads if self.heads else 1)
        if self.heads and self._bytes * self._count > self.most // 8:
            self.heads = False
            for name, kept in self._now.items():
                self._now[name] = [one.mean(1, keepdim=True) for one in kept]
            self._bytes = self._needed
        return self._needed * self._count <= self.most

    @property
    def _count(self) -> int:
        """Steps of this run."""
        own = getattr(self.pipe, "_num_timesteps", None)
        listed = getattr(self.scheduler, "timesteps", None)
        return int(own or (0 if listed is None else len(listed)) or 1)

    def step(self, batch: int) -> None:
        """Ends a step, of so many pictures.

        Raises:
            ValueError: after the first: the maps would not fit, or none were seen.
        """
        if not self.steps:
            if isinstance(self.pipe, Loop):
                self._check_loop(batch)
            self._check_first()
        self.steps.append(self._now)
        self._now, self._calls = {}, 0

    def _check_loop(self, batch: int) -> None:
        if batch != self.pictures:
            raise ValueError(
                f"prompt must hold the words of each of the loop's {batch} pictures for their "
                f"maps, got {self.pictures}; give recorder a list."
            )
        if self._calls > 1:
            raise ValueError(
                f"The loop asks its network {self._calls} times a step, and nobody says which is "
                "with the words; ask once, both halves in one batch, the one without words first."
            )

    def _check_first(self) -> None:
        needed = self._needed * self._count
        if needed > self.most:
            raise ValueError(
                f"The attention maps of this run take {needed:,} bytes ({self._count} steps, "
                f"{len(self.names)} layers), attention_bytes allows {self.most:,}; give "
                f"{self.fewer}, fewer steps, or attention_bytes={needed}."
            )
        if not self._now:
            loop = isinstance(self.pipe, Loop)
            who = "this loop" if loop else type(self.pipe).__name__
            raise ValueError(
                f"No attention to words was heard in the first step of {who}: its layers compute "
                "it out of sight, or nobody described where its words stand; leave "
                f"{'concepts' if self.of_concepts else 'attention'} out."
            )

    def record(
        self, count: int, latents: torch.Tensor | None, ratio: float
    ) -> AttentionMaps | None:
        """The maps of the last ``count`` steps.

        Args:
            count: steps of the record.
            latents: of a step; (b, c, h, w), or packed (b, places, c).
            ratio: height over width of the picture, where packed latents don't say it.
        """
        if self._made is not None:
            return self._made
        steps = self.steps[len(self.steps) - count :]
        if not steps or not self.names:
            return None
        if latents is not None and latents.ndim == 4:
            ratio = latents.shape[-2] / latents.shape[-1]
        packed = latents.shape[1] if latents is not None and latents.ndim == 3 else None
        each = self.pictures // len(self.readings)
        layers: list[Layer] = []
        maps: list[list[Any]] = [[] for _ in range(self.pictures)]
        for name, heads in self.names.items():
            parts = [step.pop(name, None) for step in steps]  # one layer at a time leaves memory
            for i in range(self.pictures):
                array = _stacked([None if part is None else part[i] for part in parts], packed)
                height, width = _sides(array.shape[-1], ratio)
                maps[i].append(array.reshape(*array.shape[:-1], height, width))
            layers.append(Layer(name, height, width, heads))
        found: list[dict[str, Any]] = [
            {
                "prompt": reading.text,
                "tokens": tuple(reading.tokens),
                "words": tuple(reading.words),
                "rows": tuple(map(tuple, reading.rows)),
                "layers": tuple(layers),
                "maps": tuple(maps[i]),
                "concepts": self.of_concepts,
            }
            for i in range(self.pictures)
            for reading in [self.readings[i // each]]
        ]
        others = tuple(AttentionMaps(**one) for one in found[1:])
        self._made = AttentionMaps(**found[0], others=others)
        return self._made


def _stacked(parts: Sequence[torch.Tensor | None], packed: int | None) -> np.ndarray[Any, Any]:
    """(steps, rows, heads, places); NaN where a layer was skipped (a cache of other steps)."""
    known = next(part for part in parts if part is not None)
    whole_run = [torch.full_like(known, math.nan) if part is None else part for part in parts]
    # Behind packed places there may be those of a picture that was put beside.
    return torch.stack(whole_run)[..., :packed].cpu().numpy()


def _sides(places: int, ratio: float) -> tuple[int, int]:
    """(height, width) of so many places, nearest to the picture's."""
    pairs = [(h, places // h) for h in range(1, places + 1) if places % h == 0]
    return min(pairs, key=lambda hw: abs(math.log(hw[0] / hw[1] / ratio)))
