"""The checks of a call: what is refused before anything runs.

One sentence each, with the rule, the value and what to do next. What a keyword may be is read from
the pipeline's own signature, so that every family's are checked.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Rational, Real
from typing import Any

import numpy as np
import torch
from PIL import Image

from ldmkit.check import choice, did_you_mean, flag, function, nearest, number, short, whole
from ldmkit.loading.device import Released, check_open
from ldmkit.loading.siblings import origin_of
from ldmkit.records.rgb import upright

__all__ = [
    "ARRAYS",
    "WORDS",
    "check_call",
    "check_generator",
    "check_keep",
    "check_least",
    "check_network",
    "check_parts",
    "check_preview",
    "check_prompt",
    "check_seed",
    "complete",
    "first_noise",
    "generators",
    "parameters_of",
    "tellable",
]

ARRAYS = (
    "latents",
    "denoised",
    "noise_pred",
    "noise_pred_text",
    "noise_pred_uncond",
    "model_output",
)
# Keywords that hold words: prompt, prompt_2, negative_prompt_3, prior_prompt...
WORDS = re.compile(r"(prior_|negative_)*prompt(_\d)?")
PREVIEWS = ("auto", "vae", "linear", "none")
_OWN = (
    "prompt",
    "seed",
    "keep",
    "preview",
    "preview_every",
    "on_step",
    "unsafe_previews",
    "attention",
    "attention_bytes",
    "concepts",
)
_LISTS = {"list", "List", "tuple", "Tuple"}
_LONGEST_PROMPT = 100_000  # characters; a tokenizer takes a second for that many
_LARGEST_SIDE = 8192  # pixels


def parameters_of(pipe: Any, caller: str = "record") -> Mapping[str, inspect.Parameter]:
    """The named parameters of a pipeline's call; of a modular one the inputs of its blocks.

    Args:
        pipe: the pipeline.
        caller: who refuses another thing, in words.

    Raises:
        TypeError: the object can't be called like a pipeline.
        RuntimeError: the pipeline was released.
    """
    check_open(pipe)
    if isinstance(pipe, (str, bytes)) or not callable(pipe) or isinstance(pipe, type):
        raise TypeError(
            f"{caller} takes a diffusers pipeline first, got "
            f"{type(pipe).__name__} {short(pipe)}; open one with ldmkit.load(name)."
        )
    inputs = getattr(getattr(pipe, "blocks", None), "inputs", None)
    if isinstance(inputs, (list, tuple)):
        only = inspect.Parameter.KEYWORD_ONLY
        named = [one for one in inputs if one.name]
        return {one.name: inspect.Parameter(one.name, only, default=one.default) for one in named}
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
        if value is None and name in ("image", "mask_image") and "strength" in names:
            raise TypeError(
                f"{type(pipe).__name__} begins from a picture, got {name}=None; "
                f"give {name}=PIL.Image.open(path)."
            )
        if not _known_by_name(pipe, name, value):
            parameter = known.get(name) if isinstance(known, Mapping) else None
            _check_by_type(name, value, parameter)
        if name == "image":
            _check_bands(pipe, value)
    _check_outcome(call)


def _known_by_name(pipe: Any, name: str, value: Any) -> bool:
    """Checks what means the same in every pipeline; ``False`` where the signature must say."""
    ranges = {
        "num_inference_steps": (1, train_steps(pipe)),
        "num_images_per_prompt": (1, 256),
        "height": (8, _LARGEST_SIDE),
        "width": (8, _LARGEST_SIDE),
        "max_sequence_length": (1, _LONGEST_PROMPT),
        "clip_skip": (0, max(0, _text_layers(pipe) - 1)),
    }
    if WORDS.fullmatch(name):
        check_prompt(name, value)
    elif value is None:
        return False
    elif name in ranges:
        whole(name, value, *ranges[name])
    elif name in ("guidance_scale", "eta"):
        number(name, value, like="0.5")
    elif name == "strength" and _is_real(value):
        number(name, value, 0, 1)
    elif name == "generator":
        check_generator(value)
    elif name == "latents" and isinstance(value, torch.Tensor) and value.ndim < 3 and value.numel():
        raise ValueError(
            f"latents must have the shape (batch, channels, height, width), or a batch of tokens, "
            f"got {short(value)}; leave them out for noise of a seed."
        )
    else:
        return False
    return True


def _check_by_type(name: str, value: Any, parameter: Any) -> None:
    """Compares a value with what the pipeline's signature says of it."""
    default = getattr(parameter, "default", inspect.Parameter.empty)
    if value is None:
        given = default is not None and default is not inspect.Parameter.empty
        if given and not isinstance(default, list):  # None in a list's place is an empty one
            raise TypeError(f"{name} must not be None; leave it out for {short(default)}.")
        return
    annotation = str(getattr(parameter, "annotation", ""))
    # "torch.Tensor | list[float] | None" -> {"torch", "Tensor", "list", "float", "None"}
    kinds = set(re.findall(r"\w+", annotation))
    # the same without what stands inside of lists: one number alone is no list[float]
    outer = set(
        re.findall(r"\w+", re.sub(r"(list|tuple)\[[^][]*\]", r"\1", annotation, flags=re.I))
    )
    if name.endswith("_embeds") and isinstance(value, torch.Tensor) and value.numel():
        return  # FLUX.2 Klein says that its negative ones are words
    if "Callable" in kinds:
        function(name, value)
    elif kinds & {"dict", "Dict"}:
        _check_is(name, value, Mapping, 'a dict like {"scale": 0.5}')
    elif "Image" in kinds or name == "image":  # VisualCloze says that its grids are a tensor
        _check_pictures(name, value)
    elif kinds & {"Tensor", "FloatTensor"} and not kinds & {"int", "float"}:
        _check_tensors(name, value, "Tensor" in str(outer), bool(outer & _LISTS))
    elif outer & {*_LISTS, "Tensor", "ndarray"} and not (
        (outer & {"int", "float"} and _is_real(value))
        or ("str" in outer and isinstance(value, str))
    ):
        # "tuple[int, int]" says how many; "tuple[int]" with a default of three says nothing
        pair = isinstance(default, tuple) and annotation.count(",") == len(default) - 1
        _check_several(name, value, default if pair else None, "str" in kinds)
    else:
        _check_one(name, value, outer - {"class", "None", "Optional", "typing"}, default)


