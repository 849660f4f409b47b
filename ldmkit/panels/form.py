"""The fields of a ``PromptPanel``, its buttons, its progress and the sentence under them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ipywidgets

from ldmkit.figures.frames import webp
from ldmkit.figures.words import shorten, text
from ldmkit.panels.job import Job
from ldmkit.panels.settings import Settings
from ldmkit.panels.upload import read_picture, uploaded
from ldmkit.panels.words import WordsField

__all__ = ["Form"]

LABELS = {"ddim": "DDIM", "ddpm": "DDPM", "dpm++": "DPM++", "unipc": "UniPC"}


class Form(ipywidgets.VBox):
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
        self.run = ipywidgets.Button(description="Run", button_style="primary")
        self.run.add_class("ldm-run")
        self.stop = ipywidgets.Button(
            description="Stop", disabled=True, tooltip="End after this step and keep the part"
        )
        self.stop.add_class("ldm-stop")
        self._bar = ipywidgets.FloatProgress(min=0, max=1)
        self._bar.add_class("ldm-progress")
        self._status = ipywidgets.HTML()
        self._status.add_class("ldm-status-line")
        self._message = ipywidgets.HTML()
        self._message.add_class("ldm-message")
        self._filling = False
        super().__init__([*self._rows(), self._message])
        self.add_class("ldm-form")

    def _rows(self) -> list[ipywidgets.Widget]:
        fields = self._fields
        small = [
            fields[n] for n in ("num_inference_steps", "guidance_scale", "scheduler") if n in fields
        ]
        seed = [_row("ldm-seed", [fields["seed"], self.dice])] if "seed" in fields else []
        rows = [fields[name] for name in ("prompt", "negative_prompt") if name in fields]
        rows.append(_row("ldm-numbers", [*seed, *small]))
        if "image" in fields:
            parts = [self._upload, fields["image"], self._forget, fields["strength"]]
            rows.append(_row("ldm-start", parts))
        rows.append(_row("ldm-actions", [self.run, self.stop, self._bar, self._status]))
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

    def say(self, words: str, *, wrong: bool = False, details: str = "") -> None:
        """One sentence under the fields; ``details`` can be unfolded."""
        if not words:
            self._message.value = ""
            return
        kind, role = ("ldm-wrong", "alert") if wrong else ("ldm-note", "status")
        fold = f"<details><summary>Details</summary><pre>{text(details)}</pre></details>"
        self._message.value = (
            f'<div class="{kind}" role="{role}">{text(words)}{fold if details else ""}</div>'
        )

    def follow(self, job: Job, busy: bool) -> None:
        """Shows how far a job is; ``busy``: there is something to stop."""
        self.run.disabled = busy
        self.stop.disabled = not busy or job.in_foreground  # a busy kernel hears of no click
        done, total = job.progress.done, job.progress.total
        if job.state == "running":
            self._bar.value = done / total if total else 0
            self._bar.add_class("ldm-on")
            self._status.value = text(_told(job))
            return
        self._bar.remove_class("ldm-on")
        if job.state == "waiting":
            self._status.value = "Waiting for another run to end …"
        elif job.state == "stopped":
            self._status.value = text(f"Stopped after step {done} of {total or '?'}")
        elif job.state == "done":
            self._status.value = text(f"{done} steps in {job.seconds:.1f} s")
        else:
            self._status.value = ""

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
        try:
            handler("image", read_picture(*found))
        except ValueError as error:
            self.say(str(error), wrong=True)
        self._empty_upload()

    def _empty_upload(self) -> None:
        """The same file can be chosen again, and its bytes are not kept twice."""
        if isinstance(self._upload.value, dict):  # ipywidgets 7
            self._upload.data, self._upload.metadata = [], []
            self._upload._counter = 0
        else:
            self._upload.value = ()


def _told(job: Job) -> str:
    progress = job.progress
    if not progress.done:
        return "Starting …"
    words = f"Step {progress.done} of {progress.total or '?'}"
    left = progress.seconds_left
    if left is not None:
        words += f" · {left:.0f} s left" if left < 90 else f" · {left / 60:.0f} min left"
    return f"{words} · interrupt the kernel to stop" if job.in_foreground else words


def _row(kind: str, parts: list[ipywidgets.Widget]) -> ipywidgets.Box:
    row = ipywidgets.Box(parts)
    row.add_class(kind)
    return row


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
