"""How a model fits its device's memory: whole, by parts or by layers, and what if it doesn't."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import clear_frames
from typing import TYPE_CHECKING, Any

from ldmkit.check import say
from ldmkit.loading.device import empty_cache, group_device, networks_of

if TYPE_CHECKING:
    import torch

__all__ = [
    "HEADROOM",
    "check_room",
    "free_memory",
    "how_it_fits",
    "is_of_memory",
    "move",
    "place",
    "told_of_memory",
]

HEADROOM = 1.3  # a run's need over its weights: activations of one picture; cautious, not measured


def how_it_fits(weights: int, largest: int, free: float) -> str:
    """The plan for a model on a GPU, from bytes alone; activations take ``HEADROOM``.

    Args:
        weights: bytes of all its parts.
        largest: bytes of its largest part.
        free: bytes that may be used.

    Returns:
        ``"whole"``: all of it stays there. ``"by parts"``: each part comes when it works and goes
        again. ``"by layers"``: so does each layer, which is slow.
    """
    if weights * HEADROOM <= free:
        return "whole"
    return "by parts" if largest * HEADROOM <= free else "by layers"


def free_memory(device: torch.device) -> float:
    """Bytes that a device has for new tensors; what torch keeps there and nobody uses counts."""
    import psutil
    import torch

    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    available: float = psutil.virtual_memory().available
    if device.type == "mps":  # the machine's own memory, of which Metal recommends a share
        used = torch.mps.driver_allocated_memory() - torch.mps.current_allocated_memory()
        return min(available, torch.mps.recommended_max_memory() - used)
    return available if device.type == "cpu" else math.inf


def check_room(name: str, weights: int, device: torch.device, dtype: torch.dtype) -> None:
    """Refuses a model whose weights the machine can't hold, before it is fetched.

    They pass through its memory on their way to a GPU, too.

    Args:
        name: of the model.
        weights: bytes of all its weights in that precision.
        device: where it shall work.
        dtype: the precision.

    Raises:
        MemoryError: the machine has not so much memory.
    """
    import psutil

    machine = psutil.virtual_memory().total
    kind = str(dtype).removeprefix("torch.")
    needs = f"{name} has {weights / 1e9:.0f} GB of weights in {kind} and this machine has "
    if weights > machine:
        half = ' take dtype="bfloat16",' if dtype.itemsize > 2 and weights / 2 <= machine else ""
        raise MemoryError(
            f"{needs}{machine / 1e9:.0f} GB of memory;{half} take a larger machine, or a smaller "
            "model of ldmkit.models()."
        )
    if device.type == "cpu" and weights > (free := free_memory(device)):
        say(f"{needs}{free / 1e9:.0f} GB of memory free; close what you can, or it may be killed.")


def place(pipe: Any, device: torch.device) -> Any:
    """Moves a pipeline to its device; part by part or layer by layer where memory is short.

    What is quantised, or placed by a ``device_map``, stays where it is. Slices of attention are
    never computed one by one: on MPS that gives black pictures (diffusers#14438).
    """
    if device.type == "cpu":
        return pipe
    fixed = _fixed(pipe)
    sizes = [_bytes(part) for name, part in networks_of(pipe).items() if name not in fixed]
    weights, free = sum(sizes), free_memory(device)
    plan = how_it_fits(weights, max(sizes, default=0), free)
    if plan == "whole" or fixed or device.type != "cuda":
        if plan != "whole":
            say(
                f"This pipeline has {weights / 1e9:.1f} GB of weights and {device.type} has "
                f"{free / 1e9:.1f} GB free, so a run may not fit; take a smaller picture or model."
            )
        return move(pipe, device)
    return _offload(pipe, device, plan, f"{weights / 1e9:.1f} GB of weights", free)


def _offload(pipe: Any, device: torch.device, plan: str, weights: str, free: float) -> Any:
    """Lets parts or layers come and go; the autoencoder takes large pictures tile by tile."""
    if plan == "by parts" and getattr(pipe, "model_cpu_offload_seq", None):
        pipe.enable_model_cpu_offload(device=device)
    else:
        plan = "by layers"
        # An autoencoder is small, and is copied in float32 where it overflows in float16. (Not by
        # accelerate: enable_sequential_cpu_offload fails with accelerate 1.15 and torch 2.13.)
        stay = [
            name
            for name, part in networks_of(pipe).items()
            if hasattr(part, "decode") or not getattr(part, "_supports_group_offloading", True)
        ]
        pipe.enable_group_offload(device, offload_type="leaf_level", exclude_modules=stay)
    tiles = getattr(getattr(pipe, "vae", None), "enable_tiling", None)
    if callable(tiles):
        tiles()
    say(
        f"This pipeline has {weights} and {device} has {free / 1e9:.1f} GB free, so it works "
        f"{plan}: what isn't at work waits in the machine's memory, which is slower"
        + (", and large pictures are decoded in tiles." if callable(tiles) else ".")
    )
    return pipe


def move(pipe: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """Moves a pipeline, and says which parts stay: the quantised, and those placed otherwise."""
    fixed = _fixed(pipe)
    if not fixed:
        return pipe.to(device) if dtype is None else pipe.to(device, dtype)
    for name, part in networks_of(pipe).items():
        if name not in fixed:
            part.to(device) if dtype is None else part.to(device, dtype)
    why = "; ".join(f"{name} is {reason}" for name, reason in fixed.items())
    say(f"Not moved: {why}.")
    return pipe


def _fixed(pipe: Any) -> dict[str, str]:
    """Parts that must stay where and as they are, and why."""
    if getattr(pipe, "hf_device_map", None):
        return dict.fromkeys(networks_of(pipe), "placed by the pipeline's device_map")
    found = {}
    for name, part in networks_of(pipe).items():
        if _is_quantised(part):
            found[name] = "quantised"
        elif getattr(part, "hf_device_map", None):
            found[name] = "placed by a device_map"
        elif hasattr(part, "_hf_hook") or group_device(part) is not None:
            found[name] = "brought to its device whenever it works"
    return found


def _is_quantised(part: Any) -> bool:
    """By its library's own word, or by weights that are no plain floats (torchao, quanto, GGUF)."""
    import torch

    if any(getattr(part, name, None) for name in ("hf_quantizer", "is_quantized")):
        return True
    plain = (torch.nn.Parameter, torch.Tensor)
    return any(
        type(weight) not in plain
        or type(weight.data) not in plain
        or not (weight.is_floating_point() or weight.is_complex())
        for weight in part.parameters()
    )


def _bytes(part: Any) -> int:
    return sum(weight.numel() * weight.element_size() for weight in part.parameters())


@contextmanager
def told_of_memory(device: Any) -> Iterator[None]:
    """Turns what torch says of memory that ran out into one sentence, and frees what it can.

    Args:
        device: where the work is done, for the sentence.

    Raises:
        torch.OutOfMemoryError: the block ran out of memory; other errors pass as they are.
    """
    import torch

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_of_memory(error):
            raise
        clear_frames(error.__traceback__)  # they hold tensors of the run that failed
        told = torch.OutOfMemoryError(
            f"The memory of {device} ran out, which is no fault of the words or the seed; take "
            "smaller pictures, fewer at once or a smaller model, or free other models with "
            "ldmkit.release()."
        )
    else:
        return
    gc.collect()
    empty_cache()
    raise told


def is_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    import torch

    words = str(error).lower()
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError))
        or "out of memory" in words  # MPS, and CUDA's own libraries
        or "not enough memory" in words  # the CPU's
        or "can't allocate" in words
    )
