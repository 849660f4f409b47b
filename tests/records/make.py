"""Trajectories in closed form: drawn shapes as x0, one noise, x_t = alpha x0 + sigma noise.

The "network" of these runs knows the answer only in part: its clean estimate walks from a blurred
mean picture to x0 as the noise falls, as a real one's does, and its noise obeys the law exactly.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from safetensors.numpy import save_file

from ldmkit.records import Trajectory

PROMPT = "a red cat with a top hat in the snow, at night"
# Three channels carry colours, the fourth lightness; any invertible-looking matrix will do.
RGB = np.array(
    [[0.20, 0.02, 0.01], [0.01, 0.19, 0.03], [0.02, -0.01, 0.21], [0.06, 0.06, 0.05], [0.5] * 3],
    dtype=np.float32,
)


def write_record(path: Path, arrays: dict, words: dict) -> Path:
    """A record file with these arrays and words, right or wrong, past ldmkit's own checks."""
    save_file(arrays, path, metadata={"ldmkit": json.dumps(words)})
    return path


def drawing(size: int) -> Image.Image:
    """A structured picture: a night sky, snow, a red cat with a hat."""
    s = 4 * size
    picture = Image.new("RGB", (s, s), (38, 48, 92))
    pen = ImageDraw.Draw(picture)

    def box(x0, y0, x1, y1):
        return [x0 * s, y0 * s, x1 * s, y1 * s]

    pen.ellipse(box(0.72, 0.08, 0.9, 0.26), fill=(250, 240, 190))
    pen.rectangle(box(0, 0.74, 1, 1), fill=(236, 242, 250))
    for x, y in np.random.default_rng(3).random((24, 2)) * (0.98, 0.7):
        pen.ellipse(box(x, y, x + 0.02, y + 0.02), fill=(240, 244, 255))
    pen.ellipse(box(0.26, 0.5, 0.74, 0.94), fill=(196, 40, 40))
    pen.polygon(
        [(0.3 * s, 0.42 * s), (0.33 * s, 0.2 * s), (0.47 * s, 0.34 * s)], fill=(196, 40, 40)
    )
    pen.polygon(
        [(0.7 * s, 0.42 * s), (0.67 * s, 0.2 * s), (0.53 * s, 0.34 * s)], fill=(196, 40, 40)
    )
    pen.ellipse(box(0.28, 0.28, 0.72, 0.66), fill=(214, 54, 50))
    for x in (0.38, 0.55):
        pen.ellipse(box(x, 0.42, x + 0.08, 0.52), fill=(255, 255, 255))
        pen.ellipse(box(x + 0.025, 0.44, x + 0.06, 0.51), fill=(20, 20, 30))
    pen.polygon(
        [(0.47 * s, 0.54 * s), (0.53 * s, 0.54 * s), (0.5 * s, 0.57 * s)], fill=(60, 10, 20)
    )
    pen.rectangle(box(0.36, 0.06, 0.64, 0.26), fill=(24, 24, 30))
    pen.rectangle(box(0.36, 0.2, 0.64, 0.24), fill=(200, 160, 40))
    pen.rectangle(box(0.29, 0.26, 0.71, 0.3), fill=(24, 24, 30))
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def latents_of(picture: Image.Image, side: int, channels: int = 4) -> np.ndarray:
    """(c, side, side) latents whose linear picture is the picture, by least squares."""
    small = np.asarray(picture.resize((side, side), Image.Resampling.BOX), np.float32) / 255
    pinv = np.linalg.pinv(RGB[:channels])
    return ((small - RGB[-1]) @ pinv).transpose(2, 0, 1).astype(np.float32)


def make(
    n: int = 8,
    *,
    batch: int = 1,
    side: int = 16,
    size: int = 64,
    previews: tuple[str, ...] = ("denoised",),
    euler: bool = False,
    seed: int = 7,
    **fields,
) -> Trajectory:
    """A trajectory of n steps on (4, side, side) latents and size x size pictures."""
    rng = np.random.default_rng(seed)
    bar = np.linspace(0.004, 0.985, n) if n > 1 else np.array([0.5])  # alpha squared
    alphas, sigmas = np.sqrt(bar), np.sqrt(1 - bar)
    if euler:
        alphas, sigmas = np.ones(n), sigmas / alphas
    picture = drawing(size)
    x0 = latents_of(picture, side)[None].repeat(batch, 0)
    noise = rng.standard_normal(x0.shape).astype(np.float32)
    share = bar.astype(np.float32)[:, None, None, None, None] ** 0.7
    mean = x0.mean((2, 3), keepdims=True)
    denoised = share * x0 + (1 - share) * mean
    latents = _column(alphas) * x0 + _column(sigmas) * noise
    noise_pred = (latents - _column(alphas) * denoised) / _column(sigmas)
    shown = {lane: _decoded(lane, picture, bar, batch, rng) for lane in previews}
    values = {
        "prompt": PROMPT,
        "seed": seed,
        "call": {"num_inference_steps": n, "guidance_scale": 4.0, "scheduler": "DDIMScheduler"},
        "model": "critters",
        "versions": {"ldmkit": "0.0", "numpy": np.__version__},
        "timesteps": np.linspace(1023, 31, n).round(),
        "alphas": alphas,
        "sigmas": sigmas,
        "latents": np.concatenate([latents, x0[None]]),
        "denoised": denoised,
        "noise_pred": noise_pred,
        "rgb": RGB,
        "images": (picture,) * batch,
        "previews": shown,
    }
    return Trajectory(**{**values, **fields})


def _column(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)[:, None, None, None, None]


def _decoded(lane: str, picture: Image.Image, bar: np.ndarray, batch: int, rng) -> np.ndarray:
    """(n, b, H, W, 3) uint8: the picture behind a blur, or under noise, that falls with t."""
    frames = []
    for share in bar.tolist():
        if lane == "denoised":
            radius = picture.width * 0.25 * (1 - share) ** 1.5
            frames.append(np.asarray(picture.filter(ImageFilter.GaussianBlur(radius))))
        else:
            grain = rng.standard_normal((picture.height, picture.width, 3)) * 70
            mixed = np.sqrt(share) * (np.asarray(picture) - 128.0) + np.sqrt(1 - share) * grain
            frames.append((mixed + 128).clip(0, 255).astype(np.uint8))
    return np.stack(frames)[:, None].repeat(batch, 1)
