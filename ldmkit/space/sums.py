"""A sum of pictures and words, walked: from its first term towards the others.

``text_diff`` turns a picture by the difference of two captions (Ramesh et al. 2022, arXiv
2204.06125, section 3.3). Here what is added may be any weighted terms, and instead of turning they
may be added as they are; every place on the way is decoded from one noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ldmkit.check import choice, number, short, whole
from ldmkit.records import Embedding, RecordError, Step, Walk
from ldmkit.space.arithmetic import (
    check_decodes,
    check_keywords,
    check_walk,
    start_of,
    weighted_sum,
)
from ldmkit.space.changes import tell_changes
from ldmkit.space.clip import ClipSpace, clip_space
from ldmkit.space.encoders import EMBEDDED
from ldmkit.space.interpolate import interpolate, label_of, picture_of
from ldmkit.space.unclip import sample_prior

__all__ = ["FORMS", "direction", "parted", "walk_sum", "written"]

FORMS = ("turn", "sum")
AXES = {"turn": "θ", "sum": "share"}

Term = tuple[float, Any]


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
    family = check_decodes(unclip, "walk_sum")
    first, others = parted(terms)
    choice("form", form, FORMS)
    number("theta", theta, 0, 1)
    num_frames = whole("num_frames", num_frames, 2, 1000)
    check_walk(first[1], seed, invert, fixed_point, clip, on_frame, on_step)
    alone = invert and not isinstance(first[1], (Embedding, str))
    check_keywords(family, call, "walk_sum", alone=alone)
    space = clip or clip_space(unclip)
    added = [(weight, _embedding(space, thing)) for weight, thing in others]
    towards = direction(added) if form == "turn" else None
    began = sample_prior(unclip, first[1], seed=seed) if isinstance(first[1], str) else first[1]
    here = start_of(unclip, began, space, call, seed=seed, invert=invert, fixed_point=fixed_point)
    going = {"seed": seed, "on_frame": on_frame, "on_step": on_step, **call}
    if towards is not None:
        places = [float(t) for t in np.linspace(0, theta, num_frames)]
        walk = interpolate(unclip, here, towards * here.norm, t=places, **going)
        labels: Sequence[str] = [f"θ = {angle:.3g}" for angle in walk.t]
    else:
        shares = np.linspace(0, 1, num_frames)
        scaled = [[(share * weight, one) for weight, one in added] for share in shares]
        points = [weighted_sum([(first[0], here), *rest]) for rest in scaled]
        walk = interpolate(unclip, *points, num_frames=num_frames, method="lerp", **going)
        labels = [f"share = {share:.2g}" for share in walk.t]
        walk = dataclasses.replace(walk, embeddings=tuple(points[: len(walk)]), method="sum")
    named = [(weight, label_of(thing, i)) for i, (weight, thing) in enumerate([first, *others])]
    return dataclasses.replace(
        walk,
        labels=tuple(labels),
        title=written(named),
        axis=AXES[form],
        call={**walk.call, "form": form, "terms": named, "inverted": "latents" in call},
        verdicts=tell_changes(walk.images) if space.name == EMBEDDED else (),
    )


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


def direction(terms: Sequence[tuple[float, Embedding]]) -> Embedding:
    """Where weighted terms point, norm(Σ wᵢ·norm(zᵢ)), of length 1.

    Raises:
        ValueError: they cancel.
    """
    parts = [weight * one.normalised() for weight, one in terms]
    total = sum(parts[1:], parts[0])
    label = written([(weight, one.label) for weight, one in terms])
    if total.norm < 1e-4 * sum(abs(weight) for weight, _ in terms):
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
