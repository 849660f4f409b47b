"""Train the judge: a recogniser of every attribute, on drawings that are blurred, noisy, re-coded.

    python -m ldmkit.recipes.judge --minutes 12 --autoencoder runs/autoencoder/model

It must read what models paint, so a share of its pictures went through the autoencoder; it must
refuse what is no critter, so a share is blank, noise or an empty place.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch.nn import functional

from ldmkit.critters.judging import HEADS, Recogniser, truth
from ldmkit.critters.scene import Scene
from ldmkit.critters.world import EVALUATION_SEED, VERSION
from ldmkit.distilling.muon import Muon
from ldmkit.recipes.data import drawings, scene, to_tensor, unseen
from ldmkit.recipes.train import (
    WEIGHTS,
    Run,
    arguments,
    device_of,
    exported,
    half,
    target_of,
    train_model,
)

BATCH = 128
RECODED = 4000  # drawings that go through the autoencoder
_JUNK = 12  # of a batch show no critter
_WIDTHS, _HIDDEN = (32, 64, 128, 160), 192
_UNSEEN = -1  # a head without an answer in this picture


def labels(scenes: list[Scene]) -> NDArray[np.int64]:
    """(n, heads) indices of the right answers; -1 where a scene hides or lacks one."""
    table = np.full((len(scenes), len(HEADS)), _UNSEEN, np.int64)
    for row, s in zip(table, scenes, strict=True):
        answers = truth(s)
        for column, (name, values) in enumerate(HEADS.items()):
            if name in answers:
                row[column] = values.index(answers[name])
    return table


def junk(count: int, rng: np.random.Generator, pictures: torch.Tensor) -> torch.Tensor:
    """Pictures without a critter: flat, noise of several sizes, ramps, drawings in pieces."""
    out = []
    for i in range(count):
        kind = int(rng.integers(0, 5))
        cells = 2 ** int(rng.integers(1, 7))
        noise = torch.from_numpy(rng.normal(0, 0.6, (1, 3, cells, cells)).astype(np.float32))
        if kind == 0:
            x = torch.from_numpy(rng.uniform(-1, 1, (1, 3, 1, 1)).astype(np.float32)).expand(
                1, 3, 64, 64
            )
        elif kind in (1, 2):
            x = functional.interpolate(noise, (64, 64), mode="nearest" if kind == 1 else "bilinear")
        elif kind == 3:
            x = functional.interpolate(
                noise[..., :2, :2], (64, 64), mode="bilinear", align_corners=True
            )
        else:  # 8-pixel pieces in disorder
            pieces = functional.unfold(pictures[i : i + 1], 8, stride=8)
            order = torch.from_numpy(rng.permutation(pieces.shape[-1]))
            x = functional.fold(pieces[..., order], (64, 64), 8, stride=8)
        out.append(x)
    return torch.cat(out).clamp(-1, 1)


def augment(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Small shifts, blur, contrast, brightness and noise; each picture its own."""
    b = len(x)
    dy, dx = rng.integers(-2, 3, 2)
    x = functional.pad(x, (2, 2, 2, 2), mode="replicate")[..., 2 + dy : 66 + dy, 2 + dx : 66 + dx]

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(low, high, (b, 1, 1, 1)).astype(np.float32))

    soft = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = torch.lerp(x, soft, uniform(-0.5, 0.5).clamp_min(0))
    x = x * uniform(0.9, 1.1) + uniform(-0.08, 0.08)
    return x + torch.randn_like(x) * uniform(-0.06, 0.12).clamp_min(0)


@torch.no_grad()
def recoded(pictures: NDArray[np.uint8], folder: str | None) -> NDArray[np.uint8]:
    """Pictures through the autoencoder with noisy latents, as a model's would be."""
    if folder is None:
        return pictures
    model = AutoencoderKL.from_pretrained(folder, dtype=torch.float32).eval()
    out = []
    for i in range(0, len(pictures), 20):  # few at a time: the decoder's maps stay in the cache
        with half("cpu"):
            z = model.encode(to_tensor(pictures[i : i + 20])).latent_dist.mean
            z = z + torch.randn_like(z) * z.std() * 0.25 * torch.rand(len(z), 1, 1, 1)
            y = ((model.decode(z).sample.float().clamp(-1, 1) + 1) * 127.5).round().byte()
        out.append(y.permute(0, 2, 3, 1).numpy())
    return np.concatenate(out)