def _check_one(name: str, value: Any, kinds: set[str], default: Any) -> None:
    if kinds == {"bool"}:
        flag(name, value)
    elif kinds == {"str"}:
        _check_is(name, value, str, "a string")
    elif "float" in kinds:
        number(name, value, like="0.5")
    elif "int" in kinds:
        below_zero = (isinstance(default, int) and default < 0) or name.endswith("_index")
        whole(name, value, None if below_zero else 0, 2**63 - 1)
    elif _is_real(value):
        number(name, value)


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_empty(value: Any) -> bool:
    """Whether a list or array holds nothing (a tensor's own truth is of another kind)."""
    if isinstance(value, torch.Tensor):
        return not value.numel()
    return not value.size if isinstance(value, np.ndarray) else not len(value)


def _check_tensors(name: str, value: Any, alone: bool, several: bool) -> None:
    listed = isinstance(value, (list, tuple))
    items = list(value) if listed else [value]
    fits = bool(items) and (several if listed else alone)
    if not fits or not all(isinstance(one, torch.Tensor) and one.numel() for one in items):
        what = " or ".join(["a torch.Tensor"] * alone + ["a list of tensors"] * several)
        raise TypeError(
            f"{name} must be {what}, not empty, got {short(value)}; "
            "make a tensor of an array with torch.from_numpy(array)."
        )


