"""Earlier stages of a run: a prior's steps as a trajectory of embeddings.

unCLIP diffuses twice, first an embedding, then a picture of it (arXiv 2204.06125, section 2).
The first run is a record of its own in ``Trajectory.stages``, with (d, 1, 1) for (c, h, w).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ldmkit.recording.arrays import arrays_of
from ldmkit.recording.hooks import Tape, hooked
from ldmkit.records import Trajectory

__all__ = ["before", "prior_arrays", "with_prior"]


@contextmanager
def before(prior: tuple[Any, Any] | None) -> Iterator[Tape]:
    """Records the prior's steps, if there is a prior, while the block runs."""
    tape = Tape()
    if prior is None:
        yield tape
        return
    with hooked(prior[1], None, tape):
        yield tape


def with_prior(
    traj: Trajectory,
    prior: tuple[Any, Any] | None,
    tape: Tape,
    names: Sequence[str],
    parameters: Mapping[str, Any],
    call: Mapping[str, Any],
) -> Trajectory:
    """A decoder's record with the prior's before it, where one ran.

    Args:
        traj: the decoder's.
        prior: network and scheduler.
        tape: the prior's run.
        names: arrays to keep.
        parameters: of the pipeline's call.
        call: its keywords.
    """
    if prior is None or not tape.calls:
        return traj
    told = {
        name: call.get(f"prior_{name}", parameters[f"prior_{name}"].default)
        for name in ("num_inference_steps", "guidance_scale")
        if f"prior_{name}" in parameters
    }
    stage = Trajectory(
        **prior_arrays(*prior, tape, names),
        prompt=traj.prompt,
        seed=traj.seed,
        call=told | {"scheduler": type(prior[1]).__name__},
        model=traj.model,
        versions=traj.versions,
    )
    return replace(traj, stages=(stage,))


@torch.no_grad()
def prior_arrays(
    network: Any,
    scheduler: Any,
    tape: Tape,
    names: Sequence[str],
    rows: Sequence[int] | None = None,
) -> dict[str, Any]:
    """The arrays of a ``Trajectory`` from a prior's run, as embeddings of CLIP's space.

    What a prior diffuses are embeddings at mean 0 and deviation 1; here they are taken back, so
    that each clean estimate compares with embeddings of texts and pictures, and the last row of
    ``latents`` is the embedding that came out. ``noise_pred`` is what makes the law of a record
    (latents = alpha · x0 + sigma · noise) hold there. Other arrays are left out.

    Args:
        network: the ``PriorTransformer``.
        scheduler: its scheduler.
        tape: its run.
        names: arrays to keep.
        rows: of the batch; by default all.
    """
    calls = tape.calls if rows is None else [_some(call, list(rows)) for call in tape.calls]
    arrays = arrays_of(Tape(calls), scheduler, ("latents", "denoised"))
    for name in ("latents", "denoised"):
        if arrays[name] is not None:
            scaled = torch.from_numpy(arrays[name])[..., 0, 0]  # (n, b, d)
            mean, std = network.clip_mean.float().cpu(), network.clip_std.float().cpu()
            arrays[name] = (scaled * std + mean).numpy()[..., None, None]
    if "noise_pred" in names and arrays["denoised"] is not None:
        alpha, sigma = (arrays[level].reshape(-1, 1, 1, 1, 1) for level in ("alphas", "sigmas"))
        arrays["noise_pred"] = (arrays["latents"][:-1] - alpha * arrays["denoised"]) / sigma
    for name in {"latents", "denoised"} - set(names):
        arrays[name] = None
    return arrays


def _some(call: Any, rows: list[int]) -> Any:
    parts = ("latents", "model_output", "output")
    return replace(call, network=None, **{name: getattr(call, name)[rows] for name in parts})
