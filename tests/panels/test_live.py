"""``PromptPanel(pipe, live=True)``: the newest request wins, none queue, none is lost."""

import asyncio
import gc
import io
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import ldmkit
from ldmkit.panels import PromptPanel, live, prompt
from ldmkit.panels.job import SWITCH
from ldmkit.recording import record
from ldmkit.threads import on_one_thread

QUICK = {"num_inference_steps": 2, "guidance_scale": 1.0}


@pytest.fixture(autouse=True)
def _in_threads(monkeypatch):
    monkeypatch.delenv(SWITCH, raising=False)


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(size="small")


@pytest.fixture
def ran(monkeypatch):
    """Words and ``keep`` of each run, in the order of their beginning; never two at once."""
    began, busy = [], threading.Lock()

    def spied(pipe, prompt, **call):
        assert busy.acquire(blocking=False), "two at once"
        try:
            began.append((prompt, call["keep"]))
            return record(pipe, prompt, **call)
        finally:
            busy.release()

    monkeypatch.setattr(prompt, "record", spied)
    return began


@pytest.fixture
def panel(pipe, monkeypatch):
    """Its first picture is drawn; no record is kept unless a test waits for it."""
    monkeypatch.setattr(live, "SETTLED", 60)
    panel = PromptPanel(pipe, "a cat", seed=7, live=True, **QUICK)
    panel.job.wait(60)
    yield panel
    panel.close()


@contextmanager
def held(pipe):
    """The pipeline's network stands at its next call until the gate opens."""
    gate, reached = threading.Event(), threading.Event()

    def stand(module, args):
        reached.set()
        assert gate.wait(30)

    handle = pipe.unet.register_forward_pre_hook(stand)
    try:
        yield gate, reached
    finally:
        gate.set()
        handle.remove()


def write(panel, words):
    """As the message of a letter does."""
    panel._form._fields["prompt"]._view.set_state({"value": words})


def message(panel):
    return panel._form._message.value


def on_stage(panel):
    return np.asarray(Image.open(io.BytesIO(panel._picture.value)).convert("RGB"))


def wanted(pipe, words, **call):
    return np.asarray(record(pipe, words, **{"seed": 7, "preview": "none", **QUICK, **call}).image)


def until(condition):
    last = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < last
        time.sleep(0.005)


def test_the_newest_wins_and_none_queue(pipe, ran, panel):
    text = "a red cat with a top hat in the snow"
    ran.clear()
    with held(pipe) as (gate, reached):
        write(panel, "a")
        assert reached.wait(30)
        jobs = []
        for end in range(2, len(text) + 1):
            write(panel, text[:end])
            jobs.append(panel.job)
        assert {job.state for job in jobs[:-1]} == {"cancelled"}
        assert jobs[-1].state == "waiting"
        assert len([job for job in panel._live._drawings if not job.ended]) == 2
        gate.set()
        traj = panel.job.wait(60)
    assert [words for words, _ in ran] == ["a", text]
    assert traj.prompt == panel.value["prompt"] == text
    assert np.array_equal(on_stage(panel), wanted(pipe, text))
    assert len(panel._picture.value) < 10_000  # bytes: what crosses to the browser


def test_none_is_lost_however_they_come(pipe, ran, panel):
    """From two threads, in bursts and alone: what stands at the end is what was asked last."""
    rng = np.random.default_rng(0)

    def others():
        for i in range(40):
            panel.value = {"negative_prompt": str(i)}
            time.sleep(0.003)

    beside = threading.Thread(target=others)
    beside.start()
    for i in range(60):
        write(panel, f"a cat {i}")
        time.sleep(float(rng.choice([0, 0.002, 0.03])))
    beside.join()
    write(panel, "a dog")
    panel.job.wait(60)
    assert ran[-1][0] == "a dog"
    assert not panel._live.waits
    expected = wanted(pipe, "a dog", negative_prompt="39")
    assert np.array_equal(on_stage(panel), expected)
    assert (panel.result, panel._history.runs) == (None, [])  # nothing is kept of what went by


def test_sliders_and_seed_draw_too(pipe, panel):
    form = panel._form._fields
    assert all(form[name].continuous_update for name in ("strength", "seed", "negative_prompt"))
    form["num_inference_steps"].set_state({"value": 3})
    form["guidance_scale"].set_state({"value": 2.5})
    form["seed"].set_state({"value": 9})
    panel.job.wait(60)
    expected = wanted(pipe, "a cat", seed=9, num_inference_steps=3, guidance_scale=2.5)
    assert np.array_equal(on_stage(panel), expected)
    panel.value = {"num_inference_steps": 40, "guidance_scale": -12.0}  # further than they went
    assert (form["num_inference_steps"].value, form["guidance_scale"].value) == (40, -12.0)