def _check_is(name: str, value: Any, kind: type, words: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {words}, got {short(value)}; leave it out if in doubt.")


def _check_several(name: str, value: Any, default: Any, strings: bool) -> None:
    """A list, tuple or array: of numbers, or of strings."""
    several = isinstance(value, (list, tuple, torch.Tensor, np.ndarray))
    if not several or getattr(value, "ndim", 1) == 0:
        raise TypeError(
            f"{name} must be a list of {'strings' if strings else 'numbers'}, got {short(value)}."
        )
    if strings:
        if not all(isinstance(item, str) for item in value):
            raise TypeError(f"{name} must be a list of strings, got {short(value)}.")
        return
    if _is_empty(value):
        raise ValueError(f"{name} must hold at least one number, got none; leave it out.")
    if isinstance(default, tuple) and len(value) != len(default):
        raise ValueError(
            f"{name} must hold {len(default)} numbers, got {short(value)}; write {default}."
        )
    for item in value if isinstance(value, (list, tuple)) else ():
        if not isinstance(item, (bool, list, tuple, torch.Tensor, np.ndarray, Image.Image)):
            number(f"Each item of {name}", item)


def _check_pictures(name: str, value: Any) -> None:
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    kinds = (Image.Image, np.ndarray, torch.Tensor, list, tuple)
    if not items or not all(
        isinstance(item, kinds)
        and (isinstance(item, Image.Image) or not _is_empty(item))
        and getattr(item, "ndim", 2) >= 2
        for item in items
    ):
        raise TypeError(
            f"{name} must be a PIL picture, an array or a list of them, not empty, got "
            f"{short(value)}; open one with PIL.Image.open(path)."
        )
    for item in items:
        if isinstance(item, Image.Image):
            upright(item, name, max_pixels=None)  # says what is damaged, closed or empty
        elif isinstance(item, np.ndarray) and item.dtype != np.uint8 and item.dtype.kind != "f":
            raise TypeError(
                f"{name} must be of floats (0 to 1) or uint8, got an array of {item.dtype}; "
                "write Image.fromarray(array.astype('uint8'))."
            )


def _check_bands(pipe: Any, value: Any) -> None:
    """Refuses what isn't RGB where nobody converts it: of four bands diffusers makes latents."""
    config = getattr(getattr(pipe, "image_processor", None), "config", {})
    channels = getattr(getattr(getattr(pipe, "vae", None), "config", None), "in_channels", None)
    if channels != 3 or config.get("do_convert_rgb", True):
        return
    for one in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(one, Image.Image) and len(one.getbands()) != 3:
            raise ValueError(
                f"image must be an RGB picture for {type(pipe).__name__}, got one of mode "
                f'{one.mode}; write image.convert("RGB").'
            )


def check_generator(value: Any) -> None:
    """Refuses what draws no noise.

    Raises:
        TypeError: neither a ``torch.Generator`` nor a list of them.
    """
    items = value if isinstance(value, (list, tuple)) else [value]
    if not items or not all(isinstance(item, torch.Generator) for item in items):
        raise TypeError(
            f"generator must be a torch.Generator or a list of them, got {short(value)}; "
            "seed=7 makes one."
        )


def _check_outcome(call: Mapping[str, Any]) -> None:
    outcome = call.get("output_type", "pil")
    if not isinstance(outcome, str) or outcome not in ("pil", "latent"):
        raise ValueError(
            'output_type must be "pil" or "latent" in a record, '
            f"got {short(outcome)}; "
            "leave it out and take numpy.asarray(traj.image)."
        )
    if call.get("return_dict", True) is not True:
        raise ValueError(
            f"return_dict must stay True in a record, got {short(call['return_dict'])}; "
            "leave it out."
        )


def train_steps(pipe: Any) -> int:
    """How many steps a run may have: those that the scheduler was trained with."""
    scheduler = getattr(pipe, "scheduler", None)
    count = int(getattr(getattr(scheduler, "config", None), "num_train_timesteps", 0) or 0)
    return count if count > 1 else 1000  # OmniGen's time goes from 0 to 1, in any number of steps


def _text_layers(pipe: Any) -> int:
    config = getattr(getattr(pipe, "text_encoder", None), "config", None)
    return int(getattr(config, "num_hidden_layers", 0) or 12)


# --- keywords of ldmkit --------------------------------------------------------------------------


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
    try:
        if isinstance(keep, (bytes, Mapping)):
            raise TypeError
        names = (keep,) if isinstance(keep, str) else tuple(keep)
    except TypeError:  # also of an array that holds one number
        raise TypeError(
            f'keep must be names of arrays ({", ".join(ARRAYS)}) or "all", got {short(keep)}; '
            'write keep=("latents", "denoised").'
        ) from None
    for name in names:
        if not isinstance(name, str) or name not in ARRAYS:
            near = nearest(name, (*ARRAYS, "attention"), cutoff=0.6)
            raise ValueError(
                f'keep takes names of arrays ({", ".join(ARRAYS)}), "attention" or "all", '
                f"got {short(name)}" + (f"; did you mean {near!r}?" if near else ".")
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


# --- noise ---------------------------------------------------------------------------------------


def generators(seeds: int | tuple[int, ...] | None, count: int, each: int = 1) -> Any:
    """One generator for all, or one for each of ``count`` things that are drawn ``each`` times.

    On the CPU whatever the device: the same noise everywhere.

    Raises:
        ValueError: another number of seeds.
    """
    if seeds is None:
        return None
    if isinstance(seeds, int):
        return torch.Generator("cpu").manual_seed(seeds)
    if len(seeds) != count:
        raise ValueError(
            f"seed must be one number or a list of {count}, one for each, got {len(seeds)} of them."
        )
    own = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return [generator for generator in own for _ in range(each)]


def first_noise(given: Any, shape: tuple[int, ...], *, many: bool = False) -> torch.Tensor:
    """First noise as a tensor; that of one serves a batch.

    Args:
        given: tensor or array (b, ...), or (1, ...).
        shape: what is needed, the batch first; of pictures' only the batch counts.
        many: whether the batch may be any, where it isn't known yet.

    Raises:
        TypeError: no numbers.
        ValueError: another shape, or numbers that aren't finite.
    """
    try:
        plain = given if torch.is_tensor(given) else np.array(given, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(
            f"latents must be a tensor or array of the shape {shape}, got {short(given)}."
        ) from None
    tensor = plain if torch.is_tensor(plain) else torch.tensor(plain)
    fits = tensor.ndim == len(shape) and (many or tensor.shape[0] in (1, shape[0]))
    if not fits or (len(shape) == 2 and tensor.shape[1] != shape[1]):
        raise ValueError(f"latents must have the shape {shape}, got {tuple(tensor.shape)}.")
    if not torch.isfinite(tensor).all():
        raise ValueError("latents must be finite numbers, got NaN or infinity among them.")
    return tensor if many else tensor.expand(shape[0], *tensor.shape[1:])


def check_least(scheduler: Any, call: Mapping[str, Any]) -> None:
    """Refuses the one step that UnCLIP's scheduler divides by zero for: its grid has n − 1 gaps.

    Raises:
        ValueError: one step only.
    """
    is_unclip = type(scheduler).__name__ == "UnCLIPScheduler"
    if is_unclip and call.get("num_inference_steps", 2) < 2:
        raise ValueError(
            "num_inference_steps must be at least 2 with UnCLIPScheduler, got "
            f"{call['num_inference_steps']}."
        )


# --- what record and recorder are given ----------------------------------------------------------


def check_parts(pipe: Any, scheduler: Any, networks: Sequence[torch.nn.Module]) -> None:
    """Refuses a pipeline without a scheduler, and one whose weights are gone."""
    if scheduler is None:
        raise TypeError(
            "record takes a pipeline with a scheduler whose steps it can follow, and "
            f"{type(pipe).__name__} has none; open one with ldmkit.load(name)."
        )
    for network in networks:
        weight = next(network.parameters(), None)
        # What comes and goes layer by layer is nowhere in between, too, but has a hook for it.
        if weight is not None and weight.is_meta and not hasattr(network, "_hf_hook"):
            Released()()  # a sibling's release took the weights: says so


def complete(
    pipe: Any,
    parameters: Mapping[str, Any],
    prompt: Any,
    call: dict[str, Any],
) -> dict[str, Any]:
    """Checks the keywords and adds the model's defaults."""
    check_call(pipe, parameters, call)
    check_prompt("prompt", prompt)
    embeds = any(name.startswith("prompt_embeds") and call[name] is not None for name in call)
    if prompt == "" and ("prompt" not in parameters or embeds):
        prompt = None  # what ``Trajectory.keywords`` says of a run that was told no words
    if prompt is not None:
        if "prompt" not in parameters:
            raise TypeError(f"{type(pipe).__name__} takes no prompt; leave it out.")
        call = {"prompt": prompt if isinstance(prompt, str) else list(prompt), **call}
    elif "prompt" in parameters and not embeds:  # HiDream's are prompt_embeds_t5 and others
        raise TypeError(
            f"{type(pipe).__name__} needs a prompt, got None; "
            'write record(pipe, "a red cat"), or "" for no words.'
        )
    for name, value in origin_of(pipe).defaults.items():
        if name in parameters:
            call.setdefault(name, value)
    return {name: _as_taken(value, parameters.get(name)) for name, value in call.items()}


def _as_taken(value: Any, parameter: Any) -> Any:
    """Python's own numbers, and tuples where JSON made lists of them (``original_size``)."""
    if isinstance(value, list):
        annotation = str(getattr(parameter, "annotation", "")).lower()
        return tuple(value) if "tuple" in annotation and "list" not in annotation else value
    if isinstance(value, np.generic):
        return value.item()
    return float(value) if isinstance(value, Rational) and not isinstance(value, int) else value


def check_network(network: Any) -> tuple[torch.nn.Module, ...]:
    """One network, several or none, as a tuple."""
    several = network if isinstance(network, (list, tuple)) else [network]
    found = tuple(several) if network is not None else ()
    if not all(isinstance(one, torch.nn.Module) for one in found):
        raise TypeError(
            "network must be the torch.nn.Module that predicts noise, or a list of them, got "
            f"{short(network)}; give pipe.unet or pipe.transformer, or None."
        )
    return tuple(dict.fromkeys(found))


def tellable(names: tuple[str, ...], keep: str | Sequence[str]) -> tuple[str, ...]:
    """What a loop that tells its steps itself can keep."""
    known = ("latents", "denoised", "noise_pred")
    unknown = [name for name in names if name not in known]
    if unknown and keep != "all":
        raise ValueError(
            f"keep takes {', '.join(known)} where a loop tells its steps itself, got "
            f"{unknown[0]!r}; give recorder the loop's scheduler and network for more."
        )
    return known if unknown else names
