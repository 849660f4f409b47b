"""``InterpolationPanel`` as the kernel sees it; tests/browser drags its slider."""

import io
import re
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime

import ipywidgets
import numpy as np
import pytest
import tiny
import tiny_unclip
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from panels.hands import field, held, living, message, places, tree
from PIL import Image
from records.make import make
from tiny import picture

import ldmkit
from ldmkit.critters import Scene
from ldmkit.panels import ArithmeticPanel, InterpolationPanel, interpolation
from ldmkit.panels import panel as panel_module
from ldmkit.panels.job import JobError
from ldmkit.records import Embedding, Walk

QUICK = {"num_inference_steps": 2, "num_frames": 3}
HOSTILE = "</style><img onerror=a>"  # the tiny tokenizer reads 30 tokens
pytestmark = pytest.mark.filterwarnings("ignore:The fixed point did not settle")


@pytest.fixture(scope="module")
def unclip():
    return tiny_unclip.with_eye()


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(size="small")


@pytest.fixture
def panel(unclip):
    panel = InterpolationPanel(unclip, picture(), "a blue dog", seed=3, **QUICK)
    yield panel
    panel.close()


@pytest.fixture
def pixels(pipe):
    """No network: quick to run."""
    panel = InterpolationPanel(pipe, picture(0), picture(1), space="pixel", num_frames=3)
    yield panel
    panel.close()


def until(condition):
    last = time.monotonic() + 20
    while not condition() and time.monotonic() < last:
        time.sleep(0.002)
    assert condition()


def pixels_of(image):
    return np.asarray(image, int)


def equal(one, other):
    return np.array_equal(pixels_of(one), pixels_of(other))


# --- settings ------------------------------------------------------------------------------------


def test_a_plain_cell_has_two_ends_to_run(unclip):
    panel = InterpolationPanel(unclip)
    assert panel.value == {
        "a": "a red cat with a top hat",
        "b": "a blue dog",
        "space": "clip_image",
        "method": "slerp",
        "num_frames": 9,
        "seed": 0,
        "num_inference_steps": 20,
        "invert": False,
    }
    assert (panel.result, panel.job, panel.place) == (None, None, 0)
    assert ldmkit.InterpolationPanel is InterpolationPanel
    told = "InterpolationPanel('a red cat with a top hat → a blue dog' in clip_image, None)"
    assert repr(panel) == told
    panel.close()
    assert repr(panel) == "InterpolationPanel(closed)"


def test_settings_by_keyword(unclip):
    words = {
        "space": "latent",
        "method": "lerp",
        "num_frames": 5,
        "seed": 7,
        "num_inference_steps": 3,
        "invert": True,
    }
    panel = InterpolationPanel(unclip, 5, picture(), **words, guidance_scale=2)
    assert panel.value.items() >= words.items()
    assert panel.value["a"] == Scene.sample(5)
    assert {name: field(panel, name).value for name in words} == words
    assert field(panel, "a")._seed.value == 5
    assert equal(field(panel, "b").end, picture())
    assert panel._call == {"guidance_scale": 2}
    panel.close()


def test_value_goes_round(panel):
    saved = panel.value
    panel.value = {"a": 7, "method": "lerp", "num_frames": 4}
    assert panel.value["a"] == Scene.sample(7)
    assert (panel.value["seed"], panel.value["b"]) == (3, "a blue dog")
    assert (field(panel, "method").value, field(panel, "num_frames").value) == ("lerp", 4)
    panel.value = saved
    assert panel.value == saved
    assert field(panel, "a").end is panel.value["a"]
    field(panel, "seed").value = 12
    field(panel, "b")._words.value = "a dog"
    field(panel, "invert").value = True
    assert [panel.value[name] for name in ("seed", "b", "invert")] == [12, "a dog", True]
    panel._form.dice.click()
    assert panel.value["seed"] == field(panel, "seed").value < 100_000


