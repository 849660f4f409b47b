"""What every panel is: checked whoever sets it, alone with its scheduler, told of a release."""

import dataclasses
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import ipywidgets
import numpy as np
import pytest
import tiny
import tiny_unclip
from panels.hands import held, message, tree
from PIL import Image
from records.make import make
from records.make_grid import make_grid
from tiny import picture

import ldmkit
from ldmkit.loading.siblings import twin_of
from ldmkit.panels import (
    ArithmeticPanel,
    ComparePanel,
    InterpolationPanel,
    PromptPanel,
    TrajectoryPanel,
)
from ldmkit.panels.job import JobError

QUICK = {"num_inference_steps": 2, "num_frames": 3}
RUNNING = ["prompt", "interpolation", "arithmetic"]
ALL = [*RUNNING, "trajectory", "compare"]


@pytest.fixture(scope="module")
def pipes():
    return {"prompt": tiny.pipeline(size="small"), "unclip": tiny_unclip.with_eye()}


def grid():
    return make_grid({"num_inference_steps": (1, 2), "scheduler": ("ddim", "euler")})


def panel_of(kind, pipes):
    if kind == "prompt":
        return PromptPanel(pipes["prompt"], "a red cat", seed=7, num_inference_steps=4)
    if kind == "interpolation":
        return InterpolationPanel(pipes["unclip"], picture(), "a blue dog", seed=3, **QUICK)
    if kind == "arithmetic":
        terms = [(1, picture()), (1, "a red cat"), (-1, "a cat")]
        return ArithmeticPanel(pipes["unclip"], terms, seed=3, invert=False, **QUICK)
    return TrajectoryPanel(make(3)) if kind == "trajectory" else ComparePanel(grid())


@pytest.fixture
def panel(request, pipes):
    panel = panel_of(request.param, pipes)
    yield panel
    panel.close()


def pipe_of(panel):
    return panel._pipe


def pictures_of(record):
    return [np.asarray(image, int) for image in record.images]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


# --- what is set ---------------------------------------------------------------------------------


class Sly:
    """An object that raises whatever is asked of it."""

    def __repr__(self):
        raise RuntimeError("no words")

    __str__ = __repr__


def knot():
    tied = {}
    tied["seed"] = tied
    return tied


NONSENSE = [
    None, [], 3, "x" * 10**6, float("nan"), 10**400, 10**5000, b"GIF89a", object, print, Sly(),
    [[[{}]]], {"seed", "steps"}, {3: 4}, {None: None}, {("a",): 1}, {"": 1}, {"x" * 10**5: 1},
    {Sly(): 1}, {"value": {"value": None}},
]  # fmt: skip
ENTRIES = [
    None, [], {}, [[[{}]]], 10**400, -(10**5000), float("nan"), float("inf"), b"", print, object(),
    np.zeros(3), np.array("x"), Sly(), "\ud83d", ("a", "b", "c"), Image.Image,
]  # fmt: skip


@pytest.mark.parametrize("panel", ALL, indirect=True)
def test_nonsense_is_refused_and_nothing_breaks(panel):
    before = panel.value
    for nonsense in [*NONSENSE, knot()]:
        with pytest.raises((TypeError, ValueError)) as raised:
            panel.value = nonsense
        one_sentence(raised.value)
        assert panel.value == before
        with (
            pytest.raises((TypeError, ValueError)),
            panel.hold_trait_notifications(),  # inside of it traitlets asks no validator
        ):
            panel.value = nonsense
        assert panel.value == before
    panel.value = before
    assert panel.value == before


def one_sentence(error):
    words = str(error)
    assert 10 < len(words) < 600, words
    assert len(words.splitlines()) == 1
    assert words.endswith((".", "?")), words


@pytest.mark.parametrize("panel", ALL, indirect=True)
def test_nonsense_in_each_setting(panel):
    """A setting may take some of these (a list of terms may be empty), or says one sentence."""
    before = panel.value
    refused = 0
    for name in before:
        for nonsense in ENTRIES:
            if name == "image" and nonsense is None:
                continue
            try:
                panel.value = {name: nonsense}
            except (TypeError, ValueError) as error:
                refused += 1
                one_sentence(error)
                assert panel.value == before, (name, nonsense)
                if hasattr(panel, "_form"):
                    assert "ldm-wrong" in message(panel)
            panel.value = before
    assert refused >= len(before) * (len(ENTRIES) - 2)


@pytest.mark.parametrize("panel", RUNNING, indirect=True)
def test_it_works_on_after_nonsense(panel):
    good = panel.run().wait(60)
    for nonsense in (None, [], {"seed": None}):
        with pytest.raises((TypeError, ValueError)):
            panel.value = nonsense
    again = panel.run().wait(60)
    assert same(pictures_of(good), pictures_of(again))
    assert message(panel).count("ldm-wrong") == 0


