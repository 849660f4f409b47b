"""What a pipeline's folder says about itself, read before anything of it is loaded.

Students are variants: other weights of the U-Net, made for few steps, beside the usual ones. One of
four steps is the file ``unet/diffusion_pytorch_model.steps4.safetensors`` and a line of
``ldmkit.json`` that says what it was made for. The teacher's guidance is inside, so a student runs
with ``guidance_scale`` 1.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "check_folder",
    "check_variant",
    "defaults_of",
    "made_for",
    "read_json",
    "variant_of",
    "variants_of",
    "write_student",
]

_LARGEST_JSON = 1_000_000  # bytes
_LIBRARIES = ("diffusers", "transformers")


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


# --- students -------------------------------------------------------------------------------------


def variant_of(steps: int) -> str:
    """The variant's name of a student."""
    return f"steps{steps}"


def made_for(steps: int, guided: bool = True) -> dict[str, Any]:
    """The call's keywords that a student was made for."""
    return {"num_inference_steps": steps} | ({"guidance_scale": 1.0} if guided else {})


def write_student(folder: Path, steps: int, weights: Mapping[str, Any]) -> Path:
    """Writes a student beside the U-Net of a pipeline's folder, in float16.

    Args:
        folder: holds ``model_index.json`` and ``unet/config.json``.
        steps: that the student was made for.
        weights: the network's ``state_dict``.

    Returns:
        The new file.
    """
    from safetensors.torch import save_file

    path = folder / "unet" / f"diffusion_pytorch_model.{variant_of(steps)}.safetensors"
    partial = path.with_suffix(".part")
    save_file({name: tensor.half().contiguous().cpu() for name, tensor in weights.items()}, partial)
    partial.chmod(0o644)  # safetensors writes them for the owner alone
    partial.replace(path)
    settings = folder / "ldmkit.json"
    content = dict(read_json(settings)) if settings.is_file() else {}
    content["variants"] = dict(content.get("variants", {})) | {variant_of(steps): made_for(steps)}
    settings.write_text(json.dumps(content, indent=2) + "\n")
    return path
