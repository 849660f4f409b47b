"""The base of every panel: settings that are checked whoever sets them, runs, and an end.

``Panel`` checks, and closes with all that it is made of. ``RunningPanel`` adds a form with Run and
Stop, and the jobs behind them; it is what the panels of pipelines are made on.
"""

from __future__ import annotations

import sys
import threading
import weakref
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import ipywidgets
import traitlets

from ldmkit.check import did_you_mean, short
from ldmkit.loading.device import in_use
from ldmkit.loading.siblings import twin_of
from ldmkit.panels.fields import Form
from ldmkit.panels.job import Job, Listener, Report

__all__ = [
    "Checked",
    "Panel",
    "RunningPanel",
    "close_tree",
    "in_cell",
    "quiet_twin",
    "replace_earlier",
]

Check = Callable[[str, Any], Any]


class Checked(traitlets.TraitType[Any, Any]):
    """A trait whose panel checks every value.

    ``traitlets.Any`` lets ``None`` pass all validators, and ``hold_trait_notifications``
    everything; traitlets' other types would answer first and can't say what to do next.
    """

    def validate(self, obj: Any, value: Any) -> Any:
        """The value as the panel keeps it."""
        if self.name not in obj._trait_values:
            return value  # the start, which the constructor has checked
        return obj._accepted(self.name, value)


class Panel(ipywidgets.VBox):
    """Widgets with settings. A subclass sets ``_checks`` and calls ``_stand`` with its widgets."""

    value = Checked({}, help="The settings as one dict; a part of it may be set.")

    _closed = True  # close is called on what was refused, too
    _checks: Mapping[str, Check]  # by the settings' names: (name, value) -> as it is kept

    def _stand(self, children: list[ipywidgets.Widget], start: dict[str, Any]) -> None:
        self._closed = False
        ipywidgets.VBox.__init__(self, children, value=start)

    def _checked(self, value: Any) -> dict[str, Any]:
        """Settings in plain types, or one clear sentence."""
        names = ", ".join(self._checks)
        if not isinstance(value, Mapping):
            raise TypeError(f"value must be a dict of {names}, got {short(value)}.")
        for name in value:
            if name not in self._checks:
                advice = did_you_mean(name, self._checks, "use one of those.")
                raise ValueError(f"This panel sets {names}, got {short(name)}; {advice}")
        return {name: self._checks[name](name, entry) for name, entry in value.items()}

    def _accepted(self, name: str, value: Any) -> Any:
        """What is set to a ``Checked`` trait, as it is kept."""
        # What isn't told stays as it is, so that value={"seed": 3} is enough.
        return dict(self.value) | self._checked(value)

    def close(self) -> None:
        """Takes the panel out of the page and out of ipywidgets' registry; twice is harmless."""
        self._closed = True
        close_tree(self)

    def _replaced(self) -> None:
        """Its cell was run again: IPython's ``Out`` keeps the object, so nothing heavy stays."""
        self.close()


