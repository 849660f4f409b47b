"""The fold in which what the network reads is changed."""

import re
from html import unescape

import numpy as np
import pytest
import tiny
from panels.hands import field, message, settled
from panels.test_prompt import executed, finished

from ldmkit.panels import PromptPanel
from ldmkit.panels.change import checked_change
from ldmkit.panels.job import JobError
from ldmkit.recording import record
from ldmkit.recording.intervene import Intervention, intervene, standing

QUICK = {"num_inference_steps": 3, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(size="small")


@pytest.fixture
def panel(pipe):
    panel = PromptPanel(pipe, "a red cat", seed=7, **QUICK)
    yield panel
    panel.close()


def put(panel, kind, words="", steps=""):
    """What a reader does."""
    fold = field(panel, "intervene")
    fold._fold.value = True
    fold._kind.value, fold._words.value, fold._steps.value = kind, words, steps


@pytest.mark.parametrize(
    ("entry", "change", "title"),
    [
        (("none", "", ""), {"words": None, "steps": None}, "no words"),
        (("words", "a dog", "2"), {"words": "a dog", "steps": range(1, 2)}, "other words “a dog”"),
        (
            ("weights", "red cat: 0,a : 2.5", " 1 - 3"),
            {"words": {"red cat": 0.0, "a": 2.5}, "steps": range(3)},
            "in steps 1 - 3",
        ),
    ],
)
def test_a_change_is_made_told_and_kept_as_code(panel, pipe, entry, change, title):
    plain = finished(panel)
    fold = field(panel, "intervene")
    assert fold._box.layout.display == "none", "closed until it is wanted"
    put(panel, *entry)
    assert fold._box.layout.display == ""
    assert panel.value["intervene"] == change
    assert title in fold._fold.description
    assert "intervene" not in panel.code, "the shown run was without"
    traj = finished(panel)
    assert not np.array_equal(traj.latents, plain.latents)
    again = executed(panel, pipe)
    assert np.array_equal(again.latents, traj.latents)
    assert again.call == traj.call
    assert "within intervene" in traj._repr_mimebundle_()["text/html"]
    with intervene(pipe, **change):
        own = record(pipe, "a red cat", seed=7, **QUICK)
    assert np.array_equal(own.latents, traj.latents)
    saved = panel.value
    panel.value = {"intervene": None}
    assert (fold._kind.value, fold._steps.value) == ("", "")
    assert fold._fold.description == "What the network reads: the prompt"
    panel.value = saved
    assert fold.standing() == change


def test_what_is_wrong_keeps_the_last_good_record(panel):
    good = finished(panel)
    for entry, words in [
        (("weights", "hat"), "Weights must be written like hat: 0, red: 2, got 'hat'"),
        (("weights", "red: 1000"), "The weight of 'red' must be between -100 and 100"),
        (("none", "", "3-1"), "Steps must be like 1-10, or 3, counted from 1"),
        (("none", "", "0"), "got '0'"),
    ]:
        put(panel, *entry)
        assert words in unescape(message(panel))
        panel._form.run.click()
        assert (panel.result, panel.job.state) == (good, "done"), "nothing was run"
    for entry, words in [  # only a run can tell
        (("weights", "rde: 2"), "did you mean 'red'"),
        (("none", "", "2-4"), "steps must be 3 at most, .*, got 4; they are counted from 1"),
    ]:
        put(panel, *entry)
        with pytest.raises(JobError, match=words):
            panel.run().wait(60)
        settled(panel)
        assert re.search(words, unescape(message(panel)))
        assert panel.result is good
        assert panel._picture.value == panel._good != b""
    put(panel, "none", "", "2-3")
    assert finished(panel) is not good
    for wrong in ({"steps": 3}, "a dog", {"words": "a dog", "layers": "mid"}):
        with pytest.raises(TypeError, match="intervene must be None, or words and steps"):
            panel.value = {"intervene": wrong}
    with pytest.raises(ValueError, match="one after the other"):
        checked_change("intervene", {"words": None, "steps": (0, 2)})


def test_weights_are_chosen_first_and_written_then(panel):
    put(panel, "weights", "", "1-2")
    assert (message(panel), panel.value["intervene"]) == ("", None)
    fold = field(panel, "intervene")
    assert fold._fold.description == "What the network reads: the prompt"
    assert (fold._kind.value, fold._steps.value) == ("weights", "1-2"), "what was put stays"
    fold._words.value = "red: 2"
    assert panel.value["intervene"] == {"words": {"red": 2.0}, "steps": range(2)}
    assert fold._fold.description == "What the network reads: words weighed “red: 2” in steps 1-2"


def test_a_weight_stays_the_number_that_it_was(panel):
    panel.value = {"intervene": {"words": {"red": 1 / 3, "cat": 2.0}, "steps": None}}
    put(panel, "weights", panel._form._fields["intervene"]._words.value, "1-2")
    assert panel.value["intervene"]["words"] == {"red": 1 / 3, "cat": 2.0}


def test_runs_beside_it_read_their_own(pipe):
    """The networks are shared, so the change is one thread's alone."""
    call = {"seed": 7, "preview": "none", **QUICK}
    plain = record(pipe, "a red cat", **call)
    plan = Intervention(pipe, None, None, 1.0, None)
    plan.thread = -1  # another's
    with standing(plan):
        beside = record(pipe, "a red cat", **call)
    assert plan.changed == 0
    assert np.array_equal(beside.latents, plain.latents)
    assert beside.call == plain.call
