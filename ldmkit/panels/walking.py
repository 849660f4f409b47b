"""Panels whose record is a walk: pictures made ahead on the worker, shown as they come.

Once they are made, the browser alone moves between them (see ``walk_view``).
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import ipywidgets
from PIL import Image

from ldmkit.check import heard_by
from ldmkit.figures.walk import details
from ldmkit.loading.catalog import CATALOG
from ldmkit.loading.origin import origin_of
from ldmkit.loading.siblings import twin_of
from ldmkit.panels.cells import replace_earlier
from ldmkit.panels.export import Export, write_walk
from ldmkit.panels.job import Job, Report
from ldmkit.panels.reference import nearest, plane_of, reference_for
from ldmkit.panels.running import RunningPanel
from ldmkit.panels.walk_view import Shown, WalkView
from ldmkit.panels.words import part
from ldmkit.records import Embedding, RecordError, Step, Walk
from ldmkit.space.halves import EMBEDDED, space_name

__all__ = ["Make", "OnFrame", "OnStep", "WalkingPanel", "is_embedded", "with_verdicts"]

OnFrame = Callable[[int, Image.Image], bool]
OnStep = Callable[[Step], bool]
# (pipeline, on_frame, on_step) -> the walk, and texts that belong to it
Make = Callable[[Any, OnFrame, OnStep], tuple[Walk, Sequence[str]]]


@dataclass
class Film:
    """What the present run has made; the worker writes it, the panel draws it.

    Attributes:
        t: the places to come.
        axis: what they are called.
        pictures: those made.
        shown: what became of the last whole run.
    """

    t: Sequence[float] = ()
    axis: str = "t"
    pictures: list[Image.Image] = field(default_factory=list)
    shown: Shown = field(default_factory=Shown)

    def begin(self, t: Sequence[float], axis: str) -> None:
        """A run begins."""
        self.t, self.axis, self.pictures = t, axis, []

    def coming(self) -> Shown:
        """The pictures so far."""
        labels = [""] * len(self.t)
        return Shown([*self.pictures], len(self.t), self.t, self.axis, labels)


def is_embedded(pipe: Any) -> bool:
    """Whether a pipeline draws critters: it travels in the package, or has the embedded CLIP."""
    row = CATALOG.get(origin_of(pipe).name.split(":")[0])
    return (row is not None and row.embedded) or space_name(pipe) == EMBEDDED


class WalkingPanel(RunningPanel):
    """A ``RunningPanel`` whose runs make walks of one pipeline."""

    _pipe: Any = None

    def _stand(
        self,
        form: Any,
        pipe: Any,
        start: dict[str, Any],
        captions: Sequence[str] | None,
    ) -> None:
        """Puts the widgets together; the subclass's form is their head."""
        self._pipe, self._captions, self._form = pipe, captions, form
        self._film, self._drawn = Film(), -1
        self._open()
        self._view = WalkView()
        self._export = Export(lambda: self.result, lambda words: form.say(words, wrong=True))
        style = ipywidgets.HTML(f"<style>{part('prompt.css')}{part('walking.css')}</style>")
        style.add_class("ldm-style")
        ipywidgets.VBox.__init__(self, [style, form, self._view, self._export], value=start)
        self.add_class("ldm-prompt-panel")  # its style sheet is this panel's, too
        self.add_class("ldm-walk-panel")
        form.run.on_click(lambda _: self._run_clicked())
        form.stop.on_click(lambda _: self.stop())
        self._fill(self.value)
        replace_earlier(self)

    @property
    def place(self) -> int:
        """The picture that is shown, from 0; it may be set."""
        return int(self._view.place)

    @place.setter
    def place(self, place: int) -> None:
        count = len(self._film.shown.pictures)
        if not 0 <= place < max(1, count):
            raise ValueError(f"place must be between 0 and {max(0, count - 1)}, got {place}.")
        self._view.place = place

    def export(self, path: str | PathLike[str]) -> Path:
        """Writes the shown record; the ending says how.

        Args:
            path: ``"walk.gif"``, ``".webp"``, ``".html"`` (one page with a slider), ``".png"``
                (all pictures, the parameters inside) or ``".safetensors"`` (the record itself).

        Raises:
            RuntimeError: nothing was made yet.
            ValueError: another ending.
            OSError: the folder is missing or not writable; no half-written file stays.
        """
        if self.result is None:
            raise RuntimeError("This panel has no record yet; run it first: panel.run().wait().")
        return write_walk(self.result, path)

    @staticmethod
    def _told(walk: Walk) -> Sequence[str]:
        """What is shown of the walk's verdicts, one entry per picture, or empty."""
        return [f"The judge sees {verdict}" for verdict in walk.verdicts]

    @abstractmethod
    def _order(self, settings: dict[str, Any]) -> tuple[list[float], str, Make]:
        """The places of a run, what they are called, and what makes the walk."""

    def _work(self, settings: dict[str, Any]) -> Callable[[Report], Walk | None]:
        film, pipe, captions = self._film, self._pipe, self._captions
        told = self._told  # of the class: the work holds no panel
        t, axis, make = self._order(settings)

        def work(report: Report) -> Walk | None:
            film.begin(t, axis)
            quiet = _quiet(pipe)
            asked_to_end = False

            def go_on() -> bool:
                nonlocal asked_to_end
                asked_to_end = not report(len(film.pictures), len(t))
                return not asked_to_end

            def on_frame(i: int, picture: Image.Image) -> bool:
                film.pictures.append(picture)
                return go_on()

            with heard_by(report.say):
                try:
                    walk, texts = make(quiet, on_frame, lambda step: go_on())
                except RuntimeError:
                    if not asked_to_end or film.pictures:
                        raise
                    report.say("Stopped before the first picture.")
                    return None
                film.shown = _shown(pipe, walk, told(walk), texts, captions, report)
            return walk

        return work

    def _run_clicked(self) -> None:
        try:  # what was refused stays in its field: nothing else is run in its place
            self._checked(self._form.entries())  # type: ignore[attr-defined]
            self.run()
        except (TypeError, ValueError) as error:
            self._form.say(str(error), wrong=True)

    def _show(self, job: Job) -> None:
        if job.ended:
            self._drawn = -1
            self._view.show(self._film.shown)
            self._export.ready()
        elif len(self._film.pictures) != self._drawn and self._film.pictures:
            self._drawn = len(self._film.pictures)
            self._view.show(self._film.coming())

    def _say_why(self, job: Job) -> None:
        super()._say_why(job)
        self._drawn = -1
        self._view.show(self._film.shown)

    def _release(self) -> None:
        self._pipe, self._captions = None, None
        self._film.shown, self._film.pictures = Shown(), []
        self._view.clear()


