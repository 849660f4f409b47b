"""A denoiser whose answer is known in closed form: all data is one picture.

Then the clean estimate is that picture at every noise level, whatever the scheduler, and a
recorder that reads alpha or sigma one step off gets something else.
"""

from __future__ import annotations

import torch


def install(pipe, target: torch.Tensor, prediction_type: str) -> None:
    """Replaces the U-Net's forward by the exact answer for data that is ``target`` alone."""
    kept = _alphas_cumprod()

    def forward(sample, timestep, *args, return_dict=True, **kwargs):
        bar = torch.as_tensor(kept[int(timestep)], dtype=torch.float64)
        alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
        noise = (sample.double() - alpha * target) / sigma
        answer = {
            "epsilon": noise,
            "sample": target.expand_as(sample),
            "v_prediction": alpha * noise - sigma * target,
        }[prediction_type].to(sample.dtype)
        return (answer,)

    pipe.unet.forward = forward


def _alphas_cumprod() -> torch.Tensor:
    """ᾱ of the embedded scheduler, written down anew (DDPM, arXiv 2006.11239, eq. 4)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1024, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)
