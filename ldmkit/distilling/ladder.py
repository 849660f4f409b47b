"""Progressive distillation: a student learns to land in one step where its teacher lands in two.

Salimans & Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models" (arXiv
2202.00512), algorithm 2, for v-prediction (section 4, appendix D). A level is z = α x + σ ε with
α² + σ² = 1, the network says v = α ε − σ x, and one DDIM step from (α, σ) to (α', σ') is

    x = α z − σ v,   ε = α v + σ z,   z' = α' x + σ' ε                                 `ddim_step`

The teacher steps t → t' → t''. One step from t lands at its z'' if the student estimates

    x~ = (z'' − (σ''/σ) z) / (α'' − (σ''/σ) α),   as v:  v~ = (α z − x~) / σ             `two_steps`

and so it learns v~. It begins with its teacher's weights, and is the teacher of the next rung:
64 → 32 → ... → 1. The student is asked at its own pipeline's timesteps only. A guided teacher (Meng
et al. 2023, arXiv 2210.03142) is distilled at one fixed guidance scale: from the first rung on
guidance is inside, and a step costs one call of the network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = [
    "Lesson",
    "Predict",
    "Rung",
    "ddim_step",
    "loss",
    "noised",
    "rung_of",
    "two_steps",
    "walked",
]

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(b, c, h, w) latents and (b,) timesteps to v, float32; words and guidance are inside."""


@dataclass(frozen=True)
class Rung:
    """The grid of a student of n steps, and of its teacher of twice as many.

    Attributes:
        timesteps: (n,) t, where the student is asked: its scheduler's own.
        middles: (n,) t', where the teacher is asked between.
        alphas: (3, n) of the levels at t, t' and t''; the last t'' is the clean picture's.
        sigmas: (3, n), √(1 − α²).
    """

    timesteps: torch.Tensor
    middles: torch.Tensor
    alphas: torch.Tensor
    sigmas: torch.Tensor

    def __len__(self) -> int:
        return len(self.timesteps)

    def level(self, which: int, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """α and σ (b, 1, 1, 1) at t (0), t' (1) or t'' (2) of some of the n steps."""
        alpha, sigma = self.alphas[which, steps], self.sigmas[which, steps]
        return alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)


@dataclass(frozen=True)
class Lesson:
    """Where a student stands, and what it should say there.

    Attributes:
        latents: (b, c, h, w) z at t.
        steps: (b,) which of the rung's steps begins there, 0 from noise.
        target: (b, c, h, w) v~.
    """

    latents: torch.Tensor
    steps: torch.Tensor
    target: torch.Tensor


# --- the algorithm -----------------------------------------------------------------------------