@pytest.mark.parametrize("panel", RUNNING, indirect=True)
def test_the_result_is_read_only(panel):
    for nonsense in (None, 3):
        with pytest.raises(Exception, match=r"read-only"):
            panel.result = nonsense
    assert panel.result is None


@pytest.mark.parametrize("panel", ["trajectory"], indirect=True)
def test_the_players_traits(panel):
    for name in ("step", "batch", "lanes"):
        before = getattr(panel, name)
        for nonsense in ENTRIES:
            with pytest.raises((TypeError, ValueError)) as raised:
                setattr(panel, name, nonsense)
            one_sentence(raised.value)
            assert getattr(panel, name) == before
    assert panel.value == {"step": 0, "batch": 0, "lanes": panel.lanes}


@pytest.mark.parametrize("panel", ["interpolation", "arithmetic"], indirect=True)
def test_place_and_export_refuse_in_one_sentence(panel):
    panel.run().wait(60)
    for nonsense in (None, 1.5, "a", 10**400, [], True):
        with pytest.raises((TypeError, ValueError), match="place must be"):
            panel.place = nonsense
    for nonsense in (None, 3, b"walk.gif", []):
        with pytest.raises(TypeError, match="path must be a file name"):
            panel.export(nonsense)


@pytest.mark.parametrize(
    ("make_one", "words"),
    [
        (lambda p: PromptPanel(None), "PromptPanel takes a diffusers pipeline first, got NoneType"),
        (
            lambda p: PromptPanel(p["prompt"], None),
            "prompt must be one string in a panel, got None",
        ),
        (lambda p: PromptPanel(p["prompt"], 7), "prompt must be one string in a panel, got 7"),
        (lambda p: PromptPanel(p["prompt"], callback_on_step_end=3), "must be a function or None"),
        (lambda p: PromptPanel(p["prompt"], eta=10**400), "eta must be a finite number"),
        (lambda p: PromptPanel(p["prompt"], generator=3), "got 'generator'"),
        (lambda p: InterpolationPanel(None), "InterpolationPanel takes a diffusers pipeline first"),
        (lambda p: InterpolationPanel(p["unclip"], None), "a must be words, a PIL picture"),
        (lambda p: InterpolationPanel(p["unclip"], captions=3), "captions must be a list of texts"),
        (lambda p: InterpolationPanel(p["unclip"], captions="cat"), "captions must be a list of"),
        (lambda p: InterpolationPanel(p["unclip"], captions=[3]), "captions must be a string or"),
        (lambda p: InterpolationPanel(p["unclip"], captions=[]), "captions must hold at least one"),
        (lambda p: InterpolationPanel(p["unclip"], eta=10**400), "eta must be a finite number"),
        (lambda p: ArithmeticPanel(None), "ArithmeticPanel takes a diffusers pipeline first"),
        (lambda p: ArithmeticPanel(p["unclip"], 3), "terms must be a list of pairs"),
        (lambda p: ArithmeticPanel(p["unclip"], clip=3), "clip must be a ClipSpace or None, got 3"),
        (lambda p: ArithmeticPanel(p["unclip"], captions=None, theta=None), "theta .* a number"),
        (lambda p: TrajectoryPanel(None), "TrajectoryPanel takes a Trajectory first, got None"),
        (lambda p: TrajectoryPanel(make(2), step=None), "step must be a whole number"),
        (lambda p: TrajectoryPanel(make(2), lanes=3), "lanes must be a list of names, got 3"),
        (lambda p: ComparePanel(None), "ComparePanel takes a Grid first, got None"),
        (lambda p: ComparePanel(grid(), across=3), "across must be one of the axes"),
        (lambda p: ComparePanel(grid(), num_inference_steps=None), "has no label None"),
        (
            lambda p: ComparePanel(grid(), num_inference_steps=np.ones(3)),
            "has no label ndarray of shape",
        ),
    ],
)
def test_constructors_refuse_in_one_sentence(pipes, make_one, words):
    before = set(ipywidgets.Widget.widgets) if hasattr(ipywidgets.Widget, "widgets") else set()
    with pytest.raises((TypeError, ValueError), match=words) as raised:
        make_one(pipes)
    one_sentence(raised.value)
    if before:
        assert set(ipywidgets.Widget.widgets) == before, "nothing half-made stays"


# --- what stands wrong in a field ----------------------------------------------------------------

