"""From what the hooks wrote to the arrays of a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ldmkit.check import heard_by, say
from ldmkit.recording.checks import ARRAYS
from ldmkit.recording.estimates import estimates, prediction_of
from ldmkit.recording.hooks import Call, Tape
from ldmkit.records import Step

__all__ = ["arrays_of", "step_of"]

Float32 = NDArray[np.float32]


def arrays_of(tape: Tape, scheduler: Any, names: Sequence[str]) -> dict[str, Any]:
    """The arrays of ``Trajectory``: levels, and what was asked for (the rest is ``None``).

    Raises:
        RuntimeError: the run made no step.
    """
    calls = _of_one_shape(tape.calls)
    levels = np.array(
        [(np.nan,) * 2 if c.level is None else (c.level.alpha, c.level.sigma) for c in calls]
    )
    latents = _stacked([call.latents for call in calls])  # (n, b, c, h, w)
    arrays: dict[str, Any] = dict.fromkeys(ARRAYS)
    if "latents" in names:
        arrays["latents"] = np.concatenate([latents, _stacked([calls[-1].output])])
    if "model_output" in names:
        arrays["model_output"] = _stacked([_mean_part(c, c.model_output) for c in calls])
    if np.isnan(levels).any():
        _say_what_is_missing(scheduler, set(names) - {"latents", "model_output"})
    else:
        _add_estimates(arrays, calls, latents, levels, prediction_of(scheduler), names)
    return {
        "timesteps": np.array([call.timestep for call in calls], dtype=np.float64),
        "alphas": levels[:, 0],
        "sigmas": levels[:, 1],
        **arrays,
    }


def step_of(index: int, call: Call, scheduler: Any, names: Sequence[str]) -> Step:
    """One step by name, for ``on_step``; only what was asked for is worked out."""
    with heard_by(lambda words: None):  # what is missing is said once, at the end
        arrays = arrays_of(Tape([call]), scheduler, names)
    values: dict[str, Any] = {
        name: None if arrays[name] is None else arrays[name][0] for name in ARRAYS
    }
    return Step(
        index=index,
        timestep=call.timestep,
        alpha=float(arrays["alphas"][0]),
        sigma=float(arrays["sigmas"][0]),
        output=None if arrays["latents"] is None else arrays["latents"][1],
        **values,
    )


def _add_estimates(
    arrays: dict[str, Any],
    calls: list[Call],
    latents: Float32,
    levels: NDArray[np.float64],
    prediction: str,
    names: Sequence[str],
) -> None:
    alpha, sigma = (column.reshape(-1, 1, 1, 1, 1) for column in levels.T)
    if {"denoised", "noise_pred"} & set(names):
        guided = _stacked([_mean_part(call, call.model_output) for call in calls])
        x0, noise = estimates(latents, guided, alpha, sigma, prediction)
        arrays["denoised"] = x0 if "denoised" in names else None
        arrays["noise_pred"] = noise if "noise_pred" in names else None
    for name in ("noise_pred_uncond", "noise_pred_text"):
        if name in names:
            outputs = [_unguided(call, name) for call in calls]
            if all(output is not None for output in outputs):
                stacked = _stacked([output for output in outputs if output is not None])
                arrays[name] = estimates(latents, stacked, alpha, sigma, prediction)[1]


def _unguided(call: Call, name: str) -> torch.Tensor | None:
    """The network's half of a guided batch: without words first, with words second."""
    if call.network is None:
        return None
    batch, whole = call.latents.shape[0], call.network.shape[0]
    if whole == 2 * batch:
        half = call.network[:batch] if name == "noise_pred_uncond" else call.network[batch:]
        return _mean_part(call, half)
    if whole == batch and name == "noise_pred_text":  # guidance is off: words only
        return _mean_part(call, call.network)
    return None


def _mean_part(call: Call, output: torch.Tensor) -> torch.Tensor:
    """The prediction itself, where a network also gives a variance in further channels."""
    channels = call.latents.shape[1]
    return output[:, :channels] if output.ndim == 4 else output


def _of_one_shape(calls: list[Call]) -> list[Call]:
    if not calls:
        raise RuntimeError(
            "The run made no scheduler step, so there is nothing to record; "
            "ask for more num_inference_steps or, in img2img, more strength."
        )
    shape = calls[-1].latents.shape
    same = [call for call in calls if call.latents.shape == shape]
    if len(same) < len(calls):
        say(
            f"The pipeline changed the size of its latents; only the last {len(same)} of "
            f"{len(calls)} steps, of size {tuple(shape)}, are kept.",
            stacklevel=4,
        )
    return same


def _stacked(tensors: list[torch.Tensor]) -> Float32:
    """(n, b, c, h, w) float32 on the CPU, in one transfer."""
    stacked = torch.stack([_as_4d(tensor) for tensor in tensors])
    return np.asarray(stacked.to("cpu", torch.float32).numpy())


def _as_4d(tensor: torch.Tensor) -> torch.Tensor:
    """(b, c, h, w) of whatever a family diffuses; unpacking is for those that are described."""
    if tensor.ndim == 4:
        return tensor
    if tensor.ndim == 3:  # (b, tokens, c): packed
        return tensor.transpose(1, 2).unsqueeze(2)
    if tensor.ndim == 2:  # (b, c): an embedding
        return tensor[:, :, None, None]
    return tensor.flatten(2, -2)  # (b, c, frames, h, w): video, frames one above the other


def _say_what_is_missing(scheduler: Any, wanted: set[str]) -> None:
    if wanted:
        say(
            f"{type(scheduler).__name__} has a noise law that ldmkit doesn't know: latents, "
            f"timesteps and the picture are recorded; {', '.join(sorted(wanted))}, alphas and "
            "sigmas are missing (use one of diffusers' common schedulers for them).",
            stacklevel=4,
        )