def ddim_step(
    z: torch.Tensor,
    v: torch.Tensor,
    here: tuple[torch.Tensor, torch.Tensor],
    there: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """From z at one level (α, σ) to z' at another (arXiv 2202.00512, section 2, with v)."""
    (alpha, sigma), (alpha_to, sigma_to) = here, there
    x0 = alpha * z - sigma * v
    noise = alpha * v + sigma * z
    return alpha_to * x0 + sigma_to * noise


@torch.no_grad()
def two_steps(
    teacher: Predict, z: torch.Tensor, rung: Rung, steps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the teacher lands in two steps, and what takes the student there in one.

    Args:
        teacher: predicts v.
        z: (b, c, h, w) latents at t.
        rung: the student's.
        steps: (b,) which of its steps begin at z.

    Returns:
        v~ and z'', both (b, c, h, w).
    """
    start, middle, end = (rung.level(which, steps) for which in range(3))
    z_middle = ddim_step(z, teacher(z, rung.timesteps[steps]), start, middle)
    z_end = ddim_step(z_middle, teacher(z_middle, rung.middles[steps]), middle, end)
    (alpha, sigma), (alpha_end, sigma_end) = start, end
    ratio = sigma_end / sigma
    x0 = (z_end - ratio * z) / (alpha_end - ratio * alpha)
    return (alpha * z - x0) / sigma, z_end


def noised(
    teacher: Predict, rung: Rung, x0: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor
) -> Lesson:
    """Algorithm 2 as it stands: clean latents, noised to t."""
    alpha, sigma = rung.level(0, steps)
    # The pipeline starts from noise alone, though α is not quite zero at its first timestep.
    z = torch.where((steps == 0).view(-1, 1, 1, 1), noise, alpha * x0 + sigma * noise)
    return Lesson(z, steps, two_steps(teacher, z, rung, steps)[0])


@torch.no_grad()
def walked(
    teacher: Predict, student: Predict, rung: Rung, noise: torch.Tensor, own: torch.Tensor
) -> Lesson:
    """Without data: each z where sampling comes by on its way from noise.

    Args:
        teacher: predicts v.
        student: predicts v.
        rung: the student's.
        noise: (b, c, h, w) where b walks begin.
        own: (b,) which of them go on from where the *student* lands, so that it learns to mend its
            own errors; the others go on from where the teacher does.

    Returns:
        n · b examples: all first steps, then all second ones, and so on.
    """
    z, seen = noise, []
    for k in range(len(rung)):
        steps = torch.full((len(z),), k, device=z.device)
        target, landing = two_steps(teacher, z, rung, steps)
        seen.append((z, steps, target))
        if own.any() and k + 1 < len(rung):
            v = student(z, rung.timesteps[steps])
            astray = ddim_step(z, v, rung.level(0, steps), rung.level(2, steps))
            landing = torch.where(own.view(-1, 1, 1, 1), astray, landing)
        z = landing
    return Lesson(*(torch.cat(parts) for parts in zip(*seen, strict=True)))


def loss(student: Predict, rung: Rung, lesson: Lesson) -> torch.Tensor:
    """The mean squared error of v.

    It weighs the error of x by 1/σ² = SNR + 1, one of the two weightings that the paper found to
    work (section 4). The other, truncated SNR, is max(α², σ²) times as much: never less than half
    of it, and the same at the first timesteps, where few steps are won or lost.
    """
    v = student(lesson.latents, rung.timesteps[lesson.steps])
    return (v - lesson.target).square().mean()


# --- the grid ----------------------------------------------------------------------------------


def rung_of(scheduler: Any, steps: int, device: Any = "cpu") -> Rung:
    """Reads a student's grid off its pipeline's scheduler.

    Args:
        scheduler: DDIM, of a network that predicts noise or v.
        steps: the student's, n; its teacher takes 2 n.
        device: where the grid is needed.

    Raises:
        ValueError: a scheduler whose student would not land on its own next timestep.
    """
    _check(scheduler)
    config, train = scheduler.config, int(scheduler.config.num_train_timesteps)
    fine = _timesteps(scheduler, 2 * steps) if 2 * steps <= train else torch.zeros(0)
    stride = train // (2 * steps)
    levels = torch.cat((fine, fine[-1:] - stride))  # below the last timestep: the clean picture
    if (
        train % (2 * steps)
        or not torch.equal(levels[1:], fine - stride)
        or not torch.equal(_timesteps(scheduler, steps), fine[::2])
    ):
        raise ValueError(
            f"A student of {steps} steps must stand where its teacher of {2 * steps} stands at "
            "every second step: distill needs timestep_spacing='trailing' and a number of "
            f"num_train_timesteps that {2 * steps} divides, got {config.timestep_spacing!r} and "
            f"{train}; set pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, "
            "timestep_spacing='trailing'), and choose rungs whose double divides "
            f"{train}, such as {_fitting(train)}."
        )
    final = scheduler.final_alpha_cumprod.double()
    squares = torch.where(
        levels >= 0, scheduler.alphas_cumprod.double()[levels.clamp(min=0)], final
    )
    three = torch.stack((squares[:-1:2], squares[1::2], squares[2::2]))
    if config.prediction_type == "epsilon" and not three[0].all():
        raise ValueError(
            "Where nothing of the picture is left (rescale_betas_zero_snr) a network that predicts "
            "noise says nothing of it; set rescale_betas_zero_snr=False, or distill a v-predictor."
        )
    parts = (fine[::2], fine[1::2], three.sqrt().float(), (1 - three).sqrt().float())
    return Rung(*(part.to(device) for part in parts))


def _check(scheduler: Any) -> None:
    """Refuses what takes other steps than `ddim_step`, or networks that say something else."""
    kind, config = type(scheduler).__name__, scheduler.config
    if kind not in ("DDIMScheduler", "DDIMParallelScheduler"):
        raise ValueError(
            f"distill needs DDIM, whose step has a closed form, got {kind}; set pipe.scheduler = "
            "DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing='trailing')."
        )
    if config.prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(
            "distill needs a teacher that predicts noise ('epsilon') or v ('v_prediction'), got "
            f"prediction_type {config.prediction_type!r}; choose another model."
        )
    if config.clip_sample or config.thresholding:
        raise ValueError(
            "distill needs steps that nothing cuts short, got clip_sample="
            f"{config.clip_sample} and thresholding={config.thresholding}; set pipe.scheduler = "
            "DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, "
            "thresholding=False)."
        )


def _timesteps(scheduler: Any, steps: int) -> torch.Tensor:
    twin = copy.deepcopy(scheduler)
    twin.set_timesteps(steps)
    return twin.timesteps.long().cpu()


def _fitting(train: int) -> tuple[int, ...]:
    """Rungs that halve and fit, from the largest of at most 32 steps."""
    powers = [n for n in range(1, 33) if train % (2 * n) == 0]
    ladders = [tuple(n >> k for k in range(6) if n % (1 << k) == 0) for n in powers]
    return max(ladders, key=lambda rungs: (len(rungs), rungs)) if ladders else ()
