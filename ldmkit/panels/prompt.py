"""``PromptPanel``: words, seed and settings to a picture, with every step of the way kept.

Handlers check and queue; the run itself is ``ldmkit.record`` on the worker thread (see ``job``),
so that the cell has long returned while the picture forms.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
import traitlets

from ldmkit.check import heard_by
from ldmkit.figures.words import shorten, text
from ldmkit.panels.cells import replace_earlier
from ldmkit.panels.form import Form
from ldmkit.panels.glimpse import final_picture, live_preview, total_steps
from ldmkit.panels.history import History, Run
from ldmkit.panels.job import Job, Report
from ldmkit.panels.settings import Settings
from ldmkit.panels.stock import close_tree
from ldmkit.panels.trajectory import TrajectoryPart
from ldmkit.panels.words import part, unknown_words, vocabulary_of
from ldmkit.recording import record
from ldmkit.recording.checks import check_keep, check_preview
from ldmkit.records import RecordError, Step, Trajectory

__all__ = ["PromptPanel"]


class PromptPanel(ipywidgets.VBox):
    """Makes pictures from words and shows how each came about.

    Its widget-free twin is ``ldmkit.record(pipe, prompt, seed=..., ...)``: *Copy as code* under
    the panel, or ``panel.code``, is the call that makes the shown record again.

    ``panel.value`` are the settings, by the pipeline's own names; a part of them may be set.
    ``panel.run()`` queues a run and returns its job, as the button does; ``panel.stop()`` ends it
    after the present step and keeps the part. ``panel.observe(handler, names="result")`` calls
    back with each new record (on the worker thread). ``panel.close()`` stops the panel's runs,
    and so does running its cell again.

    In Colab, under nbclient and where the environment says ``LDMKIT_FOREGROUND=1`` a run ends
    before ``run()`` returns, and the kernel's interrupt is its Stop.

    Args:
        pipe: any diffusers pipeline; it stays as it is, also when another scheduler is chosen.
        prompt: the words.
        keep: names of arrays to keep, as in ``ldmkit.record``.
        preview: step pictures, as in ``ldmkit.record``.
        **settings: start values of the other settings (``negative_prompt``, ``seed``,
            ``num_inference_steps``, ``guidance_scale``, ``scheduler``, ``strength``, ``image``),
            and further keywords of the pipeline, which hold for every run (``height``, ...).

    Raises:
        TypeError: no pipeline, an unknown keyword (the nearest is told), or a wrong type.
        ValueError: a value out of its range.
    """

    # Any, since traitlets' own types would answer first and can't say what to do next.
    value = traitlets.Any({}, help="The settings as one dict; a part of it may be set.")
    result = traitlets.Any(None, help="The last record, or None.")

    _closed = True  # close is called on what was refused, too
    _last_code = ""

    def __init__(
        self,
        pipe: Any,
        prompt: str = "",
        *,
        keep: Any = ("latents", "denoised"),
        preview: str = "auto",
        **settings: Any,
    ) -> None:
        given = {"prompt": prompt, **settings} if prompt else settings
        recording = {"keep": check_keep(keep), "preview": check_preview(preview)}
        self._settings = Settings(pipe, recording, given)
        start = self._settings.start
        self._vocabulary = vocabulary_of(pipe)
        self._jobs: list[Job] = []
        self._count = 0
        self._closed = self._editing = False
        self._lock = threading.RLock()  # handlers and the worker draw in the same widgets
        self._form = Form(self._settings, self._vocabulary, self._run_clicked)
        self._picture = ipywidgets.Image(format="webp")
        self._stage = ipywidgets.Box([self._picture])
        self._stage.add_class("ldm-stage")
        self._stage.add_class("ldm-empty")
        self._history = History(self._show_chosen)
        self._place = ipywidgets.VBox()
        self._place.add_class("ldm-result")
        self._code = ipywidgets.HTML()
        self._code.add_class("ldm-code")
        top = ipywidgets.Box([self._form, self._stage])
        top.add_class("ldm-top")
        style = ipywidgets.HTML(f"<style>{part('prompt.css')}</style>")
        style.add_class("ldm-style")
        super().__init__([style, top, self._history, self._place, self._code], value=start)
        self.add_class("ldm-prompt-panel")
        self._player: TrajectoryPart | None = None
        self._listen()
        replace_earlier(self)

    def _listen(self) -> None:
        self._form.fill(self.value)
        self._form.run.on_click(lambda _: self._run_clicked())
        self._form.stop.on_click(lambda _: self.stop())
        self._form.dice.on_click(lambda _: self._throw())
        self._form.on_edit(self._edited)
        self._show_code()

    # --- what a notebook uses ------------------------------------------------------------------

    @property
    def job(self) -> Job | None:
        """The last job that was queued: ``panel.job.wait()``, ``await panel.job``."""
        return self._jobs[-1] if self._jobs else None

    @property
    def code(self) -> str:
        """The call of ``ldmkit.record`` that makes the shown record; before any, the next one."""
        if self._closed:
            return self._last_code
        shown = self._history.shown
        return shown[-1].code if shown else self._settings.code(self.value)

    def run(self) -> Job:
        """Queues a run with the present settings; the cell may go on at once.

        Returns:
            The job; ``job.wait()`` gives the record.

        Raises:
            RuntimeError: the panel is closed. Whatever goes wrong in the run is told under the
                panel, and by ``job.wait()``.
        """
        self._check_open()
        settings = dict(self.value)
        code = self._settings.code(settings)
        job = Job(self._work(settings), lambda job: self._follow(job, code), self._rest)
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
            self._last_code = self.code
            self._closed = True
            self._settings.release()
            self._history.clear()
            if self._player is not None:
                self._player.close()
                self._player = None
            close_tree(self)

    def _replaced(self) -> None:
        """Its cell was run again: IPython's ``Out`` keeps the object, so nothing heavy stays."""
        self.close()
        self._jobs.clear()
        self.result = None

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("This panel is closed; make another one with PromptPanel(pipe).")

    def __repr__(self) -> str:
        if self._closed:
            return "PromptPanel(closed)"
        return f"PromptPanel({shorten(self.value.get('prompt', ''), 60)!r}, {self.job})"

    # --- settings ------------------------------------------------------------------------------

    @traitlets.validate("value")
    def _validate_value(self, proposal: Any) -> dict[str, Any]:
        # What isn't told stays as it is, so that value={"seed": 3} is enough.
        self._check_open()
        try:
            whole = dict(self.value) | self._settings.checked(proposal["value"])
        except (TypeError, ValueError) as error:
            self._form.say(str(error), wrong=True)
            raise
        if not self._editing:  # what a reader typed wrong elsewhere stays to be mended
            self._form.fill(whole)
            self._form.say("")
        return whole

    @traitlets.observe("value")
    def _value_changed(self, _: Any) -> None:
        self._show_code()

    def _edited(self, name: str, entry: Any) -> None:
        """The reader changed a field; what is refused stays in the field, with a sentence."""
        self._editing = True
        try:
            self.value = {name: entry}
        except (TypeError, ValueError):
            return  # _validate_value has said it
        finally:
            self._editing = False
        wrong = self._form.wrong(self._settings)
        self._form.fill({n: value for n, value in self.value.items() if n not in wrong})
        self._form.say(next(iter(wrong.values()), ""), wrong=True)

    def _throw(self) -> None:
        self.value = {"seed": random.randrange(100_000)}  # few digits: a class reads them aloud

    def _run_clicked(self) -> None:
        for sentence in self._form.wrong(self._settings).values():
            self._form.say(sentence, wrong=True)
            return
        self.run()

    # --- a run ---------------------------------------------------------------------------------

    def _work(self, settings: Mapping[str, Any]) -> Callable[[Report], Trajectory]:
        """What the worker does; it holds the pipeline, not the panel."""
        known = self._settings
        words = "" if self._form.marks_words else settings.get("prompt", "")
        note = unknown_words(self._vocabulary, words)

        def work(report: Report) -> Trajectory:
            if note:
                report.say(note)
            pipe, call = known.prepare(settings)

            def on_step(step: Step) -> bool:
                return report(step.index + 1, total_steps(pipe), lambda: live_preview(pipe, step))

            with heard_by(report.say):
                return record(pipe, on_step=on_step, **call)

        return work

    def _follow(self, job: Job, code: str) -> None:
        """Draws what a job tells; mostly on the worker thread."""
        with self._lock:
            if self._closed:
                return
            busy = any(not other.ended for other in self._jobs)
            if not job.ended and job is not self._running():
                return
            self._form.follow(job, busy)
            if job.state == "running" and job.preview:
                self._paint(job.preview)
            if job.state in ("done", "stopped"):
                self._keep(job, code)
            elif job.ended:
                self._say_why(job)
        if job.state in ("done", "stopped"):
            self.result = job.result  # outside the lock: a reader's handlers run here

    def _running(self) -> Job | None:
        return next((job for job in self._jobs if not job.ended), None)

    def _keep(self, job: Job, code: str) -> None:
        self._count += 1
        self._history.add(Run(self._count, job.result, code))
        self._form.say(" ".join(job.notes))
        self._show_last_picture()

    def _say_why(self, job: Job) -> None:
        """The last good record stays, with a sentence."""
        self._form.say(job.error, wrong=True, details=job.details)
        self._show_last_picture()

    def _rest(self, job: Job) -> None:
        """The player, which takes some tenths of a second to fill and need not be waited for."""
        with self._lock:
            if not self._closed and job.state in ("done", "stopped"):
                self._show_chosen()

    # --- what is seen --------------------------------------------------------------------------

    def _show_chosen(self) -> None:
        """The runs that are chosen among the thumbnails, in the player."""
        with self._lock:
            trajs = [run.traj for run in self._history.shown]
            try:
                if self._player is None:
                    self._player = TrajectoryPart(*trajs)
                    self._place.children = (self._player,)
                else:
                    self._player.show(*trajs)
            except RecordError as error:
                self._form.say(str(error))
            self._show_last_picture()
            self._show_code()

    def _show_last_picture(self) -> None:
        shown = self._history.shown
        images = shown[-1].traj.images if shown else ()
        self._paint(final_picture(images[0]) if images else b"")

    def _paint(self, encoded: bytes) -> None:
        """The picture beside the settings."""
        self._picture.value = encoded
        if encoded:
            self._stage.remove_class("ldm-empty")
        else:
            self._stage.add_class("ldm-empty")

    def _show_code(self) -> None:
        self._code.value = (
            "<details><summary>Copy as code</summary>"
            f'<pre title="One click selects it all">{text(self.code)}</pre></details>'
        )
