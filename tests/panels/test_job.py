"""Jobs: one worker, a queue, Stop and Cancel, errors as a sentence, the foreground."""

import asyncio
import gc
import os
import signal
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from ldmkit.panels import job as jobs
from ldmkit.panels.job import FULL, Job, JobError, foreground


def counting(n, gate=None, begun=None):
    """Work of n steps; returns how many it made. ``gate``: waited for after the first step."""

    def work(report):
        for i in range(n):
            going_on = report(i + 1, n)
            if begun is not None:
                begun.set()
            if gate is not None and i == 0:
                assert gate.wait(20)
                going_on = report(i + 1, n)
            if not going_on:
                return i + 1
        return n

    return work


def started(work, **options):
    return Job(work, **options).start(in_foreground=False)


@pytest.fixture
def held():
    """(job, gate): a job of ten steps that stands after its first."""
    gate, begun = threading.Event(), threading.Event()
    job = started(counting(10, gate, begun))
    assert begun.wait(20)
    yield job, gate
    gate.set()


def test_wait_gives_what_the_work_gave():
    job = started(counting(3))
    assert job.wait(20) == 3
    assert (job.state, job.result, job.error) == ("done", 3, "")
    assert (job.progress.done, job.progress.total) == (3, 3)
    assert job.seconds >= 0
    assert "done" in repr(job)


def test_start_returns_at_once_and_jobs_take_turns(held):
    first, gate = held
    second = started(counting(2))
    assert (first.state, second.state) == ("running", "waiting")
    with pytest.raises(TimeoutError, match=r"not ended in 0\.05 s"):
        second.wait(0.05)
    gate.set()
    assert second.wait(20) == 2
    assert first.result == 10


def test_stop_keeps_the_part_and_ends_after_the_step(held):
    job, gate = held
    job.stop()
    gate.set()
    assert job.wait(20) == 1
    assert job.state == "stopped"


def test_cancel_drops_the_part(held):
    job, gate = held
    job.cancel()
    gate.set()
    assert job.wait(20) is None
    assert (job.state, job.result) == ("cancelled", None)


@pytest.mark.parametrize("how", ["stop", "cancel"])
def test_a_waiting_job_ends_at_once_and_never_runs(held, how):
    ran, told = [], []
    job = started(lambda report: ran.append(1), on_change=lambda job: told.append(job.state))
    getattr(job, how)()
    assert job.wait(20) is None
    held[1].set()
    assert started(counting(1)).wait(20) == 1  # behind it in the queue
    assert (job.state, ran, told) == ("cancelled", [], ["cancelled"])


def test_stop_after_the_last_step_is_no_stop():
    gate, last = threading.Event(), threading.Event()

    def work(report):
        assert report(1, 1)
        last.set()
        gate.wait(20)
        return "whole"

    job = started(work)
    assert last.wait(20)
    job.stop()
    gate.set()
    assert job.wait(20) == "whole"
    assert job.state == "done"


