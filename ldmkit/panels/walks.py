"""Panels whose record is a walk: pictures made ahead on the worker, shown as they come, taken home.

Once they are made, the browser alone moves between them (see ``walk_view``).
"""

from __future__ import annotations

import base64
import dataclasses
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import ipywidgets
from PIL import Image

from ldmkit.check import flag, heard_by, short, whole
from ldmkit.critters import words as critter_words
from ldmkit.figures.html import asset, text
from ldmkit.figures.walk import details
from ldmkit.loading.catalog import is_embedded
from ldmkit.loading.siblings import origin_of
from ldmkit.panels.end_field import EndField
from ldmkit.panels.fields import Form
from ldmkit.panels.job import Job, Report
from ldmkit.panels.landmarks import nearest, plane_of, reference_for
from ldmkit.panels.panel import Check, RunningPanel, quiet_twin
from ldmkit.panels.settings import check_extra, checked_seed
from ldmkit.panels.walk_view import MOST_FRAMES, Shown, WalkView
from ldmkit.recording import call as checks
from ldmkit.records import Embedding, RecordError, Step, Walk
from ldmkit.records.record import file_name
from ldmkit.space.encoders import EMBEDDED, space_name
from ldmkit.space.unclip import unclip_of

__all__ = [
    "Make",
    "OnFrame",
    "OnStep",
    "WalkForm",
    "WalkingPanel",
    "check_walk",
    "draws_critters",
    "learned_words",
    "usual_steps",
    "walk_checks",
    "with_verdicts",
    "write_walk",
]

MOST_STEPS = 1000
KINDS = {
    ".gif": ("GIF", "image/gif", "The pictures moving, there and back"),
    ".html": ("Page", "text/html", "One page with a slider, which needs no network"),
    ".png": ("PNG", "image/png", "All pictures as one, the parameters inside"),
}

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


# --- settings ------------------------------------------------------------------------------------


def walk_checks() -> dict[str, Check]:
    """Checks of the settings that all walks have."""
    return {
        "num_frames": lambda name, entry: whole(name, entry, 2, MOST_FRAMES),
        "seed": checked_seed,
        "num_inference_steps": lambda name, entry: whole(name, entry, 1, MOST_STEPS),
        "invert": flag,
    }


def check_walk(
    pipe: Any, call: Mapping[str, Any], captions: Any, own: Sequence[str], who: str
) -> tuple[str, ...] | None:
    """Refuses, before anything runs, what a panel of walks is made with.

    Args:
        pipe: the pipeline.
        call: keywords for it.
        captions: to compare with, or ``None``.
        own: names of the panel's settings.
        who: the panel.

    Returns:
        The captions.

    Raises:
        TypeError: no pipeline, an unknown keyword or a wrong type, captions that are no texts.
        ValueError: no captions, or a value out of its range.
    """
    parameters = checks.parameters_of(pipe, who)
    family = unclip_of(pipe)
    known = {**parameters, **(family.keywords() if family is not None else {})}
    check_extra(pipe, call, known, own, who)
    checks.check_call(pipe, known, call, who, own)
    if captions is None:
        return None
    if isinstance(captions, str) or not isinstance(captions, Sequence):
        raise TypeError(
            f'captions must be a list of texts, got {short(captions)}; write ["a cat", "a dog"].'
        )
    checks.check_prompt("captions", list(captions))
    return tuple(captions)


def draws_critters(pipe: Any) -> bool:
    """Whether a pipeline draws critters: it travels in the package, or has the embedded CLIP."""
    return is_embedded(pipe) or space_name(pipe) == EMBEDDED


def learned_words(embedded: bool) -> frozenset[str]:
    """The words that an embedded model learned; empty for models that know any word."""
    return critter_words if embedded else frozenset()


def usual_steps(pipe: Any, embedded: bool) -> int:
    """Steps of a picture: ten for embedded models, else what the weights were made for."""
    steps = int(origin_of(pipe).defaults.get("num_inference_steps", 20))
    return min(steps, 10) if embedded else steps


class WalkForm(Form):
    """The fields that all walks have; a subclass adds its own in ``_make``."""

    counted = ("picture", "pictures")

    def end_field(self, name: str, title: str, **options: Any) -> EndField:
        """The field of an end, under the setting's name."""
        field = EndField(
            title,
            on_edit=lambda _: self._tell(name)(None),
            on_wrong=lambda words: self.refused(name, words),
            on_turn=lambda: self.refused(name, ""),
            **options,
        )
        self._fields[name] = field
        return field

    def walk_fields(self, invert: str) -> tuple[ipywidgets.Box, ipywidgets.Widget]:
        """Makes those of ``walk_checks``; gives seed and steps to be put into a row.

        Args:
            invert: what is ticked, in words.
        """
        self._fields["num_frames"] = ipywidgets.BoundedIntText(
            description="Pictures", min=2, max=MOST_FRAMES
        )
        seed = self.seed_row()
        self._fields["num_inference_steps"] = ipywidgets.IntText(description="Steps")
        self._fields["invert"] = ipywidgets.Checkbox(description=invert, indent=False)
        return seed, self._fields["num_inference_steps"]


