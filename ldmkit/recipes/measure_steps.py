"""Quality against steps: the teacher with two samplers and each student, from the same noise.

    python -m ldmkit.recipes.measure_steps --pictures 2000

It may be stopped at any time: what was painted and measured is kept under ``--runs``, and the same
command goes on. Rows are measured apart, too (``--only "teacher, DDIM" --steps 16 32``): all that
are kept come into the table.

Evaluation seeds only. For each number of steps: obedience by the judge, the Fréchet distance to
drawings in the judge's features (Heusel et al. 2017, arXiv 1706.08500, with our recogniser in
place of Inception), the variety of what was not said, and CPU seconds per picture. Writes
``steps.json``, a sheet of the same noise through all of them, the model card's table, and with
``--figure`` a figure of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import ldmkit
from ldmkit.critters.judging import judge_many, recogniser
from ldmkit.critters.world import EVALUATION_SEED
from ldmkit.figures.canvas import shown_figure
from ldmkit.loading.folder import variant_of, variants_of
from ldmkit.loading.samplers import with_sampler
from ldmkit.recipes import evaluate
from ldmkit.recipes.data import drawings, scene, to_tensor
from ldmkit.recipes.measure import fill_card, with_interval, write_hashes
from ldmkit.recipes.train import WEIGHTS
from ldmkit.records.stats import paired_difference, wilson

STEPS = (1, 2, 4, 8, 16, 32, 64)
TEACHERS = {"teacher, DDIM": "ddim", "teacher, DPM++": "dpm++"}
PLAIN = "teacher, DDIM"
_DRAWN = 4000  # drawings to measure the distance to
_SHOWN = 10  # captions of the sheet
_AGAIN = 200  # resamplings of an interval
_PART = 100  # pictures that are kept together while a row is painted

Features = NDArray[np.float64]


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


class Ran(NamedTuple):
    """One line of the comparison."""

    name: str
    steps: int
    pipe: Any
    guidance: float
    weights: str  # the first digits of their hash


def runs(folder: Path, steps: Sequence[int]) -> Iterator[Ran]:
    """Teachers at all steps, students at theirs."""
    teacher = ldmkit.load(folder, device="cpu")
    guidance = json.loads((folder / "ldmkit.json").read_text())["variants"][""]["guidance_scale"]
    for name, sampler in TEACHERS.items():
        for n in steps:
            yield Ran(name, n, with_sampler(teacher, sampler), guidance, _hash(folder))
    for n in steps:
        variant = variant_of(n)
        if variant in variants_of(folder):
            pipe = ldmkit.load(folder, variant=variant, device="cpu")
            yield Ran("student", n, pipe, 1.0, _hash(folder, f".{variant}"))


def _hash(folder: Path, variant: str = "") -> str:
    path = folder / "unet" / f"diffusion_pytorch_model{variant}.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def painted(ran: Ran, texts: list[str], kept: Path) -> tuple[NDArray[np.uint8], float]:
    """(n, 64, 64, 3) pictures of a run and the CPU seconds they took, part by part.

    Args:
        ran: what paints.
        texts: n captions.
        kept: a folder of this run's own: parts that lie there aren't painted again.
    """
    kept.mkdir(parents=True, exist_ok=True)
    parts, seconds, warm = [], 0.0, False
    for i in range(0, len(texts), _PART):
        path = kept / f"{i}.npz"
        if not path.is_file():
            if not warm:  # nobody pays for the first run
                evaluate.paint(ran.pipe, texts[:1], ran.steps, ran.guidance)
                warm = True
            begin = time.process_time()
            few = evaluate.paint(ran.pipe, texts[i : i + _PART], ran.steps, ran.guidance, first=i)
            taken = time.process_time() - begin
            partial = path.with_suffix(".part.npz")
            np.savez_compressed(
                partial, pictures=np.stack([np.asarray(one) for one in few]), seconds=taken
            )
            partial.replace(path)
        with np.load(path) as part:
            parts.append(part["pictures"])
            seconds += float(part["seconds"])
    return np.concatenate(parts), seconds


def measured(
    ran: Ran, texts: list[str], drawn: Features, cache: Path, kept: Path
) -> dict[str, Any]:
    """One line: its figures, and the first pictures under ``shown``."""
    arrays, seconds = painted(ran, texts, kept)
    pictures = [Image.fromarray(array) for array in arrays]
    looked = features(arrays)
    right = [verdict.obeyed for verdict in judge_many(pictures, texts)]
    row: dict[str, Any] = {
        "run": ran.name,
        "steps": ran.steps,
        "weights": ran.weights,
        "pictures": len(texts),
        "obedience": sum(right) / len(texts),
        "obedience_interval": [round(end, 3) for end in wilson(sum(right), len(texts))],
        "obeyed": "".join("01"[one] for one in right),
        "frechet": round(frechet(looked, drawn), 3),
        "frechet_interval": frechet_interval(looked, drawn),
        "cpu_seconds": round(seconds / len(texts), 4),
        "shown": pictures[:_SHOWN],
    }
    if ran.name == "student":  # the teacher's stands in the card: `recipes.measure`
        many = [evaluate.SEEDS * [caption] for caption in evaluate.CAPTIONS]
        again = {
            words[0]: evaluate.paint(ran.pipe, words, ran.steps, ran.guidance) for words in many
        }
        row["variety"] = evaluate.variety(again.__getitem__, cache)
    return row


def measure(
    folder: Path,
    count: int,
    steps: Sequence[int],
    kept: Path,
    cache: Path,
    only: Sequence[str] = (),
) -> tuple[list[dict[str, Any]], Image.Image]:
    """All lines, and a sheet with a row of pictures for each.

    Args:
        folder: the pipeline's, with its students.
        count: pictures of each run.
        steps: numbers of steps that are measured now.
        kept: where lines are kept: what was measured once, with these weights, isn't again.
        cache: where drawings are kept.
        only: names of what is measured now, all by default; of what isn't, lines that are kept
            already are shown.
    """
    start = EVALUATION_SEED + 10_000
    texts = [scene(start + i).caption(start + i) for i in range(count)]
    drawn = features(np.array(drawings(_DRAWN, EVALUATION_SEED + 1000, cache)))
    kept.mkdir(parents=True, exist_ok=True)
    rows, shown = [], list[Image.Image]()
    for ran in runs(folder, sorted({*STEPS, *steps})):
        path = kept / f"{ran.name.replace(', ', '-')}-{ran.steps}-{ran.weights}-{count}.json"
        wanted = ran.steps in steps and (not only or ran.name in only)
        if not wanted and not path.is_file():
            continue
        if not path.is_file():
            row = measured(ran, texts, drawn, cache, path.with_suffix(""))
            strip = Image.new("RGB", (66 * _SHOWN, 66), "white")
            for i, picture in enumerate(row.pop("shown")):
                strip.paste(picture, (66 * i + 1, 1))
            strip.save(path.with_suffix(".png"))
            path.write_text(json.dumps(row))
            shutil.rmtree(path.with_suffix(""))  # its pictures
        rows.append(json.loads(path.read_text()))
        shown.append(Image.open(path.with_suffix(".png")).convert("RGB"))
        print(json.dumps({k: v for k, v in rows[-1].items() if k not in ("variety", "obeyed")}))
    plain = {row["steps"]: row["obeyed"] for row in rows if row["run"] == PLAIN}
    for row in rows:
        if row["run"] == "student" and row["steps"] in plain:
            pair = [[int(one) for one in x] for x in (row["obeyed"], plain[row["steps"]])]
            row["over_plain_ddim"] = [round(value, 3) for value in paired_difference(*pair)]
    sheet = Image.new("RGB", (shown[0].width, sum(strip.height for strip in shown)))
    for i, strip in enumerate(shown):
        sheet.paste(strip, (0, sum(above.height for above in shown[:i])))
    return rows, sheet


def figure(rows: list[dict[str, Any]]) -> Any:
    """Obedience, Fréchet distance and seconds against steps, as a matplotlib figure."""
    fig = shown_figure((9.6, 3.0))
    measures = {
        "obedience": "obedience, 95 %",
        "frechet": "Fréchet distance, 95 %",
        "cpu_seconds": "CPU seconds a picture",
    }
    styles = {"teacher, DDIM": ("#0c8377", "o"), "teacher, DPM++": ("#3b6fb6", "^")}
    for axes, (name, words) in zip(fig.subplots(1, 3), measures.items(), strict=True):
        for run in dict.fromkeys(row["run"] for row in rows):
            own = sorted((row for row in rows if row["run"] == run), key=lambda row: row["steps"])
            x, y = ([row[key] for row in own] for key in ("steps", name))
            colour, marker = styles.get(run, ("#b0478a", "s"))
            axes.plot(x, y, color=colour, marker=marker, fillstyle="none", label=run)
            if name != "cpu_seconds":
                ends = np.array([row[f"{name}_interval"] for row in own]).T
                axes.fill_between(x, *ends, color=colour, alpha=0.15, linewidth=0)
        axes.set_xscale("log", base=2)
        steps = sorted({row["steps"] for row in rows})
        axes.set_xticks(steps, [str(n) for n in steps])
        axes.minorticks_off()
        if name != "obedience":
            axes.set_yscale("log")
        axes.set_xlabel("steps", fontsize=8)
        axes.set_title(words, fontsize=9)
        axes.tick_params(labelsize=7, which="both")
        axes.spines[["top", "right"]].set_visible(False)
    fig.axes[0].legend(fontsize=7, frameon=False)
    return fig


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
            with_interval([row["obedience"], *row["obedience_interval"]]),
            "" if gain is None else f"{gain[0]:+.2f} ({gain[1]:+.2f}…{gain[2]:+.2f})",
            with_interval([row["frechet"], *row["frechet_interval"]], 2),
            "" if varied is None else with_interval([varied["ratio"], *varied["interval"]], 2),
            f"{row['cpu_seconds']:.3f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=2000, help="of each run")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--folder", type=Path, default=WEIGHTS / "critters")
    parser.add_argument("--only", nargs="+", choices=[*TEACHERS, "student"], default=[])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="of steps.json, sheet and card")
    parser.add_argument("--figure", type=Path, help="a picture's name, such as steps.webp")
    options = parser.parse_args()
    rows, sheet = measure(
        options.folder,
        options.pictures,
        options.steps,
        options.runs / "steps",
        options.runs / "cache",
        options.only,
    )
    sheet.save(options.out / "sheet-steps.png")
    if options.figure:
        figure(rows).savefig(options.figure, dpi=160)
    (options.out / "steps.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    card = options.out / "MODEL_CARD.md"
    if card.is_file():
        fill_card(card, "steps", card_rows(rows))
        write_hashes(options.out)
    else:
        print(card_rows(rows))


if __name__ == "__main__":
    main()
