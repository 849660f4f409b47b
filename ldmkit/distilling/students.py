"""``distill``: a pipeline's students, rung after rung, while one looks on."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from ldmkit.check import function, number, say, says_no, short, whole
from ldmkit.critters.scene import Scene
from ldmkit.distilling.conditioning import conditioning_of, predictor, takes
from ldmkit.distilling.ladder import Lesson, loss, rung_of, walked
from ldmkit.distilling.muon import Muon
from ldmkit.loading.catalog import is_embedded
from ldmkit.loading.folder import made_for, variant_of, write_student
from ldmkit.loading.siblings import Origin, origin_of, remember, steps_of, twin_of
from ldmkit.recording.call import check_call, check_prompt, parameters_of

__all__ = ["Ladder", "Update", "distill"]

_TRAINING_SEEDS = 400_000  # from here on scenes are for tuning, then for evaluation
_DECAY = 0.999  # of the averaged weights, after a ramp
_RATES = {"v_prediction": 0.004, "epsilon": 0.0004}
_WARM = 10  # updates until the learning rate is at its peak
_OWN = ("rungs", "updates", "prompts", "batch_size", "learning_rate", "seed", "on_update")


@dataclass(frozen=True)
class Update:
    """What ``on_update`` is told.

    Attributes:
        steps: of the student that learns.
        update: how many updates it has had, 1 … ``updates``.
        updates: how many it gets.
        loss: mean squared error of v of the last one.
        ladder: ``ladder.student(steps)`` is the student as it is now, to draw with.
    """

    steps: int
    update: int
    updates: int
    loss: float
    ladder: Ladder


OnUpdate = Callable[[Update], bool | None]


class _Pupil:
    """A network that learns, and the average of its weights that is worth keeping."""

    def __init__(self, teacher: torch.nn.Module) -> None:
        self.unet = copy.deepcopy(teacher).float().train().requires_grad_(True)
        self.average = {k: v.detach().clone() for k, v in self.unet.state_dict().items()}
        self._begin()

    def _begin(self) -> None:
        self._optimizer = Muon(self.unet.named_parameters(), vector_lr=0.1)

    def learn(self, error: torch.Tensor, rate: float, before: int) -> None:
        """One update. The weights that made a finite error go into the average before they move."""
        share = 1 - min(_DECAY, (1 + before) / (10 + before))
        with torch.no_grad():
            for name, weight in self.unet.state_dict().items():
                self.average[name].lerp_(weight, share)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        error.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self._optimizer.step()

    def recover(self) -> None:
        """Back to the last good weights."""
        self.unet.load_state_dict(self.average)
        self._begin()

    def network(self, like: torch.nn.Module) -> torch.nn.Module:
        """A network of its own with the averaged weights, in the precision of another."""
        grown = copy.deepcopy(self.unet).eval().requires_grad_(False)
        grown.load_state_dict(self.average)
        # Module's own: diffusers' warns of modules that must stay float32 even where none must.
        return torch.nn.Module.to(grown, next(like.parameters()).dtype)


class Ladder:
    """Students of fewer and fewer steps, and how they learned; what ``distill`` gives.

    Made by itself it takes what ``distill`` takes, checks all of it, and waits for ``climb``.

    Attributes:
        rungs: numbers of steps, from the first student's to the last's.
        updates: how many each gets.
        guidance_scale: what is built in; ``None`` where the pipeline takes none.
        learning_rate: peak step size.
        call: the pipeline's own keywords.
        losses: steps to the error of each update so far.
        stopped: why it ended early, or ``None``; ``climb`` goes on.
    """

    def __init__(
        self,
        pipe: Any,
        rungs: Sequence[int],
        *,
        updates: int = 200,
        prompts: str | Sequence[str] | None = None,
        guidance_scale: float | None = None,
        batch_size: int = 16,
        learning_rate: float | None = None,
        seed: int = 0,
        **call: Any,
    ) -> None:
        parameters = parameters_of(pipe, "distill")
        if not isinstance(getattr(pipe, "unet", None), torch.nn.Module):
            raise TypeError(
                f"distill needs a pipeline with a U-Net, got {type(pipe).__name__}, which has none."
            )
        check_call(pipe, parameters, call, "distill", _OWN)
        self.rungs = _halving(rungs)
        for steps in self.rungs:
            rung_of(pipe.scheduler, steps)
        _check_made_for(pipe, self.rungs)
        self.guidance_scale = _scale(pipe, guidance_scale)
        self.updates = whole("updates", updates, 1)
        self._prompts = _words(pipe, prompts)
        self._batch = whole("batch_size", batch_size, 1)
        usual = _RATES[pipe.scheduler.config.prediction_type]
        self.learning_rate = _rate(usual if learning_rate is None else learning_rate)
        whole("seed", seed, 0, 2**63 - 1)
        self.stopped: str | None = None
        self._pipe, self.call = pipe, dict(call)
        self._random = torch.Generator().manual_seed(seed)
        self._networks: dict[int, torch.nn.Module] = {}  # of those that finished
        self._pupil: _Pupil | None = None  # who is learning
        self._losses: dict[int, list[float]] = {}

    @property
    def losses(self) -> dict[int, list[float]]:
        """Steps to the error of each update so far."""
        return {steps: list(errors) for steps, errors in self._losses.items()}

    @property
    def finished(self) -> bool:
        """Whether every student has had its updates."""
        return len(self._networks) == len(self.rungs)

    def __repr__(self) -> str:
        lines = [f"Ladder of {self._guided()}:"]
        for steps in self.rungs:
            had = self.losses.get(steps, [])
            error = f", error {had[0]:.3g} → {had[-1]:.3g}" if had else ""
            lines.append(f"  {steps} steps: {len(had)} of {self.updates} updates{error}")
        return "\n".join([*lines, *([f"  {self.stopped}"] if self.stopped else [])])

    def _guided(self) -> str:
        name, first = origin_of(self._pipe).name, 2 * self.rungs[0]
        scale = (
            ""
            if self.guidance_scale in (None, 1.0)
            else f" at guidance_scale {self.guidance_scale:g}"
        )
        return f"{name}, {first} steps{scale}"

    def student(self, steps: int) -> Any:
        """A pipeline with a student's network, averaged over its updates so far.

        Its own guidance is 1: the teacher's is inside. ``record`` and the panels know its steps.

        Raises:
            ValueError: no such student, or none yet.
        """
        if steps not in self._losses:
            have = ", ".join(map(str, self._losses)) or "none yet"
            raise ValueError(
                f"steps must be those of a student that has begun ({have}), got {short(steps)}; "
                "climb() trains the next."
            )
        network = self._networks.get(steps)
        if network is None:
            assert self._pupil is not None
            network = self._pupil.network(self._pipe.unet)
        twin = twin_of(self._pipe)
        twin.unet, twin.scheduler = network, copy.deepcopy(self._pipe.scheduler)
        name = origin_of(self._pipe).name.split(":")[0]
        meant = made_for(steps, takes(self._pipe, "guidance_scale"))
        remember(twin, Origin(f"{name}:{variant_of(steps)}", meant))
        return twin

    def climb(
        self, on_update: OnUpdate | None = None, learning_rate: float | None = None
    ) -> Ladder:
        """Goes on where it was: after an interrupt, a ``False`` from ``on_update``, or a bad error.

        Args:
            on_update: see ``distill``.
            learning_rate: another peak rate from here on.
        """
        self.learning_rate = self.learning_rate if learning_rate is None else _rate(learning_rate)
        return self._go_on(function("on_update", on_update))

    def _go_on(self, on_update: OnUpdate | None) -> Ladder:
        self.stopped = None
        try:
            for steps in self.rungs:
                if steps not in self._networks and not self._learn(steps, on_update):
                    break
        except KeyboardInterrupt:
            say(self._stop("Interrupted"), stacklevel=3)
        return self

    def _learn(self, steps: int, on_update: OnUpdate | None) -> bool:
        """One rung; whether it was finished."""
        teacher = self._teacher(steps)
        pupil = self._pupil = self._pupil or _Pupil(teacher)
        losses = self._losses.setdefault(steps, [])
        device = next(teacher.parameters()).device
        rung = rung_of(self._pipe.scheduler, steps, device)
        lessons = self._lessons(teacher, pupil, steps)
        going = True
        while going and len(losses) < self.updates:
            lesson, keywords = next(lessons)
            error = loss(predictor(pupil.unet, keywords, self._pipe.scheduler), rung, lesson)
            if not math.isfinite(float(error.detach())):
                pupil.recover()
                smaller = f"climb(learning_rate={self.learning_rate / 4:g})"
                say(self._stop("The error is no longer finite", smaller), stacklevel=4)
                return False
            pupil.learn(error, self.learning_rate * _course(len(losses), self.updates), len(losses))
            losses.append(float(error.detach()))
            told = Update(steps, len(losses), self.updates, losses[-1], self)
            answer = None if on_update is None else on_update(told)
            going = not says_no(answer)
        if len(losses) == self.updates:
            self._networks[steps], self._pupil = pupil.network(self._pipe.unet), None
        if not going and not self.finished:
            self._stop("Stopped by on_update")
        return going

    def _teacher(self, steps: int) -> torch.nn.Module:
        above = self.rungs.index(steps) - 1
        return self._pipe.unet if above < 0 else self._networks[self.rungs[above]]

    def _lessons(
        self, teacher: torch.nn.Module, pupil: _Pupil, steps: int
    ) -> Iterator[tuple[Lesson, Mapping[str, Any]]]:
        """Batches of what the teacher says on walks from noise, in no order, without end."""
        pipe, count = self._pipe, self._batch
        device = next(teacher.parameters()).device
        rung = rung_of(pipe.scheduler, steps, device)
        # Only the first teacher has two sides: in its students guidance is inside.
        scale = self.guidance_scale if teacher is pipe.unet or self.guidance_scale is None else 1.0
        while True:
            asked = conditioning_of(pipe, self._captions(count), scale, self.call)
            guided = scale if scale and asked.both is not asked.with_words else 1.0
            lesson = walked(
                predictor(teacher, asked.both, pipe.scheduler, guided),
                predictor(pupil.unet, asked.with_words, pipe.scheduler),
                rung,
                torch.randn(asked.shape, generator=self._random).to(device),
                (torch.rand(count, generator=self._random) < 0.5).to(device),
            )
            order = torch.randperm(steps * count, generator=self._random).to(device)
            for part in torch.split(order, count):
                few = Lesson(lesson.latents[part], lesson.steps[part], lesson.target[part])
                yield few, asked.rows(part % count)

    def _captions(self, count: int) -> list[str]:
        known = self._prompts
        most = _TRAINING_SEEDS if known is None else len(known)
        picked = torch.randint(most, (count,), generator=self._random).tolist()
        if known is None:
            return [Scene.sample(i, held_out=False).caption(i) for i in picked]
        return [known[i] for i in picked]

    def _stop(self, why: str, how: str = "climb()") -> str:
        steps = list(self._losses)[-1] if self._losses else self.rungs[0]
        had = len(self._losses.get(steps, []))
        self.stopped = (
            f"{why} after {had} of {self.updates} updates of the student of {steps} steps; its "
            f"weights are kept, {how} goes on."
        )
        return self.stopped

    def save(self, folder: str | Path) -> Path:
        """Writes the students beside the usual weights of a pipeline's folder, as variants.

        ``ldmkit.load(folder, variant="steps4")`` opens one, and so does diffusers'
        ``from_pretrained``. The one that is learning is written as it is now, and that is told.

        Args:
            folder: of the pipeline; written if it isn't there.

        Raises:
            ValueError: no student has begun.
        """
        if not any(self._losses.values()):
            raise ValueError("No student has learned anything yet; climb() trains the first.")
        folder = Path(folder)
        if not (folder / "model_index.json").is_file():
            self._pipe.save_pretrained(folder)
        for steps, had in self._losses.items():
            if had:
                write_student(folder, steps, self.student(steps).unet.state_dict())
            if had and steps not in self._networks:
                say(
                    f"The student of {steps} steps is written as it is after {len(had)} of "
                    f"{self.updates} updates; save again when it has had all.",
                    stacklevel=2,
                )
        return folder


def distill(
    pipe: Any,
    rungs: Sequence[int] = (32, 16, 8, 4),
    *,
    updates: int = 200,
    prompts: str | Sequence[str] | None = None,
    guidance_scale: float | None = None,
    batch_size: int = 16,
    learning_rate: float | None = None,
    seed: int = 0,
    on_update: OnUpdate | None = None,
    **call: Any,
) -> Ladder:
    """Teaches students to take two of a pipeline's steps in one, rung after rung.

    Progressive distillation (Salimans & Ho 2022, arXiv 2202.00512; see
    ``ldmkit.distilling.ladder``). The first teacher is the pipeline itself, at twice the first
    rung's steps and with its guidance, which is inside the students from then on. What is learned
    from are walks from noise, so that no data are needed. The pipeline stays as it is.

    Args:
        pipe: a diffusers pipeline with a U-Net that predicts noise or v, and DDIM with trailing
            spacing.
        rungs: steps of the students, each half of the one before.
        updates: of each student.
        prompts: the words to learn with; by default, for the embedded critters, captions of
            scenes that evaluation never uses. What a student never heard it may lose.
        guidance_scale: the scale to build in; by default the pipeline's.
        batch_size: examples per update.
        learning_rate: peak step size of Muon; a cosine follows. By default 0.004 where the network
            predicts v and 0.0004 where it predicts noise, whose error counts 1/α times in v.
        seed: of prompts and noise.
        on_update: called with an ``Update`` after each; ``False`` stops and keeps the part.
        **call: the pipeline's own keywords.

    Returns:
        The ladder: ``ladder.student(4)`` is a pipeline. After an interrupt it is there all the
        same, and ``ladder.climb()`` goes on.

    Raises:
        TypeError: no pipeline with a U-Net, an unknown keyword, or a wrong type.
        ValueError: rungs that don't halve, a scheduler that won't do, or a value out of range.
    """
    listener = function("on_update", on_update)
    ladder = Ladder(
        pipe,
        rungs,
        updates=updates,
        prompts=prompts,
        guidance_scale=guidance_scale,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        **call,
    )
    return ladder._go_on(listener)


def _course(before: int, updates: int) -> float:
    """The learning rate over its peak: a short warm-up, then a cosine to nearly nothing."""
    done = (before + 1) / updates
    return min(1.0, (before + 1) / _WARM) * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))


def _halving(rungs: Any) -> tuple[int, ...]:
    try:
        several = [whole("rungs", n, 1) for n in rungs]
    except TypeError:
        several = []
    if not several or any(2 * b != a for a, b in pairwise(several)):
        raise ValueError(
            "rungs must be numbers of steps, each half of the one before, got "
            f"{short(rungs)}; write (32, 16, 8, 4)."
        )
    return tuple(several)


def _check_made_for(pipe: Any, rungs: tuple[int, ...]) -> None:
    """A student teaches from its own number of steps only."""
    own = steps_of(pipe)
    if own is not None and 2 * rungs[0] != own:
        raise ValueError(
            f"The first rung must be half of the {own} steps that {origin_of(pipe).name!r} was "
            f"distilled for, got {rungs[0]}; write rungs=({own // 2}, ...)."
        )


def _scale(pipe: Any, guidance: Any) -> float | None:
    if not takes(pipe, "guidance_scale"):
        if guidance is not None:
            raise TypeError(
                f"{type(pipe).__name__} takes no guidance_scale, got {short(guidance)}; leave "
                "it out."
            )
        return None
    usual = parameters_of(pipe)["guidance_scale"].default
    known = origin_of(pipe).defaults.get("guidance_scale", usual)
    return number("guidance_scale", known if guidance is None else guidance, 0, like="3.5")


def _words(pipe: Any, prompts: Any) -> list[str] | None:
    check_prompt("prompts", prompts)
    if not takes(pipe, "prompt"):
        return [""]
    if prompts is not None:
        return [prompts] if isinstance(prompts, str) else list(prompts)
    if not is_embedded(pipe):
        raise TypeError(
            'distill needs prompts to learn with, got None; give prompts=["a red cat", ...], a '
            "thousand or more of the kind that the student will be asked."
        )
    return None


def _rate(rate: Any) -> float:
    return number("learning_rate", rate, 0.0, 1.0, like="0.004")
