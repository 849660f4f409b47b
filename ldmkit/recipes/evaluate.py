"""Measure an embedded pipeline: how often a picture obeys everything its caption asked.

    python -m ldmkit.recipes.evaluate DIR --count 500 [--held-out]

Evaluation seeds only. One critter per scene unless ``--critters 2``; intervals are Wilson's, 95 %.

The other instruments of the model card stand here, too: how much a model varies what was not said,
how near its pictures come to training drawings (both as ratios to drawings of evaluation scenes, so
that 1 means "like the world itself"), and how far the judge's word on animals can be trusted.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional
from tqdm import tqdm

from ldmkit.critters.judging import HEADS, Verdict, judge_many, look, recogniser
from ldmkit.critters.scene import Scene, parse
from ldmkit.critters.world import ANIMALS, EVALUATION_SEED
from ldmkit.figures.sheet import SheetRow, Tile, contact_sheet
from ldmkit.recipes.data import TUNING_SEED, drawings, scene, to_tensor, unseen
from ldmkit.recipes.train import write_picture
from ldmkit.records.stats import wilson

_BATCH = 25
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
_MIXED = 600  # pictures that the judge's confidence is fitted and measured on
_SURE = 0.8  # a middle is an animal when the judge would be right four times in five


# --- obedience -----------------------------------------------------------------------------------


def scenes(
    count: int, start: int, held_out: bool = False, critters: int = 1
) -> list[tuple[Scene, int]]:
    """Complete scenes with so many critters and their seeds, in the order of the seeds."""
    found: list[tuple[Scene, int]] = []
    seed = start
    while len(found) < count:
        scene = Scene.sample(seed, held_out=held_out)
        if len(scene.critters) == critters:
            found.append((scene, seed))
        seed += 1
    return found


def captions(
    count: int, held_out: bool, critters: int, start: int = EVALUATION_SEED + 10_000
) -> list[str]:
    """Captions of evaluation scenes with so many critters, in the order of their seeds."""
    return [s.caption(seed) for s, seed in scenes(count, start, held_out, critters)]


def paint(
    pipe: StableDiffusionPipeline, texts: list[str], steps: int, guidance: float, first: int = 0
) -> list[Image.Image]:
    """One picture per caption; picture i has seed `EVALUATION_SEED` + `first` + i."""
    pictures: list[Image.Image] = []
    pipe.set_progress_bar_config(disable=True)
    for i in tqdm(range(0, len(texts), _BATCH), desc="painting"):
        chunk = texts[i : i + _BATCH]
        generators = [
            torch.Generator().manual_seed(EVALUATION_SEED + first + i + k)
            for k in range(len(chunk))
        ]
        pictures += pipe(
            chunk, num_inference_steps=steps, guidance_scale=guidance, generator=generators
        ).images
    return pictures


def report(verdicts: list[Verdict]) -> dict[str, object]:
    """Shares with intervals: everything at once, and each attribute."""
    hits: dict[str, int] = defaultdict(int)
    asked: dict[str, int] = defaultdict(int)
    for verdict in verdicts:
        for name, seen in verdict.attributes.items():
            if seen.obeyed is not None:
                asked[name] += 1
                hits[name] += seen.obeyed
    obeyed = sum(v.obeyed for v in verdicts)
    low, high = wilson(obeyed, len(verdicts))
    return {
        "count": len(verdicts),
        "everything": obeyed / len(verdicts),
        "interval": [round(low, 3), round(high, 3)],
        "attributes": {n: round(hits[n] / asked[n], 3) for n in asked},
    }


def sheet(pictures: list[Image.Image], columns: int = 10) -> Image.Image:
    """A contact sheet in the order given: nothing picked."""
    tiles = [*map(Tile, pictures), *[Tile(None)] * (-len(pictures) % columns)]
    rows = [SheetRow(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return contact_sheet("", "", rows, side=64, margin=1, gap=2)


# --- variety -------------------------------------------------------------------------------------


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
    single = [i for i, s in enumerate(scenes) if len(s.critters) == 1]
    told = [said(scenes[i].caption(start + i)) for i in single]
    seen = look([Image.fromarray(np.array(pictures[i])) for i in single])
    for name in _DETAILS:
        shown = [row for row, names in zip(seen, told, strict=True) if name not in names]
        groups = [rng.choice(len(shown), min(SEEDS, len(shown)), replace=False) for _ in range(20)]
        found[name] = float(
            np.mean([entropy(_answers([shown[k] for k in group], name)) for group in groups])
        )
    return found


# --- copies? -------------------------------------------------------------------------------------


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
    fresh = unseen(cache)[one[: len(pictures)]]
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


# --- the judge's confidence ----------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """A fitted temperature: the judge's confidence, made to match its hits.

    A recogniser that has only seen clean drawings is too sure of unclear ones. One temperature is
    fitted on pictures that get worse and worse (Guo et al. 2017, arXiv 1706.04599), and the
    expected calibration error (ECE) is measured on others.

    Attributes:
        temperature: what logits of the animal are divided by.
        ece: the expected calibration error on evaluation pictures, ten bins.
        threshold: the confidence from which on a picture counts as one animal.
    """

    temperature: float
    ece: float
    threshold: float = _SURE

    def one_animal(self, pictures: Sequence[Image.Image]) -> list[bool]:
        """Whether each picture shows one critter, and an animal that the judge is sure of."""
        x = to_tensor(np.stack([np.asarray(p.convert("RGB").resize((64, 64))) for p in pictures]))
        with torch.no_grad():
            logits = recogniser()(x)
        number = logits["number"].argmax(-1) == HEADS["number"].index("one")
        confidence = (logits["animal"] / self.temperature).softmax(-1).amax(-1)
        return [bool(v) for v in number & (confidence >= self.threshold)]


def calibration() -> Calibration:
    """Fit on tuning seeds, measure on evaluation seeds."""
    logits, right = answers(TUNING_SEED)
    temperatures = np.exp(np.linspace(np.log(0.5), np.log(8), 200))
    losses = [float(functional.cross_entropy(logits / t, right)) for t in temperatures]
    best = float(temperatures[int(np.argmin(losses))])
    logits, right = answers(EVALUATION_SEED + 80_000)
    confidence, found = (logits / best).softmax(-1).max(-1)
    return Calibration(best, ece(confidence.numpy(), (found == right).numpy()))


@torch.no_grad()
def answers(start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The judge's animal logits on drawings that get less and less clear, and the truth.

    Each drawing is mixed with the drawing of another animal (its share 0…1/2: the first one
    stays the larger part) and blurred a little: what a bad walk looks like.
    """
    rng = np.random.default_rng(start)
    first, second = (scenes(_MIXED, start + k * 20_000) for k in (0, 1))
    share = torch.from_numpy(rng.uniform(0, 0.5, (_MIXED, 1, 1, 1)).astype(np.float32))
    drawn = [np.stack([np.asarray(s.draw(64, i)) for s, i in chosen]) for chosen in (first, second)]
    x = torch.lerp(to_tensor(drawn[0]), to_tensor(drawn[1]), share)
    soft = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = torch.lerp(x, soft, torch.from_numpy(rng.random((_MIXED, 1, 1, 1)).astype(np.float32)))
    logits = torch.cat([recogniser()(part)["animal"] for part in torch.split(x, 100)])
    animals = [HEADS["animal"].index(str(s.critters[0].animal)) for s, _ in first]
    return logits, torch.tensor(animals)


def ece(confidence: NDArray[np.float32], right: NDArray[np.bool_], bins: int = 10) -> float:
    """Mean gap between confidence and share of hits, over equal bins of confidence."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        np.abs(confidence[which == i].mean() - right[which == i].mean()) * (which == i).mean()
        for i in range(bins)
        if (which == i).any()
    ]
    return float(sum(gaps))


# --- the command line ----------------------------------------------------------------------------


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--critters", type=int, default=1, choices=(1, 2))
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument(
        "--sheet", type=Path, default=None, help="write a sheet of the first 60 here"
    )
    options = parser.parse_args()
    pipe = StableDiffusionPipeline.from_pretrained(options.folder, dtype=torch.float32)
    texts = captions(options.count, options.held_out, options.critters)
    pictures = paint(pipe, texts, options.steps, options.guidance)
    print(json.dumps(report(judge_many(pictures, texts)), indent=1))
    if options.sheet:
        write_picture(options.sheet, sheet(pictures[:60]))


if __name__ == "__main__":
    main()