@pytest.mark.parametrize(
    ("kind", "spaces"),
    [
        (tiny_unclip.with_eye, ["clip_image", "prompt", "latent", "pixel"]),
        (tiny_unclip.kandinsky, ["clip_image", "pixel"]),
        (tiny_unclip.karlo, ["clip_image", "pixel"]),
        (lambda: tiny.pipeline(size="small"), ["prompt", "latent", "pixel"]),
        (lambda: bare(), ["pixel"]),
    ],
    ids=["unclip", "kandinsky", "karlo", "text to image", "pixels"],
)
def test_spaces_of_each_kind_of_pipeline(kind, spaces):
    panel = InterpolationPanel(kind(), picture(), picture(1))
    assert panel.value["space"] == spaces[0]
    assert [value for _, value in field(panel, "space").options] == spaces
    missing = next((s for s in ("clip_image", "prompt") if s not in spaces), "noise")
    with pytest.raises(ValueError, match=f"space must be one of {', '.join(spaces)} with this pip"):
        panel.value = {"space": missing}
    panel.close()


def bare():
    net = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    return DDPMPipeline(net, DDPMScheduler())


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ({"a": None}, TypeError, "a must be words, a PIL picture"),
        ({"b": b"GIF89a"}, TypeError, "b must be words, a PIL picture"),
        ({"a": np.zeros((2, 3))}, TypeError, "a must be words, a PIL picture"),
        ({"a": -1}, ValueError, "a, as a critter's seed, must be between 0 and"),
        ({"a": Image.new("1", (10_000, 4_001))}, ValueError, "1 to 40,000,000 pixels, this one"),
        ({"a": "a" * 1_000_000}, ValueError, "a must"),
        ({"space": "noise"}, ValueError, "space must be one of clip_image, prompt, latent, pixel"),
        ({"space": "promt"}, ValueError, "did you mean 'prompt'"),
        ({"method": "slurp"}, ValueError, "did you mean 'slerp'"),
        ({"num_frames": 1}, ValueError, "num_frames must be between 2 and 64 inclusive, got 1"),
        ({"num_frames": 65}, ValueError, "num_frames must be between 2 and 64 inclusive, got 65"),
        ({"num_frames": np.zeros(3)}, TypeError, "num_frames must be a whole number"),
        ({"seed": 1.5}, TypeError, "seed must be a whole number"),
        ({"seed": True}, TypeError, "seed must be a whole number"),
        ({"num_inference_steps": 0}, ValueError, "num_inference_steps must be between 1 and 1000"),
        ({"invert": 1}, TypeError, "invert must be True or False"),
        ({"sede": 4}, ValueError, "did you mean 'seed'"),
        ("a cat", TypeError, "value must be a dict of a, b, space"),
    ],
)
def test_refuses_in_one_sentence(panel, value, error, words):
    before = panel.value
    with pytest.raises(error, match=words) as raised:
        panel.value = value
    assert len(str(raised.value).splitlines()) == 1
    assert panel.value == before
    assert message(panel).count('role="alert"') == 1
    panel.value = {"seed": 5}  # the next good setting takes the sentence away
    assert message(panel) == ""


def test_refuses_what_no_pipeline_takes(unclip):
    with pytest.raises(TypeError, match="did you mean 'guidance_scale'"):
        InterpolationPanel(unclip, guidance_scael=3)
    with pytest.raises(TypeError, match="InterpolationPanel"):
        InterpolationPanel("a pipeline")
    with pytest.raises(ValueError, match="num_frames must be between"):
        InterpolationPanel(unclip, num_frames=0)


@pytest.mark.parametrize("make", [InterpolationPanel, ArithmeticPanel])
@pytest.mark.parametrize(
    ("name", "junk"),
    [
        ("height", "tall"),
        ("eta", []),
        ("eta", "x"),
        ("generator", 3),
        ("latents", "noise"),
        ("guidance_scale", None),
        ("guidance_scale", float("nan")),
    ],
)
def test_a_pipelines_keywords_are_checked_when_the_panel_is_made(unclip, make, name, junk):
    with pytest.raises((TypeError, ValueError), match=rf"^{name} must .*\.$"):
        make(unclip, **{name: junk})


