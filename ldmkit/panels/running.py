"""The part of a panel that queues runs: one job after the other, Stop, and what closes with it."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import ipywidgets
import traitlets

from ldmkit.panels.actions import Actions
from ldmkit.panels.job import Job, Report
from ldmkit.panels.stock import close_tree

__all__ = ["RunningPanel"]


class RunningPanel(ipywidgets.VBox):
    """A form, and runs of what stands in it on the worker thread.

    A subclass sets ``_form``, calls ``_open`` once its widgets stand, and says what a run is.
    """

    # Any, since traitlets' own types would answer first and can't say what to do next.
    value = traitlets.Any({}, help="The settings as one dict; a part of it may be set.")
    result = traitlets.Any(None, help="The last record, or None.")

    _closed = True  # close is called on what was refused, too
    _form: Actions

    def _open(self) -> None:
        self._jobs: list[Job] = []
        self._lock = threading.RLock()  # handlers and the worker draw in the same widgets
        self._editing = self._closed = False

    # --- what a subclass says ------------------------------------------------------------------

    @abstractmethod
    def _work(self, settings: dict[str, Any]) -> Callable[[Report], Any]:
        """What the worker does; it holds the pipeline, not the panel."""

    @abstractmethod
    def _checked(self, value: Any) -> dict[str, Any]:
        """Settings in plain types, or one clear sentence."""

    @abstractmethod
    def _fill(self, settings: dict[str, Any]) -> None:
        """Shows settings in the fields."""

    @abstractmethod
    def _show(self, job: Job) -> None:
        """Draws what a job has made so far; called under the panel's lock."""

    def _release(self) -> None:
        """Lets go of what is heavy; called under the panel's lock."""

    # --- what a notebook uses ------------------------------------------------------------------

    @property
    def job(self) -> Job | None:
        """The last job that was queued: ``panel.job.wait()``, ``await panel.job``."""
        return self._jobs[-1] if self._jobs else None

    def run(self) -> Job:
        """Queues a run with the present settings; the cell may go on at once.

        Returns:
            The job; ``job.wait()`` gives the record.

        Raises:
            RuntimeError: the panel is closed. Whatever goes wrong in the run is told under the
                panel, and by ``job.wait()``.
        """
        self._check_open()
        job = Job(self._work(dict(self.value)), self._follow)
        self._jobs = [*(old for old in self._jobs if not old.ended), job]
        self._form.say("")
        self._form.follow(job, busy=True)
        return job.start()

    def stop(self) -> None:
        """Ends the panel's run after its present step and keeps the part; drops waiting ones."""
        for job in list(self._jobs):
            job.stop()

    def close(self) -> None:
        """Stops the panel's runs and takes it out of the page; twice is harmless."""
        if self._closed:
            return
        for job in list(self._jobs):
            job.cancel()
        with self._lock:
            self._closed = True
            self._release()
            close_tree(self)

    def _replaced(self) -> None:
        """Its cell was run again: IPython's ``Out`` keeps the object, so nothing heavy stays."""
        self.close()
        self._jobs.clear()
        self.result = None

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(f"This panel is closed; make another {type(self).__name__}.")

    # --- settings ------------------------------------------------------------------------------

    @traitlets.validate("value")
    def _validate_value(self, proposal: Any) -> dict[str, Any]:
        # What isn't told stays as it is, so that value={"seed": 3} is enough.
        self._check_open()
        try:
            whole = dict(self.value) | self._checked(proposal["value"])
        except (TypeError, ValueError) as error:
            self._form.say(str(error), wrong=True)
            raise
        if not self._editing:  # what a reader typed wrong elsewhere stays to be mended
            self._fill(whole)
        self._form.say("")
        return whole

    def _edited(self, name: str, entry: Any) -> None:
        """The reader changed a field; what is refused stays in the field, with a sentence."""
        self._editing = True
        try:
            self.value = {name: entry}
        except (TypeError, ValueError):
            return  # _validate_value has said it
        finally:
            self._editing = False

    # --- a run ---------------------------------------------------------------------------------

    def _follow(self, job: Job) -> None:
        """Draws what a job tells; mostly on the worker thread."""
        with self._lock:
            if self._closed:
                return
            busy = any(not other.ended for other in self._jobs)
            running = next((other for other in self._jobs if not other.ended), None)
            if not job.ended and job is not running:
                return
            self._form.follow(job, busy)
            kept = job.state in ("done", "stopped") and job.result is not None
            if job.state == "running" or kept:
                self._show(job)
            if kept:
                self._form.say(_once(job.notes))
            elif job.ended:
                self._say_why(job)
        if kept:
            self.result = job.result  # outside the lock: a reader's handlers run here

    def _say_why(self, job: Job) -> None:
        """The last good record stays, with a sentence."""
        words = job.error or _once(job.notes)
        self._form.say(words, wrong=bool(job.error), details=job.details)


def _once(notes: tuple[str, ...]) -> str:
    """Sentences of a run, each once: every picture of a walk may say the same."""
    return " ".join(dict.fromkeys(notes))