def _quiet(pipe: Any) -> Any:
    """A copy that shares the networks; a bar would write from a thread into whatever cell runs."""
    twin = twin_of(pipe)
    if hasattr(twin, "set_progress_bar_config"):
        twin.set_progress_bar_config(disable=True)
    return twin


def _shown(
    pipe: Any,
    walk: Walk,
    told: Sequence[str],
    texts: Sequence[str],
    captions: Sequence[str] | None,
    report: Report,
) -> Shown:
    """The walk with what its places mean in CLIP's space."""
    near: list[list[tuple[str, float]]] = []
    plane: dict[str, Any] = {}
    if walk.embeddings:
        try:
            reference = reference_for(pipe, is_embedded(pipe), captions)
            with heard_by(lambda words: None):  # what falls off, the walk itself has said
                own: list[Embedding] = reference.clip.encode_text(list(texts)) if texts else []
            near = nearest(reference, walk.embeddings)
            plane = plane_of(reference, walk, own)
        except (FileNotFoundError, RecordError, RuntimeError, TypeError) as error:
            report.say(f"Nearest captions and plane are missing: {error}")
    return Shown(
        pictures=walk.images,
        total=len(walk),
        t=[float(t) for t in walk.t],
        axis=walk.axis,
        labels=walk.labels,
        verdicts=told,
        nearest=near,
        plane=plane,
        title=walk.title,
        details=details(walk),
    )


def with_verdicts(walk: Walk, verdicts: Sequence[str]) -> Walk:
    """The same walk, a line on each picture beside it."""
    return dataclasses.replace(walk, verdicts=tuple(verdicts))
