"""``Trajectory``: one recorded run of a diffusion pipeline, step by step.

For every scheduler and family the arrays obey one law (n steps, batch b):

    latents[i] = alphas[i] * denoised[i] + sigmas[i] * noise_pred[i]

with alpha² + sigma² = 1 for variance-preserving schedulers (DDIM, arXiv 2010.02502, eq. 4),
alpha = 1 for Euler and its kin (arXiv 2206.00364, eq. 1) and alpha = 1 - sigma for flow matching
(arXiv 2210.02747, eq. 22). Recording lives elsewhere: this file knows numpy and pillow only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ldmkit.records import display as _display
from ldmkit.records import pictures as _pictures
from ldmkit.records.errors import RecordError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ESTIMATES", "Step", "Steps", "Trajectory"]

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

# Arrays with one entry per step; `latents` has one more, the last output.
ESTIMATES = ("denoised", "noise_pred", "noise_pred_text", "noise_pred_uncond", "model_output")

# Of a call what is told of it: the scheduler's name is no keyword, an embedding's label neither.
_TOLD = ("scheduler", "left_out", "batch", "embedding", "guidance")


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One step of a trajectory; arrays that were not kept are ``None``.

    Attributes:
        index: position among the scheduler's calls, from 0.
        timestep: what the network was told, as the scheduler counts.
        alpha: how much of the clean latents is in ``latents``.
        sigma: how much noise is in ``latents``.
        latents: what entered the step, (b, c, h, w).
        denoised: the clean estimate x0, (b, c, h, w).
        noise_pred: the predicted noise ε after guidance, (b, c, h, w).
        noise_pred_text: ε with the words alone, (b, c, h, w).
        noise_pred_uncond: ε without the words, (b, c, h, w).
        model_output: what the network gave (ε, v or x0), (b, c, h, w).
        output: what left the step, (b, c, h, w).
    """

    index: int
    timestep: float
    alpha: float
    sigma: float
    latents: Float32 | None = field(repr=False)
    denoised: Float32 | None = field(repr=False)
    noise_pred: Float32 | None = field(repr=False)
    noise_pred_text: Float32 | None = field(repr=False)
    noise_pred_uncond: Float32 | None = field(repr=False)
    model_output: Float32 | None = field(repr=False)
    output: Float32 | None = field(repr=False)


class Steps(Sequence[Step]):
    """The steps of a trajectory by number: ``traj.steps[4]``, ``traj.steps[-1]``, a loop."""

    def __init__(self, trajectory: Trajectory) -> None:
        self._trajectory = trajectory

    def __len__(self) -> int:
        return len(self._trajectory.timesteps)

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Step, ...]: ...
    def __getitem__(self, index: int | slice) -> Step | tuple[Step, ...]:
        if isinstance(index, slice):
            return tuple(self._step(i) for i in range(*index.indices(len(self))))
        number = range(len(self))[index]  # IndexError and negative numbers, as lists have them
        return self._step(number)

    def _step(self, i: int) -> Step:
        t = self._trajectory
        kept = {name: _at(getattr(t, name), i) for name in ESTIMATES}
        return Step(
            index=i,
            timestep=float(t.timesteps[i]),
            alpha=float(t.alphas[i]),
            sigma=float(t.sigmas[i]),
            latents=_at(t.latents, i),
            output=_at(t.latents, i + 1),
            **kept,
        )