# --- what is wrong in a field --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wrong", "words", "right"),
    [
        ("seed", -4, "seed must be between 0 and", 4),
        ("num_inference_steps", 0, "num_inference_steps must be between 1 and 1000", 2),
    ],
)
def test_run_refuses_while_a_field_is_wrong(panel, name, wrong, words, right):
    before = panel.value
    field(panel, name).value = wrong
    assert words in message(panel)
    field(panel, "num_frames").value = 4  # a good one beside it mends nothing
    assert words in message(panel)
    panel._form.run.click()
    assert words in message(panel)
    assert (panel.job, field(panel, name).value) == (None, wrong)
    assert panel.value == before | {"num_frames": 4}
    field(panel, name).value = right
    panel._form.run.click()
    assert len(panel.job.wait(60)) == 4
    assert message(panel) == ""


def test_run_refuses_while_an_end_is_wrong(panel):
    end = field(panel, "b")
    end._kind.value = "critter"
    end._seed.value = -1
    assert "To, as a critter&#x27;s seed, must be between 0 and" in message(panel)
    field(panel, "seed").value = 4
    panel._form.run.click()
    assert "To, as a critter&#x27;s seed, must be between 0 and" in message(panel)
    end._kind.value = "picture"
    panel._form.run.click()
    assert "To: no picture is chosen yet" in message(panel)
    end._words._hear(None, {"run": True}, None)  # Ctrl+Enter
    assert panel.job is None
    end._kind.value = "words"
    panel._form.run.click()
    assert isinstance(panel.job.wait(60), Walk)


def test_run_refuses_while_an_end_is_wrong_in_a_chip(unclip):
    panel = ArithmeticPanel(unclip, [(1, picture()), (1, "a cat")], **QUICK)
    end = field(panel, "terms")._chips[1]._end
    end._kind.value = "record"
    field(panel, "theta").value = 0.2
    panel._form.run.click()
    assert "Term 2: no earlier record is chosen yet" in message(panel)
    end._kind.value = "critter"
    end._seed.value = -3
    field(panel, "theta").value = 0.3
    panel._form.run.click()
    assert "Term 2, as a critter&#x27;s seed, must be" in message(panel)
    assert panel.job is None
    panel.close()


def test_code_mends_the_fields(panel):
    field(panel, "seed").value = -4
    field(panel, "a")._kind.value = "critter"
    field(panel, "a")._seed.value = -1
    panel.value = {"a": "a red cat"}
    assert (field(panel, "seed").value, field(panel, "a").standing()) == (3, "a red cat")
    assert panel._form.entries() == panel.value


# --- ends ----------------------------------------------------------------------------------------


def some_end(kind):
    if kind == "picture":
        return picture(4)
    if kind == "transparent":
        layer = Image.new("RGBA", (32, 32), (200, 30, 40, 255))
        layer.paste((0, 0, 0, 0), (0, 0, 16, 32))
        return layer
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        file = io.BytesIO()
        picture(4, (40, 24)).save(file, "PNG", exif=exif)
        return Image.open(file)
    return {
        "words": "a red cat",
        "scene": Scene.sample(9),
        "seed": 9,
        "one pixel": picture(4, (1, 1)),
        "grey": picture(4).convert("L"),
        "deep": Image.fromarray(np.full((9, 9), 65535, np.uint16)),
        "embedding": Embedding(np.linspace(-1, 1, 16), "a line"),
        "trajectory": make(2, size=32),
        "walk": Walk(images=[picture(5), picture(6)], labels=["first", "last"], t=[0, 1]),
    }[kind]


ENDS = ("words", "picture", "transparent", "turned", "one pixel", "grey", "deep")
ENDS += ("scene", "seed", "embedding", "trajectory", "walk")


@pytest.mark.parametrize("kind", ENDS)
def test_every_kind_of_end(panel, unclip, kind):
    """The first picture is what its embedding alone gives, whatever stood there."""
    end = some_end(kind)
    told = pytest.warns(UserWarning, match="eight bits") if kind == "deep" else nullcontext()
    with told:
        panel.value = {"a": end, "num_frames": 2}
    walk = panel.run().wait(60)
    first = panel.value["a"]
    assert (walk.space, len(walk), list(walk.t)) == ("clip_image", 2, [0, 1])
    if kind == "words":
        z = ldmkit.sample_prior(unclip, end, seed=3)
    elif kind == "embedding":
        z = end
    else:
        seen = first.walk.images[-1] if kind == "walk" else first
        seen = seen.draw() if isinstance(seen, Scene) else seen
        z = ldmkit.clip_space(unclip).encode_image(getattr(seen, "image", seen))
    assert np.abs(walk.embeddings[0].vector - z.vector).max() < 1e-5
    want = ldmkit.decode_embedding(unclip, z, seed=3, num_inference_steps=2)
    assert np.abs(pixels_of(walk.images[0]) - pixels_of(want.image)).max() <= 1