WRONG = {
    "prompt": [("num_inference_steps", -3), ("seed", -1), ("guidance_scale", float("nan")),
               ("negative_prompt", "x" * 100_001), ("prompt", "x" * 100_001)],
    "interpolation": [("num_inference_steps", -3), ("seed", -1), ("a", -5), ("b", -5)],
    "arithmetic": [("num_inference_steps", -3), ("seed", -1), ("theta", 7.0), ("terms", 99.0)],
}  # fmt: skip


def type_into(panel, name, value):
    """As the reader's typing does."""
    field = panel._form._fields[name]
    if name in ("a", "b"):
        field._kind.value = "critter"
        field._seed.value = value
    elif name == "terms":
        field._chips[0]._weight.value = value
    else:
        field.value = value


@pytest.mark.parametrize(
    ("panel", "name", "wrong"),
    [(kind, name, wrong) for kind, all_ in WRONG.items() for name, wrong in all_],
    indirect=["panel"],
)
def test_what_was_refused_is_said_until_it_is_mended(panel, name, wrong):
    if name in ("a", "b"):
        panel._form._fields[name]._kind.value = "critter"
    kept = panel.value[name]
    type_into(panel, name, wrong)
    said = message(panel)
    assert said.count('role="alert"') == 1
    others = {"seed": 5, "num_inference_steps": 3, "num_frames": 4, "invert": False}
    for other, value in others.items():
        if other != name and other in panel.value:
            type_into(panel, other, value)
            assert said in message(panel), f"{other} does not mend {name}"
            assert panel.value[other] == value
    panel._form.run.click()
    assert (panel.job, said in message(panel)) == (None, True)
    panel.run().wait(60)  # code runs what is sound
    assert said in message(panel)
    assert panel.value[name] == kept or panel.value[name] is kept
    panel.value = {name: kept}
    assert message(panel) == ""


@pytest.mark.parametrize("panel", ["interpolation"], indirect=True)
def test_two_that_are_wrong_are_said_one_after_the_other(panel):
    type_into(panel, "num_inference_steps", -3)
    type_into(panel, "seed", -1)
    assert "seed must be" in message(panel)
    type_into(panel, "seed", 1)
    assert "num_inference_steps must be between 1 and 1000 inclusive, got -3" in message(panel)
    type_into(panel, "num_inference_steps", 3)
    assert message(panel) == ""


# --- what runs beside it -------------------------------------------------------------------------


@pytest.mark.parametrize("panel", RUNNING, indirect=True)
def test_a_cell_beside_a_panel_changes_neither(panel):
    pipe = pipe_of(panel)
    call = {"prompt": "a blue dog", "num_inference_steps": 10}
    if isinstance(panel, PromptPanel):
        panel.value = {"num_inference_steps": 24}
    alone = panel.run().wait(60)
    in_a_cell = bare(pipe, call)
    with held(pipe, worker_only=True) as (gate, reached):
        job = panel.run()
        assert reached.wait(30)
        beside = bare(pipe, call)  # all of it, while the panel stands in the middle
        gate.set()
        together = job.wait(60)
    assert np.array_equal(beside, in_a_cell)
    assert same(pictures_of(together), pictures_of(alone))
    if isinstance(panel, PromptPanel):
        assert len(together.timesteps) == 24
        assert np.abs(together.latents - alone.latents).max() == 0


def bare(pipe, call):
    import torch

    return np.asarray(pipe(**call, generator=torch.Generator().manual_seed(2)).images[0], int)


@pytest.mark.parametrize("panel", RUNNING, indirect=True)
def test_a_panels_schedulers_are_its_own(panel, monkeypatch):
    pipe, seen = pipe_of(panel), []
    own = [part for part in pipe.components.values() if callable(getattr(part, "step", None))]
    kinds = {type(one) for one in own}
    for kind in kinds:
        real = kind.step

        def step(self, *args, real=real, **kwargs):
            seen.append(self)
            return real(self, *args, **kwargs)

        monkeypatch.setattr(kind, "step", step)
    panel.run().wait(60)
    assert seen
    assert not any(used is one for used in seen for one in own)


# --- a released pipeline -------------------------------------------------------------------------

GONE = "This pipeline was released and has no weights any more"


def own_pipe(kind):
    return tiny.pipeline(size="small") if kind == "prompt" else tiny_unclip.with_eye()


