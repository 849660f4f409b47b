"""The way of DALL-E 2: between embeddings of pictures (arXiv 2204.06125, section 3.2)."""

from __future__ import annotations

from typing import Any

import torch

from ldmkit.latents.inversion import invert
from ldmkit.records import Embedding
from ldmkit.space.clip import clip_space
from ldmkit.space.ends import label_of, picture_of, refused
from ldmkit.space.unclip import Family, check_decoding, decode_embedding, family_of, sample_prior
from ldmkit.space.ways import OWN, Order, Pictures, Way, check_held

__all__ = ["clip_image"]


def clip_image(walk: Order) -> Way:
    """Between embeddings of pictures, each place decoded from the same noise."""
    family = family_of(walk.pipe)
    if family is None:
        raise TypeError(
            'space="clip_image" needs an unCLIP pipeline, which decodes embeddings, got '
            f'{type(walk.pipe).__name__}; load "critters-unclip", or take space="prompt".'
        )
    check_held(walk.call, "interpolate")
    if walk.invert and "latents" in walk.call:
        raise TypeError("invert=True finds the latents of this walk; leave latents= out.")
    check_decoding(family, walk.call, "interpolate", OWN)
    for i, end in enumerate(walk.ends):  # all, before the first is encoded
        if not isinstance(end, (Embedding, str)) and picture_of(end) is None:
            raise refused(
                "clip_image", "pictures, scenes, words, embeddings and earlier runs", end, i
            )
    ends = [_embedding(walk, end, i) for i, end in enumerate(walk.ends)]
    points = walk.along(ends)
    noises = _inverted(walk, family, ends) if walk.invert else None

    def frames(rows: list[int]) -> Pictures | None:
        batch = [points[i] for i in rows]
        one = len(batch) == 1
        more: dict[str, Any] = {} if noises is None else {"latents": noises[rows]}
        return way.keep(
            decode_embedding(
                walk.pipe,
                batch[0] if one else batch,
                seed=walk.seed if one else [walk.seed] * len(batch),
                keep=(),
                preview="none",
                on_step=walk.on_step,
                **walk.call,
                **more,
            )
        )

    way = Way(frames, points, None if noises is None else noises.float().cpu().numpy())
    return way


def _inverted(walk: Order, family: Family, ends: list[Embedding]) -> torch.Tensor:
    """(k, c, h, w): between the noises that give the ends' pictures under their embeddings."""
    call = walk.call
    call.setdefault("guidance_scale", 1.0)  # of two answers no step could be undone
    call.setdefault("num_inference_steps", family.steps())
    told = {name: call[name] for name in ("num_inference_steps", "noise_level") if name in call}
    noises = []
    for i, (end, embedding) in enumerate(zip(walk.ends, ends, strict=True)):
        picture = picture_of(end, family.size(call))
        if picture is None:
            raise refused("clip_image", "pictures, scenes and earlier runs to invert", end, i)
        words = call.get("prompt", "")
        # One by one, as the ends are decoded: a batch would draw other noise for the second.
        noise = invert(walk.pipe, picture, words, embedding=embedding, seed=walk.seed, **told)
        noises.append(noise[0])
    between: torch.Tensor = walk.along(noises)
    return between


def _embedding(walk: Order, end: Any, number: int) -> Embedding:
    if isinstance(end, Embedding):
        return end
    if isinstance(end, str):
        return sample_prior(walk.pipe, end, seed=walk.seed)
    picture = picture_of(end)
    assert picture is not None  # checked
    return clip_space(walk.pipe).encode_image(picture, label=label_of(end, number))
