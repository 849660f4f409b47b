"""Distil the embedded pipeline into students of fewer steps, rung after rung.

    python -m ldmkit.recipes.ladder --minutes 120

Progressive distillation (Salimans & Ho 2022, arXiv 2202.00512; the algorithm stands in
`ldmkit.distilling.ladder`). The shipped U-Net with its guidance teaches the first rungs, and each
finished student the next. A run that was stopped goes on where it was, at the same rung; one that
is given more minutes goes on, too. Students are written as variants beside a copy of the shipped
pipeline: ``ldmkit.load("runs/ladder/model", variant="steps4")``.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

from ldmkit.critters.judging import judge_many
from ldmkit.distilling import ladder
from ldmkit.distilling.conditioning import predictor
from ldmkit.distilling.muon import Muon
from ldmkit.loading.folder import variant_of, write_student
from ldmkit.recipes import evaluate
from ldmkit.recipes.data import TUNING_SEED, Captioned
from ldmkit.recipes.train import WEIGHTS, Run, arguments, half
from ldmkit.recipes.unet import Conditions

BATCH = 48
SHIPPED = WEIGHTS / "critters"
_DIRECT = 8  # down to so many steps the guided U-Net obeys in twice as many like in 64
_WALKED = 4  # up to so many steps a batch is whole walks; above, noised drawings
_EMPTY, _OMIT = 0.05, 0.1  # what stays of the captions' habits that guidance needed
_SHELF = 300  # batches of targets that are kept to be learned from again


def minutes_of(rungs: list[int], minutes: float) -> dict[int, float]:
    """A run's minutes, shared out: the last rungs are the hard ones (the paper doubles them)."""
    shares = {steps: {1: 4.0, 2: 2.0, 4: 2.0}.get(steps, 1.0) for steps in rungs}
    return {steps: minutes * share / sum(shares.values()) for steps, share in shares.items()}


class Classroom:
    """Captions, latents, the pipeline's other parts: what every rung needs."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        clip, vae = WEIGHTS / "critters-clip", SHIPPED / "vae"
        self.conditions = Conditions(str(clip), str(vae), options.device)
        self.latents = self.conditions.training_latents(options.drawings, options.runs / "cache")
        self.captioned = Captioned(len(self.latents), _EMPTY, 1.0, _OMIT)
        self.pipe = StableDiffusionPipeline.from_pretrained(SHIPPED, dtype=torch.float32)
        self.pipe.to(options.device).set_progress_bar_config(disable=True)
        start = TUNING_SEED + 20_000
        self.texts = [t for n in (1, 2) for t in evaluate.captions(40 // n, False, n, start)]

    def x0(self, picked: np.ndarray, random: torch.Generator) -> torch.Tensor:
        """(b, 4, 16, 16) latents of training drawings, as the autoencoder would draw them."""
        means = self.latents[picked].float()
        spread = 0.08 * float(self.pipe.vae.config.scaling_factor)  # the encoder's fixed deviation
        return means + spread * torch.randn(means.shape, generator=random)

    def obeyed(self, unet: Any, steps: int, guidance: float = 1.0) -> float:
        """Share of sixty tuning captions that are obeyed, from the same noise each time."""
        twin, pictures = self.pipe, list[Image.Image]()
        usual, twin.unet = twin.unet, unet
        noise = torch.randn(len(self.texts), 4, 16, 16, generator=torch.Generator().manual_seed(0))
        with half(self.options.device):
            for k in range(0, len(self.texts), 30):
                pictures += twin(
                    self.texts[k : k + 30],
                    latents=noise[k : k + 30].to(self.options.device),
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                ).images
        twin.unet = usual
        return sum(v.obeyed for v in judge_many(pictures, self.texts)) / len(self.texts)


class Lessons:
    """Batches for one rung; what the teacher said is learned from several times."""

    def __init__(self, room: Classroom, rung: ladder.Rung, teacher: Any, guidance: float) -> None:
        self._room, self._rung = room, rung
        self._teacher, self._guidance = teacher, guidance
        self._shelf: list[tuple[torch.Tensor, ladder.Lesson]] = []

    def batch(self, student: Any, step: int) -> tuple[torch.Tensor, ladder.Lesson]:
        """Words (b, tokens, width) and a lesson of as many examples."""
        options = self._room.options
        rng = np.random.default_rng((options.seed, len(self._rung), step))
        # To ask the teacher costs as much as to learn from what it says.
        if self._shelf and rng.random() > 1 / options.reuse:
            return self._shelf[rng.integers(len(self._shelf))]
        self._shelf = [self._fresh(student, step, rng), *self._shelf[:_SHELF]]
        return self._shelf[0]

    def _fresh(
        self, student: Any, step: int, rng: np.random.Generator
    ) -> tuple[torch.Tensor, ladder.Lesson]:
        room, n, device = self._room, len(self._rung), self._room.options.device
        walks = n <= _WALKED
        count = max(1, room.options.batch // n) if walks else room.options.batch
        picked, captions = room.captioned.batch(count, step, rng)
        words = room.conditions.embed(captions)
        both = words
        if self._guidance != 1.0:
            both = torch.cat((room.conditions.embed([""]).expand_as(words), words))
        scheduler = room.pipe.scheduler
        teacher = predictor(
            self._teacher, {"encoder_hidden_states": both}, scheduler, self._guidance
        )
        random = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(count, 4, 16, 16, generator=random).to(device)
        if walks:
            own = torch.from_numpy(rng.random(count) < 0.5).to(device)
            learner = predictor(student, {"encoder_hidden_states": words}, scheduler)
            lesson = ladder.walked(teacher, learner, self._rung, noise, own)
            return words.repeat(n, 1, 1), lesson
        steps = torch.from_numpy(rng.permutation(count) * n // count).to(device)
        x0 = room.x0(picked, random).to(device)
        return words, ladder.noised(teacher, self._rung, x0, noise, steps)


def train(
    room: Classroom, steps: int, minutes: float, above: dict[str, torch.Tensor] | None
) -> dict[str, torch.Tensor]:
    """One rung; the student's averaged weights.

    Args:
        room: what all rungs share.
        steps: the student's.
        minutes: of training.
        above: weights of the student with twice as many steps; ``None``: the shipped U-Net's.
    """
    options = room.options
    direct = above is None or steps >= options.direct
    teacher, student = network(options.device), network(options.device, above).train()
    if not direct:
        teacher.load_state_dict(above)
    if options.start == "shipped" and shipped(steps).is_file():
        student.load_state_dict({k: v.float() for k, v in load_file(shipped(steps)).items()})
    run = Run(
        f"{options.name or 'ladder'}/steps{steps}",
        student,
        Muon(student.named_parameters(), vector_lr=0.1),
        minutes,
        options.rate,
        options.runs,
        warm=20,
    )
    rung = ladder.rung_of(room.pipe.scheduler, steps, options.device)
    lessons = Lessons(room, rung, teacher.requires_grad_(False), options.guidance if direct else 1)
    looked = run.seconds

    def evaluate_run() -> dict[str, float]:
        nonlocal looked
        if run.seconds - looked < 60 * options.watch and run.progress < 1:
            return {}
        looked = run.seconds
        with run.averaged(), torch.no_grad():
            return {"obedience": room.obeyed(student, steps)}

    for step in run.steps(evaluate_run):
        words, lesson = lessons.batch(student, step)
        learner = predictor(student, {"encoder_hidden_states": words}, room.pipe.scheduler)
        run.update(ladder.loss(learner, rung, lesson))
    return run.average


def packed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights as float16 with the last two of ten bits rounded away.

    A wheel's zip then packs a student from 11.1 to 9.1 MB (10.2 with all bits).
    """
    halves = {name: tensor.half().cpu() for name, tensor in weights.items()}
    return {name: (x.view(torch.int16) + 2 & ~3).view(torch.float16) for name, x in halves.items()}


