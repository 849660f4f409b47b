"""``ComparePanel`` as the kernel sees it."""

import ipywidgets
import pytest
from panels.hands import living
from records.make import make
from records.make_grid import AXES, make_grid

import ldmkit
from ldmkit.panels import ComparePanel
from ldmkit.panels import panel as panel_module


@pytest.fixture
def panel():
    panel = ComparePanel(make_grid())
    yield panel
    panel.close()


def test_begins_with_the_first_labels(panel):
    assert panel.value == {"num_inference_steps": 2, "prompt": "a red cat"}
    assert isinstance(panel._controls["num_inference_steps"], ipywidgets.SelectionSlider)
    assert isinstance(panel._controls["prompt"], ipywidgets.Dropdown)
    assert "scheduler" not in panel._controls
    assert "<b>ddim</b>" in panel._pictures.value
    assert "<b>euler</b>" in panel._pictures.value
    assert repr(panel) == "ComparePanel(scheduler across; 2 steps, a red cat)"
    assert ldmkit.ComparePanel is ComparePanel


def test_begins_as_asked():
    grid = make_grid()
    panel = ComparePanel(grid, across="prompt", num_inference_steps=8, scheduler="euler")
    assert panel.value == {"scheduler": "euler", "num_inference_steps": 8}
    assert panel._controls["num_inference_steps"].index == 2
    assert panel.result is grid
    panel.close()


def test_value_goes_round(panel):
    seen = []
    panel.observe(lambda change: seen.append(change["new"]), names="value")
    before = panel._pictures.value
    panel._controls["num_inference_steps"].set_state({"index": 3})  # as the browser does
    assert panel.value == {"num_inference_steps": 16, "prompt": "a red cat"}
    assert panel._pictures.value != before
    panel.value = {"prompt": "a pig at night"}
    assert panel.value == {"num_inference_steps": 16, "prompt": "a pig at night"}
    assert panel._controls["prompt"].index == 2
    assert "a pig at night" in panel._pictures.value
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("axes", "value"),
    [
        ({"seed": (0, 1)}, {"seed": 0}),
        ({"num_inference_steps": (1, 2), "prompt": ("a red cat",)}, None),
        ({"seed": (0, 1), "guidance_scale": (1.0, 3.0)}, {"guidance_scale": 1.0}),
        ({"model": ("a", "b"), **AXES}, None),
    ],
)
def test_any_grid_has_a_panel(axes, value):
    panel = ComparePanel(make_grid(axes))
    assert value is None or panel.value == value
    assert "<img" in panel._pictures.value
    assert "<img" in panel._overview.value
    panel.close()


def test_close_leaves_nothing_behind():
    before = living()
    panel = ComparePanel(make_grid())
    assert len(living() - before) > 5
    panel.close()
    assert living() == before
    panel.close()


def test_its_cell_run_again_closes_the_panel_before(monkeypatch):
    execution = iter(range(100))
    monkeypatch.setattr(panel_module, "_running_cell", lambda: ("cell 1", str(next(execution))))
    out = [ComparePanel(make_grid())]
    before = len(living())
    out += [ComparePanel(make_grid()) for _ in range(10)]
    assert len(living()) == before
    out[-1].close()


WRONG = [
    ({"prompt": "a red cart"}, "prompt has no label 'a red cart'; did you mean 'a red cat'?"),
    ({"num_inference_steps": 3}, "num_inference_steps has no label 3; it has (2, 4, 8, 16)."),
    ({"prompts": "x"}, "must be one of the axes num_inference_steps, prompt, got 'prompts'; did"),
    ({"scheduler": "ddim"}, "scheduler stands side by side"),
]


@pytest.mark.parametrize(("labels", "words"), WRONG)
def test_wrong_labels_are_refused_and_change_nothing(panel, labels, words):
    before, shown, alive = panel.value, panel._pictures.value, living()
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        panel.value = labels
    assert words in str(raised.value)
    assert (panel.value, panel._pictures.value) == (before, shown)
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        ComparePanel(make_grid(), **labels)
    assert words in str(raised.value)
    assert living() == alive


def test_other_mistakes(panel):
    alive = living()
    with pytest.raises(TypeError, match="value must be a dict of axis to label, got 3"):
        panel.value = 3
    with pytest.raises(ValueError, match="across must be one of the axes"):
        ComparePanel(make_grid(), across="sampler")
    with pytest.raises(ValueError, match="across and along must be two axes"):
        ComparePanel(make_grid(), across="num_inference_steps")
    for thing in (None, "grid.safetensors", make(2)):
        with pytest.raises(TypeError, match=r"takes a Grid first.*; make one with ldmkit\.compare"):
            ComparePanel(thing)
    assert living() == alive
