"""``Trajectory``: one recorded run of a diffusion pipeline, step by step.

For every scheduler and family the arrays obey one law (n steps, batch b):

    latents[i] = alphas[i] * denoised[i] + sigmas[i] * noise_pred[i]

with alpha² + sigma² = 1 for variance-preserving schedulers (DDIM, arXiv 2010.02502, eq. 4),
alpha = 1 for Euler and its kin (arXiv 2206.00364, eq. 1) and alpha = 1 - sigma for flow matching
(arXiv 2210.02747, eq. 22). Recording lives elsewhere: this file knows numpy and pillow only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldmkit.check import cut, say, short
from ldmkit.records import attention as _attention
from ldmkit.records import pictures as _pictures
from ldmkit.records import png as _png
from ldmkit.records.attention import AttentionMaps
from ldmkit.records.display import drawn
from ldmkit.records.record import (
    MAX_BYTES,
    Arrays,
    RecordError,
    check_seed,
    copied,
    entries_of,
    flag_of,
    frozen,
    images_of,
    index_of,
    open_record,
    pack_pictures,
    save_record,
    string,
    unpack_pictures,
    whole_of,
)
from ldmkit.records.steps import ESTIMATES, Step, Steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ESTIMATES", "Step", "Steps", "Trajectory"]

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

SCHEDULE = ("timesteps", "alphas", "sigmas")  # float64, in files too: the law must hold
ARRAYS = ("latents", *ESTIMATES, "rgb")
WORDS = ("prompt", "negative_prompt", "seed", "call", "model", "versions", "stopped")
MAX_STAGES, MAX_DEPTH = 256, 3

# Of a call what is told of it: the scheduler's name is no keyword, an embedding's label neither.
_TOLD = (
    "scheduler",
    "scheduler_config",
    "guider",
    "adapters",
    "learned_words",
    "generator_seed",
    "left_out",
    "batch",
    "embedding",
    "guidance",
    "intervene",
)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Trajectory:
    """One recorded run: what entered each step, what the network made of it, the pictures.

    n counts the scheduler's calls (Heun and PNDM call more often than the steps asked for);
    b is the batch; (c, h, w) the latents, unpacked where a family packs them. All values are
    in the network's (scaled) latent space. Arrays are read-only.

    Attributes:
        prompt: the words, one string or one per picture of the batch.
        negative_prompt: the words steered away from, if any.
        seed: seed of the CPU generator, one or one per picture; ``None`` with ``generator=``.
        call: the pipeline call's keywords that JSON can hold, and ``"scheduler"``.
        model: name, hub id or folder name.
        versions: package name to version.
        timesteps: (n,) as the scheduler counts.
        alphas: (n,) share of the clean latents in ``latents``.
        sigmas: (n,) share of the noise in ``latents``.
        latents: (n+1, b, c, h, w) what *enters* each step, then the last output.
        denoised: (n, b, c, h, w) the clean estimate x0.
        noise_pred: (n, b, c, h, w) always as ε, after guidance.
        noise_pred_text: (n, b, c, h, w) ε with the words.
        noise_pred_uncond: (n, b, c, h, w) ε without the words (or with the negative prompt).
        model_output: (n, b, c, h, w) as the network gave it, after guidance.
        rgb: (c+1, 3) linear map from latents to colours in 0..1, the last row its constant.
        images: final pictures of the batch; may be empty after an early stop.
        previews: lane name to decoded step pictures, (n, b, H, W, 3) uint8; with
            ``preview_every`` of fewer steps.
        preview_every: 1, or of how many steps one was decoded, the first and the last always;
            those between are drawn by ``rgb``.
        attention: where each word was looked at, step by step; ``None`` where it was not asked for.
        stopped: the run ended early.
        hidden: for each picture of the batch whether a safety checker blacked it out: its steps
            are drawn as a grey tile, its latents stay; empty where none is.
        stages: earlier stages (such as a prior), trajectories of their own.

    Raises:
        RecordError: an array's shape contradicts the others, or a field has the wrong type.
    """

    prompt: str | tuple[str, ...]
    negative_prompt: str | tuple[str, ...] | None = None
    seed: int | tuple[int, ...] | None = None
    call: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    timesteps: Float64
    alphas: Float64
    sigmas: Float64
    latents: Float32 | None = None
    denoised: Float32 | None = None
    noise_pred: Float32 | None = None
    noise_pred_text: Float32 | None = None
    noise_pred_uncond: Float32 | None = None
    model_output: Float32 | None = None
    rgb: Float32 | None = None
    images: tuple[Image.Image, ...] = ()
    previews: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    preview_every: int = 1
    attention: AttentionMaps | None = None
    stopped: bool = False
    hidden: tuple[bool, ...] = ()
    stages: tuple[Trajectory, ...] = ()

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        for name in ("prompt", "negative_prompt", "seed", "hidden"):
            value = getattr(self, name)
            put(name, tuple(value) if isinstance(value, list) else value)
        for name in ("call", "versions"):
            put(name, copied(name, getattr(self, name)))
        put("images", images_of(self.images))
        put("stages", entries_of("stages", self.stages))
        self._check_words()
        self._check_arrays()
        if self.attention is not None:
            self._check_attention(self.attention)
            run = replace(self, attention=None, stages=())  # the arrays are shared, none is copied
            put("attention", _attention.bound(self.attention, run))

    def _check_attention(self, maps: object) -> None:
        if not isinstance(maps, AttentionMaps):
            raise RecordError(f"attention must be AttentionMaps or None, got {short(maps)}.")
        for one in (maps, *maps.others):
            if len(one) != len(self.timesteps):
                raise RecordError(
                    f"attention must have {len(self.timesteps)} steps as the record, "
                    f"got {len(one)}."
                )
        if 1 + len(maps.others) not in (1, self.batch_size):
            raise RecordError(
                f"attention must be of {self.batch_size} pictures as the record, "
                f"got {1 + len(maps.others)}."
            )

    def _check_words(self) -> None:
        _check_type("prompt", self.prompt, str, optional=False)
        _check_type("negative_prompt", self.negative_prompt, str)
        _check_type("seed", self.seed, int)
        for seed in self.seed if isinstance(self.seed, tuple) else (self.seed,):
            if seed is not None:
                check_seed("seed", seed)
        string("model", self.model)
        object.__setattr__(self, "stopped", flag_of("stopped", self.stopped))
        every = whole_of("preview_every", self.preview_every, 1)
        object.__setattr__(self, "preview_every", every)
        if not isinstance(self.hidden, tuple) or not all(type(h) is bool for h in self.hidden):
            raise RecordError("hidden must hold True or False for each picture of the batch.")
        if not all(isinstance(stage, Trajectory) for stage in self.stages):
            raise RecordError("stages must be trajectories, one per earlier stage of the run.")
        if len(self.stages) > MAX_STAGES or _depth(self) > MAX_DEPTH:
            raise RecordError(
                f"A trajectory may have at most {MAX_STAGES} stages, {MAX_DEPTH} deep, got "
                f"{len(self.stages)}, {_depth(self)} deep; keep them as records of their own."
            )

    def _check_arrays(self) -> None:
        n = frozen("timesteps", self.timesteps, np.float64).size
        for name in SCHEDULE:
            self._freeze(name, np.float64, (n,))
        shape: tuple[int | None, ...] = (None,) * 4  # the first array seen sets (b, c, h, w)
        for name in ("latents", *ESTIMATES):
            if getattr(self, name) is not None:
                steps = n + 1 if name == "latents" else n
                shape = self._freeze(name, np.float32, (steps, *shape))[1:]
        if self.rgb is not None:
            rows = None if shape[1] is None else shape[1] + 1
            self._freeze("rgb", np.float32, (rows, 3))
        drawn_steps = len(_pictures.every_nth(n, self.preview_every))
        pictures = {
            lane: frozen(
                f"previews[{lane!r}]", array, np.uint8, (drawn_steps, shape[0], None, None, 3)
            )
            for lane, array in copied("previews", self.previews).items()
        }
        object.__setattr__(self, "previews", pictures)
        between = drawn_steps < n and pictures
        if between and not all(_pictures.can_be_linear(self, lane) for lane in pictures):
            raise RecordError(
                "preview_every must be 1 where rgb and the latents can't draw the steps between, "
                f"got {self.preview_every}."
            )
        if self.hidden and self.batch_size not in (1, len(self.hidden)):
            raise RecordError(
                f"hidden must hold {self.batch_size} values, one for each picture, "
                f"got {len(self.hidden)}."
            )
        _pictures.blank_hidden(self)

    def _freeze(self, name: str, dtype: type, shape: tuple[int | None, ...]) -> tuple[int, ...]:
        array = frozen(name, getattr(self, name), dtype, shape)
        object.__setattr__(self, name, array)
        return tuple(array.shape)

    @property
    def steps(self) -> Steps:
        """The steps by number, each with its arrays by name: ``traj.steps[4].denoised``."""
        return Steps(self)

    @property
    def image(self) -> Image.Image:
        """The first final picture; a run stopped before any picture raises ``RecordError``."""
        if not self.images:
            raise RecordError(
                "This trajectory holds no final picture (images is empty); "
                "look at its last clean estimate with pictures('denoised')[-1]."
            )
        return self.images[0]

    @property
    def batch_size(self) -> int:
        """Pictures made side by side."""
        for name in ("latents", *ESTIMATES):
            if (array := getattr(self, name)) is not None:
                return int(array.shape[1])
        for pictures in self.previews.values():
            return int(pictures.shape[1])
        return max(1, len(self.images))

    def pictures(
        self, lane: str = "denoised", batch: int = 0, *, size: tuple[int, int] | None = None
    ) -> list[Image.Image]:
        """Draws one picture per step.

        Decoded step pictures are used where the record has them, else the latents pass through
        ``rgb``, which needs no network; a lane that was not kept is computed from the other two.
        Noisy latents are shown at unit variance, divided by √(alpha² + sigma²), since Euler's
        grow to 14. Predicted noise is centred on grey
        and framed by a dashed line: it is *not* a picture (``picture.info["is_picture"]``).

        Args:
            lane: ``"latents"`` (what enters each step), ``"denoised"``, ``"noise_pred"``, and
                before guidance ``"noise_pred_text"``, ``"noise_pred_uncond"`` and the clean
                estimates that they imply, ``"denoised_text"`` and ``"denoised_uncond"``.
            batch: which picture of the batch, from 0.
            size: (width, height) in pixels; by default the final picture's.

        Returns:
            n RGB pictures, one per step.

        Raises:
            RecordError: the lane is unknown or was not kept, or nothing says how to draw it.
        """
        return _pictures.lane_pictures(self, lane, batch, size=size)

    def figure(self, every: int = 4) -> Figure:
        """Returns a matplotlib figure: every ``every``-th step of each lane, alpha and sigma."""
        return drawn("trajectory", self, every=every)

    def guidance_figure(self, step: int, *, batch: int = 0) -> Figure:
        """Draws one step's guidance: its estimates without words, with them and guided.

        guided = uncond + scale · (text - uncond) (arXiv 2207.12598): the three lie on one line
        in latent space. The figure shows the plane of that line and the point where the run
        stands, true to scale, and each point as a picture.

        Args:
            step: as in ``traj.steps[step]``.
            batch: which picture of the batch, from 0.

        Raises:
            RecordError: the record lacks a side of guidance (record with ``keep="all"`` and
                guidance on), or has no such step or picture.
        """
        return drawn("trajectory's guidance", self, step, batch=batch)

    def to_html(self, path: str | PathLike[str], *, batch: int = 0) -> Path:
        """Writes one self-contained page with the player (no network, no kernel); returns its path.

        Args:
            path: the file to write; replaced as a whole or not at all.
            batch: which picture of the batch, from 0.

        Raises:
            RecordError: the batch has no such picture.
            OSError: the folder is missing or not writable; no half-written file stays.
        """
        return drawn("trajectory's page", self, path, batch=batch)

    def save(self, path: str | PathLike[str], *, dtype: str = "float32") -> Path:
        """Writes the record as one safetensors file; returns its path.

        Args:
            path: the file to write; replaced as a whole or not at all.
            dtype: ``"float32"`` keeps every bit, ``"float16"`` halves the file (about three
                digits are kept; alphas, sigmas and timesteps stay float64).

        Raises:
            RecordError: ``dtype`` is unknown, values do not fit it, or ``call`` is not JSON.
            OSError: the folder is missing or not writable; no half-written file stays.
        """
        if dtype not in ("float32", "float16"):
            raise RecordError(f'dtype must be "float32" or "float16", got {short(dtype)}.')
        arrays, words = _pack(self, np.dtype(dtype))
        return save_record(path, "trajectory", arrays, words)

    @classmethod
    def open(cls, path: str | PathLike[str], *, max_bytes: int = MAX_BYTES) -> Trajectory:
        """Reads a record that ``save`` wrote.

        Sizes are compared with the real file and with ``max_bytes`` before anything is
        allocated, so that a damaged or hostile file costs nothing.

        Raises:
            RecordError: the file is truncated, foreign, too large or contradicts itself.
            OSError: the file is missing or not readable.
        """
        return open_record(path, "trajectory", _unpack, max_bytes=max_bytes)

    @property
    def keywords(self) -> dict[str, Any]:
        """What repeats the run: ``record(pipe, **traj.keywords)``, the picture again to the bit.

        The same pipeline with the same scheduler (and guider), versions and kind of machine are
        taken for granted. What no record holds is said aloud: keywords beside words and numbers
        (a start picture, latents, a callback: ``call["left_out"]``), a run without a seed, adapters
        that were loaded, words that were changed on the way (``intervene``).
        """
        words = {name: getattr(self, name) for name in ("prompt", "negative_prompt", "seed")}
        words["seed"] = self.call.get("generator_seed") if self.seed is None else self.seed
        call = {name: value for name, value in self.call.items() if name not in _TOLD}
        batch = self.call.get("batch")  # one picture of several, read from its PNG
        if isinstance(batch, Mapping):
            words |= {name: batch[name] for name in words if batch.get(name) is not None}
        given = {name: value for name, value in words.items() if value is not None} | call
        if missing := self._not_held(seeded="seed" in given):
            say(f"These keywords alone don't repeat the run: {'; '.join(missing)}.", stacklevel=2)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in given.items()
        }

    def _not_held(self, *, seeded: bool) -> list[str]:
        """What ``keywords`` can't bring back, each with what to do about it."""
        left_out = [str(name) for name in _as_list(self.call.get("left_out"))]
        missing = [f"give {', '.join(f'{name}=' for name in left_out)} again"] if left_out else []
        if not seeded and "generator" not in left_out:
            missing.append("it had no seed, so its noise is gone (give seed= next time)")
        adapters = self.call.get("adapters")
        parts = adapters.values() if isinstance(adapters, Mapping) else ()
        weights = {
            f"{name} ({weight})"
            for part in parts
            if isinstance(part, Mapping)
            for name, weight in part.items()
        }
        if weights:
            missing.append(f"load its adapters first: {', '.join(sorted(weights))}")
        if self.call.get("intervene"):
            missing.append('run within ldmkit.intervene(...) again, as call["intervene"] says')
        if words := _as_list(self.call.get("learned_words")):
            missing.append(f"load its learnt words first: {', '.join(map(str, words))}")
        return missing

    def to_png(self, path: str | PathLike[str], *, batch: int = 0) -> Path:
        """Writes a final picture and, inside it, the call that made it; returns the path.

        Args:
            path: the file to write; replaced as a whole or not at all.
            batch: which picture of the batch, from 0.

        Raises:
            RecordError: no such picture, or words that JSON can't hold.
            OSError: the folder is missing or not writable; no half-written file stays.
        """
        if not self.images:
            raise RecordError(
                "This trajectory holds no final picture (images is empty); keep it with save()."
            )
        at = index_of("batch", batch, len(self.images))
        return _png.write(path, self.images[at], {"format": "call", **_words_of(self, at)})

    @classmethod
    def from_png(cls, path: str | PathLike[str]) -> Trajectory:
        """Reads what ``to_png`` wrote: the picture and the call, but no steps.

        Returns:
            A trajectory of zero steps with the picture, prompt, seed, call, model and versions;
            ``record(pipe, **traj.keywords)`` makes the steps again. Of a batch it is the one
            picture, while ``keywords`` repeat the whole batch and ``call["batch"]["picture"]``
            is its number.

        Raises:
            RecordError: no PNG, one without a call, damaged, or beyond the limits.
            OSError: the file is missing or not readable.
        """
        return _png.read(path, _from_words)

    def to_gif(
        self,
        path: str | PathLike[str],
        *,
        lane: str = "denoised",
        batch: int = 0,
        duration: float = 120,
        size: int = 256,
    ) -> Path:
        """Writes the steps of one lane as an animated GIF; returns its path.

        After the last step the final picture stands still, except in the noise lanes.

        Args:
            path: the file to write; replaced as a whole or not at all.
            lane: as in ``pictures``.
            batch: which picture of the batch, from 0.
            duration: milliseconds that each step is shown, 20 to 60,000.
            size: the longer side in pixels, 16 to 2,048.

        Raises:
            RecordError: as ``pictures``, or a number out of its range.
            OSError: the folder is missing or not writable; no half-written file stays.
        """
        return _pictures.animation(self, path, "GIF", lane, batch, duration=duration, size=size)

    def to_webp(
        self,
        path: str | PathLike[str],
        *,
        lane: str = "denoised",
        batch: int = 0,
        duration: float = 120,
        size: int = 256,
    ) -> Path:
        """Writes an animated WebP, smaller and truer in colour; see ``to_gif``."""
        return _pictures.animation(self, path, "WEBP", lane, batch, duration=duration, size=size)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return drawn("trajectory's cell", self)

    def __repr__(self) -> str:
        words = self.prompt if isinstance(self.prompt, str) else " | ".join(self.prompt)
        kept = [
            name for name in ("latents", *ESTIMATES, "attention") if getattr(self, name) is not None
        ]
        return (
            f"Trajectory({cut(words, 60)!r}, seed={self.seed}, {len(self.timesteps)} steps, "
            f"batch of {self.batch_size}, keeps {', '.join(kept) or 'pictures only'}"
            f"{', stopped early' if self.stopped else ''})"
        )