def network(device: str, weights: dict[str, torch.Tensor] | None = None) -> UNet2DConditionModel:
    """The shipped U-Net, with other weights where they are given."""
    unet = UNet2DConditionModel.from_pretrained(SHIPPED / "unet", dtype=torch.float32)
    if weights is not None:
        unet.load_state_dict(weights)
    return unet.to(device).eval()


def shipped(steps: int) -> Path:
    """Where a shipped student lies."""
    name = f"diffusion_pytorch_model.{variant_of(steps)}.safetensors"
    return SHIPPED / "unet" / name


def main() -> None:
    """Command line."""
    parser = arguments(__doc__, minutes=120, batch=BATCH)
    parser.set_defaults(rate=0.006, drawings=48_000)
    parser.add_argument("--rungs", type=int, nargs="+", default=[16, 8, 4, 2, 1])
    parser.add_argument(
        "--each",
        type=float,
        nargs="+",
        help="minutes of each rung, in place of shares of --minutes",
    )
    parser.add_argument("--guidance", type=float, default=3.5, help="what is built in")
    parser.add_argument(
        "--direct",
        type=int,
        default=_DIRECT,
        help="down to so many steps the guided U-Net itself teaches, not the rung above",
    )
    parser.add_argument("--watch", type=float, default=5, help="minutes between looks at obedience")
    parser.add_argument("--reuse", type=float, default=3, help="how often a target is learned from")
    options = parser.parse_args()
    if options.each and len(options.each) != len(options.rungs):
        parser.error(f"--each takes as many numbers as --rungs, got {len(options.each)}")
    shares = minutes_of(options.rungs, options.minutes)
    if options.each:
        shares = dict(zip(options.rungs, options.each, strict=True))
    room, above = Classroom(options), None
    target = options.export or options.runs / (options.name or "ladder") / "model"
    if not target.is_dir():
        shutil.copytree(SHIPPED, target, ignore=shutil.ignore_patterns("*.steps*.safetensors"))
    for steps, minutes in shares.items():
        above = train(room, steps, minutes, above)
        write_student(target, steps, packed(above))


if __name__ == "__main__":
    main()
