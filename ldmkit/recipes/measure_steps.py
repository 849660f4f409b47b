"""Quality against steps: the teacher with two samplers and each student, from the same noise.

    python -m ldmkit.recipes.measure_steps --pictures 2000

Evaluation seeds only. For each number of steps: obedience by the judge, the Fréchet distance to
drawings in the judge's features (Heusel et al. 2017, arXiv 1706.08500, with our recogniser in
place of Inception), the variety of what was not said, and CPU seconds per picture. Writes
``steps.json``, a sheet of the same noise through all of them and the model card's table.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import ldmkit
from ldmkit.critters.judging import judge_many, recogniser
from ldmkit.critters.world import EVALUATION_SEED
from ldmkit.loading import students
from ldmkit.loading.folder import variants_of
from ldmkit.loading.samplers import with_sampler
from ldmkit.recipes import evaluate, variety
from ldmkit.recipes.common import drawings, scene, to_tensor
from ldmkit.recipes.measure import WEIGHTS, fill_card, write_hashes
from ldmkit.records.intervals import paired_difference, wilson

STEPS = (1, 2, 4, 8, 16, 32, 64)
TEACHERS = {"teacher, DDIM": "ddim", "teacher, DPM++": "dpm++"}
REFERENCE = ("teacher, DDIM", 64)
_DRAWN = 4000  # drawings to measure the distance to
_SHOWN = 10  # captions of the sheet
_AGAIN = 200  # resamplings of an interval

Features = NDArray[np.float64]
Made = dict[tuple[str, int], list[Image.Image]]


@torch.no_grad()
def features(pictures: NDArray[np.uint8]) -> Features:
    """(n, 64, 64, 3) pictures to what the judge's heads read, (n, 192)."""
    rows = [
        recogniser().body(to_tensor(pictures[i : i + 100])) for i in range(0, len(pictures), 100)
    ]
    return torch.cat(rows).double().numpy()


def frechet(first: Features, second: Features) -> float:
    """The Fréchet distance of two normal distributions with the means and covariances of samples.

    |μ₁ − μ₂|² + tr(C₁ + C₂ − 2 (C₁ C₂)^½), arXiv 1706.08500, section 3. The trace of the root
    is that of the symmetric (C₁^½ C₂ C₁^½)^½, whose eigenvalues are real.

    Args:
        first: (n, d).
        second: (m, d).
    """
    (mean_1, cov_1), (mean_2, cov_2) = ((x.mean(0), np.cov(x.T)) for x in (first, second))
    values, vectors = np.linalg.eigh(np.atleast_2d(cov_1))
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    both = np.linalg.eigvalsh(root @ np.atleast_2d(cov_2) @ root)
    traces = np.trace(np.atleast_2d(cov_1)) + np.trace(np.atleast_2d(cov_2))
    gap = float(((mean_1 - mean_2) ** 2).sum())
    return gap + float(traces - 2 * np.sqrt(both.clip(0)).sum())


def frechet_interval(ours: Features, drawn: Features, again: int = _AGAIN) -> list[float]:
    """95 % of the distances of resampled pictures (bootstrap), the drawings left as they are.

    A resampled set repeats pictures, which alone makes its distance larger: the interval is shifted
    by that much, so that its middle is the distance itself.
    """
    rng = np.random.default_rng(0)
    found = [frechet(ours[rng.integers(0, len(ours), len(ours))], drawn) for _ in range(again)]
    shift = frechet(ours, drawn) - float(np.mean(found))
    return [round(float(q) + shift, 3) for q in np.quantile(found, (0.025, 0.975))]


def runs(folder: Path, steps: tuple[int, ...]) -> list[tuple[str, int, Any, float]]:
    """Name, steps, pipeline and guidance of each run: teachers at all steps, students at theirs."""
    teacher = ldmkit.load(folder, device="cpu")
    guidance = json.loads((folder / "ldmkit.json").read_text())["variants"][""]["guidance_scale"]
    found: list[tuple[str, int, Any, float]] = [
        (name, n, with_sampler(teacher, sampler), guidance)
        for name, sampler in TEACHERS.items()
        for n in steps
    ]
    for n in steps:
        if students.variant_of(n) in variants_of(folder):
            pipe = ldmkit.load(folder, variant=students.variant_of(n), device="cpu")
            found.append(("student", n, pipe, 1.0))
    return found


