"""How much a model varies what was not said, and how near its pictures come to training drawings.

Both are ratios to drawings of evaluation scenes, so that 1 means "like the world itself".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image

from ldmkit.critters.judging import look
from ldmkit.critters.scene import Scene, parse
from ldmkit.critters.world import ANIMALS, EVALUATION_SEED
from ldmkit.recipes.common import drawings, scene, to_tensor

SEEDS = 64  # pictures per caption
_POOL = 4000  # evaluation drawings, the ones that the judge is measured on
_DETAILS = ("colour", "wears", "mood", "place", "background", "style", "size", "side")
_SAID = ("", "red ", "blue ", "happy ", "small ", "", "", "")
_AFTER = ("", "", " in the snow", "", "", " wearing a scarf", " on the left", ", watercolor")
CAPTIONS = tuple(
    f"{'an' if not before and animal == 'owl' else 'a'} {before}{animal}{after}"
    for animal, before, after in zip(ANIMALS, _SAID, _AFTER, strict=True)
)
"""One for each animal; together they leave each detail unsaid in most."""

Looked = Sequence[dict[str, tuple[str, float]]]


def said(caption: str) -> set[str]:
    """Which of the details a caption of one critter says."""
    asked: Scene = parse(caption)
    both = {**vars(asked), **vars(asked.critters[0])}
    # A caption without a background speaks of the place all the same: both are one choice.
    names = {name for name in _DETAILS if both[name] is not None}
    return names | ({"background"} if "place" in names else set())


def entropy(values: Sequence[str]) -> float:
    """Shannon's entropy of the values' shares, in nats."""
    shares = np.unique(np.array(values), return_counts=True)[1] / max(1, len(values))
    return float(-(shares * np.log(shares)).sum())


def variety(
    paint: Callable[[str], list[Image.Image]], cache: Path, captions: Sequence[str] = CAPTIONS
) -> dict[str, object]:
    """The entropy of what captions leave open, over that of as many drawings.

    Both sides are seen by the judge. The drawings are evaluation scenes whose own caption left
    the same detail unsaid: an unsaid hat is more often no hat.

    Args:
        paint: a caption to `SEEDS` pictures, one per seed.
        cache: where drawings are kept.
        captions: of one critter each.

    Returns:
        ``ratio`` (summed entropies over summed entropies), its 95 % ``interval`` over captions
        (bootstrap) and the ratio of each detail.
    """
    reference = _reference(cache)
    ours: list[dict[str, float]] = []
    for caption in captions:
        seen = look(paint(caption))
        open_details = [name for name in _DETAILS if name not in said(caption)]
        ours.append({name: entropy(_answers(seen, name)) for name in open_details})
    rows = np.array([(sum(row.values()), sum(reference[n] for n in row)) for row in ours])
    rng = np.random.default_rng(0)
    again = rows[rng.integers(0, len(rows), (2000, len(rows)))].sum(axis=1)
    low, high = np.quantile(again[:, 0] / again[:, 1], (0.025, 0.975))
    details = {
        name: round(float(np.mean([row[name] for row in ours if name in row]) / reference[name]), 3)
        for name in _DETAILS
        if any(name in row for row in ours)
    }
    total = rows.sum(axis=0)
    return {
        "ratio": float(total[0] / total[1]),
        "interval": [round(float(low), 3), round(float(high), 3)],
        "captions": len(captions),
        "seeds": SEEDS,
        "details": details,
    }


def _answers(seen: Looked, name: str) -> list[str]:
    """What the judge saw, where it can be seen: colours of plain places, moods of large faces."""
    rows = [row for row in seen if row["number"][0] == "one"]
    if name == "background":
        rows = [row for row in rows if row["place"][0] == "plain"]
    if name == "mood":
        rows = [row for row in rows if row["size"][0] != "small"]
    return [row[name][0] for row in rows] or ["none"]


def _reference(cache: Path) -> dict[str, float]:
    """Mean entropy of `SEEDS` drawings whose captions left a detail unsaid."""
    start = EVALUATION_SEED + 1000
    scenes = [scene(start + i) for i in range(_POOL)]
    pictures = drawings(_POOL, start, cache)
    rng = np.random.default_rng(0)
    found = {}
    silent = [(i, said(s.caption(start + i))) for i, s in enumerate(scenes) if len(s.critters) == 1]
    for name in _DETAILS:
        pool = [i for i, names in silent if name not in names]
        shown = look([Image.fromarray(np.array(pictures[i])) for i in pool])
        groups = [rng.choice(len(pool), min(SEEDS, len(pool)), replace=False) for _ in range(20)]
        found[name] = float(
            np.mean([entropy(_answers([shown[k] for k in group], name)) for group in groups])
        )
    return found


# --- copies? -----------------------------------------------------------------------------------


@torch.no_grad()
def encoded(pictures: NDArray[np.uint8], vae: AutoencoderKL) -> NDArray[np.float32]:
    """(n, 64, 64, 3) pictures to (n, 1024) latents: means at a standard deviation of one."""
    scale = float(vae.config.scaling_factor)
    rows = [
        vae.encode(to_tensor(pictures[i : i + 25])).latent_dist.mean.flatten(1) * scale
        for i in range(0, len(pictures), 25)
    ]
    return torch.cat(rows).numpy()


def nearest(queries: NDArray[np.float32], training: NDArray[np.float16]) -> NDArray[np.float64]:
    """Root mean square distance of each query's latents to the nearest of the training set's.

    Args:
        queries: (n, d).
        training: (m, ...) with d numbers each.

    Returns:
        (n,) distances; two unrelated latents are about 1.4 apart.
    """
    x = torch.from_numpy(queries)
    best = torch.full((len(x),), torch.inf)
    for start in range(0, len(training), 4000):
        y = torch.from_numpy(np.array(training[start : start + 4000])).float().flatten(1)
        best = torch.minimum(best, torch.cdist(x, y).amin(dim=1))
    return (best / queries.shape[1] ** 0.5).double().numpy()


def novelty(
    pictures: Sequence[Image.Image], training: NDArray[np.float16], vae: AutoencoderKL, cache: Path
) -> dict[str, object]:
    """Median distance of pictures to their nearest training drawing, over that of new drawings.

    New drawings are evaluation scenes, through the autoencoder once as the pictures were: its
    softness alone brings a picture nearer to everything.
    """
    one = [i for i in range(1000) if len(scene(EVALUATION_SEED + i).critters) == 1]
    fresh = np.array(drawings(1000, EVALUATION_SEED, cache)[one[: len(pictures)]])
    again = []
    with torch.no_grad():
        for i in range(0, len(fresh), 25):
            mean = vae.encode(to_tensor(fresh[i : i + 25])).latent_dist.mean
            y = ((vae.decode(mean).sample.clamp(-1, 1) + 1) * 127.5).round().byte()
            again.append(y.permute(0, 2, 3, 1).numpy())
    painted = np.stack([np.asarray(p.convert("RGB")) for p in pictures])
    ours = nearest(encoded(painted, vae), training)
    theirs = nearest(encoded(np.concatenate(again), vae), training)
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(ours), (2000, len(ours)))
    ratios = np.median(ours[picks], axis=1) / np.median(theirs[picks], axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return {
        "ratio": float(np.median(ours) / np.median(theirs)),
        "interval": [round(float(low), 3), round(float(high), 3)],
        "pictures": len(ours),
        "training_drawings": len(training),
        "closest": round(float(ours.min()), 3),
    }
