"""``interpolate``: one walk from picture to picture, through the space of your choice.

The same two ends, joined in five ways: as embeddings of pictures (DALL-E 2, arXiv 2204.06125,
section 3.2), as encoded words, as an autoencoder's latents, as first noise, as mere pixels. Only
what lies between differs, and it differs greatly.

Each space is one generator here, from an order to its frames: it says what may stand at the ends,
makes points of them, and yields picture and point for each place. ``SPACES`` at the end of the
file names them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from ldmkit.check import choice, flag, function, say, says_no, short, whole
from ldmkit.critters import Scene
from ldmkit.latents import decode_latents, encode_image
from ldmkit.latents.inversion import own_noise
from ldmkit.loading.device import ReleasedError
from ldmkit.loading.families import denoiser_of
from ldmkit.loading.siblings import origin_of
from ldmkit.recording import call as checks
from ldmkit.recording import record
from ldmkit.recording.settings import versions
from ldmkit.records import Embedding, Step, Trajectory, Walk
from ldmkit.records.noise_law import at_unit_variance
from ldmkit.records.rgb import to_rgb
from ldmkit.space import paths
from ldmkit.space.clip import clip_space
from ldmkit.space.prompts import Between, mixing
from ldmkit.space.unclip import Unclip, check_decoding, decode_embedding, sample_prior, unclip_of

__all__ = [
    "METHODS",
    "MOST_FRAMES",
    "SPACES",
    "check_held",
    "interpolate",
    "label_of",
    "picture_of",
]

METHODS = tuple(paths.METHODS)
MOST_FRAMES = 1000
_SMALL = 50_000_000  # parameters: what runs in batches without asking
_BATCH = 8
_OWN = (
    *("num_frames", "t", "seed", "space", "method", "invert", "batch_size"),
    *("on_frame", "on_step"),
)
# A walk's frames differ in one thing; these would give each frame others or several pictures.
_HELD = ("keep", "preview", "generator", "num_images_per_prompt", "prompt_embeds", "output_type")


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
    choice("space", space, tuple(SPACES))
    if method is not None:
        choice("method", method, METHODS)
    function("on_frame", on_frame)
    function("on_step", on_step)
    places = _places(num_frames, t)
    if batch_size is not None:
        batch_size = whole("batch_size", batch_size, 1, 256)
    order = Order(
        pipe=pipe,
        ends=(a, b, *more_ends),
        places=places,
        method=method or SPACES[space].method,
        seed=_seed(seed),
        call=call,
        invert=_inverting(invert, space),
        batch_size=batch_size,
        on_step=on_step,
    )
    if call and SPACES[space].still:
        raise TypeError(
            f"space={space!r} runs no network and takes no {next(iter(call))!r}; leave it out."
        )
    frames: list[Frame] = []
    model = origin_of(pipe).name if space != "pixel" else ""
    try:
        for frame in SPACES[space].walk(order):
            frames.append(frame)
            answer = None if on_frame is None else on_frame(len(frames) - 1, frame.picture)
            if says_no(answer):
                break
    except ReleasedError:  # between two pictures, or while the last one was decoded
        if not frames:
            raise
        say(
            f"The pipeline was released: {len(frames)} of {len(places)} pictures are made and kept."
        )
    if not frames:
        raise RuntimeError("The walk was stopped before its first picture; let it make one.")
    names = [label_of(end, i) for i, end in enumerate(order.ends)]
    points = [frame.point for frame in frames if frame.point is not None]
    return Walk(
        images=tuple(frame.picture for frame in frames),
        labels=tuple(_label(names, place) for place in places[: len(frames)]),
        t=np.array(places[: len(frames)]),
        embeddings=tuple(frame.embedding for frame in frames if frame.embedding is not None),
        points=np.stack(points) if points else None,
        title=" → ".join(names),
        space=space,
        method=order.method,
        seed=None if SPACES[space].still else order.seed,
        call=order.told,
        model=model,
        versions=versions(),
    )


def _places(num_frames: Any, t: Any) -> list[float]:
    if t is None:
        count = whole("num_frames", num_frames, 2, MOST_FRAMES)
        # Not linspace, whose steps are added up: 0.6000000000000001 is no end of six.
        return [i / (count - 1) for i in range(count)]
    several = isinstance(t, (list, tuple, range)) or (isinstance(t, np.ndarray) and t.ndim == 1)
    places = list(t) if several else []
    right = all(
        isinstance(p, (int, float, np.integer, np.floating)) and p is not True and 0 <= p <= 1
        for p in places  # NaN is neither
    )
    if not 0 < len(places) <= MOST_FRAMES or not right or sorted(places) != places:
        raise (ValueError if several else TypeError)(
            f"t must be rising numbers between 0 and 1, at most {MOST_FRAMES}, got {short(t)}; "
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


def _seed(seed: Any) -> int:
    """One seed for a whole walk."""
    if isinstance(seed, (list, tuple)):
        raise TypeError(f"seed must be one whole number for the whole walk, got {short(seed)}.")
    return whole("seed", seed, 0, 2**63 - 1)


@dataclass
class Order:
    """What was asked for, and what its runs were told.

    Attributes:
        told: the keywords of the runs, for the record.
        stopped: whether a run was stopped: no further places are made.
    """

    pipe: Any
    ends: tuple[Any, ...]
    places: list[float]
    method: str
    seed: int
    call: dict[str, Any]
    invert: bool
    batch_size: int | None
    on_step: Callable[[Step], bool | None] | None
    told: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False

    def along(self, points: Sequence[Any]) -> Any:
        """The places' points between the ends' points."""
        return paths.path(points, self.places, method=self.method)

    def batches(self) -> Iterator[list[int]]:
        """Ends alone, so that they come back to the bit; what lies between in batches."""
        size = self.batch_size or (_BATCH if _is_small(self.pipe, self.call) else 1)
        at_end = [paths.leg(place, len(self.ends))[1] in (0, 1) for place in self.places]
        rows: list[int] = []
        for i in range(len(self.places)):
            if rows and (len(rows) == size or at_end[i] or at_end[rows[-1]]):
                yield rows
                if self.stopped:
                    return
                rows = []
            rows.append(i)
        yield rows

    def run(self, prompts: Sequence[str], **more: Any) -> list[Image.Image]:
        """Pictures of one recorded run for as many places, every row from the same seed."""
        count, call = len(prompts), {**self.call, **more}
        if isinstance(call.get("negative_prompt"), str) and count > 1:
            call["negative_prompt"] = [call["negative_prompt"]] * count
        latents = call.get("latents")
        if latents is not None and len(latents) == 1:
            call["latents"] = latents.expand(count, *latents.shape[1:])
        return self.pictures(
            record(
                self.pipe,
                prompts[0] if count == 1 else list(prompts),
                seed=self.seed if count == 1 else [self.seed] * count,
                keep=(),
                preview="none",
                on_step=self.on_step,
                **call,
            )
        )

    def pictures(self, traj: Trajectory) -> list[Image.Image]:
        """A run's pictures, none where it was stopped; its keywords are noted."""
        # What the walk gives itself: lists with one for each picture of a batch, tensors.
        own = ("seed", "embedding", "left_out")
        self.told = {name: value for name, value in traj.call.items() if name not in own}
        self.stopped = traj.stopped
        return [] if traj.stopped else list(traj.images)


