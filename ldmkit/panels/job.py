"""Jobs: what a panel runs while its cell has returned, on one worker thread per kernel.

A worker thread is the one way in which Stop works on every kernel: a callback can't run while a
cell blocks. Jobs queue, so that two panels on one pipeline take turns. Where updates from a
thread would not be shown (Colab) or nobody could wait for them (nbclient, whose kernel takes no
input) the same code runs in the foreground, and Stop is the kernel's interrupt.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import heapq
import itertools
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ldmkit.loading.device import empty_cache
from ldmkit.loading.memory import is_of_memory

__all__ = ["ENDED", "FULL", "Job", "JobError", "Listener", "Progress", "Report", "foreground"]

INTERVAL = 0.1  # seconds between two updates: 10 Hz at most
SWITCH = "LDMKIT_FOREGROUND"
LONGEST = 400  # characters of an error's sentence
LONGEST_DETAILS = 20_000
FULL = (
    "The memory is full: ask for a smaller picture or fewer at once, free other models with "
    'ldmkit.release(), or load this one with dtype="float16"; restart the kernel if it stays full.'
)
ENDED = ("done", "stopped", "cancelled", "failed")

Work = Callable[["Report"], Any]
Listener = Callable[["Job"], None]

_log = logging.getLogger(__name__)


class JobError(RuntimeError):
    """The work of a job failed; the message is its one sentence, ``job.details`` has the rest."""


@dataclass(frozen=True)
class Progress:
    """How far a job is: steps done, of how many, and the seconds left where they can be told."""

    done: int = 0
    total: int | None = None
    seconds_left: float | None = None


class Report:
    """What a job's work calls after each step; ``False`` asks it to end and return its part."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._first: tuple[float, int] | None = None
        self._told = -INTERVAL

    def __call__(
        self, done: int, total: int | None = None, draw: Callable[[], bytes] | None = None
    ) -> bool:
        """Tells the progress, ten times a second at most.

        Args:
            done: steps done so far.
            total: steps in all, or ``None`` where nobody knows.
            draw: makes a small encoded picture; called only when an update is due.

        Returns:
            Whether to go on.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)  # the first step also pays for what is made once
        self._job.progress = Progress(done, total, self._left(now, done, total))
        if now - self._told >= INTERVAL:
            self._told = now
            self._job._show(draw() if draw is not None else None)
        return self._job._goes_on()

    def say(self, words: str) -> None:
        """Adds a sentence for the reader, such as a warning; kept in ``job.notes``."""
        self._job.notes = (*self._job.notes, words)

    def stop(self) -> None:
        """Asks the work to end, as the reader's Stop does."""
        self._job.stop()

    def _left(self, now: float, done: int, total: int | None) -> float | None:
        began, first = self._first or (now, done)
        if total is None or done <= first:
            return None
        return (now - began) / (done - first) * max(0, total - done)


