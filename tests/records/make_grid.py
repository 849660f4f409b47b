"""Grids in closed form: every picture has a colour of its own, every score is known."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ldmkit.records import Grid

AXES = {
    "scheduler": ("ddim", "euler"),
    "num_inference_steps": (2, 4, 8, 16),
    "prompt": ("a red cat", "a blue dog", "a pig at night"),
}


def make_grid(axes=AXES, *, size=(8, 6), **fields) -> Grid:
    """Picture i has the colour (i, 2 i, 3 i); more steps obey more."""
    shape = [len(labels) for labels in axes.values()]
    n = int(np.prod(shape))
    where = np.indices(shape).reshape(len(shape), n)
    names = list(axes)
    prompts = ["a red cat"] * n
    if "prompt" in axes:
        prompts = [axes["prompt"][i] for i in where[names.index("prompt")]]
    steps = np.arange(n)
    if "num_inference_steps" in axes:
        steps = where[names.index("num_inference_steps")]
    colours = [(i % 256, 2 * i % 256, 3 * i % 256) for i in range(n)]
    values = {
        "images": [Image.new("RGB", size, colour) for colour in colours],
        "prompts": prompts,
        "seeds": where[-1].tolist(),
        "values": {
            "score": (where[-1] < steps).astype(float),
            "seconds": 0.1 * (steps + 1),
            "calls": np.array([float(2 ** (i + 1)) for i in steps % 10]),
            "first_timestep": np.full(n, 1023.0),
            "first_alpha": np.full(n, 0.014),
        },
        "measure": "obedience",
        "call": {"guidance_scale": 4.0},
        "model": "critters",
        "versions": {"ldmkit": "0.0"},
    }
    return Grid(axes=axes, **{**values, **fields})
