"""``AttentionMaps``: where each word of a prompt was looked at, step by step and layer by layer.

In a layer of cross-attention each place of the picture asks every token of the prompt (arXiv
2112.10752, eq. 5; 1706.03762, eq. 1):

    A = softmax(Q Kᵀ / √d)

over *all* keys; the column of a token, laid out as (h, w), is its map. Where words and picture
attend to each other jointly (SD 3, FLUX) the keys of the softmax are the picture's too, and what a
place gives to all words together is less than one. Maps of concepts that are *not* in the prompt
tell another thing: which of them a place is most like (``AttentionMaps.concepts``). Made while a
pipeline runs, elsewhere: this file knows numpy and pillow only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldmkit.check import cut, did_you_mean, short
from ldmkit.records.display import drawn
from ldmkit.records.pictures import drawable
from ldmkit.records.record import (
    Arrays,
    RecordError,
    entries_of,
    frozen,
    index_of,
    place_of,
    string,
    whole_of,
)
from ldmkit.records.rgb import flat

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ldmkit.records.trajectory import Trajectory

__all__ = [
    "PADDING",
    "AttentionMaps",
    "Layer",
    "brightness",
    "find",
    "key_words",
    "split_words",
]

Float32 = NDArray[np.float32]
Key = str | int | tuple[str, int]

PADDING = "<padding>"  # the row of all tokens that fill a prompt up, added together
MAX_LAYERS = 1000
AMBER = (255, 176, 0)
_LETTERS = "'’-_"  # that stand inside a word


class Layer(NamedTuple):
    """A layer whose attention was recorded.

    Attributes:
        name: of the module in the network.
        height: of its maps.
        width: of its maps.
        heads: that look on their own.
    """

    name: str
    height: int
    width: int
    heads: int


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AttentionMaps:
    """The maps of one picture: ``maps["hat"]`` is (steps, h, w).

    Attributes:
        prompt: the words that were read.
        tokens: the rows of the maps by name, in the order in which the network reads them:
            tokens of words, the special ones at begin and end, and ``"<padding>"``, what fills the
            prompt up, in one row. With every row kept, those of a cross-attention sum to 1.
        words: the prompt's words, repeated ones as often as they stand there.
        rows: for each word its rows in ``tokens``; none where it was not kept, or cut off.
        layers: where the maps come from, in the order of a step.
        maps: for each layer (steps, rows, heads, h, w), one of the heads where their mean was kept.
            Float32, or float16 of a network that works in half precision.
        concepts: whether ``words`` are not the prompt's but concepts beside it (ConceptAttention,
            arXiv 2502.04320). Then a map is a softmax over the concepts: in each layer the maps of
            all of them sum to 1 at every place.
        others: the maps of the batch's other pictures; ``of(1)``.

    Raises:
        RecordError: an array's shape contradicts the others, or a field has the wrong type.
    """

    prompt: str
    tokens: tuple[str, ...]
    words: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    layers: tuple[Layer, ...]
    maps: tuple[Float32, ...] = field(repr=False)
    concepts: bool = False
    others: tuple[AttentionMaps, ...] = ()
    run: Trajectory | None = field(default=None, repr=False)  # whose pictures lie under a map
    batch: int = 0  # which picture of that run

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        string("prompt", self.prompt)
        for name in ("tokens", "words"):
            put(name, entries_of(name, getattr(self, name)))
            for one in getattr(self, name):
                string(f"Each of {name}", one)
        put("rows", tuple(entries_of("rows", own) for own in entries_of("rows", self.rows)))
        put("layers", tuple(_layer(one) for one in entries_of("layers", self.layers)))
        put("others", entries_of("others", self.others))
        maps = entries_of("maps", self.maps)
        self._check(maps)
        kept = [self._frozen(i, array) for i, array in enumerate(maps)]
        put("maps", tuple(kept))
        if len({len(array) for array in kept}) > 1:
            raise RecordError("maps must have one length, the steps, in every layer.")

    def _check(self, maps: Sequence[Any]) -> None:
        if not 1 <= len(self.layers) <= MAX_LAYERS or len(maps) != len(self.layers):
            raise RecordError(
                f"maps must be one array for each of 1 to {MAX_LAYERS} layers, got {len(maps)} "
                f"for {len(self.layers)}."
            )
        if not isinstance(self.concepts, bool):
            raise RecordError(f"concepts must be True or False, got {short(self.concepts)}.")
        if len(self.rows) != len(self.words):
            raise RecordError(
                f"rows must be told for {len(self.words)} words, got {len(self.rows)}."
            )
        for row in itertools.chain.from_iterable(self.rows):
            whole_of("Each of rows", row, 0, len(self.tokens) - 1)
        if not all(isinstance(one, AttentionMaps) and not one.others for one in self.others):
            raise RecordError("others must be the AttentionMaps of the batch's other pictures.")

    def _frozen(self, i: int, array: Any) -> Any:
        layer, half = self.layers[i], getattr(array, "dtype", None) == np.float16
        heads = np.shape(array)[2] if np.ndim(array) == 5 else 0
        if heads not in (1, layer.heads):
            raise RecordError(
                f"maps[{i}] must be (steps, rows, heads, h, w) with {layer.heads} heads or their "
                f"mean, got the shape {np.shape(array)}."
            )
        shape = (None, len(self.tokens), heads, layer.height, layer.width)
        return frozen(f"maps[{i}]", array, np.float16 if half else np.float32, shape)

    # --- what a reader asks -----------------------------------------------------------------------

    def __getitem__(self, word: Key) -> Float32:
        """(steps, h, w): added over the word's tokens, averaged over layers and heads.

        Layers of fewer places are drawn larger, between their places linearly.

        Args:
            word: one of the prompt, or several that follow each other (``"top hat"``), or a token
                by its name; ``("a", 1)`` is the second of a repeated one.

        Raises:
            RecordError: the prompt has no such word (the nearest is told), has it several times,
                or it was not kept.
        """
        rows = self._rows(word)
        return self._mean(rows)

    def _mean(self, rows: Sequence[int]) -> Float32:
        height, width = self.size
        total = np.zeros((len(self), height, width), np.float32)
        for array in self.maps:
            mean = array[:, list(rows)].sum(1, dtype=np.float32).mean(1)
            total += _enlarged(mean, height, width)
        return total / np.float32(len(self.maps))

    def at(
        self, word: Key, *, step: int = -1, layer: int | str = 0, head: int | None = None
    ) -> Float32:
        """(h, w): one step's map as it came from one layer, added over the word's tokens.

        Args:
            word: as in ``maps[word]``.
            step: as in ``traj.steps[step]``.
            layer: its number in ``layers``, or its name, or a part of it that no other has.
            head: one of the layer's heads; by default their mean.

        Raises:
            RecordError: no such word, layer or head.
            IndexError: no such step.
        """
        array = self.maps[self.layer_of(layer)][place_of("step", step, len(self))]
        heads = array[list(self._rows(word))].sum(0, dtype=np.float32)  # (heads, h, w)
        if head is None:
            return np.asarray(heads.mean(0))
        here = self.layers[self.layer_of(layer)]
        at = index_of("head", head, here.heads)
        if len(heads) < here.heads:
            raise RecordError(
                f"{here.name} has {here.heads} heads of which the mean was kept, got head={at}; "
                "record again with attention of fewer words, or more attention_bytes."
            )
        return np.asarray(heads[at])

    def overlay(self, word: Key, *, step: int | None = None, size: int = 256) -> Image.Image:
        """The clean estimate of a step, in grey, and in amber where the word is looked at.

        Amber is scaled to the word's own brightest places, so that two words' overlays tell where
        each is looked at, not which is looked at more.

        Args:
            word: as in ``maps[word]``.
            step: as in ``traj.steps[step]``; by default the mean of all steps over the last
                estimate.
            size: the longer side in pixels.

        Raises:
            RecordError: as ``maps[word]``, or the record has no picture of its steps.
        """
        at = -1 if step is None else place_of("step", step, len(self))
        side = whole_of("size", size, 8, 4096)
        own = self[word]
        if self.run is None or not drawable(self.run, "denoised"):
            raise RecordError(
                "overlay needs the clean estimates of the run, which this record lacks; record "
                'with keep=("denoised", "attention"), or draw maps[word] itself.'
            )
        picture = flat(self.run.pictures("denoised", self.batch)[at])
        scale = side / max(picture.size)
        width, height = (max(1, round(edge * scale)) for edge in picture.size)
        base = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        light = brightness(own.mean(0, keepdims=True) if step is None else own)[at]
        large = Image.fromarray(light).resize((width, height), Image.Resampling.BICUBIC)
        share = 0.8 * np.asarray(large, np.float32)[..., None] / 255
        grey = 0.75 * base.mean(-1, keepdims=True) + 0.1 * base
        mixed = (1 - share) * grey + share * np.array(AMBER, np.float32)
        return Image.fromarray(np.clip(mixed, 0, 255).round().astype(np.uint8))

    def figure(self, *words: Key, steps: int = 6) -> Figure:
        """A matplotlib figure: of one word each layer at some steps, of several their mean maps.

        Args:
            words: as in ``maps[word]``; one draws a row for each layer (some look where the thing
                is, others don't), several a row for each word.
            steps: how many columns, 1 to 32.

        Raises:
            RecordError: as ``maps[word]``.
        """
        return drawn("attention", self, *words, steps=steps)

    def of(self, batch: int) -> AttentionMaps:
        """The maps of one picture of the batch, from 0."""
        at = index_of("batch", batch, 1 + len(self.others))
        return self if at == 0 else self.others[at - 1]

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of ``maps[word]``: the largest layer's."""
        return max(((one.height, one.width) for one in self.layers), key=lambda hw: hw[0] * hw[1])

    @property
    def special(self) -> tuple[str, ...]:
        """The kept tokens that are of no word: begin, end, padding."""
        of_words = set(itertools.chain.from_iterable(self.rows))
        names = (token for i, token in enumerate(self.tokens) if i not in of_words)
        return tuple(dict.fromkeys(names))

    @property
    def shown(self) -> tuple[Key, ...]:
        """The keys of all words that were kept, each once, then the special tokens."""
        seen: dict[str, int] = {}
        keys: list[Key] = []
        lower = [word.lower() for word in self.words]
        for word, rows in zip(lower, self.rows, strict=True):
            seen[word] = seen.get(word, -1) + 1
            if rows:
                keys.append(word if lower.count(word) == 1 else (word, seen[word]))
        return (*keys, *(name for name in self.special if name not in lower))

    def layer_of(self, layer: int | str) -> int:
        """The number of a layer; see ``at``."""
        if not isinstance(layer, str):
            return index_of("layer", layer, len(self.layers))
        names = [one.name for one in self.layers]
        return names.index(layer) if layer in names else one_of("layer", layer, names)

    def _rows(self, word: Key) -> tuple[int, ...]:
        name, at = word if isinstance(word, tuple) and len(word) == 2 else (word, None)
        whose = "These maps have no concept" if self.concepts else "The prompt has no word"
        if not isinstance(name, str) or not name.strip():
            raise RecordError(
                f'A word must be a string, or a pair like ("a", 1), got {short(word)}; '
                f"there are {self._known()}."
            )
        places = [
            tuple(row for i in span for row in self.rows[i]) for span in find(name, self.words)
        ]
        if not places:  # tokens of two encoders that have one name are one thing
            same = tuple(i for i, token in enumerate(self.tokens) if token == name)
            places = [same] if same else []
        if not places:
            near = did_you_mean(name.lower(), [w.lower() for w in self.words] + [*self.special])
            known = f"{'they have' if self.concepts else 'it has'} {self._known()}."
            raise RecordError(f"{whose} {short(name)}; {near or known}")
        if at is None and len(places) > 1:
            raise RecordError(
                f"The prompt has {short(name)} {len(places)} times; take maps[{name!r}, 0] to "
                f"maps[{name!r}, {len(places) - 1}]."
            )
        rows = places[0 if at is None else index_of("The number of a word", at, len(places))]
        if not rows:
            raise RecordError(
                f"{short(name)} was not kept, or was cut off before the network read it; "
                f"the record has {cut(', '.join(map(key_words, self.shown)), 200) or 'no word'}."
            )
        return rows

    def _known(self) -> str:
        return cut(", ".join(dict.fromkeys(self.words)), 200) or "no words"

    def __len__(self) -> int:
        return len(self.maps[0])

    def __iter__(self) -> Iterator[Float32]:
        raise TypeError(
            "AttentionMaps are asked by word: maps['hat'], or for key in maps.shown: maps[key]."
        )

    def __repr__(self) -> str:
        return (
            f"AttentionMaps({cut(self.prompt, 60)!r}, {len(self)} steps, {len(self.layers)} "
            f"layers, {len(self.tokens)} {'concepts' if self.concepts else 'tokens'}: "
            f"{cut(', '.join(map(key_words, self.shown)), 120)})"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return drawn("attention's cell", self)


def key_words(key: Key) -> str:
    """A key as words: ``("a", 1)`` is ``"a (1)"``."""
    return f"{key[0]} ({key[1]})" if isinstance(key, tuple) else str(key)


def _layer(value: Any) -> Layer:
    try:
        name, *numbers = value
        _, _, _ = numbers
    except (TypeError, ValueError):
        raise RecordError(
            f"Each of layers must be (name, height, width, heads), got {short(value)}."
        ) from None
    string("A layer's name", name)
    return Layer(
        name,
        *(
            whole_of(f"The {what} of {short(name)}", number, 1, 2**20)
            for what, number in zip(("height", "width", "heads"), numbers, strict=True)
        ),
    )


def one_of(what: str, part: str, names: Sequence[str]) -> int:
    """The number of the only name with this part in it.

    Raises:
        RecordError: none or several.
    """
    found = [i for i, name in enumerate(names) if part in name]
    if len(found) == 1:
        return found[0]
    if found:
        raise RecordError(
            f"{len(found)} names of a {what} have {short(part)} in them ({names[found[0]]}, "
            f"{names[found[1]]}...); write one of them whole, or its number."
        )
    advice = did_you_mean(part, names, f"there are {cut(', '.join(names), 300)}.", cutoff=0.3)
    raise RecordError(f"There is no {what} {short(part)}; {advice}")


# --- words ---------------------------------------------------------------------------------------


def split_words(text: str) -> list[tuple[int, int]]:
    """Where each word of a text begins and ends: letters and digits, ``top-hat`` and ``don't``."""
    spans, start = [], -1
    for i, letter in enumerate(text + " "):
        joins = letter in _LETTERS and 0 < i < len(text) - 1
        inside = letter.isalnum() or (joins and start >= 0 and text[i + 1].isalnum())
        if inside and start < 0:
            start = i
        elif not inside and start >= 0:
            spans.append((start, i))
            start = -1
    return spans


def find(name: str, words: Sequence[str]) -> list[range]:
    """The places of a word, or of several in a row, among words; capitals don't count."""
    lower = [word.lower() for word in words]
    if whole := [range(i, i + 1) for i, word in enumerate(lower) if word == name.lower()]:
        return whole
    wanted = [name[a:b].lower() for a, b in split_words(name)]
    starts = range(len(lower) - len(wanted) + 1) if wanted and not name.startswith("<") else ()
    return [range(i, i + len(wanted)) for i in starts if lower[i : i + len(wanted)] == wanted]


# --- drawing -------------------------------------------------------------------------------------


def brightness(maps: Float32) -> NDArray[np.uint8]:
    """Maps (steps, h, w) as 0 to 255: the darkest of all steps black, the brightest white."""
    known = np.nan_to_num(maps)
    low, high = np.percentile(known, (2, 99.5)) if known.size else (0.0, 1.0)
    scaled = (known - low) / max(float(high - low), 1e-12)
    return np.asarray((255 * np.clip(scaled, 0, 1)).round().astype(np.uint8))


def _enlarged(maps: Float32, height: int, width: int) -> Float32:
    """(steps, h, w) at another size, linear between the middles of the places."""
    if maps.shape[1:] == (height, width):
        return maps
    rows, columns = _between(maps.shape[1], height), _between(maps.shape[2], width)
    return np.asarray(rows @ maps @ columns.T)


def _between(have: int, want: int) -> Float32:
    """(want, have) weights of linear interpolation; edges stay as they are."""
    at = np.clip((np.arange(want) + 0.5) * have / want - 0.5, 0, have - 1)
    low = np.minimum(at.astype(int), max(have - 2, 0))
    weights = np.zeros((want, have), np.float32)
    weights[np.arange(want), low] = 1 - (at - low)
    if have > 1:
        weights[np.arange(want), low + 1] = at - low
    return weights


# --- files ---------------------------------------------------------------------------------------


def pack(maps: AttentionMaps, dtype: np.dtype[Any]) -> tuple[Arrays, list[dict[str, Any]]]:
    """The arrays of all pictures of the batch by name, and their words."""
    arrays: Arrays = {}
    words = []
    for i, one in enumerate((maps, *maps.others)):
        arrays |= {
            f"attention/{i}/{k}": array.astype(np.promote_types(np.float16, dtype))
            if array.dtype != np.float16
            else array
            for k, array in enumerate(one.maps)
        }
        words.append(
            {
                "prompt": one.prompt,
                "tokens": one.tokens,
                "words": one.words,
                "rows": one.rows,
                "layers": one.layers,
                "concepts": one.concepts,
            }
        )
    return arrays, words


def unpack(arrays: Arrays, words: Sequence[Mapping[str, Any]]) -> AttentionMaps | None:
    """What ``pack`` made; ``None`` of a record without."""
    found = []
    for i, own in enumerate(words):
        layers = own["layers"]
        if len(layers) > MAX_LAYERS:
            raise RecordError(f"attention has at most {MAX_LAYERS} layers, got {len(layers)}.")
        maps = tuple(arrays[f"attention/{i}/{k}"] for k in range(len(layers)))
        found.append(
            {
                **{name: own[name] for name in ("prompt", "tokens", "words", "rows")},
                "layers": layers,
                "maps": maps,
                "concepts": own.get("concepts", False),  # not in files of an earlier ldmkit
            }
        )
    if not found:
        return None
    return AttentionMaps(**found[0], others=tuple(AttentionMaps(**one) for one in found[1:]))


def bound(maps: AttentionMaps, run: Trajectory) -> AttentionMaps:
    """The same maps, with the run whose pictures ``overlay`` draws on."""
    others = tuple(replace(one, run=run, batch=i) for i, one in enumerate(maps.others, 1))
    return replace(maps, others=others, run=run, batch=0)
