"""The call of a run: what is refused before anything runs, and what a record keeps of it.

Each refusal is one sentence with the rule, the value and what to do next. What is kept is what
repeats the run, as far as JSON can hold it; what it can't hold is named in ``left_out``.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from PIL import Image

from ldmkit.check import choice, did_you_mean, function, nearest, number, say, short, whole

__all__ = [
    "ARRAYS",
    "adapters_of",
    "check_call",
    "check_count",
    "check_flag",
    "check_keep",
    "check_preview",
    "check_prompt",
    "check_seed",
    "kept",
    "parameters_of",
    "say_frames",
    "seeds_of",
    "versions",
    "was_interrupted",
    "with_true_steps",
]

ARRAYS = (
    "latents",
    "denoised",
    "noise_pred",
    "noise_pred_text",
    "noise_pred_uncond",
    "model_output",
)
PREVIEWS = ("auto", "vae", "linear", "none")
_OWN = ("prompt", "seed", "keep", "preview", "on_step", "unsafe_previews")
_BY_HAND = ("timesteps", "sigmas")
_LONGEST_PROMPT = 100_000  # characters; a tokenizer takes a second for that many
_LARGEST_SIDE = 8192  # pixels
_WORDS = re.compile(r"(prior_|negative_)*prompt(_\d)?")


def parameters_of(pipe: Any, caller: str = "record") -> Mapping[str, inspect.Parameter]:
    """The named parameters of a pipeline's call; ``caller`` is who refuses others, in words.

    Raises:
        TypeError: the object can't be called like a pipeline.
    """
    if isinstance(pipe, (str, bytes)) or not callable(pipe) or isinstance(pipe, type):
        raise TypeError(
            f"{caller} takes a diffusers pipeline first, got "
            f"{type(pipe).__name__} {short(pipe)}; open one with ldmkit.load(name)."
        )
    return {
        name: parameter
        for name, parameter in inspect.signature(pipe.__call__).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


# --- keywords of the pipeline --------------------------------------------------------------------


def check_call(
    pipe: Any,
    known: Iterable[str],
    call: Mapping[str, Any],
    caller: str = "record",
    own: Iterable[str] = _OWN,
) -> None:
    """Refuses unknown keywords and values that no run can mean.

    Args:
        pipe: the pipeline.
        known: names of its call's parameters; from ``parameters_of``, their types are read, too.
        call: the keywords to check.
        caller: who was called, in words.
        own: the caller's own keywords.

    Raises:
        TypeError: a keyword is unknown or has the wrong type.
        ValueError: a value is out of its range.
    """
    names = tuple(known)
    for name, value in call.items():
        if name not in names:
            every = sorted({*names, *own})
            advice = did_you_mean(name, every, f"it takes: {', '.join(every)}.")
            raise TypeError(
                f"{caller} and {type(pipe).__name__} know no keyword {name!r}; {advice}"
            )
        if not _known_by_name(pipe, name, value):
            parameter = known.get(name) if isinstance(known, Mapping) else None
            _check_by_type(name, value, parameter)
    _check_outcome(call)


def _known_by_name(pipe: Any, name: str, value: Any) -> bool:
    """Checks what means the same in every pipeline; ``False`` where the signature must say."""
    ranges = {
        "num_inference_steps": (1, _train_steps(pipe)),
        "num_images_per_prompt": (1, 256),
        "height": (8, _LARGEST_SIDE),
        "width": (8, _LARGEST_SIDE),
    }
    if _WORDS.fullmatch(name):
        check_prompt(name, value)
    elif value is None:
        return False
    elif name in ranges:
        whole(name, value, *ranges[name])
    elif name in ("guidance_scale", "strength", "eta"):
        number(name, value, like="0.5")
    elif name == "generator":
        _check_generator(value)
    else:
        return False
    return True


def _check_by_type(name: str, value: Any, parameter: Any) -> None:
    """Compares a value with what the pipeline's signature says of it."""
    default = getattr(parameter, "default", inspect.Parameter.empty)
    if value is None:
        if default is not None and default is not inspect.Parameter.empty:
            raise TypeError(f"{name} must not be None; leave it out for {short(default)}.")
        return
    # "torch.Generator | list[torch.Generator] | None" -> {"torch", "Generator", "list", "None"}
    kinds = set(re.findall(r"\w+", str(getattr(parameter, "annotation", ""))))
    if "Callable" in kinds:
        function(name, value)
    elif kinds & {"dict", "Dict"}:
        _is_one(name, value, Mapping, 'a dict like {"scale": 0.5}')
    elif "Image" in kinds:
        _check_pictures(name, value)
    elif kinds & {"Tensor", "FloatTensor"} and not kinds & {"int", "float"}:
        _check_tensor(name, value)
    elif kinds & {"list", "List", "tuple", "Tuple", "Tensor", "ndarray"} and not _is_real(value):
        _check_several(name, value, default, "str" in kinds)
    else:
        _check_one(name, value, kinds - {"class", "None", "Optional", "typing"})


