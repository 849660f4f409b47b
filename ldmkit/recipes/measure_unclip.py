"""Measure the shipped prior and decoder: what embeddings hold, and what becomes of them.

    python -m ldmkit.recipes.measure_unclip --captions 500

Evaluation seeds only; shares have Wilson's intervals, differences are paired by caption. Written
below ``"unclip"`` in ``metrics.json``, after `recipes.measure` has written the rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from ldmkit.critters.judging import judge_many, look
from ldmkit.critters.scene import Scene
from ldmkit.critters.world import COLOURS, EVALUATION_SEED, MOODS, PLACES, WEARS
from ldmkit.latents import decode_latents, encode_image
from ldmkit.latents.inversion import invert
from ldmkit.loading import load
from ldmkit.recipes import evaluate
from ldmkit.recipes.autoencoder import decibels
from ldmkit.recipes.evaluate import calibration, scenes
from ldmkit.recipes.measure import options_of, update_card, with_interval
from ldmkit.recipes.train import WEIGHTS, write_picture
from ldmkit.records.embedding import Embedding
from ldmkit.records.stats import mean_of, paired_difference
from ldmkit.space.arithmetic import text_diff, visible
from ldmkit.space.clip import ClipSpace, clip_space
from ldmkit.space.interpolate import interpolate
from ldmkit.space.unclip import decode_embedding, sample_prior, variations

_BATCH = 25
_PAIRS = 512  # captions and pictures that a caption's own picture is looked for among
_SHEETS = ("prior", "picture")  # ways to an embedding whose first pictures are shown
THETA = 0.4  # how far a text diff turns: as `text_diff` does where nothing is said

Decode = Callable[[Sequence[Embedding]], list[Image.Image]]


def decoder(pipe: Any, first_seed: int = EVALUATION_SEED, **call: Any) -> Decode:
    """Embeddings to pictures, in batches; picture i has seed ``first_seed`` + i."""

    def decode(embeddings: Sequence[Embedding]) -> list[Image.Image]:
        pictures: list[Image.Image] = []
        for i in tqdm(range(0, len(embeddings), _BATCH), desc="decoding"):
            chunk = list(embeddings[i : i + _BATCH])
            seeds = [first_seed + i + k for k in range(len(chunk))]
            traj = decode_embedding(
                pipe, chunk, seed=seeds, keep="denoised", preview="none", **call
            )
            pictures += traj.images
        return pictures

    return decode


def drawn_by_prior(pipe: Any, captions: Sequence[str], first_seed: int) -> list[Embedding]:
    """One embedding per caption, best of two."""
    found: list[Embedding] = []
    for i in range(0, len(captions), 50):
        chunk = list(captions[i : i + 50])
        found += sample_prior(pipe, chunk, seed=[first_seed + i + k for k in range(len(chunk))])
    return found


def unit(embeddings: Sequence[Embedding]) -> NDArray[np.float64]:
    """(n, d) vectors of length one."""
    vectors = np.stack([e.vector for e in embeddings]).astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def measure_prior(pipe: Any, clip: ClipSpace) -> dict[str, Any]:
    """Does the prior's embedding find its own picture, and does it lie nearer than the words?"""
    start = EVALUATION_SEED + 30_000
    chosen = [(Scene.sample(i, held_out=False), i) for i in range(start, start + _PAIRS)]
    captions = [scene.caption(seed) for scene, seed in chosen]
    pictures = unit(clip.encode_image([scene.draw(64, seed) for scene, seed in chosen]))
    texts = unit(clip.encode_text(captions))
    near_text = (texts * pictures).sum(1)
    found_text = (texts @ pictures.T).argmax(1) == np.arange(_PAIRS)
    found: dict[str, Any] = {
        "pairs": _PAIRS,
        "top1_text": mean_of(found_text),
        "cosine_text": mean_of(near_text),
    }
    # A sample guesses what the caption left open, and mostly wrongly. The first estimate, from
    # noise alone and without guidance, guesses nothing: it is the mean of what the caption allows.
    ways = {
        "sample": drawn_by_prior(pipe, captions, start),
        "estimate": sample_prior(
            pipe, captions, seed=start, best_of=1, num_inference_steps=1, guidance_scale=1.0
        ),
    }
    for name, embeddings in ways.items():
        drawn = unit(embeddings)
        right, near = (drawn @ pictures.T).argmax(1) == np.arange(_PAIRS), (drawn * pictures).sum(1)
        found[name] = {
            "top1": mean_of(right),
            "ratio": float(right.mean() / found_text.mean()),
            "nearer_than_text": mean_of(near > near_text),
            "cosine": mean_of(near),
        }
    return found