class Job:
    """One piece of work, on its way once it is started.

    ``job.wait()`` and ``await job`` give what the work gave.

    Args:
        work: called with a ``Report``; returns the result. It reports after each step and
            returns its part when the report says ``False``.
        on_change: called with the job at its start, at each update and when it ends; the last
            call comes before ``wait`` returns. Usually on the worker thread.
        on_end: called once after that, for what need not be waited for.

    Attributes:
        state: ``"waiting"``, ``"running"``, then ``"done"``, ``"stopped"`` (a part was kept),
            ``"cancelled"`` (nothing was) or ``"failed"``.
        result: what the work gave; ``None`` before it ends, when cancelled and when failed.
        error: one sentence where it failed, else ``""``.
        details: the traceback as text where it failed. The exception itself is dropped: its
            frames would keep tensors alive.
        notes: sentences that the work had for the reader.
        progress: the last ``Progress``.
        preview: the last small picture, encoded.
        seconds: how long the work took.
        in_foreground: whether it runs where it was started; an interrupt is its Stop then.
    """

    def __init__(
        self, work: Work, on_change: Listener | None = None, on_end: Listener | None = None
    ) -> None:
        self.state = "waiting"
        self.result: Any = None
        self.error = ""
        self.details = ""
        self.notes: tuple[str, ...] = ()
        self.progress = Progress()
        self.preview: bytes | None = None
        self.seconds = 0.0
        self.in_foreground = False
        self._began = 0.0
        self._work: Work | None = work
        self._listeners = (on_change, on_end)
        self._lock = threading.RLock()  # an interrupt may come while it is held
        self._over = threading.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._stop = self._drop = self._obeyed = False

    def start(self, *, in_foreground: bool | None = None, after: float = 0.0) -> Job:
        """Queues the job for the worker thread, or does it at once in the foreground.

        Args:
            in_foreground: ``None`` decides by ``foreground()``.
            after: seconds until its turn may come; meanwhile the worker is free for others.
        """
        self.in_foreground = foreground() if in_foreground is None else in_foreground
        if self.in_foreground:
            with _interrupt_stops(self):
                _execute(self)
        else:
            _worker.put(self, after)
        return self

    @property
    def ended(self) -> bool:
        """Whether its state is final."""
        return self.state in ENDED

    def stop(self) -> None:
        """Ends the work after its present step; what was made so far is kept."""
        self._ask_to_end(drop=False)

    def cancel(self) -> None:
        """Ends the work after its present step and drops what was made; a waiting job at once."""
        self._ask_to_end(drop=True)

    def _ask_to_end(self, drop: bool) -> None:
        with self._lock:
            self._stop, self._drop = True, self._drop or drop
            waiting = self.state == "waiting"
            if waiting:  # nothing of it exists to keep
                self.state, self._work = "cancelled", None
        if waiting:
            self._finish()

    def wait(self, timeout: float | None = None) -> Any:
        """Waits for the end and gives the result (``None`` when cancelled).

        Args:
            timeout: seconds to wait at most.

        Raises:
            JobError: the work failed; the message is its sentence.
            TimeoutError: it has not ended in time.
            RuntimeError: called by the work itself, which would wait for ever.
        """
        if threading.current_thread() is _worker.thread and not self._over.is_set():
            raise RuntimeError(
                "A job can't be waited for on the thread that runs it (a handler of its panel); "
                "wait in a cell, or read panel.result in the handler."
            )
        if not self._over.wait(timeout):
            raise TimeoutError(f"The job has not ended in {timeout:g} s; wait again or stop() it.")
        return self._outcome()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._until_end().__await__()

    def __repr__(self) -> str:
        done, total = self.progress.done, self.progress.total
        return f"Job({self.state}, {done} of {'?' if total is None else total} steps)"

    async def _until_end(self) -> Any:
        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def tell() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(over.set)

        with self._lock:
            if self._over.is_set():
                return self._outcome()
            self._callbacks.append(tell)
        await over.wait()
        return self._outcome()

    def _outcome(self) -> Any:
        if self.state == "failed":
            raise JobError(self.error)
        return self.result

    def _begin(self) -> Work | None:
        with self._lock:
            if self.state != "waiting":
                return None  # cancelled while it waited
            self.state = "running"
            self._began = time.monotonic()
            work, self._work = self._work, None  # or the closure would outlive the run
        self._tell(0)
        return work

    def _show(self, picture: bytes | None) -> None:
        self.preview = picture if picture is not None else self.preview
        self._tell(0)

    def _goes_on(self) -> bool:
        with self._lock:
            self._obeyed = self._stop
            return not self._stop

    def _end(self, result: Any) -> None:
        with self._lock:
            if self._drop:
                self.state = "cancelled"
            else:
                # Pressed after the last step, Stop came too late: the run is whole.
                self.result = result
                self.state = "stopped" if self._obeyed else "done"
        self._finish()

    def _fail(self, sentence: str, details: str) -> None:
        with self._lock:
            if not self._drop:
                self.error, self.details = sentence, details
            self.state = "cancelled" if self._drop else "failed"
        self._finish()

    def _finish(self) -> None:
        """Tells everyone: panel first, so that whoever waited finds it up to date."""
        self.seconds = time.monotonic() - self._began if self._began else 0.0
        self._tell(0)
        with self._lock:
            self._over.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
        self._tell(1)
        self._listeners = (None, None)

    def _tell(self, which: int) -> None:
        listener = self._listeners[which]
        if listener is not None:
            try:
                listener(self)
            except Exception:  # a handler's mistake must not end the worker
                _log.exception("A panel's handler failed; the run itself goes on.")