def test_pixels_turn_and_stand_on_white(pixels):
    pixels.value = {"a": some_end("transparent"), "b": some_end("turned")}
    walk = pixels.run().wait(60)
    assert walk.images[0].getpixel((3, 3)) == (255, 255, 255)
    assert walk.images[0].getpixel((30, 3)) == (200, 30, 40)
    pixels.value = {"a": some_end("turned")}
    assert pixels.run().wait(60).images[0].size == (24, 40)


def test_a_large_picture_is_walked_in_small(pixels):
    pixels.value = {"a": Image.new("L", (8_000, 5_000), 200), "b": picture(), "num_frames": 2}
    walk = pixels.run().wait(60)
    assert [one.size for one in walk.images] == [(1024, 640)] * 2
    with pytest.raises(ValueError, match="1 to 40,000,000 pixels"):
        pixels.value = {"a": Image.new("1", (8_000, 5_001))}


def test_earlier_walks_give_embeddings_and_pictures(panel, pixels):
    earlier = panel.run().wait(60)
    panel.value = {"a": earlier, "b": "a cat"}
    again = panel.run().wait(60)
    assert np.array_equal(again.embeddings[0].vector, earlier.embeddings[-1].vector)
    assert again.labels[0] == "a blue dog"
    pixels.value = {"a": earlier}
    assert equal(pixels.run().wait(60).images[0], earlier.images[-1])


def test_pictures_without_a_name_are_told_apart(pixels):
    assert [field(pixels, end)._said.value for end in ("a", "b")] == ["picture 1", "picture 2"]
    assert "'picture 1 → picture 2' in pixel" in repr(pixels)
    assert pixels.run().wait(60).title == "picture 1 → picture 2"


def test_a_picture_is_uploaded(panel):
    def upload(name, content):
        told = {"name": name, "type": "image/png", "size": len(content), "content": content}
        end._upload.value = ({**told, "last_modified": datetime.now(UTC)},)

    before, end = panel.value, field(panel, "a")
    upload("notes.png", b"no picture at all")
    assert "A picture here" in message(panel)
    assert panel.value == before
    file = io.BytesIO()
    picture(1).save(file, "PNG")
    upload("<b>own.png", file.getvalue())
    assert message(panel) == ""
    assert equal(panel.value["a"], picture(1))
    assert end._said.value == "&lt;b&gt;own.png"


# --- runs ----------------------------------------------------------------------------------------


def test_a_run_is_interpolate(panel, unclip):
    heard = []
    panel.observe(lambda change: heard.append(change["new"]), names="result")
    walk = panel.run().wait(60)
    want = ldmkit.interpolate(unclip, picture(), "a blue dog", seed=3, batch_size=1, **QUICK)
    assert all(equal(a, b) for a, b in zip(walk.images, want.images, strict=True))
    assert (walk.labels, walk.method) == (want.labels, "slerp")
    assert (panel.result, heard, panel.job.state) == (walk, [walk], "done")
    assert [place["place"] for place in places(panel)] == ["t = 0", "t = 0.5", "t = 1"]
    assert [place["label"] for place in places(panel)][::2] == ["picture 1", "a blue dog"]
    assert all(len(place["nearest"]) == 3 for place in places(panel))
    plane = panel._view._view.data["plane"]
    assert [point[2] for point in plane["own"]] == ["a blue dog"]
    assert (len(plane["path"]), plane["words"][1]) == (3, "from pictures to texts")
    assert "3 pictures in" in panel._form._status.value