class Frame(NamedTuple):
    """A picture on the way, and the point that it was made of."""

    picture: Image.Image
    point: Any = None  # an array
    embedding: Embedding | None = None


def _is_small(pipe: Any, call: Mapping[str, Any]) -> bool:
    """Whether it runs in batches without asking."""
    network = denoiser_of(pipe)
    small = network is not None and sum(p.numel() for p in network.parameters()) <= _SMALL
    # Start pictures and the like are not repeated for a batch in the same way by every pipeline.
    return small and all(isinstance(value, (str, Real)) or value is None for value in call.values())


def _check_call(order: Order) -> None:
    """Refuses unknown keywords and those that a walk sets itself, before anything runs."""
    check_held(order.call, "interpolate")
    known = checks.parameters_of(order.pipe, "interpolate")
    checks.check_call(order.pipe, known, order.call, "interpolate", _OWN)


def check_held(call: Mapping[str, Any], caller: str) -> None:
    """Refuses keywords that would give each frame others, or several pictures.

    Raises:
        TypeError: one of them.
    """
    for name in _HELD:
        if name in call:
            raise TypeError(
                f"{caller} makes one picture per place and takes no {name!r}; leave it out."
            )


def clip_image(order: Order) -> Iterator[Frame]:
    """Between embeddings of pictures, each place decoded from the same noise."""
    family, call = unclip_of(order.pipe), order.call
    if family is None:
        raise TypeError(
            'space="clip_image" needs an unCLIP pipeline, which decodes embeddings, got '
            f'{type(order.pipe).__name__}; load "critters-unclip", or take space="prompt".'
        )
    check_held(call, "interpolate")
    if order.invert and "latents" in call:
        raise TypeError("invert=True finds the latents of this walk; leave latents= out.")
    check_decoding(family, call, "interpolate", _OWN)
    for i, end in enumerate(order.ends):  # all, before the first is encoded
        if not isinstance(end, (Embedding, str)) and picture_of(end) is None:
            wanted = "pictures, scenes, words, embeddings and earlier runs"
            raise _refused("clip_image", wanted, end, i)
    ends = [_embedding(order, end, i) for i, end in enumerate(order.ends)]
    points = order.along(ends)
    noises = order.along(_own_noises(order, family, ends)) if order.invert else None
    for rows in order.batches():
        batch, one = [points[i] for i in rows], len(rows) == 1
        more: dict[str, Any] = {} if noises is None else {"latents": noises[rows]}
        traj = decode_embedding(
            order.pipe,
            batch[0] if one else batch,
            seed=order.seed if one else [order.seed] * len(batch),
            keep=(),
            preview="none",
            on_step=order.on_step,
            **call,
            **more,
        )
        for i, picture in zip(rows, order.pictures(traj), strict=False):  # none when stopped
            noise = None if noises is None else noises[i].float().cpu().numpy()
            yield Frame(picture, noise, points[i])


