"""The embedded tokenizer: CLIP's byte-level BPE over the words of the critters' grammar.

Merges are learned from the word list alone until every word is one token, so a caption has as many
tokens as words, and anything else (emoji, other languages) still falls apart into bytes.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ldmkit.critters.language import words

POSITIONS = 32  # the longest caption has 26 tokens with its commas, start and end
_END = "</w>"


def learn_merges(vocabulary: frozenset[str]) -> list[tuple[str, str]]:
    """Merge the commonest pair of neighbours, again and again, until each word is one piece."""
    splits = {word: [*word[:-1], word[-1] + _END] for word in sorted(vocabulary)}
    merges = []
    while any(len(pieces) > 1 for pieces in splits.values()):
        pairs = Counter(p for s in splits.values() for p in pairwise(s))
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        for pieces in splits.values():
            i = 0
            while i < len(pieces) - 1:
                if (pieces[i], pieces[i + 1]) == best:
                    pieces[i : i + 2] = ["".join(best)]
                i += 1
    return merges


def build_tokenizer() -> CLIPTokenizer:
    """The tokenizer; end-of-text is also the padding, as in CLIP."""
    merges = learn_merges(words)
    symbols = list(bytes_to_unicode().values())
    pieces = [*symbols, *(s + _END for s in symbols), *("".join(m) for m in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)},
        merges=merges,
        model_max_length=POSITIONS,
    )
