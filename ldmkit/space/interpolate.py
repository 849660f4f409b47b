"""``interpolate``: one walk from picture to picture, through the space of your choice.

The same two ends, joined in five ways: as embeddings of pictures (DALL-E 2, arXiv 2204.06125,
section 3.2), as encoded words, as an autoencoder's latents, as first noise, as mere pixels. Only
what lies between differs, and it differs greatly.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import torch
from PIL import Image

from ldmkit.latents import decode_latents, encode_image
from ldmkit.loading.origin import origin_of
from ldmkit.recording import checks, record
from ldmkit.recording.hooks import denoiser_of
from ldmkit.recording.told import versions
from ldmkit.records import Embedding, Step, Trajectory, Walk
from ldmkit.space.ends import label_of, picture_of, refused, words_of
from ldmkit.space.mixing import Between, mixing
from ldmkit.space.paths import path

__all__ = ["SPACES", "interpolate"]

SPACES = ("clip_image", "prompt", "latent", "pixel", "noise")
METHODS = ("slerp", "lerp")
_OWN = ("num_frames", "t", "seed", "space", "method", "batch_size", "on_frame")
# A walk's frames differ in one thing; these would give each frame others or several pictures.
_HELD = ("keep", "preview", "generator", "num_images_per_prompt", "prompt_embeds", "output_type")
_MOST_FRAMES = 1000
_SMALL = 50_000_000  # parameters: what runs in batches without asking
_BATCH = 8

Pictures = list[Image.Image]


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
        batch_size: pictures made at once; by default 8 for small networks, else 1.
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
    _check_names(space, method)
    places = _places(num_frames, t)
    way_of = {
        "clip_image": _clip_image,
        "prompt": _prompt,
        "latent": _latent,
        "pixel": _pixel,
        "noise": _noise,
    }[space]
    walk = _Order(
        pipe=pipe,
        ends=(a, b, *more_ends),
        places=places,
        method=method or ("lerp" if space == "pixel" else "slerp"),
        seed=_seed(seed),
        call=call,
        on_step=on_step,
    )
    way = way_of(walk)
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


@dataclass(frozen=True)
class _Order:
    """What was asked for."""

    pipe: Any
    ends: tuple[Any, ...]
    places: list[float]
    method: str
    seed: int
    call: dict[str, Any]
    on_step: Callable[[Step], bool | None] | None

    def along(self, points: Sequence[Any]) -> Any:
        """The places' points between the ends' points."""
        return path(points, self.places, method=self.method)

    def is_end(self, i: int) -> bool:
        """Whether place i is one of the ends."""
        return (self.places[i] * (len(self.ends) - 1)) % 1 == 0


@dataclass
class _Way:
    """What a space makes of an order.

    Attributes:
        frames: numbers of places to their pictures; ``None`` when stopped.
        embeddings: one per place, or empty.
        points: one per place, or ``None``.
        runs: whether pictures are runs of the pipeline, from noise.
        told: the keywords of the run, for the record.
    """

    frames: Callable[[list[int]], Pictures | None]
    embeddings: Sequence[Embedding] = ()
    points: Any = None
    runs: bool = True
    told: dict[str, Any] = field(default_factory=dict)

    def keep(self, traj: Trajectory) -> Pictures | None:
        """A run's pictures, its keywords noted."""
        several = ("seed", "embedding")  # lists, one for each picture of a batch
        self.told = {name: value for name, value in traj.call.items() if name not in several}
        return None if traj.stopped else list(traj.images)


def _check_names(space: Any, method: Any) -> None:
    for name, value, known in (("space", space, SPACES), ("method", method, METHODS)):
        if value in known or (name == "method" and value is None):
            continue
        near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
        advice = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r:.60}{advice}")


