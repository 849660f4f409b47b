"""The fields of a ``PromptPanel``, its buttons, its progress and the sentence under them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ipywidgets

from ldmkit.check import heard_by
from ldmkit.figures.frames import webp
from ldmkit.figures.words import shorten
from ldmkit.panels.actions import Actions, row
from ldmkit.panels.settings import Settings
from ldmkit.panels.upload import empty_upload, read_picture, uploaded
from ldmkit.panels.words import WordsField

__all__ = ["Form"]

LABELS = {"ddim": "DDIM", "ddpm": "DDPM", "dpm++": "DPM++", "unipc": "UniPC"}


class Form(Actions, ipywidgets.VBox):
    """One field per setting that the pipeline takes.

    Args:
        settings: what the pipeline takes.
        vocabulary: words that the model learned; empty where it knows all.
        on_enter: called on Ctrl+Enter in the prompt.
    """

    def __init__(
        self, settings: Settings, vocabulary: Iterable[str], on_enter: Callable[[], None]
    ) -> None:
        self._fields = _fields(settings, vocabulary, on_enter)
        self._upload = ipywidgets.FileUpload(
            accept="image/*", multiple=False, description="Start picture"
        )
        self._forget = ipywidgets.Button(
            description="×", tooltip="Begin from noise, without a start picture"
        )
        self._forget.add_class("ldm-small")
        self.dice = ipywidgets.Button(icon="random", tooltip="Throw dice: another seed")
        self.dice.add_class("ldm-small")
        self.dice.add_class("ldm-dice")
        self.make_actions()
        self._filling = False
        super().__init__([*self._rows(), self._message])
        self.add_class("ldm-form")

    def _rows(self) -> list[ipywidgets.Widget]:
        fields = self._fields
        small = [
            fields[n] for n in ("num_inference_steps", "guidance_scale", "scheduler") if n in fields
        ]
        seed = [row("ldm-seed", [fields["seed"], self.dice])] if "seed" in fields else []
        rows = [fields[name] for name in ("prompt", "negative_prompt") if name in fields]
        rows.append(row("ldm-numbers", [*seed, *small]))
        if "image" in fields:
            parts = [self._upload, fields["image"], self._forget, fields["strength"]]
            rows.append(row("ldm-start", parts))
        rows.append(self.action_row())
        return rows

    def fill(self, settings: Mapping[str, Any]) -> None:
        """Shows settings in the fields, without a call of ``on_edit``."""
        self._filling = True
        try:
            for name, value in settings.items():
                if name == "image":
                    self._show_start(value)
                elif self._fields[name].value != value:
                    self._fields[name].value = value
        finally:
            self._filling = False

    def on_edit(self, handler: Callable[[str, Any], None]) -> None:
        """``handler(name, value)`` is called when the reader changes a field."""
        names = {id(field): name for name, field in self._fields.items()}

        def edited(change: Any) -> None:
            if not self._filling:
                handler(names[id(change["owner"])], change["new"])

        for name, field in self._fields.items():
            if name != "image":
                field.observe(edited, names=["value"])
        self._upload.observe(lambda _: self._uploaded(handler), names=["value"])
        self._forget.on_click(lambda _: handler("image", None))

    @property
    def marks_words(self) -> bool:
        """Whether the reader has seen which words the model does not know."""
        return "prompt" in self._fields and bool(self._fields["prompt"].awake)

    def wrong(self, settings: Settings) -> dict[str, str]:
        """What is wrong with what stands in the fields: a sentence by the setting's name."""
        found = {}
        for name, field in self._fields.items():
            try:
                if name != "image":
                    settings.checked({name: field.value})
            except (TypeError, ValueError) as error:
                found[name] = str(error)
        return found

    def _show_start(self, picture: Any) -> None:
        view = self._fields["image"]
        shown = picture is not None
        if shown:
            view.value = webp(picture, 96, 80)
        for part in (view, self._forget, self._fields["strength"]):
            part.layout.display = "" if shown else "none"

    def _uploaded(self, handler: Callable[[str, Any], None]) -> None:
        found = uploaded(self._upload.value)
        if found is None:
            return
        told: list[str] = []
        try:
            with heard_by(told.append):  # such as what became white in a picture of 16 bits
                picture = read_picture(*found)
            handler("image", picture)
        except ValueError as error:
            self.say(str(error), wrong=True)
        for words in told:
            self.say(words)
        empty_upload(self._upload)


def _fields(
    settings: Settings, vocabulary: Iterable[str], on_enter: Callable[[], None]
) -> dict[str, ipywidgets.Widget]:
    makers: dict[str, Callable[[], ipywidgets.Widget]] = {
        "prompt": lambda: WordsField(
            vocabulary, title="Prompt", placeholder="a red cat with a top hat", on_enter=on_enter
        ),
        "negative_prompt": lambda: ipywidgets.Text(
            description="Negative prompt", placeholder="what to steer away from",
            continuous_update=False,
        ),
        "seed": lambda: ipywidgets.IntText(description="Seed"),
        "num_inference_steps": lambda: ipywidgets.IntText(description="Steps"),
        "guidance_scale": lambda: ipywidgets.FloatText(description="Guidance", step=0.5),
        "scheduler": lambda: ipywidgets.Dropdown(
            options=[(LABELS.get(n, shorten(n, 30).capitalize()), n) for n in settings.samplers],
            description="Scheduler",
        ),
        "strength": lambda: ipywidgets.FloatSlider(
            description="Strength", min=0.05, max=1, step=0.05, continuous_update=False
        ),
        "image": lambda: ipywidgets.Image(format="webp"),
    }  # fmt: skip
    fields = {name: makers[name]() for name in settings.names}
    for name, field in fields.items():
        field.add_class(f"ldm-set-{name.replace('_', '-')}")
        if hasattr(field, "style") and hasattr(field.style, "description_width"):
            field.style.description_width = "initial"
    return fields