def foreground() -> bool:
    """Whether jobs run in the foreground here; ``LDMKIT_FOREGROUND=1`` or ``0`` decides first."""
    switch = os.environ.get(SWITCH, "").strip()
    if switch:
        return switch != "0"
    if "google.colab" in sys.modules:  # shows no updates from threads (colabtools#3373)
        return True
    kernel = _kernel()
    return kernel is not None and not getattr(kernel, "_allow_stdin", True)


def _kernel() -> Any:
    """The Jupyter kernel that runs this, or ``None``."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None)


def _execute(job: Job) -> None:
    work = job._begin()
    if work is None:
        return
    try:
        result = work(Report(job))
    except BaseException as error:
        told = _sentence(error), _details(error)
        interrupted = isinstance(error, KeyboardInterrupt)
    else:
        job._end(result)
        return
    finally:
        del work
    gc.collect()  # an exception and its frames often hold each other
    if told[0] == FULL:
        empty_cache()
    if interrupted:
        job.cancel()
    job._fail(*told)
    if interrupted:
        raise KeyboardInterrupt


def _sentence(error: BaseException) -> str:
    """One sentence; ldmkit's own errors are one already."""
    words = " ".join(str(error).split("\n\n")[0].split())
    kind = type(error).__name__
    if is_of_memory(error):
        return FULL
    if not _is_ours(error):
        words = f"The run failed with {kind}: {words}" if words else f"The run failed with {kind}"
    words += "" if words[-1:] in ".!?…" and words else "."
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 1]}…"


def _is_ours(error: BaseException) -> bool:
    """Whether ldmkit raised it on purpose; a KeyError of its own would be a mistake."""
    if not isinstance(error, (TypeError, ValueError, RuntimeError, OSError)):
        return False
    module = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
    return module.split(".")[0] == "ldmkit"


def _details(error: BaseException) -> str:
    """The traceback as text, its last 20,000 characters."""
    return "".join(traceback.format_exception(error))[-LONGEST_DETAILS:]


_last_interrupt = float("-inf")


@contextmanager
def _interrupt_stops(job: Job) -> Iterator[None]:
    """The first interrupt is Stop and keeps the part; a second within two seconds interrupts."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals arrive at the main thread only
        return

    def stop(number: int, frame: Any) -> None:
        global _last_interrupt
        before, _last_interrupt = _last_interrupt, time.monotonic()
        if _last_interrupt - before < 2:  # also over the runs of a loop
            raise KeyboardInterrupt
        job.stop()

    earlier = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier if earlier is not None else signal.SIG_DFL)


class _Worker:
    """The one thread, started with the first job; it sleeps while there is none."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self._queue: list[tuple[float, int, Job]] = []  # (when its turn may come, order, job)
        self._count = itertools.count()
        self._changed = threading.Condition()
        self._running: Job | None = None

    def put(self, job: Job, after: float = 0.0) -> None:
        with self._changed:
            turn = (time.monotonic() + after, next(self._count), job)
            heapq.heappush(self._queue, turn)
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self._loop, name="ldmkit", daemon=True)
                self.thread.start()
            self._changed.notify()

    def _next(self) -> Job:
        with self._changed:
            while True:
                left = self._queue[0][0] - time.monotonic() if self._queue else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._queue)[2]
                self._changed.wait(left)

    def _loop(self) -> None:
        while True:
            self._running = self._next()
            try:
                _execute(self._running)
            except BaseException:
                _log.exception("The worker of ldmkit's panels goes on after an error.")
            self._running = None  # or the last record would live until the next

    def close(self) -> None:
        """Ends the present run, so that the interpreter does not end in the middle of it."""
        job = self._running
        if job is not None:
            job.cancel()
            job._over.wait(2)


_worker = _Worker()
atexit.register(_worker.close)