def test_both_ends_are_what_they_are_alone(panel, unclip):
    walk = panel.run().wait(60)
    first = ldmkit.clip_space(unclip).encode_image(picture())
    last = ldmkit.sample_prior(unclip, "a blue dog", seed=3)
    for image, z in zip(walk.images[::2], (first, last), strict=True):
        want = ldmkit.decode_embedding(unclip, z, seed=3, num_inference_steps=2)
        assert equal(image, want.image)


def test_pixels_begin_and_end_as_the_pictures(pixels):
    walk = pixels.run().wait(60)
    assert equal(walk.images[0], picture(0))
    assert equal(walk.images[-1], picture(1))
    pixels.value = {"method": "lerp"}
    middle = pixels_of(pixels.run().wait(60).images[1])
    assert np.abs(middle - (pixels_of(picture(0)) + pixels_of(picture(1))) / 2).max() <= 0.5
    assert all(place["nearest"] == [] for place in places(pixels))


@pytest.mark.filterwarnings("ignore:The prompt has")
def test_prompts_begin_and_end_as_single_runs(pipe):
    panel = InterpolationPanel(pipe, "a red cat", 5, seed=3, guidance_scale=2.0, **QUICK)
    walk = panel.run().wait(60)
    for image, words in zip(
        walk.images[::2], ("a red cat", Scene.sample(5).caption(0)), strict=True
    ):
        want = ldmkit.record(pipe, words, seed=3, num_inference_steps=2, guidance_scale=2.0)
        assert equal(image, want.image)
    assert walk.call["guidance_scale"] == 2.0
    panel.close()


def test_latents_begin_and_end_as_the_autoencoder_draws_them(pipe):
    panel = InterpolationPanel(pipe, picture(0), picture(1), space="latent", num_frames=3)
    walk = panel.run().wait(60)
    for image, end in zip(walk.images[::2], (picture(0), picture(1)), strict=True):
        want = ldmkit.decode_latents(pipe, ldmkit.encode_image(pipe, end))
        want = want[0] if isinstance(want, list) else want
        assert np.abs(pixels_of(image) - pixels_of(want)).max() <= 1
    panel.close()


def test_inverting_is_interpolates(panel, unclip):
    panel.value = {"b": picture(1), "invert": True}
    walk = panel.run().wait(60)
    want = ldmkit.interpolate(
        unclip, picture(0), picture(1), invert=True, seed=3, batch_size=1, **QUICK
    )
    assert all(equal(a, b) for a, b in zip(walk.images, want.images, strict=True))
    assert walk.call["guidance_scale"] == 1.0
    panel.value = {"space": "pixel"}  # which has no noise to find: the tick is passed over
    assert equal(panel.run().wait(60).images[0], picture(0))


def test_the_pipeline_stays_as_it_is(panel, unclip, monkeypatch):
    monkeypatch.setattr(unclip, "_progress_bar_config", {"leave": False})
    before, config = dict(vars(unclip)), dict(unclip.scheduler.config)
    panel.run().wait(60)
    assert dict(vars(unclip)) == before
    assert dict(unclip.scheduler.config) == config


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"space": "latent"}, "space='latent' walks between pictures, .* got str 'a blue dog'"),
        ({"space": "prompt"}, "space='prompt' walks between words, .* as end 1"),
        ({"invert": True}, "walks between pictures, scenes and earlier runs to invert"),
        ({"b": Embedding(np.ones(5))}, "Only embeddings of one model"),
    ],
)
def test_what_can_not_be_walked_is_told_and_the_last_record_stays(panel, value, words):
    good, shown, before = panel.run().wait(60), places(panel), panel.value
    panel.value = value
    panel._form.run.click()
    with pytest.raises(JobError, match=words):
        panel.job.wait(60)
    assert message(panel).count('role="alert"') == 1
    assert (panel.result, places(panel)) == (good, shown)
    assert panel._view._view.count == 3
    assert not panel._form.run.disabled
    panel.value = before
    assert equal(panel.run().wait(60).images[1], good.images[1])
    assert message(panel) == ""


