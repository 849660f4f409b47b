"""Progressive distillation: a student learns to land in one step where its teacher lands in two.

Salimans & Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models" (arXiv
2202.00512), algorithm 2, for v-prediction (section 4, appendix D). Levels are z_t = α x + σ ε,
v = α ε − σ x, and one DDIM step from (α, σ) to (α', σ') is

    x = α z − σ v,   ε = α v + σ z,   z' = α' x + σ' ε                                (eq. 8)

The teacher steps t → t' → t''. The one estimate that takes a single step t → t'' to the same place:

    x~ = (z'' − (σ''/σ) z) / (α'' − (σ''/σ) α)                          (algorithm 2; appendix G)

and, as v, (α z − x~) / σ. Then the student is the teacher of the next rung. A guided teacher (Meng
et al. 2023, arXiv 2210.03142) is distilled at one fixed guidance scale in the first rung; from there
on guidance is inside and a step costs one call of the network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(b, c, h, w) latents and (b,) timesteps to v; words and guidance are inside."""


@dataclass(frozen=True)
class Rung:
    """The grid of a student of n steps, and of its teacher of twice as many.

    Attributes:
        timesteps: (n,) where the student is asked, the scheduler's own for n steps.
        middles: (n,) where the teacher is asked between.
        alphas: (3, n) of the levels t, t' and t'': latents = alpha · x0 + sigma · noise.
        sigmas: (3, n), √(1 − alpha²).
    """

    timesteps: torch.Tensor
    middles: torch.Tensor
    alphas: torch.Tensor
    sigmas: torch.Tensor

    def __len__(self) -> int:
        return len(self.timesteps)

    def level(self, which: int, i: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """alpha and sigma of the start (0), the middle (1) or the landing (2) of steps i."""
        alpha, sigma = self.alphas[which, i], self.sigmas[which, i]
        return alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)


def rung(scheduler: Any, steps: int) -> Rung:
    """Reads a student's grid off its pipeline's scheduler."""
    timesteps = _timesteps(scheduler, 2 * steps)
    stride = scheduler.config.num_train_timesteps // (2 * steps)
    landings = torch.cat((timesteps[1:], timesteps[-1:] - stride))
    if not torch.equal(timesteps - stride, landings) or not torch.equal(
        _timesteps(scheduler, steps), timesteps[::2]
    ):
        raise ValueError("grid")
    # Below the last timestep lies the scheduler's final level: a clean picture.
    levels = torch.cat((timesteps, timesteps[-1:] - stride))
    squares = torch.where(
        levels >= 0, scheduler.alphas_cumprod[levels.clamp(min=0)], scheduler.final_alpha_cumprod
    ).double()
    whole = torch.stack((squares[:-1:2], squares[1::2], squares[2::2]))
    return Rung(timesteps[::2], timesteps[1::2], whole.sqrt().float(), (1 - whole).sqrt().float())


def _timesteps(scheduler: Any, steps: int) -> torch.Tensor:
    twin = copy.deepcopy(scheduler)
    twin.set_timesteps(steps)
    return twin.timesteps.long().cpu()


# --- the algorithm -----------------------------------------------------------------------------


def ddim_step(
    z: torch.Tensor,
    v: torch.Tensor,
    here: tuple[torch.Tensor, torch.Tensor],
    there: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """z at one level (alpha, sigma) to z' at another, eq. 8."""
    (alpha, sigma), (alpha_to, sigma_to) = here, there
    x0 = alpha * z - sigma * v
    noise = alpha * v + sigma * z
    return alpha_to * x0 + sigma_to * noise


@torch.no_grad()
def teach(
    teacher: Predict, z: torch.Tensor, rung: Rung, i: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's two steps, and what the student should say to land there in one.

    Args:
        teacher: predicts v.
        z: (b, c, h, w) latents at the starts of steps i.
        i: (b,) numbers of the student's steps.

    Returns:
        v~ (b, c, h, w), and z'' where both land.
    """
    start, middle, end = (rung.level(which, i) for which in range(3))
    z_middle = ddim_step(z, teacher(z, rung.timesteps[i]), start, middle)
    z_end = ddim_step(z_middle, teacher(z_middle, rung.middles[i]), middle, end)
    (alpha, sigma), (alpha_end, sigma_end) = start, end
    ratio = sigma_end / sigma
    x0 = (z_end - ratio * z) / (alpha_end - ratio * alpha)
    return (alpha * z - x0) / sigma, z_end


@dataclass(frozen=True)
class Lesson:
    """What a student learns from: where it stands, what it is asked, what it should say.

    Attributes:
        latents: (b, c, h, w) at the starts of steps.
        steps: (b,) their numbers in the rung.
        target: (b, c, h, w) v that lands where two of the teacher's steps do.
    """

    latents: torch.Tensor
    steps: torch.Tensor
    target: torch.Tensor


def lesson_on_data(
    teacher: Predict, rung: Rung, x0: torch.Tensor, noise: torch.Tensor, i: torch.Tensor
) -> Lesson:
    """Algorithm 2 as it stands: clean latents, noised to the starts of steps i."""
    alpha, sigma = rung.level(0, i)
    # The pipeline starts from noise alone, though alpha is not quite zero there.
    z = torch.where((i == 0).view(-1, 1, 1, 1), noise, alpha * x0 + sigma * noise)
    return Lesson(z, i, teach(teacher, z, rung, i)[0])


@torch.no_grad()
def lesson_on_walks(
    teacher: Predict, student: Predict, rung: Rung, noise: torch.Tensor, own: torch.Tensor
) -> Lesson:
    """The same from where sampling comes by, needing no data: walks from noise, all n steps.

    Args:
        noise: (b, c, h, w).
        own: (b,) which walks go on from where the *student* lands (and so teach it to mend its own
            errors) rather than from where the teacher does.

    Returns:
        n b examples, those of step 0 first.
    """
    z, seen = noise, []
    for k in range(len(rung)):
        i = torch.full((len(z),), k)
        target, landing = teach(teacher, z, rung, i)
        seen.append(Lesson(z, i, target))
        if k + 1 < len(rung):
            v = student(z, rung.timesteps[i])
            astray = ddim_step(z, v, rung.level(0, i), rung.level(2, i))
            z = torch.where(own.view(-1, 1, 1, 1), astray, landing)
    return Lesson(
        torch.cat([s.latents for s in seen]),
        torch.cat([s.steps for s in seen]),
        torch.cat([s.target for s in seen]),
    )


def loss(student: Predict, rung: Rung, lesson: Lesson) -> torch.Tensor:
    """The mean squared error of v.

    It weighs the error of x by 1/σ² = SNR + 1, one of the two weightings that the paper found to
    work (section 4; the other, truncated SNR, is max(α², σ²) times it).
    """
    v = student(lesson.latents, rung.timesteps[lesson.steps])
    return (v - lesson.target).square().mean()