def _places(num_frames: Any, t: Any) -> list[float]:
    if t is None:
        checks.check_count("num_frames", num_frames, _MOST_FRAMES)
        if num_frames < 2:
            raise ValueError(f"num_frames must be between 2 and {_MOST_FRAMES}, got {num_frames}.")
        return [float(place) for place in np.linspace(0, 1, num_frames)]
    several = isinstance(t, Sequence) or (isinstance(t, np.ndarray) and t.ndim == 1)
    places = list(t) if several and not isinstance(t, str) else []
    right = all(isinstance(p, Real) and 0 <= float(p) <= 1 for p in places)  # NaN is neither
    if not 0 < len(places) <= _MOST_FRAMES or not right or sorted(places) != places:
        raise ValueError(
            f"t must be rising numbers between 0 and 1, at most {_MOST_FRAMES}, got {t!r:.60}; "
            "leave it out for evenly spread ones."
        )
    return [float(place) for place in places]


def _seed(seed: Any) -> int:
    if seed is None or isinstance(seed, (list, tuple)):
        raise TypeError(f"seed must be one whole number for the whole walk, got {seed!r:.60}.")
    checked = checks.check_seed(seed, None, takes_generator=True)
    assert isinstance(checked, int)  # one was given
    return checked


def _label(names: list[str], place: float) -> str:
    """``"62 % a red cat, 38 % a blue dog"``; at an end its own name."""
    position = place * (len(names) - 1)
    first = min(int(position), len(names) - 2)
    share = position - first
    if share in (0, 1):
        return names[first + int(share)]
    return f"{100 - 100 * share:.3g} % {names[first]}, {100 * share:.3g} % {names[first + 1]}"


def _batch_size(asked: Any, pipe: Any, call: Mapping[str, Any]) -> int:
    if asked is not None:
        checks.check_count("batch_size", asked)
        return int(asked)
    network = denoiser_of(pipe)
    small = network is not None and sum(p.numel() for p in network.parameters()) <= _SMALL
    # Start pictures and the like are not repeated for a batch in the same way by every pipeline.
    plain = all(isinstance(value, (str, Real)) or value is None for value in call.values())
    return _BATCH if small and plain else 1


