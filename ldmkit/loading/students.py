"""Students: other weights of a pipeline's U-Net, made for few steps, beside the usual ones.

A student of four steps is the variant ``steps4`` of its folder: the file
``unet/diffusion_pytorch_model.steps4.safetensors``, and a line of ``ldmkit.json`` that says what it
was made for. The teacher's guidance is inside, so a student runs with ``guidance_scale`` 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldmkit.check import say
from ldmkit.loading.folder import read_json
from ldmkit.loading.siblings import origin_of

__all__ = ["made_for", "say_if_astray", "steps_of", "variant_of", "write"]


def variant_of(steps: int) -> str:
    """The variant's name of a student."""
    return f"steps{steps}"


def made_for(steps: int, guided: bool = True) -> dict[str, Any]:
    """The call's keywords that a student was made for."""
    return {"num_inference_steps": steps} | ({"guidance_scale": 1.0} if guided else {})


def steps_of(pipe: Any) -> int | None:
    """The steps that a pipeline's student was made for; ``None`` of all other pipelines."""
    found = re.search(r":steps(\d+)$", origin_of(pipe).name)
    return int(found[1]) if found else None


def write(folder: Path, steps: int, weights: Mapping[str, Any]) -> Path:
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


def say_if_astray(pipe: Any, scheduler: Any, call: Mapping[str, Any], stacklevel: int = 2) -> None:
    """Tells who runs a student otherwise than it learned to draw.

    Args:
        pipe: any pipeline.
        scheduler: that the run will take.
        call: the run's keywords, complete.
        stacklevel: as for ``warnings.warn``.
    """
    steps = steps_of(pipe)
    if steps is None:
        return
    config = scheduler.config
    here = f"{type(scheduler).__name__} with {config.get('timestep_spacing')} spacing"
    meant = {"DDIMScheduler with trailing spacing", "DDIMParallelScheduler with trailing spacing"}
    wrong = [] if here in meant else [here]
    for name, value in made_for(steps).items():
        if name in call and call[name] != value:
            wrong.append(f"{name} {call[name]:g}")
    if wrong:
        say(
            f"{origin_of(pipe).name} was distilled for {steps} DDIM steps (trailing spacing) with "
            f"its teacher's guidance inside (guidance_scale 1), and this run has "
            f"{' and '.join(wrong)}: it draws what it never learned; leave those out.",
            stacklevel=stacklevel + 1,
        )