def test_a_record_is_kept_when_it_settles(pipe, ran, monkeypatch):
    monkeypatch.setattr(live, "SETTLED", 0.5)
    panel = PromptPanel(pipe, "a cat", seed=7, live=True, **QUICK)
    for words in ("a r", "a red", "a red cat"):
        write(panel, words)
        drawn = panel.job.wait(60)
        assert (panel.result, drawn.latents) == (None, None)
    until(lambda: panel.result is not None and panel._player is not None)
    kept = panel.job.wait(60)
    assert panel.result is kept is panel._history.runs[0].traj
    assert len(panel._history.runs) == 1
    assert [keep for _, keep in ran[-2:]] == [(), ("latents", "denoised")]
    assert np.array_equal(kept.latents, record(pipe, "a red cat", seed=7, **QUICK).latents)
    assert np.array_equal(np.asarray(kept.image), np.asarray(drawn.image))
    assert "'a red cat'" in panel.code
    began = len(ran)
    time.sleep(0.7)
    assert len(ran) == began, "once is enough"
    panel.close()


def test_typing_again_drops_the_run_that_would_be_kept(pipe, panel, monkeypatch):
    monkeypatch.setattr(live, "SETTLED", 0.0)
    write(panel, "a red cat")
    panel.job.wait(60)
    with held(pipe) as (gate, reached):
        assert reached.wait(30)
        until(lambda: panel._live._kept is not None)
        monkeypatch.setattr(live, "SETTLED", 60)
        write(panel, "a red dog")
        gate.set()
        panel.job.wait(60)
    assert panel._live._kept.state == "cancelled"
    assert panel.result is None
    assert np.array_equal(on_stage(panel), wanted(pipe, "a red dog"))


def test_a_slow_drawing_ends_at_its_next_step_and_shows_its_steps(pipe, ran, panel, monkeypatch):
    monkeypatch.setattr(live, "QUICK", 0.0)
    monkeypatch.setattr(prompt, "QUICK", 0.0)
    panel.value = {"num_inference_steps": 30}
    panel.job.wait(60)
    assert panel.job.preview is not None
    ran.clear()
    with held(pipe) as (gate, reached):
        write(panel, "an owl")
        slow = panel.job
        assert reached.wait(30)
        write(panel, "a dog")
        gate.set()
        panel.job.wait(60)
    assert slow.state == "cancelled"
    assert slow.progress.done <= 2
    assert [words for words, _ in ran] == ["an owl", "a dog"]
    assert np.array_equal(on_stage(panel), wanted(pipe, "a dog", num_inference_steps=30))

    # A steady typist isn't starved: when nothing was drawn for a while, it is let to its end.
    monkeypatch.setattr(live, "PATIENCE", 0.0)
    with held(pipe) as (gate, reached):
        write(panel, "a fox")
        slow = panel.job
        assert reached.wait(30)
        write(panel, "an owl")
        gate.set()
        panel.job.wait(60)
    assert slow.state == "done"


def test_what_fails_leaves_the_last_good_picture_and_says_so(pipe, panel):
    good = panel._picture.value

    def broken(module, args):
        raise RuntimeError("the lamp is out")

    handle = pipe.unet.register_forward_pre_hook(broken)
    try:
        write(panel, "a dog")
        until(lambda: panel.job.ended)
    finally:
        handle.remove()
    assert panel.job.state == "failed"
    assert panel._picture.value == good
    assert "the lamp is out. The last good picture stays." in message(panel)
    assert not panel._form.run.disabled
    write(panel, "an owl")
    panel.job.wait(60)
    assert message(panel) == ""
    assert np.array_equal(on_stage(panel), wanted(pipe, "an owl"))


@pytest.mark.parametrize(("name", "wrong"), [("prompt", "half a \ud83d cat"), ("seed", -1)])
def test_what_is_refused_is_told_and_not_drawn(panel, name, wrong):
    good, job = panel._picture.value, panel.job
    if name == "prompt":
        write(panel, wrong)
    else:
        panel._form._fields[name].set_state({"value": wrong})
    assert "ldm-wrong" in message(panel)
    assert (panel.job, panel._picture.value) == (job, good)
    with pytest.raises(ValueError, match=name):
        panel.value = {name: wrong}
    assert (panel.job, panel._picture.value) == (job, good)


def test_unknown_words_are_drawn_and_told_without_a_jump(panel, monkeypatch):
    panel._vocabulary = frozenset({"a", "red", "cat"})
    write(panel, "a red monocl")
    panel.job.wait(60)
    assert "never learned “monocl”" in message(panel)
    said = []
    panel._form._message.observe(lambda change: said.append(change["new"]), "value")
    write(panel, "a red monocle")
    panel.job.wait(60)
    assert len(said) == 1
    assert "“monocle”" in said[0]
    write(panel, "a red cat")
    panel.job.wait(60)
    assert message(panel) == ""


