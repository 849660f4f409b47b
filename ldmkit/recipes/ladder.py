"""Distil the embedded pipeline into students of fewer steps, rung after rung.

    python -m ldmkit.recipes.ladder --minutes 25 10 25 20 25

Progressive distillation (see `ldmkit.distill.ladder`): the teacher of the first rung is the
shipped, guided U-Net; each finished student teaches the next.  A stopped run goes on where it was
when it is started again; a run given more minutes goes on, too.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from ldmkit.critters.judging import judge_many
from ldmkit.distill import ladder
from ldmkit.recipes import evaluate
from ldmkit.recipes.captioning import Captioned
from ldmkit.recipes.common import TUNING_SEED, Run, arguments, half
from ldmkit.recipes.measure import WEIGHTS
from ldmkit.recipes.muon import Muon
from ldmkit.recipes.unet import Conditions

RUNGS = (16, 8, 4, 2, 1)
BATCH = 64
FOLDER = WEIGHTS / "critters"
_EMPTY = 0.05
_WALKED = 4  # up to so many steps, a batch is whole walks; above, noised drawings
_WATCHED = 40
_SHELF = 300  # batches that are kept to be learned from again


class Watch:
    """Obedience on captions of tuning seeds, from the same noise each time."""

    def __init__(self, device: str, count: int = _WATCHED) -> None:
        self.pipe = StableDiffusionPipeline.from_pretrained(FOLDER, dtype=torch.float32).to(device)
        self.pipe.set_progress_bar_config(disable=True)
        start = TUNING_SEED + 20_000
        self.texts = evaluate.captions(count, False, 1, start)
        self.texts += evaluate.captions(count // 2, False, 2, start)
        self.held_out = evaluate.captions(count, True, 1, start)

    def obeyed(
        self, unet: Any, steps: int, guidance: float = 1.0, texts: list[str] | None = None
    ) -> float:
        """Share of captions that a U-Net obeys in so many DDIM steps."""
        self.pipe.unet = unet
        texts = self.texts if texts is None else texts
        noise = torch.randn(len(texts), 4, 16, 16, generator=torch.Generator().manual_seed(0))
        pictures: list[Any] = []
        for k in range(0, len(texts), 30):
            with half(str(self.pipe.device)):
                pictures += self.pipe(
                    texts[k : k + 30],
                    latents=noise[k : k + 30],
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                ).images
        return sum(v.obeyed for v in judge_many(pictures, texts)) / len(texts)


def opened(path: Path | None) -> UNet2DConditionModel:
    """The shipped U-Net, or one with the weights of a file in their place."""
    unet = UNet2DConditionModel.from_pretrained(FOLDER / "unet", dtype=torch.float32)
    if path is not None:
        unet.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return unet


def predictor(unet: Any, text: torch.Tensor, device: str, guidance: float = 1.0) -> ladder.Predict:
    """v of a U-Net that reads these words; with guidance, of both its sides.

    Args:
        text: (b, tokens, width); with guidance (2 b, ...), the empty captions first.
    """

    def predict(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        with half(device):
            if guidance == 1.0:
                return unet(z, t.to(device), text).sample.float()
            v = unet(torch.cat((z, z)), torch.cat((t, t)).to(device), text).sample.float()
        unconditional, conditional = v.chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    return predict


def climb(options: argparse.Namespace, steps: int, minutes: float, above: Path | None) -> Path:
    """Train the student of one rung; its averaged weights are written as float16."""
    device, direct = options.device, above is None or steps >= options.direct
    guidance = options.guidance if direct else 1.0
    torch.manual_seed(options.seed)
    conditions = Conditions(str(WEIGHTS / "critters-clip"), str(FOLDER / "vae"), device)
    latents = conditions.training_latents(options.drawings, options.runs / "cache")
    captioned = Captioned(len(latents), _EMPTY, 1.0, 0.1)
    posterior = 0.08 * float(conditions.vae.config.scaling_factor)
    teacher = opened(None if direct else above).to(device).eval()
    student = opened(above).to(device).train()
    teacher.requires_grad_(False)
    run = Run(
        f"steps{steps}",
        student,
        Muon(student.named_parameters(), vector_lr=0.1),
        minutes,
        options.rate,
        options.runs,
        warm=20,
    )
    rung = ladder.rung(conditions_scheduler(), steps)
    watch = Watch(device)
    watched = run.seconds

    def evaluate_run() -> dict[str, float]:
        nonlocal watched
        if run.seconds - watched < 60 * options.watch and run.progress < 1:
            return {}
        watched = run.seconds
        started = time.process_time()
        with run.averaged(), torch.no_grad():
            found = {"obedience": watch.obeyed(student, steps)}
        return {**found, "watched_s": round(time.process_time() - started, 1)}

    def fresh(rng: np.random.Generator, step: int) -> tuple[torch.Tensor, ladder.Lesson]:
        walked = steps <= options.walked
        count = options.batch // steps if walked else options.batch
        picked, captions = captioned.batch(count, step, rng)
        words = conditions.embed(captions)
        both = words
        if guidance != 1.0:
            both = torch.cat((conditions.embed([""]).expand_as(words), words))
        teach = predictor(teacher, both, device, guidance)
        noise = torch.randn(count, 4, 16, 16)
        if walked:
            own = torch.from_numpy(rng.random(count) < 0.5)
            lesson = ladder.lesson_on_walks(
                teach, predictor(student, words, device), rung, noise, own
            )
            return words.repeat(steps, 1, 1), lesson
        x0 = latents[picked].float()
        x0 = x0 + posterior * torch.randn_like(x0)
        i = torch.from_numpy(rng.permutation(count) * steps // count)
        return words, ladder.lesson_on_data(teach, rung, x0, noise, i)

    shelf: list[tuple[torch.Tensor, ladder.Lesson]] = []
    with sdpa_kernel(SDPBackend.MATH if device == "cpu" else list(SDPBackend.__members__.values())):
        for step in run.steps(evaluate_run):
            rng = np.random.default_rng((options.seed, steps, step))
            # What the teacher said is asked several times: to ask it costs as much as to learn.
            if not shelf or rng.random() < 1 / options.reuse:
                shelf = [fresh(rng, step), *shelf[:_SHELF]]
                words, lesson = shelf[0]
            else:
                words, lesson = shelf[rng.integers(len(shelf))]
            run.update(ladder.loss(predictor(student, words, device), rung, lesson))
    path = options.runs / f"steps{steps}" / f"diffusion_pytorch_model.steps{steps}.safetensors"
    save_file({k: v.half().contiguous() for k, v in run.average.items()}, path)
    return path


def conditions_scheduler() -> Any:
    """The shipped pipeline's scheduler."""
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_pretrained(FOLDER / "scheduler")


def main() -> None:
    """Command line."""
    parser = arguments(__doc__, minutes=20, batch=BATCH)
    parser.set_defaults(rate=0.004)
    parser.add_argument("--rungs", type=int, nargs="+", default=list(RUNGS))
    parser.add_argument("--each", type=float, nargs="+", required=True, help="minutes of each rung")
    parser.add_argument("--guidance", type=float, default=3.5)
    parser.add_argument("--walked", type=int, default=_WALKED)
    parser.add_argument(
        "--direct",
        type=int,
        default=8,
        help="down to so many steps the guided U-Net itself teaches, not the rung above",
    )
    parser.add_argument("--watch", type=float, default=5, help="minutes between looks at obedience")
    parser.add_argument("--reuse", type=float, default=3, help="how often a target is learned from")
    options = parser.parse_args()
    above: Path | None = None
    for steps, minutes in zip(options.rungs, options.each, strict=True):
        print(json.dumps({"rung": steps, "minutes": minutes, "at": time.strftime("%H:%M")}))
        above = climb(options, steps, minutes, above)


if __name__ == "__main__":
    main()