def test_unknown_words_are_told(unclip, monkeypatch):
    monkeypatch.setattr(interpolation, "draws_critters", lambda pipe: True)
    panel = InterpolationPanel(unclip, picture(), "a cat with a monocle", **QUICK)
    assert panel.value["num_inference_steps"] == 2
    walk = panel.run().wait(60)
    assert "This model never learned “monocle”" in message(panel)
    assert len(walk.verdicts) == 3
    assert all(place["seen"].startswith("The judge sees ") for place in places(panel))
    panel.close()


def test_words_that_fall_off_are_told_under_the_panel(panel):
    panel.value = {"b": "a red cat " * 20}
    panel.run().wait(60)
    assert message(panel).count("no effect") == 1
    assert "the words after that have no effect" in message(panel)
    assert 'role="status"' in message(panel)


def test_stop_keeps_the_part(panel, unclip):
    panel.value = {"num_frames": 60}
    with held(unclip, at=6) as (gate, reached):
        job = panel.run()
        assert reached.wait(30)
        until(lambda: len(panel._film.pictures) == 2)
        assert (panel._form.run.disabled, panel._form.stop.disabled) == (True, False)
        panel._form.stop.click()
        gate.set()
        walk = job.wait(60)
    assert (job.state, len(walk)) == ("stopped", 2)
    assert list(walk.t) == [0, 1 / 59]
    assert (len(places(panel)), panel._view._view.count) == (2, 2)
    assert panel.result is walk
    assert "Stopped after picture" in panel._form._status.value
    assert not panel._form.run.disabled


def test_stopped_before_the_first_picture(panel, unclip):
    good = panel.run().wait(60)
    with held(unclip, at=1) as (gate, reached):
        job = panel.run()
        assert reached.wait(30)
        panel.stop()
        gate.set()
        assert job.wait(60) is None
    assert panel.result is good
    assert "Stopped before the first picture." in message(panel)
    assert len(places(panel)) == 3


def test_pictures_are_shown_as_they_come(panel, unclip, monkeypatch):
    monkeypatch.setattr("ldmkit.panels.job.INTERVAL", 0.0)  # every update is drawn
    with held(unclip, at=5) as (gate, reached):
        job = panel.run()
        assert reached.wait(30)
        data = panel._view._view.data
        assert (panel._view._view.count, data["total"]) == (2, 3)
        assert "Picture 2 of 3" in panel._form._status.value
        assert "ldm-empty" in panel._export._dom_classes
        gate.set()
        job.wait(60)
    assert panel._view._view.count == 3
    assert "ldm-empty" not in panel._export._dom_classes


def test_two_panels_on_one_pipeline_take_turns(panel, unclip):
    other = InterpolationPanel(unclip, "a dog", "a cat", seed=1, **QUICK)
    with held(unclip, at=2) as (gate, reached):
        panel.run()
        assert reached.wait(30)
        other.run()
        assert other.job.state == "waiting"
        assert "Waiting" in other._form._status.value
        gate.set()
        first, second = panel.job.wait(60), other.job.wait(60)
    for walk, ends, seed in (
        (first, (picture(), "a blue dog"), 3),
        (second, ("a dog", "a cat"), 1),
    ):
        want = ldmkit.interpolate(unclip, *ends, seed=seed, batch_size=1, **QUICK)
        assert all(equal(a, b) for a, b in zip(walk.images, want.images, strict=True))
    other.close()


def test_closed_in_mid_run_stops(unclip):
    before = living()
    panel = InterpolationPanel(unclip, "a cat", "a dog", **QUICK)
    with held(unclip, at=3) as (gate, reached):
        job, waiting = panel.run(), panel.run()
        assert reached.wait(30)
        panel.close()
        panel.close()
        gate.set()
        assert job.wait(60) is None
    assert (job.state, waiting.state) == ("cancelled", "cancelled")
    assert living() <= before
    assert (panel.result, panel._pipe) == (None, None)
    for what in (panel.run, lambda: setattr(panel, "value", {"seed": 1})):
        with pytest.raises(RuntimeError, match="This panel is closed; make another Interpol"):
            what()