def test_progress_comes_ten_times_a_second_at_most_with_the_seconds_left():
    told, drawn = [], []

    def work(report):
        began = time.monotonic()
        for i in range(60):
            report(i + 1, 60, lambda: drawn.append(1) or b"picture")
            time.sleep(0.01)
        return time.monotonic() - began

    job = Job(work, on_change=lambda job: told.append((job.state, job.progress)))
    job.start(in_foreground=False)
    seconds = job.wait(20)
    updates = [progress for state, progress in told if state == "running" and progress.done]
    assert 2 <= len(updates) <= seconds * 10 + 1
    assert len(drawn) == len(updates), "a picture that nobody sees is not drawn"
    assert job.preview == b"picture"
    assert updates[0].seconds_left is None
    middle = updates[len(updates) // 2]
    expected = seconds * (60 - middle.done) / 60
    assert middle.seconds_left == pytest.approx(expected, rel=0.5)


def test_an_error_is_a_sentence_and_its_traceback_holds_nothing():
    class Tensor:
        pass

    kept = []

    def work(report):
        tensor = Tensor()
        kept.append(weakref.ref(tensor))
        raise KeyError("first line\nsecond <b>line</b>")

    job = started(work)
    with pytest.raises(JobError, match=r"^The run failed with KeyError: 'first line"):
        job.wait(20)
    assert job.state == "failed"
    assert "\n" not in job.error
    assert "in work" in job.details
    gc.collect()
    assert kept[0]() is None
    assert started(counting(1)).wait(20) == 1, "the worker goes on"


def test_an_error_of_our_own_is_its_own_sentence():
    from ldmkit.records import Trajectory

    job = started(lambda report: Trajectory.open("missing/nowhere.safetensors"))
    with pytest.raises(JobError, match=r"No such file"):
        job.wait(20)
    job = started(lambda report: Trajectory(timesteps=[1.0], alphas=[], sigmas=[], prompt=""))
    with pytest.raises(JobError, match=r"^alphas must have the shape"):
        job.wait(20)


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: "
                     "can't allocate memory: you tried to allocate 400 bytes"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_out_of_memory_is_told_with_its_remedies(error):
    def work(report):
        raise error

    job = started(work)
    with pytest.raises(JobError) as raised:
        job.wait(20)
    assert str(raised.value) == FULL
    for remedy in ("smaller picture", "ldmkit.release()", 'dtype="float16"', "restart"):
        assert remedy in FULL


def test_long_errors_are_cut():
    def work(report):
        raise ValueError("x" * 100_000)

    job = started(work)
    with pytest.raises(JobError):
        job.wait(20)
    assert len(job.error) <= 400
    assert len(job.details) <= 20_000


def test_listeners_are_told_before_wait_returns_and_their_mistakes_end_nothing(caplog):
    order = []

    def on_change(job):
        order.append(job.state)
        raise RuntimeError("a handler's mistake")

    over = threading.Event()
    job = started(counting(1), on_change=on_change, on_end=lambda job: over.set())
    assert job.wait(20) == 1
    assert order[-1] == "done"
    assert over.wait(20)
    assert "A panel's handler failed" in caplog.text


def test_await(held):
    job, gate = held

    async def main():
        beats = 0
        waiting = asyncio.ensure_future(_result(job))
        while not waiting.done():
            beats += 1
            gate.set()
            await asyncio.sleep(0.001)  # the loop goes on meanwhile
        return beats, waiting.result(), await job

    beats, result, again = run(main())
    assert beats >= 1
    assert (result, again) == (10, 10)


async def _result(job):
    return await job


def run(coroutine):
    """In a thread of its own: after browser tests Playwright's loop holds the main one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def test_await_raises_what_wait_raises():
    async def main(job):
        await job

    def work(report):
        raise ValueError("no")

    with pytest.raises(JobError, match="ValueError: no"):
        run(main(started(work)))


def test_waiting_on_the_worker_itself_is_refused():
    said = []

    def work(report):
        try:
            job.wait()
        except RuntimeError as error:
            said.append(str(error))

    job = Job(work)
    job.start(in_foreground=False).wait(20)
    assert "can't be waited for on the thread that runs it" in said[0]


def test_one_thread_for_all_and_nothing_of_an_ended_job_stays():
    class Heavy:
        pass

    started(counting(1)).wait(20)
    threads = threading.active_count()
    kept = []
    for _ in range(20):
        heavy = Heavy()
        kept.append(weakref.ref(heavy))

        def work(report, heavy=heavy):
            return report(1, 1)

        job = started(work)
        job.wait(20)
        del heavy, work
    assert threading.active_count() == threads
    started(counting(1)).wait(20)  # the worker has let go of the last one
    gc.collect()
    assert job.ended
    assert [ref for ref in kept if ref() is not None] == []


# --- the foreground ------------------------------------------------------------------------------


def test_foreground_has_run_when_start_returns():
    where = []

    def work(report):
        where.append(threading.current_thread())
        return report(1, 1)

    job = Job(work).start(in_foreground=True)
    assert where == [threading.main_thread()]
    assert job.wait(0) is True


def test_an_interrupt_in_the_foreground_keeps_the_part(monkeypatch):
    monkeypatch.setattr(jobs, "_last_interrupt", float("-inf"))
    before = signal.getsignal(signal.SIGINT)

    def work(report):
        for i in range(10):
            if i == 4:
                os.kill(os.getpid(), signal.SIGINT)
            if not report(i + 1, 10):
                return i + 1
        return 10

    job = Job(work).start(in_foreground=True)
    assert (job.state, job.result) == ("stopped", 5)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_within_two_seconds_interrupts(monkeypatch):
    monkeypatch.setattr(jobs, "_last_interrupt", float("-inf"))

    def work(report):
        for i in range(10):
            os.kill(os.getpid(), signal.SIGINT)
            report(i + 1, 10)

    job = Job(work)
    with pytest.raises(KeyboardInterrupt):
        job.start(in_foreground=True)
    assert job.state == "cancelled"
    assert job.wait(0) is None


def test_where_jobs_run(monkeypatch):
    import sys
    import types

    monkeypatch.delenv(jobs.SWITCH, raising=False)
    monkeypatch.setattr(jobs, "_kernel", lambda: None)
    assert not foreground()
    monkeypatch.setattr(jobs, "_kernel", lambda: types.SimpleNamespace(_allow_stdin=True))
    assert not foreground()
    monkeypatch.setattr(jobs, "_kernel", lambda: types.SimpleNamespace(_allow_stdin=False))
    assert foreground(), "nbclient"
    monkeypatch.setenv(jobs.SWITCH, "0")
    assert not foreground()
    monkeypatch.setenv(jobs.SWITCH, "1")
    monkeypatch.setattr(jobs, "_kernel", lambda: None)
    assert foreground()
    monkeypatch.delenv(jobs.SWITCH)
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    assert foreground(), "Colab"


def test_a_job_that_waits_for_its_time_holds_up_no_other():
    order = []
    late = Job(lambda report: order.append("late")).start(in_foreground=False, after=0.2)
    dropped = Job(lambda report: order.append("dropped")).start(in_foreground=False, after=0.1)
    started(lambda report: order.append("now")).wait(20)
    assert (late.state, dropped.state) == ("waiting", "waiting")
    dropped.cancel()
    late.wait(20)
    assert order == ["now", "late"]
