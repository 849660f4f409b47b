"""The noise law, in which everything that ldmkit draws is told.

    latents = alpha * x0 + sigma * noise

with x0 the clean latents and noise of variance 1. Any two of the three give the third. How alpha
and sigma are read off a scheduler: ``ldmkit.recording.noise_law``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["at_unit_variance", "both_of", "clean_of", "noise_of"]


def clean_of(latents: Any, noise: Any, alpha: Any, sigma: Any) -> Any:
    """x0; infinite or NaN where alpha is 0, since pure noise says nothing of a picture."""
    with np.errstate(all="ignore"):
        return (latents - sigma * noise) / alpha


def noise_of(latents: Any, clean: Any, alpha: Any, sigma: Any) -> Any:
    """The noise; infinite or NaN where sigma is 0, since clean latents say nothing of it."""
    with np.errstate(all="ignore"):
        return (latents - alpha * clean) / sigma


def both_of(latents: Any, output: Any, alpha: Any, sigma: Any, prediction: str) -> tuple[Any, Any]:
    """(x0, noise) of what a network gave, of arrays or tensors.

    With c = √(alpha² + sigma²), v-prediction (arXiv 2202.00512, appendix D) speaks of latents at
    unit variance: v = (alpha · noise - sigma · x0) / c.

    Args:
        latents: what entered the step.
        output: what the network gave, same shape.
        alpha: share of the clean latents.
        sigma: share of the noise.
        prediction: ``"epsilon"``, ``"v_prediction"``, ``"sample"`` or ``"flow"`` (noise - x0).

    Raises:
        ValueError: the prediction type is unknown.
    """
    if prediction == "epsilon":
        return clean_of(latents, output, alpha, sigma), output
    if prediction == "sample":
        return output, noise_of(latents, output, alpha, sigma)
    if prediction == "flow":
        return latents - sigma * output, latents + alpha * output
    if prediction == "v_prediction":
        c = np.sqrt(np.square(alpha) + np.square(sigma))
        x0 = (alpha * latents / c - sigma * output) / c
        noise = (sigma * latents / c + alpha * output) / c
        return x0, noise
    raise ValueError(
        "prediction_type must be epsilon, v_prediction, sample or flow_prediction, "
        f"got {prediction!r}; set it in the scheduler's config."
    )


def at_unit_variance(latents: Any, alpha: Any, sigma: Any) -> Any:
    """Latents over √(alpha² + sigma²): Euler's grow to sigma, and autoencoders know variance 1."""
    scale = np.sqrt(np.square(alpha) + np.square(sigma))
    return latents / np.where(scale > 0, scale, 1.0)
