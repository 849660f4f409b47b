"""Attention heard as it happens: which layer looks, with which words, and the maps of it.

``watched`` stands in a network's forward and round every ``scaled_dot_product_attention`` in it
(a ``TorchFunctionMode``): no attention processor is replaced, so a picture stays the same to the
bit. Who looks at what is told from lengths:

    cross-attention     keys are the words                  U-Nets, PixArt, Sana
    with added keys     keys are the words, then the picture          Karlo, DeepFloyd IF
    joint attention     keys and queries are words and picture; FLUX puts the words first, SD 3 last

The softmax runs over all keys, a piece of the queries at a time, and only the columns of the
wanted words are kept of it (``maps_of``).
"""

from __future__ import annotations

import functools
import inspect
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ldmkit.check import did_you_mean, short, whole
from ldmkit.loading.families import Family
from ldmkit.records.attention import PADDING, AttentionMaps, Layer, find, split_words

__all__ = [
    "MapRecorder",
    "Seen",
    "Watcher",
    "check_attention",
    "check_visible",
    "layers_of",
    "maps_of",
    "rows_with_words",
    "watched",
]

WORK = 8 * 2**20  # bytes that one piece of a softmax takes
Run = Callable[..., torch.Tensor]


# --- a network's attention, heard ----------------------------------------------------------------


class Seen(NamedTuple):
    """One attention of the picture to the words, as it is about to run.

    Attributes:
        layer: name of the module.
        query: (batch, heads, queries, d).
        key: (batch, heads, keys, d).
        value: (batch, heads, keys, d).
        options: further keywords of ``scaled_dot_product_attention``.
        text: which of the keys are words.
        picture: which of the queries are places of the picture.
    """

    layer: str
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    options: dict[str, Any]
    text: slice
    picture: slice