# --- the panel -----------------------------------------------------------------------------------


class WalkingPanel(RunningPanel):
    """A ``RunningPanel`` whose runs make walks of one pipeline."""

    def _build(
        self, form: WalkForm, pipe: Any, start: dict[str, Any], captions: Sequence[str] | None
    ) -> None:
        """Puts the widgets together; the subclass's form is their head."""
        self._pipe, self._captions, self._form = pipe, captions, form
        self._film, self._drawn = Film(), -1
        self._view = WalkView()
        self._export = Export(lambda: self.result, lambda words: form.say(words, wrong=True))
        style = ipywidgets.HTML(f"<style>{asset('panel.css', 'ldmkit.panels')}</style>")
        style.add_class("ldm-style")
        self.add_class("ldm-walk-panel")
        self._stand([style, form, self._view, self._export], start)

    @property
    def place(self) -> int:
        """The picture that is shown, from 0; it may be set."""
        return int(self._view.place)

    @place.setter
    def place(self, place: int) -> None:
        self._view.place = whole("place", place, 0, max(0, len(self._film.shown.pictures) - 1))

    def export(self, path: str | PathLike[str]) -> Path:
        """Writes the shown record; the ending says how.

        Args:
            path: ``"walk.gif"``, ``".webp"``, ``".html"`` (one page with a slider), ``".png"``
                (all pictures, the parameters inside) or ``".safetensors"`` (the record itself).

        Raises:
            RuntimeError: nothing was made yet.
            TypeError: not a path.
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
            quiet = quiet_twin(pipe)
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

    def _show(self, job: Job) -> None:
        if len(self._film.pictures) != self._drawn and self._film.pictures:
            self._drawn = len(self._film.pictures)
            self._view.show(self._film.coming())

    def _keep(self, job: Job, work: Any) -> None:
        self._restore()
        self._export.ready()

    def _restore(self) -> None:
        self._drawn = -1
        self._view.show(self._film.shown)

    def _release(self) -> None:
        self._captions = None
        self._film.shown, self._film.pictures = Shown(), []
        self._view.clear()


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
            reference = reference_for(pipe, draws_critters(pipe), captions)
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


# --- to take home --------------------------------------------------------------------------------


def write_walk(walk: Walk, path: str | PathLike[str]) -> Path:
    """Writes a walk in the kind that the path's ending names.

    Args:
        walk: the record.
        path: ends in ``.gif``, ``.html``, ``.png``, ``.webp``, or ``.safetensors`` (the record
            itself, every bit kept).

    Raises:
        TypeError: not a path.
        ValueError: another ending.
        OSError: the folder is missing or not writable.
    """
    if not isinstance(path, (str, PathLike)) or isinstance(fspath(path), bytes):
        raise TypeError(f'path must be a file name, got {short(path)}; write "walk.gif".')
    writers: dict[str, Callable[[str | PathLike[str]], Path]] = {
        ".gif": walk.to_gif,
        ".html": walk.to_html,
        ".png": walk.to_png,
        ".webp": walk.to_webp,
        ".safetensors": walk.save,
    }
    ending = Path(path).suffix.lower()
    if ending not in writers:
        raise ValueError(
            f"A walk's file must end in {', '.join(writers)}, got {short(str(path))}; "
            'write "walk.gif".'
        )
    return writers[ending](path)


class Export(ipywidgets.Box):
    """A button for each kind; a click makes the file and shows the link that saves it.

    Args:
        walk: gives the record that is shown, or ``None``.
        on_wrong: called with a sentence where a file can't be made.
    """

    def __init__(self, walk: Callable[[], Walk | None], on_wrong: Callable[[str], None]) -> None:
        self._walk, self._on_wrong = walk, on_wrong
        self.buttons = {}
        for ending, (name, _, tooltip) in KINDS.items():
            button = ipywidgets.Button(description=name, tooltip=tooltip, icon="download")
            button.on_click(lambda _, ending=ending: self._make(ending))
            self.buttons[ending] = button
        self._link = ipywidgets.HTML()
        self._link.add_class("ldm-link")
        label = ipywidgets.HTML('<span class="ldm-export-title">Export</span>')
        super().__init__([label, *self.buttons.values(), self._link])
        self.add_class("ldm-export")
        self.add_class("ldm-empty")

    def ready(self) -> None:
        """Another record is shown: the old link goes."""
        self._link.value = ""
        self.remove_class("ldm-empty")

    def _make(self, ending: str) -> None:
        walk = self._walk()
        if walk is None:
            return
        name = file_name(walk.title, ending, otherwise="walk")
        try:
            with tempfile.TemporaryDirectory() as folder:
                content = write_walk(walk, Path(folder) / name).read_bytes()
        except (OSError, ValueError) as error:
            self._on_wrong(str(error))
            return
        kind = KINDS[ending][1]
        self._link.value = (
            f'<a download="{text(name)}" href="data:{kind};base64,'
            f'{base64.b64encode(content).decode()}">Save {text(name)}</a> '
            f"<span>{_size(len(content))}</span>"
        )


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{max(1, round(count / 1000))} kB"
