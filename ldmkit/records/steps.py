"""The steps of a ``Trajectory`` one by one, by name: what ``on_step`` and ``traj.steps`` give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from ldmkit.records.record import place_of

if TYPE_CHECKING:
    from ldmkit.records.trajectory import Trajectory

__all__ = ["ESTIMATES", "Step", "Steps"]

Float32 = NDArray[np.float32]

# Arrays with one entry per step; `latents` has one more, the last output.
ESTIMATES = ("denoised", "noise_pred", "noise_pred_text", "noise_pred_uncond", "model_output")


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
        return self._step(place_of("step", index, len(self)))

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
