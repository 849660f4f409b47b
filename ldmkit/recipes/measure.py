"""Measure the shipped weights, part by part, and paint the model card's unpicked sheets.

    python -m ldmkit.recipes.measure --captions 500

Reads `ldmkit/critters/weights` as installed (float16 tensors, float32 arithmetic), evaluation
seeds only, and writes ``metrics.json`` and the sheets beside the weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer

from ldmkit.check import choice
from ldmkit.critters.judging import judge_many, look, recogniser
from ldmkit.critters.world import EVALUATION_SEED
from ldmkit.recipes import autoencoder, clip, evaluate, judge, preview
from ldmkit.recipes.data import drawings, scene, unseen
from ldmkit.recipes.train import CLIP, VAE, WEIGHTS, write_picture, write_text
from ldmkit.recipes.unet import Conditions
from ldmkit.recording.preview import SmallDecoder
from ldmkit.records.stats import paired_difference

TRAINING = 96_000  # drawings that the shipped U-Net was trained on
_SETS = {
    "seen": "one critter, seen",
    "held_out": "one critter, held out",
    "two": "two critters",
    "two_held_out": "two critters, held out",
}
_SHEETS = ("seen", "held_out", "two")


def measure_autoencoder(folder: Path, cache: Path) -> dict[str, float]:
    """PSNR in dB on 1,000 drawings of evaluation scenes."""
    model = AutoencoderKL.from_pretrained(folder, dtype=torch.float32).eval()
    new = unseen(cache)
    return {"psnr_db": autoencoder.psnr(model, new), "pictures": len(new)}


def measure_clip(folder: Path) -> dict[str, float]:
    """Top-1 both ways among 512 evaluation pairs."""
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    return clip.top1(model, CLIPTokenizer.from_pretrained(folder))


def measure_judge(cache: Path) -> dict[str, Any]:
    """Share right on 4,000 unseen drawings, each attribute in each style; what isn't refused."""
    start = EVALUATION_SEED + 1000
    pictures = np.array(drawings(4000, start, cache))
    table = judge.accuracy(recogniser(), pictures, [scene(start + i) for i in range(4000)])
    rng = np.random.default_rng(EVALUATION_SEED)
    noise = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(200)]
    flat = [Image.new("RGB", (64, 64), tuple(map(int, c))) for c in rng.integers(0, 256, (200, 3))]
    taken = [seen["number"][0] != "none" for seen in look(noise + flat)]
    worst = min((v, f"{name}, {style}") for name, row in table.items() for style, v in row.items())
    return {
        "accuracy": table,
        "worst": {"accuracy": worst[0], "where": worst[1]},
        "noise_taken_for_critters": sum(taken[:200]),
        "flat_taken_for_critters": sum(taken[200:]),
    }