def mean_gap(clip: ClipSpace, count: int = 2000) -> Embedding:
    """What lies between the mean of pictures and the mean of their captions (training scenes)."""
    chosen = [(Scene.sample(i, held_out=False), i) for i in range(count)]
    texts = clip.encode_text([scene.caption(seed) for scene, seed in chosen])
    pictures = clip.encode_image([scene.draw(64, seed) for scene, seed in chosen])
    gap = np.mean([e.vector for e in pictures], axis=0) - np.mean([e.vector for e in texts], axis=0)
    return dataclasses.replace(texts[0], vector=gap.astype(np.float32), label="the mean gap")


def measure_decoder(pipe: Any, clip: ClipSpace, count: int) -> dict[str, Any]:
    """Obedience of pictures decoded from (a) words, (b) words + gap, (c) the prior, (d) pictures.

    The captions are those of the text-to-image U-Net's own measurement.
    """
    captions = evaluate.captions(count, held_out=False, critters=1)
    chosen = scenes(count, EVALUATION_SEED + 10_000)
    texts, gap = clip.encode_text(captions), mean_gap(clip)
    ways = {
        "text": texts,
        "text_and_gap": [t + gap for t in texts],
        "prior": drawn_by_prior(pipe, captions, EVALUATION_SEED),
        "picture": clip.encode_image([scene.draw(64, seed) for scene, seed in chosen]),
    }
    obeyed: dict[str, list[bool]] = {}
    found: dict[str, Any] = {"count": count}
    decode = decoder(pipe)
    for name, embeddings in ways.items():
        pictures = decode(embeddings)
        if name in _SHEETS:
            sheet = evaluate.sheet(pictures[:60])
            write_picture(WEIGHTS / f"sheet-unclip-{name}.png", sheet)
        obeyed[name] = [v.obeyed for v in judge_many(pictures, captions)]
        found[name] = mean_of(obeyed[name])
    for name in ("text", "text_and_gap"):
        found[f"prior_minus_{name}"] = paired_difference(obeyed["prior"], obeyed[name])
    return found


def measure_variations(pipe: Any, clip: ClipSpace, count: int = 100) -> dict[str, Any]:
    """Share of variations that keep the animal and its colour, four of each drawing."""
    kept = []
    for scene, seed in tqdm(scenes(count, EVALUATION_SEED + 40_000), desc="variations"):
        picture = clip.encode_image(scene.draw(64, seed))
        traj = variations(pipe, picture, num_images=4, seed=seed, preview="none", keep="denoised")
        critter = scene.critters[0]
        kept += [
            (seen["animal"][0], seen["colour"][0]) == (critter.animal, critter.colour)
            for seen in look(traj.images)
        ]
    return {"count": len(kept), "kept": mean_of(kept)}


