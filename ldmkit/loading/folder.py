"""What a pipeline's folder says about itself, read before anything of it is loaded; what it lacks.

Some unCLIP models no single ``from_pretrained`` opens: Stable unCLIP has its prior from Karlo and
CLIP's words from OpenAI; Karlo's own repositories name a class by a place that diffusers (0.42) has
left. Here is which part comes from where.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ldmkit.loading.quiet import Switch, swift_imports

__all__ = [
    "CLIP_LARGE",
    "KARLO",
    "check_folder",
    "check_variant",
    "defaults_of",
    "fetch_parts",
    "moved_classes",
    "parts_of",
    "read_json",
    "variants_of",
]

_LARGEST_JSON = 1_000_000  # bytes
_LIBRARIES = ("diffusers", "transformers")

KARLO = "kakaobrain/karlo-v1-alpha"
CLIP_LARGE = "openai/clip-vit-large-patch14"

_MOVED = "UnCLIPTextProjModel"

# What of those repositories is needed, when they are fetched ahead of class.
_FILES = {
    KARLO: ["prior/*.json", "prior/*.safetensors", "prior_scheduler/*"],
    CLIP_LARGE: ["*.json", "*.txt", "model.safetensors"],
}


def check_folder(folder: Path) -> None:
    """Refuses a folder that isn't a diffusers pipeline, or brings code of its own.

    Raises:
        FileNotFoundError: no ``model_index.json``.
        ValueError: it can't be read, or names classes that aren't from the libraries.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise FileNotFoundError(
            f"A pipeline's folder must hold model_index.json, {str(folder)!r} has none; "
            "give the folder that save_pretrained wrote."
        )
    for part, entry in read_json(index).items():
        named = isinstance(entry, list) and len(entry) == 2
        if part.startswith("_") or not named or entry[0] is None:
            continue
        if not _is_of_libraries(str(entry[0])):
            raise ValueError(
                f"ldmkit runs no code that comes with weights, but the {part} of {str(folder)!r} "
                f"asks for {str(entry[0])[:60]!r}; open it with diffusers yourself if you trust it."
            )


def _is_of_libraries(module: str) -> bool:
    if module in _LIBRARIES:
        return True
    # The safety checker of Stable Diffusion, for one, is named by its pipeline's package.
    # Karlo's names its package by where it stood before diffusers retired it.
    return module.isidentifier() and any(
        importlib.util.find_spec(f"{package}.{module}") is not None
        for package in ("diffusers.pipelines", "diffusers.pipelines.deprecated")
    )


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object from a file of sensible size.

    Raises:
        ValueError: too large, or not a JSON object.
    """
    if path.stat().st_size > _LARGEST_JSON:
        raise ValueError(
            f"{path.name} must be smaller than {_LARGEST_JSON:,} bytes, got "
            f"{path.stat().st_size:,}; this is no pipeline's folder."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name} must be JSON: {error}; fetch the folder again.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} must hold a JSON object; fetch the folder again.")
    return content


def variants_of(folder: Path) -> tuple[str, ...]:
    """The variants that a folder has weights of, such as ``steps4``."""
    names: set[str] = set()
    for path in folder.glob("*/*.safetensors"):
        parts = path.name.split(".")
        if len(parts) == 3 and "-of-" not in parts[1]:
            names.add(parts[1])
    return tuple(sorted(names))


def check_variant(folder: Path, variant: str | None) -> None:
    """Refuses a variant that no part has; diffusers would silently take the usual weights.

    Raises:
        ValueError: unknown variant.
    """
    known = variants_of(folder)
    if variant is not None and variant not in known:
        raise ValueError(
            f"variant must be one of {', '.join(known) or '(none here)'}, got {variant!r}; "
            f"leave it out for the usual weights of {folder.name!r}."
        )


def defaults_of(folder: Path, variant: str | None) -> dict[str, Any]:
    """The call's keywords that a folder's weights were made for, from its ``ldmkit.json``.

    Raises:
        ValueError: the file isn't as ``{"variants": {"": {"num_inference_steps": 32}}}``.
    """
    path = folder / "ldmkit.json"
    if not path.is_file():
        return {}
    variants = read_json(path).get("variants", {})
    defaults = variants.get(variant or "", {}) if isinstance(variants, dict) else None
    if not isinstance(defaults, dict) or not all(map(_is_number, defaults.values())):
        raise ValueError(
            f"{path.name} must give numbers per variant, like "
            '{"variants": {"": {"num_inference_steps": 32}}}; mend or remove it.'
        )
    return defaults


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# --- parts that lie elsewhere, a class that moved ------------------------------------------------


def parts_of(family: str | None, *, dtype: Any, local: bool) -> dict[str, Any]:
    """Components to give to ``from_pretrained`` beside a repository; mostly none.

    Args:
        family: class of the pipeline that is to be made, where a catalog row says so.
        dtype: of the weights.
        local: look on this machine only.

    Raises:
        OSError: a part is missing or can't be fetched.
        ValueError: it can't be opened.
    """
    return _karlos_prior(dtype, local) if family == "StableUnCLIPPipeline" else {}


def moved_classes(source: str | Path) -> AbstractContextManager[None]:
    """Lets ``from_pretrained`` find Karlo's class where its files say it is, while a block runs.

    The hub's say ``unclip.UnCLIPTextProjModel``, those that diffusers 0.42 saves itself say
    ``diffusers.UnCLIPTextProjModel``; it has moved to ``pipelines.deprecated`` and is found by
    neither. Does nothing for others' folders, and where diffusers finds it.
    """
    return _moved() if _is_karlo(source) else nullcontext()


def _name_moved() -> Callable[[], None]:
    import diffusers
    from diffusers import pipelines
    from diffusers.pipelines.deprecated import unclip

    places = ((pipelines, "unclip", unclip), (diffusers, _MOVED, getattr(unclip, _MOVED)))
    missing = [place for place in places if not hasattr(*place[:2])]
    for where, name, thing in missing:
        setattr(where, name, thing)

    def forget() -> None:
        for where, name, _ in missing:
            delattr(where, name)

    return forget


_moved = Switch(_name_moved)


def _is_karlo(source: str | Path) -> bool:
    index = Path(source) / "model_index.json"
    if index.is_file():
        return any(isinstance(e, list) and _MOVED in e for e in read_json(index).values())
    return str(source).startswith(KARLO)


def _karlos_prior(dtype: Any, local: bool) -> dict[str, Any]:
    with swift_imports():
        from diffusers import DDPMScheduler, PriorTransformer, UnCLIPScheduler
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    where = {"local_files_only": local}
    weights = where | {"dtype": dtype, "use_safetensors": True}
    scheduler = UnCLIPScheduler.from_pretrained(KARLO, subfolder="prior_scheduler", **where)
    return {
        "prior": PriorTransformer.from_pretrained(KARLO, subfolder="prior", **weights),
        # The pipeline passes no prev_timestep, which UnCLIP's own scheduler would misread.
        "prior_scheduler": DDPMScheduler.from_config(scheduler.config),
        "prior_tokenizer": CLIPTokenizer.from_pretrained(CLIP_LARGE, **where),
        "prior_text_encoder": CLIPTextModelWithProjection.from_pretrained(CLIP_LARGE, **weights),
    }


def fetch_parts(family: str | None) -> None:
    """Downloads what ``parts_of`` takes from other repositories.

    Raises:
        OSError: the hub can't be reached or has it no more.
    """
    if family != "StableUnCLIPPipeline":
        return
    from huggingface_hub import snapshot_download

    for repository, patterns in _FILES.items():
        snapshot_download(repository, allow_patterns=patterns)