def _pictures(
    walk: _Order,
    way: _Way,
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


def _batches(walk: _Order, size: int) -> Iterator[list[int]]:
    """Ends alone, so that they come back to the bit; what lies between in batches."""
    rows: list[int] = []
    for i in range(len(walk.places)):
        if rows and (len(rows) == size or walk.is_end(i) or walk.is_end(rows[-1])):
            yield rows
            rows = []
        rows.append(i)
    yield rows


def _check_call(walk: _Order, target: Any, extra: Sequence[str] = ()) -> None:
    """Refuses unknown keywords and those that a walk sets itself, before anything runs."""
    for name in _HELD:
        if name in walk.call:
            raise TypeError(
                f"interpolate makes one picture per place and takes no {name!r}; leave it out."
            )
    known = checks.parameters_of(target, "interpolate")
    own = (*_OWN, *extra)
    call = {name: value for name, value in walk.call.items() if name not in extra}
    checks.check_call(target, known, call, "interpolate", own)


def _refuse_call(walk: _Order, space: str) -> None:
    if walk.call:
        raise TypeError(
            f"space={space!r} runs no network and takes no {next(iter(walk.call))!r}; leave it out."
        )


def _clip_image(walk: _Order) -> _Way:
    """Between embeddings of pictures, each place decoded from the same noise."""
    from ldmkit.space.adaptors import family_of
    from ldmkit.space.unclip import decode_embedding

    family = family_of(walk.pipe)
    if family is None:
        raise TypeError(
            'space="clip_image" needs an unCLIP pipeline, which decodes embeddings, got '
            f'{type(walk.pipe).__name__}; load "critters-unclip", or take space="prompt".'
        )
    _check_call(walk, family.decoder(), ("noise_level", "prompt"))
    points = walk.along([_embedding(walk, end, i) for i, end in enumerate(walk.ends)])

    def frames(rows: list[int]) -> Pictures | None:
        batch = [points[i] for i in rows]
        one = len(batch) == 1
        return way.keep(
            decode_embedding(
                walk.pipe,
                batch[0] if one else batch,
                seed=walk.seed if one else [walk.seed] * len(batch),
                keep=(),
                preview="none",
                on_step=walk.on_step,
                **walk.call,
            )
        )

    way = _Way(frames, embeddings=points)
    return way


def _embedding(walk: _Order, end: Any, number: int) -> Embedding:
    from ldmkit.space.clip import clip_space
    from ldmkit.space.unclip import sample_prior

    if isinstance(end, Embedding):
        return end
    if isinstance(end, str):
        return sample_prior(walk.pipe, end, seed=walk.seed)
    picture = picture_of(end)
    if picture is None:
        wanted = "pictures, scenes, words, embeddings and earlier runs"
        raise refused("clip_image", wanted, end, number)
    return clip_space(walk.pipe).encode_image(picture, label=label_of(end, number))


def _prompt(walk: _Order) -> _Way:
    """Between encoded prompts, each place drawn from the same noise."""
    if not callable(getattr(walk.pipe, "encode_prompt", None)):
        raise TypeError(
            'space="prompt" needs a pipeline that encodes prompts (encode_prompt), got '
            f'{type(walk.pipe).__name__}; load "critters".'
        )
    _check_call(walk, walk.pipe)
    if "prompt" in walk.call:
        raise TypeError("The ends are the prompts of this walk; leave prompt= out.")
    words = []
    for i, end in enumerate(walk.ends):
        if (text := words_of(end)) is None:
            raise refused("prompt", "words, scenes and earlier runs", end, i)
        checks.check_prompt("prompt", text)
        words.append(text)
    points: list[Any] = []

    def frames(rows: list[int]) -> Pictures | None:
        prompts = [Between(words, walk.places[i], walk.method) for i in rows]
        with mixing(walk.pipe) as read:
            pictures = way.keep(_run(walk, prompts))
        points.extend(row.float().cpu().numpy() for row in read)
        return pictures

    way = _Way(frames, points=points)
    return way


def _run(walk: _Order, prompts: Sequence[str], **more: Any) -> Trajectory:
    """One recorded run for as many places, every row from the same seed."""
    count, call = len(prompts), {**walk.call, **more}
    if isinstance(call.get("negative_prompt"), str) and count > 1:
        call["negative_prompt"] = [call["negative_prompt"]] * count
    latents = call.get("latents")
    if latents is not None and len(latents) == 1:
        call["latents"] = latents.expand(count, *latents.shape[1:])
    return record(
        walk.pipe,
        prompts[0] if count == 1 else list(prompts),
        seed=walk.seed if count == 1 else [walk.seed] * count,
        keep=(),
        preview="none",
        on_step=walk.on_step,
        **call,
    )


def _noise(walk: _Order) -> _Way:
    """Between two first noises, the words the same."""
    prompt = walk.call.pop("prompt", None)
    if not isinstance(prompt, str):
        raise TypeError(
            f'space="noise" needs the words that stay the same, got prompt={prompt!r:.60}; '
            'add prompt="a red cat".'
        )
    _check_call(walk, walk.pipe)
    if "latents" in walk.call:
        raise TypeError("The ends are the latents of this walk; leave latents= out.")
    first = _first_noise(walk, prompt)
    points = walk.along([_noise_of(first, end, i) for i, end in enumerate(walk.ends)])

    def frames(rows: list[int]) -> Pictures | None:
        made = way.keep(_run(walk, [prompt] * len(rows), latents=points[rows]))
        way.told["prompt"] = prompt
        return made

    way = _Way(frames, points=points.float().cpu().numpy())
    return way


def _first_noise(walk: _Order, prompt: str) -> torch.Tensor:
    """(c, h, w) of what this call begins with, asked of the pipeline itself by one step."""
    run = record(
        walk.pipe,
        prompt,
        seed=0,
        keep="latents",
        preview="none",
        on_step=lambda step: False,
        **walk.call,
    )
    network = denoiser_of(walk.pipe)
    assert run.latents is not None  # kept
    noise = torch.from_numpy(run.latents[0, 0].copy())
    if noise.shape[1] == 1 and not hasattr(walk.pipe, "unet"):
        raise TypeError(
            f'space="noise" can\'t give {type(walk.pipe).__name__} its packed latents; '
            'take space="prompt".'
        )
    return noise if network is None else noise.to(next(network.parameters()).dtype)


def _noise_of(like: torch.Tensor, end: Any, number: int) -> torch.Tensor:
    """(c, h, w) of variance 1; the pipeline multiplies it by the scheduler's first sigma."""
    if isinstance(end, (int, np.integer)) and not isinstance(end, bool):
        generator = torch.Generator("cpu").manual_seed(_seed(end))
        return torch.randn((1, *like.shape), generator=generator, dtype=like.dtype)[0]
    if isinstance(end, Trajectory) and end.latents is not None:
        scale = math.hypot(end.alphas[0], end.sigmas[0])  # Euler's enter at sigma, DDIM's at 1
        array = end.latents[0, 0] / (scale if math.isfinite(scale) and scale > 0 else 1)
    else:
        array = _latents_of(end)
    if array is None:
        raise refused("noise", "seeds, noise (c, h, w) and runs that kept latents", end, number)
    if array.shape != tuple(like.shape):
        raise ValueError(
            f"The first noise of this pipeline has the shape {tuple(like.shape)}, got "
            f"{array.shape} as end {number + 1}; take noise of this pipeline and size."
        )
    return torch.from_numpy(array.copy()).to(like.dtype)


def _latents_of(end: Any) -> Any:
    """(c, h, w) float32 of an array or tensor, with or without a batch of one; else ``None``."""
    plain = end.detach().float().cpu().numpy() if torch.is_tensor(end) else end
    if not isinstance(plain, np.ndarray) or plain.dtype.kind != "f":
        return None
    array = plain[0] if plain.ndim == 4 and len(plain) == 1 else plain
    return array.astype(np.float32) if array.ndim == 3 else None


def _latent(walk: _Order) -> _Way:
    """Between encoded pictures; each place is decoded, nothing is denoised."""
    _refuse_call(walk, "latent")
    latents: list[Any] = []
    size = next((p.size for end in walk.ends if (p := picture_of(end)) is not None), None)
    for i, end in enumerate(walk.ends):
        array, picture = _latents_of(end), picture_of(end, size)
        if picture is not None:
            array = encode_image(walk.pipe, picture)[0].float().cpu().numpy()
        if array is None:
            raise refused("latent", "pictures, scenes, earlier runs and latents", end, i)
        latents.append(array)
    points = walk.along(latents)

    def frames(rows: list[int]) -> Pictures:
        made = decode_latents(walk.pipe, points[rows])
        return made if isinstance(made, list) else [made]

    return _Way(frames, points=points, runs=False)


def _pixel(walk: _Order) -> _Way:
    """Between the pictures' pixels: one fades into the other."""
    _refuse_call(walk, "pixel")
    first = picture_of(walk.ends[0])
    pictures = []
    for i, end in enumerate(walk.ends):
        picture = picture_of(end, first.size if first else None)
        if picture is None:
            raise refused("pixel", "pictures, scenes and earlier runs", end, i)
        pictures.append(np.asarray(picture, np.float32))  # (h, w, 3) in 0..255

    def frames(rows: list[int]) -> Pictures:
        there = [path(pictures, walk.places[i], method=walk.method) for i in rows]
        return [Image.fromarray(p.clip(0, 255).round().astype(np.uint8)) for p in there]

    return _Way(frames, runs=False)
