"""A grid drawn: every picture at its place, everything said escaped."""

import base64
import dataclasses
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from records.make_grid import AXES, make_grid

from ldmkit.figures.grid import (
    THUMB,
    choice_html,
    grid_html,
    grid_image,
    laid_out,
    overview_html,
    say,
)
from ldmkit.records import RecordError

from .test_html import HOSTILE, Reader


def read(html):
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


def colours(html):
    """The colour in the middle of each <img>, in the order of the page."""
    found = []
    for data in re.findall(r"data:image/webp;base64,([^\"]+)", html):
        picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        found.append(picture.getpixel((picture.width // 2, picture.height // 2))[2] // 3)
    return found


def near(found, want):
    return len(found) == len(want) and np.abs(np.subtract(found, want)).max() <= 1  # WebP is lossy


def test_rows_of_one_caption_stand_together():
    headings, rows = laid_out(make_grid())
    assert headings == ["2 steps", "4 steps", "8 steps", "16 steps"]
    assert [(row.group, row.label) for row in rows[:3]] == [
        ("a red cat", "ddim"),
        ("a red cat", "euler"),
        ("a blue dog", "ddim"),
    ]
    assert rows[1].positions == (12, 15, 18, 21)


def test_a_sweep_has_its_setting_as_columns():
    headings, rows = laid_out(make_grid({"guidance_scale": (1.0, 2.5), "seed": (3, 4, 5)}))
    assert headings == ["guidance 1", "guidance 2.5"]
    assert [(row.label, row.positions) for row in rows] == [
        ("seed 3", (0, 3)),
        ("seed 4", (1, 4)),
        ("seed 5", (2, 5)),
    ]


def test_one_axis_wraps():
    headings, rows = laid_out(make_grid({"seed": tuple(range(11))}))
    assert headings == []
    assert [len(row.positions) for row in rows] == [8, 3]
    html = grid_html(make_grid({"seed": tuple(range(11))}))
    assert "seed 10</div>" in html


@pytest.mark.parametrize(
    ("axis", "label", "words"),
    [
        ("num_inference_steps", 1, "1 step"),
        ("guidance_scale", 7.5, "guidance 7.5"),
        ("eta", True, "eta True"),
        ("negative_prompt", None, "negative_prompt None"),
        ("scheduler", "dpm++", "dpm++"),
    ],
)
def test_labels_in_words(axis, label, words):
    assert say(axis, label) == words


def test_html_shows_each_picture_where_it_belongs():
    grid = make_grid()
    html = grid_html(grid)
    assert near(colours(html), [p for row in laid_out(grid)[1] for p in row.positions])
    reader = read(html)
    assert {"script", "style"}.isdisjoint(reader.tags)
    assert reader.text.count("✓ obeyed") == int(grid.values["score"].sum())
    assert "“a red cat”" in reader.text
    assert "24 pictures" in reader.text
    alts = [attributes["alt"] for attributes in reader.attributes if "alt" in attributes]
    assert alts[0] == "a red cat (ddim, 2 steps, a red cat)"
    assert "low, high: 95 % interval of obedience" in reader.text


def test_what_was_not_made_is_said():
    grid = make_grid({"seed": (0, 1)}, images=[Image.new("RGB", (4, 4)), None])
    assert "not made" in read(grid_html(grid)).text
    assert "2 pictures, 1 not made" in read(grid_html(grid)).text
    grid_image(grid)
    grid.figure()


def test_many_rows_are_cut_with_a_word():
    grid = make_grid({"num_inference_steps": (2, 4), "seed": tuple(range(40))})
    html = grid_html(grid)
    assert "The first 12 of 40 rows" in html
    assert len(colours(html)) == 24
    assert len(html) < 200_000
    assert grid_image(grid).height < 1400


@pytest.mark.slow
def test_large_pictures_stay_a_small_output():
    noise = np.random.default_rng(0).integers(0, 256, (96, 512, 512, 3), dtype=np.uint8)
    pictures = [Image.fromarray(pixels) for pixels in noise]
    axes = {"num_inference_steps": tuple(range(8)), "seed": tuple(range(12))}
    bundle = make_grid(axes, images=pictures)._repr_mimebundle_()
    assert sum(map(len, bundle.values())) < 4_000_000


def test_mimebundle():
    bundle = make_grid()._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert picture.width >= 4 * THUMB
    assert bundle["text/plain"].startswith("Grid(")


HOSTILE_AXES = {"scheduler": (HOSTILE, "b"), "num_inference_steps": (1, 2), "prompt": (HOSTILE,)}


def test_hostile_words_stay_words(tmp_path):
    grid = make_grid(
        HOSTILE_AXES, model=HOSTILE, call={"scheduler": HOSTILE}, versions={"a": "<b>"}
    )
    plain = make_grid({**HOSTILE_AXES, "scheduler": ("a", "b"), "prompt": ("x",)})
    for shown, harmless in (
        (grid_html(grid), grid_html(plain)),
        (
            choice_html(grid, {"num_inference_steps": 1, "prompt": HOSTILE}, "scheduler"),
            choice_html(plain, {"num_inference_steps": 1, "prompt": "x"}, "scheduler"),
        ),
        (
            overview_html(
                grid,
                {"num_inference_steps": 1, "prompt": HOSTILE},
                "scheduler",
                "num_inference_steps",
            ),
            overview_html(
                plain, {"num_inference_steps": 1, "prompt": "x"}, "scheduler", "num_inference_steps"
            ),
        ),
    ):
        assert read(shown).tags == read(harmless).tags
        assert all(not name.startswith("on") for a in read(shown).attributes for name in a)
    page = grid.to_html(tmp_path / "grid.html").read_text(encoding="utf-8")
    assert "alert(1)" in read(page).text
    assert "<script>alert" not in page
    grid.figure()
    grid_image(grid)


def test_page_holds_every_picture_and_asks_nobody(tmp_path):
    grid = make_grid({"num_inference_steps": (2, 4), "seed": tuple(range(40))})
    page = grid.to_html(tmp_path / "grid.html").read_text(encoding="utf-8")
    assert len(colours(page)) == 80
    assert "default-src 'none'" in page
    assert "http" not in re.sub(r"http-equiv", "", page)


def test_figure_draws_the_tables_numbers():
    grid = make_grid()
    figure = grid.figure(rows=3)
    pictures, score, seconds = figure.axes
    assert len(pictures.get_yticks()) == 3
    assert "(3 of 6 rows shown)" in figure.get_suptitle()
    table = grid.table
    for axes, name in ((score, "obedience"), (seconds, "seconds")):
        assert [line.get_label() for line in axes.lines] == ["ddim", "euler"]
        drawn = np.concatenate([line.get_ydata() for line in axes.lines])
        assert np.abs(drawn - table[name]).max() < 1e-12
    low, high = table["low"][:4], table["high"][:4]
    band = score.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((min(low), max(high)))
    assert score.get_xscale() == "log"
    assert figure._repr_png_()[:4] == b"\x89PNG"


def test_figure_without_numbers_to_plot_along():
    assert len(make_grid({"seed": (0, 1)}).figure().axes) == 1
    assert len(make_grid({"scheduler": ("a", "b"), "seed": (0, 1)}).figure().axes) == 1
    with pytest.raises(RecordError, match="rows must be 1 or more, got 0"):
        make_grid().figure(rows=0)


def test_choice_shows_one_place_and_what_all_like_it_say():
    grid = make_grid()
    html = choice_html(grid, {"num_inference_steps": 8, "prompt": "a blue dog"}, "scheduler")
    assert near(colours(html), [7, 19])
    text = read(html).text
    assert "a blue dog" in text
    assert text.count("✓ obeyed") == 2
    assert "obedience 0.67, n = 3" in text
    assert "0.30 s a picture, 8 calls" in text
    assert "from t = 1023, alpha 0.014" in text
    once = dataclasses.replace(grid, values=grid.values | {"calls": np.ones(len(grid))})
    html = choice_html(once, {"num_inference_steps": 8, "prompt": "a blue dog"}, "scheduler")
    assert "s a picture, 1 call" in read(html).text
    assert "1 calls" not in read(html).text
    single = choice_html(make_grid({"seed": (0, 1)}), {"seed": 1}, None)
    assert near(colours(single), [1])


def test_overview_marks_the_chosen_column():
    grid = make_grid()
    point = {"num_inference_steps": 8, "prompt": "a blue dog"}
    html = overview_html(grid, point, "scheduler", "num_inference_steps")
    assert near(colours(html), [1, 4, 7, 10, 13, 16, 19, 22])
    cells = re.findall(r'<td style="padding:1px;border:2px solid ([^"]+)"', html)
    assert [cell != "transparent" for cell in cells] == [False, False, True, False] * 2


def test_records_of_grids_import_no_figures():
    code = (
        "import sys, ldmkit.records; "
        "print([m for m in sys.modules if m.startswith(('matplotlib', 'ldmkit.figures', 'torch'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert AXES
