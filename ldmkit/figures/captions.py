"""What stands above and under a run's pictures: its prompt, its parameters, its lanes' names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldmkit.figures.html import shorten
from ldmkit.records import Trajectory
from ldmkit.records.pictures import is_hidden

__all__ = [
    "LANE_WORDS",
    "alt_text",
    "decoded_note",
    "details",
    "lane_words",
    "layer_words",
    "prompt_of",
]

# lane -> (title, what it teaches)
LANE_WORDS = {
    "latents": ("Noisy picture", "what enters the step"),
    "denoised": ("Clean estimate", "what the model thinks the picture is"),
    "noise_pred": ("Predicted noise", "the noise it sees: not a picture"),
    "noise_pred_text": ("Noise, with the words", "before guidance: not a picture"),
    "noise_pred_uncond": ("Noise, without the words", "before guidance: not a picture"),
    "denoised_text": ("Estimate, with the words", "before guidance"),
    "denoised_uncond": ("Estimate, without the words", "or with the negative prompt"),
}


def decoded_note(traj: Trajectory) -> str:
    """Which steps' pictures are decoded, where not all are."""
    if traj.preview_every == 1 or not traj.previews:
        return ""
    return (
        f"Decoded: one step in {traj.preview_every} from the first on, and the last; "
        "those between are drawn by the linear map."
    )


def prompt_of(traj: Trajectory, batch: int = 0) -> str:
    """What one picture of the batch was made of: its words, or whose embedding."""
    words = str(_of_batch(traj, traj.prompt, batch))
    if "embedding" not in traj.call:
        return words
    label = shorten(str(_of_batch(traj, traj.call["embedding"], batch)), 400)
    source = f"embedding of {label}" if label else "an embedding"
    return f"{words}, with the {source.removeprefix('an ')}" if words else source


def _of_batch(traj: Trajectory, values: Any, batch: int) -> Any:
    """The one of several values that belongs to a picture of the batch."""
    if not isinstance(values, (list, tuple)) or not values:
        return values or ""
    # num_images_per_prompt repeats each prompt: picture i belongs to prompt i // repeats
    repeats = max(1, traj.batch_size // len(values))
    return values[min(batch // repeats, len(values) - 1)]


def lane_words(lane: str) -> tuple[str, str]:
    """A lane's title and what it teaches."""
    return LANE_WORDS.get(lane, (lane, ""))


def layer_words(name: str) -> str:
    """``down_blocks.0.attentions.0.transformer_blocks.0.attn2`` -> ``down 0.0.0 attn2``."""
    parts = name.replace("_blocks", "").replace("_block", "").split(".")
    numbers = ".".join(part for part in parts if part.isdecimal())
    last = "" if parts[-1].isdecimal() or len(parts) == 1 else f" {parts[-1]}"
    return f"{parts[0]} {numbers}{last}".strip()


def alt_text(traj: Trajectory, lane: str, step: int, batch: int = 0) -> str:
    """What a frame shows, for those who don't see it."""
    title = lane_words(lane)[0]
    if is_hidden(traj, batch):
        title = f"{title}, hidden by the safety checker,"
    return (
        f"{title} at step {step + 1} of {len(traj.timesteps)}: "
        f"{shorten(prompt_of(traj, batch), 160) or 'no prompt'}"
    )


def details(traj: Trajectory, batch: int = 0) -> list[str]:
    """The parameters in words: model, seed, steps, guidance, scheduler..."""
    call, n = traj.call, len(traj.timesteps)
    seed = traj.seed[min(batch, len(traj.seed) - 1)] if isinstance(traj.seed, tuple) else traj.seed
    asked = call.get("num_inference_steps", n)
    asked = _plain(asked) if asked != n else n
    steps = f"{n} step{'s' if n != 1 else ''}"
    if asked != n and not traj.stopped:  # Heun, PNDM: more calls than steps
        steps = f"{asked} steps in {n} calls" if n else f"{asked} steps, not kept"
    negative = traj.negative_prompt
    negative = negative if isinstance(negative, str) else " | ".join(negative or ())
    parts = [
        shorten(traj.model, 60),
        "" if seed is None else f"seed {seed}",
        f"stopped after {n} of {asked} steps" if traj.stopped else steps,
        _guidance_of(call),
        f"noise level {_plain(call['noise_level'])}" if call.get("noise_level") else "",
        shorten(str(call.get("scheduler", "")), 40).removesuffix("Scheduler"),
        f"not “{shorten(negative, 60)}”" if negative else "",
        "within intervene" if call.get("intervene") else "",
        "steps hidden by the safety checker" if is_hidden(traj, batch) else "",
    ]
    return [part for part in parts if part]


def _guidance_of(call: Mapping[str, Any]) -> str:
    """The scale; from the least to the largest where it was another in some steps."""
    each = call.get("guidance")
    known = [one for one in each if isinstance(one, (int, float))] if isinstance(each, list) else []
    if known and min(known) < max(known):
        return f"guidance {_plain(min(known))} to {_plain(max(known))}, by step"
    guider = call.get("guider")
    told = {**guider, **call} if isinstance(guider, Mapping) else call
    return f"guidance {_plain(told['guidance_scale'])}" if "guidance_scale" in told else ""


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else shorten(str(value), 20)
