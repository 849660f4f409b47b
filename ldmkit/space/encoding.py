"""``ClipSpace``: encode words and pictures, compare them, recognise without training.

Vectors are the projections as they come, **not normalised**, because that is what diffusers'
unCLIP pipelines feed; every comparison here is by cosine, so lengths never matter in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldmkit.check import say
from ldmkit.recording.checks import check_prompt
from ldmkit.recording.told import length_said_once
from ldmkit.records import Embedding, Gap
from ldmkit.records.rgb import to_rgb
from ldmkit.records.table import Table
from ldmkit.space.halves import ImageHalf, TextHalf

__all__ = ["ClipSpace", "Picture", "Point"]

Picture = Image.Image
# What may stand where points are wanted: they are encoded on the way.
Point = Embedding | str | Picture

LOGIT_SCALE = 100.0  # of a CLIP whose pipeline doesn't keep it: where OpenAI's training ended


class ClipSpace:
    """A CLIP whose two halves encode into one space; made by ``clip_space``.

    Attributes:
        name: of the space; embeddings carry it as their ``model``.
        scale: what cosines are multiplied with before a softmax (arXiv 2103.00020, section 2.5).
    """

    def __init__(
        self, name: str, text: TextHalf | None, image: ImageHalf | None, scale: float = LOGIT_SCALE
    ) -> None:
        self.name, self.scale = name, scale
        self._text, self._image = text, image

    def __repr__(self) -> str:
        halves = [name for name, half in (("text", self._text), ("image", self._image)) if half]
        return f"ClipSpace({self.name!r}, encodes {' and '.join(halves)})"

    @overload
    def encode_text(self, text: str) -> Embedding: ...  # type: ignore[overload-overlap]
    @overload
    def encode_text(self, text: Sequence[str]) -> list[Embedding]: ...
    def encode_text(self, text: str | Sequence[str]) -> Embedding | list[Embedding]:
        """Encodes words; warns with the words that are beyond what the text encoder reads.

        Args:
            text: one text, or several.

        Returns:
            An ``Embedding`` labelled with the text; a list of them for several texts.

        Raises:
            TypeError: not text.
            ValueError: an empty list, or a text beyond all measure.
            RuntimeError: the pipeline has no text half.
        """
        if text is None:
            raise TypeError('text must be a string or a list of strings, got None; "" is no words.')
        check_prompt("text", text)
        half = self._text
        if half is None:
            raise RuntimeError(self._lacks("text"))
        texts = [text] if isinstance(text, str) else list(text)
        _say_what_fell_off(half, texts)
        with length_said_once():
            rows = half.encode(texts)
        made = [
            Embedding(row, words or "no words", "text", self.name)
            for row, words in zip(rows, texts, strict=True)
        ]
        return made[0] if isinstance(text, str) else made

    @overload
    def encode_image(self, picture: Picture, *, label: str | None = None) -> Embedding: ...
    @overload
    def encode_image(
        self, picture: Sequence[Picture], *, label: str | Sequence[str] | None = None
    ) -> list[Embedding]: ...
    def encode_image(
        self,
        picture: Picture | Sequence[Picture],
        *,
        label: str | Sequence[str] | None = None,
    ) -> Embedding | list[Embedding]:
        """Encodes pictures of any mode and size; CLIP looks at the middle square.

        Args:
            picture: a PIL picture, or several; turned as its EXIF says, on white where it is
                transparent.
            label: words for it, one for each of several; by default the file's name.

        Returns:
            An ``Embedding``; a list of them for several pictures.

        Raises:
            TypeError: not PIL pictures.
            ValueError: no picture, one of over 40 megapixels or cut off; not as many labels.
            RuntimeError: the pipeline has no image half.
        """
        one = isinstance(picture, Image.Image) or not isinstance(picture, Sequence)
        pictures: list[Any] = [picture] if one else [*picture]  # type: ignore[misc]
        if not pictures or isinstance(picture, (str, bytes)):
            raise (TypeError if pictures else ValueError)(
                f"encode_image takes PIL pictures, got {_short(picture)}; open a file with "
                "PIL.Image.open(path)."
            )
        half = self._image
        if half is None:
            raise RuntimeError(self._lacks("image"))
        labels = _labels(pictures, label)
        rows = half.encode([to_rgb(each) for each in pictures])
        made = [
            Embedding(row, words, "image", self.name)
            for row, words in zip(rows, labels, strict=True)
        ]
        return made[0] if one else made

    def encode(self, points: Sequence[Point]) -> list[Embedding]:
        """Encodes texts and pictures as they come; embeddings stay as they are.

        Raises:
            TypeError: something else among them.
        """
        if isinstance(points, (str, Embedding, Image.Image)):
            points = [points]
        made: list[Embedding | None] = [p if isinstance(p, Embedding) else None for p in points]
        texts = [i for i, point in enumerate(points) if isinstance(point, str)]
        pictures = [i for i, point in enumerate(points) if not isinstance(point, (str, Embedding))]
        encoded = zip(
            texts + pictures,
            (self.encode_text([str(points[i]) for i in texts]) if texts else [])
            + (self.encode_image([points[i] for i in pictures]) if pictures else []),  # type: ignore[misc]
            strict=True,
        )
        for i, embedding in encoded:
            made[i] = embedding
        return [embedding for embedding in made if embedding is not None]

    def similarity(
        self, a: Sequence[Point], b: Sequence[Point] | None = None
    ) -> NDArray[np.float64]:
        """Cosines of every point of ``a`` with every point of ``b``.

        Args:
            a: texts, pictures or embeddings.
            b: the same; by default ``a`` itself.

        Returns:
            (len(a), len(b)), −1…1.

        Raises:
            ValueError: none on a side, another space, or a zero vector.
        """
        rows = self._units(self.encode(a))
        columns = rows if b is None else self._units(self.encode(b))
        return np.clip(rows @ columns.T, -1.0, 1.0)

    def nearest(self, point: Point, candidates: Sequence[Point], count: int | None = None) -> Table:
        """Sorts candidates by their cosine with one point, the nearest first.

        Args:
            point: a text, picture or embedding, such as a sum of others.
            candidates: texts, pictures or embeddings.
            count: how many are returned; by default all.

        Returns:
            A table with columns ``index`` (in ``candidates``), ``label``, ``similarity``; its rows
            also hold ``"embedding"``.

        Raises:
            ValueError: no candidates, another space, or a zero vector.
        """
        found = self.encode(candidates)
        cosines = self.similarity([point], found)[0]
        order = np.argsort(-cosines, kind="stable")[:count]
        rows = tuple(
            {
                "index": int(i),
                "label": found[i].label,
                "similarity": float(cosines[i]),
                "embedding": found[i],
            }
            for i in order
        )
        return Table(("index", "label", "similarity"), rows, digits={"similarity": 3})

    def zero_shot(self, picture: Point | Sequence[Point], texts: Sequence[str]) -> Table:
        """Recognises without training: which of the texts fits a picture best?

        Probabilities are softmax(scale · cosine) over the texts (arXiv 2103.00020, section 3.1.2):
        they compare these texts with each other and say nothing of texts that aren't there.

        Args:
            picture: a picture or its embedding, or several.
            texts: one caption for each answer, such as "a red cat", "a red dog".

        Returns:
            One picture: a row for each text, the likeliest first (``text``, ``similarity``,
            ``probability``). Several: a row for each picture (``picture``, ``text``,
            ``similarity``, ``probability`` of the likeliest); its rows also hold
            ``"probabilities"`` in the order of ``texts``.

        Raises:
            ValueError: no text or picture.
        """
        one = isinstance(picture, (str, Embedding, Image.Image))
        pictures = self.encode([picture] if one else picture)  # type: ignore[list-item, arg-type]
        words = list(texts) if not isinstance(texts, str) else [texts]
        cosines = self.similarity(pictures, words)
        logits = self.scale * cosines
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        digits = {"similarity": 3, "probability": 3}
        if one:
            rows = [
                {"text": words[i], "similarity": cosines[0, i], "probability": shares[0, i]}
                for i in np.argsort(-shares[0], kind="stable")
            ]
            return Table(("text", "similarity", "probability"), tuple(rows), digits=digits)
        best = shares.argmax(axis=1)
        rows = [
            {
                "picture": pictures[row].label,
                "text": words[i],
                "similarity": cosines[row, i],
                "probability": shares[row, i],
                "probabilities": shares[row],
            }
            for row, i in enumerate(best)
        ]
        return Table(("picture", "text", "similarity", "probability"), tuple(rows), digits=digits)

    def gap(self, texts: Sequence[str | Embedding], pictures: Sequence[Picture | Embedding]) -> Gap:
        """Compares where texts and pictures lie in this space.

        Args:
            texts: captions or their embeddings, at least three; as many as pictures are taken
                for their captions, in order.
            pictures: pictures or their embeddings, at least three.

        Returns:
            The gap in numbers with 95 % intervals, ``gap.mean`` to add to a text, two planes; it
            shows itself.

        Raises:
            ValueError: too few, another space, or a zero vector.
        """
        groups = [self.encode(list(group)) for group in (texts, pictures)]
        for group in groups:
            self._check_here(group)
        return Gap(tuple(groups[0]), tuple(groups[1]))

    def _check_here(self, points: Sequence[Embedding]) -> None:
        if points:
            zero = np.zeros(len(points[0]), np.float32)
            here = Embedding(zero, "this space", model=self.name)
            for point in points:
                here._check_same_space(point, "compared")

    def _units(self, points: list[Embedding]) -> NDArray[np.float64]:
        if not points:
            raise ValueError("One text, picture or embedding at least is needed, got none.")
        self._check_here(points)
        return np.stack([point.normalised().vector for point in points]).astype(np.float64)

    def _lacks(self, half: str) -> str:
        other = {"text": "image", "image": "text"}[half]
        return (
            f"{self.name!r} has only the {other} half of its CLIP, so nothing encodes {half}s; "
            'give clip_space the whole model, such as "openai/clip-vit-large-patch14" for Karlo '
            "and stable-unclip-small."
        )


def _say_what_fell_off(half: TextHalf, texts: list[str]) -> None:
    """Truncation aloud: which words have no effect."""
    most, cut = half.most_tokens, []
    for text in texts:
        # Short texts can't have more tokens than bytes: nearly every one ends here.
        if len(text.encode("utf-8", "replace")) + 2 > most:
            words = half.tokenizer(
                text, truncation=False, verbose=False, return_offsets_mapping=True
            )
            if len(words.input_ids) > most:
                first = words["offset_mapping"][most - 1][0]  # the end mark takes the last place
                cut.append(text[text.rfind(" ", 0, first) + 1 :].strip())
    if cut:
        more = f", and the ends of {len(cut) - 1} more texts" if len(cut) > 1 else ""
        fell = cut[0] if len(cut[0]) <= 120 else cut[0][:119] + "…"
        say(
            f"The text encoder reads {most - 2} tokens of a text, so these words have no effect: "
            f"{fell!r}{more}; shorten them.",
            stacklevel=3,
        )


def _labels(pictures: list[Any], label: str | Sequence[str] | None) -> list[str]:
    if label is None:
        return [Path(getattr(p, "filename", "") or "a picture").name for p in pictures]
    labels = [label] if isinstance(label, str) else list(label)
    if len(labels) != len(pictures):
        raise ValueError(
            f"Each picture needs its label, got {len(pictures)} pictures and {len(labels)} labels."
        )
    return labels


def _short(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} " + (text if len(text) <= 60 else text[:57] + "...")
