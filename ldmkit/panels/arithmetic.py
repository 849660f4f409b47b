"""``ArithmeticPanel``: pictures and words added with weights, and the sum turned into pictures.

The widget-free twins are ``ldmkit.text_diff``, and ``weighted_sum`` with
``ldmkit.decode_embedding``. As in an ``InterpolationPanel`` pictures are made ahead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
import numpy as np
import traitlets

from ldmkit.check import choice, number, say, short
from ldmkit.figures.html import shorten, text
from ldmkit.panels.end_field import EndField, checked_end, given, name_of
from ldmkit.panels.fields import row, small_button, unknown_words
from ldmkit.panels.job import Job
from ldmkit.panels.panel import close_tree
from ldmkit.panels.walks import (
    Make,
    OnFrame,
    OnStep,
    WalkForm,
    WalkingPanel,
    check_walk,
    draws_critters,
    learned_words,
    usual_steps,
    walk_checks,
)
from ldmkit.records import Walk
from ldmkit.space.arithmetic import AXES, FORMS, parted, walk_sum, written
from ldmkit.space.clip import ClipSpace
from ldmkit.space.unclip import decoding_unclip

__all__ = ["ArithmeticPanel", "checked_terms", "formula"]

NAMES = ("terms", "form", "theta", "num_frames", "seed", "num_inference_steps", "invert")
MOST_TERMS = 8  # more don't fit on a screen
MOST_WEIGHT = 10
NEW = (1.0, "a red cat")  # what a new chip holds until it is edited
CRITTER = 400_137  # a big blue fox in the snow: a bare head, and none that is evaluated

Term = tuple[float, Any]


class ArithmeticPanel(WalkingPanel):
    """Adds pictures and words with signs and weights, and shows every picture on the way.

    The first term with + is where the way begins. With ``form="turn"`` it is turned by θ towards
    the direction of the other terms, as DALL-E 2's text diffs are (Ramesh et al. 2022, arXiv
    2204.06125, section 3.3); with ``form="sum"`` a growing share of them is added. Beside each
    picture stand the nearest captions, where it lies in CLIP's space, and of critters what changed
    and what stayed.

    Its widget-free twins are ``ldmkit.text_diff(unclip, picture, source, target, ...)`` for + words
    and − words, and for any sum ``ldmkit.space.arithmetic.weighted_sum(terms)`` with
    ``ldmkit.decode_embedding(unclip, z)``.

    ``panel.value`` are the settings; a part of them may be set. ``panel.run()`` queues a run and
    returns its job, as the button does; ``panel.stop()`` ends it and keeps the pictures so far.
    ``panel.result`` is the last ``Walk``; ``panel.observe(handler, names="result")`` calls back
    with each new one (on the worker thread). ``panel.export("sum.gif")`` writes it.
    ``panel.place`` is the picture that is shown. ``panel.close()`` stops the panel's runs.

    Args:
        unclip: a pipeline that decodes embeddings of pictures.
        terms: pairs of a weight, −10 to 10, and words, a PIL picture, a ``Scene`` or its seed, an
            ``Embedding``, a ``Trajectory``, a ``Walk`` (its last picture); a thing alone counts
            once. By default a drawn critter + "a cat wearing a scarf" − "a cat".
        form: ``"turn"`` or ``"sum"``.
        theta: where a turn ends, as a share of the whole angle, 0…1.
        num_frames: pictures, 2 to 64.
        seed: of the noise that stays the same all along (and of the prior's, where words begin).
        num_inference_steps: of each picture; by default ten for the embedded models.
        invert: begin from the first picture's own noise, as ``text_diff`` does.
        captions: what places are compared with; by default captions of critters, or of common
            things where the model is not an embedded one.
        clip: the CLIP space to encode in, where the pipeline lacks a half of its CLIP.
        **call: the pipeline's own keywords, the same for every run (``guidance_scale``, ...).

    Raises:
        TypeError: no unCLIP pipeline, an unknown keyword (the nearest is told), or a wrong type.
        ValueError: a value out of its range.
    """

    def __init__(
        self,
        unclip: Any,
        terms: Sequence[Any] | None = None,
        *,
        form: str = "turn",
        theta: float = 0.4,
        num_frames: int = 9,
        seed: int = 0,
        num_inference_steps: int | None = None,
        invert: bool = True,
        captions: Sequence[str] | None = None,
        clip: ClipSpace | None = None,
        **call: Any,
    ) -> None:
        captions = check_walk(unclip, call, captions, NAMES, "ArithmeticPanel")
        decoding_unclip(unclip, "ArithmeticPanel")
        if clip is not None and not isinstance(clip, ClipSpace):
            raise TypeError(
                f"clip must be a ClipSpace or None, got {short(clip)}; make one with "
                "ldmkit.clip_space(name)."
            )
        self._checks = walk_checks() | {
            "terms": lambda _, entry: checked_terms(entry),
            "form": lambda name, entry: choice(name, entry, FORMS),
            "theta": lambda _, entry: number("theta (θ)", entry, 0, 1),
        }
        self._checks = {name: self._checks[name] for name in NAMES}
        self._call, self._clip, self._embedded = call, clip, draws_critters(unclip)
        steps = num_inference_steps
        usual = [(1, CRITTER), (1, "a cat wearing a scarf"), (-1, "a cat")]
        start = self._checked(
            {
                "terms": usual if terms is None else terms,
                "form": form,
                "theta": theta,
                "num_frames": num_frames,
                "seed": seed,
                "num_inference_steps": usual_steps(unclip, self._embedded)
                if steps is None
                else steps,
                "invert": invert,
            }
        )
        fields = _Form(
            self._edited,
            vocabulary=learned_words(self._embedded),
            on_enter=self._run_clicked,
        )
        self._build(fields, unclip, start, captions)

    def __repr__(self) -> str:
        if self._closed:
            return "ArithmeticPanel(closed)"
        return f"ArithmeticPanel({formula(self.value['terms'])!r}, {self.job})"

    def _keep(self, job: Job, work: Any) -> None:
        super()._keep(job, work)
        self.place = len(self._film.shown.pictures) - 1  # the whole sum, which was asked for

    def _release(self) -> None:
        super()._release()
        self._clip = None

    @staticmethod
    def _told(walk: Walk) -> list[str]:
        return [_changes(verdict, i) for i, verdict in enumerate(walk.verdicts)]

    def _order(self, settings: dict[str, Any]) -> tuple[list[float], str, Make]:
        form, clip = settings["form"], self._clip
        words = {name: entry for name, entry in settings.items() if name != "terms"} | self._call
        vocabulary = learned_words(self._embedded)

        def make(pipe: Any, on_frame: OnFrame, on_step: OnStep) -> tuple[Walk, Sequence[str]]:
            terms = _given(settings)
            texts = [thing for weight, thing in terms if isinstance(thing, str) and weight]
            if unknown := unknown_words(vocabulary, " ".join(texts)):
                say(unknown, stacklevel=1)
            # One by one on a CPU, where a batch is hardly faster, so that pictures come steadily.
            on_cpu = str(getattr(pipe, "device", "cpu")).startswith("cpu")
            size: dict[str, Any] = {"batch_size": 1} if on_cpu else {}
            walk = walk_sum(
                pipe, terms, clip=clip, on_frame=on_frame, on_step=on_step, **size, **words
            )
            return walk, texts

        last = settings["theta"] if form == "turn" else 1.0
        places = [float(t) for t in np.linspace(0, last, settings["num_frames"])]
        return places, AXES[form], make


def _given(settings: dict[str, Any]) -> list[tuple[float, Any]]:
    """The terms as ``walk_sum`` takes them; an inverted walk begins at the picture itself."""
    (_, first), _ = parted(settings["terms"])
    return [
        (weight, given(thing, as_picture=thing is first and settings["invert"]))
        for weight, thing in settings["terms"]
    ]


def _changes(verdict: str, place: int) -> str:
    """Lines of a verdict: what the judge sees first, then what changed and what stayed."""
    if place == 0:
        return f"The judge sees {verdict}"
    *changed, kept = verdict.split("; ")
    what = "; ".join(part.replace(": ", " ", 1) for part in changed)
    stayed = kept.removeprefix("kept ")
    return f"Changed: {what or 'nothing'}\nStayed: {stayed}"


class _Form(WalkForm):
    """Terms, and how they are added."""

    def _make(self, **options: Any) -> list[ipywidgets.Widget]:
        self._fields["terms"] = TermsField(
            on_wrong=lambda words: self.refused("terms", words),
            on_turn=lambda: self.refused("terms", ""),
            **options,
        )
        form = ipywidgets.Dropdown(
            options=[("turn by θ: a text diff", "turn"), ("sum: added as they are", "sum")],
            description="How",
        )
        theta = ipywidgets.FloatText(description="θ up to", step=0.05)
        form.observe(
            lambda change: setattr(theta, "disabled", change["new"] != "turn"), names=["value"]
        )
        self._fields |= {"form": form, "theta": theta}
        seed, steps = self.walk_fields("Begin from the first picture's own noise")
        numbers = [form, theta, self._fields["num_frames"], seed, steps]
        return [self._fields["terms"], row("ldm-numbers", numbers), self._fields["invert"]]


# --- the terms -----------------------------------------------------------------------------------


def checked_terms(entry: Any) -> tuple[Term, ...]:
    """Terms as they are kept: pairs of a weight, −10 to 10, and what ``checked_end`` keeps.

    Args:
        entry: a list of terms; a thing without a weight counts once.

    Raises:
        TypeError: no list, or a term of a wrong kind.
        ValueError: too many terms, a weight out of its range, words beyond all measure.
    """
    if not isinstance(entry, (list, tuple)):
        raise TypeError(
            f"terms must be a list of pairs of a weight and a thing, got {short(entry)}; "
            'write [(1, picture), (1, "a cat with a crown"), (-1, "a cat")].'
        )
    if len(entry) > MOST_TERMS:
        raise ValueError(f"A sum may have {MOST_TERMS} terms at most here, got {len(entry)}.")
    return tuple(_checked_term(i, term) for i, term in enumerate(entry, 1))


def _checked_term(i: int, term: Any) -> Term:
    paired = isinstance(term, (list, tuple))
    if paired and len(term) != 2:
        raise TypeError(
            f"Term {i} must be a pair of a weight and a thing, got {short(term)}; "
            'write (1, "a cat").'
        )
    weight, thing = term if paired else (1.0, term)
    name = f"The weight of term {i}"
    weight = number(name, weight, -MOST_WEIGHT, MOST_WEIGHT)
    return weight, checked_end(f"Term {i}", thing)


def formula(terms: tuple[Term, ...]) -> str:
    """The sum in words, long labels cut."""
    return written([(w, shorten(name_of(thing, i), 60)) for i, (w, thing) in enumerate(terms)])


class TermsField(ipywidgets.VBox):
    """Chips under the sum in words; ``value`` are the terms as ``checked_terms`` keeps them.

    Args:
        options: of each ``EndField``: ``vocabulary``, ``on_wrong``, ``on_turn``, ``on_enter``.
    """

    value = traitlets.Any((), help="The terms, pairs of a weight and a thing.")

    def __init__(self, **options: Any) -> None:
        self._options, self._ours = options, False
        self._chips: list[_Chip] = []
        self._sum = ipywidgets.HTML()
        self._sum.add_class("ldm-sum")
        self._box = row("ldm-terms", [])
        self._add = ipywidgets.Button(description="Add a term", icon="plus")
        self._add.add_class("ldm-add")
        self._add.on_click(lambda _: self._grow())
        super().__init__([self._sum, self._box, self._add])
        self.observe(lambda _: self._draw(), names=["value"])

    @property
    def entry(self) -> list[Term]:
        """What stands in the chips, right or wrong."""
        return [chip.term for chip in self._chips]

    def standing(self) -> list[Term]:
        """The same, or one sentence where a chip's end is wrong (see ``EndField.standing``)."""
        return [chip.standing(f"Term {i}") for i, chip in enumerate(self._chips, 1)]

    def _draw(self) -> None:
        terms = self.value
        if not self._ours:
            while len(self._chips) > len(terms):
                close_tree(self._chips.pop())
            while len(self._chips) < len(terms):
                self._chips.append(self._chip())
            for chip, term in zip(self._chips, terms, strict=True):
                chip.fill(term)
        for i, chip in enumerate(self._chips):
            chip.count_as(i)
        self._box.children = tuple(self._chips)
        self._sum.value = text(formula(terms) if terms else "An empty sum: add a term.")
        self._add.disabled = len(terms) >= MOST_TERMS

    def _chip(self) -> _Chip:
        return _Chip(self._collect, self._shrink, **self._options)

    def _collect(self) -> None:
        """A chip was edited: what all of them hold, or a sentence on what is wrong."""
        try:
            terms = checked_terms(self.entry)
        except (TypeError, ValueError) as error:
            self._options["on_wrong"](str(error))
            return
        self._ours = True
        try:
            self.value = terms
        finally:
            self._ours = False

    def _grow(self) -> None:
        chip = self._chip()
        chip.fill(NEW)
        self._chips.append(chip)
        self._collect()

    def _shrink(self, chip: _Chip) -> None:
        self._chips.remove(chip)
        self._collect()
        self._box.children = tuple(self._chips)  # also where another chip is wrong
        close_tree(chip)


class _Chip(ipywidgets.VBox):
    """One term."""

    def __init__(
        self,
        on_edit: Callable[[], None],
        on_remove: Callable[[_Chip], None],
        **options: Any,
    ) -> None:
        self._on_edit, self._filling = on_edit, False
        self._sign = ipywidgets.ToggleButtons(
            options=[("+", 1.0), ("−", -1.0)], tooltips=["Add this term", "Subtract this term"]
        )
        self._sign.add_class("ldm-sign")
        self._weight = ipywidgets.FloatText(description="×", step=0.1)
        self._weight.add_class("ldm-weight")
        self._weight.style.description_width = "initial"
        remove = small_button("trash", "Take this term out of the sum")
        remove.on_click(lambda _: on_remove(self))
        self._end = EndField("Term", on_edit=lambda _: self._edited(), **options)
        super().__init__([row("ldm-chip-head", [self._sign, self._weight, remove]), self._end])
        self.add_class("ldm-chip")
        for field in (self._sign, self._weight):
            field.observe(lambda _: self._edited(), names=["value"])

    @property
    def term(self) -> Term:
        """Its weight, with its sign, and what stands there."""
        return self._sign.value * self._weight.value, self._end.end

    def standing(self, name: str) -> Term:
        """The same, or one sentence where its end is wrong."""
        return self.term[0], self._end.standing(name)

    def count_as(self, number: int) -> None:
        """Which term it is, from 0."""
        self._end.count_as(number, f"Term {number + 1}")

    def fill(self, term: Term) -> None:
        """Shows a term, without a call of ``on_edit``."""
        self._filling = True
        try:
            weight, end = term
            self._sign.value = math.copysign(1.0, weight)
            self._weight.value = abs(weight)
            self._end.fill(end)
        finally:
            self._filling = False
        (self.add_class if self._sign.value < 0 else self.remove_class)("ldm-minus")

    def _edited(self) -> None:
        if self._filling:
            return
        (self.add_class if self._sign.value < 0 else self.remove_class)("ldm-minus")
        self._on_edit()
