"""What every running panel has: Run, Stop, how far a run is, and a sentence under the fields."""

from __future__ import annotations

import ipywidgets

from ldmkit.figures.words import text
from ldmkit.panels.job import Job

__all__ = ["Actions", "row"]


class Actions:
    """Buttons and lines of a form; a class of widgets inherits them.

    Attributes:
        counted: what a job's steps are called, one and several.
    """

    counted = ("step", "steps")

    def make_actions(self) -> None:
        """Makes the widgets; before they are put into rows."""
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

    def action_row(self) -> ipywidgets.Box:
        """Buttons, bar and status in one row."""
        return row("ldm-actions", [self.run, self.stop, self._bar, self._status])

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
        one, several = self.counted
        if job.state == "running":
            self._bar.value = done / total if total else 0
            self._bar.add_class("ldm-on")
            self._status.value = text(_told(job, one))
            return
        self._bar.remove_class("ldm-on")
        if job.state == "waiting":
            self._status.value = "Waiting for another run to end …"
        elif job.state == "stopped":
            self._status.value = text(f"Stopped after {one} {done} of {total or '?'}")
        elif job.state == "done":
            self._status.value = text(f"{done} {several} in {job.seconds:.1f} s")
        else:
            self._status.value = ""


def _told(job: Job, one: str) -> str:
    progress = job.progress
    if not progress.done:
        return "Starting …"
    words = f"{one.capitalize()} {progress.done} of {progress.total or '?'}"
    left = progress.seconds_left
    if left is not None:
        words += f" · {left:.0f} s left" if left < 90 else f" · {left / 60:.0f} min left"
    return f"{words} · interrupt the kernel to stop" if job.in_foreground else words


def row(kind: str, parts: list[ipywidgets.Widget]) -> ipywidgets.Box:
    """Widgets side by side, under a class of the style sheet."""
    box = ipywidgets.Box(parts)
    box.add_class(kind)
    return box