def _check_one(name: str, value: Any, kinds: set[str]) -> None:
    if kinds == {"bool"}:
        check_flag(name, value)
    elif kinds == {"str"}:
        _is_one(name, value, str, "a string")
    elif "float" in kinds:
        number(name, value, like="0.5")
    elif "int" in kinds:
        whole(name, value, -(2**63), 2**63 - 1)
    elif _is_real(value):
        number(name, value)


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_tensor(name: str, value: Any) -> None:
    items = value if isinstance(value, (list, tuple)) else [value]
    if not items or not all(isinstance(item, (torch.Tensor, list, type(None))) for item in items):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {short(value)}; "
            "make one of an array with torch.from_numpy(array)."
        )


def _is_one(name: str, value: Any, kind: type, words: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {words}, got {short(value)}; leave it out if in doubt.")


def _check_several(name: str, value: Any, default: Any, strings: bool) -> None:
    """A list, tuple or array: of numbers, or of strings."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        if not value.size if isinstance(value, np.ndarray) else not value.numel():
            raise ValueError(f"{name} must hold at least one number, got none; leave it out.")
        return
    wanted = "strings" if strings else "numbers"
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name} must be a list of {wanted}, got {short(value)}.")
    if isinstance(default, tuple) and len(value) != len(default):
        raise ValueError(
            f"{name} must hold {len(default)} numbers, got {short(value)}; write {default}."
        )
    if strings:
        if not all(isinstance(item, str) for item in value):
            raise TypeError(f"{name} must be a list of strings, got {short(value)}.")
        return
    if not value:
        raise ValueError(f"{name} must hold at least one number, got {value}; leave it out.")
    for item in value:
        if not isinstance(item, (list, tuple, torch.Tensor, np.ndarray, Image.Image)):
            number(f"Each item of {name}", item)


def _check_pictures(name: str, value: Any) -> None:
    items = value if isinstance(value, (list, tuple)) else [value]
    kinds = (Image.Image, np.ndarray, torch.Tensor, list, tuple)
    if not items or not all(isinstance(item, kinds) for item in items):
        raise TypeError(
            f"{name} must be a PIL picture, an array or a list of them, got {short(value)}; open "
            "one with PIL.Image.open(path)."
        )


def _check_generator(value: Any) -> None:
    items = value if isinstance(value, (list, tuple)) else [value]
    if not items or not all(isinstance(item, torch.Generator) for item in items):
        raise TypeError(
            f"generator must be a torch.Generator or a list of them, got {short(value)}; "
            "seed=7 makes one."
        )


def _check_outcome(call: Mapping[str, Any]) -> None:
    if call.get("output_type", "pil") not in ("pil", "latent"):
        raise ValueError(
            'output_type must be "pil" or "latent" in a record, '
            f"got {short(call['output_type'])}; "
            "leave it out and take numpy.asarray(traj.image)."
        )
    if call.get("return_dict", True) is not True:
        raise ValueError(
            f"return_dict must stay True in a record, got {short(call['return_dict'])}; "
            "leave it out."
        )


def _train_steps(pipe: Any) -> int:
    scheduler = getattr(pipe, "scheduler", None)
    return int(getattr(getattr(scheduler, "config", None), "num_train_timesteps", 0) or 1000)


# --- keywords of ldmkit --------------------------------------------------------------------------


def check_count(name: str, value: Any, most: int = 256) -> None:
    """Refuses what is no number of things.

    Raises:
        TypeError: not a whole number.
        ValueError: below 1 or above ``most``.
    """
    whole(name, value, 1, most)


def check_flag(name: str, value: Any) -> bool:
    """Refuses what is neither ``True`` nor ``False``.

    Raises:
        TypeError: something else.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {short(value)}.")
    return bool(value)


def check_prompt(name: str, value: Any) -> None:
    """Refuses what isn't a string or a list of strings, or is beyond all measure.

    Raises:
        TypeError: not text.
        ValueError: an empty list, or more characters than any prompt has.
    """
    if value is None:
        return
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise TypeError(
            f"{name} must be a string or a list of strings, got {short(value)}; "
            'write it like "a red cat".'
        )
    if not texts:
        raise ValueError(f'{name} must hold at least one string, got []; write ["a red cat"].')
    for text in texts:
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError(
                f"{name} must be Unicode text, got half a letter (a lone surrogate) in "
                f"{short(text)}; paste the words again."
            )
    longest = max(len(text) for text in texts)
    if longest > _LONGEST_PROMPT:
        raise ValueError(
            f"{name} must have at most {_LONGEST_PROMPT:,} characters, got {longest:,}; shorten it."
        )


def check_keep(keep: Any) -> tuple[str, ...]:
    """The names of the arrays to keep; ``"all"`` is every one.

    Raises:
        TypeError: not a name or names.
        ValueError: an unknown name.
    """
    if isinstance(keep, str) and keep == "all":
        return ARRAYS
    if not isinstance(keep, Iterable) or isinstance(keep, (bytes, Mapping)):
        raise TypeError(
            f'keep must be names of arrays ({", ".join(ARRAYS)}) or "all", got {short(keep)}; '
            'write keep=("latents", "denoised").'
        )
    names = (keep,) if isinstance(keep, str) else tuple(keep)
    for name in names:
        if not isinstance(name, str) or name not in ARRAYS:
            near = nearest(name, ARRAYS, cutoff=0.6)
            raise ValueError(
                f'keep takes names of arrays ({", ".join(ARRAYS)}) or "all", got {short(name)}'
                + (f"; did you mean {near!r}?" if near else ".")
            )
    return names


def check_preview(preview: Any) -> str:
    """Refuses a preview that isn't one of the four.

    Raises:
        ValueError: unknown.
    """
    return choice("preview", preview, PREVIEWS)


def check_seed(seed: Any, generator: Any, takes_generator: bool) -> int | tuple[int, ...] | None:
    """Refuses a seed that torch can't take, and seed beside generator; returns plain integers.

    Raises:
        TypeError: not whole numbers.
        ValueError: out of range, none in a list, or seed and generator together.
    """
    if seed is None:
        return None
    if generator is not None:
        raise ValueError("Give seed= or generator=, not both; seed=7 makes a CPU generator itself.")
    if not takes_generator:
        raise ValueError("This pipeline takes no generator, so seed must stay None.")
    several = isinstance(seed, Sequence) and not isinstance(seed, (str, bytes))
    if several and not seed:
        raise ValueError("seed must hold one whole number for each picture, got []; write seed=7.")
    try:
        found = tuple(whole("seed", one) for one in (seed if several else [seed]))
    except TypeError:
        wrong = seed if not several else next(one for one in seed if not _is_whole(one))
        raise TypeError(
            f"seed must be a whole number or a list of them, got {short(wrong)}."
        ) from None
    for one in found:
        if not 0 <= one < 2**63:
            raise ValueError(f"seed must be between 0 and 2**63 - 1 inclusive, got {short(one)}.")
    return found if several else found[0]


def _is_whole(value: Any) -> bool:
    try:
        whole("", value)
    except TypeError:
        return False
    return True


# --- what a record keeps -------------------------------------------------------------------------


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
        otherwise than by default), ``generator_seed`` (where a given generator was as a seed makes
        it), ``adapters`` (LoRA and the like: part, name, weight; fused ones
        too), ``learned_words`` (textual inversions in the words), ``left_out`` (keywords that
        JSON can't hold).
    """
    told = {
        name: parameters[name].default
        for name in ("num_inference_steps", "guidance_scale", "strength", "eta")
        if name in parameters
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


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(np.array_equal(one, other))


def adapters_of(pipe: Any) -> dict[str, dict[str, Any]]:
    """LoRA and other adapters that act in a pipeline: part -> name -> weight, or ``"fused"``.

    Those that are loaded and not active, or switched off, do nothing and are not told.
    """
    parts = {
        name: _adapters_in(part)
        for name, part in getattr(pipe, "__dict__", {}).items()
        if isinstance(part, torch.nn.Module)
    }
    known = {name for found in parts.values() for name in found}
    gone = set(getattr(pipe, "fused_loras", ())) - known  # unloaded, but their weights stay fused
    parts["pipeline"] = dict.fromkeys(sorted(gone), "fused")
    return {name: found for name, found in parts.items() if found}


def _adapters_in(network: torch.nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for layer in network.modules():
        scaling = getattr(layer, "scaling", None)  # a layer of peft's
        if not isinstance(scaling, Mapping) or not hasattr(layer, "active_adapters"):
            continue
        merged = list(getattr(layer, "merged_adapters", ()))
        found |= dict.fromkeys(merged, "fused")
        if getattr(layer, "disable_adapters", False):
            continue
        for name in layer.active_adapters:
            if name in scaling and name not in merged:
                found.setdefault(name, _weight(layer, name))
    return found


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
        if _WORDS.fullmatch(name) and value is not None
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


def say_frames(pipe: Any, tape: Any, preview: str) -> str:
    """Says how a video's frames stand in a record; returns how its steps can be drawn."""
    latents, vae = tape.calls[-1].latents, getattr(pipe, "vae", None)
    if latents.ndim != 5:
        return preview
    channels = getattr(getattr(vae, "config", None), "latent_channels", latents.shape[1])
    if latents.shape[1] != channels == latents.shape[2]:  # (b, frames, c, h, w)
        shape, drawn = f"({latents.shape[1]} frames, {channels} × h, w)", False
    else:
        shape = f"(c, {latents.shape[2]} frames × h, w)"
        drawn = isinstance(vae, torch.nn.Module) and all(p.ndim < 5 for p in vae.parameters())
    say(
        f"{type(pipe).__name__} makes a video: in this record its frames stand one above the "
        f"other, {shape} for (c, h, w), "
        + ("in the pictures of its steps, too." if drawn else "and its steps have no pictures.")
    )
    # Decoded in one piece, each frame would bleed into the next: pixel by pixel it can't.
    return "linear" if drawn and preview != "none" else "none"


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