class Watcher:
    """What ``watched`` asks; each method may be left as it is.

    Attributes:
        family: says where the words stand among the keys.
        length: tokens of text in this call of the network.
        places: of the picture, in this call.
        batch: pictures, guidance's second halves among them.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self.length = self.places = self.batch = 0
        self._layer: tuple[str, int | None] | None = None

    def network(self, module: torch.nn.Module, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the network's forward by name; those that come back are taken."""
        return given

    def layer(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        """The keywords of an attention module, the same way."""
        return given

    def attend(self, seen: Seen, run: Run) -> torch.Tensor:
        """The attention's output; ``run(query=...)`` computes it, with other parts if wanted."""
        return run()

    def begin(self, module: torch.nn.Module, given: Mapping[str, Any]) -> None:
        """Notes how many tokens and places a call of the network has."""
        words, sample = given.get("encoder_hidden_states"), _sample(given)
        self.length = words.shape[1] if isinstance(words, torch.Tensor) and words.ndim == 3 else 0
        self.batch = 0 if sample is None else len(sample)
        self.places = _places(module, sample)

    def seen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Seen | None:
        """This attention, if the picture looks at the words in it."""
        if self._layer is None or not self.length:
            return None
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
        given = dict(zip(names, args, strict=False)) | kwargs
        query, key, value = (given.pop(name) for name in names[:3])
        name, own = self._layer
        ends = self._ends(query.shape[-2], key.shape[-2], own)
        return ends and Seen(name, query, key, value, given, *ends)

    def _ends(self, queries: int, keys: int, own: int | None) -> tuple[slice, slice] | None:
        """(which keys are words, which queries are picture), or ``None``."""
        extra = sum(part for part in self.family.text_tokens if isinstance(part, int))
        if own is not None and own == keys and own in (self.length, self.length + extra):
            return slice(0, keys), slice(0, queries)
        if own is not None and keys == own + queries and keys != queries:
            return slice(0, own), slice(0, queries)
        text = keys - self.places
        if text not in (self.length, self.length + extra) or queries not in (keys, self.places):
            return None
        if self.family.text_last:
            return slice(self.places, keys), slice(0, self.places)
        return slice(0, text), slice(queries - self.places, queries)


def _sample(given: Mapping[str, Any]) -> torch.Tensor | None:
    found = next((given[name] for name in ("sample", "hidden_states") if name in given), None)
    return found if isinstance(found, torch.Tensor) else None


def _places(module: torch.nn.Module, sample: torch.Tensor | None) -> int:
    """Tokens of the picture where a transformer reads it; 0 where nothing tells."""
    if sample is None:
        return 0
    if sample.ndim == 3:
        return sample.shape[1]
    patch = getattr(getattr(module, "config", None), "patch_size", 1) or 1
    return math.prod(sample.shape[2:]) // (patch**2 if isinstance(patch, int) else 1)


def layers_of(network: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The attention modules of a network by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if name and (hasattr(module, "processor") or "Attention" in type(module).__name__)
        if any(True for _ in module.parameters(recurse=False)) or len(list(module.children()))
    }


@contextmanager
def watched(network: torch.nn.Module, watcher: Watcher) -> Iterator[None]:
    """Lets a watcher hear the attention of a network while the block runs."""
    forward = network.forward
    signature, mode = inspect.signature(forward), _Mode(watcher)
    earlier = vars(network).get("forward")

    @functools.wraps(forward)  # pipelines and others read its signature
    def heard(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        given = watcher.network(network, _flat(signature, bound.arguments))
        watcher.begin(network, given)
        try:
            with mode:
                return forward(**given)
        finally:
            watcher._layer = None

    def enter(name: str) -> Any:
        def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            kwargs = watcher.layer(name, kwargs)
            words = kwargs.get("encoder_hidden_states")
            words = words[0] if isinstance(words, tuple) else words  # an IP-Adapter's beside it
            watcher._layer = name, None if words is None else words.shape[1]
            return args, kwargs

        return hook

    def leave(module: Any, args: Any, output: Any) -> None:
        watcher._layer = None

    with ExitStack() as stack:
        for name, module in layers_of(network).items():
            pre = module.register_forward_pre_hook(enter(name), with_kwargs=True)
            stack.callback(pre.remove)
            stack.callback(module.register_forward_hook(leave).remove)
        stack.callback(_put_back, network, earlier)
        network.forward = heard
        yield


def _flat(signature: inspect.Signature, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name; those of ``**kwargs`` beside the others."""
    kinds = {name: one.kind for name, one in signature.parameters.items()}
    flat: dict[str, Any] = {}
    for name, value in arguments.items():
        flat |= value if kinds[name] is inspect.Parameter.VAR_KEYWORD else {name: value}
    return flat


def _put_back(network: torch.nn.Module, earlier: Any) -> None:
    if earlier is None:
        vars(network).pop("forward", None)
    else:
        network.forward = earlier


class _Mode(TorchFunctionMode):
    """Sees every ``scaled_dot_product_attention`` of this thread."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self.watcher = watcher

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            seen = self.watcher.seen(args, kwargs)
            if seen is not None:
                return self.watcher.attend(seen, _running(func, seen))
        return func(*args, **kwargs)


def _running(func: Any, seen: Seen) -> Run:
    def run(**other: Any) -> torch.Tensor:
        parts = {"query": seen.query, "key": seen.key, "value": seen.value} | other
        found: torch.Tensor = func(
            parts.pop("query"), parts.pop("key"), parts.pop("value"), **{**seen.options, **parts}
        )
        return found

    return run


def rows_with_words(watcher: Watcher, pictures: int, call: int, pipe: Any) -> range | None:
    """Which rows of the network's batch read the prompt; ``None`` where nothing tells.

    Args:
        watcher: in a call of the network.
        pictures: that are made side by side.
        call: how many calls of this step came before. Of two the first has the words.
        pipe: the pipeline; perturbed attention puts its answers behind the others.
    """
    parts, rest = divmod(watcher.batch, pictures)
    if rest or parts not in (1, 2, 3):
        return None
    if parts == 1:
        return range(pictures) if call == 0 else None
    perturbed = bool(getattr(pipe, "do_perturbed_attention_guidance", False))
    alone = perturbed and not getattr(pipe, "do_classifier_free_guidance", True)
    first = watcher.family.words_first or alone or (parts == 3 and not perturbed)
    return range(pictures) if first else range(pictures, 2 * pictures)


# --- what is refused -----------------------------------------------------------------------------


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


def check_visible(pipe: Any, networks: Sequence[torch.nn.Module], what: str) -> None:
    """Refuses a network whose attention can't be heard or has no words.

    Raises:
        ValueError: the reason, and what to do.
    """
    if not networks:
        raise ValueError(
            f"{what} needs a network that predicts noise; {type(pipe).__name__} has "
            "none that ldmkit knows."
        )
    for network in networks:
        if _compiled(network):
            raise ValueError(
                f"{what} can't hear a compiled {type(network).__name__}: what torch.compile made "
                "passes no module; use the pipeline as it was before."
            )
        _check_words(network, what)
        for name, layer in layers_of(network).items():
            processor = getattr(layer, "processor", None)
            kind = type(processor).__name__
            backend = getattr(processor, "_attention_backend", None) or _backend()
            if str(getattr(backend, "value", backend)).startswith(("native", "None")):
                if not _hides(kind):
                    continue
                what_hides, mend = kind, "pipe.disable_attention_slicing(), or " + _DEFAULT
            else:
                what_hides, mend = f"the back end {backend}", 'set_attention_backend("native")'
            raise ValueError(
                f"{what} can't hear the attention of {name}: {what_hides} computes it out of "
                f"sight; {mend}."
            )


_DEFAULT = "set_attn_processor(AttnProcessor2_0()) on the network"


def _hides(kind: str) -> bool:
    """Processors that never call ``scaled_dot_product_attention``."""
    plain = ("AttnProcessor", "AttnAddedKVProcessor", "CustomDiffusionAttnProcessor")
    return kind.startswith(("Sliced", "XFormers", "XLA")) or kind in plain or "XFormers" in kind


def _backend() -> Any:
    from diffusers.models import attention_dispatch

    registry = getattr(attention_dispatch, "_AttentionBackendRegistry", None)
    return getattr(registry, "_active_backend", None)


def _compiled(network: torch.nn.Module) -> bool:
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in network.modules()
    )


def _check_words(network: torch.nn.Module, what: str) -> None:
    config = getattr(network, "config", {})
    kind = config.get("encoder_hid_dim_type") if hasattr(config, "get") else None
    if kind == "image_proj":
        raise ValueError(
            f"{what} needs words, and this {type(network).__name__} reads one embedding of a "
            "picture (the prior reads the words): there is nothing per word in it."
        )
    names = inspect.signature(network.forward).parameters
    if "encoder_hidden_states" not in names:
        raise ValueError(
            f"{what} needs words, and this {type(network).__name__} takes no "
            "encoder_hidden_states: it reads none in its attention, or ldmkit doesn't know how."
        )


# --- tokens --------------------------------------------------------------------------------------


@dataclass
class Reading:
    """How one text stands among the keys.

    Attributes:
        text: the words.
        tokens: names of the rows.
        columns: for each row the keys that are added in it.
        words: in their order.
        rows: for each word its rows.
    """

    text: str
    tokens: list[str] = field(default_factory=list)
    columns: list[list[int]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)

    def only(self, wanted: Sequence[str]) -> Reading:
        """The same with the rows of some words alone.

        Raises:
            ValueError: a word that isn't there; the nearest is told.
        """
        kept: set[int] = set()
        for word in wanted:
            spans = find(word, self.words)
            rows = [row for span in spans for i in span for row in self.rows[i]]
            rows = rows or [i for i, token in enumerate(self.tokens) if token == word]
            if not spans and not rows:
                known = list(dict.fromkeys(self.words))
                advice = did_you_mean(word, known, f"it has {', '.join(known)[:200]}.", 0.3)
                raise ValueError(
                    f"attention takes words of the prompt, got {short(word)}; {advice}"
                )
            if not rows:
                raise ValueError(
                    f"The prompt is cut before {short(word)}: no token of it is read; shorten it."
                )
            kept |= set(rows)
        order = sorted(kept)
        return Reading(
            self.text,
            [self.tokens[i] for i in order],
            [self.columns[i] for i in order],
            self.words,
            [[order.index(row) for row in rows if row in kept] for rows in self.rows],
        )


def readings(pipe: Any, family: Family, call: Mapping[str, Any], length: int) -> list[Reading]:
    """How each text of a call stands among ``length`` keys; numbers where there are no words."""
    prompts = call.get("prompt")
    if prompts is None:
        embeds = call.get("prompt_embeds")
        count = len(embeds) if embeds is not None else 1
        names = [f"token {i}" for i in range(length)]
        return [Reading("", list(names), [[i] for i in range(length)]) for _ in range(count)]
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    found = []
    for i, prompt in enumerate(prompts):
        reading, at = Reading(prompt), 0
        parts = family.text_tokens
        for k, part in enumerate(parts):
            if isinstance(part, int):
                at += part
                continue
            own = call.get(part.replace("tokenizer", "prompt"))
            own = own[i] if isinstance(own, (list, tuple)) else own
            tokenizer = getattr(pipe, part, None)
            tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
            last = k == len(parts) - 1
            width = length - at if last else min(length - at, _width(tokenizer, length))
            _read(reading, pipe, tokenizer, own or prompt, range(at, at + width))
            at += width
        found.append(reading)
    return found


def _width(tokenizer: Any, otherwise: int) -> int:
    most = getattr(tokenizer, "model_max_length", None)
    return most if isinstance(most, int) and most < 10**6 else otherwise


def _read(reading: Reading, pipe: Any, tokenizer: Any, text: str, keys: range) -> None:
    """Adds what one encoder reads of a text, on these keys."""
    spell = getattr(pipe, "maybe_convert_prompt", None)
    if callable(spell) and tokenizer is not None:
        text = spell(text, tokenizer)  # learnt words become several tokens
    if tokenizer is None:
        _add(reading, "unknown token", list(keys))
        return
    spans = split_words(text)
    if text == reading.text and reading.words:  # a second encoder of the same text
        first = 0
    else:
        first = len(reading.words)
        reading.words += [text[a:b] for a, b in spans]
        reading.rows += [[] for _ in spans]
    template = getattr(pipe, "prompt_template_encode", None)
    skip = getattr(pipe, "prompt_template_encode_start_idx", 0) if template else 0
    whole_text = template.format(text) if template else text
    ahead = whole_text.find(text) if template else 0
    ids, places = _tokens(tokenizer, whole_text)
    names = tokenizer.convert_ids_to_tokens(ids)
    special = set(tokenizer.all_special_tokens)
    for i, (name, (start, end)) in enumerate(zip(names, places, strict=True)):
        at = i - skip
        if not 0 <= at < len(keys):
            continue
        closing = i == len(ids) - 1 and name in special
        if len(ids) - skip > len(keys) and at == len(keys) - 1 and names[-1] in special:
            name, start, end, closing = names[-1], 0, 0, True  # a cut text keeps its end
        row = _add(reading, name if name in special else _plain(name), [keys[at]])
        for k, (a, b) in enumerate(spans):
            if not closing and start - ahead < b and end - ahead > a:
                reading.rows[first + k].append(row)
    used = max(0, min(len(ids) - skip, len(keys)))
    if used < len(keys):
        _add(reading, PADDING, list(keys[used:]))


def _tokens(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids, and where each stands in the text; (0, 0) of special ones."""
    try:
        read = tokenizer(text, return_offsets_mapping=True, truncation=False, verbose=False)
        return list(read.input_ids), [tuple(pair) for pair in read.offset_mapping]
    except NotImplementedError:  # a tokenizer in plain Python: places are found by the letters
        ids = list(tokenizer(text, truncation=False).input_ids)
    places, at = [], 0
    for name in tokenizer.convert_ids_to_tokens(ids):
        start = text.lower().find(_plain(name).lower(), at) if _plain(name) else -1
        places.append((start, start + len(_plain(name))) if start >= 0 else (0, 0))
        at = places[-1][1] or at
    return ids, places


def _add(reading: Reading, name: str, columns: list[int]) -> int:
    reading.tokens.append(name)
    reading.columns.append(columns)
    return len(reading.tokens) - 1


def _plain(token: str) -> str:
    """``hat</w>`` and ``▁hat`` are both ``hat``."""
    return token.removesuffix("</w>").replace("▁", " ").replace("Ġ", " ").strip() or token


# --- maps ----------------------------------------------------------------------------------------


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

    Args:
        pipe: the pipeline.
        family: of its kind.
        call: the keywords of the run; the prompt among them.
        wanted: words whose maps are kept; empty for every token.
        most: bytes that all maps may take. Each head is kept where that fits, else their mean.
        scheduler: says how many steps there will be.
    """

    def __init__(
        self,
        pipe: Any,
        family: Family,
        call: Mapping[str, Any],
        wanted: Sequence[str],
        most: int,
        scheduler: Any,
    ) -> None:
        super().__init__(family)
        self.pipe, self.call, self.wanted, self.most = pipe, call, wanted, most
        self.scheduler, self.thread = scheduler, threading.get_ident()
        self.heads, self.texts = True, self._texts()
        self.readings: list[Reading] = []
        self.names: dict[str, int] = {}  # layer -> heads, in the order of a step
        self.steps: list[dict[str, list[torch.Tensor]]] = []
        self._now: dict[str, list[torch.Tensor]] = {}
        self._calls, self._bytes, self._needed, self._held = 0, 0, 0, ""
        if wanted and isinstance(call.get("prompt"), (str, list, tuple)):
            for one in readings(pipe, family, call, 10**6):  # a misspelt word costs no step
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
            every = readings(self.pipe, self.family, self.call, self.length)
            self.readings = [one.only(self.wanted) if self.wanted else one for one in every]

    def attend(self, seen: Seen, run: Run) -> torch.Tensor:
        """Runs the attention as it is, then looks at the same queries and keys again."""
        output = run()
        rows = None
        if threading.get_ident() == self.thread and self.readings:
            rows = rows_with_words(self, self.pictures, self._calls - 1, self.pipe)
        if rows is not None:
            with torch.no_grad():
                self._keep(seen, rows)
        return output

    def _keep(self, seen: Seen, rows: range) -> None:
        each = self.pictures // len(self.readings)
        half = seen.query.dtype in (torch.float16, torch.bfloat16)
        name = seen.layer
        while name in self._now:  # one module that looks twice in a step
            name += "+"
        heads = seen.query.shape[1]
        self.names.setdefault(name, heads)
        kept = []
        for picture, row in enumerate(rows):
            reading = self.readings[picture // each]
            columns = [[seen.text.start + c for c in own] for own in reading.columns]
            if not self._fits(len(columns), heads, seen.picture, half):
                continue
            mask = seen.options.get("attn_mask")
            if mask is not None and mask.ndim == 4:
                mask = mask[row if len(mask) > 1 else 0]
            found = maps_of(
                seen.query[row, :, seen.picture],
                seen.key[row],
                columns,
                scale=seen.options.get("scale"),
                mask=mask,
                causal=bool(seen.options.get("is_causal")),
                heads=self.heads,
            )
            kept.append(found.half() if half else found)
        self._now[name] = kept

    def _fits(self, rows: int, heads: int, places: slice, half: bool) -> bool:
        """Whether there is room; where each head is too much, their mean is kept from here on."""
        if self.steps:
            return True
        size = rows * (places.stop - places.start) * (2 if half else 4)
        self._needed += size
        self._bytes += size * (heads if self.heads else 1)
        if self.heads and self._bytes * self._count > self.most:
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

    def step(self) -> None:
        """Ends a step.

        Raises:
            ValueError: after the first: the maps would not fit, or none were seen.
        """
        if not self.steps:
            self._check_first()
        self.steps.append(self._now)
        self._now, self._calls = {}, 0

    def _check_first(self) -> None:
        needed = self._needed * self._count
        if needed > self.most:
            raise ValueError(
                f"The attention maps of this run take {needed:,} bytes ({self._count} steps, "
                f"{len(self.names)} layers), attention_bytes allows {self.most:,}; give fewer "
                f'words (attention=("hat",)), fewer steps, or attention_bytes={needed}.'
            )
        if not self._now:
            who = type(self.pipe).__name__
            raise ValueError(
                f"No attention to words was heard in the first step of {who}: its layers compute "
                "it out of sight, or nobody described where its words stand; leave attention out."
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
        steps = self.steps[len(self.steps) - count :]
        if not steps or not self.names:
            return None
        if latents is not None and latents.ndim == 4:
            ratio = latents.shape[-2] / latents.shape[-1]
        packed = latents.shape[1] if latents is not None and latents.ndim == 3 else None
        each = self.pictures // len(self.readings)
        pictures = []
        for i in range(self.pictures):
            reading = self.readings[i // each]
            layers, maps = [], []
            for name, heads in self.names.items():
                own = [step[name][i] if name in step else None for step in steps]
                array = _stacked(own)
                if packed is not None and array.shape[-1] > packed:
                    array = array[..., :packed]  # behind them a picture that was put beside
                height, width = _sides(array.shape[-1], ratio)
                layers.append(Layer(name, height, width, heads))
                maps.append(array.reshape(*array.shape[:-1], height, width))
            pictures.append(
                AttentionMaps(
                    prompt=reading.text,
                    tokens=tuple(reading.tokens),
                    words=tuple(reading.words),
                    rows=tuple(map(tuple, reading.rows)),
                    layers=tuple(layers),
                    maps=tuple(maps),
                )
            )
        first, *others = pictures
        return AttentionMaps(
            **{name: getattr(first, name) for name in _FIELDS}, others=tuple(others)
        )


_FIELDS = ("prompt", "tokens", "words", "rows", "layers", "maps")


def _stacked(parts: Sequence[torch.Tensor | None]) -> np.ndarray[Any, Any]:
    """(steps, rows, heads, places); NaN where a layer was skipped (a cache of other steps)."""
    known = next(part for part in parts if part is not None)
    whole_run = [torch.full_like(known, math.nan) if part is None else part for part in parts]
    array = torch.stack(whole_run).cpu().numpy()
    array.flags.writeable = False  # nobody else has it: the record takes it as it is
    return array


def _sides(places: int, ratio: float) -> tuple[int, int]:
    """(height, width) of so many places, nearest to the picture's."""
    pairs = [(h, places // h) for h in range(1, places + 1) if places % h == 0]
    return min(pairs, key=lambda hw: abs(math.log(hw[0] / hw[1] / ratio)))