def _embedding(order: Order, end: Any, number: int) -> Embedding:
    if isinstance(end, Embedding):
        return end
    if isinstance(end, str):
        return sample_prior(order.pipe, end, seed=order.seed)
    picture = picture_of(end)
    assert picture is not None  # checked
    return clip_space(order.pipe).encode_image(picture, label=label_of(end, number))


def _own_noises(order: Order, family: Unclip, ends: list[Embedding]) -> list[torch.Tensor]:
    """(c, h, w) of each end: what gives its picture under its embedding."""
    noises = []
    for i, (end, embedding) in enumerate(zip(order.ends, ends, strict=True)):
        # Of the decoder's size, so that all ends have noise of one shape.
        picture = picture_of(end, family.size(order.call))
        if picture is None:
            raise _refused("clip_image", "pictures, scenes and earlier runs to invert", end, i)
        # One by one, as the ends are decoded: a batch would draw other noise for the second.
        noises.append(own_noise(family, picture, embedding, order.call, seed=order.seed)[0])
    return noises


def prompt(order: Order) -> Iterator[Frame]:
    """Between encoded prompts, each place drawn from the same noise."""
    if not callable(getattr(order.pipe, "encode_prompt", None)):
        raise TypeError(
            'space="prompt" needs a pipeline that encodes prompts (encode_prompt), got '
            f'{type(order.pipe).__name__}; load "critters".'
        )
    _check_call(order)
    if "prompt" in order.call:
        raise TypeError("The ends are the prompts of this walk; leave prompt= out.")
    words = []
    for i, end in enumerate(order.ends):
        if (text := _words_of(end)) is None:
            raise _refused("prompt", "words, scenes and earlier runs", end, i)
        checks.check_prompt("prompt", text)
        words.append(text)
    for rows in order.batches():
        with mixing(order.pipe) as read:
            pictures = order.run([Between(words, order.places[i], order.method) for i in rows])
        for picture, row in zip(pictures, read, strict=False):  # none when stopped
            yield Frame(picture, row.float().cpu().numpy())


