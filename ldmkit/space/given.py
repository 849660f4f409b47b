"""What people hand over as embeddings, noise and seeds, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ldmkit.check import short
from ldmkit.records import Embedding

__all__ = ["check_generator", "embeddings_of", "generators", "noise_of", "stacked"]

# One CLIP has many names: that of the model which carries it, that of its own repository.
_LARGE, _GIANT = "clip-vit-large-patch14", "CLIP-ViT-bigG-14-laion2B-39B-b160k"
_SPACES = {
    **dict.fromkeys(("karlo", "karlo-v1-alpha", "karlo-v1-alpha-image-variations"), _LARGE),
    **dict.fromkeys(("stable-unclip", "stable-diffusion-2-1-unclip-small"), _LARGE),
    **dict.fromkeys(("kandinsky22", "kandinsky-2-2-prior", "kandinsky-2-2-decoder"), _GIANT),
}
_MOST = 256  # in a batch


def embeddings_of(given: Any, width: int, space: str) -> list[Embedding]:
    """Embeddings of an ``Embedding``, a vector (d,), rows (b, d), or a list of any of these.

    Args:
        given: what the user gave.
        width: d of the model that shall decode them.
        space: name of its CLIP space.

    Raises:
        TypeError: something else.
        ValueError: none, too many, another model's, or numbers that aren't finite.
    """
    found = _listed(given, space)
    if not 0 < len(found) <= _MOST:
        raise ValueError(f"Between 1 and {_MOST} embeddings are needed, got {len(found)}.")
    for one in found:
        if len(one) != width or not _same(one.model, space):
            raise ValueError(
                f"This model decodes embeddings of {width} dimensions of {space!r}, got "
                f"{len(one)} dimensions of {one.model or 'an unnamed model'!r}; encode with "
                "ldmkit.clip_space(pipe) of the model that shall decode"
                + (" (if both are one CLIP, give the .vector)." if len(one) == width else ".")
            )
    return found


def _listed(given: Any, space: str) -> list[Embedding]:
    if isinstance(given, Embedding):
        return [given]
    if isinstance(given, (list, tuple)) and any(_is_vectors(one) for one in given):
        return [embedding for one in given for embedding in _listed(one, space)]
    if isinstance(given, (list, tuple)) and not given:
        return []
    array = _array(given)
    if array is None:
        raise TypeError(
            "An embedding, a vector (d,) or a batch (b, d) is needed, got "
            f"{short(given)}; make one with "
            "sample_prior or clip.encode_image."
        )
    return [Embedding(row, model=space) for row in array]


def _array(given: Any) -> NDArray[np.float32] | None:
    """(b, d), or ``None`` for what is no vector of numbers."""
    whole = given.detach().float().cpu().numpy() if torch.is_tensor(given) else given
    try:
        array = np.asarray(whole, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        return None
    return np.atleast_2d(array) if array.ndim in (1, 2) else None


def _is_vectors(value: Any) -> bool:
    return isinstance(value, (Embedding, np.ndarray)) or torch.is_tensor(value)


def _same(one: str, other: str) -> bool:
    # A pipeline that was made by hand is called by its class, which says nothing.
    if any(not name or name.endswith("Pipeline") for name in (one, other)):
        return True
    first, second = (name.rpartition("/")[2].partition(":")[0] for name in (one, other))
    return _SPACES.get(first, first) == _SPACES.get(second, second)


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


def stacked(embeddings: Sequence[Embedding]) -> NDArray[np.float32]:
    """(b, d)."""
    return np.stack([embedding.vector for embedding in embeddings])