def test_run_keeps_at_once_and_is_not_dropped_by_typing(pipe, ran, panel):
    with held(pipe) as (gate, reached):
        panel._form.run.click()
        run = panel.job
        assert reached.wait(30)
        write(panel, "a dog")
        write(panel, "a fox")
        gate.set()
        panel.job.wait(60)
    assert run.wait(60).prompt == "a cat"
    assert panel.result is run.result
    assert [words for words, _ in ran[-2:]] == ["a cat", "a fox"]
    assert np.array_equal(on_stage(panel), wanted(pipe, "a fox"))


@pytest.mark.parametrize("small", [True, False])
def test_a_drawing_switches_threads_once_where_all_compute_on_one(small, monkeypatch):
    switched, seen = [], []

    @contextmanager
    def one_thread():
        switched.append("in")
        yield
        switched.append("out")

    monkeypatch.setattr(live, "one_thread", one_thread)
    monkeypatch.setattr(live, "SETTLED", 0.05)
    pipe = tiny.pipeline(size="small")
    if small:
        for part in (pipe.unet, pipe.vae, pipe.text_encoder):
            on_one_thread(part)
    pipe.unet.register_forward_pre_hook(
        lambda module, args: seen.append((torch.is_inference_mode_enabled(), list(switched)))
    )
    panel = PromptPanel(pipe, "a cat", seed=7, live=True, **QUICK)
    until(lambda: panel.result is not None)
    drawing, kept = seen[:2], seen[2:]
    assert drawing == [(True, ["in"] if small else [])] * 2
    assert kept == [(False, ["in", "out"] if small else [])] * 2
    assert np.array_equal(on_stage(panel), np.asarray(panel.result.image))
    panel.close()


def test_stop_keeps_the_part_and_nothing_more_comes(pipe, ran, panel, monkeypatch):
    panel.value = {"num_inference_steps": 9}
    panel.job.wait(60)
    monkeypatch.setattr(live, "SETTLED", 0.1)
    with held(pipe) as (gate, reached):
        write(panel, "a dog")
        assert reached.wait(30)
        panel.stop()
        gate.set()
        part = panel.job.wait(60)
    assert part.stopped
    assert np.array_equal(on_stage(panel), np.asarray(part.image))
    began = len(ran)
    time.sleep(0.3)
    assert (len(ran), panel.result) == (began, None)


def test_close_ends_it(pipe, ran, panel, monkeypatch):
    monkeypatch.setattr(live, "SETTLED", 0.05)
    with held(pipe) as (gate, reached):
        write(panel, "a dog")
        assert reached.wait(30)
        write(panel, "a fox")
        running, waiting = panel._live._drawings
        panel.close()
        gate.set()
        running.wait(60)
    assert (running.state, waiting.state) == ("cancelled", "cancelled")
    time.sleep(0.2)
    assert ran[-1][0] == "a dog"
    gone = weakref.ref(panel._picture)
    assert gone().comm is None  # out of ipywidgets' registry


def test_a_released_pipeline_is_told():
    pipe = tiny.pipeline(size="small")
    panel = PromptPanel(pipe, "a cat", seed=7, live=True, **QUICK)
    panel.job.wait(60)
    good = panel._picture.value
    ldmkit.release(pipe)
    write(panel, "a dog")
    until(lambda: panel.job.ended)
    assert (panel.job.state, panel._picture.value) == ("failed", good)
    assert "released" in message(panel)
    panel.close()
    gc.collect()


def test_in_the_foreground_a_cell_runs_at_once_and_typing_when_it_pauses(ran, panel, monkeypatch):
    panel.job.wait(60)  # the first picture is drawn in a thread
    monkeypatch.setenv(SWITCH, "1")
    with ThreadPoolExecutor(1) as pool:  # in the main thread Playwright's loop may be running
        pool.submit(setattr, panel, "value", {"prompt": "a dog"}).result()
        assert panel.result.prompt == "a dog"
        ran.clear()

        async def typing():
            for words in ("a", "a f", "a fo", "a fox"):
                write(panel, words)
            assert ran == []
            await asyncio.sleep(live.PAUSE + 0.1)

        pool.submit(asyncio.run, typing()).result()
    assert [words for words, _ in ran] == ["a fox"]
    assert panel.result.prompt == "a fox"


def test_a_pipeline_that_begins_from_a_picture_waits_for_it():
    panel = PromptPanel(tiny.pipeline(kind="img2img", size="small"), "a cat", live=True, **QUICK)
    assert panel.job is None
    panel.value = {"image": Image.new("RGB", (16, 16), "red")}
    assert panel.job.wait(60).image is not None
    panel.close()


def test_live_is_true_or_false(pipe):
    with pytest.raises(TypeError, match="live must be True or False, got 'yes'"):
        PromptPanel(pipe, live="yes")
    panel = PromptPanel(pipe, "a cat")
    panel.value = {"prompt": "a dog"}
    assert panel.job is None  # by default nothing is drawn unasked
    panel.close()
