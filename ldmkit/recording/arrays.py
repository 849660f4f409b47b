"""From what the hooks wrote to the arrays of a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ldmkit import check
from ldmkit.check import or_said, say, short
from ldmkit.loading.families import Layout
from ldmkit.recording.call import ARRAYS
from ldmkit.recording.guidance import Sides, sides
from ldmkit.recording.hooks import Call, Tape
from ldmkit.recording.noise_law import PREDICTIONS, estimates, guess_of, number, prediction_of
from ldmkit.records.noise_law import noise_of

__all__ = [
    "SIDES",
    "Told",
    "arrays_of",
    "check_drawable",
    "is_film",
    "is_picture",
    "laid_out",
    "nothing",
    "of_one_shape",
    "prior_arrays",
    "say_what_is_missing",
    "stacked",
    "told_number",
    "told_tensor",
]

Float32 = NDArray[np.float32]

SIDES = ("noise_pred_text", "noise_pred_uncond")


def nothing() -> dict[str, Any]:
    """The arrays of a run without steps."""
    levels = dict.fromkeys(("timesteps", "alphas", "sigmas"), np.zeros(0))
    return {**levels, **dict.fromkeys((*ARRAYS, "guidance"))}


def laid_out(call: Call, layout: Layout) -> Call:
    """A step with latents (b, c, h, w) and what belongs to them, where its family packs them.

    The network's answers are cut into parts of the latents' batch; none where that can't be.
    """
    latents = _first_half(call.latents) if layout.doubled else call.latents
    unpack = _as_it_is if layout.unpack is None else layout.unpack

    def as_latents(tensor: Any) -> Any:
        fitted = _fitted(tensor, latents, layout.behind)
        return None if fitted is None else unpack(fitted)

    guided = _first_half(call.model_output) if layout.doubled else call.model_output
    parts = [as_latents(part) for part in _parts(call.network, len(latents))]
    return replace(
        call,
        latents=unpack(latents),
        model_output=as_latents(guided),
        output=as_latents(_first_half(call.output) if layout.doubled else call.output),
        network=[] if any(part is None for part in parts) else parts,
    )


def _as_it_is(latents: Any) -> Any:
    return latents


def _first_half(tensor: Any) -> Any:
    return tensor[: len(tensor) // 2] if isinstance(tensor, torch.Tensor) else tensor


def _parts(network: Sequence[torch.Tensor], batch: int) -> list[torch.Tensor]:
    if any(len(output) % batch for output in network):
        return []
    return [part for output in network for part in torch.split(output, batch)]


def arrays_of(
    calls: Sequence[Call], prediction: str, names: Sequence[str], layout: Layout | None = None
) -> dict[str, Any]:
    """The arrays of ``Trajectory``: levels, and what was asked for (the rest is ``None``).

    Args:
        calls: the steps, of one shape, as ``laid_out`` gives them.
        prediction: what the network predicts.
        names: of the arrays.
        layout: which of the network's answers had the words; ``None`` where they are not to be
            told apart.

    Returns:
        The arrays by name, and ``"guidance"``: the scale of each step, where it could be told.
    """
    levels = np.array([call.place.level() for call in calls], dtype=np.float64)
    arrays = nothing() | {
        "timesteps": np.array([number(call.place.timestep) for call in calls]),
        "alphas": levels[:, 0],
        "sigmas": levels[:, 1],
    }
    if not names:
        return arrays
    latents = stacked([call.latents for call in calls])  # (n, b, c, h, w)
    if "latents" in names:
        arrays["latents"] = np.concatenate([latents, _last_output(calls, latents)])
    if set(names) <= {"latents"} or any(call.model_output is None for call in calls):
        return arrays
    guided = stacked([call.model_output for call in calls])
    if "model_output" in names:
        arrays["model_output"] = guided
    if np.isnan(levels).all() or prediction not in PREDICTIONS:
        return arrays
    alpha, sigma = (_column(level) for level in levels.T)
    skip, scale = (_column(one) for one in np.array([call.place.scalings() for call in calls]).T)

    def both(output: Float32) -> tuple[Float32, Float32]:
        """x0 and noise, of an answer that its scheduler may have scalings for."""
        return estimates(latents, skip * latents + scale * output, alpha, sigma, prediction)

    for name, estimate in zip(("denoised", "noise_pred"), both(guided), strict=True):
        arrays[name] = estimate if name in names else None
    if layout is None or not set(SIDES) & set(names):
        return arrays
    lost = Sides(None, None, np.full(len(calls), np.nan))
    what = "noise_pred_text and noise_pred_uncond"
    apart = or_said(what, lambda: _apart(calls, guided, latents, layout), lost)
    if apart is None:
        return arrays
    arrays["guidance"] = apart.scales
    for name, side in zip(SIDES, (apart.text, apart.uncond), strict=True):
        if name in names and side is not None:
            arrays[name] = both(side)[1]
    return arrays


def _column(values: Any) -> Any:
    return values.reshape(-1, 1, 1, 1, 1)


def _apart(
    calls: Sequence[Call], guided: Float32, latents: Float32, layout: Layout
) -> Sides | None:
    """The network's answers by words and no words; ``None`` where they can't be told apart."""
    if not all(call.network for call in calls):
        return None
    flat = iter(stacked([part for call in calls for part in call.network]))  # in one transfer
    parts = [[next(flat) for _ in call.network] for call in calls]
    return sides(guided, parts, layout.answers, latents, layout.described)


def _fitted(output: Any, latents: torch.Tensor, behind: bool = False) -> torch.Tensor | None:
    """The prediction itself, in the latents' shape, where a network gives more, or ``None``.

    More channels are a variance, more tokens those of a picture that was put beside, or
    (``behind``) those of the words before it.
    """
    if not isinstance(output, torch.Tensor):
        return None
    if output.numel() == latents.numel():
        return output.reshape(latents.shape)
    if output.ndim == latents.ndim + 1 and output.shape[2] == 1:  # a picture as a film of one frame
        output = output.squeeze(2)
    if output.ndim != latents.ndim or any(
        have < want for have, want in zip(output.shape, latents.shape, strict=True)
    ):
        return None
    if behind:
        output = output[:, -latents.shape[1] :]
    return output[tuple(slice(size) for size in latents.shape)]


def _last_output(calls: Sequence[Call], latents: Float32) -> Float32:
    output = calls[-1].output
    if output is None or output.shape != calls[-1].latents.shape:
        return np.full_like(latents[-1:], np.nan)
    return stacked([output])


def of_one_shape(calls: Sequence[Call]) -> Sequence[Call]:
    """The steps whose latents have the size of the last ones; fewer are said."""
    shape = calls[-1].latents.shape if calls else ()
    same = [call for call in calls if call.latents.shape == shape]
    if len(same) < len(calls):
        say(
            f"The pipeline changed the size of its latents; only the last {len(same)} of "
            f"{len(calls)} steps, of size {tuple(shape)}, are kept."
        )
    return same


def stacked(tensors: Sequence[Any]) -> Float32:
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
    return tensor.flatten(2, -2)  # (b, c, frames, h, w): a film, frames one above the other


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
    arrays = arrays_of(calls, prediction_of(scheduler), ("latents", "denoised"))
    del arrays["guidance"]
    for name in ("latents", "denoised"):
        if arrays[name] is not None:
            scaled = torch.from_numpy(arrays[name])[..., 0, 0]  # (n, b, d)
            mean, std = network.clip_mean.float().cpu(), network.clip_std.float().cpu()
            arrays[name] = (scaled * std + mean).numpy()[..., None, None]
    if "noise_pred" in names and arrays["denoised"] is not None:
        alpha, sigma = (arrays[level].reshape(-1, 1, 1, 1, 1) for level in ("alphas", "sigmas"))
        arrays["noise_pred"] = noise_of(arrays["latents"][:-1], arrays["denoised"], alpha, sigma)
    for name in {"latents", "denoised"} - set(names):
        arrays[name] = None
    return arrays


def _some(call: Call, rows: list[int]) -> Call:
    parts = {name: getattr(call, name) for name in ("latents", "model_output", "output")}
    chosen: dict[str, Any] = {
        name: None if part is None else part[rows] for name, part in parts.items()
    }
    return replace(call, network=[], **chosen)


def say_what_is_missing(
    scheduler: Any,
    calls: Sequence[Call],
    arrays: Mapping[str, Any],
    names: Sequence[str],
    channels: int | None = None,
    instead: str = "",
) -> None:
    """One sentence for each reason why something that was asked for can't be told.

    Args:
        scheduler: whose steps they are; ``None`` where a loop told them itself.
        calls: the steps.
        arrays: what ``arrays_of`` made of them.
        names: the arrays that were asked for.
        channels: of the autoencoder's latents, where it says so.
        instead: what the steps do where they take no noise away; ``Layout.instead``.
    """
    who = type(scheduler).__name__
    if not calls:
        say("No step passed the pipeline's own scheduler: the record holds the picture alone.")
        return
    if not len(arrays["timesteps"]):  # said already
        return
    if is_film(calls[-1].latents):
        say(_film(calls[-1].latents.shape, channels))
    missing = {name for name in names if name in arrays and arrays[name] is None}
    unknown = np.isnan(arrays["alphas"])
    predicts = "epsilon" if scheduler is None else prediction_of(scheduler)
    if instead and missing:
        say(
            f"{who} {instead} where others take noise away: latents, timesteps and the picture are "
            f"recorded; {', '.join(sorted(missing))}, alphas, sigmas and pictures of the steps "
            "don't exist."
        )
    elif unknown.all() and missing:
        say(
            f"{who} has a noise law that ldmkit doesn't know: latents, timesteps and the "
            f"picture are recorded; {', '.join(sorted(missing))}, alphas and sigmas are "
            "missing (use one of diffusers' common schedulers for them)."
        )
    elif missing and predicts not in PREDICTIONS:
        say(
            f"{who} says prediction_type {short(predicts)}, and ldmkit knows epsilon, "
            f"v_prediction, sample and flow_prediction: {', '.join(sorted(missing))} are missing."
        )
    elif unknown.any():
        say(
            f"{who} doesn't tell the noise level of {unknown.sum()} of its {len(unknown)} "
            "steps: there alpha, sigma and the estimates are NaN."
        )
    elif missing - set(SIDES):
        say(
            "What the network gave has another shape than what entered the steps: "
            f"{', '.join(sorted(missing))} are missing."
        )
    elif missing and arrays["guidance"] is None:
        asked = any(call.network for call in calls)
        reason = (
            "nothing says which of the network's answers had the words (model_output keeps "
            "what was made of them)"
            if asked
            else "no network was watched"
        )
        say(f"{', '.join(sorted(missing))} can't be told: {reason}.")
    elif "noise_pred_text" in missing and arrays["noise_pred_uncond"] is not None:
        say(
            "noise_pred_text can't be told: the network was asked without words and for each edit "
            "by itself, and never with a prompt."
        )
    if scheduler is not None and not unknown.all() and (guess := guess_of(scheduler)):
        say(f"ldmkit doesn't know {who}: {guess}.")


def is_film(latents: torch.Tensor) -> bool:
    """(b, c, frames, h, w), or frames before channels, of more than one frame."""
    return latents.ndim == 5 and latents.shape[2] > 1


def is_picture(latents: torch.Tensor) -> bool:
    """(b, c, h, w), or a film (b, c, frames, h, w) of one frame."""
    return latents.ndim == 4 or (latents.ndim == 5 and latents.shape[2] == 1)


def check_drawable(latents: torch.Tensor) -> None:
    """Refuses to draw latents that nobody described.

    Raises:
        ValueError: tokens, embeddings, films.
    """
    if not is_picture(latents):
        shape = tuple(latents.shape)
        raise ValueError(f"nobody described how latents of the shape {shape} are decoded")


def _film(shape: Sequence[int], channels: int | None) -> str:
    if shape[1] != channels == shape[2]:  # (b, frames, c, h, w)
        return (
            f"The latents are those of a film: its {shape[1]} frames are the channels of the "
            f"record's arrays, each with its own {channels} channels one above the other, and no "
            "pictures of its steps are drawn."
        )
    return (
        f"The latents are those of a film: its {shape[2]} frames stand one above the other in "
        "the record's arrays, and no pictures of its steps are drawn."
    )


# --- steps that a loop tells itself ---------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """A place that a loop without a scheduler told itself."""

    timestep: float
    alpha: float
    sigma: float

    def level(self) -> tuple[float, float]:
        """Alpha and sigma."""
        return self.alpha, self.sigma

    def scalings(self) -> tuple[float, float]:
        """The clean estimate is told as it is."""
        return 0.0, 1.0


def told_number(name: str, value: Any) -> float:
    """A number, also as a tensor or array of one."""
    arrays = (torch.Tensor, np.ndarray, np.generic)
    single = isinstance(value, arrays) and value.reshape(-1).shape[0] == 1
    return check.number(name, value.item() if single else value, like="0.5")


def told_tensor(name: str, value: Any) -> torch.Tensor:
    """Latents (b, c, h, w) of a tensor or an array."""
    try:
        found = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None or found.ndim != 4 or not found.dtype.is_floating_point:
        raise TypeError(
            f"{name} must be a tensor or an array of numbers (b, c, h, w), got "
            f"{short(getattr(found, 'shape', value))}; give one like x of shape (1, 4, 64, 64)."
        )
    return found.clone()
