"""``text_diff``: edit a picture by the difference of two captions; sums of embeddings, walked.

What two captions don't share is a direction of CLIP space. DALL-E 2 turns a picture's embedding
towards it (Ramesh et al. 2022, arXiv 2204.06125, section 3.3, "text diffs"):

    z_d = norm(z_t − z_t0),    z_θ = slerp(z_i, z_d, θ),    θ from 0 to a quarter or a half

and decodes each z_θ from the noise that DDIM inversion found for the picture under z_i, so that
what the captions don't speak of can stay where it is. In ``walk_sum`` what is added may be any
weighted terms, and instead of turning they may be added as they are. Of critters their judge says
what changed on the way, and what stayed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ldmkit.check import choice, flag, function, number, short, whole
from ldmkit.critters.judging import look
from ldmkit.critters.scene import Critter, Scene
from ldmkit.critters.world import hidden
from ldmkit.latents.inversion import MOST_ROUNDS, own_noise
from ldmkit.recording import call as checks
from ldmkit.records import Embedding, RecordError, Step, Walk
from ldmkit.space.clip import ClipSpace, clip_space
from ldmkit.space.encoders import EMBEDDED
from ldmkit.space.interpolate import (
    METHODS,
    MOST_FRAMES,
    check_held,
    interpolate,
    label_of,
    picture_of,
)
from ldmkit.space.unclip import Unclip, check_decoding, decoding_unclip, sample_prior

__all__ = [
    "AXES",
    "FORMS",
    "changes",
    "difference",
    "direction",
    "parted",
    "tell_changes",
    "text_diff",
    "visible",
    "walk_sum",
    "weighted_sum",
    "written",
]

AXES = {"turn": "θ", "sum": "share"}
FORMS = tuple(AXES)
_OWN = ("theta", "num_frames", "seed", "invert", "fixed_point", "clip", "on_frame", "on_step")
_NOTHING = 1e-4  # of its terms' lengths: a shorter sum is rounding
_PLACES = ("place", "background", "style", "size", "side")
_OF_CRITTERS = ("animal", "colour", "wears", "mood")

Term = tuple[float, Any]
Seen = Mapping[str, tuple[str, float]]


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
    family = decoding_unclip(unclip, "text_diff")
    thetas = _thetas(theta, num_frames)
    for name, text in (("source", source), ("target", target)):
        if not isinstance(text, str):
            raise TypeError(f'{name} must be a text, got {short(text)}; write it like "a red cat".')
        checks.check_prompt(name, text)
    begin: dict[str, Any] = {"seed": seed, "invert": invert, "fixed_point": fixed_point}
    going: dict[str, Any] = {"on_frame": on_frame, "on_step": on_step}
    _check_walk(family, "text_diff", picture, clip, call, **begin, **going)
    space = clip or clip_space(unclip)
    towards = difference(space, source, target)
    here = _start(family, picture, space, call, **begin)
    walk = _turned(unclip, here, towards, thetas, seed=seed, **going, **call)
    title = f"{source or 'no words'} → {target or 'no words'}"
    inverted = invert and not isinstance(picture, Embedding)
    told = {"source": source, "target": target, "inverted": inverted}
    return _finished(walk, space, title, told)


def walk_sum(
    unclip: Any,
    terms: Sequence[Term],
    *,
    form: str = "turn",
    theta: float = 0.4,
    num_frames: int = 5,
    seed: int = 0,
    invert: bool = True,
    fixed_point: int = 3,
    clip: ClipSpace | None = None,
    on_frame: Callable[[int, Image.Image], bool | None] | None = None,
    on_step: Callable[[Step], bool | None] | None = None,
    **call: Any,
) -> Walk:
    """Walks from a sum's first term to the sum.

    The first term with a positive weight is where the walk begins. ``"turn"`` turns it by θ
    towards the direction of the others, slerp(z, norm(Σ wᵢ·norm(zᵢ)), θ): with + target and
    − source this is ``text_diff``. ``"sum"`` adds a growing share of the others,
    ``weighted_sum([(w, z), (share·wᵢ, zᵢ), ...])``, with the share from 0 to 1.

    Args:
        unclip: a pipeline that decodes image embeddings.
        terms: pairs of a weight and words, a picture, a scene, an earlier run or an
            ``Embedding``. Words are embedded as texts; where they come first, the prior draws a
            picture's embedding of them, since that is what a decoder takes.
        form: ``"turn"`` or ``"sum"``.
        theta: where a turn ends, as a share of the whole angle, 0…1.
        num_frames: pictures, 2 to 1,000.
        seed: of the noise that stays the same (and of the prior's).
        invert: as in ``text_diff``, where the walk begins at a picture.
        fixed_point: as in ``text_diff``.
        clip: the CLIP space to encode in, where the pipeline lacks a half of its CLIP.
        on_frame: as in ``text_diff``.
        on_step: as in ``text_diff``.
        **call: the decoder's own keywords.

    Returns:
        The walk; of critters each line of ``verdicts`` says what changed and what stayed.

    Raises:
        TypeError: no unCLIP pipeline, or a term of a wrong kind.
        ValueError: nothing to begin with or to add, terms that cancel, θ outside 0…1.
    """
    family = decoding_unclip(unclip, "walk_sum")
    first, others = parted(terms)
    choice("form", form, FORMS)
    if form == "sum" and "method" in call:
        raise TypeError('form="sum" adds its terms and takes no method; leave it out.')
    number("theta", theta, 0, 1)
    num_frames = whole("num_frames", num_frames, 2, MOST_FRAMES)
    begin: dict[str, Any] = {"seed": seed, "invert": invert, "fixed_point": fixed_point}
    going: dict[str, Any] = {"on_frame": on_frame, "on_step": on_step}
    _check_walk(family, "walk_sum", first[1], clip, call, **begin, **going)
    space = clip or clip_space(unclip)
    added = [(weight, _embedding(space, thing)) for weight, thing in others]
    towards = direction(added) if form == "turn" else None
    began = sample_prior(unclip, first[1], seed=seed) if isinstance(first[1], str) else first[1]
    here = _start(family, began, space, call, **begin)
    if towards is not None:
        thetas = [float(t) for t in np.linspace(0, theta, num_frames)]
        walk = _turned(unclip, here, towards, thetas, seed=seed, **going, **call)
    else:
        walk = _added(unclip, (first[0], here), added, num_frames, seed=seed, **going, **call)
    named = [(weight, label_of(thing, i)) for i, (weight, thing) in enumerate([first, *others])]
    inverted = invert and not isinstance(began, Embedding)
    told = {"form": form, "terms": named, "inverted": inverted}
    return _finished(walk, space, written(named), told)


def _turned(
    unclip: Any, here: Embedding, towards: Embedding, thetas: Sequence[float], **options: Any
) -> Walk:
    """slerp(z, z_d, θ), decoded; the direction at the picture's own length."""
    walk = interpolate(unclip, here, towards * here.norm, t=thetas, **options)
    labels = tuple(f"θ = {angle:.3g}" for angle in walk.t)
    return dataclasses.replace(walk, labels=labels, axis=AXES["turn"])


def _added(
    unclip: Any,
    first: tuple[float, Embedding],
    others: Sequence[tuple[float, Embedding]],
    num_frames: int,
    **options: Any,
) -> Walk:
    """First term and a growing share of the others, each sum decoded."""
    shares = np.linspace(0, 1, num_frames)
    scaled = [[(share * weight, one) for weight, one in others] for share in shares]
    points = [weighted_sum([first, *rest]) for rest in scaled]
    walk = interpolate(unclip, *points, num_frames=num_frames, method="lerp", **options)
    return dataclasses.replace(
        walk,
        labels=tuple(f"share = {share:.2g}" for share in walk.t),
        axis=AXES["sum"],
        method="sum",
        embeddings=tuple(points[: len(walk)]),
    )


def _finished(walk: Walk, clip: ClipSpace, title: str, told: Mapping[str, Any]) -> Walk:
    verdicts = tell_changes(walk.images) if clip.name == EMBEDDED else ()
    return dataclasses.replace(walk, title=title, call={**walk.call, **told}, verdicts=verdicts)


def _check_walk(
    family: Unclip,
    caller: str,
    first: Any,
    clip: Any,
    call: Mapping[str, Any],
    *,
    seed: Any,
    invert: Any,
    fixed_point: Any,
    on_frame: Any,
    on_step: Any,
) -> None:
    """Refuses what no walk from a picture can mean, before anything is encoded or drawn."""
    whole("seed", seed, 0, 2**63 - 1)
    flag("invert", invert)
    whole("fixed_point", fixed_point, 0, MOST_ROUNDS)
    function("on_frame", on_frame)
    function("on_step", on_step)
    if clip is not None and not isinstance(clip, ClipSpace):
        raise TypeError(
            f"clip must be what ldmkit.clip_space gives or None, got {short(clip)}; leave it out."
        )
    is_picture = not isinstance(first, (Embedding, str))
    if is_picture:
        _picture(first, None)
    check_held(call, caller)
    if invert and is_picture and "latents" in call:
        raise TypeError("invert=True finds the latents itself; leave latents= out.")
    if call.get("batch_size") is not None:
        whole("batch_size", call["batch_size"], 1, 256)
    if call.get("method") is not None:
        choice("method", call["method"], METHODS)
    theirs = {name: value for name, value in call.items() if name not in ("batch_size", "method")}
    check_decoding(family, theirs, caller, _OWN)


def _start(
    family: Unclip,
    picture: Any,
    clip: ClipSpace,
    call: dict[str, Any],
    *,
    seed: int,
    invert: bool,
    fixed_point: int,
) -> Embedding:
    """Where a change of a picture begins: its embedding.

    The steps are noted in the call and, where ``invert`` asks for them, the picture's own noise as
    ``latents`` and guidance 1; an embedding has no noise of its own.
    """
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
    if (after.normalised() - before.normalised()).norm < _NOTHING:
        raise ValueError(
            f"source and target must say different things, got {short(source)} and "
            f"{short(target)}, which are the same to CLIP; take other words."
        )
    return direction([(1, after), (-1, before)])


def direction(terms: Sequence[tuple[float, Embedding]]) -> Embedding:
    """Where weighted terms point, norm(Σ wᵢ·norm(zᵢ)), of length 1.

    Raises:
        ValueError: they cancel.
    """
    total = _summed([(weight, one.normalised()) for weight, one in terms])
    label = written([(weight, one.label) for weight, one in terms])
    if total.norm < _NOTHING * max(abs(weight) for weight, _ in terms):
        raise RecordError(
            f"{label[:80]!r} is nothing, which has no direction: its terms are the same to CLIP; "
            "take other words or another weight."
        )
    return dataclasses.replace(total.normalised(), label=f"norm({label})", compound=False)


def written(terms: Sequence[tuple[float, str]]) -> str:
    """``"a cat + 0.5 × a crown − a dog"``."""
    words = ""
    for weight, label in terms:
        sign = "−" if weight < 0 else "+"
        words += f" {sign} " if words else ("−" if weight < 0 else "")
        words += label if abs(weight) == 1 else f"{abs(weight):.3g} × {label}"
    return words


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
    total = _summed(pairs)
    length = float(np.mean([one.norm for weight, one in pairs if weight > 0]))
    if total.norm < _NOTHING * length:
        raise RecordError(f"{total.label!r:.80} is nothing: its terms cancel; change a weight.")
    vector = total.vector * (length / total.norm)
    return dataclasses.replace(total, vector=vector)


def _summed(terms: Sequence[tuple[float, Embedding]]) -> Embedding:
    total: Embedding | None = None
    for weight, one in terms:
        part = one if abs(weight) == 1 else abs(weight) * one
        if total is None:
            total = part if weight > 0 else -part
        else:
            total = total + part if weight > 0 else total - part
    assert total is not None  # there was a term
    return total


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
    count = whole("num_frames", num_frames, 1, MOST_FRAMES)
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


def parted(terms: Sequence[Term]) -> tuple[Term, list[Term]]:
    """The term that a walk begins with, and those that are added; weights of 0 are left out.

    Raises:
        ValueError: no term with a positive weight, or none beside it.
    """
    try:
        pairs = [(weight, thing) for weight, thing in terms]
    except (TypeError, ValueError):
        raise TypeError(
            f"terms must be pairs of a weight and a thing, got {short(terms)}; write "
            '[(1.0, picture), (0.5, "a crown")].'
        ) from None
    counted = [(number("weight", weight), thing) for weight, thing in pairs if weight != 0]
    start = next((i for i, (weight, _) in enumerate(counted) if weight > 0), None)
    if not counted:
        raise RecordError("The sum is empty; add a picture or words with +.")
    if start is None:
        raise RecordError(
            f"A sum needs a term with a positive weight, got {len(counted)} with −; "
            "add a picture or words with +."
        )
    others = counted[:start] + counted[start + 1 :]
    if not others:
        raise RecordError(
            "A sum needs something to add, got one term; add words, such as + a cat wearing a "
            "crown and − a cat."
        )
    return counted[start], others


def _picture(picture: Any, size: tuple[int, int] | None) -> Image.Image:
    shown = picture_of(picture, size)
    if shown is None:
        raise TypeError(
            f"picture must be a picture, a scene, an earlier run or an Embedding, got "
            f"{short(picture)}; "
            "open a file with PIL.Image.open(path)."
        )
    return shown


def _embedding(clip: ClipSpace, thing: Any) -> Embedding:
    if isinstance(thing, Embedding):
        return thing
    if isinstance(thing, str):
        return clip.encode_text(thing)
    picture = picture_of(thing)
    if picture is None:
        raise TypeError(
            "A term is words, a picture, a scene, an earlier run or an Embedding, got "
            f"{short(thing)}; open a file with PIL.Image.open(path)."
        )
    return clip.encode_image(picture, label=label_of(thing, 0))


def changes(before: Image.Image, after: Image.Image) -> dict[str, tuple[str, str | None]]:
    """What the judge sees in two pictures, for each thing that can be seen in the first.

    Args:
        before: a picture of a critter.
        after: the same, edited.

    Returns:
        Attribute to its two values; equal ones stayed. What can't be seen in the second (a face
        too small for a mood) is ``None`` there.
    """
    first, second = look([before, after])
    then, now = visible(first), visible(second)
    return {name: (value, now.get(name)) for name, value in then.items()}


def tell_changes(pictures: Sequence[Image.Image]) -> tuple[str, ...]:
    """A line per picture: ``"wears: nothing → crown; kept animal, colour, place"``.

    Each is compared with the first one, of which the line says what is seen.
    """
    seen = [visible(one) for one in look(pictures)] if pictures else []
    return tuple(_line(seen[0], now, first_one=i == 0) for i, now in enumerate(seen))


def visible(seen: Seen) -> dict[str, str]:
    """What the judge sees, less what style, size and number hide."""
    number = seen["number"][0]
    if number == "none":
        return {"number": number}
    two = number == "two"
    values = {name: seen[name][0] for name in (*_PLACES, *_OF_CRITTERS)}
    if values["place"] != "plain":
        del values["background"]
    scene = {name: values.get(name) for name in _PLACES}
    hide = hidden(Scene(critters=(Critter(),) * (2 if two else 1), **scene))
    kept = {name: value for name, value in values.items() if name not in hide}
    if two:
        kept |= {name: seen[name][0] for name in ("animal 2", "colour 2", "wears 2")}
    return {"number": number, **kept}


def _line(first: Mapping[str, str], now: Mapping[str, str], *, first_one: bool = False) -> str:
    if first_one:
        return ", ".join(f"{name} {value}" for name, value in first.items())
    changed = [
        f"{name}: {value} → {now.get(name, 'hidden')}"
        for name, value in first.items()
        if now.get(name) != value
    ]
    kept = [name for name, value in first.items() if now.get(name) == value]
    parts = [*changed, f"kept {', '.join(kept)}" if kept else "kept nothing"]
    return "; ".join(parts)
