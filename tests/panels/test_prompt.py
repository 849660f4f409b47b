"""``PromptPanel`` as the kernel sees it; tests/browser presses its buttons."""

import gc
import io
import threading
from datetime import UTC, datetime

import ipywidgets
import numpy as np
import pytest
import tiny
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UNet2DModel,
)
from panels.hands import field, held, living, message, settled
from PIL import Image

import ldmkit
from ldmkit.loading.siblings import Origin, remember
from ldmkit.panels import PromptPanel, prompt
from ldmkit.panels import panel as panel_module
from ldmkit.panels.job import FULL, SWITCH, JobError
from ldmkit.recording import record
from ldmkit.recording.preview import linear_rgb

QUICK = {"num_inference_steps": 4, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(size="small")


@pytest.fixture
def panel(pipe):
    panel = PromptPanel(pipe, "a red cat", seed=7, **QUICK)
    yield panel
    panel.close()


def finished(panel):
    """Waits for the panel's run and for what it does after it."""
    job = panel.run()
    traj = job.wait(60)
    settled(panel)
    return traj


# --- settings ------------------------------------------------------------------------------------


def test_defaults_and_keywords(pipe):
    panel = PromptPanel(pipe, "a cat", seed=3, guidance_scale=2, negative_prompt="red")
    assert panel.value == {
        "prompt": "a cat",
        "negative_prompt": "red",
        "seed": 3,
        "num_inference_steps": 50,
        "guidance_scale": 2.0,
        "scheduler": "ddim",
        "strength": 0.6,
        "image": None,
        "intervene": None,
    }
    assert (panel.result, panel.job) == (None, None)
    assert ldmkit.PromptPanel is PromptPanel
    assert repr(panel) == "PromptPanel('a cat', None)"
    panel.close()
    assert repr(panel) == "PromptPanel(closed)"


def test_what_the_weights_were_made_for_is_the_default():
    pipe = tiny.pipeline(size="small")
    remember(pipe, Origin("folder", {"num_inference_steps": 8, "guidance_scale": 1.0}))
    panel = PromptPanel(pipe)
    assert (panel.value["num_inference_steps"], panel.value["guidance_scale"]) == (8, 1.0)
    panel.close()


def test_traits_and_parts_are_documented():
    own = set(PromptPanel.class_trait_names()) - set(ipywidgets.VBox.class_trait_names())
    assert own == {"value", "result"}
    assert all(PromptPanel.class_traits()[name].help for name in own)


def test_value_goes_round(panel):
    panel.value = {"seed": np.int64(9), "scheduler": "EulerDiscreteScheduler"}
    assert (panel.value["seed"], panel.value["scheduler"]) == (9, "euler")
    assert type(panel.value["seed"]) is int
    assert (field(panel, "seed").value, field(panel, "scheduler").value) == (9, "euler")
    assert panel.value["prompt"] == "a red cat"
    saved = panel.value
    panel.value = {"prompt": "a dog"}
    assert field(panel, "prompt").value == "a dog"
    panel.value = saved
    assert panel.value == saved


def test_fields_of_the_browser_change_the_value(panel):
    seen = []
    panel.observe(lambda change: seen.append(change["new"]), names="value")
    field(panel, "prompt")._view.set_state({"value": "an owl"})  # as a message does
    field(panel, "num_inference_steps").set_state({"value": 6})
    field(panel, "guidance_scale").set_state({"value": 1.5})
    field(panel, "negative_prompt").set_state({"value": "snow"})
    wanted = {
        "prompt": "an owl",
        "num_inference_steps": 6,
        "guidance_scale": 1.5,
        "negative_prompt": "snow",
    }
    assert panel.value == panel.value | wanted
    assert len(seen) == 4
    field(panel, "prompt")._stock.set_state({"value": "a fox"})
    assert panel.value["prompt"] == field(panel, "prompt")._view.value == "a fox"
    before = panel.value["seed"]
    panel._form.dice.click()
    assert panel.value["seed"] != before or panel.value["seed"] < 100_000


WRONG = [
    ({"num_inference_steps": 0}, ValueError, "between 1 and 1024 inclusive, got 0"),
    ({"num_inference_steps": -1}, ValueError, "got -1"),
    ({"num_inference_steps": 1.5}, TypeError, "whole number between 1 and 1024, got 1.5"),
    ({"num_inference_steps": 10**6}, ValueError, "got 1000000"),
    ({"num_inference_steps": None}, TypeError, "a whole number between 1 and 1024, got None"),
    ({"guidance_scale": float("nan")}, ValueError, "finite number, got nan"),
    ({"guidance_scale": "much"}, TypeError, "must be a number, got 'much'"),
    ({"guidence_scale": 3}, ValueError, "did you mean 'guidance_scale'?"),
    ({"sead": 3}, ValueError, "did you mean 'seed'?"),
    ({"seed": -1}, ValueError, "seed must be between 0 and 9007199254740991 inclusive, got -1"),
    ({"seed": 2**60}, ValueError, "ldmkit.record takes larger ones"),
    ({"seed": [1, 2]}, TypeError, "a whole number between 0 and 9007199254740991, got [1, 2]"),
    ({"seed": 1.5}, TypeError, "seed must be a whole number"),
    ({"scheduler": "eulr"}, ValueError, "got 'eulr'; did you mean 'euler'?"),
    ({"scheduler": 7}, ValueError, "scheduler must be one of ddim"),
    ({"strength": 0}, ValueError, "above 0 and at most 1, got 0"),
    ({"strength": float("nan")}, ValueError, "strength must be a finite number, got nan"),
    ({"strength": "half"}, TypeError, "strength must be a number, got 'half'"),
    ({"image": "cat.png"}, TypeError, "must be a PIL image, a path, an array or a tensor, and"),
    ({"prompt": 7}, TypeError, "one string in a panel, got 7"),
    ({"prompt": ["a", "b"]}, TypeError, "one string in a panel"),
    ({"prompt": "x" * 100_001}, ValueError, "at most 100,000 characters"),
    ({"prompt": "half a \ud83d cat"}, ValueError, "lone surrogate"),
    ({"negative_prompt": None}, TypeError, "negative_prompt must be one string"),
    ("a red cat", TypeError, "value must be a dict of prompt, "),
]


@pytest.mark.parametrize(("wrong", "kind", "words"), WRONG, ids=lambda value: repr(value)[:24])
def test_wrong_settings_are_told_and_change_nothing(panel, wrong, kind, words):
    before = panel.value
    with pytest.raises(kind) as raised:
        panel.value = wrong
    assert words in str(raised.value)
    assert panel.value == before
    assert field(panel, "seed").value == 7
    assert ipywidgets.HTML(message(panel)).value  # a sentence stands under the panel
    assert "ldm-wrong" in message(panel)
    panel.value = {"seed": 8}
    assert message(panel) == "", "the next sound setting takes it away"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("num_inference_steps", 0, "got 0"), ("num_inference_steps", 10**6, "got 1000000"),
     ("seed", -1, "got -1"), ("negative_prompt", "x" * 100_001, "at most 100,000")],
)  # fmt: skip
def test_run_refuses_what_stands_in_a_field(panel, name, value, words):
    good = finished(panel)
    field(panel, name).set_state({"value": value})
    assert words in message(panel)
    field(panel, "guidance_scale").set_state({"value": 2.0})
    assert words in message(panel), "another field does not take it away"
    panel._form.run.click()
    assert words in message(panel)
    assert panel.result is good, "the last good record stays"
    assert not panel._form.run.disabled
    panel.value = QUICK | {"seed": 7, "negative_prompt": ""}
    panel._form.run.click()
    panel.job.wait(60)
    assert panel.result is not good
    assert np.array_equal(panel.result.latents, good.latents)


