"""Train the small decoder of step pictures: distilled from the autoencoder's own decode.

    python -m ldmkit.recipes.preview --minutes 15

Its lessons are what a record shows: latents of training drawings, and clean estimates of the U-Net
from drawings under every amount of noise, with and without guidance; the autoencoder's picture of
each stands beside it. Whole pictures throughout: what lies at a crop's edges teaches nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from ldmkit.critters.world import EVALUATION_SEED
from ldmkit.distilling.muon import Muon
from ldmkit.recipes.autoencoder import decibels
from ldmkit.recipes.data import captions_of, drawings, to_tensor, unseen
from ldmkit.recipes.train import (
    WEIGHTS,
    Run,
    arguments,
    device_of,
    exported,
    target_of,
    train_model,
)
from ldmkit.recording.preview import SmallDecoder, decode

BATCH = 16
CLEAN = 0.4  # share of the lessons that are latents of drawings; the others are estimates
GUIDANCE = (1.0, 3.5, 6.0)
LEVELS = (0.2, 0.5, 0.8, 0.95)  # of the schedule's timesteps: where the difference is measured


@torch.no_grad()
def latents_of(pipe: StableDiffusionPipeline, pictures: NDArray[np.uint8]) -> torch.Tensor:
    """(n, 64, 64, 3) uint8 -> (n, 4, 16, 16) at the network's scale, with the encoder's noise."""
    parts = [
        pipe.vae.encode(to_tensor(pictures[i : i + 25])).latent_dist.sample()
        for i in range(0, len(pictures), 25)
    ]
    return torch.cat(parts) * pipe.vae.config.scaling_factor


@torch.no_grad()
def estimates(
    pipe: StableDiffusionPipeline,
    x0: torch.Tensor,
    captions: list[str],
    t: torch.Tensor,
    guidance: torch.Tensor,
) -> torch.Tensor:
    """What the U-Net thinks the pictures are, having seen them under noise.

    Args:
        pipe: the pipeline.
        x0: (n, 4, 16, 16), latents of drawings.
        captions: n of them.
        t: (n,) timesteps.
        guidance: (n,) scales (arXiv 2207.12598).

    Returns:
        (n, 4, 16, 16): alpha x − sigma v, guided (arXiv 2202.00512, appendix D).
    """
    alphas = pipe.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    x = pipe.scheduler.add_noise(x0, torch.randn_like(x0), t)
    words, none = pipe.encode_prompt(captions, "cpu", 1, True)
    v, v0 = (pipe.unet(x, t, states).sample for states in (words, none))
    return alphas.sqrt() * x - (1 - alphas).sqrt() * (v0 + guidance.view(-1, 1, 1, 1) * (v - v0))


def lessons(
    pipe: StableDiffusionPipeline, pictures: NDArray[np.uint8], first: int, seed: int
) -> tuple[torch.Tensor, NDArray[np.uint8]]:
    """What is decoded and what the autoencoder makes of it.

    Args:
        pipe: the pipeline.
        pictures: (n, 64, 64, 3) uint8 drawings.
        first: index of the first one's scene.
        seed: of the noise.

    Returns:
        Latents (n, 4, 16, 16) at the network's scale and pictures (n, 64, 64, 3) uint8.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, len(pictures), 50):
        x0 = latents_of(pipe, pictures[start : start + 50])
        clean = int(CLEAN * len(x0))
        led = np.arange(first + start + clean, first + start + len(x0))
        t = torch.from_numpy(rng.integers(0, len(pipe.scheduler.alphas_cumprod), len(led)))
        scales = torch.from_numpy(rng.choice(GUIDANCE, len(led))).float()
        guessed = estimates(pipe, x0[clean:], captions_of(led, seed), t, scales)
        parts += [x0[:clean], guessed]
    latents = torch.cat(parts)
    return latents, decode(pipe.vae, latents.numpy())


def cached_lessons(
    pipe: StableDiffusionPipeline, options: argparse.Namespace
) -> tuple[torch.Tensor, NDArray[np.uint8]]:
    """The lessons of the training drawings, made once per run's folder."""
    folder = options.runs / (options.name or "preview")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}-{options.lessons}-{options.seed}.npy" for name in ("in", "out")]
    if not all(path.exists() for path in paths):
        pictures = drawings(options.drawings, 0, options.runs / "cache")[: options.lessons]
        latents, targets = lessons(pipe, np.array(pictures), 0, options.seed)
        for path, array in zip(paths, (latents.numpy(), targets), strict=True):
            np.save(path, array)
    return torch.from_numpy(np.load(paths[0])), np.load(paths[1])


