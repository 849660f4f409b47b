"""``InterpolationPanel``: from one picture to another, every picture between them under a slider.

The widget-free twin is ``ldmkit.interpolate``. Pictures are made ahead on the worker thread (see
``job``); when they stand, dragging the slider asks no kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets
import numpy as np

from ldmkit.check import say
from ldmkit.figures.checks import short_repr
from ldmkit.figures.words import shorten
from ldmkit.panels.actions import row
from ldmkit.panels.ends import EndField, checked_end, given, name_of
from ldmkit.panels.seen import seen_words
from ldmkit.panels.walk_form import (
    MOST_FRAMES,
    WalkForm,
    check_extra,
    checked_choice,
    checked_frames,
    checked_seed,
    checked_steps,
    usual_steps,
    vocabulary_of,
)
from ldmkit.panels.walking import Make, OnFrame, OnStep, WalkingPanel, is_embedded, with_verdicts
from ldmkit.panels.words import unknown_words
from ldmkit.records import Walk
from ldmkit.space.adaptors import family_of
from ldmkit.space.interpolate import METHODS, interpolate

__all__ = ["InterpolationPanel"]

NAMES = ("a", "b", "space", "method", "num_frames", "seed", "num_inference_steps", "invert")
SPACES = {
    "clip_image": "CLIP embeddings of pictures",
    "prompt": "encoded prompts",
    "latent": "latents",
    "pixel": "pixels",
}
RUNNING = ("clip_image", "prompt")  # spaces whose pictures are runs from noise


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
        check_extra(pipe, call, NAMES, "InterpolationPanel")
        self._spaces, self._call = _spaces(pipe), call
        self._embedded = is_embedded(pipe)
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
        form: _Form = _Form(
            self._edited,
            spaces=self._spaces,
            vocabulary=vocabulary_of(self._embedded),
            on_wrong=lambda words: form.say(words, wrong=True),
            on_enter=self._run_clicked,
        )
        self._stand(form, pipe, start, captions)

    def __repr__(self) -> str:
        if self._closed:
            return "InterpolationPanel(closed)"
        names = [name_of(self.value[end], i) for i, end in enumerate(("a", "b"))]
        ends = " → ".join(shorten(name, 40) for name in names)
        return f"InterpolationPanel({ends!r} in {self.value['space']}, {self.job})"

    def _fill(self, settings: dict[str, Any]) -> None:
        self._form.fill(settings)  # type: ignore[attr-defined]

    def _checked(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise TypeError(f"value must be a dict of {', '.join(NAMES)}, got {short_repr(value)}.")
        return {name: self._checked_one(name, entry) for name, entry in value.items()}

    def _checked_one(self, name: str, entry: Any) -> Any:
        if name in ("a", "b"):
            return checked_end(name, entry)
        if name == "space":
            return checked_choice(name, entry, self._spaces, " with this pipeline")
        if name == "method":
            return checked_choice(name, entry, METHODS)
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

    def _order(self, settings: dict[str, Any]) -> tuple[list[float], str, Make]:
        space, embedded = settings["space"], self._embedded
        vocabulary = vocabulary_of(embedded)
        words = {name: settings[name] for name in ("num_frames", "seed", "space", "method")}
        words["invert"] = settings["invert"] and space == "clip_image"
        by_picture = space != "clip_image" or words["invert"]
        ends = [given(settings[name], as_picture=by_picture) for name in ("a", "b")]
        if space in RUNNING:
            words |= {"num_inference_steps": settings["num_inference_steps"], **self._call}

        def make(pipe: Any, on_frame: OnFrame, on_step: OnStep) -> tuple[Walk, Sequence[str]]:
            texts = [end for end in ends if isinstance(end, str)]
            if unknown := unknown_words(vocabulary, " ".join(texts)):
                say(unknown, stacklevel=1)
            # One by one on a CPU, where a batch is hardly faster, so that pictures come steadily.
            size = 1 if getattr(pipe, "device", None) is None or _on_cpu(pipe) else None
            walk = interpolate(
                pipe, *ends, batch_size=size, on_frame=on_frame, on_step=on_step, **words
            )
            if embedded:
                walk = with_verdicts(walk, seen_words(walk.images))
            return walk, texts

        places = [float(t) for t in np.linspace(0, 1, settings["num_frames"])]
        return places, "t", make


def _on_cpu(pipe: Any) -> bool:
    return str(pipe.device).startswith("cpu")


def _spaces(pipe: Any) -> tuple[str, ...]:
    """The spaces that a pipeline has."""
    has = {
        "clip_image": family_of(pipe) is not None,
        "prompt": callable(getattr(pipe, "encode_prompt", None)),
        "latent": getattr(pipe, "vae", None) is not None,
        "pixel": True,
    }
    return tuple(space for space in SPACES if has[space])


class _Form(WalkForm):
    """Two ends, and how to go from one to the other."""

    def _make(self, **options: Any) -> list[ipywidgets.Widget]:
        spaces = options.pop("spaces")
        vocabulary = options.pop("vocabulary")
        for i, (name, title) in enumerate((("a", "From"), ("b", "To"))):
            end = EndField(title, vocabulary, on_edit=self._end(name), **options)
            end.count_as(i)
            self._fields[name] = end
        seed = self.seed_row()
        more = {
            "space": ipywidgets.Dropdown(
                options=[(f"{space}: {SPACES[space]}", space) for space in spaces],
                description="Space",
            ),
            "method": ipywidgets.Dropdown(
                options=[("slerp: the great circle", "slerp"), ("lerp: the straight line", "lerp")],
                description="Method",
            ),
            "num_frames": ipywidgets.BoundedIntText(description="Pictures", min=2, max=MOST_FRAMES),
            "num_inference_steps": ipywidgets.IntText(description="Steps"),
            "invert": ipywidgets.Checkbox(
                description="Begin from the pictures' own noise", indent=False
            ),
        }
        self._fields |= more
        numbers = [more["space"], more["method"], more["num_frames"], seed]
        return [
            row("ldm-ends", [self._fields["a"], self._fields["b"]]),
            row("ldm-numbers", [*numbers, more["num_inference_steps"]]),
            more["invert"],
        ]

    def _end(self, name: str) -> Any:
        def edited(end: Any) -> None:
            if not self._filling:
                self._on_edit(name, end)

        return edited