PIXELS = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D",) * 2,
    "up_block_types": ("UpBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def test_a_model_of_pixels_without_words():
    panel = PromptPanel(DDPMPipeline(UNet2DModel(**PIXELS), DDPMScheduler()), seed=1)
    panel.value = {"num_inference_steps": 3}
    assert panel.value == {"seed": 1, "num_inference_steps": 3, "scheduler": "ddpm"}
    traj = finished(panel)
    assert len(traj.timesteps) == 3
    assert Image.open(io.BytesIO(panel.job.preview)).size == (16, 16)
    panel.close()


def test_constructor_refuses(pipe):
    before = living()
    for keywords, kind, words in [
        ({"seeed": 1}, TypeError, "did you mean 'seed'?"),
        ({"schedular": "ddim"}, TypeError, "did you mean 'scheduler'?"),
        ({"hight": 64}, TypeError, "did you mean 'height'?"),
        ({"height": 10**9}, ValueError, "height must be between 8 and 8192"),
        ({"keep": "latent"}, ValueError, "did you mean 'latents'?"),
        ({"preview": "jpeg"}, ValueError, "preview must be one of"),
        ({"preview_every": 0}, ValueError, "preview_every must be 1 or more, got 0"),
        ({"num_inference_steps": 0}, ValueError, "got 0"),
    ]:
        with pytest.raises(kind) as raised:
            PromptPanel(pipe, "a cat", **keywords)
        assert words in str(raised.value)
    with pytest.raises(TypeError, match=r"takes a diffusers pipeline first, got <built-in"):
        PromptPanel(print)
    pixels = DDPMPipeline(UNet2DModel(**PIXELS), DDPMScheduler())
    with pytest.raises(TypeError, match="sets seed, num_inference_steps, scheduler, got 'prompt'"):
        PromptPanel(pixels, "a cat")
    for stranger in ("critters", None, 7):
        with pytest.raises(TypeError, match="takes a diffusers pipeline first"):
            PromptPanel(stranger)
    assert living() == before, "nothing half-made stays"


# --- a run ---------------------------------------------------------------------------------------


def test_run_gives_the_record_that_record_gives(panel, pipe):
    seen = []
    panel.observe(lambda change: seen.append(change["new"]), names="result")
    traj = finished(panel)
    assert panel.result is traj
    assert seen == [traj]
    bare = record(pipe, "a red cat", seed=7, **QUICK)
    assert np.array_equal(traj.latents, bare.latents)
    assert traj.call == bare.call
    assert np.array_equal(np.asarray(traj.image), np.asarray(bare.image))
    assert panel._player.result is traj
    assert "4 steps in" in panel._form._status.value
    shown = Image.open(io.BytesIO(panel._picture.value)).convert("RGB")
    assert np.array_equal(np.asarray(shown), np.asarray(traj.image))  # small: without loss


def test_the_cell_returns_while_the_run_goes_on_and_stop_keeps_the_part(panel, pipe):
    with held(pipe, at=3) as (gate, reached):
        job = panel.run()
        assert reached.wait(30)
        assert (job.state, panel.result) == ("running", None)
        assert (panel._form.run.disabled, panel._form.stop.disabled) == (True, False)
        panel._form.stop.click()
        gate.set()
        traj = job.wait(60)
    assert job.state == "stopped"
    assert traj.stopped
    assert len(traj.timesteps) == 3, "the step under way is the last"
    expected = record(pipe, "a red cat", seed=7, on_step=lambda step: step.index < 2, **QUICK)
    assert np.array_equal(traj.latents, expected.latents)
    assert np.array_equal(np.asarray(traj.image), np.asarray(expected.image))
    assert panel.result is traj
    settled(panel)
    assert (panel._form.run.disabled, panel._form.stop.disabled) == (False, True)
    assert "Stopped after step 3 of 4" in panel._form._status.value


def test_cancel_drops_the_part(panel, pipe):
    good = finished(panel)
    with held(pipe, at=2) as (gate, reached):
        job = panel.run()
        assert reached.wait(30)
        job.cancel()
        gate.set()
        assert job.wait(60) is None
    assert panel.result is good
    assert len(panel._history.runs) == 1
    assert not panel._form.run.disabled


def test_preview_is_the_linear_fit_in_a_few_kilobytes(panel, pipe):
    finished(panel)
    preview = panel.job.preview
    assert 0 < len(preview) < 4000
    assert Image.open(io.BytesIO(preview)).size == (8, 8)
    pixels = np.asarray(Image.open(io.BytesIO(preview)).convert("RGB"), np.float64)
    fit = linear_rgb(pipe.vae, 4)
    expected = [
        np.moveaxis(frame, 0, -1) @ fit[:-1] + fit[-1] for frame in panel.result.denoised[:, 0]
    ]
    distance = [np.abs((e.clip(0, 1) * 255).round() - pixels).max() for e in expected]
    assert min(distance) == 0  # the step that was due when it was drawn


def test_a_run_costs_little_beside_the_record(panel, pipe, monkeypatch):
    """No network, and few pictures and messages: counted, since a clock would be the machine's."""
    finished(panel)  # the linear fit is made once per autoencoder
    panel.value = {"num_inference_steps": 40}
    decoded, drawn = [], []
    real, live = pipe.vae.decode, prompt._live_preview
    monkeypatch.setattr(pipe.vae, "decode", lambda *a, **k: decoded.append(1) or real(*a, **k))
    monkeypatch.setattr(prompt, "_live_preview", lambda *a: drawn.append(1) or live(*a))
    record(pipe, "a red cat", seed=7, num_inference_steps=40, guidance_scale=3.0)
    alone = len(decoded)
    sent = []
    for widget in (panel._picture, panel._form._bar, panel._form._status, panel._form._message):
        monkeypatch.setattr(widget, "send_state", lambda key=None: sent.append(key))
    job = panel.run()
    job.wait(60)
    assert len(decoded) == 2 * alone, "what the record decodes, and nothing more"
    due = job.seconds / 0.1 + 2  # ten times a second at most
    assert 1 <= len(drawn) <= due
    assert len(sent) <= 4 * due + 8


def test_two_panels_on_one_pipeline_take_turns(panel, pipe):
    other = PromptPanel(pipe, "a blue dog", seed=1, **QUICK)
    with held(pipe, at=2) as (gate, reached):
        panel.run()
        assert reached.wait(30)
        other.run()
        assert other.job.state == "waiting"
        assert "Waiting" in other._form._status.value
        gate.set()
        first, second = panel.job.wait(60), other.job.wait(60)
    assert np.array_equal(first.latents, record(pipe, "a red cat", seed=7, **QUICK).latents)
    assert np.array_equal(second.latents, record(pipe, "a blue dog", seed=1, **QUICK).latents)
    other.close()


def test_runs_that_code_queues_follow_each_other(panel):
    jobs = []
    for seed in range(3):
        panel.value = {"seed": seed}
        jobs.append(panel.run())
    seeds = [job.wait(60).seed for job in jobs]
    assert seeds == [0, 1, 2]
    assert panel.job is jobs[-1]
    settled(panel)
    assert not panel._form.run.disabled
    assert [run.traj.seed for run in panel._history.runs] == [2, 1, 0]


def test_closed_in_mid_run_stops(pipe):
    before = living()
    panel = PromptPanel(pipe, "a red cat", **QUICK)
    with held(pipe, at=2) as (gate, reached):
        job = panel.run()
        waiting = panel.run()
        assert reached.wait(30)
        panel.close()
        panel.close()
        gate.set()
        assert job.wait(60) is None
    assert (job.state, waiting.state) == ("cancelled", "cancelled")
    assert job.progress.done == 2
    assert living() == before
    with pytest.raises(RuntimeError, match="This panel is closed"):
        panel.run()
    with pytest.raises(RuntimeError, match="This panel is closed"):
        panel.value = {"seed": 1}


def test_the_readers_pipeline_stays_as_it_is(panel, pipe):
    before, config = dict(vars(pipe)), dict(pipe.scheduler.config)
    scheduler, steps = pipe.scheduler, pipe.scheduler.timesteps.tolist()
    panel.value = {"scheduler": "euler", "image": Image.new("RGB", (9, 9)), "strength": 0.5}
    traj = finished(panel)
    assert traj.call["scheduler"] == "EulerDiscreteScheduler"
    assert pipe.scheduler is scheduler
    assert vars(pipe) == before
    assert dict(pipe.scheduler.config) == config
    assert pipe.scheduler.timesteps.tolist() == steps
    bare = record(pipe, "a red cat", seed=7, **QUICK)
    assert bare.call["scheduler"] == "DDIMScheduler"


def test_errors_stand_under_the_panel_and_run_works_again(panel, monkeypatch):
    good = finished(panel)

    def broken(*args, **kwargs):
        raise RuntimeError("<script>alert(1)</script> went wrong")

    monkeypatch.setattr(prompt, "record", broken)
    with pytest.raises(JobError, match="went wrong"):
        panel.run().wait(60)
    settled(panel)
    assert "<script" not in message(panel)
    assert "The run failed with RuntimeError: &lt;script&gt;" in message(panel)
    assert "<summary>Details</summary>" in message(panel)
    assert 'role="alert"' in message(panel)
    assert panel.result is good
    assert panel._picture.value, "the last good picture stands again"
    monkeypatch.undo()
    assert finished(panel) is panel.result is not good
    assert message(panel) == ""


def test_out_of_memory_is_told_with_remedies(panel, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(prompt, "record", full)
    with pytest.raises(JobError) as raised:
        panel.run().wait(60)
    assert str(raised.value) == FULL
    assert "ldmkit.release()" in message(panel)


@pytest.mark.parametrize("words", ["", "🐱🎩", "<script>alert(1)</script>", "a cat " * 1667])
def test_strange_prompts_run_and_are_escaped(panel, words):
    panel.value = {"prompt": words}
    traj = finished(panel)
    assert traj.prompt == words
    assert "<script" not in panel._code.value
    cut = "reads 30" in message(panel)
    assert cut == (len(words) > 1000), "a prompt that is cut is said under the panel"


def test_latents_that_are_not_finite_are_told(panel):
    panel.value = {"guidance_scale": 1e38}
    finished(panel)
    assert "no longer finite" in message(panel)


def test_a_run_in_the_foreground(panel, monkeypatch):
    monkeypatch.setenv(SWITCH, "1")
    job = panel.run()
    assert (job.state, job.in_foreground) == ("done", True)
    assert panel.result is job.result
    assert panel._player.result is job.result
    assert not panel._form.run.disabled


def test_words_that_an_embedded_model_does_not_know_are_told():
    pipe = tiny.pipeline(size="small")
    remember(pipe, Origin("critters:other"))
    panel = PromptPanel(pipe, "a purpel cat, an Elephant!", **QUICK)
    view = field(panel, "prompt")._view
    assert set(view.vocabulary) == ldmkit.critters.words
    finished(panel)
    assert "“purpel” (nearest: purple), “elephant”" in message(panel)
    view.set_state({"awake": True})  # the browser has said it
    finished(panel)
    assert message(panel) == ""
    panel.close()


def test_other_models_know_every_word(panel):
    assert field(panel, "prompt")._view.vocabulary == []
    panel.value = {"prompt": "an elephant"}
    finished(panel)
    assert message(panel) == ""


# --- start pictures ------------------------------------------------------------------------------


def test_a_start_picture_and_its_strength(panel, pipe):
    picture = Image.new("RGB", (80, 40), "red")
    panel.value = {"image": picture, "strength": 0.5}
    assert field(panel, "image").layout.display == ""
    traj = finished(panel)
    assert len(traj.timesteps) == 2
    assert traj.call["strength"] == 0.5
    panel.value = {"image": None}
    assert field(panel, "strength").layout.display == "none"
    assert "strength" not in finished(panel).call


def test_a_pipeline_that_needs_a_picture_says_so():
    panel = PromptPanel(tiny.pipeline("img2img", size="small"), "a cat", **QUICK)
    with pytest.raises(JobError, match="begins from a picture, got none; choose one"):
        panel.run().wait(60)
    panel.value = {"image": Image.new("L", (30, 30)), "strength": 1.0}
    assert len(finished(panel).timesteps) == 4
    panel.close()


def upload_of(panel, name, content):
    """As ipywidgets 8 and 7 bring an uploaded file."""
    upload = panel._form._upload
    if isinstance(upload.value, dict):
        upload.data, upload.metadata = [content], [{"name": name}]
        upload._counter = 1
    else:
        entry = {"name": name, "type": "image/png", "size": len(content), "content": content}
        upload.value = ({**entry, "last_modified": datetime.now(UTC)},)


def test_an_uploaded_picture(panel):
    file = io.BytesIO()
    Image.new("RGBA", (20, 10), (255, 0, 0, 128)).save(file, "PNG")
    upload_of(panel, "red.png", file.getvalue())
    assert panel.value["image"].size == (20, 10)
    assert panel.value["image"].getpixel((0, 0)) == (255, 127, 127), "on white"
    assert not panel._form._upload.value, "its bytes are not kept twice"
    upload_of(panel, "<b>.png", b"no picture")
    assert "can&#x27;t be read: &#x27;&lt;b&gt;.png&#x27; is cut off" in message(panel)
    assert panel.value["image"].size == (20, 10)
    panel._form._forget.click()
    assert panel.value["image"] is None


# --- history and code ----------------------------------------------------------------------------


def thumbs(panel):
    return [slot.button for slot in panel._history._slots]


def test_the_last_runs_one_or_two_side_by_side(panel):
    trajs = []
    for seed in range(3):
        panel.value = {"seed": seed}
        trajs.append(finished(panel))
    buttons = thumbs(panel)
    assert [button.value for button in buttons[:4]] == [True, False, False, False]
    assert buttons[1].description == "2"
    assert "seed 1" in buttons[1].tooltip
    buttons[2].value = True
    assert panel._player.result is trajs[0]
    assert [button.value for button in buttons[:3]] == [False, False, True]
    assert "seed=0" in panel.code
    panel._history._pair.value = True
    assert panel._player.result == (trajs[2], trajs[0])
    buttons[1].value = True
    assert panel._player.result == (trajs[0], trajs[1])
    panel.value = {"seed": 5}
    new = finished(panel)
    assert panel._player.result == (trajs[0], new), "the first stays beside each new run"
    panel._history._pair.value = False
    assert panel._player.result is new
    assert "seed=5" in panel.code
    buttons[0].value = False
    assert buttons[0].value, "one is always shown"


def test_the_history_is_bounded(panel):
    panel.value = {"num_inference_steps": 1}
    for _ in range(10):
        finished(panel)
    assert len(panel._history.runs) == 8
    assert [button.description for button in thumbs(panel)] == [str(n) for n in range(10, 2, -1)]


CODES = [
    {},
    {"negative_prompt": "snow", "prompt": 'it\'s a "cat"\\ \n 🐱'},
    {"scheduler": "euler"},
    {"image": Image.radial_gradient("L"), "strength": 0.75},
    {"image": Image.radial_gradient("L"), "scheduler": "dpm++", "seed": 2**40},
]


def executed(panel, pipe):
    """The record that the code makes, run as a cell would."""
    names = {"pipe": pipe, "panel": panel, "ldmkit": ldmkit}
    exec(panel.code, names)
    return names["traj"]


@pytest.mark.parametrize("settings", CODES, ids=lambda settings: " ".join(settings))
def test_the_code_makes_the_same_record(panel, pipe, settings):
    panel.value = settings
    before = panel.code
    traj = finished(panel)
    assert panel.code == before
    own = pipe.scheduler
    again = executed(panel, pipe)
    assert pipe.scheduler is own
    assert np.abs(again.latents - traj.latents).max() == 0
    assert np.array_equal(np.asarray(again.image), np.asarray(traj.image))
    assert (again.prompt, again.negative_prompt, again.seed) == (
        traj.prompt,
        traj.negative_prompt,
        traj.seed,
    )
    assert again.call == traj.call


def test_the_code_has_what_holds_for_every_run(pipe):
    told = {"keep": "latents", "preview": "none", "preview_every": 2, "height": 64, "width": 32}
    panel = PromptPanel(pipe, "a cat", **told, **QUICK)
    traj = finished(panel)
    assert traj.image.size == (32, 64)
    for words in ("height=64", "keep=('latents',)", "preview='none'", "preview_every=2"):
        assert words in panel.code
    names = {"pipe": pipe, "ldmkit": ldmkit}
    exec(panel.code, names)
    assert np.array_equal(names["traj"].latents, traj.latents)
    assert "needs a record with step pictures" in message(panel), "nothing to draw is said"
    panel.close()
    assert "height=64" in panel.code, "a closed panel still tells it"


def same_picture(traj, other):
    return np.array_equal(np.asarray(traj.image), np.asarray(other.image))


@pytest.mark.parametrize("chosen", ["ddim", "euler"])
def test_the_code_with_a_scheduler_of_its_own_settings(chosen):
    pipe = tiny.pipeline(size="small")
    config = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **config)
    panel = PromptPanel(pipe, "a cat", scheduler=chosen, **QUICK)
    traj = finished(panel)
    assert same_picture(executed(panel, pipe), traj)
    # The reader goes on to another scheduler: the code makes the run's again.
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    assert same_picture(executed(panel, pipe), traj)
    pipe.scheduler = tiny.pipeline(size="small").scheduler
    assert same_picture(executed(panel, pipe), traj)
    assert not same_picture(record(pipe, "a cat", seed=0, **QUICK), traj)
    panel.close()


def test_the_code_with_a_scheduler_that_was_changed_by_hand():
    pipe = tiny.pipeline(size="small")
    plain = finished(PromptPanel(pipe, "a cat", **QUICK))
    pipe.scheduler.alphas_cumprod = pipe.scheduler.alphas_cumprod**1.5
    panel = PromptPanel(pipe, "a cat", **QUICK)
    traj = finished(panel)
    assert same_picture(executed(panel, pipe), traj)
    assert not same_picture(plain, traj)
    panel.close()


@pytest.mark.parametrize(
    "extra",
    [
        {"timesteps": [900, 500, 100]},
        {"guidance_rescale": np.float32(0.5), "eta": 0.5, "height": np.int64(64)},
        {"num_images_per_prompt": 2, "clip_skip": None},
        {"callback_on_step_end_tensor_inputs": ["latents"]},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_the_code_with_further_keywords(pipe, extra):
    if "timesteps" in extra:
        pipe = tiny.pipeline(size="small")
        pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)  # takes them by hand
    panel = PromptPanel(pipe, "a cat", seed=3, **QUICK, **extra)
    traj = finished(panel)
    assert same_picture(executed(panel, pipe), traj)
    assert "can't hold" not in panel.code
    panel.close()


def test_the_code_has_the_scale_of_an_adapter(pipe):
    panel = PromptPanel(pipe, "a cat", cross_attention_kwargs={"scale": 0.5})
    assert "    cross_attention_kwargs={'scale': 0.5},\n" in panel.code
    panel.close()


def test_what_the_code_can_not_hold_is_said_in_it(pipe):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = []
    more = {"latents": latents, "callback_on_step_end": lambda *a: seen.append(1) or a[3]}
    panel = PromptPanel(pipe, "a cat", **QUICK, **more)
    traj = finished(panel)
    assert seen == [1] * 4
    for words in ("latents=Tensor", "callback_on_step_end=function"):
        assert f"# These lines can't hold {words}: add what the panel was given." in panel.code
    names = {"pipe": pipe, "ldmkit": ldmkit}
    added = panel.code.rstrip().removesuffix(")") + "    latents=latents,\n)"
    exec(added, names | (found := {"latents": latents}), found)
    assert same_picture(found["traj"], traj)
    panel.close()


def test_the_code_of_an_earlier_start_picture_says_that_it_is_gone(panel, pipe):
    first, second = (Image.radial_gradient("L"), Image.linear_gradient("L"))
    panel.value = {"image": first, "strength": 0.75}
    traj = finished(panel)
    assert same_picture(executed(panel, pipe), traj)
    kept = panel.value["image"]
    panel.value = {"image": second}
    assert "# The start picture of this run is no longer the panel's" in panel.code
    with pytest.raises(NameError, match="picture"):
        executed(panel, pipe)
    names = {"pipe": pipe, "ldmkit": ldmkit, "picture": kept}
    exec(panel.code, names)
    assert same_picture(names["traj"], traj)
    panel.value = {"image": None}
    assert "is no longer the panel" in panel._code.value, "shown, too"


def test_the_code_of_a_sibling_with_options_of_its_own(pipe):
    from diffusers import StableDiffusionPipeline

    odd = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    panel = PromptPanel(odd, "a cat", image=Image.radial_gradient("L"), **QUICK)
    assert same_picture(executed(panel, odd), finished(panel))
    assert "requires_safety_checker=False" in panel.code
    panel.close()


def test_the_code_names_adapters(monkeypatch):
    pipe = tiny.pipeline(size="small")
    # as peft leaves it in a network; a name is anybody's, and stays in its comment
    layer = torch.nn.Identity()
    layer.active_adapters = ["zorp", "a\nraise SystemExit"]
    layer.scaling = dict.fromkeys([*layer.active_adapters, "asleep"], 1.0)
    layer.r = layer.lora_alpha = dict.fromkeys(layer.scaling, 4)
    pipe.unet.add_module("adapted", layer)
    panel = PromptPanel(pipe, "a cat", **QUICK)
    assert "zorp" not in panel.code
    finished(panel)
    assert "# with the adapters that pipe carried: zorp, a raise SystemExit\n" in panel.code
    assert "asleep" not in panel.code
    panel.close()


# --- the same cell, again and again --------------------------------------------------------------


def live_tensors():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.slow
def test_running_the_panels_cell_again_leaves_nothing_behind(pipe, monkeypatch):
    execution = iter(range(1000))
    monkeypatch.setattr(panel_module, "_running_cell", lambda: ("cell 3", str(next(execution))))
    out = []  # IPython's Out keeps every panel that was displayed

    def cell():
        panel = PromptPanel(pipe, "a cat", num_inference_steps=2, guidance_scale=1.0)
        out.append(panel)
        finished(panel)
        return panel

    def counted():
        gc.collect()
        return len(living()), threading.active_count(), live_tensors()

    cell()
    cell()
    first = counted()
    for _ in range(8):  # fifty in a real kernel: test_cells
        panel = cell()
    assert counted() == first
    assert panel.result is not None
    assert [earlier.result for earlier in out[:-1]] == [None] * 9
    panel.close()


def test_panels_that_one_cell_makes_in_a_loop_stay(pipe, monkeypatch):
    running = ["cell 3", "first"]
    monkeypatch.setattr(panel_module, "_running_cell", lambda: tuple(running))
    first = [PromptPanel(pipe, f"cat {i}") for i in range(3)]
    assert not any(panel._closed for panel in first)
    running[0] = "cell 4"
    other = PromptPanel(pipe)
    assert not any(panel._closed for panel in first)
    running[:] = ["cell 3", "second"]
    again = PromptPanel(pipe)
    assert all(panel._closed for panel in first)
    assert not other._closed
    other.close()
    again.close()


def test_a_replaced_panel_stops_its_run(pipe, monkeypatch):
    execution = iter("ab")
    monkeypatch.setattr(panel_module, "_running_cell", lambda: ("cell 3", next(execution)))
    with held(pipe, at=2) as (gate, reached):
        first = PromptPanel(pipe, "a cat", **QUICK)
        job = first.run()
        assert reached.wait(30)
        second = PromptPanel(pipe, "a cat", **QUICK)
        gate.set()
        assert job.wait(60) is None
    assert job.state == "cancelled"
    second.close()


def test_outside_a_notebook_nothing_is_replaced(pipe):
    assert panel_module._running_cell() is None
    panels = [PromptPanel(pipe) for _ in range(2)]
    assert not any(panel._closed for panel in panels)
    for panel in panels:
        panel.close()
