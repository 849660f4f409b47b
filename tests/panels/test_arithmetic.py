"""``ArithmeticPanel`` as the kernel sees it; tests/browser drags its slider."""

import io
import time
from datetime import UTC, datetime

import numpy as np
import pytest
import tiny
import tiny_unclip
from panels.hands import field, living, message, places
from PIL import Image
from tiny import picture

import ldmkit
from ldmkit.critters import Scene
from ldmkit.panels import ArithmeticPanel
from ldmkit.panels.arithmetic import checked_terms, formula
from ldmkit.panels.job import JobError
from ldmkit.records import Embedding, Walk

QUICK = {"num_inference_steps": 3, "num_frames": 3}
pytestmark = pytest.mark.filterwarnings("ignore:The fixed point did not settle")


@pytest.fixture(scope="module")
def unclip():
    return tiny_unclip.with_eye()


@pytest.fixture
def panel(unclip):
    panel = ArithmeticPanel(unclip, sums(), seed=3, **QUICK)
    yield panel
    panel.close()


def sums():
    return [(1, picture()), (1, "a cat with a crown"), (-1, "a cat")]


def chips(panel):
    return field(panel, "terms")._chips


def same(one, other):
    for a, b in zip(one.images, other.images, strict=True):
        assert np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1  # roundings


# --- settings ------------------------------------------------------------------------------------


def test_a_plain_cell_has_a_sum_to_run(unclip):
    panel = ArithmeticPanel(unclip)
    terms = panel.value["terms"]
    assert [weight for weight, _ in terms] == [1, 1, -1]
    assert isinstance(terms[0][1], Scene)
    assert [words for _, words in terms[1:]] == ["a cat wearing a scarf", "a cat"]
    rest = {name: value for name, value in panel.value.items() if name != "terms"}
    assert rest == {
        "form": "turn",
        "theta": 0.4,
        "num_frames": 9,
        "seed": 0,
        "num_inference_steps": 20,
        "invert": True,
    }
    assert (panel.result, panel.job) == (None, None)
    assert ldmkit.ArithmeticPanel is ArithmeticPanel
    assert "+ a cat wearing a scarf − a cat', None)" in repr(panel)
    panel.close()
    assert repr(panel) == "ArithmeticPanel(closed)"


def test_value_goes_round(panel):
    panel.value = {"theta": 0.25, "form": "sum", "terms": [7, (-0.5, "a dog")]}
    assert panel.value["terms"] == ((1.0, Scene.sample(7)), (-0.5, "a dog"))
    assert panel.value["seed"] == 3
    assert (field(panel, "theta").value, field(panel, "form").value) == (0.25, "sum")
    assert field(panel, "theta").disabled
    assert chips(panel)[0]._end._seed.value == 7
    assert [chip.term for chip in chips(panel)] == list(panel.value["terms"])
    saved = panel.value
    panel.value = {"terms": sums()}
    assert len(chips(panel)) == 3
    panel.value = saved
    assert panel.value == saved


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ({"terms": "a cat"}, TypeError, "terms must be a list of pairs"),
        ({"terms": [("a cat",)]}, TypeError, "Term 1 must be a pair"),
        ({"terms": [(float("nan"), "a cat")]}, ValueError, "weight of term 1 must be a finite"),
        ({"terms": ["a cat", ("2", "a dog")]}, TypeError, "weight of term 2 must be a number"),
        ({"terms": [(11, "a cat")]}, ValueError, "between -10 and 10 inclusive, got 11"),
        ({"terms": [(1, object())]}, TypeError, "Term 1 must be words, a PIL picture"),
        ({"terms": [(1, b"GIF89a")]}, TypeError, "Term 1 must be words, a PIL picture"),
        ({"terms": ["a cat"] * 9}, ValueError, "8 terms at most here, got 9"),
        ({"theta": 1.5}, ValueError, "must be between 0 and 1 inclusive, got 1.5"),
        ({"theta": float("nan")}, ValueError, "must be a finite number, got nan"),
        ({"theta": "0.4"}, TypeError, "must be a number"),
        ({"form": "turm"}, ValueError, "did you mean 'turn'"),
        ({"num_frames": 1}, ValueError, "num_frames must be between 2 and 64"),
        ({"invert": 1}, TypeError, "invert must be True or False"),
        ({"tetha": 0.4}, ValueError, "did you mean 'theta'"),
        (3, TypeError, "value must be a dict of terms"),
    ],
)
def test_refuses_in_one_sentence(panel, value, error, words):
    before = panel.value
    with pytest.raises(error, match=words):
        panel.value = value
    assert panel.value == before
    assert 'role="alert"' in message(panel)
    panel.value = {"seed": 5}  # the next good setting takes the sentence away
    assert message(panel) == ""


