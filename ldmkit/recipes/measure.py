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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer

import ldmkit.critters
from ldmkit.critters.judging import judge_many, look, recogniser
from ldmkit.critters.world import EVALUATION_SEED
from ldmkit.recipes import autoencoder, clip, evaluate, judge, variety
from ldmkit.recipes.common import drawings, scene
from ldmkit.recipes.unet import Conditions
from ldmkit.records.intervals import paired_difference

WEIGHTS = Path(ldmkit.critters.__file__).parent / "weights"
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
    unseen = np.array(drawings(1000, EVALUATION_SEED, cache))
    return {"psnr_db": autoencoder.psnr(model, unseen), "pictures": len(unseen)}


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
            evaluate.sheet(pictures[:60]).save(sheets / f"sheet-{name.replace('_', '-')}.png")
        results.setdefault("effects", {})[name] = _effects(pipe, texts, pictures, settings)
        if name == "seen":
            results["novelty"] = variety.novelty(pictures, _training(cache), pipe.vae, cache)
    results["variety"] = variety.variety(
        lambda caption: evaluate.paint(
            pipe,
            [caption] * variety.SEEDS,
            settings["num_inference_steps"],
            settings["guidance_scale"],
        ),
        cache,
    )
    return results


def _training(cache: Path) -> np.ndarray[Any, np.dtype[np.float16]]:
    """The latents of the training drawings, (n, 4, 16, 16) float16."""
    known = Conditions(
        str(WEIGHTS / "critters-clip"), str(WEIGHTS / "critters" / "vae"), "cpu"
    ).training_latents(TRAINING, cache)
    return known.numpy()


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
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")


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
    for key, name in _SETS.items():
        r = pipe[key]
        rows.append(
            f"| {name}, {r['count']} captions, {pipe['num_inference_steps']} DDIM steps, guidance "
            f"{pipe['guidance_scale']}: everything | {r['everything']:.3f} "
            f"({r['interval'][0]:.3f}…{r['interval'][1]:.3f}) |"
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
        f" captions × {open_details['seeds']} seeds | {open_details['ratio']:.2f} "
        f"({_ends(open_details['interval'])}) |",
        f"| … each detail | {shares} |",
        f"| distance to the nearest of {new['training_drawings']} training drawings, median over "
        f"that of new drawings ({new['pictures']} pictures) | {new['ratio']:.2f} "
        f"({_ends(new['interval'])}) |",
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
                f"{gain[0]:.2f} ({_ends(gain[1:])}) |"
            )
    return rows


def _ends(interval: list[float]) -> str:
    return f"{interval[0]:.2f}…{interval[1]:.2f}"


def fill_card(card: Path, section: str, text: str) -> None:
    """Put text between a section's markers of the model card."""
    before, rest = card.read_text().split(f"<!-- {section} -->")
    after = rest.split(f"<!-- /{section} -->")[1]
    card.write_text(f"{before}<!-- {section} -->\n{text}\n<!-- /{section} -->{after}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--captions", type=int, default=500)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    started = time.time()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "autoencoder": lambda: measure_autoencoder(WEIGHTS / "critters" / "vae", cache),
        "clip": lambda: measure_clip(WEIGHTS / "critters-clip"),
        "judge": lambda: measure_judge(cache),
        "pipeline": lambda: measure_pipeline(
            WEIGHTS / "critters", options.captions, WEIGHTS, cache
        ),
    }
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    options = parser.parse_args()
    cache = options.runs / "cache"
    found = {name: measure() for name, measure in parts.items() if name in options.only}
    path = WEIGHTS / "metrics.json"
    metrics = json.loads(path.read_text()) | found  # with those of `measure_unclip`
    path.write_text(json.dumps(metrics, indent=1) + "\n")
    fill_card(WEIGHTS / "MODEL_CARD.md", "measured", card_rows(metrics))
    write_hashes()
    print(json.dumps(found, indent=1))
    print(f"measured in {(time.time() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