def measure_preview(folder: Path, cache: Path) -> dict[str, dict[str, float]]:
    """How far the small decoder's pictures are from the autoencoder's; see `preview.measure`."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    return preview.measure(SmallDecoder.open(folder / "preview"), pipe, unseen(cache)[:200])


def measure_pipeline(folder: Path, count: int, sheets: Path, cache: Path) -> dict[str, Any]:
    """Obedience with Wilson intervals, effects, variety, nearness to training drawings; sheets."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    settings = json.loads((folder / "ldmkit.json").read_text())["variants"][""]
    results: dict[str, Any] = dict(settings)
    for name in _SETS:
        held_out, critters = name.endswith("held_out"), 2 if name.startswith("two") else 1
        texts = evaluate.captions(count // critters, held_out, critters)
        pictures = evaluate.paint(
            pipe, texts, settings["num_inference_steps"], settings["guidance_scale"]
        )
        results[name] = evaluate.report(judge_many(pictures, texts))
        if name in _SHEETS:
            sheet = evaluate.sheet(pictures[:60])
            write_picture(sheets / f"sheet-{name.replace('_', '-')}.png", sheet)
        results.setdefault("effects", {})[name] = _effects(pipe, texts, pictures, settings)
        if name == "seen":
            results["novelty"] = evaluate.novelty(pictures, _training(cache), pipe.vae, cache)
    results["variety"] = evaluate.variety(
        lambda caption: evaluate.paint(
            pipe,
            [caption] * evaluate.SEEDS,
            settings["num_inference_steps"],
            settings["guidance_scale"],
        ),
        cache,
    )
    return results


def _training(cache: Path) -> np.ndarray[Any, np.dtype[np.float16]]:
    """The latents of the training drawings, (n, 4, 16, 16) float16."""
    return Conditions(CLIP, VAE, "cpu").training_latents(TRAINING, cache).numpy()


def _effects(
    pipe: StableDiffusionPipeline,
    texts: list[str],
    pictures: list[Image.Image],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """What obedience gains by guidance and by steps, each caption against itself."""
    steps, guidance = settings["num_inference_steps"], settings["guidance_scale"]
    best = [v.obeyed for v in judge_many(pictures, texts)]
    runs = {"guidance_1": (steps, 1.0), "steps_4": (4, guidance)}
    found: dict[str, Any] = {"captions": len(texts)}
    for name, (n, scale) in runs.items():
        less = [v.obeyed for v in judge_many(evaluate.paint(pipe, texts, n, scale), texts)]
        gain = paired_difference(best, less)
        found[name] = {"obedience": sum(less) / len(texts), "gain": [round(g, 3) for g in gain]}
    return found


def write_hashes(folder: Path = WEIGHTS) -> None:
    """``SHA256SUMS`` of every tensor file, in the form that ``sha256sum -c`` reads."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}"
        for path in sorted(folder.rglob("*.safetensors"))
    ]
    write_text(folder / "SHA256SUMS", "\n".join(lines) + "\n")


def card_rows(metrics: dict[str, Any]) -> str:
    """The model card's table of measurements."""
    pipe, judged = metrics["pipeline"], metrics["judge"]
    psnr, found = metrics["autoencoder"]["psnr_db"], metrics["clip"]
    rows = [
        "| what | measured |",
        "|---|---|",
        f"| autoencoder, PSNR on 1,000 unseen drawings | {psnr:.2f} dB |",
        f"| CLIP among 512, caption finds picture | {found['text_to_picture']:.3f} |",
        f"| CLIP among 512, picture finds caption | {found['picture_to_text']:.3f} |",
        f"| judge on 4,000 unseen drawings, worst attribute and style "
        f"({judged['worst']['where']}) | {judged['worst']['accuracy']:.3f} |",
        f"| judge: noise, flat pictures taken for critters, of 200 each | "
        f"{judged['noise_taken_for_critters']}, {judged['flat_taken_for_critters']} |",
    ]
    rows += [
        f"| small decoder, {name} | {far['db']:.1f} dB, {far['mean_255']:.1f} of 255 on average, "
        f"{far['worst_255']:.1f} in the worst picture |"
        for name, far in metrics["preview"].items()
    ]
    for key, name in _SETS.items():
        r = pipe[key]
        rows.append(
            f"| {name}, {r['count']} captions, {pipe['num_inference_steps']} DDIM steps, guidance "
            f"{pipe['guidance_scale']}: everything | "
            f"{with_interval([r['everything'], *r['interval']])} |"
        )
    for key, name in _SETS.items():
        shares = ", ".join(f"{n} {v:.2f}" for n, v in pipe[key]["attributes"].items())
        rows.append(f"| {name}: each attribute | {shares} |")
    rows += _more_rows(pipe)
    return "\n".join(rows)


def _more_rows(pipe: dict[str, Any]) -> list[str]:
    open_details, new = pipe["variety"], pipe["novelty"]
    shares = ", ".join(f"{n} {v:.2f}" for n, v in open_details["details"].items())
    return [
        f"| variety: entropy of what was not said over that of drawings, {open_details['captions']}"
        f" captions × {open_details['seeds']} seeds | "
        f"{with_interval([open_details['ratio'], *open_details['interval']], 2)} |",
        f"| … each detail | {shares} |",
        f"| distance to the nearest of {new['training_drawings']} training drawings, median over "
        f"that of new drawings ({new['pictures']} pictures) | "
        f"{with_interval([new['ratio'], *new['interval']], 2)} |",
        *_effect_rows(pipe),
    ]


def _effect_rows(pipe: dict[str, Any]) -> list[str]:
    rows = []
    fewer = {
        "guidance_1": f"guidance 1 under guidance {pipe['guidance_scale']}",
        "steps_4": f"4 steps under {pipe['num_inference_steps']}",
    }
    for key, less in fewer.items():
        for name, told in _SETS.items():
            effect = pipe["effects"][name]
            gain = effect[key]["gain"]
            rows.append(
                f"| obedience lost by {less}, {told} ({effect['captions']} captions, paired) | "
                f"{with_interval(gain, 2)} |"
            )
    return rows


def with_interval(estimate: Sequence[float], digits: int = 3) -> str:
    """A value and the two ends of its interval as in the tables: ``0.860 (0.823…0.891)``."""
    value, low, high = estimate
    return f"{value:.{digits}f} ({low:.{digits}f}…{high:.{digits}f})"


def fill_card(card: Path, section: str, text: str) -> None:
    """Put text between a section's markers of the model card."""
    before, rest = card.read_text().split(f"<!-- {section} -->")
    after = rest.split(f"<!-- /{section} -->")[1]
    write_text(card, f"{before}<!-- {section} -->\n{text}\n<!-- /{section} -->{after}")


def update_card(
    section: str,
    parts: dict[str, Callable[[], dict[str, Any]]],
    rows: Callable[[dict[str, Any]], str],
    only: list[str] | None = None,
    below: str | None = None,
) -> None:
    """Measure parts of what is shipped; ``metrics.json`` and the model card say what was found.

    Each part is written when it is measured: a stop loses one.

    Args:
        section: the model card's; it is filled once every part has been measured.
        parts: names to what measures them.
        rows: the section's text, of all parts' figures.
        only: names of the parts to measure; the others stay as they were measured. Without: all.
        below: where in the file the parts stand; without, on top.

    Raises:
        ValueError: no such part.
    """
    started, path = time.time(), WEIGHTS / "metrics.json"
    found: dict[str, Any] = {}
    for name in only or parts:
        choice("--only", name, parts)
    for name in only or parts:
        measured = parts[name]()
        print(name, json.dumps(measured, indent=1), flush=True)
        metrics = json.loads(path.read_text())  # anew: another part may be measured meanwhile
        found = metrics.setdefault(below, {}) if below else metrics
        found[name] = measured
        write_text(path, json.dumps(metrics, indent=1) + "\n")
    if found.keys() >= parts.keys():
        fill_card(WEIGHTS / "MODEL_CARD.md", section, rows(found))
    write_hashes(WEIGHTS)
    print(f"measured in {(time.time() - started) / 60:.1f} minutes")


def options_of(doc: str | None) -> argparse.Namespace:
    """The command line of a measurement of what is shipped."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--captions", type=int, default=500)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="an ignored folder")
    parser.add_argument("--only", nargs="+", help="parts; the others stay as they were measured")
    return parser.parse_args()


def main() -> None:
    """Command line."""
    options = options_of(__doc__)
    cache, folder = options.runs / "cache", WEIGHTS / "critters"
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "autoencoder": lambda: measure_autoencoder(folder / "vae", cache),
        "preview": lambda: measure_preview(folder, cache),
        "clip": lambda: measure_clip(Path(CLIP)),
        "judge": lambda: measure_judge(cache),
        "pipeline": lambda: measure_pipeline(folder, options.captions, WEIGHTS, cache),
    }
    update_card("measured", parts, card_rows, options.only)


if __name__ == "__main__":
    main()
