"""Live drawing: the newest request wins, none queue.

While a reader types, requests come faster than pictures. At most one drawing runs and one waits; a
newer request takes the place of the one that waits. A drawing that is quick is let to its end, or a
steady typist would never see one; a slow one is stopped at its next step, unless nothing was drawn
for a while. So the last request is always drawn, soon. When nothing has been asked for a second,
the usual run is made, once, whose record is kept.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from ldmkit.panels.job import Job, Report, Work, foreground
from ldmkit.threads import all_on_one_thread, one_thread

__all__ = ["QUICK", "SETTLED", "Live", "lightly"]

QUICK = 1.0  # seconds; a drawing that takes longer is slow
PATIENCE = 2.0  # seconds without a picture until a slow one is let to its end, too
SETTLED = 1.0  # seconds without a request until a record is kept
PAUSE = 0.3  # ... where a run holds up the kernel


class Live:
    """Who draws, one picture at a time.

    Args:
        make: the job that draws the present settings, not started yet.
        keep: starts the usual run of the present settings.
        in_cell: whether a cell is running, not the handler of a widget.
    """

    def __init__(
        self, make: Callable[[], Job], keep: Callable[[], Job], in_cell: Callable[[], bool]
    ) -> None:
        self._make, self._keep, self._in_cell = make, keep, in_cell
        self._drawings: list[Job] = []  # that have not ended: one runs, one waits
        self._settling: Job | asyncio.TimerHandle | None = None
        self._kept: Job | None = None
        self._lock = threading.RLock()
        self._took = 0.0  # seconds of the last whole drawing
        self._drawn = 0.0  # when it ended

    @property
    def waits(self) -> bool:
        """Whether a drawing waits for its turn."""
        return any(job.state == "waiting" for job in self._drawings)

    def ask(self) -> Job | None:
        """Draws the present settings as soon as may be; older requests are dropped.

        In the foreground a drawing would hold up the kernel, and with it the requests: there the
        usual run is made when nothing was asked for a moment, and by a cell at once.

        Returns:
            The drawing's job; in the foreground none.
        """
        if foreground():
            self._ask_in_foreground()
            return None
        with self._lock:
            starved = time.monotonic() - self._drawn > PATIENCE
            self.drop(running=self._took > QUICK and not starved)
            if self._kept is not None and not self._kept.ended:
                self._kept.cancel()  # its settings are no longer the panel's
            job = self._make()
            self._drawings = [*(old for old in self._drawings if not old.ended), job]
            job.start()
            self._settling = Job(self._settle).start(after=SETTLED)
        return job

    def drop(self, *, running: bool) -> None:
        """Forgets what waits, to be drawn or to be kept, and what runs if that is wished."""
        with self._lock:
            if self._settling is not None:
                self._settling.cancel()
            for job in self._drawings:
                if running or job.state == "waiting":
                    job.cancel()

    def stop(self) -> None:
        """Ends the drawing that runs after its present step, and keeps its part."""
        with self._lock:
            self.drop(running=False)
            for job in self._drawings:
                job.stop()

    def close(self) -> None:
        """Drops everything, what runs too."""
        self.drop(running=True)
        self._kept, self._drawings = None, []

    def took(self, seconds: float) -> None:
        """Tells how long a drawing took that has just been shown."""
        self._took, self._drawn = seconds, time.monotonic()

    def _settle(self, report: Report) -> None:
        with self._lock:
            if report(0):  # or something was asked just now
                self._kept = self._keep()

    def _ask_in_foreground(self) -> None:
        self.drop(running=False)
        try:
            loop = None if self._in_cell() else asyncio.get_running_loop()
        except RuntimeError:  # a script
            loop = None
        if loop is None:
            self._keep()
        else:
            self._settling = loop.call_later(PAUSE, self._keep)


def lightly(work: Work, pipe: Any) -> Work:
    """The same work and picture, without what a drawing can spare.

    Typing and drawing take turns with Python, so each switch of threads in a drawing may wait for
    a letter to be dealt with; and nobody takes a gradient of what it draws.
    """

    def drawn(report: Report) -> Any:
        import torch

        alone = one_thread() if all_on_one_thread(pipe) else nullcontext()
        with alone, torch.inference_mode():
            return work(report)

    return drawn