def measure(folder: Path, count: int, steps: tuple[int, ...], cache: Path) -> dict[str, Any]:
    """Everything but the sheet and the table.

    Args:
        folder: the pipeline's, with its students.
        count: pictures of each run.
        steps: numbers of steps to compare.
        cache: where drawings are kept.

    Returns:
        ``rows`` and the ``sheet`` (a picture).
    """
    start = EVALUATION_SEED + 10_000
    texts = [scene(start + i).caption(start + i) for i in range(count)]
    drawn = features(np.array(drawings(_DRAWN, EVALUATION_SEED + 1000, cache)))
    rows, shown, obeyed = [], list[Image.Image](), {}
    for name, n, pipe, guidance in runs(folder, steps):
        evaluate.paint(pipe, texts[:1], n, guidance)  # nobody pays for the first run
        begin = time.process_time()
        pictures = evaluate.paint(pipe, texts, n, guidance)
        seconds = (time.process_time() - begin) / count
        looked = features(np.stack([np.asarray(p) for p in pictures]))
        right = [verdict.obeyed for verdict in judge_many(pictures, texts)]
        obeyed[name, n] = right
        row: dict[str, Any] = {
            "run": name,
            "steps": n,
            "pictures": count,
            "obedience": sum(right) / count,
            "obedience_interval": [round(end, 3) for end in wilson(sum(right), count)],
            "frechet": round(frechet(looked, drawn), 3),
            "frechet_interval": frechet_interval(looked, drawn),
            "cpu_seconds": round(seconds, 4),
        }
        if name == "student" or (name, n) == REFERENCE:
            many = [variety.SEEDS * [caption] for caption in variety.CAPTIONS]
            again = {words[0]: evaluate.paint(pipe, words, n, guidance) for words in many}
            row["variety"] = variety.variety(again.__getitem__, cache)
        rows.append(row)
        shown += pictures[:_SHOWN]
        print(json.dumps({k: v for k, v in row.items() if k != "variety"}), flush=True)
    for row in rows:
        plain = obeyed.get((REFERENCE[0], row["steps"]))
        if row["run"] == "student" and plain is not None:
            gain = paired_difference(obeyed["student", row["steps"]], plain)
            row["over_plain_ddim"] = [round(value, 3) for value in gain]
    return {"rows": rows, "sheet": evaluate.sheet(shown, _SHOWN)}


def card_rows(rows: list[dict[str, Any]]) -> str:
    """The model card's table."""
    lines = [
        "| run | steps | obedience | over plain DDIM | Fréchet distance | variety | CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        gain, varied = row.get("over_plain_ddim"), row.get("variety")
        cells = [
            row["run"],
            str(row["steps"]),
            f"{row['obedience']:.3f} ({_ends(row['obedience_interval'], 3)})",
            "" if gain is None else f"{gain[0]:+.2f} ({gain[1]:+.2f}…{gain[2]:+.2f})",
            f"{row['frechet']:.2f} ({_ends(row['frechet_interval'], 2)})",
            "" if varied is None else f"{varied['ratio']:.2f} ({_ends(varied['interval'], 2)})",
            f"{row['cpu_seconds']:.3f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ends(interval: list[float], digits: int) -> str:
    return f"{interval[0]:.{digits}f}…{interval[1]:.{digits}f}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=2000, help="of each run")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--folder", type=Path, default=WEIGHTS / "critters")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="of steps.json, sheet and card")
    options = parser.parse_args()
    found = measure(options.folder, options.pictures, tuple(options.steps), options.runs / "cache")
    found.pop("sheet").save(options.out / "sheet-steps.png")
    (options.out / "steps.json").write_text(json.dumps(found["rows"], indent=1) + "\n")
    card = options.out / "MODEL_CARD.md"
    if card.is_file():
        fill_card(card, "steps", card_rows(found["rows"]))
        write_hashes(options.out)
    else:
        print(card_rows(found["rows"]))


if __name__ == "__main__":
    main()
