"""What a record keeps of its run beside arrays and pictures, so that the run can be repeated.

That is all of the call that JSON can hold, and what acted without being called: the scheduler's
settings, adapters, learnt words. What it can't hold is named in ``left_out``.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ldmkit.recording.call import WORDS

__all__ = [
    "adapters_of",
    "guider_of",
    "kept",
    "seeds_of",
    "versions",
    "was_interrupted",
    "with_true_steps",
]

_BY_HAND = ("timesteps", "sigmas")


def seeds_of(generator: Any) -> int | tuple[int, ...] | None:
    """The seeds that make the same generators again; ``None`` where no seed does.

    One that was drawn from before stands where no seed puts it, and one in several places is
    drawn from in turn.
    """
    several = isinstance(generator, (list, tuple))
    items = list(generator) if several else [generator]
    if len({id(item) for item in items}) < len(items) or not all(map(_is_fresh, items)):
        return None
    seeds = tuple(item.initial_seed() for item in items)
    return seeds if several else seeds[0]


def _is_fresh(generator: Any) -> bool:
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        return False  # record makes generators on the CPU, whose numbers are others
    seed = generator.initial_seed()
    if not 0 <= seed < 2**63:
        return False
    anew = torch.Generator("cpu").manual_seed(seed)
    return torch.equal(generator.get_state(), anew.get_state())


def kept(
    pipe: Any,
    call: Mapping[str, Any],
    parameters: Mapping[str, Any],
    scheduler: Any,
) -> dict[str, Any]:
    """What a record keeps of a call.

    Args:
        pipe: the pipeline as it ran.
        call: its keywords.
        parameters: of its signature.
        scheduler: whose steps were recorded.

    Returns:
        The keywords that JSON can hold, with those that the run took from the signature. Beside
        them, and no keywords: ``scheduler`` (its class), ``scheduler_config`` (what it was told
        otherwise than by default), ``guider`` (a modular pipeline's, its class and settings),
        ``generator_seed`` (where a given generator was as a seed makes it), ``adapters`` (LoRA and
        the like: part, name, weight; fused ones too), ``learned_words`` (textual inversions in the
        words), ``left_out`` (keywords that JSON can't hold).
    """
    told = {
        name: parameters[name].default
        for name in ("num_inference_steps", "guidance_scale", "strength", "eta")
        if name in parameters and (name != "strength" or call.get("image") is not None)
    } | dict(call)
    for name in _BY_HAND:
        if name in call and call[name] is not None:
            told[name] = _as_list(call[name])
    again = seeds_of(call.get("generator"))
    apart = {"prompt", "negative_prompt"} | ({"generator"} if again is not None else set())
    plain = {name: _plain(value) for name, value in told.items() if name not in apart}
    left_out = sorted(name for name, value in plain.items() if value is _NO_JSON)
    beside = {
        "generator_seed": again,
        "scheduler_config": _config_of(scheduler),
        "guider": guider_of(pipe),
        "adapters": adapters_of(pipe),
        "learned_words": _learned_words(pipe, call),
        "left_out": left_out,
    }
    return (
        {name: value for name, value in plain.items() if value is not _NO_JSON}
        | {"scheduler": type(scheduler).__name__}
        | {name: value for name, value in beside.items() if value or value == 0}
    )


def with_true_steps(told: Mapping[str, Any], scheduler: Any) -> dict[str, Any]:
    """What was kept of a call, after the run: a schedule by hand overrules the number of steps."""
    by_hand = any(told.get(name) is not None for name in _BY_HAND)
    steps = getattr(scheduler, "num_inference_steps", None)
    if by_hand and "num_inference_steps" in told and isinstance(steps, int):
        return {**told, "num_inference_steps": steps}
    return dict(told)


_NO_JSON = object()


def _plain(value: Any) -> Any:
    """A value as JSON gives it back, or ``_NO_JSON``."""
    if isinstance(value, (np.bool_, np.number)):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _NO_JSON
    if isinstance(value, (list, tuple)):
        items = [_plain(item) for item in value]
        return _NO_JSON if any(item is _NO_JSON for item in items) else items
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        entries = {key: _plain(item) for key, item in value.items()}
        return _NO_JSON if any(item is _NO_JSON for item in entries.values()) else entries
    return _NO_JSON


def _as_list(schedule: Any) -> Any:
    """Timesteps or sigmas as plain numbers: the schedule of a run is short."""
    found = schedule.tolist() if hasattr(schedule, "tolist") else list(schedule)
    return [item.item() if hasattr(item, "item") else item for item in found]


def _config_of(scheduler: Any) -> dict[str, Any]:
    """What a scheduler was told otherwise than by default, such as ``use_karras_sigmas``."""
    config = getattr(scheduler, "config", None)
    if not isinstance(config, Mapping):
        return {}
    usual = inspect.signature(type(scheduler).__init__).parameters
    told = {
        name: _plain(value)
        for name, value in config.items()
        if name in usual and not _same(value, usual[name].default)
    }
    return {name: value for name, value in told.items() if value is not _NO_JSON}


def guider_of(pipe: Any) -> dict[str, Any]:
    """How a modular pipeline guides: its guider's class, its scale, and what is not by default."""
    guider = getattr(pipe, "guider", None)
    config = getattr(guider, "config", None)
    if not isinstance(config, Mapping):
        return {}
    scales = {name: _plain(config[name]) for name in config if name.endswith("guidance_scale")}
    told = {"class": type(guider).__name__} | scales | _config_of(guider)
    return told if getattr(guider, "_enabled", True) else told | {"enabled": False}


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(np.array_equal(one, other))


def adapters_of(pipe: Any) -> dict[str, dict[str, Any]]:
    """LoRA and other adapters that act in a pipeline: part -> name -> weight.

    That of fused ones is ``"fused at 0.5"``, the product of both scales; of those that were
    unloaded afterwards nothing tells it. Loaded and not active, or switched off, they do nothing
    and are not told.
    """
    parts = {
        name: _adapters_in(part)
        for name, part in getattr(pipe, "__dict__", {}).items()
        if isinstance(part, torch.nn.Module)
    }
    known = {name for found in parts.values() for name in found}
    gone = set(getattr(pipe, "fused_loras", ())) - known  # unloaded, but their weights stay fused
    parts["pipeline"] = dict.fromkeys(sorted(gone), "fused, nothing tells at which scale")
    return {name: found for name, found in parts.items() if found}


def _adapters_in(network: torch.nn.Module) -> dict[str, Any]:
    fused: dict[str, set[float]] = {}
    active: dict[str, set[float]] = {}
    for layer in network.modules():
        scaling = vars(layer).get("scaling")  # a layer of peft's; a module's getattr is slow
        if not isinstance(scaling, Mapping) or not hasattr(layer, "active_adapters"):
            continue
        merged = list(getattr(layer, "merged_adapters", ()))
        names: Any = () if getattr(layer, "disable_adapters", False) else layer.active_adapters
        for found, those in ((fused, merged), (active, [n for n in names if n not in merged])):
            for name in those:
                if name in scaling:
                    found.setdefault(name, set()).add(_weight(layer, name))
    told = {name: _one_or_range(weights) for name, weights in active.items()}
    return told | {name: f"fused at {_one_or_range(weights)}" for name, weights in fused.items()}


def _one_or_range(weights: set[float]) -> float | str:
    """One weight, or the least and the largest where each block was told its own."""
    least, most = min(weights), max(weights)
    return least if least == most else f"{least} to {most}, by block"


def _weight(layer: Any, name: str) -> float:
    """What ``set_adapters`` was told: peft keeps its product with alpha / rank."""
    rank, alpha = layer.r.get(name), layer.lora_alpha.get(name)
    usual = alpha / rank if rank and alpha else 1.0
    return round(float(layer.scaling[name]) / usual, 6)


def _learned_words(pipe: Any, call: Mapping[str, Any]) -> list[str]:
    """Words that were added to a tokenizer (textual inversions) and stand in the prompts."""
    texts = [
        text
        for name, value in call.items()
        if WORDS.fullmatch(name) and value is not None
        for text in ([value] if isinstance(value, str) else value)
    ]
    added: set[str] = set()
    for part in getattr(pipe, "__dict__", {}).values():
        own = set(getattr(part, "all_special_tokens", ()))
        vocabulary = getattr(part, "get_added_vocab", None)
        added |= (set(vocabulary()) - own) if callable(vocabulary) else set()
    return sorted(word for word in added if any(word in text for text in texts))


def was_interrupted(pipe: Any, steps: int) -> bool:
    """Whether a callback ended the run early by ``pipe._interrupt = True``."""
    if getattr(pipe, "_interrupt", False) is not True:
        return False
    whole_run = getattr(pipe, "_num_timesteps", None)  # set at its last step, it ended nothing
    return not isinstance(whole_run, int) or steps < whole_run


@functools.cache  # each look-up reads a file
def versions() -> dict[str, str]:
    """Versions of the packages that a picture depends on."""
    found = {}
    for name in ("ldmkit", "diffusers", "transformers", "torch", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # a source tree that isn't installed
            continue
    return found
