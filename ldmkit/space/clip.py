"""The CLIP of a name, folder, hub id, model or pipeline: encode words and pictures, compare them.

    clip = ldmkit.clip_space("critters")
    clip.encode_text("a red cat").similarity(clip.encode_image(picture))

CLIP was trained so that a caption's vector points where its picture's does (arXiv 2103.00020).
Vectors are the projections as they come, **not normalised**, because that is what diffusers'
unCLIP pipelines feed; every comparison here is by cosine, so lengths never matter in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldmkit.check import say, short, whole
from ldmkit.loading import catalog, load
from ldmkit.loading import device as devices
from ldmkit.loading.folder import read_json
from ldmkit.loading.open import is_folder, is_hub_id, unknown
from ldmkit.recording.call import check_prompt
from ldmkit.records import Embedding, Gap
from ldmkit.records.embedding import check_same_space
from ldmkit.records.rgb import is_picture_like, to_rgb
from ldmkit.records.stats import Table
from ldmkit.space.encoders import (
    EMBEDDED,
    ImageHalf,
    TextHalf,
    embedded_clip,
    embedded_folder,
    halves_of,
    of_model,
    open_folder,
    space_name,
)

__all__ = ["ClipSpace", "Picture", "Point", "clip_space"]

Picture = Image.Image | os.PathLike[str] | NDArray[Any]
# What may stand where points are wanted: they are encoded on the way.
Point = Embedding | str | Picture

LOGIT_SCALE = 100.0  # of a CLIP whose pipeline doesn't keep it: where OpenAI's training ended
_EMBEDDED_NAMES = ("critters", "critters-clip", "critters-unclip")


def clip_space(
    what: Any, *, device: Any = None, dtype: Any = None, processor: Any = None
) -> ClipSpace:
    """Opens the CLIP space of a model.

    Args:
        what: ``"critters"``; the folder or hub id of a ``CLIPModel``; a ``CLIPModel``; a pipeline
            (or the name of one) with a CLIP inside, such as an unCLIP's prior.
        device: ``"cpu"``, ``"cuda"``, ...; by default the CPU, and where a pipeline is.
        dtype: by default float32, and as a pipeline is.
        processor: of a ``CLIPModel`` that is given as an object: its ``CLIPProcessor``.

    Returns:
        The space; its embeddings mix with those of the same space only.

    Raises:
        FileNotFoundError: embedded weights that aren't installed.
        ValueError: an unknown name, or a model that is no CLIP.
        ConnectionError: a hub id that can't be reached.
        TypeError: something else, or a pipeline without a CLIP whose vectors can be compared.
    """
    if isinstance(what, (str, os.PathLike)):
        if processor is not None:
            raise TypeError(
                f"processor goes with a CLIPModel that is given as an object, got "
                f"{short(processor)} beside {short(what)}; leave it out."
            )
        return _named(what, device, dtype)
    space = _of_object(what, processor)
    for name, value in (("device", device), ("dtype", dtype)):
        if value is not None:
            raise TypeError(
                f"{name} must be left out for what is open already, got {short(value)}; give a "
                "name."
            )
    return space


def _of_object(what: Any, processor: Any) -> ClipSpace:
    if isinstance(what, ClipSpace):
        return what
    if isinstance(what, type):
        pass
    elif hasattr(what, "get_text_features") and hasattr(what, "get_image_features"):
        return _of_model(what, processor)
    elif hasattr(what, "components"):
        return _of_pipeline(what)
    raise TypeError(
        f"clip_space takes a name, a folder, a CLIPModel or a pipeline, got {short(what)}; "
        'begin with ldmkit.clip_space("critters").'
    )


def _named(what: str | os.PathLike[str], device: Any, dtype: Any) -> ClipSpace:
    name, path = os.fspath(what), Path(what)
    here = is_folder(name)
    # A folder that merely has a model's name, such as a checkout of its sources, is no model.
    is_pipeline, is_model = (
        here and (path / file).is_file() for file in ("model_index.json", "config.json")
    )
    if name in _EMBEDDED_NAMES and not is_pipeline and not is_model:
        return _embedded(device, dtype)
    if is_pipeline or (name in catalog.CATALOG and not is_model):
        return _of_pipeline(load(what, device=device, dtype=dtype))
    if here:
        return _opened(path, path.resolve().name, device, dtype)
    if isinstance(what, os.PathLike) or not is_hub_id(name):
        raise ValueError(unknown(name, also=_EMBEDDED_NAMES))
    return _opened(name, name, device, dtype)


def _embedded(device: Any, dtype: Any) -> ClipSpace:
    if device is not None or dtype is not None:
        return _opened(embedded_folder(), EMBEDDED, device, dtype)
    text, image = embedded_clip()
    return ClipSpace(EMBEDDED, text, image, _scale(text.network))


def _opened(source: str | Path, name: str, device: Any, dtype: Any) -> ClipSpace:
    chosen = devices.choose_device("cpu" if device is None else device)
    text, image = _open(source, devices.choose_dtype(dtype, chosen, embedded=True))
    return ClipSpace(name, text, image, _scale(text.network.to(chosen)))


def _open(source: str | Path, dtype: Any) -> tuple[TextHalf, ImageHalf]:
    if isinstance(source, Path):
        _check_folder(source)
    try:
        # What was fetched once opens without asking the hub, which may be slow or away.
        return open_folder(source, dtype, local_files_only=True)
    except (OSError, ValueError) as error:
        if isinstance(source, Path):
            raise ValueError(
                f"{source.name!r} can't be opened as a CLIPModel: {_first(error)}"
            ) from None
    try:
        return open_folder(source, dtype)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"{source!r} is neither on this machine nor can it be fetched as a CLIPModel "
            f'({_first(error)}); go online, or use "critters", which needs no network.'
        ) from error


def _check_folder(folder: Path) -> None:
    config = folder / "config.json"
    kind = read_json(config).get("model_type") if config.is_file() else None
    if kind != "clip":
        raise ValueError(
            f"A CLIPModel's folder must hold config.json with model_type clip, {folder.name!r} "
            f"{'says ' + repr(str(kind)[:40]) if kind else 'has none'}; give the folder that "
            "save_pretrained wrote."
        )


def _of_model(model: Any, processor: Any) -> ClipSpace:
    tokenizer = getattr(processor, "tokenizer", None)
    images = getattr(processor, "image_processor", None)
    if tokenizer is None or images is None:
        raise TypeError(
            "A CLIPModel needs its processor beside it: clip_space(model, "
            f"processor=CLIPProcessor.from_pretrained(...)), got {short(processor)}."
        )
    text, image = of_model(model, tokenizer, images)
    name = Path(str(getattr(model, "name_or_path", "") or type(model).__name__))
    return ClipSpace(name.name if name.is_dir() else str(name), text, image, _scale(model))


def _of_pipeline(pipe: Any) -> ClipSpace:
    text, image = halves_of(pipe)
    if text is None and image is None:
        raise TypeError(
            f"{type(pipe).__name__} has no CLIP whose texts and pictures can be compared (its text "
            "encoder lacks the projection into the shared space); give clip_space a CLIPModel, "
            'such as "openai/clip-vit-large-patch14", or "critters".'
        )
    name = space_name(pipe)
    scale = _scale(embedded_clip()[0].network) if name == EMBEDDED else LOGIT_SCALE
    return ClipSpace(name, text, image, scale)


def _scale(model: Any) -> float:
    return float(model.logit_scale.detach().float().exp())


def _first(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]


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
            picture: a PIL picture, a path or an array (see ``ldmkit.encode_image``), or several;
                turned as its EXIF says, on white where it is transparent.
            label: words for it, one for each of several; by default the file's name.

        Returns:
            An ``Embedding``; a list of them for several pictures.

        Raises:
            TypeError: not pictures.
            ValueError: no picture, one of over 40 megapixels or cut off; not as many labels.
            RuntimeError: the pipeline has no image half.
        """
        one = is_picture_like(picture) or not isinstance(picture, Iterable)
        pictures: list[Any] = [picture] if one else [*picture]  # type: ignore[misc]
        if not pictures:
            raise ValueError("encode_image takes one picture or more, got []; give some.")
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
        points = _listed("points", points, 0)
        made: list[Embedding | None] = [p if isinstance(p, Embedding) else None for p in points]
        texts = [i for i, point in enumerate(points) if isinstance(point, str)]
        pictures = [i for i, point in enumerate(points) if not isinstance(point, (str, Embedding))]
        encoded = zip(
            texts + pictures,
            (self.encode_text([str(points[i]) for i in texts]) if texts else [])
            + (self.encode_image([points[i] for i in pictures]) if pictures else []),
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
        a = _listed("a", a)
        b = None if b is None else _listed("b", b)  # before anything is encoded
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
        if count is not None:
            count = whole("count", count, 1)
        points, candidates = _listed("point", [point]), _listed("candidates", candidates)
        found = self.encode(candidates)
        cosines = self.similarity(points, found)[0]
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
        one = isinstance(picture, Embedding) or is_picture_like(picture)
        points, words = _listed("picture", picture), _listed("texts", texts)
        for text in words:
            if not isinstance(text, str):
                raise TypeError(f"texts must be captions, got {short(text)}; write strings.")
        pictures = self.encode(points)
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
        points = [_listed("texts", texts), _listed("pictures", pictures)]
        groups = [self.encode(group) for group in points]
        for group in groups:
            self._check_here(group)
        return Gap(tuple(groups[0]), tuple(groups[1]))

    def _check_here(self, points: Sequence[Embedding]) -> None:
        if points:
            zero = np.zeros(len(points[0]), np.float32)
            here = Embedding(zero, "this space", model=self.name)
            for point in points:
                check_same_space(here, point, "compared")

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


def _listed(name: str, points: Any, least: int = 1) -> list[Any]:
    """Points as a list, each of them something that can be encoded.

    Raises:
        TypeError: something else among them.
        ValueError: fewer than ``least``.
    """
    if isinstance(points, (str, bytes, Embedding)) or is_picture_like(points):
        points = [points]
    several = isinstance(points, Iterable) and not isinstance(points, Mapping)
    found = list(points) if several else [points]
    for one in found:
        known = isinstance(one, (str, Embedding)) or is_picture_like(one)
        if not known or isinstance(one, bytes):
            raise TypeError(
                f"{name} must be texts, pictures or embeddings, got {short(one)}; a picture may be "
                "a PIL image, a pathlib.Path, an array or a tensor."
            )
    if len(found) < least:
        raise ValueError(f"{name} must hold one text, picture or embedding at least, got none.")
    return found


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
        return [_file_of(picture) or "a picture" for picture in pictures]
    labels = [label] if isinstance(label, str) else label
    if not isinstance(labels, (list, tuple)) or not all(isinstance(one, str) for one in labels):
        raise TypeError(f"label must be words, or a list of them, got {short(label)}.")
    if len(labels) != len(pictures):
        raise ValueError(
            f"Each picture needs its label, got {len(pictures)} pictures and {len(labels)} labels."
        )
    return list(labels)


def _file_of(picture: Any) -> str:
    """The name of a picture's file, without its folders."""
    path = picture if isinstance(picture, (str, os.PathLike)) else getattr(picture, "filename", "")
    return Path(os.fsdecode(path or "")).name