def noise(order: Order) -> Iterator[Frame]:
    """Between two first noises, the words the same."""
    words = order.call.pop("prompt", None)
    if not isinstance(words, str):
        raise TypeError(
            f'space="noise" needs the words that stay the same, got prompt={short(words)}; '
            'add prompt="a red cat".'
        )
    _check_call(order)
    if "latents" in order.call:
        raise TypeError("The ends are the latents of this walk; leave latents= out.")
    for i, end in enumerate(order.ends):  # all, before the pipeline is asked for its noise
        if _is_seed(end):
            _seed(end)
        elif getattr(end, "latents", None) is None and _latents_of(end) is None:
            raise _refused("noise", "seeds, noise (c, h, w) and runs that kept latents", end, i)
    first = _first_noise(order, words)
    points = order.along([_noise_of(first, end, i) for i, end in enumerate(order.ends)])
    for rows in order.batches():
        pictures = order.run([words] * len(rows), latents=points[rows])
        order.told["prompt"] = words
        for i, picture in zip(rows, pictures, strict=False):  # none when stopped
            yield Frame(picture, points[i].float().cpu().numpy())


def _first_noise(order: Order, prompt: str) -> torch.Tensor:
    """(c, h, w) of what this call begins with, asked of the pipeline itself by one step."""
    run = record(
        order.pipe,
        prompt,
        seed=0,
        keep="latents",
        preview="none",
        on_step=lambda step: False,
        **order.call,
    )
    network = denoiser_of(order.pipe)
    assert run.latents is not None  # kept
    noise = torch.from_numpy(run.latents[0, 0].copy())
    if noise.shape[1] == 1 and not hasattr(order.pipe, "unet"):
        raise TypeError(
            f'space="noise" can\'t give {type(order.pipe).__name__} its packed latents; '
            'take space="prompt".'
        )
    return noise if network is None else noise.to(next(network.parameters()).dtype)


def _noise_of(like: torch.Tensor, end: Any, number: int) -> torch.Tensor:
    """(c, h, w) of variance 1; the pipeline multiplies it by the scheduler's first sigma."""
    if _is_seed(end):
        generator = torch.Generator("cpu").manual_seed(_seed(end))
        return torch.randn((1, *like.shape), generator=generator, dtype=like.dtype)[0]
    if isinstance(end, Trajectory) and end.latents is not None:
        array = at_unit_variance(end.latents[0, 0], end.alphas[0], end.sigmas[0])
    else:
        array = _latents_of(end)
    if array.shape != tuple(like.shape):
        raise ValueError(
            f"The first noise of this pipeline has the shape {tuple(like.shape)}, got "
            f"{array.shape} as end {number + 1}; take noise of this pipeline and size."
        )
    return torch.from_numpy(array.copy()).to(like.dtype)


def _is_seed(end: Any) -> bool:
    return isinstance(end, (int, np.integer)) and not isinstance(end, bool)


def _latents_of(end: Any) -> Any:
    """(c, h, w) float32 of an array or tensor, with or without a batch of one; else ``None``."""
    plain = end.detach().float().cpu().numpy() if torch.is_tensor(end) else end
    if not isinstance(plain, np.ndarray) or plain.dtype.kind != "f":
        return None
    array = plain[0] if plain.ndim == 4 and len(plain) == 1 else plain
    return array.astype(np.float32) if array.ndim == 3 else None


def latent(order: Order) -> Iterator[Frame]:
    """Between encoded pictures; each place is decoded, nothing is denoised."""
    for i, end in enumerate(order.ends):  # all, before the first is encoded
        if _latents_of(end) is None and picture_of(end) is None:
            raise _refused("latent", "pictures, scenes, earlier runs and latents", end, i)
    latents: list[Any] = []
    size = next((p.size for end in order.ends if (p := picture_of(end)) is not None), None)
    for end in order.ends:
        array, picture = _latents_of(end), picture_of(end, size)
        if picture is not None:
            array = encode_image(order.pipe, picture)[0].float().cpu().numpy()
        latents.append(array)
    points = order.along(latents)
    for rows in order.batches():
        made = decode_latents(order.pipe, points[rows])
        for i, picture in zip(rows, made if isinstance(made, list) else [made], strict=True):
            yield Frame(picture, points[i])