@pytest.mark.parametrize("kind", RUNNING)
@pytest.mark.parametrize("by", ["itself", "a twin"])
def test_release_stops_a_run_and_says_so(kind, by):
    pipe = own_pipe(kind)
    given = pipe if by == "itself" else twin_of(pipe)
    panel = panel_of(kind, {"prompt": given, "unclip": given})
    with held(pipe, at=3, worker_only=True) as (gate, reached):
        job, waiting = panel.run(), panel.run()
        assert reached.wait(30)
        threading.Timer(0.2, gate.set).start()
        with pytest.warns(UserWarning, match=r"release stopped 1 run .*what was made so far"):
            ldmkit.release(pipe)
    record = job.wait(60)
    assert job.state == "stopped"
    assert all(np.isfinite(one).all() for one in pictures_of(record))
    for later in (waiting, panel.run()):
        with pytest.raises(JobError, match=GONE):
            later.wait(60)
    assert GONE in message(panel)
    assert panel.result is record
    if kind == "prompt":
        assert "ldmkit.record(" in panel.code
    panel.close()


def test_release_beside_another_pipelines_run_leaves_it(pipes, recwarn):
    panel, other = panel_of("prompt", pipes), tiny.pipeline(size="small")
    with held(pipes["prompt"], at=2, worker_only=True) as (gate, reached):
        job = panel.run()
        assert reached.wait(30)
        ldmkit.release(other)
        gate.set()
        assert len(job.wait(60).timesteps) == 4
    assert not [one for one in recwarn if "release stopped" in str(one.message)]
    panel.close()


def test_a_run_can_not_release_its_own_pipeline():
    pipe = tiny.pipeline(size="small")

    def release(*_):
        ldmkit.release(pipe)

    panel = PromptPanel(pipe, "a cat", num_inference_steps=2, callback_on_step_end=release)
    with pytest.raises(JobError, match="can't be released by its own run"):
        panel.run().wait(60)
    assert not any(p.is_meta for p in pipe.unet.parameters())
    panel.close()


# --- a walk's pictures cross once ----------------------------------------------------------------


def test_each_picture_is_encoded_once_and_sent_once(pipes, monkeypatch):
    monkeypatch.setattr("ldmkit.panels.job.INTERVAL", 0.0)  # every update is drawn
    encoded, sent = [], []
    from ldmkit.panels import walk_view

    real = walk_view.webp
    monkeypatch.setattr(
        walk_view, "webp", lambda one, *a, **k: encoded.append(one) or real(one, *a, **k)
    )
    ends = [kind("L").resize((512, 512)) for kind in (Image.linear_gradient, Image.radial_gradient)]
    panel = InterpolationPanel(pipes["prompt"], *ends, space="pixel", num_frames=24)
    view = panel._view._view
    monkeypatch.setattr(
        view, "send_state", lambda key=None: sent.append({k: getattr(view, k) for k in key})
    )
    walk = panel.run().wait(120)
    frames = [getattr(view, f"frame_{i}") for i in range(24)]
    assert (len(walk), len(encoded), view.count) == (24, 24, 24)
    crossed = [value for message in sent for value in message.values() if isinstance(value, bytes)]
    assert sorted(crossed) == sorted(frames), "each once, and nothing else"
    words = sum(len(repr(m[key])) for m in sent for key in m if key in ("data", "count"))
    assert words < 60_000
    shown = np.asarray(Image.open(io.BytesIO(frames[-1])), int)
    assert np.abs(shown - np.asarray(ends[1].convert("RGB"), int)).max() <= 16  # lossy
    panel.close()


# --- what the judge said -------------------------------------------------------------------------


def test_words_of_a_record_are_text_everywhere(pipes):
    hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u2028</style>"
    walk_panel = panel_of("interpolation", pipes)
    prompt_panel = panel_of("prompt", pipes)
    prompt_panel.value = {"prompt": hostile, "negative_prompt": hostile}
    walk_panel.value = {"b": hostile}
    record = dataclasses.replace(make(2), prompt=hostile)
    others = [TrajectoryPanel(record), TrajectoryPanel(record, record)]
    for panel in (prompt_panel, walk_panel):
        panel.run().wait(60)
        panel._form.say(hostile, wrong=True, details=hostile)
        panel._form.complain(hostile)
    for panel in (prompt_panel, walk_panel, *others):
        for widget in tree(panel):
            if isinstance(widget, ipywidgets.HTML):
                assert "<script" not in widget.value
                assert "<img" not in widget.value
                assert widget.value.count("</style>") == widget.value.count("<style>")
        panel.close()


def test_a_program_ends_in_silence_with_its_panels_open():
    """ipywidgets closes what is left when Python ends, and no module can be imported then."""
    program = """
import tiny, ldmkit
pipe = tiny.pipeline(size="small")
panel = ldmkit.PromptPanel(pipe, "a cat", num_inference_steps=1, scheduler="euler")
panel.run().wait()
"""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=os.environ | {"LDMKIT_FOREGROUND": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Traceback" not in done.stderr
