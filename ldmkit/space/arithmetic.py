"""``text_diff``: edit a picture by the difference of two captions; sums of embeddings.

What two captions don't share is a direction of CLIP space. DALL-E 2 turns a picture's embedding
towards it (Ramesh et al. 2022, arXiv 2204.06125, section 3.3, "text diffs"):

    z_d = norm(z_t − z_t0),    z_θ = slerp(z_i, z_d, θ),    θ from 0 to a quarter or a half

and decodes each z_θ from the noise that DDIM inversion found for the picture under z_i, so that
what the captions don't speak of can stay where it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ldmkit.check import choice, flag, function, number, short, whole
from ldmkit.latents.inversion import MOST_ROUNDS, own_noise
from ldmkit.recording import call as checks
from ldmkit.records import Embedding, RecordError, Step, Walk
from ldmkit.space.changes import tell_changes
from ldmkit.space.clip import ClipSpace, clip_space
from ldmkit.space.encoders import EMBEDDED
from ldmkit.space.interpolate import (
    METHODS,
    check_held,
    interpolate,
    label_of,
    picture_of,
)
from ldmkit.space.unclip import Family, check_decoding, family_of

__all__ = [
    "check_decodes",
    "check_keywords",
    "check_walk",
    "difference",
    "start_of",
    "text_diff",
    "weighted_sum",
]

_MOST_FRAMES = 1000
_OWN = ("theta", "num_frames", "seed", "invert", "fixed_point", "clip", "on_frame", "on_step")


def text_diff(
    unclip: Any,
    picture: Any,
    source: str,
    target: str,
    *,
    theta: tuple[float, float] = (0.0, 0.4),
    num_frames: int = 5,
    seed: int = 0,
    invert: bool = True,
    fixed_point: int = 3,
    clip: ClipSpace | None = None,
    on_frame: Callable[[int, Image.Image], bool | None] | None = None,
    on_step: Callable[[Step], bool | None] | None = None,
    **call: Any,
) -> Walk:
    """Edits a picture by what ``target`` says more, less or otherwise than ``source``.

    Args:
        unclip: a pipeline that decodes image embeddings.
        picture: a PIL picture or a ``Path``, a scene or an earlier run; or an ``Embedding`` of one,
            which is decoded from ``seed``'s noise.
        source: a caption of the picture as it is; it may say little, such as "a cat" or "".
        target: the same caption with the change.
        theta: first and last angle of the way to the difference, as shares of the whole, 0…1.
        num_frames: pictures, evenly spread over ``theta``; 1 makes the last one alone.
        seed: of the decoder's first noise where nothing is inverted.
        invert: begin from the picture's own noise (``ldmkit.invert``), so that θ = 0 gives the
            picture itself, about as well as the autoencoder draws it.
        fixed_point: rounds of the inversion.
        clip: the CLIP space to encode in, where the pipeline lacks a half of its CLIP.
        on_frame: called with each picture's number and the picture; ``False`` ends the walk there.
        on_step: as in ``record``; ``False`` ends the walk before the picture in the making.
        **call: the decoder's own keywords (``num_inference_steps``, ``guidance_scale``, ...).

    Returns:
        The walk over θ, its embeddings, and where they are critters a line per picture on what
        changed and what stayed.

    Raises:
        TypeError: a pipeline that decodes no embeddings, or a wrong type.
        ValueError: θ outside 0…1, texts that say the same, or as ``decode_embedding``.
    """
    family = check_decodes(unclip, "text_diff")
    thetas = _thetas(theta, num_frames)
    for name, text in (("source", source), ("target", target)):
        _check_text(name, text)
    check_walk(picture, seed, invert, fixed_point, clip, on_frame, on_step)
    check_keywords(family, call, "text_diff", alone=invert and not isinstance(picture, Embedding))
    space = clip or clip_space(unclip)
    turn = difference(space, source, target)
    here = start_of(unclip, picture, space, call, seed=seed, invert=invert, fixed_point=fixed_point)
    walk = interpolate(
        unclip,
        here,
        turn * here.norm,
        t=thetas,
        seed=seed,
        on_frame=on_frame,
        on_step=on_step,
        **call,
    )
    return dataclasses.replace(
        walk,
        labels=tuple(f"θ = {angle:.3g}" for angle in walk.t),
        title=f"{source or 'no words'} → {target or 'no words'}",
        axis="θ",
        call={**walk.call, "source": source, "target": target, "inverted": "latents" in call},
        verdicts=tell_changes(walk.images) if space.name == EMBEDDED else (),
    )


def check_decodes(unclip: Any, who: str) -> Family:
    """Refuses a pipeline that decodes no embeddings; returns its family.

    Raises:
        TypeError: no unCLIP pipeline.
    """
    family = family_of(unclip)
    if family is None:
        raise TypeError(
            f"{who} takes an unCLIP pipeline, which decodes embeddings, got "
            f'{type(unclip).__name__}; open one with ldmkit.load("critters-unclip").'
        )
    return family


def check_walk(
    picture: Any,
    seed: Any,
    invert: Any,
    fixed_point: Any,
    clip: Any,
    on_frame: Any,
    on_step: Any,
) -> None:
    """Refuses what no walk from a picture can mean, before anything is encoded or drawn.

    Raises:
        TypeError: of a wrong kind.
        ValueError: out of its range, or a picture that can't be read.
    """
    whole("seed", seed, 0, 2**63 - 1)
    flag("invert", invert)
    whole("fixed_point", fixed_point, 0, MOST_ROUNDS)
    function("on_frame", on_frame)
    function("on_step", on_step)
    if clip is not None and not isinstance(clip, ClipSpace):
        raise TypeError(
            f"clip must be what ldmkit.clip_space gives or None, got {short(clip)}; leave it out."
        )
    if not isinstance(picture, (Embedding, str)):
        _picture(picture, None)


def check_keywords(family: Family, call: Mapping[str, Any], caller: str, *, alone: bool) -> None:
    """Refuses keywords that no decoded walk can mean, before anything is encoded or drawn.

    Args:
        family: of the pipeline.
        call: the keywords.
        caller: who was called, in words.
        alone: whether the walk finds its first noise by itself.

    Raises:
        TypeError: an unknown keyword, or of a wrong kind.
        ValueError: out of its range.
    """
    check_held(call, caller)
    if alone and "latents" in call:
        raise TypeError("invert=True finds the latents itself; leave latents= out.")
    if call.get("batch_size") is not None:
        whole("batch_size", call["batch_size"], 1, 256)
    if call.get("method") is not None:
        choice("method", call["method"], METHODS)
    theirs = {name: value for name, value in call.items() if name not in ("batch_size", "method")}
    check_decoding(family, theirs, caller, _OWN)


def start_of(
    unclip: Any,
    picture: Any,
    clip: ClipSpace,
    call: dict[str, Any],
    *,
    seed: int,
    invert: bool,
    fixed_point: int,
) -> Embedding:
    """Where a change of a picture begins: its embedding.

    Args:
        unclip: decodes embeddings.
        picture: as ``text_diff`` takes it.
        clip: the space to encode in.
        call: the decoder's keywords; the steps are noted in it and, where ``invert`` asks for
            them, the picture's own noise as ``latents`` and guidance 1.
        seed: of the noise that the decoder adds to embeddings.
        invert: whether to begin from the picture's own noise; an embedding has none.
        fixed_point: rounds of the inversion.

    Raises:
        TypeError: no picture.
    """
    family = check_decodes(unclip, "text_diff")
    call.setdefault("num_inference_steps", family.steps())
    if isinstance(picture, Embedding):
        return picture
    shown = _picture(picture, family.size(call))
    here = clip.encode_image(shown, label=label_of(picture, 0))
    if invert:
        call["latents"] = own_noise(family, shown, here, call, seed=seed, fixed_point=fixed_point)
    return here


def difference(clip: ClipSpace, source: str, target: str) -> Embedding:
    """The direction from one caption to another, norm(z_t − z_t0), of length 1.

    Raises:
        ValueError: both say the same to CLIP.
    """
    before, after = clip.encode_text([source, target])
    step = after.normalised() - before.normalised()
    if step.norm < 1e-4:
        raise ValueError(
            f"source and target must say different things, got {short(source)} and "
            f"{short(target)}, which are the same to CLIP; take other words."
        )
    label = f"norm({after.label} − {before.label})"
    return dataclasses.replace(step.normalised(), label=label, compound=False)


def weighted_sum(terms: Sequence[tuple[float, Embedding]]) -> Embedding:
    """Adds embeddings with weights, at the length that its terms have.

    A sum of vectors is longer or shorter than they are, and a decoder has never seen such a
    length. Cosines don't change by scaling, so the sum is given the mean length of the terms
    with positive weights.

    Args:
        terms: pairs of a weight and an embedding, ``[(1, photo), (0.5, crown)]``.

    Returns:
        The sum, its label as written: ``"photo.png + 0.5 × a crown"``.

    Raises:
        TypeError: not pairs of a number and an embedding.
        ValueError: no terms, none with a positive weight, a sum of nothing, or other spaces.
    """
    if not isinstance(terms, Iterable):
        raise TypeError(f"terms must be pairs of a weight and an embedding, got {short(terms)}.")
    pairs = [_term(term) for term in terms]
    if not any(weight > 0 for weight, _ in pairs):
        raise RecordError(
            "A sum needs a term with a positive weight, got "
            f"{len(pairs)} terms; add a picture or a text."
        )
    total: Embedding | None = None
    for weight, one in pairs:
        part = one if abs(weight) == 1 else abs(weight) * one
        if total is None:
            total = part if weight > 0 else -part
        else:
            total = total + part if weight > 0 else total - part
    assert total is not None  # there was a term
    length = float(np.mean([one.norm for weight, one in pairs if weight > 0]))
    if total.norm < 1e-4 * length:
        raise RecordError(f"{total.label!r:.80} is nothing: its terms cancel; change a weight.")
    vector = total.vector * (length / total.norm)
    return dataclasses.replace(total, vector=vector)


def _term(term: Any) -> tuple[float, Embedding]:
    try:
        weight, embedding = term
    except (TypeError, ValueError):
        weight = embedding = None
    if not isinstance(embedding, Embedding):
        raise TypeError(
            f"A term is a pair of a weight and an embedding, got {short(term)}; "
            'write (1.0, clip.encode_text("a cat")).'
        )
    return number("weight", weight), embedding


def _thetas(theta: Any, num_frames: Any) -> list[float]:
    count = whole("num_frames", num_frames, 1, _MOST_FRAMES)
    try:
        first, last = theta
    except (TypeError, ValueError):
        raise TypeError(
            f"theta must be two numbers, the first and the last, got {short(theta)}; "
            "write theta=(0.0, 0.4)."
        ) from None
    first, last = (number("theta", angle, 0, 1, like="0.4") for angle in (first, last))
    if first > last:
        raise ValueError(
            f"theta must be two rising numbers, got {short(theta)}; write theta=(0.0, 0.4)."
        )
    return [last] if count == 1 else [float(x) for x in np.linspace(first, last, count)]


def _check_text(name: str, text: Any) -> None:
    if not isinstance(text, str):
        raise TypeError(f'{name} must be a text, got {short(text)}; write it like "a red cat".')
    checks.check_prompt(name, text)


def _picture(picture: Any, size: tuple[int, int] | None) -> Image.Image:
    shown = picture_of(picture, size)
    if shown is None:
        raise TypeError(
            f"picture must be a picture, a scene, an earlier run or an Embedding, got "
            f"{short(picture)}; "
            "open a file with PIL.Image.open(path)."
        )
    return shown