def test_refuses_other_pipelines_and_keywords(unclip):
    with pytest.raises(TypeError, match="ArithmeticPanel takes an unCLIP pipeline"):
        ArithmeticPanel(tiny.pipeline(size="small"))
    with pytest.raises(TypeError, match="did you mean 'guidance_scale'"):
        ArithmeticPanel(unclip, guidance_scael=3)


# --- chips ---------------------------------------------------------------------------------------


def test_chips_are_added_weighed_turned_and_removed(panel):
    terms = field(panel, "terms")
    terms._add.click()
    assert panel.value["terms"][3] == (1.0, "a red cat")
    chips(panel)[3]._weight.value = 0.5
    chips(panel)[3]._sign.value = -1.0
    assert panel.value["terms"][3] == (-0.5, "a red cat")
    assert "ldm-minus" in chips(panel)[3]._dom_classes
    chips(panel)[3]._end._words.value = "a dog"
    assert panel.value["terms"][3] == (-0.5, "a dog")
    assert "− 0.5 × a dog" in terms._sum.value
    gone = chips(panel)[1]
    gone.children[0].children[2].click()
    assert [thing for _, thing in panel.value["terms"]][1:] == ["a cat", "a dog"]
    assert gone.comm is None  # closed
    for _ in range(5):
        terms._add.click()
    assert (len(chips(panel)), terms._add.disabled) == (8, True)


def test_pictures_without_a_name_are_told_apart(panel):
    panel.value = {"terms": [picture(), (-1, picture(1)), (-1, picture(2))]}
    chips(panel)[1].children[0].children[2].click()
    assert field(panel, "terms")._sum.value == "picture 1 − picture 2"
    assert [chip._end._said.value for chip in chips(panel)] == ["picture 1", "picture 2"]


def test_a_wrong_weight_stays_in_its_chip_and_is_not_run(panel):
    before = panel.value
    wrongs = {float("nan"): "a finite number, got nan", -1e9: "between -10 and 10 inclusive, got"}
    for wrong, words in wrongs.items():
        chips(panel)[0]._weight.value = wrong
        assert f"The weight of term 1 must be {words}" in message(panel)
        assert panel.value == before
    panel._form.run.click()
    assert panel.job is None
    assert "The weight of term 1" in message(panel)
    chips(panel)[0]._weight.value = 2
    assert (message(panel), panel.value["terms"][0][0]) == ("", 2.0)
    field(panel, "theta").value = 7
    assert "between 0 and 1 inclusive, got 7" in message(panel)
    panel._form.run.click()
    assert panel.job is None
    field(panel, "theta").value = 0.2
    panel._form.run.click()
    assert isinstance(panel.job.wait(60), Walk)


def test_a_picture_is_uploaded_into_a_chip(panel):
    def upload(name, content):
        told = {"name": name, "type": "image/png", "size": len(content), "content": content}
        end._upload.value = ({**told, "last_modified": datetime.now(UTC)},)

    before, end = panel.value, chips(panel)[0]._end
    upload("notes.png", b"no picture at all")
    assert "A picture here" in message(panel)
    assert panel.value == before
    file = io.BytesIO()
    picture(1).save(file, "PNG")
    upload("<b>own.png", file.getvalue())
    assert message(panel) == ""
    kept = panel.value["terms"][0][1]
    assert np.array_equal(np.asarray(kept), np.asarray(picture(1)))
    assert field(panel, "terms")._sum.value.startswith("&lt;b&gt;own.png + ")


def test_hostile_words_are_text(panel):
    words = "<img src=x onerror=alert(1)>"
    panel.value = {"terms": [(1, picture()), (1, words)]}
    shown = field(panel, "terms")._sum.value
    assert "<img" not in shown
    assert "&lt;img src=x" in shown
    assert formula(checked_terms([(1, "a" * 500)])).endswith("…")


# --- runs ----------------------------------------------------------------------------------------


def test_a_run_is_a_text_diff(panel, unclip):
    heard = []
    panel.observe(lambda change: heard.append(change["new"]), names="result")
    walk = panel.run().wait(60)
    want = ldmkit.text_diff(
        unclip, picture(), "a cat", "a cat with a crown", theta=(0, 0.4), seed=3, **QUICK
    )
    same(walk, want)
    assert (panel.result, heard) == (walk, [walk])
    assert panel.place == 2  # the whole sum
    assert [place["label"] for place in places(panel)] == ["θ = 0", "θ = 0.2", "θ = 0.4"]
    assert all(len(place["nearest"]) == 3 for place in places(panel))
    plane = panel._view._view.data["plane"]
    assert [point[2] for point in plane["own"]] == ["a cat with a crown", "a cat"]
    assert len(plane["path"]) == 3