def one_change(scene: Scene, seed: int) -> tuple[str, str, str, str]:
    """A single change of a scene: (attribute, its new value, caption before, caption after)."""
    rng = np.random.default_rng(seed)
    critter = scene.critters[0]
    name = ("colour", "wears", "place", "mood")[seed % 4]
    if name == "mood" and (scene.size == "small" or critter.mood == "neutral"):
        name = "colour"
    if name == "place" and scene.place == "plain":
        name = "colour"
    values = {"colour": COLOURS, "wears": WEARS[1:], "place": PLACES[1:], "mood": MOODS[1:]}[name]
    now = scene.place if name == "place" else getattr(critter, name)
    value = str(rng.choice([v for v in values if v != now]))
    return name, value, _say(critter.animal, name, now), _say(critter.animal, name, value)


def _say(animal: str | None, name: str, value: str | None) -> str:
    if name in ("colour", "mood"):
        article = "an" if str(value)[0] in "aeiou" else "a"
        return f"{article} {value} {animal}"
    article = "an" if str(animal)[0] in "aeiou" else "a"
    if value == "nothing":  # no caption says so
        return f"{article} {animal}"
    if name == "wears":
        return f"{article} {animal} wearing {'' if value == 'glasses' else 'a '}{value}"
    where = {"night": "at night", "beach": "on the beach", "meadow": "in a meadow"}
    return f"{article} {animal} {where.get(str(value), f'in the {value}')}"


def measure_text_diffs(
    pipe: Any, count: int = 300, theta: float = THETA, start: int = EVALUATION_SEED + 50_000
) -> dict[str, Any]:
    """Single-attribute text diffs of drawings: the asked one changed, each other one kept."""
    changed, kept = [], []
    by_name: dict[str, list[bool]] = {}
    for scene, seed in tqdm(scenes(count, start), desc="text diffs"):
        name, value, source, target = one_change(scene, seed)
        picture = scene.draw(64, seed)
        after = text_diff(
            pipe, picture, source, target, theta=(theta, theta), num_frames=1, seed=seed
        )
        was, now = (visible(seen) for seen in look([picture, after.images[0]]))
        changed.append(now.get(name) == value)
        by_name.setdefault(name, []).append(changed[-1])
        # A background colour comes and goes with its place: not a thing of its own here.
        kept += [now.get(k) == v for k, v in was.items() if k not in (name, "background")]
    return {
        "count": count,
        "theta": theta,
        "changed": mean_of(changed),
        "others_kept": mean_of(kept),
        "changed_by_attribute": {n: float(np.mean(v)) for n, v in by_name.items()},
    }


def measure_walks(pipe: Any, count: int = 400) -> dict[str, Any]:
    """The middle of walks between two drawings: is it one animal? Against blended pixels."""
    ends = scenes(2 * count, EVALUATION_SEED + 60_000)
    sure = calibration()
    one: dict[str, list[bool]] = {"clip_image": [], "pixel": []}
    for (a, i), (b, k) in tqdm(list(zip(ends[::2], ends[1::2], strict=True)), desc="walks"):
        for space, seen in one.items():
            walk = interpolate(pipe, a.draw(64, i), b.draw(64, k), t=[0.5], seed=i, space=space)
            seen.append(sure.one_animal(walk.images)[0])
    gain = paired_difference(one["clip_image"], one["pixel"])
    return {
        "count": count,
        "ece": sure.ece,
        "threshold": sure.threshold,
        **{space: mean_of(seen) for space, seen in one.items()},
        "difference": gain,
    }


def measure_inversion(pipe: Any, count: int = 400) -> dict[str, Any]:
    """PSNR of drawings inverted in 64 steps and sampled again, and of the autoencoder alone."""
    alone: list[float] = []
    back: list[float] = []
    chosen = scenes(count, EVALUATION_SEED + 70_000)
    for i in tqdm(range(0, count, _BATCH), desc="inversion"):
        pictures = [scene.draw(64, seed) for scene, seed in chosen[i : i + _BATCH]]
        again = [decode_latents(pipe, latents) for latents in encode_image(pipe, pictures)]
        noise = invert(pipe, pictures, num_inference_steps=64)
        call = {"latents": noise, "num_inference_steps": 64, "guidance_scale": 1.0}
        made = pipe([""] * len(pictures), **call).images
        alone += map(psnr, pictures, again)
        back += map(psnr, pictures, made)
    return {
        "count": count,
        "autoencoder_db": mean_of(alone),
        "inverted_db": mean_of(back),
        "lost_db": paired_difference(alone, back),
    }


