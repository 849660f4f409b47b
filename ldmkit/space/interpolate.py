"""``interpolate``: one walk from picture to picture, through the space of your choice.

The same two ends, joined in five ways: as embeddings of pictures (DALL-E 2, arXiv 2204.06125,
section 3.2), as encoded words, as an autoencoder's latents, as first noise, as mere pixels. Only
what lies between differs, and it differs greatly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from PIL import Image

from ldmkit.check import choice, flag, function, short, whole
from ldmkit.loading.origin import origin_of
from ldmkit.recording.hooks import denoiser_of
from ldmkit.recording.kept import versions
from ldmkit.records import Step, Walk
from ldmkit.space import paths, ways
from ldmkit.space.clip_way import clip_image
from ldmkit.space.ends import label_of
from ldmkit.space.ways import Order, Pictures, Way, seed_of

__all__ = ["SPACES", "interpolate"]

WAYS: dict[str, Callable[[Order], Way]] = {
    "clip_image": clip_image,
    "prompt": ways.prompt,
    "latent": ways.latent,
    "pixel": ways.pixel,
    "noise": ways.noise,
}
SPACES = tuple(WAYS)
METHODS = tuple(paths.METHODS)
_MOST_FRAMES = 1000
_SMALL = 50_000_000  # parameters: what runs in batches without asking
_BATCH = 8


def interpolate(
    pipe: Any,
    a: Any,
    b: Any,
    *more_ends: Any,
    num_frames: int = 9,
    t: Sequence[float] | None = None,
    seed: int = 0,
    space: str = "clip_image",
    method: str | None = None,
    invert: bool = False,
    batch_size: int | None = None,
    on_frame: Callable[[int, Image.Image], bool | None] | None = None,
    on_step: Callable[[Step], bool | None] | None = None,
    **call: Any,
) -> Walk:
    """Walks from ``a`` to ``b`` (and on to further ends) and makes a picture at each place.

    ====================  =========================================================
    ``space``             what ``a`` and ``b`` may be
    ====================  =========================================================
    ``"clip_image"``      pictures, scenes, ``Embedding`` values, earlier runs, or words,
                          of which the prior draws an embedding; ``pipe`` is an unCLIP
    ``"prompt"``          words, scenes (their captions), earlier runs (their prompts)
    ``"latent"``          pictures, scenes, earlier runs, or latents (c, h, w)
    ``"pixel"``           pictures, scenes, earlier runs
    ``"noise"``           seeds, first noise (c, h, w), earlier runs; give ``prompt=`` too
    ====================  =========================================================

    The first noise is the same all along (but in ``"noise"``), so that neighbours differ by their
    place alone. At its ends the walk gives the very pictures that a single run gives.

    Args:
        pipe: a diffusers pipeline; ``"pixel"`` doesn't look at it.
        a: where the walk begins.
        b: where it goes.
        *more_ends: where it goes on to; of k ends, end i is reached at t = i/(k − 1).
        num_frames: pictures, evenly spread over t = 0…1, 2 to 1,000.
        t: the places themselves instead, rising numbers in 0…1.
        seed: of the noise that stays the same (and of the prior's).
        space: where the way lies.
        method: ``"slerp"`` along the great circle, ``"lerp"`` along the straight line; by default
            slerp, but for pixels lerp, which is what blending means.
        invert: for ``"clip_image"`` between pictures: begin each place from the noise that lies
            between the ends' own, found by ``ldmkit.invert``, as the paper does; so that the ends
            are the pictures themselves, about as well as the autoencoder draws them. Guidance is
            1 then, or what you say.
        batch_size: pictures made at once; by default 8 for small networks, else 1. In a batch a
            picture may differ by one grey level of 255 from the same picture made alone.
        on_frame: called with each picture's number and the picture; ``False`` ends the walk there.
        on_step: as in ``record``; ``False`` ends the walk before the picture in the making.
        **call: the pipeline's own keywords (``num_inference_steps``, ``guidance_scale``, ...).

    Returns:
        The walk: pictures, labels, places, and the embeddings or points that it passed.

    Raises:
        TypeError: an end that the space can't take, a pipeline without what the space needs, an
            unknown keyword.
        ValueError: an unknown space or method, too few frames, ends of different models, NaN.
        RuntimeError: stopped before the first picture.
    """
    choice("space", space, SPACES)
    if method is not None:
        choice("method", method, METHODS)
    function("on_frame", on_frame)
    function("on_step", on_step)
    places = _places(num_frames, t)
    if batch_size is not None:
        whole("batch_size", batch_size, 1, 256)
    walk = Order(
        pipe=pipe,
        ends=(a, b, *more_ends),
        places=places,
        method=method or ("lerp" if space == "pixel" else "slerp"),
        seed=seed_of(seed),
        call=call,
        invert=_inverting(invert, space),
        on_step=on_step,
    )
    way = WAYS[space](walk)
    size = _batch_size(batch_size, pipe, call)
    pictures = _pictures(walk, way, size, on_frame)
    count = len(pictures)
    if not count:
        raise RuntimeError("The walk was stopped before its first picture; let it make one.")
    names = [label_of(end, i) for i, end in enumerate(walk.ends)]
    return Walk(
        images=tuple(pictures),
        labels=tuple(_label(names, place) for place in places[:count]),
        t=np.array(places[:count]),
        embeddings=tuple(way.embeddings[:count]),
        points=None if way.points is None else np.stack(list(way.points)[:count]),
        title=" → ".join(names),
        space=space,
        method=walk.method,
        seed=walk.seed if way.runs else None,
        call=way.told,
        model=origin_of(pipe).name if space != "pixel" else "",
        versions=versions(),
    )


def _places(num_frames: Any, t: Any) -> list[float]:
    if t is None:
        count = whole("num_frames", num_frames, 2, _MOST_FRAMES)
        # Not linspace, whose steps are added up: 0.6000000000000001 is no end of six.
        return [i / (count - 1) for i in range(count)]
    several = isinstance(t, (list, tuple, range)) or (isinstance(t, np.ndarray) and t.ndim == 1)
    places = list(t) if several else []
    right = all(
        isinstance(p, (int, float, np.integer, np.floating)) and p is not True and 0 <= p <= 1
        for p in places  # NaN is neither
    )
    if not 0 < len(places) <= _MOST_FRAMES or not right or sorted(places) != places:
        raise (ValueError if several else TypeError)(
            f"t must be rising numbers between 0 and 1, at most {_MOST_FRAMES}, got {short(t)}; "
            "leave it out for evenly spread ones."
        )
    return [float(place) for place in places]


def _inverting(invert: Any, space: str) -> bool:
    flag("invert", invert)
    if invert and space != "clip_image":
        raise TypeError(
            f'invert=True goes with space="clip_image", got {space!r}; walk between inverted '
            'noises alone with space="noise" and the latents of ldmkit.invert as ends.'
        )
    return invert


def _label(names: list[str], place: float) -> str:
    """``"62 % a red cat, 38 % a blue dog"``; at an end its own name."""
    first, share = paths.leg(place, len(names))
    if share in (0, 1):
        return names[first + int(share)]
    return f"{100 - 100 * share:.3g} % {names[first]}, {100 * share:.3g} % {names[first + 1]}"


def _batch_size(asked: Any, pipe: Any, call: Mapping[str, Any]) -> int:
    if asked is not None:
        return int(asked)
    network = denoiser_of(pipe)
    small = network is not None and sum(p.numel() for p in network.parameters()) <= _SMALL
    # Start pictures and the like are not repeated for a batch in the same way by every pipeline.
    plain = all(isinstance(value, (str, Real)) or value is None for value in call.values())
    return _BATCH if small and plain else 1


def _pictures(
    walk: Order,
    way: Way,
    size: int,
    on_frame: Callable[[int, Image.Image], bool | None] | None,
) -> Pictures:
    """The pictures in order; fewer where the walk was stopped."""
    done: Pictures = []
    for rows in _batches(walk, size):
        made = way.frames(rows)
        if made is None:
            return done
        for picture in made:
            done.append(picture)
            answer = None if on_frame is None else on_frame(len(done) - 1, picture)
            if isinstance(answer, (bool, np.bool_)) and not answer:
                return done
    return done


def _batches(walk: Order, size: int) -> Iterator[list[int]]:
    """Ends alone, so that they come back to the bit; what lies between in batches."""
    rows: list[int] = []
    for i in range(len(walk.places)):
        if rows and (len(rows) == size or walk.is_end(i) or walk.is_end(rows[-1])):
            yield rows
            rows = []
        rows.append(i)
    yield rows