class RunningPanel(Panel):
    """A form, and runs of what stands in it on the worker thread.

    A subclass sets ``_form`` and ``_pipe``, and says what a run is.
    """

    result = traitlets.Any(None, read_only=True, help="The last record, or None.")

    _form: Form
    _pipe: Any = None

    def _stand(self, children: list[ipywidgets.Widget], start: dict[str, Any]) -> None:
        self._jobs: list[Job] = []
        self._lock = threading.RLock()  # handlers and the worker draw in the same widgets
        self._editing = False
        super()._stand(children, start)
        self.add_class("ldm-prompt-panel")
        self._form.fill(self.value)
        self._form.run.on_click(lambda _: self._run_clicked())
        self._form.stop.on_click(lambda _: self.stop())
        replace_earlier(self)

    # --- what a subclass says ------------------------------------------------------------------

    @abstractmethod
    def _work(self, settings: dict[str, Any]) -> Callable[[Report], Any]:
        """What the worker does; it holds the pipeline, not the panel."""

    @abstractmethod
    def _show(self, job: Job) -> None:
        """Draws what a running job has made so far; called under the panel's lock."""

    @abstractmethod
    def _keep(self, job: Job, work: Any) -> None:
        """Shows what a job has made; called under the panel's lock."""

    def _restore(self) -> None:
        """Shows the last good record again: a run came to nothing."""

    def _rest(self, job: Job) -> None:
        """What need not be waited for when a run has ended."""

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
        work = self._work(dict(self.value))
        job = self._job_of(work, lambda job: self._follow(job, work), self._rest)
        self._jobs = [*(old for old in self._jobs if not old.ended), job]
        self._hush()
        self._form.follow(job, busy=True)
        return job.start()

    def _job_of(self, work: Callable[[Report], Any], *listeners: Listener) -> Job:
        pipe = self._pipe

        def held(report: Report) -> Any:
            with in_use(pipe, report.stop):  # release() waits for it
                return work(report)

        return Job(held, *listeners)

    def stop(self) -> None:
        """Ends the panel's run after its present step and keeps the part; drops waiting ones."""
        for job in list(self._jobs):
            job.stop()

    def close(self) -> None:
        """Stops the panel's runs and takes it out of the page; twice is harmless."""
        if self._closed or sys.is_finalizing():  # ipywidgets closes once more as Python ends
            return
        for job in list(self._jobs):
            job.cancel()
        with self._lock:
            self._release()
            self._pipe = None
            super().close()

    def _replaced(self) -> None:
        super()._replaced()
        self._jobs.clear()
        self.set_trait("result", None)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(f"This panel is closed; make another {type(self).__name__}.")

    # --- settings ------------------------------------------------------------------------------

    def _accepted(self, name: str, value: Any) -> Any:
        self._check_open()
        try:
            whole = super()._accepted(name, value)
        except (TypeError, ValueError) as error:
            self._form.say(str(error), wrong=True)
            raise
        if not self._editing:  # what a reader typed wrong elsewhere stays to be mended
            self._form.fill(whole)
            self._form.complain("")
        self._hush()
        return whole

    def _hush(self) -> None:
        """What was said of a run with other settings goes."""
        self._form.say("")

    def _edited(self, name: str) -> None:
        """The reader changed a field; what is refused stays there and is said until mended."""
        wrong = self._form.wrong(self._checked, self.value)
        if name not in wrong:
            self._editing = True
            try:
                self.value = {name: self._form.entry(name)}
            finally:
                self._editing = False
        self._form.fill({n: value for n, value in self.value.items() if n not in wrong})
        self._form.complain(wrong.get(name) or next(iter(wrong.values()), ""))

    def _run_clicked(self) -> None:
        # What was refused stays in its field: nothing else is run in its place.
        wrong = self._form.wrong(self._checked, self.value)
        self._form.complain(next(iter(wrong.values()), ""))
        if not wrong:
            self.run()

    # --- a run ---------------------------------------------------------------------------------

    def _follow(self, job: Job, work: Any) -> None:
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
            notes = " ".join(dict.fromkeys(job.notes))  # every picture of a walk may say the same
            if kept:
                self._keep(job, work)
                self._form.say(notes)
            elif job.ended:
                self._form.say(job.error or notes, wrong=bool(job.error), details=job.details)
                self._restore()
            elif job.state == "running":
                self._show(job)
        if kept:
            self.set_trait("result", job.result)  # outside the lock: a reader's handlers run here


def quiet_twin(pipe: Any) -> Any:
    """A twin (see ``twin_of``) whose bar is off: it would write into whatever cell runs."""
    twin = twin_of(pipe)
    if hasattr(twin, "set_progress_bar_config"):
        twin.set_progress_bar_config(disable=True)
    return twin


def close_tree(widget: ipywidgets.Widget) -> None:
    """Closes a widget and all that it is made of.

    ``Widget.close`` leaves children, layouts and styles in ipywidgets' registry, and with them
    whatever their handlers have captured.
    """
    for child in getattr(widget, "children", ()):
        close_tree(child)
    for name in ("layout", "style"):
        part = getattr(widget, name, None)
        if isinstance(part, ipywidgets.Widget):
            part.close()
    widget.unobserve_all()
    ipywidgets.Widget.close(widget)


# --- the same cell again -------------------------------------------------------------------------
#
# ipywidgets keeps every widget until it is closed, and IPython keeps what a cell displayed in
# ``Out``: without this, each run of a cell would leave a panel behind, its thumbnails, records and
# handlers with it.


@dataclass
class _Made:
    """The panels that one cell made when it last ran."""

    execution: str
    panels: list[weakref.ref[Any]] = field(default_factory=list)


_made: dict[tuple[str, str], _Made] = {}
_MOST = 200  # cells remembered; an edited cell counts as another where no id is told


def replace_earlier(panel: Panel) -> None:
    """Notes that the running cell made this panel; ``panel._replaced()`` closes the former ones.

    Panels that one run of a cell makes in a loop stay. Outside a notebook nothing happens.
    """
    found = _running_cell()
    if found is None:
        return
    cell, execution = found
    key = (type(panel).__name__, cell)
    made = _made.pop(key, None)
    if made is None or made.execution != execution:
        for reference in made.panels if made else ():
            if (earlier := reference()) is not None:
                earlier._replaced()
        made = _Made(execution)
    made.panels.append(weakref.ref(panel))
    _made[key] = made
    while len(_made) > _MOST:
        del _made[next(iter(_made))]


def in_cell() -> bool:
    """Whether a cell is running, and not the handler of a widget."""
    return _running_cell() is not None


def _running_cell() -> tuple[str, str] | None:
    """(the cell, this run of it), or ``None`` outside a cell."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    parent = shell.get_parent() if hasattr(shell, "get_parent") else shell.parent_header
    header = parent.get("header", parent)
    if header.get("msg_type") != "execute_request":
        return None  # a handler: nobody ran a cell
    cell = parent.get("metadata", {}).get("cellId") or _cell_by_frame(shell.user_ns)
    return (str(cell), str(header.get("msg_id"))) if cell else None


def _cell_by_frame(names: dict[str, Any]) -> str | None:
    """The file name that IPython gives a cell, made of its text, where no id is told."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals is names:
            return frame.f_code.co_filename
        frame = frame.f_back
    return None
