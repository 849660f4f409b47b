"""What people hand over as noise and seeds, checked before anything runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ldmkit.check import short

__all__ = ["check_generator", "generators", "noise_of"]


def noise_of(given: Any, shape: tuple[int, ...], *, many: bool = False) -> torch.Tensor:
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


def check_generator(generator: Any) -> None:
    """Refuses what draws no noise.

    Raises:
        TypeError: neither a ``torch.Generator``, nor a list of them, nor ``None``.
    """
    several = generator if isinstance(generator, (list, tuple)) else [generator]
    right = all(isinstance(one, torch.Generator) for one in several)
    if generator is not None and not (right and several):
        raise TypeError(
            f"generator must be a torch.Generator or a list of them, got {short(generator)}; "
            "seed=7 makes one."
        )
