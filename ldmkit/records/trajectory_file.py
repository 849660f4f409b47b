"""A trajectory as one safetensors file: arrays by name, pictures as uint8, words as JSON.

Names: ``latents`` and the other arrays as in the record, ``previews/LANE``, ``images/0``...,
earlier stages under ``stages/0/``... Version 1; a reader refuses versions it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldmkit.records.errors import RecordError
from ldmkit.records.files import read_record, write_record
from ldmkit.records.trajectory import ESTIMATES, Trajectory

__all__ = ["load", "save"]

FORMAT = "trajectory"
VERSION = 1
SCHEDULE = ("timesteps", "alphas", "sigmas")  # always float64: the law must hold after reading
ARRAYS = ("latents", *ESTIMATES, "rgb")
WORDS = ("prompt", "negative_prompt", "seed", "call", "model", "versions", "stopped")
LATER = ("hidden",)  # not in files of an earlier ldmkit
MAX_STAGES = 16


def save(traj: Trajectory, path: str | PathLike[str], *, dtype: str) -> Path:
    """Writes the record; see ``Trajectory.save``."""
    if dtype not in ("float32", "float16"):
        raise RecordError(f'dtype must be "float32" or "float16", got {dtype!r}.')
    arrays, words = _pack(traj, np.dtype(dtype))
    return write_record(path, arrays, {"format": FORMAT, "version": VERSION, **words})


def load(path: str | PathLike[str], *, max_bytes: int) -> Trajectory:
    """Reads a record; see ``Trajectory.open``."""
    arrays, meta = read_record(path, max_bytes=max_bytes)
    name = Path(path).name
    if meta.get("format") != FORMAT:
        raise RecordError(f"{name!r} holds {str(meta.get('format'))[:40]!r}, not a trajectory.")
    if meta.get("version") != VERSION:
        raise RecordError(
            f"{name!r} is of version {str(meta.get('version'))[:20]}, this ldmkit reads "
            f"{VERSION}; install the ldmkit that wrote it or a newer one."
        )
    try:
        return _unpack(arrays, meta, "")
    except (KeyError, TypeError, ValueError) as error:
        what = error if isinstance(error, RecordError) else f"{type(error).__name__}: {error}"
        raise RecordError(f"{name!r} is not a whole trajectory: {what}") from None


def _pack(traj: Trajectory, dtype: np.dtype[Any]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    arrays: dict[str, NDArray[Any]] = {name: getattr(traj, name) for name in SCHEDULE}
    for name in ARRAYS:
        if (array := getattr(traj, name)) is not None:
            arrays[name] = _cast(name, array, dtype)
    for lane, previews in traj.previews.items():
        arrays[f"previews/{lane}"] = previews
    for i, image in enumerate(traj.images):
        arrays[f"images/{i}"] = np.asarray(image.convert("RGB"))
    words = {name: getattr(traj, name) for name in (*WORDS, *LATER)}
    stages = [_pack(stage, dtype) for stage in traj.stages]
    for i, (inner, _) in enumerate(stages):
        arrays |= {f"stages/{i}/{name}": array for name, array in inner.items()}
    return arrays, words | {"images": len(traj.images), "stages": [inner for _, inner in stages]}


def _cast(name: str, array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if not np.array_equal(np.isfinite(cast), np.isfinite(array)):
        raise RecordError(
            f"{name} reaches {np.nanmax(np.abs(array)):.3g}, more than float16 holds (65504); "
            'save with dtype="float32".'
        )
    return cast


def _unpack(
    arrays: Mapping[str, NDArray[Any]], words: Mapping[str, Any], prefix: str
) -> Trajectory:
    here = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
    stages = words["stages"]
    if len(stages) > MAX_STAGES or prefix.count("stages/") > 2:
        raise RecordError(f"a trajectory has at most {MAX_STAGES} stages, got {len(stages)}.")
    fields: dict[str, Any] = {name: words[name] for name in WORDS}
    fields |= {name: words[name] for name in LATER if name in words}
    fields |= {name: here[name] for name in SCHEDULE}
    fields |= {name: here[name] for name in ARRAYS if name in here}
    fields["previews"] = {
        name.removeprefix("previews/"): array
        for name, array in here.items()
        if name.startswith("previews/")
    }
    fields["images"] = [Image.fromarray(here[f"images/{i}"]) for i in range(words["images"])]
    inner = [_unpack(arrays, stage, f"{prefix}stages/{i}/") for i, stage in enumerate(stages)]
    return Trajectory(**fields, stages=tuple(inner))