def _as_list(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _check_type(name: str, value: object, kind: type, *, optional: bool = True) -> None:
    items = value if isinstance(value, tuple) else (value,)
    if optional and value is None:
        return
    if not items:
        raise RecordError(f"{name} must not be an empty tuple; give one for each picture.")
    for item in items:
        if not isinstance(item, kind) or isinstance(item, bool):
            raise RecordError(
                f"{name} must be {kind.__name__} or a tuple of them, got {type(item).__name__}."
            )


def _depth(traj: Trajectory) -> int:
    return 1 + max(map(_depth, traj.stages), default=-1)


# --- files ---------------------------------------------------------------------------------------


def _pack(traj: Trajectory, dtype: np.dtype[Any]) -> tuple[Arrays, dict[str, Any]]:
    arrays: Arrays = {name: getattr(traj, name) for name in SCHEDULE}
    for name in ARRAYS:
        if (array := getattr(traj, name)) is not None:
            arrays[name] = _cast(name, array, dtype)
    arrays |= {f"previews/{lane}": previews for lane, previews in traj.previews.items()}
    arrays |= pack_pictures(traj.images)
    maps: list[dict[str, Any]] = []
    if traj.attention is not None:
        own, maps = _attention.pack(traj.attention, dtype)
        arrays |= own
    stages = [_pack(stage, dtype) for stage in traj.stages]
    for i, (inner, _) in enumerate(stages):
        arrays |= {f"stages/{i}/{name}": array for name, array in inner.items()}
    words = {name: getattr(traj, name) for name in (*WORDS, "hidden", "preview_every")}
    return arrays, words | {"attention": maps, "stages": [inner for _, inner in stages]}


def _cast(name: str, array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if not np.array_equal(np.isfinite(cast), np.isfinite(array)):
        raise RecordError(
            f"{name} reaches {np.nanmax(np.abs(array)):.3g}, more than float16 holds (65504); "
            'save with dtype="float32".'
        )
    return cast


def _unpack(arrays: Arrays, words: Mapping[str, Any]) -> Trajectory:
    fields: dict[str, Any] = {name: words[name] for name in WORDS}
    # neither in files of an earlier ldmkit
    fields["hidden"], fields["preview_every"] = (
        words.get("hidden", ()),
        words.get("preview_every", 1),
    )
    fields |= {name: arrays[name] for name in SCHEDULE}
    fields |= {name: arrays[name] for name in ARRAYS if name in arrays}
    fields["previews"] = _below("previews/", arrays)
    fields["images"] = unpack_pictures(arrays)
    # not in files of an earlier ldmkit
    fields["attention"] = _attention.unpack(arrays, words.get("attention", ()))
    stages = words["stages"]
    if len(stages) > MAX_STAGES:  # before each of them is read
        raise RecordError(f"a trajectory has at most {MAX_STAGES} stages, got {len(stages)}.")
    inner = [_unpack(_below(f"stages/{i}/", arrays), stage) for i, stage in enumerate(stages)]
    return Trajectory(**fields, stages=tuple(inner))


def _below(prefix: str, arrays: Arrays) -> Arrays:
    return {k.removeprefix(prefix): array for k, array in arrays.items() if k.startswith(prefix)}


_BATCH = ("prompt", "negative_prompt", "seed")  # may differ from picture to picture


def _words_of(traj: Trajectory, batch: int) -> dict[str, Any]:
    """What is written into one picture of the batch."""
    words = {name: getattr(traj, name) for name in WORDS}
    count = len(traj.images)
    if count > 1:
        # The whole batch is told too: a run of one picture alone may round otherwise.
        given = {name: words[name] for name in _BATCH}
        words |= {name: _own(value, batch, count) for name, value in given.items()}
        words["call"] = {**traj.call, "batch": {"picture": batch, **given}}
    return words


def _own(value: Any, batch: int, count: int) -> Any:
    """One picture's part of what is given for several (num_images_per_prompt repeats each)."""
    if not isinstance(value, tuple):
        return value
    return value[min(batch // max(1, count // len(value)), len(value) - 1)]


def _from_words(words: Mapping[str, Any], picture: Image.Image) -> Trajectory:
    if words["format"] != "call":
        raise RecordError(f"it is of a {short(words['format'])}, not of one picture's run")
    empty: dict[str, Any] = dict.fromkeys(SCHEDULE, ())
    return Trajectory(**{name: words[name] for name in WORDS}, **empty, images=(picture,))