def test_a_cell_that_runs_again_closes_the_former_panel(pipe, monkeypatch):
    execution = iter("ab")
    monkeypatch.setattr(panel_module, "_running_cell", lambda: ("cell 3", next(execution)))
    first, second = (InterpolationPanel(pipe) for _ in range(2))
    assert (first._closed, second._closed) == (True, False)
    second.close()


# --- places --------------------------------------------------------------------------------------


def test_moving_makes_no_run(panel, unclip):
    walk = panel.run().wait(60)
    job, calls = panel.job, []
    handle = unclip.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    seen = []
    for place in (1, 2, 0, 2):
        panel._view._view.place = place  # as the browser tells it
        assert panel.place == place
        seen.append(panel._view._image.value)
    panel.place = 1
    handle.remove()
    assert calls == []
    assert (panel.job, panel.result) == (job, walk)
    assert len(set(seen)) == 3  # the picture did change
    assert panel._view._view.place == 1


@pytest.mark.parametrize("place", [-1, 3])
def test_places_that_are_not(pixels, place):
    pixels.run().wait(60)
    with pytest.raises(ValueError, match=f"place must be between 0 and 2 inclusive, got {place}"):
        pixels.place = place


# --- words and files -----------------------------------------------------------------------------


def test_hostile_words_are_text(panel):
    panel.value = {"a": Embedding(np.linspace(-1, 1, 16), HOSTILE), "b": HOSTILE}
    panel.run().wait(60)
    panel.place = 2
    panel._form.say(HOSTILE, wrong=True, details=HOSTILE)
    panel._export.buttons[".html"].click()
    found = [w.value for w in tree(panel) if isinstance(w, ipywidgets.HTML)]
    shown = [value for value in found if "onerror" in value]
    assert len(shown) >= 3  # the end, the stand-in, the message
    for value in found:
        assert "<img" not in value
        assert value.count("</style>") == value.count("<style>")


def test_a_file_to_take_home(pixels):
    pixels._export.buttons[".gif"].click()
    assert pixels._export._link.value == ""  # nothing was made yet
    pixels.run().wait(60)
    for ending, kind in ((".gif", "image/gif"), (".html", "text/html"), (".png", "image/png")):
        pixels._export.buttons[ending].click()
        link = pixels._export._link.value
        assert f'download="picture-1-to-picture-2{ending}"' in link
        assert re.search(rf'href="data:{kind};base64,[\w+/=]{{100}}', link)
    pixels.run().wait(60)
    assert pixels._export._link.value == ""  # it held another record


def test_a_file_to_take_home_keeps_its_own_letters(pixels):
    """Persian stays Persian; names of Windows' devices and turned letters go."""
    pixels.run().wait(60)
    for title, name in (
        ("می‌خواهم / گربه", "می‌خواهم-گربه.png"),
        ("CON", "con-.png"),
        ("\u202e", "walk.png"),
    ):
        pixels._export._walk = lambda title=title: replace(pixels.result, title=title)
        pixels._export.buttons[".png"].click()
        assert f'download="{name}"' in pixels._export._link.value


def test_export(panel, tmp_path):
    with pytest.raises(RuntimeError, match="no record yet"):
        panel.export(tmp_path / "walk.gif")
    panel.value = {"b": HOSTILE}
    walk = panel.run().wait(60)
    for name in ("walk.gif", "walk.html", "walk.png", "walk.webp", "walk.safetensors"):
        assert panel.export(tmp_path / name).stat().st_size > 100
    # There and back, as long as the last but one of both.
    assert Image.open(tmp_path / "walk.gif").n_frames == 4
    page = (tmp_path / "walk.html").read_text(encoding="utf-8")
    assert HOSTILE not in page
    assert "<img onerror" not in page
    assert "&lt;img onerror=a" in page
    told = " ".join(Image.open(tmp_path / "walk.png").text.values())
    assert "num_inference_steps" in told
    back = Walk.open(tmp_path / "walk.safetensors")
    assert all(equal(a, b) for a, b in zip(back.images, walk.images, strict=True))
    with pytest.raises(ValueError, match=r"must end in .gif.* write \"walk.gif\""):
        panel.export(tmp_path / "walk.exe")
    with pytest.raises(FileNotFoundError):
        panel.export(tmp_path / "nowhere" / "walk.gif")
