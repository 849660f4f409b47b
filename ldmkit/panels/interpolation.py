"""``InterpolationPanel``: from one picture to another, every picture between them under a slider.

The widget-free twin is ``ldmkit.interpolate``. Pictures are made ahead on the worker thread (see
``job``); when they stand, dragging the slider asks no kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
import numpy as np
from PIL import Image

from ldmkit.check import choice, say
from ldmkit.critters.judging import look
from ldmkit.figures.html import shorten
from ldmkit.panels.end_field import checked_end, given, name_of
from ldmkit.panels.fields import row, unknown_words
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
    with_verdicts,
)
from ldmkit.records import Walk
from ldmkit.space.interpolate import METHODS, SPACES, interpolate

__all__ = ["InterpolationPanel"]

NAMES = ("a", "b", "space", "method", "num_frames", "seed", "num_inference_steps", "invert")
SURE = 0.75  # below it a word of doubt is added
PLACES = {
    "night": "at night",
    "beach": "on the beach",
    "meadow": "in a meadow",
    "snow": "in the snow",
    "city": "in the city",
}


class InterpolationPanel(WalkingPanel):
    """Walks from one end to the other and shows every picture on the way.

    An end is words, a drawn critter (by its seed), a picture, or an earlier record of the
    notebook. Beside each picture stand the nearest captions, where it lies in CLIP's space (and
    where texts and pictures lie there), and of critters what the judge sees.

    Its widget-free twin is ``ldmkit.interpolate(pipe, a, b, space=..., ...)``.

    ``panel.value`` are the settings; a part of them may be set. ``panel.run()`` queues a run and
    returns its job, as the button does; ``panel.stop()`` ends it and keeps the pictures so far.
    ``panel.result`` is the last ``Walk``; ``panel.observe(handler, names="result")`` calls back
    with each new one (on the worker thread). ``panel.export("walk.gif")`` writes it.
    ``panel.place`` is the picture that is shown. ``panel.close()`` stops the panel's runs.

    Args:
        pipe: an unCLIP pipeline; or any diffusers pipeline for the other spaces.
        a: where the way begins: words, a PIL picture, a ``Scene`` or its seed, an ``Embedding``,
            a ``Trajectory``, a ``Walk`` (its last picture).
        b: where it ends.
        space: ``"clip_image"``, ``"prompt"``, ``"latent"`` or ``"pixel"``, as far as the pipeline
            has it; by default the first it has.
        method: ``"slerp"`` or ``"lerp"``.
        num_frames: pictures, 2 to 64, the ends among them.
        seed: of the noise that stays the same all along.
        num_inference_steps: of each picture; by default ten for the embedded models.
        invert: begin from the pictures' own noises, as in ``interpolate``.
        captions: what places are compared with; by default captions of critters, or of common
            things where the model is not an embedded one.
        **call: the pipeline's own keywords, the same for every run (``guidance_scale``, ...).

    Raises:
        TypeError: no pipeline, an unknown keyword (the nearest is told), or a wrong type.
        ValueError: a value out of its range.
    """

    def __init__(
        self,
        pipe: Any,
        a: Any = "a red cat with a top hat",
        b: Any = "a blue dog",
        *,
        space: str | None = None,
        method: str = "slerp",
        num_frames: int = 9,
        seed: int = 0,
        num_inference_steps: int | None = None,
        invert: bool = False,
        captions: Sequence[str] | None = None,
        **call: Any,
    ) -> None:
        captions = check_walk(pipe, call, captions, NAMES, "InterpolationPanel")
        self._spaces, self._call = _spaces(pipe), call
        self._embedded = draws_critters(pipe)
        self._checks = walk_checks() | {
            "a": checked_end,
            "b": checked_end,
            "space": lambda name, entry: choice(
                name, entry, self._spaces, why=" with this pipeline"
            ),
            "method": lambda name, entry: choice(name, entry, METHODS),
        }
        self._checks = {name: self._checks[name] for name in NAMES}
        steps = usual_steps(pipe, self._embedded)
        start = self._checked(
            {
                "a": a,
                "b": b,
                "space": self._spaces[0] if space is None else space,
                "method": method,
                "num_frames": num_frames,
                "seed": seed,
                "num_inference_steps": steps
                if num_inference_steps is None
                else num_inference_steps,
                "invert": invert,
            }
        )
        form = _Form(
            self._edited,
            spaces=self._spaces,
            vocabulary=learned_words(self._embedded),
            on_enter=self._run_clicked,
        )
        self._build(form, pipe, start, captions)

    def __repr__(self) -> str:
        if self._closed:
            return "InterpolationPanel(closed)"
        names = [name_of(self.value[end], i) for i, end in enumerate(("a", "b"))]
        ends = " → ".join(shorten(name, 40) for name in names)
        return f"InterpolationPanel({ends!r} in {self.value['space']}, {self.job})"

    def _order(self, settings: dict[str, Any]) -> tuple[list[float], str, Make]:
        space, embedded = settings["space"], self._embedded
        vocabulary = learned_words(embedded)
        words = {name: settings[name] for name in ("num_frames", "seed", "space", "method")}
        words["invert"] = settings["invert"] and space == "clip_image"
        by_picture = space != "clip_image" or words["invert"]
        ends = [given(settings[name], as_picture=by_picture) for name in ("a", "b")]
        if not SPACES[space].still:
            words |= {"num_inference_steps": settings["num_inference_steps"], **self._call}

        def make(pipe: Any, on_frame: OnFrame, on_step: OnStep) -> tuple[Walk, Sequence[str]]:
            texts = [end for end in ends if isinstance(end, str)]
            if unknown := unknown_words(vocabulary, " ".join(texts)):
                say(unknown, stacklevel=1)
            # One by one on a CPU, where a batch is hardly faster, so that pictures come steadily.
            device = str(getattr(pipe, "device", None) or "cpu")
            size = 1 if device.startswith("cpu") else None
            walk = interpolate(
                pipe, *ends, batch_size=size, on_frame=on_frame, on_step=on_step, **words
            )
            if embedded:
                walk = with_verdicts(walk, _seen_words(walk.images))
            return walk, texts

        places = [float(t) for t in np.linspace(0, 1, settings["num_frames"])]
        return places, "t", make


def _spaces(pipe: Any) -> tuple[str, ...]:
    """The spaces that a pipeline has."""
    return tuple(name for name, space in SPACES.items() if space.title and space.has(pipe))


class _Form(WalkForm):
    """Two ends, and how to go from one to the other."""

    def _make(self, **options: Any) -> list[ipywidgets.Widget]:
        spaces = options.pop("spaces")
        ends = [self.end_field(n, title, **options) for n, title in (("a", "From"), ("b", "To"))]
        for i, end in enumerate(ends):
            end.count_as(i)
        more = {
            "space": ipywidgets.Dropdown(
                options=[(f"{space}: {SPACES[space].title}", space) for space in spaces],
                description="Space",
            ),
            "method": ipywidgets.Dropdown(
                options=[("slerp: the great circle", "slerp"), ("lerp: the straight line", "lerp")],
                description="Method",
            ),
        }
        self._fields |= more
        seed, steps = self.walk_fields("Begin from the pictures' own noise")
        fields = self._fields
        numbers = [fields["space"], fields["method"], fields["num_frames"], seed, steps]
        return [row("ldm-ends", ends), row("ldm-numbers", numbers), fields["invert"]]


# --- what is seen --------------------------------------------------------------------------------


def _seen_words(pictures: Sequence[Image.Image]) -> tuple[str, ...]:
    """A line for each picture: ``"a red cat with a crown, on the beach (98 %)"``."""
    return tuple(tell(one) for one in look(pictures)) if pictures else ()


def tell(seen: Mapping[str, tuple[str, float]]) -> str:
    """One line of what the judge sees; the share is its confidence in the animal."""
    number, sure = seen["number"]
    if number == "none":
        return f"no critter ({sure:.0%})"
    words = _critter(seen, "")
    if number == "two":
        words = f"{words} and {_critter(seen, ' 2')}"
    place, background = seen["place"][0], seen["background"][0]
    where = f"on a {background} background" if place == "plain" else PLACES[place]
    confidence = min(sure, seen["animal"][1])
    style = seen["style"][0]
    doubt = "perhaps " if confidence < SURE else ""
    painted = "" if style == "cartoon" else f", {style}"
    return f"{doubt}{words}, {where}{painted} ({confidence:.0%})"


def _critter(seen: Mapping[str, tuple[str, float]], which: str) -> str:
    colour, animal = seen[f"colour{which}"][0], seen[f"animal{which}"][0]
    wears = seen[f"wears{which}"][0]
    article = "an" if colour[0] in "aeiou" else "a"
    with_ = {"nothing": "", "glasses": " with glasses"}.get(wears, f" with a {wears}")
    return f"{article} {colour} {animal}{with_}"