def test_a_sum_and_an_earlier_record(panel, unclip):
    earlier = panel.run().wait(60)
    terms = [(1, earlier), (0.5, "a dog")]
    panel.value = {"terms": terms, "form": "sum", "invert": False}
    walk = panel.run().wait(60)
    want = ldmkit.decode_embedding(unclip, earlier.embeddings[-1], seed=3, num_inference_steps=3)
    assert np.array_equal(np.asarray(walk.images[0]), np.asarray(want.image))
    assert [place["place"] for place in places(panel)] == ["", "", ""]
    assert places(panel)[-1]["label"] == "share = 1"


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ([], "The sum is empty"),
        ([(-1, "a cat")], "positive weight, got 1 with −"),
        ([(1, "a cat"), (0, "a dog")], "A sum needs something to add"),
        ([(1, "a cat"), (1, "a dog"), (-1, "a dog")], "has no direction"),
        ([(1, "a cat"), (1, Embedding(np.zeros(16), "nought"))], "is the zero vector"),
        ([(1, "a cat"), (1, Embedding(np.ones(5)))], "Only embeddings of one model"),
    ],
)
def test_what_can_not_be_added_is_told_and_the_last_record_stays(panel, terms, words):
    good, shown = panel.run().wait(60), places(panel)
    panel.value = {"terms": terms}
    panel._form.run.click()
    with pytest.raises(JobError, match=words):
        panel.job.wait(60)
    assert message(panel).count('role="alert"') == 1
    assert (panel.result, places(panel)) == (good, shown)
    assert not panel._form.run.disabled
    panel.value = {"terms": sums()}
    same(panel.run().wait(60), good)
    assert 'role="alert"' not in message(panel)


def test_an_empty_sum_by_hand(panel):
    while chips(panel):
        chips(panel)[-1].children[0].children[2].click()
    assert panel.value["terms"] == ()
    assert "An empty sum" in field(panel, "terms")._sum.value
    panel._form.run.click()
    with pytest.raises(JobError, match="The sum is empty"):
        panel.job.wait(60)


def test_unknown_words_are_told(panel, monkeypatch):
    monkeypatch.setattr(panel, "_embedded", True)
    panel.value = {"terms": [(1, picture()), (1, "a cat with a monocle")]}
    panel.run().wait(60)
    assert "This model never learned “monocle”" in message(panel)


def test_an_inversion_that_did_not_settle_is_told(panel, unclip, monkeypatch):
    monkeypatch.setattr(unclip.unet, "forward", lambda sample, *args, **more: (-40 * sample,))
    panel.run().wait(60)
    assert "The fixed point did not settle" in message(panel)


def test_stop_keeps_the_part(panel, unclip):
    panel.value = {"num_frames": 60}
    job = panel.run()
    last = time.monotonic() + 30
    while len(panel._film.pictures) < 2 and time.monotonic() < last:
        time.sleep(0.002)
    panel.stop()
    walk = job.wait(60)
    assert 2 <= len(walk) < 60
    assert len(places(panel)) == len(walk)


def test_export(panel, tmp_path):
    with pytest.raises(RuntimeError, match="no record yet"):
        panel.export(tmp_path / "sum.gif")
    panel.run().wait(60)
    for name in ("sum.gif", "sum.html", "sum.png", "sum.safetensors"):
        assert panel.export(tmp_path / name).stat().st_size > 100
    told = Image.open(tmp_path / "sum.png").text
    assert "a cat with a crown" in " ".join(told.values())
    back = Walk.open(tmp_path / "sum.safetensors")
    assert back.call["terms"][2] == [-1, "a cat"]


def test_close_takes_every_widget(unclip):
    before = living()
    panel = ArithmeticPanel(unclip, sums(), **QUICK)
    field(panel, "terms")._add.click()
    chips(panel)[0].children[0].children[2].click()
    panel.close()
    panel.close()
    assert living() <= before
    with pytest.raises(RuntimeError, match="closed"):
        panel.run()


# --- verdicts ------------------------------------------------------------------------------------


def test_what_changed_and_what_stayed():
    told = ArithmeticPanel._told(
        Walk(
            images=[picture()] * 3,
            labels=["θ"] * 3,
            t=[0, 0.2, 0.4],
            verdicts=[
                "animal cat, wears nothing",
                "kept animal, wears",
                "wears: nothing → crown; kept animal",
            ],
        )
    )
    assert told == [
        "The judge sees animal cat, wears nothing",
        "Changed: nothing\nStayed: animal, wears",
        "Changed: wears nothing → crown\nStayed: animal",
    ]


@pytest.mark.slow
def test_the_embedded_fox_gets_its_scarf():
    panel = ArithmeticPanel(ldmkit.load("critters-unclip"))
    walk = panel.run().wait(120)
    changed, kept = walk.verdicts[-1].split("kept ")
    assert "wears: nothing → scarf" in changed
    assert {"number", "place", "animal", "colour"} <= set(kept.split(", "))
    assert walk.verdicts[0].count("animal fox") == 1
    panel.close()
