"""``DistillPanel``: a rung is trained, watched, stopped, kept and gone on with."""

import io
import math
import threading
import xml.etree.ElementTree as ET
from contextlib import contextmanager

import numpy as np
import pytest
import tiny
from PIL import Image

import ldmkit
from ldmkit.distilling import students
from ldmkit.panels import distilling
from ldmkit.panels.distilling import DistillPanel, curve
from ldmkit.panels.job import SWITCH
from ldmkit.recording import record

OPTIONS = {
    "prompts": ["a red cat", "a blue dog"], "batch_size": 2, "guidance_scale": 3.0,
    "rung": 2, "updates": 4, "seed": 5,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _in_threads(monkeypatch):
    monkeypatch.delenv(SWITCH, raising=False)


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(size="small", prediction_type="v_prediction")


@pytest.fixture
def panel(pipe):
    panel = DistillPanel(pipe, "a red cat", **OPTIONS)
    yield panel
    panel.close()


@contextmanager
def held(monkeypatch, at):
    """The worker stands before an update's loss until the gate opens."""
    gate, reached, real, calls = threading.Event(), threading.Event(), students.loss, []

    def stand(*args):
        calls.append(1)
        if len(calls) == at:
            reached.set()
            assert gate.wait(30)
        return real(*args)

    monkeypatch.setattr(students, "loss", stand)
    try:
        yield gate, reached
    finally:
        gate.set()
        monkeypatch.setattr(students, "loss", real)


def shown(panel, name):
    return np.asarray(Image.open(io.BytesIO(panel._shown[name]._picture.value)).convert("RGB"))


def words(panel, name):
    return panel._shown[name]._words.value


def message(panel):
    return panel._form._message.value


def close_to(picture, pipe, steps, **call):
    wanted = record(pipe, "a red cat", seed=5, num_inference_steps=steps, preview="none", **call)
    return np.abs(picture.astype(int) - np.asarray(wanted.image).astype(int)).mean() < 8  # lossy


def test_a_rung_is_what_distill_gives(pipe, panel):
    assert panel.ladder is None
    ladder = panel.run().wait(60)
    assert ladder is panel.ladder is panel.result
    given = {name: OPTIONS[name] for name in ("prompts", "batch_size", "guidance_scale")}
    twin = ldmkit.distill(pipe, (2,), updates=4, seed=5, **given)
    assert ladder.losses == twin.losses
    assert ladder.finished
    assert (panel._form.run.description, message(panel)) == ("Run", "")
    assert "4 updates in" in panel._form._status.value
    assert close_to(shown(panel, "plain"), pipe, 2, guidance_scale=3.0)
    assert close_to(shown(panel, "teacher"), pipe, 4, guidance_scale=3.0)
    assert close_to(shown(panel, "student"), ladder.student(2), 2)
    assert words(panel, "student") == "student, 2 steps, after 4 updates"
    assert f"{ladder.losses[2][-1]:.3g} at update 4 of 4" in panel._curve.value


def test_stopped_kept_gone_on(pipe, panel, monkeypatch, tmp_path):
    with held(monkeypatch, at=2) as (gate, reached):
        job = panel.run()
        assert reached.wait(60)
        assert len(panel.ladder.losses[2]) == 1  # it can be looked at while it learns
        assert panel.ladder.student(2).unet is not pipe.unet
        assert (panel._form.run.disabled, panel._form.stop.disabled) == (True, False)
        panel._form.stop.click()
        gate.set()
        ladder = job.wait(60)
    assert (job.state, len(ladder.losses[2]), ladder.finished) == ("stopped", 2, False)
    assert (panel._form.run.description, panel._form.run.disabled) == ("Go on", False)
    assert words(panel, "student") == "student, 2 steps, after 2 updates"
    with pytest.warns(UserWarning, match="2 steps is written as it is after 2 of 4 updates"):
        folder = ladder.save(tmp_path / "mine")
    assert ldmkit.load(folder, variant="steps2", device="cpu")
    first = list(ladder.losses[2])
    panel.value = {"seed": 6}
    assert panel._form.run.description == "Run"  # it would be another one
    panel.value = {"seed": 5}
    assert panel._form.run.description == "Go on"
    panel._form.run.click()
    assert panel.job.wait(60) is ladder
    assert (ladder.losses[2][:2], len(ladder.losses[2])) == (first, 4)
    assert ladder.finished
    panel.value = {"updates": 1}
    again = panel.run().wait(60)  # nothing is left to go on with: another one
    assert (again is ladder, len(again.losses[2])) == (False, 1)


def test_a_bad_update_is_told_and_a_smaller_rate_goes_on(panel, monkeypatch):
    real, calls = students.loss, []

    def broken(*args):
        calls.append(1)
        return real(*args) * (math.nan if len(calls) == 3 else 1)

    monkeypatch.setattr(students, "loss", broken)
    ladder = panel.run().wait(60)
    assert "no longer finite after 2 of 4 updates" in message(panel)
    assert panel._form.run.description == "Go on"
    panel.value = {"learning_rate": 0.0005}
    assert panel.run().wait(60) is ladder
    assert (ladder.finished, ladder.learning_rate) == (True, 0.0005)


def test_what_breaks_the_run_leaves_the_ladder(panel, monkeypatch):
    real, calls = students.loss, []

    def broken(*args):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError
        return real(*args)

    monkeypatch.setattr(students, "loss", broken)
    panel.run()
    with pytest.raises(RuntimeError, match="memory is full"):
        panel.job.wait(60)
    assert len(panel.ladder.losses[2]) == 2
    assert panel._form.run.description == "Go on"
    unfinished, seen = panel.ladder, []
    panel.observe(lambda change: seen.append(change["new"]), names="result")
    panel.value = {"updates": 1}
    assert panel.run().wait(60).finished
    assert seen == [unfinished, panel.ladder]
    assert "Another student begins; panel.result is the unfinished one" in message(panel)


def test_closing_ends_it_and_what_was_learned_stays(pipe, monkeypatch):
    panel = DistillPanel(pipe, **OPTIONS)
    with held(monkeypatch, at=3) as (gate, reached):
        job = panel.run()
        assert reached.wait(60)
        panel.close()
        gate.set()
        job.wait(60)
    assert job.state == "cancelled"
    assert len(panel.ladder.losses[2]) == 3
    panel.ladder.climb()
    assert panel.ladder.finished
    with pytest.raises(RuntimeError, match="make another DistillPanel"):
        panel.run()


def test_the_picture_comes_anew_while_it_learns(pipe, panel, monkeypatch):
    monkeypatch.setattr(distilling, "EVERY", 0.0)
    drawn = []
    real = distilling._Lesson._draw_student
    monkeypatch.setattr(
        distilling._Lesson,
        "_draw_student",
        lambda lesson: (real(lesson), drawn.append(lesson.pictures["student"])),
    )
    panel.run().wait(60)
    assert len(drawn) == 5  # after each update, and at the end
    assert len(set(drawn)) > 1


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        ({"rung": 0}, ValueError, "rung must be between 1 and 1000"),
        ({"rung": 3}, ValueError, "student of 3 steps must stand where"),
        ({"updates": 0}, ValueError, "updates must be between 1"),
        ({"learning_rate": math.nan}, ValueError, "learning_rate must be a finite number"),
        ({"seed": -1}, ValueError, "seed must be between 0"),
        ({"prompt": 3}, TypeError, "prompt must be one string"),
        ({"rungs": 3}, ValueError, "did you mean 'rung'"),
    ],
)
def test_wrong_values_are_told_and_change_nothing(panel, wrong, kind, said):
    before = panel.value
    with pytest.raises(kind, match=said):
        panel.value = wrong
    assert panel.value == before
    assert "ldm-wrong" in message(panel)


def test_what_cannot_teach_is_refused_at_once(pipe):
    with pytest.raises(ValueError, match="prediction_type 'sample'"):
        DistillPanel(tiny.pipeline(size="small", prediction_type="sample"), prompts=["a cat"])
    with pytest.raises(TypeError, match="distill takes a diffusers pipeline first"):
        DistillPanel("critters")
    with pytest.raises(TypeError, match="did you mean 'batch_size'"):
        DistillPanel(pipe, prompts=["a cat"], batchsize=3)


def test_the_curve_is_a_picture_of_the_errors():
    assert curve([], 5) == ""
    drawn = curve([1.0, 0.1, 0.01], 4)
    svg = ET.fromstring(drawn[: drawn.index("</svg>") + 6])
    (line,) = svg
    assert line.get("points") == "150.0,0.0 300.0,60.0 450.0,120.0"  # equal ratios, equal steps
    assert "0.01 at update 3 of 4" in drawn
    assert len(curve([0.5 + i % 7 for i in range(10_000)], 10_000)) < 6_000
    assert "nan" not in curve([0.0, 0.0], 2)