def psnr(a: Image.Image, b: Any) -> float:
    """In dB, of two pictures with 8 bits."""
    error = np.asarray(a.convert("RGB"), float) - np.asarray(b.convert("RGB"), float)
    return float(decibels(torch.from_numpy(error)[None]))


def measure_variety(pipe: Any, cache: Path) -> dict[str, Any]:
    """What captions leave open, drawn by the prior and decoded."""

    def paint(caption: str) -> list[Image.Image]:
        drawn = drawn_by_prior(pipe, [caption] * evaluate.SEEDS, EVALUATION_SEED)
        return decoder(pipe)(drawn)

    return evaluate.variety(paint, cache)


def card_rows(m: dict[str, Any]) -> str:
    """The model card's table of the prior and the decoder."""
    p, d, t, w, i = m["prior"], m["decoder"], m["text_diffs"], m["walks"], m["inversion"]
    names = {
        "text": "the text embedding as it stands",
        "text_and_gap": "text + mean gap",
        "prior": "the prior's, best of two",
        "picture": "the true picture's",
    }
    rows = [
        "| what | measured |",
        "|---|---|",
        f"| among {p['pairs']}, the text embedding finds its picture | "
        f"{with_interval(p['top1_text'])} |",
        *(
            row
            for name, told in (("sample", "sample"), ("estimate", "estimate in one step"))
            for row in (
                f"| … the prior's {told} does | {with_interval(p[name]['top1'])} |",
                f"| … and lies nearer to the true picture's than the text's | "
                f"{with_interval(p[name]['nearer_than_text'])} |",
            )
        ),
        *(
            f"| obedience ({d['count']} captions) decoded from {text} | {with_interval(d[name])} |"
            for name, text in names.items()
        ),
        f"| … prior's less the text's | {with_interval(d['prior_minus_text'])} |",
        f"| … prior's less text + mean gap | {with_interval(d['prior_minus_text_and_gap'])} |",
        f"| variety of what was not said, over drawings | {m['variety']['ratio']:.2f} |",
        f"| variations ({m['variations']['count']}) keep animal and colour | "
        f"{with_interval(m['variations']['kept'])} |",
        f"| text diffs ({t['count']}, θ = {t['theta']}): asked attribute changed | "
        f"{with_interval(t['changed'])} |",
        f"| … each other one kept | {with_interval(t['others_kept'])} |",
        f"| middle of a walk ({w['count']}) is one animal, slerp in CLIP space "
        f"(judge's ECE {w['ece']:.3f}) | {with_interval(w['clip_image'])} |",
        f"| … blended pixels | {with_interval(w['pixel'])} |",
        f"| inverted and back, 64 steps, below the autoencoder alone | "
        f"{i['lost_db'][0]:.2f} dB ({i['lost_db'][1]:.2f}…{i['lost_db'][2]:.2f}) |",
    ]
    return "\n".join(rows)


def main() -> None:
    """Command line."""
    options = options_of(__doc__)
    pipe, words = (load(name, device="cpu") for name in ("critters-unclip", "critters"))
    clip = clip_space(pipe)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "prior": lambda: measure_prior(pipe, clip),
        "decoder": lambda: measure_decoder(pipe, clip, options.captions),
        "variety": lambda: measure_variety(pipe, options.runs / "cache"),
        "variations": lambda: measure_variations(pipe, clip),
        "text_diffs": lambda: measure_text_diffs(pipe),
        "walks": lambda: measure_walks(pipe),
        "inversion": lambda: measure_inversion(words),
    }
    update_card("unclip", parts, card_rows, options.only, below="unclip")


if __name__ == "__main__":
    main()
