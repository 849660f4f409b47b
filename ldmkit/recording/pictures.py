"""What a run has to show: its pictures, pictures of its steps, the records of its other stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldmkit.loading.device import works_on
from ldmkit.loading.families import Layout, Stage
from ldmkit.recording import preview as previews
from ldmkit.recording.arrays import arrays_of, laid_out, of_one_shape, prior_arrays
from ldmkit.recording.hooks import Tape
from ldmkit.recording.noise_law import prediction_of
from ldmkit.recording.preview import small_decoder
from ldmkit.records import Trajectory
from ldmkit.records.noise_law import at_unit_variance, clean_of
from ldmkit.records.pictures import every_nth

__all__ = ["images_of", "pictures_of", "stage_of", "step_pictures"]

# Under what names pipelines hand out their pictures.
_PICTURES = ("images", "image", "frames", "videos", "video")

# Pixels in -1..1 are their own colours: what a model without an autoencoder diffuses.
_PIXEL_RGB = np.concatenate([np.eye(3), np.ones((1, 3))]).astype(np.float32) / 2
_ZERO_RGB = np.concatenate([np.eye(3), np.zeros((1, 3))]).astype(np.float32)  # or in 0..1


def images_of(output: Any) -> tuple[Image.Image, ...]:
    """A run's final pictures, whatever their name and kind; of a film its frames.

    Raises:
        ValueError: there is something under a picture's name that can't be read as one.
    """
    fields = output if isinstance(output, Mapping) else getattr(output, "values", None)
    if not isinstance(fields, Mapping):  # a modular pipeline keeps them in `values`
        fields = getattr(output, "__dict__", {})
    named = [fields[name] for name in _PICTURES if fields.get(name) is not None]
    if isinstance(output, tuple):  # its first is what others name
        named = list(output[:1])
    elif isinstance(output, (Image.Image, list, np.ndarray)):
        named = [output]
    return tuple(_flat(named[:1]))


def _flat(value: Any) -> Iterator[Image.Image]:
    if isinstance(value, Image.Image):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _flat(item)
    elif isinstance(value, np.ndarray):
        yield from _from_array(value)
    elif hasattr(value, "detach"):  # a tensor: channels before rows and columns
        array = value.detach().float().cpu().numpy()
        yield from _from_array(np.moveaxis(array, -3, -1) if array.ndim >= 3 else array)
    else:
        raise ValueError(f"a picture was expected, got {type(value).__name__}")


def _from_array(array: NDArray[Any]) -> Iterator[Image.Image]:
    """Pictures of (..., h, w, channels), 0..1 or bytes; of one channel grey ones."""
    if array.ndim < 3 or array.shape[-1] not in (1, 3, 4):
        raise ValueError(f"an array of the shape {array.shape} is no picture")
    if array.dtype != np.uint8:
        array = (np.nan_to_num(array).clip(0, 1) * 255).round().astype(np.uint8)
    for picture in array.reshape(-1, *array.shape[-3:]):
        yield Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)


def pictures_of(vae: Any, latents: NDArray[np.float32]) -> tuple[Image.Image, ...]:
    """Latents (b, c, h, w) as pictures: decoded, or pixels in -1..1 without an autoencoder."""
    if vae is not None:
        return tuple(Image.fromarray(picture) for picture in previews.decode(vae, latents))
    colours = ((latents / 2 + 0.5).clip(0, 1) * 255).round().astype(np.uint8)
    return tuple(Image.fromarray(picture) for picture in colours.transpose(0, 2, 3, 1))


def step_pictures(
    vae: Any,
    arrays: Mapping[str, Any],
    preview: str,
    layout: Layout | None = None,
    every: int = 1,
) -> dict[str, Any]:
    """``rgb``, ``previews`` and ``preview_every`` of a record.

    Args:
        vae: the autoencoder, or ``None``.
        arrays: of the record.
        preview: how steps are drawn.
        layout: how clean latents are brought to the autoencoder, and where pixels begin.
        every: of how many steps one is decoded.
    """
    layout = layout or Layout()
    kept = {name: arrays[name] for name in ("latents", "denoised") if arrays[name] is not None}
    if preview == "none" or not kept:
        return {}
    shape = next(iter(kept.values())).shape
    if vae is None:
        return {"rgb": _ZERO_RGB if layout.from_zero else _PIXEL_RGB} if shape[2] == 3 else {}
    if shape[2] != getattr(vae.config, "latent_channels", shape[2]):
        return {}  # packed in a way that nobody described
    rgb = _at_vae(previews.linear_rgb(vae, shape[2]), layout)
    chosen = every_nth(len(arrays["timesteps"]), every)
    lanes = {lane: layout.at_vae(_at_unit_scale(arrays, lane)[chosen]) for lane in kept}
    unguided = {lane: layout.at_vae(x0[chosen]) for lane, x0 in _unguided_estimates(arrays).items()}
    small = small_decoder(vae, works_on(vae)) if preview == "auto" else None
    if small is not None:
        decode = partial(previews.decode_small, small)
        return {"rgb": rgb, "previews": _decoded(decode, lanes | unguided), "preview_every": every}
    if preview == "linear" or (preview == "auto" and not _cheap(vae, lanes)):
        return {"rgb": rgb}
    if preview == "vae" or _cheap(vae, lanes | unguided):
        lanes |= unguided
    decode = partial(previews.decode, vae)
    return {"rgb": rgb, "previews": _decoded(decode, lanes), "preview_every": every}


def _at_vae(rgb: NDArray[np.float32], layout: Layout) -> NDArray[np.float32]:
    """A linear map of what the autoencoder is given as one of the latents, square by square."""
    nothing = np.zeros((1, len(rgb) - 1, 8, 8), np.float32)
    offset, whole = (layout.at_vae(one).mean(axis=(0, 2, 3)) for one in (nothing, nothing + 1))
    turned = rgb[:-1] * (whole - offset)[:, None]
    return np.concatenate([turned, rgb[-1:] + offset @ rgb[:-1]]).astype(np.float32)


def _cheap(vae: Any, lanes: Mapping[str, NDArray[np.float32]]) -> bool:
    return previews.decode_is_cheap(vae, sum(frames[:, :, 0].size for frames in lanes.values()))


def _at_unit_scale(arrays: Mapping[str, Any], lane: str) -> NDArray[np.float32]:
    frames = arrays[lane][: len(arrays["timesteps"])]  # (n, b, c, h, w)
    if lane == "latents":
        frames = at_unit_variance(frames, *_levels(arrays))
    return np.asarray(frames, dtype=np.float32)


def _unguided_estimates(arrays: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """The clean estimates before guidance.

    They are drawn only beside the guided one, so a record that has no two sides has none.
    """
    sides = {"denoised_uncond": "noise_pred_uncond", "denoised_text": "noise_pred_text"}
    if any(arrays[name] is None for name in ("latents", *sides.values())):
        return {}
    latents, levels = arrays["latents"][:-1], _levels(arrays)
    return {
        lane: np.asarray(clean_of(latents, arrays[noise], *levels), dtype=np.float32)
        for lane, noise in sides.items()
    }


def _levels(arrays: Mapping[str, Any]) -> list[NDArray[np.float64]]:
    """Alpha and sigma of each step, (n, 1, 1, 1, 1)."""
    return [arrays[name][:, None, None, None, None] for name in ("alphas", "sigmas")]


def _decoded(
    decode: Callable[[NDArray[np.float32]], NDArray[np.uint8]],
    lanes: Mapping[str, NDArray[np.float32]],
) -> dict[str, NDArray[np.uint8]]:
    """(n, b, H, W, 3) pictures of each lane, (n, b, c, h, w)."""
    pictures = {}
    for lane, frames in lanes.items():
        flat = decode(frames.reshape(-1, *frames.shape[2:]))
        pictures[lane] = flat.reshape(*frames.shape[:2], *flat.shape[1:])
    return pictures


# --- the other stages ----------------------------------------------------------------------------


def stage_of(
    tape: Any,
    stage: Stage,
    heard_of: Tape,
    parameters: Mapping[str, Any],
    call: Mapping[str, Any],
) -> tuple[Trajectory, ...]:
    """The steps of another stage as a record of their own; of a prior (d, 1, 1) for (c, h, w).

    unCLIP diffuses twice, first an embedding, then a picture of it (arXiv 2204.06125, section 2).
    """
    told = {
        name: call.get(f"{stage.name}_{name}", parameters[f"{stage.name}_{name}"].default)
        for name in ("num_inference_steps", "guidance_scale")
        if f"{stage.name}_{name}" in parameters
    }
    told |= {"scheduler": type(stage.scheduler).__name__}
    same = {name: tape.facts[name] for name in ("prompt", "seed", "model", "versions")}
    if hasattr(stage.network, "clip_mean"):
        arrays = prior_arrays(stage.network, stage.scheduler, heard_of, tape.names)
        return (Trajectory(**arrays, **same, call=told),)
    calls = [laid_out(one, Layout()) for one in of_one_shape(heard_of.calls)]
    arrays = arrays_of(calls, prediction_of(stage.scheduler), tape.names)
    del arrays["guidance"]
    return (Trajectory(**arrays, **step_pictures(None, arrays, tape.preview), **same, call=told),)
