"""The ways of ``interpolate``: what each space makes of two ends and a place between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from ldmkit.check import short, whole
from ldmkit.latents import decode_latents, encode_image
from ldmkit.recording import call as checks
from ldmkit.recording import record
from ldmkit.recording.hooks import denoiser_of
from ldmkit.records import Embedding, Step, Trajectory
from ldmkit.records.law import at_unit_variance
from ldmkit.space.ends import picture_of, refused, words_of
from ldmkit.space.paths import leg, path
from ldmkit.space.prompts import Between, mixing

__all__ = [
    "OWN",
    "Order",
    "Pictures",
    "Way",
    "check_call",
    "check_held",
    "latent",
    "noise",
    "pixel",
    "prompt",
    "seed_of",
]

OWN = (
    "num_frames",
    "t",
    "seed",
    "space",
    "method",
    "invert",
    "batch_size",
    "on_frame",
    "on_step",
)
# A walk's frames differ in one thing; these would give each frame others or several pictures.
_HELD = ("keep", "preview", "generator", "num_images_per_prompt", "prompt_embeds", "output_type")

Pictures = list[Image.Image]


@dataclass(frozen=True)
class Order:
    """What was asked for."""

    pipe: Any
    ends: tuple[Any, ...]
    places: list[float]
    method: str
    seed: int
    call: dict[str, Any]
    invert: bool
    on_step: Callable[[Step], bool | None] | None

    def along(self, points: Sequence[Any]) -> Any:
        """The places' points between the ends' points."""
        return path(points, self.places, method=self.method)

    def is_end(self, i: int) -> bool:
        """Whether place i is one of the ends."""
        return leg(self.places[i], len(self.ends))[1] in (0, 1)


@dataclass
class Way:
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
        # What the walk gives itself: lists with one for each picture of a batch, tensors.
        own = ("seed", "embedding", "left_out")
        self.told = {name: value for name, value in traj.call.items() if name not in own}
        return None if traj.stopped else list(traj.images)


def check_call(walk: Order, target: Any) -> None:
    """Refuses unknown keywords and those that a walk sets itself, before anything runs."""
    check_held(walk.call, "interpolate")
    known = checks.parameters_of(target, "interpolate")
    checks.check_call(target, known, walk.call, "interpolate", OWN)


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


def _refuse_call(walk: Order, space: str) -> None:
    if walk.call:
        raise TypeError(
            f"space={space!r} runs no network and takes no {next(iter(walk.call))!r}; leave it out."
        )


def seed_of(seed: Any) -> int:
    """One seed for a whole walk.

    Raises:
        TypeError: none, several, or no whole number.
        ValueError: out of range.
    """
    if isinstance(seed, (list, tuple)):
        raise TypeError(f"seed must be one whole number for the whole walk, got {short(seed)}.")
    return whole("seed", seed, 0, 2**63 - 1)


def prompt(walk: Order) -> Way:
    """Between encoded prompts, each place drawn from the same noise."""
    if not callable(getattr(walk.pipe, "encode_prompt", None)):
        raise TypeError(
            'space="prompt" needs a pipeline that encodes prompts (encode_prompt), got '
            f'{type(walk.pipe).__name__}; load "critters".'
        )
    check_call(walk, walk.pipe)
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

    way = Way(frames, points=points)
    return way


def _run(walk: Order, prompts: Sequence[str], **more: Any) -> Trajectory:
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


def noise(walk: Order) -> Way:
    """Between two first noises, the words the same."""
    prompt = walk.call.pop("prompt", None)
    if not isinstance(prompt, str):
        raise TypeError(
            f'space="noise" needs the words that stay the same, got prompt={short(prompt)}; '
            'add prompt="a red cat".'
        )
    check_call(walk, walk.pipe)
    if "latents" in walk.call:
        raise TypeError("The ends are the latents of this walk; leave latents= out.")
    for i, end in enumerate(walk.ends):  # all, before the pipeline is asked for its noise
        if _is_seed(end):
            seed_of(end)
        elif getattr(end, "latents", None) is None and _latents_of(end) is None:
            wanted = "seeds, noise (c, h, w) and runs that kept latents"
            raise refused("noise", wanted, end, i)
    first = _first_noise(walk, prompt)
    points = walk.along([_noise_of(first, end, i) for i, end in enumerate(walk.ends)])

    def frames(rows: list[int]) -> Pictures | None:
        made = way.keep(_run(walk, [prompt] * len(rows), latents=points[rows]))
        way.told["prompt"] = prompt
        return made

    way = Way(frames, points=points.float().cpu().numpy())
    return way


def _first_noise(walk: Order, prompt: str) -> torch.Tensor:
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
    if _is_seed(end):
        generator = torch.Generator("cpu").manual_seed(seed_of(end))
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


def latent(walk: Order) -> Way:
    """Between encoded pictures; each place is decoded, nothing is denoised."""
    _refuse_call(walk, "latent")
    for i, end in enumerate(walk.ends):  # all, before the first is encoded
        if _latents_of(end) is None and picture_of(end) is None:
            raise refused("latent", "pictures, scenes, earlier runs and latents", end, i)
    latents: list[Any] = []
    size = next((p.size for end in walk.ends if (p := picture_of(end)) is not None), None)
    for end in walk.ends:
        array, picture = _latents_of(end), picture_of(end, size)
        if picture is not None:
            array = encode_image(walk.pipe, picture)[0].float().cpu().numpy()
        latents.append(array)
    points = walk.along(latents)

    def frames(rows: list[int]) -> Pictures:
        made = decode_latents(walk.pipe, points[rows])
        return made if isinstance(made, list) else [made]

    return Way(frames, points=points, runs=False)


def pixel(walk: Order) -> Way:
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

    return Way(frames, runs=False)
