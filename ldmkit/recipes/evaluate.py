"""Measure an embedded pipeline: how often a picture obeys everything its caption asked.

    python -m ldmkit.recipes.evaluate DIR --count 500 [--held-out]

Evaluation seeds only. One critter per scene unless ``--critters 2``; intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from tqdm import tqdm

from ldmkit.critters.judging import Verdict, judge_many
from ldmkit.critters.scene import Scene
from ldmkit.critters.world import EVALUATION_SEED
from ldmkit.records.intervals import wilson

_BATCH = 25


def captions(
    count: int, held_out: bool, critters: int, start: int = EVALUATION_SEED + 10_000
) -> list[str]:
    """Captions of evaluation scenes with so many critters, in the order of their seeds."""
    found: list[str] = []
    seed = start
    while len(found) < count:
        scene = Scene.sample(seed, held_out=held_out)
        if len(scene.critters) == critters:
            found.append(scene.caption(seed))
        seed += 1
    return found


def paint(
    pipe: StableDiffusionPipeline, texts: list[str], steps: int, guidance: float
) -> list[Image.Image]:
    """One picture per caption; picture i has seed `EVALUATION_SEED` + i."""
    pictures: list[Image.Image] = []
    pipe.set_progress_bar_config(disable=True)
    for i in tqdm(range(0, len(texts), _BATCH), desc="painting"):
        chunk = texts[i : i + _BATCH]
        generators = [
            torch.Generator().manual_seed(EVALUATION_SEED + i + k) for k in range(len(chunk))
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
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * 66, rows * 66), "white")
    for i, picture in enumerate(pictures):
        page.paste(picture, (i % columns * 66 + 1, i // columns * 66 + 1))
    return page


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
        sheet(pictures[:60]).save(options.sheet)


if __name__ == "__main__":
    main()
