"""What ``record`` refuses before anything runs: one sentence each, with what to do instead."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, SupportsIndex

from ldmkit.check import say

__all__ = [
    "ARRAYS",
    "check_call",
    "check_count",
    "check_keep",
    "check_preview",
    "check_prompt",
    "parameters_of",
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
_OWN = ("prompt", "seed", "keep", "preview", "on_step")
_LONGEST_PROMPT = 100_000  # characters; a tokenizer takes a second for that many
_LARGEST_SIDE = 8192  # pixels


def parameters_of(pipe: Any, caller: str = "record") -> Mapping[str, inspect.Parameter]:
    """The named parameters of a pipeline's call; ``caller`` is who refuses others, in words.

    Raises:
        TypeError: the object can't be called like a pipeline.
    """
    if isinstance(pipe, (str, bytes)) or not callable(pipe) or isinstance(pipe, type):
        raise TypeError(
            f"{caller} takes a diffusers pipeline first, got "
            f"{type(pipe).__name__} {_short(pipe)}; open one with ldmkit.load(name)."
        )
    return {
        name: parameter
        for name, parameter in inspect.signature(pipe.__call__).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def check_call(
    pipe: Any,
    known: Iterable[str],
    call: Mapping[str, Any],
    caller: str = "record",
    own: Iterable[str] = _OWN,
) -> None:
    """Refuses unknown keywords, steps and numbers that no run can mean.

    Args:
        pipe: the pipeline.
        known: names of its call's parameters.
        call: the keywords to check.
        caller: who was called, in words.
        own: the caller's own keywords.

    Raises:
        TypeError: a keyword is unknown or has the wrong type.
        ValueError: a value is out of its range.
    """
    known = tuple(known)
    for name, value in call.items():
        if name not in known:
            raise TypeError(
                _unknown_keyword(f"{caller} and {type(pipe).__name__}", name, known, own)
            )
        if isinstance(value, Real) and not math.isfinite(value):
            raise ValueError(
                f"{name} must be a finite number, got {value}; give a number like 4.0."
            )
    for name in ("guidance_scale", "strength", "eta"):
        if call.get(name) is not None and not _is_number(call[name]):
            raise TypeError(
                f"{name} must be a number, got {_short(call[name])}; give one like 0.5."
            )
    most = _train_steps(pipe)
    _check_integer(call, "num_inference_steps", 1, most)
    _check_integer(call, "num_images_per_prompt", 1, 256)
    for side in ("height", "width"):
        _check_integer(call, side, 8, _LARGEST_SIDE)
    if call.get("output_type", "pil") not in ("pil", "latent"):
        raise ValueError(
            'output_type must be "pil" or "latent" in a record, '
            f"got {_short(call['output_type'])}; "
            "leave it out and take numpy.asarray(traj.image)."
        )
    if call.get("return_dict", True) is not True:
        raise ValueError("return_dict must stay True in a record, got False; leave it out.")


def _unknown_keyword(who: str, name: str, known: Iterable[str], own: Iterable[str]) -> str:
    names = sorted({*known, *own})
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]!r}?" if near else f"it takes: {', '.join(names)}."
    return f"{who} know no keyword {name!r}; {advice}"


def _train_steps(pipe: Any) -> int:
    scheduler = getattr(pipe, "scheduler", None)
    return int(getattr(getattr(scheduler, "config", None), "num_train_timesteps", 0) or 1000)


def _check_integer(call: Mapping[str, Any], name: str, least: int, most: int) -> None:
    value = call.get(name)
    if value is None:
        return
    if not _is_whole(value):
        raise TypeError(
            f"{name} must be a whole number between {least} and {most}, got {_short(value)}."
        )
    if not least <= value <= most:
        raise ValueError(f"{name} must be between {least} and {most} inclusive, got {value}.")


def check_count(name: str, value: Any, most: int = 256) -> None:
    """Refuses what is no number of things.

    Raises:
        TypeError: not a whole number.
        ValueError: below 1 or above ``most``.
    """
    if value is None:
        raise TypeError(f"{name} must be a whole number between 1 and {most}, got None.")
    _check_integer({name: value}, name, 1, most)


def _is_whole(value: Any) -> bool:
    return isinstance(value, SupportsIndex) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


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
            f"{name} must be a string or a list of strings, got {_short(value)}; "
            'write it like "a red cat".'
        )
    if not texts:
        raise ValueError(f'{name} must hold at least one string, got []; write ["a red cat"].')
    for text in texts:
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError(
                f"{name} must be Unicode text, got half a letter (a lone surrogate) in "
                f"{_short(text)}; paste the words again."
            )
    longest = max(len(text) for text in texts)
    if longest > _LONGEST_PROMPT:
        raise ValueError(
            f"{name} must have at most {_LONGEST_PROMPT:,} characters, got {longest:,}; shorten it."
        )


def warn_if_cut(pipe: Any, name: str, value: Any) -> None:
    """Says aloud when a prompt is longer than the text encoder reads."""
    tokenizer = getattr(pipe, "tokenizer", None)
    most = getattr(tokenizer, "model_max_length", 0)
    if tokenizer is None or value is None or not 0 < most < 1_000_000:
        return
    for text in [value] if isinstance(value, str) else value:
        # Short texts can't have more tokens than bytes: nearly every prompt ends here.
        if len(text.encode("utf-8", "replace")) + 2 <= most:
            continue
        tokens = len(tokenizer(text, truncation=False, verbose=False).input_ids)
        if tokens > most:
            say(
                f"The {name} has {tokens - 2:,} tokens and the text encoder reads {most - 2}: "
                "the words after that have no effect; shorten it.",
                stacklevel=4,
            )


def check_keep(keep: str | Sequence[str]) -> tuple[str, ...]:
    """The names of the arrays to keep; ``"all"`` is every one.

    Raises:
        TypeError: not a name or names.
        ValueError: an unknown name.
    """
    if keep == "all":
        return ARRAYS
    names = (keep,) if isinstance(keep, str) else tuple(keep)
    for name in names:
        if name not in ARRAYS:
            near = difflib.get_close_matches(str(name), ARRAYS, n=1)
            raise ValueError(
                f'keep takes names of arrays ({", ".join(ARRAYS)}) or "all", got {_short(name)}'
                + (f"; did you mean {near[0]!r}?" if near else ".")
            )
    return names


def check_preview(preview: str) -> str:
    """Refuses a preview that isn't one of the four.

    Raises:
        ValueError: unknown.
    """
    if preview not in PREVIEWS:
        raise ValueError(f"preview must be one of {', '.join(PREVIEWS)}, got {_short(preview)}.")
    return preview


def check_seed(seed: Any, generator: Any, takes_generator: bool) -> int | tuple[int, ...] | None:
    """Refuses a seed that torch can't take, and seed beside generator; returns plain integers.

    Raises:
        TypeError: not whole numbers.
        ValueError: out of range, or both given.
    """
    if seed is None:
        return None
    if generator is not None:
        raise ValueError("Give seed= or generator=, not both; seed=7 makes a CPU generator itself.")
    if not takes_generator:
        raise ValueError("This pipeline takes no generator, so seed must stay None.")
    several = isinstance(seed, Sequence) and not isinstance(seed, (str, bytes))
    numbers = list(seed) if several else [seed]
    for number in numbers:
        if not _is_whole(number):
            raise TypeError(f"seed must be a whole number or a list of them, got {_short(number)}.")
        if not 0 <= number < 2**63:
            raise ValueError(f"seed must be between 0 and 2**63 - 1 inclusive, got {number}.")
    return tuple(map(int, numbers)) if several else int(seed)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