def _at(array: Float32 | None, i: int) -> Float32 | None:
    return None if array is None else array[i]


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
        previews: lane name to decoded step pictures, (n, b, H, W, 3) uint8.
        attention: room for attention maps; always ``None`` so far.
        stopped: the run ended early.
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
    attention: None = None
    stopped: bool = False
    stages: tuple[Trajectory, ...] = ()

    def __post_init__(self) -> None:
        for name in ("prompt", "negative_prompt", "seed", "images", "stages"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)
        for name in ("call", "versions"):  # a copy: the record must not change with the caller's
            object.__setattr__(self, name, dict(getattr(self, name)))
        self._check_words()
        self._check_arrays()

    def _check_words(self) -> None:
        _check_type("prompt", self.prompt, str, optional=False)
        _check_type("negative_prompt", self.negative_prompt, str)
        _check_type("seed", self.seed, int)
        if not isinstance(self.model, str):
            raise RecordError(f"model must be a string, got {type(self.model).__name__}.")
        if not all(isinstance(image, Image.Image) for image in self.images):
            raise RecordError("images must be PIL pictures; convert arrays with Image.fromarray.")
        if not all(image.width and image.height for image in self.images):
            raise RecordError("images must be at least one pixel wide and high.")
        if not all(isinstance(stage, Trajectory) for stage in self.stages):
            raise RecordError("stages must be trajectories, one per earlier stage of the run.")

    def _check_arrays(self) -> None:
        n = np.size(self.timesteps)
        for name in ("timesteps", "alphas", "sigmas"):
            self._freeze(name, np.float64, (n,))
        shape: tuple[int | None, ...] = (None,) * 4  # the first array seen sets (b, c, h, w)
        for name in ("latents", *ESTIMATES):
            if getattr(self, name) is not None:
                steps = n + 1 if name == "latents" else n
                shape = self._freeze(name, np.float32, (steps, *shape))[1:]
        if self.rgb is not None:
            rows = None if shape[1] is None else shape[1] + 1
            self._freeze("rgb", np.float32, (rows, 3))
        pictures = {
            lane: _frozen(f"previews[{lane!r}]", array, np.uint8, (n, shape[0], None, None, 3))
            for lane, array in self.previews.items()
        }
        object.__setattr__(self, "previews", pictures)

    def _freeze(self, name: str, dtype: type, shape: tuple[int | None, ...]) -> tuple[int, ...]:
        array = _frozen(name, getattr(self, name), dtype, shape)
        object.__setattr__(self, name, array)
        return array.shape

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
        return _display.figure(self, every)

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
        return _display.guidance_figure(self, step, batch)

    def to_html(self, path: str | PathLike[str], *, batch: int = 0) -> Path:
        """Writes one self-contained page with the player (no network, no kernel); returns its path.

        Args:
            path: the file to write; replaced as a whole or not at all.
            batch: which picture of the batch, from 0.

        Raises:
            RecordError: the batch has no such picture.
            OSError: the folder is missing or not writable; no half-written file stays.
        """
        return _display.to_html(self, path, batch)

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
        from ldmkit.records import trajectory_file  # it imports this module

        return trajectory_file.save(self, path, dtype=dtype)

    @classmethod
    def open(cls, path: str | PathLike[str], *, max_bytes: int = 4 * 2**30) -> Trajectory:
        """Reads a record that ``save`` wrote.

        Sizes are compared with the real file and with ``max_bytes`` before anything is
        allocated, so that a damaged or hostile file costs nothing.

        Raises:
            RecordError: the file is truncated, foreign, too large or contradicts itself.
            OSError: the file is missing or not readable.
        """
        from ldmkit.records import trajectory_file

        return trajectory_file.load(path, max_bytes=max_bytes)

    @property
    def keywords(self) -> dict[str, Any]:
        """What repeats the run: ``record(pipe, **traj.keywords)``, the picture again to the bit.

        The same pipeline, versions and kind of machine are taken for granted, and a ``seed``.
        What was given beside words and numbers (a start picture, latents) is not held by any
        record: ``call["left_out"]`` names it, give it again.
        """
        words = {name: getattr(self, name) for name in ("prompt", "negative_prompt", "seed")}
        call = {name: value for name, value in self.call.items() if name not in _TOLD}
        batch = self.call.get("batch")  # one picture of several, read from its PNG
        if isinstance(batch, Mapping):
            words |= {name: batch.get(name) for name in words}
        given = {name: value for name, value in words.items() if value is not None} | call
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in given.items()
        }

    def to_png(self, path: str | PathLike[str], *, batch: int = 0) -> Path:
        """Writes a final picture and, inside it, the call that made it; returns the path.

        Args:
            path: the file to write; replaced as a whole or not at all.
            batch: which picture of the batch, from 0.

        Raises:
            RecordError: no such picture, or words that JSON can't hold.
            OSError: the folder is missing or not writable; no half-written file stays.
        """
        from ldmkit.records import png  # it imports this module

        return png.save(self, path, batch)

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
        from ldmkit.records import png

        return png.load(path)

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
        return _display.mimebundle(self)

    def __repr__(self) -> str:
        words = self.prompt if isinstance(self.prompt, str) else " | ".join(self.prompt)
        words = words if len(words) <= 60 else words[:59] + "…"
        kept = [name for name in ("latents", *ESTIMATES) if getattr(self, name) is not None]
        return (
            f"Trajectory({words!r}, seed={self.seed}, {len(self.timesteps)} steps, "
            f"batch of {self.batch_size}, keeps {', '.join(kept) or 'pictures only'}"
            f"{', stopped early' if self.stopped else ''})"
        )


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


def _frozen(name: str, value: ArrayLike, dtype: type, shape: tuple[int | None, ...]) -> Any:
    """A read-only array of the dtype, its shape compared with the expected (None: any)."""
    array: NDArray[Any] = np.asarray(value, dtype=dtype)
    fits = array.ndim == len(shape) and all(
        have > 0 if want is None else have == want
        for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise RecordError(
            f"{name} must have the shape ({wanted}), got {array.shape}; "
            "every array of a trajectory counts the same steps, batch and channels."
        )
    view = array.view()  # the caller's own array stays writable
    view.flags.writeable = False
    return view
