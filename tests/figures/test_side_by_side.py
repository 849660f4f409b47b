"""Records side by side without a kernel: the cell, the page, what is refused."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from records.make import PROMPT, make

import ldmkit
from ldmkit.figures.side_by_side import side_by_side
from ldmkit.records import RecordError

from .test_words import HOSTILE, Reader


def test_a_cell_shows_all_records_and_stays_small():
    shown = ldmkit.side_by_side(make(8), make(32))
    bundle = shown._repr_mimebundle_()
    assert list(bundle) == ["text/html", "image/png", "text/plain"]
    reader = Reader()
    reader.feed(bundle["text/html"])
    pictures = [a for tag, a in zip(reader.tags, reader.attributes, strict=True) if tag == "img"]
    assert len(pictures) == 2 * (2 * 6 + 1)  # two lanes of six steps and the end, for each
    assert all(PROMPT in a["alt"] for a in pictures)
    both = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert both.height > 1.9 * 200
    assert bundle["text/plain"].startswith("SideBySide(Trajectory(")


@pytest.mark.slow
def test_eight_records_of_noise_stay_under_4_mb():
    rng = np.random.default_rng(0)  # nothing compresses worse
    shape = (20, 1, 256, 256, 3)
    noise = {lane: rng.integers(0, 255, shape, np.uint8) for lane in ("denoised", "latents")}
    fields = {n: getattr(make(20, side=8), n) for n in type(make(1)).__dataclass_fields__}
    loud = type(make(1))(**fields | {"previews": noise})
    bundle = side_by_side(*[loud] * 8)._repr_mimebundle_()
    assert sum(map(len, bundle.values())) < 4_000_000


def test_hostile_words_add_no_element(tmp_path):
    tags = []
    for words in ("calm", HOSTILE):
        trajs = (make(2, prompt=words, model=words), make(3, prompt=words + "!", model=words))
        reader = Reader()
        page = side_by_side(*trajs).to_html(tmp_path / "page.html")
        reader.feed(page.read_text(encoding="utf-8"))
        tags.append(reader.tags)
    assert tags[0] == tags[1]


def test_lanes_and_batch_are_chosen():
    trajs = (make(3, batch=2), make(4, batch=2))
    html = side_by_side(*trajs, batch=1, lanes=["noise_pred"])._repr_mimebundle_()["text/html"]
    assert "Predicted noise" in html
    assert "Picture 2 of 2" in html
    assert "Clean estimate" not in html.split("<script")[0]


WRONG = [
    ((), {}, TypeError, "side_by_side takes two records or more, got 0; one shows itself"),
    ((make(2),), {}, TypeError, "takes two records or more, got 1; one shows itself"),
    ((make(2),) * 9, {}, TypeError, "takes 1 to 8 records, got 9; show one"),
    ((make(2), None), {}, TypeError, "takes a Trajectory first, got None; make one with"),
    ((make(2), make(3)), {"lanes": ["maps"]}, ValueError, "got 'maps'; these records can show"),
    ((make(2), make(3)), {"batch": 1}, RecordError, "batch must be between 0 and 0 inclusive, got"),
]


@pytest.mark.parametrize(("trajs", "options", "error", "words"), WRONG)
def test_refused(trajs, options, error, words):
    with pytest.raises(error) as raised:
        side_by_side(*trajs, **options)
    assert words in str(raised.value)
