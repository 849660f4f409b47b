"""``ArithmeticPanel``: pictures and words added with weights, and the sum turned into pictures.

The widget-free twins are ``ldmkit.text_diff``, and ``weighted_sum`` with
``ldmkit.decode_embedding``. As in an ``InterpolationPanel`` pictures are made ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets
import numpy as np

from ldmkit.check import say
from ldmkit.figures.checks import short_repr
from ldmkit.panels.actions import row
from ldmkit.panels.ends import given
from ldmkit.panels.job import Job
from ldmkit.panels.terms import TermsField, checked_terms, formula
from ldmkit.panels.walk_form import (
    MOST_FRAMES,
    WalkForm,
    check_extra,
    checked_choice,
    checked_frames,
    checked_number,
    checked_seed,
    checked_steps,
    usual_steps,
    vocabulary_of,
)
from ldmkit.panels.walking import Make, OnFrame, OnStep, WalkingPanel, is_embedded
from ldmkit.panels.words import unknown_words
from ldmkit.records import Walk
from ldmkit.space.arithmetic import check_decodes
from ldmkit.space.clip import ClipSpace
from ldmkit.space.sums import AXES, FORMS, parted, walk_sum

__all__ = ["ArithmeticPanel"]

NAMES = ("terms", "form", "theta", "num_frames", "seed", "num_inference_steps", "invert")
CRITTER = 400_137  # a big blue fox in the snow: a bare head, and none that is evaluated


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
        check_extra(unclip, call, NAMES, "ArithmeticPanel")
        check_decodes(unclip, "ArithmeticPanel")
        self._call, self._clip, self._embedded = call, clip, is_embedded(unclip)
        steps = num_inference_steps
        start = self._checked(
            {
                "terms": _terms() if terms is None else terms,
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
        fields: _Form = _Form(
            self._edited,
            vocabulary=vocabulary_of(self._embedded),
            on_wrong=lambda words: fields.say(words, wrong=True),
            on_enter=self._run_clicked,
        )
        self._stand(fields, unclip, start, captions)

    def __repr__(self) -> str:
        if self._closed:
            return "ArithmeticPanel(closed)"
        return f"ArithmeticPanel({formula(self.value['terms'])!r}, {self.job})"

    def _fill(self, settings: dict[str, Any]) -> None:
        self._form.fill(settings)  # type: ignore[attr-defined]

    def _show(self, job: Job) -> None:
        super()._show(job)
        if job.ended:  # the whole sum, which was asked for
            self.place = len(self._film.shown.pictures) - 1

    def _release(self) -> None:
        super()._release()
        self._clip = None

    def _checked(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise TypeError(f"value must be a dict of {', '.join(NAMES)}, got {short_repr(value)}.")
        return {name: self._checked_one(name, entry) for name, entry in value.items()}

    def _checked_one(self, name: str, entry: Any) -> Any:
        if name == "terms":
            return checked_terms(entry)
        if name == "form":
            return checked_choice(name, entry, FORMS)
        if name == "theta":
            return checked_number("theta (θ)", entry, 0, 1)
        if name == "num_frames":
            return checked_frames(entry)
        if name == "seed":
            return checked_seed(entry)
        if name == "num_inference_steps":
            return checked_steps(entry)
        if name == "invert":
            if not isinstance(entry, bool):
                raise TypeError(f"invert must be True or False, got {short_repr(entry)}.")
            return entry
        checked_choice("A setting of this panel", name, NAMES)
        raise AssertionError  # checked_choice has refused it

    @staticmethod
    def _told(walk: Walk) -> list[str]:
        return [_changes(verdict, i) for i, verdict in enumerate(walk.verdicts)]

    def _order(self, settings: dict[str, Any]) -> tuple[list[float], str, Make]:
        form, clip = settings["form"], self._clip
        words = {name: entry for name, entry in settings.items() if name != "terms"} | self._call
        vocabulary = vocabulary_of(self._embedded)

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


def _terms() -> list[Any]:
    return [(1, CRITTER), (1, "a cat wearing a scarf"), (-1, "a cat")]


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
        self._fields["terms"] = TermsField(**options)
        seed = self.seed_row()
        more = {
            "form": ipywidgets.Dropdown(
                options=[("turn by θ: a text diff", "turn"), ("sum: added as they are", "sum")],
                description="How",
            ),
            "theta": ipywidgets.FloatText(description="θ up to", step=0.05),
            "num_frames": ipywidgets.BoundedIntText(description="Pictures", min=2, max=MOST_FRAMES),
            "num_inference_steps": ipywidgets.IntText(description="Steps"),
            "invert": ipywidgets.Checkbox(
                description="Begin from the first picture's own noise", indent=False
            ),
        }
        self._fields |= more
        more["form"].observe(
            lambda change: setattr(more["theta"], "disabled", change["new"] != "turn"),
            names=["value"],
        )
        numbers = [more["form"], more["theta"], more["num_frames"], seed]
        return [
            self._fields["terms"],
            row("ldm-numbers", [*numbers, more["num_inference_steps"]]),
            more["invert"],
        ]
