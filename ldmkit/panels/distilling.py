"""``DistillPanel``: a student learns on the worker thread while a class looks on.

The widget-free twin is ``ldmkit.distill`` with ``on_update``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
import numpy as np
from PIL import Image

from ldmkit.check import heard_by, number, whole
from ldmkit.distilling.conditioning import takes
from ldmkit.distilling.students import Ladder, Update
from ldmkit.figures.html import asset
from ldmkit.figures.webp import webp
from ldmkit.panels.fields import Form, WordsField, row, vocabulary_of
from ldmkit.panels.job import Job, Report
from ldmkit.panels.panel import RunningPanel, quiet_twin
from ldmkit.panels.settings import checked_seed, checked_words
from ldmkit.recording import record

__all__ = ["DistillPanel"]

EVERY = 3.0  # seconds between two pictures of the student
POINTS = 240  # of the curve
SIDE = 384  # pixels a side of a picture at most
LEARNING = ("rung", "updates", "seed")  # other values begin another ladder


class DistillPanel(RunningPanel):
    """Trains one rung of progressive distillation, and shows how it is getting on.

    Three pictures of the same words from the same noise: the teacher with as few steps as the
    student, the student as it is now (anew every few seconds), the teacher with twice as many,
    which is where the student is to land. Below them the error of v, update by update.

    ``panel.run()`` begins, or goes on where Stop, an error or a bad update ended it, as the button
    does; other values of ``rung``, ``updates`` or ``seed`` begin another student, and so does a run
    after the last update. ``panel.stop()`` ends it after the present update; nothing is lost.
    ``panel.ladder`` is the ``Ladder`` from the first run on, while it learns too:
    ``panel.ladder.student(4)`` is a pipeline, ``panel.ladder.save("mine")`` keeps it as a file.
    ``panel.result`` is the ladder of the last run that ended.

    Args:
        pipe: the teacher, as in ``ldmkit.distill``.
        prompt: the words of the pictures that are shown.
        rung: steps of the student.
        updates: how many it gets.
        seed: of the lessons, and of the pictures.
        learning_rate: as in ``distill``.
        **options: further keywords of ``distill`` (``prompts``, ``guidance_scale``,
            ``batch_size``) and of the pipeline, the same for every run.

    Raises:
        TypeError: no pipeline with a U-Net, an unknown keyword, or a wrong type.
        ValueError: a scheduler or a number of steps that won't do, or a value out of range.
    """

    def __init__(
        self,
        pipe: Any,
        prompt: str = "a red cat with a top hat in the snow",
        *,
        rung: int = 4,
        updates: int = 400,
        seed: int = 0,
        learning_rate: float | None = None,
        **options: Any,
    ) -> None:
        begun = Ladder(
            pipe, (rung,), updates=updates, seed=seed, learning_rate=learning_rate, **options
        )
        self._pipe, self._options = pipe, options
        self.ladder: Ladder | None = None
        self._lesson: _Lesson | None = None
        self._checks = {
            "prompt": checked_words,
            "rung": self._checked_rung,
            "updates": lambda name, entry: whole(name, entry, 1, 1_000_000),
            "learning_rate": lambda name, entry: number(name, entry, 0.0, 1.0, like="0.004"),
            "seed": checked_seed,
        }
        if not takes(pipe, "prompt"):
            del self._checks["prompt"]
        start = {
            "prompt": prompt,
            "rung": rung,
            "updates": updates,
            "learning_rate": begun.learning_rate,
            "seed": seed,
        }
        start = self._checked({name: start[name] for name in self._checks})
        self._form = _Form(
            self._edited,
            names=tuple(self._checks),
            vocabulary=vocabulary_of(pipe),
            on_enter=self._run_clicked,
        )
        self._shown = {name: _Shown() for name in ("plain", "student", "teacher")}
        self._curve = ipywidgets.HTML()
        self._curve.add_class("ldm-curve")
        self._drawn = 0.0  # when the curve was
        style = ipywidgets.HTML(f"<style>{asset('panel.css', 'ldmkit.panels')}</style>")
        style.add_class("ldm-style")
        pictures = row("ldm-rungs", list(self._shown.values()))
        self._stand([style, self._form, pictures, self._curve], start)
        self.observe(lambda _: self._name_button(), names=["value"])

    def __repr__(self) -> str:
        return "DistillPanel(closed)" if self._closed else f"DistillPanel({self.job})"

    def _checked_rung(self, name: str, entry: Any) -> int:
        steps = whole(name, entry, 1, 1000)
        Ladder(self._pipe, (steps,), **self._options)  # says what of the scheduler won't do
        return steps

    def _goes_on(self, settings: Mapping[str, Any]) -> bool:
        """Whether a run with these settings would go on with the present ladder."""
        if self.ladder is None or self._lesson is None or self.ladder.finished:
            return False
        return all(self._lesson.settings[name] == settings[name] for name in LEARNING)

    def _work(self, settings: dict[str, Any]) -> Callable[[Report], Any]:
        note = ""
        if not self._goes_on(settings):
            if self.ladder is not None and not self.ladder.finished:
                note = "Another student begins; panel.result is the unfinished one till it ends."
                self.set_trait("result", self.ladder)  # also if an error ended its run
            given = {name: settings[name] for name in ("updates", "seed", "learning_rate")}
            self.ladder = Ladder(self._pipe, (settings["rung"],), **given, **self._options)
        assert self.ladder is not None
        self._lesson = _Lesson(self._pipe, self.ladder, settings, note)
        return self._lesson

    def _show(self, job: Job) -> None:
        now = time.monotonic()
        if now - self._drawn >= 1:
            self._drawn = now
            self._draw()

    def _keep(self, job: Job, work: Any) -> None:
        self._restore()

    def _restore(self) -> None:
        self._draw()
        self._name_button()

    def _name_button(self) -> None:
        self._form.run.description = "Go on" if self._goes_on(self.value) else "Run"

    def _replaced(self) -> None:
        super()._replaced()
        self.ladder = self._lesson = None

    def _draw(self) -> None:
        lesson, ladder = self._lesson, self.ladder
        if lesson is None or ladder is None:
            return
        steps = lesson.settings["rung"]
        captions = {
            "plain": f"teacher, {_steps(steps)}",
            "student": f"student, {_steps(steps)}, after {lesson.drawn_at} updates",
            "teacher": f"teacher, {_steps(2 * steps)}",
        }
        for name, shown in self._shown.items():
            shown.show(captions[name], lesson.pictures.get(name))
        self._curve.value = curve(ladder.losses.get(steps, []), ladder.updates)


class _Lesson:
    """What the worker does: the ladder goes on, and draws from time to time."""

    def __init__(self, pipe: Any, ladder: Ladder, settings: Mapping[str, Any], note: str) -> None:
        self._pipe, self._ladder, self.settings, self._note = pipe, ladder, settings, note
        self.pictures: dict[str, bytes] = {}
        self.drawn_at = 0  # updates that the student in the picture had
        self._next = 0.0

    def __call__(self, report: Report) -> Ladder:
        steps = self.settings["rung"]
        if self._note:
            report.say(self._note)
        if report(len(self._ladder.losses.get(steps, [])), self._ladder.updates):
            with heard_by(lambda words: None):  # a student as the teacher: "made for 8 steps"
                self.pictures["plain"] = self._draw(self._pipe, steps)
            self.pictures["teacher"] = self._draw(self._pipe, 2 * steps)
        with heard_by(report.say):
            self._ladder.climb(
                lambda update: self._look(update, report), self.settings["learning_rate"]
            )
        if self._ladder.losses.get(steps):
            self._draw_student()
        return self._ladder

    def _look(self, update: Update, report: Report) -> bool:
        if time.monotonic() >= self._next:
            self._draw_student()
            self._next = time.monotonic() + EVERY
        return report(update.update, update.updates)

    def _draw_student(self) -> None:
        steps = self.settings["rung"]
        self.pictures["student"] = self._draw(self._ladder.student(steps), steps)
        self.drawn_at = len(self._ladder.losses[steps])

    def _draw(self, pipe: Any, steps: int) -> bytes:
        call = {"prompt": self.settings["prompt"]} if "prompt" in self.settings else {}
        if pipe is self._pipe and self._ladder.guidance_scale is not None:
            call["guidance_scale"] = self._ladder.guidance_scale
        traj = record(
            quiet_twin(pipe),
            seed=self.settings["seed"],
            num_inference_steps=steps,
            keep=(),
            preview="none",
            **call,
            **self._ladder.call,
        )
        return webp(traj.image or Image.new("RGB", (8, 8), "gray"), SIDE, 90)


class _Shown(ipywidgets.VBox):
    """A picture and what it is."""

    def __init__(self) -> None:
        self._picture = ipywidgets.Image(format="webp")
        self._words = ipywidgets.HTML()
        super().__init__([self._picture, self._words])
        self.add_class("ldm-rung")
        self.add_class("ldm-empty")

    def show(self, words: str, picture: bytes | None) -> None:
        if picture is not None:
            self._picture.value, self._words.value = picture, words
            self.remove_class("ldm-empty")


class _Form(Form):
    counted = ("update", "updates")

    def _make(self, **options: Any) -> list[ipywidgets.Widget]:
        names, fields = options["names"], self._fields
        if "prompt" in names:
            fields["prompt"] = WordsField(
                options["vocabulary"],
                title="Shown while it learns",
                placeholder="a red cat with a top hat",
                on_enter=options["on_enter"],
            )
        fields["rung"] = ipywidgets.IntText(description="Steps of the student")
        fields["updates"] = ipywidgets.IntText(description="Updates")
        fields["learning_rate"] = ipywidgets.FloatText(description="Learning rate", step=0.001)
        seed = self.seed_row()
        numbers = [fields[name] for name in ("rung", "updates", "learning_rate")]
        return [*[fields[n] for n in names if n == "prompt"], row("ldm-numbers", [*numbers, seed])]


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def curve(errors: list[float], updates: int) -> str:
    """The error of each update so far as SVG, on a logarithmic scale, and a mean in words.

    Args:
        errors: mean squared errors, one per update.
        updates: how many there will be: the width of the picture.
    """
    if not errors:
        return ""
    errors = [max(error, 1e-12) for error in errors]
    heights = np.log10(errors)
    low, high = heights.min(), max(heights.max(), heights.min() + 0.1)
    places = np.unique(np.linspace(0, len(errors) - 1, POINTS).round().astype(int))
    spots = " ".join(
        f"{600 * (i + 1) / updates:.1f},{120 * (high - heights[i]) / (high - low):.1f}"
        for i in places
    )
    few = max(1, min(20, len(errors) // 2))
    share = np.mean(errors[-few:]) / np.mean(errors[:few])
    return (
        '<svg viewBox="-4 -4 608 128" preserveAspectRatio="none" role="img" aria-label="Error by '
        f'update"><polyline points="{spots}"/></svg>'
        f"<div>Error of v (logarithmic): {errors[0]:.3g} at the first update, {errors[-1]:.3g} at "
        f"update {len(errors)} of {updates}. The last {few} have on average {share:.2f} of the "
        f"first {few}'s.</div>"
    )