@torch.no_grad()
def accuracy(
    model: Recogniser, pictures: NDArray[np.uint8], scenes: list[Scene]
) -> dict[str, dict[str, float]]:
    """Share of right answers per head, over all pictures and per style: {head: {style: share}}."""
    right = []
    table = labels(scenes)
    for i in range(0, len(pictures), 100):
        logits = model(to_tensor(pictures[i : i + 100]).to(device_of(model)))
        right.append(np.stack([v.argmax(-1).cpu().numpy() for v in logits.values()], 1))
    hit = np.concatenate(right) == table
    styles = np.array([s.style for s in scenes])
    report: dict[str, dict[str, float]] = {}
    for column, name in enumerate(HEADS):
        known = table[:, column] != _UNSEEN
        report[name] = {"all": float(hit[known, column].mean())}
        for style in sorted(set(styles)):
            rows = known & (styles == style)
            if rows.any():
                report[name][style] = float(hit[rows, column].mean())
    return report


def train(options: argparse.Namespace) -> Recogniser:
    """Run the recipe; returns the recogniser with its averaged weights."""
    torch.manual_seed(options.seed)
    cache = options.runs / "cache"
    pictures = drawings(options.drawings, 0, cache)
    table = torch.from_numpy(labels([scene(i) for i in range(len(pictures))]))
    painted = recoded(np.array(pictures[:RECODED]), options.autoencoder)
    new = unseen(cache)
    new_scenes = [scene(EVALUATION_SEED + i) for i in range(len(new))]
    model = Recogniser(_WIDTHS, _HIDDEN)
    if options.start:
        model.load_state_dict(
            {k: v.float() for k, v in load_file(Path(options.start) / "model.safetensors").items()}
        )

    def evaluate() -> dict[str, float]:
        found = accuracy(model, new, new_scenes)
        return {name: shares["all"] for name, shares in found.items()}

    def loss(run: Run, rng: np.random.Generator) -> torch.Tensor:
        picked = np.sort(rng.integers(0, len(pictures), options.batch))
        again = rng.integers(0, len(painted), options.batch // 4)
        x = to_tensor(np.concatenate([pictures[picked], painted[again]]))
        target = torch.cat([table[picked], table[again]])
        x = augment(torch.cat([x, junk(_JUNK, rng, x)]), rng)
        nothing = torch.full((_JUNK, len(HEADS)), _UNSEEN)
        nothing[:, 0] = 0
        target = torch.cat([target, nothing]).to(options.device)
        with half(options.device):
            logits = model(x.to(options.device))
        errors = [
            functional.cross_entropy(v.float(), target[:, i], ignore_index=_UNSEEN)
            for i, v in enumerate(logits.values())
        ]
        return torch.stack(errors).sum()

    optimizer = Muon(model.named_parameters(), weight_decay=0.05)
    train_model(model, "judge", options, loss, evaluate, optimizer, decay=0.995, clip=5.0)
    return model.cpu()


def export(model: Recogniser, folder: Path) -> None:
    """Write weights (float16) and configuration."""
    weights = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    config = {"critters_version": VERSION, "widths": list(_WIDTHS), "hidden_size": _HIDDEN}
    with exported(folder) as partial:
        save_file(weights, partial / "model.safetensors")
        (partial / "model.safetensors").chmod(0o644)
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    """Command line."""
    parser = arguments(__doc__, minutes=12, batch=BATCH, shipped=WEIGHTS / "judge")
    parser.add_argument("--autoencoder", default=None, help="folder of the embedded autoencoder")
    options = parser.parse_args()
    target = target_of(options, "judge")
    export(train(options), target)


if __name__ == "__main__":
    main()