@torch.no_grad()
def difference(
    small: SmallDecoder, latents: torch.Tensor, targets: NDArray[np.uint8]
) -> dict[str, float]:
    """Small decoder and autoencoder on the same latents, both rounded to 8 bits.

    Returns:
        ``db``, mean PSNR; ``mean_255``, mean absolute difference; ``worst_255``, the largest mean
        absolute difference of one picture.
    """
    device = device_of(small)
    parts = [small(latents[i : i + 16].to(device)).cpu() for i in range(0, len(latents), 16)]
    painted = ((torch.cat(parts).clamp(-1, 1) + 1) * 127.5).round()
    error = painted - torch.from_numpy(targets.astype(np.float32)).permute(0, 3, 1, 2)
    each = error.abs().mean(dim=(1, 2, 3))
    return {
        "db": float(decibels(error).mean()),
        "mean_255": float(each.mean()),
        "worst_255": float(each.max()),
    }


def measure(
    small: SmallDecoder, pipe: StableDiffusionPipeline, pictures: NDArray[np.uint8]
) -> dict[str, dict[str, float]]:
    """The difference on evaluation drawings: their own latents, and estimates at noise levels.

    Args:
        small: the small decoder.
        pipe: the pipeline of its autoencoder.
        pictures: (n, 64, 64, 3) uint8, the first drawings from `EVALUATION_SEED` on.

    Returns:
        ``difference`` by what was decoded: ``"drawings"`` and, for each of `LEVELS`,
        ``"estimates at timestep …"`` with the model's own guidance scale.
    """
    return {
        name: difference(small, latents, decode(pipe.vae, latents.numpy()))
        for name, latents in _shown(pipe, pictures)
    }


def _shown(
    pipe: StableDiffusionPipeline, pictures: NDArray[np.uint8]
) -> Iterator[tuple[str, torch.Tensor]]:
    torch.manual_seed(0)
    x0 = latents_of(pipe, pictures)
    captions = captions_of(np.arange(EVALUATION_SEED, EVALUATION_SEED + len(pictures)), 0)
    yield "drawings", x0
    for level in LEVELS:
        t = round(level * len(pipe.scheduler.alphas_cumprod))
        yield (
            f"estimates at timestep {t}",
            estimates(
                pipe, x0, captions, torch.full((len(x0),), t), torch.full((len(x0),), GUIDANCE[1])
            ),
        )


def train(pipe: StableDiffusionPipeline, options: argparse.Namespace) -> SmallDecoder:
    """Run the recipe; returns the small decoder with its averaged weights."""
    latents, targets = cached_lessons(pipe, options)
    torch.manual_seed(options.seed)
    new = unseen(options.runs / "cache")[:100]
    held = lessons(pipe, new, EVALUATION_SEED, options.seed)
    small = SmallDecoder() if options.start is None else SmallDecoder.open(Path(options.start))

    def loss(run: Run, rng: np.random.Generator) -> torch.Tensor:
        picked = rng.integers(0, len(latents), options.batch)
        x, y = latents[torch.from_numpy(picked)], to_tensor(targets[picked])
        error = small(x.to(options.device)) - y.to(options.device)
        return error.abs().mean() + 2 * error.square().mean()

    optimizer = Muon(small.named_parameters())
    train_model(small, "preview", options, loss, lambda: difference(small, *held), optimizer)
    return small.cpu()


def main() -> None:
    """Command line."""
    shipped = WEIGHTS / "critters" / "preview"
    parser = arguments(__doc__, minutes=15, batch=BATCH, shipped=shipped)
    parser.add_argument(
        "--pipeline", type=Path, default=WEIGHTS / "critters", help="the teacher's folder"
    )
    parser.add_argument("--lessons", type=int, default=6000, help="pictures to learn from")
    options = parser.parse_args()
    target = target_of(options, "preview")
    pipe = StableDiffusionPipeline.from_pretrained(options.pipeline, dtype=torch.float32)
    small = train(pipe, options)
    with exported(target) as folder:
        small.save(folder, pipe.vae)
    new = unseen(options.runs / "cache")[:200]
    for name, values in measure(small, pipe, new).items():
        print(name, {k: round(v, 2) for k, v in values.items()})


if __name__ == "__main__":
    main()
