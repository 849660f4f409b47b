"""Which of the keys are which words: the prompt's tokens, by the pipeline's own tokenizers.

A family's row says whose tokens the network's text is made of (``Family.text_tokens``): CLIP's,
T5's, or first the one's and then the other's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ldmkit.check import did_you_mean, short
from ldmkit.loading.families import Family
from ldmkit.records.attention import PADDING, find, split_words

__all__ = ["Reading", "as_read", "readings"]


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

    def rows_of(self, word: str, what: str) -> list[int]:
        """The rows of a word, wherever it stands, or of a token by its name.

        Raises:
            ValueError: a word that isn't there (the nearest is told), or was cut off.
        """
        spans = find(word, self.words)
        rows = [row for span in spans for i in span for row in self.rows[i]]
        rows = rows or [i for i, token in enumerate(self.tokens) if token == word]
        if not rows and spans:
            raise ValueError(
                f"The prompt is cut before {short(word)}: no token of it is read; shorten it."
            )
        if not rows:
            known = list(dict.fromkeys(self.words))
            if not known:
                raise ValueError(
                    f"{what} words of the prompt, got {short(word)}, and this run has none that "
                    "can be told apart (no words, embeddings, or no tokenizer); leave it out."
                )
            advice = did_you_mean(word, known, f"it has {', '.join(known)[:200]}.", 0.3)
            raise ValueError(f"{what} words of the prompt, got {short(word)}; {advice}")
        return rows

    def only(self, wanted: Sequence[str]) -> Reading:
        """The same with the rows of some words alone; see ``rows_of``."""
        order = sorted({row for word in wanted for row in self.rows_of(word, "attention takes")})
        return Reading(
            self.text,
            [self.tokens[i] for i in order],
            [self.columns[i] for i in order],
            self.words,
            [[order.index(row) for row in rows if row in order] for rows in self.rows],
        )


def readings(pipe: Any, family: Family, call: Mapping[str, Any], length: int) -> list[Reading]:
    """How each text of a call stands among ``length`` keys; numbers where there are no words."""
    prompts = call.get("prompt")
    if prompts is None:
        embeds = call.get("prompt_embeds")
        count = len(embeds) if embeds is not None else 1
        names = [f"token {i}" for i in range(length)]
        ahead = sum(part for part in family.text_tokens if isinstance(part, int))
        return [Reading("", names[:], [[ahead + i] for i in range(length)]) for _ in range(count)]
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


def as_read(pipe: Any, tokenizer: Any, text: str) -> str:
    """A prompt as its encoder gets it: learnt words spelt out, in the pipeline's template."""
    template = getattr(pipe, "prompt_template_encode", None)
    spelled = _spelled(pipe, tokenizer, text)[0]
    return template.format(spelled) if template else spelled


def _width(tokenizer: Any, otherwise: int) -> int:
    most = getattr(tokenizer, "model_max_length", None)
    return most if isinstance(most, int) and most < 10**6 else otherwise


def _read(reading: Reading, pipe: Any, tokenizer: Any, text: str, keys: range) -> None:
    """Adds what one encoder reads of a text, on these keys."""
    if tokenizer is None:
        _add(reading, "unknown token", list(keys))
        return
    same = text == reading.text and bool(reading.words)  # a second encoder of it
    text, words, spans = _spelled(pipe, tokenizer, text)
    first = 0 if same else len(reading.words)
    if not same:
        reading.words += words
        reading.rows += [[] for _ in words]
    template = getattr(pipe, "prompt_template_encode", None)
    skip = getattr(pipe, "prompt_template_encode_start_idx", 0) if template else 0
    whole_text = template.format(text) if template else text
    ahead = whole_text.find(text) if template else 0
    ids, places = _tokens(tokenizer, whole_text)
    names = tokenizer.convert_ids_to_tokens(ids)
    special = set(tokenizer.all_special_tokens)
    if getattr(tokenizer, "padding_side", "right") == "left" and len(ids) - skip < len(keys):
        padding = len(keys) - (len(ids) - skip)
        _add(reading, PADDING, list(keys[:padding]))
        keys = keys[padding:]
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


def _spelled(pipe: Any, tokenizer: Any, text: str) -> tuple[str, list[str], list[tuple[int, int]]]:
    """The text as it is read, its words, and where each stands: a learnt one is spelt in several.

    ``"a <toy>"`` becomes ``"a <toy> <toy>_1"`` (textual inversion), and stays two words.
    """
    spell = getattr(pipe, "maybe_convert_prompt", None)
    special = set(getattr(tokenizer, "all_special_tokens", ()))
    added = set(getattr(tokenizer, "get_added_vocab", dict)()) - special
    learnt = sorted((word for word in added if word in text), key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, learnt))})", text) if learnt else [text]
    read, words, spans = "", [], []
    for i, part in enumerate(parts):  # every second one is a learnt word
        new = spell(part, tokenizer) if i % 2 and callable(spell) else part
        inside = [(0, len(new))] if i % 2 else split_words(part)
        words += [part] if i % 2 else [part[a:b] for a, b in inside]
        spans += [(len(read) + a, len(read) + b) for a, b in inside]
        read += new
    return read, words, spans


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


def check_tokenizer(tokenizer: Any) -> None:
    """Tries a tokenizer on a word.

    Raises:
        TypeError: it doesn't read as those of transformers do.
    """
    try:
        _tokens(tokenizer, "a")
    except Exception as error:
        raise TypeError(
            "tokenizer must be one of transformers, such as pipe.tokenizer, got "
            f"{short(tokenizer)}."
        ) from error


def _add(reading: Reading, name: str, columns: list[int]) -> int:
    reading.tokens.append(name)
    reading.columns.append(columns)
    return len(reading.tokens) - 1


def _plain(token: str) -> str:
    """``hat</w>`` and ``▁hat`` are both ``hat``."""
    return token.removesuffix("</w>").replace("▁", " ").replace("Ġ", " ").strip() or token