def pixel(order: Order) -> Iterator[Frame]:
    """Between the pictures' pixels: one fades into the other."""
    first = picture_of(order.ends[0])
    pictures = []
    for i, end in enumerate(order.ends):
        picture = picture_of(end, first.size if first else None)
        if picture is None:
            raise _refused("pixel", "pictures, scenes and earlier runs", end, i)
        pictures.append(np.asarray(picture, np.float32))  # (h, w, 3) in 0..255
    for place in order.places:
        there = paths.path(pictures, place, method=order.method)
        yield Frame(Image.fromarray(there.clip(0, 255).round().astype(np.uint8)))


def label_of(end: Any, number: int) -> str:
    """What an end is called: its words where it has some."""
    if (words := _words_of(end)) is not None:
        return words or ("no words" if isinstance(end, str) else f"run {number + 1}")
    if isinstance(end, Embedding):
        return end.label or f"embedding {number + 1}"
    if isinstance(end, (int, np.integer)):
        return f"seed {end}"
    if isinstance(end, os.PathLike):
        return Path(os.fsdecode(end)).name
    if isinstance(end, Image.Image):  # of an opened file its name, without its folders
        return Path(str(getattr(end, "filename", ""))).name or f"picture {number + 1}"
    return f"latents {number + 1}"


def picture_of(end: Any, size: tuple[int, int] | None = None) -> Image.Image | None:
    """The picture that an end is, upright and RGB; ``None`` where it is none.

    Args:
        end: a picture (PIL, a ``Path``, or an array of uint8: floats are latents), a scene (drawn
            with seed 0) or a run (its final picture).
        size: (width, height) to fill, what protrudes is cut off; by default the picture's own.

    Raises:
        ValueError: a picture that is too large or can't be read.
    """
    if isinstance(end, Scene):
        end = end.draw(min(512, max(16, *size)) if size else 64)
    elif isinstance(end, Trajectory):
        end = end.image
    pixels = str(getattr(end, "dtype", "")).endswith("uint8")
    if not pixels and not isinstance(end, (Image.Image, os.PathLike)):
        return None
    upright = to_rgb(end)
    if size is None or upright.size == size:
        return upright
    return ImageOps.fit(upright, size, Image.Resampling.LANCZOS)


def _words_of(end: Any) -> str | None:
    """The words that an end is: itself, a scene's caption, a run's prompt; else ``None``."""
    if isinstance(end, str):
        return end
    if isinstance(end, Scene):
        return end.caption(0)
    if isinstance(end, Trajectory):
        return end.prompt if isinstance(end.prompt, str) else end.prompt[0]
    return None


def _refused(space: str, wanted: str, end: Any, number: int) -> TypeError:
    """The error for an end that a space can't take."""
    return TypeError(
        f"space={space!r} walks between {wanted}, got {type(end).__name__} {short(end)} as end "
        f"{number + 1}; give another end or another space."
    )


class Space(NamedTuple):
    """A space to walk in.

    Attributes:
        walk: the walk's frames, one by one.
        title: what a panel calls it; one without isn't offered there.
        has: whether a pipeline has it.
        still: nothing is denoised, so that neither seed nor keywords of the pipeline matter.
        method: the way that is taken by default.
    """

    walk: Callable[[Order], Iterator[Frame]]
    title: str = ""
    has: Callable[[Any], bool] = lambda pipe: True
    still: bool = False
    method: str = "slerp"


SPACES = {
    "clip_image": Space(
        clip_image, "CLIP embeddings of pictures", lambda pipe: unclip_of(pipe) is not None
    ),
    "prompt": Space(
        prompt, "encoded prompts", lambda pipe: callable(getattr(pipe, "encode_prompt", None))
    ),
    "latent": Space(
        latent, "latents", lambda pipe: getattr(pipe, "vae", None) is not None, still=True
    ),
    "pixel": Space(pixel, "pixels", still=True, method="lerp"),
    "noise": Space(noise),
}
