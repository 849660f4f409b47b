"""Quality against steps: the distance in closed form, and a whole small measurement."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pytest
from PIL import Image
from scipy import linalg

from ldmkit.loading.folder import write_student
from ldmkit.recipes import measure_steps


def test_the_frechet_distance_of_normals_in_closed_form():
    rng = np.random.default_rng(0)
    first = rng.normal(0, 1, (200_000, 3)) * [1, 2, 3]
    second = rng.normal(0, 1, (200_000, 3)) * [2, 2, 1] + [1, 0, 0]
    # Independent axes: |μ₁ − μ₂|² + Σ (σ₁ − σ₂)² = 1 + 1 + 0 + 4
    assert measure_steps.frechet(first, second) == pytest.approx(6, abs=0.1)
    assert measure_steps.frechet(first, first) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_is_that_of_scipys_matrix_root():
    rng = np.random.default_rng(1)
    first, second = (rng.normal(0, 1, (50, 6)) @ rng.normal(0, 1, (6, 6)) for _ in range(2))
    root = linalg.sqrtm(np.cov(first.T) @ np.cov(second.T))
    gap = ((first.mean(0) - second.mean(0)) ** 2).sum()
    theirs = gap + np.trace(np.cov(first.T) + np.cov(second.T) - 2 * root.real)
    assert abs(measure_steps.frechet(first, second) - theirs) <= 1e-8 * theirs


def test_the_interval_holds_the_distance_and_narrows_with_more_pictures():
    rng = np.random.default_rng(2)
    drawn, many = rng.normal(0, 1, (2000, 4)), rng.normal(0.5, 1, (2000, 4))
    widths = []
    for ours in (many[:100], many):
        low, high = measure_steps.frechet_interval(ours, drawn)
        assert low < measure_steps.frechet(ours, drawn) < high
        widths.append(high - low)
    assert widths[1] < 0.5 * widths[0]


def test_an_interrupted_row_goes_on_where_it_was(tmp_path, monkeypatch):
    asked = []

    def paint(pipe, texts, steps, guidance, first=0):
        asked.append((first, list(texts)))
        if broken and first == 4:
            raise KeyboardInterrupt
        return [Image.new("RGB", (64, 64), (first + i, 0, 0)) for i in range(len(texts))]

    monkeypatch.setattr(measure_steps.evaluate, "paint", paint)
    monkeypatch.setattr(measure_steps, "_PART", 2)
    ran = measure_steps.Ran("student", 4, None, 1.0, "abc")
    texts, broken = list("abcdef"), [True]
    with pytest.raises(KeyboardInterrupt):
        measure_steps.painted(ran, texts, tmp_path / "row")
    warm = (0, ["a"])
    assert asked == [warm, (0, ["a", "b"]), (2, ["c", "d"]), (4, ["e", "f"])]
    asked.clear(), broken.clear()
    pictures, seconds = measure_steps.painted(ran, texts, tmp_path / "row")
    assert asked == [warm, (4, ["e", "f"])]
    assert pictures[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert seconds >= 0


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_teacher_and_students_are_measured_from_the_same_noise(tmp_path, monkeypatch):
    folder, out = tmp_path / "critters", tmp_path / "out"
    shutil.copytree(
        measure_steps.WEIGHTS / "critters", folder, ignore=shutil.ignore_patterns("*.steps*")
    )
    out.mkdir()
    monkeypatch.setattr(measure_steps.evaluate, "SEEDS", 2)
    monkeypatch.setattr(measure_steps.evaluate, "_POOL", 150)
    monkeypatch.setattr(measure_steps, "_DRAWN", 100)
    few = partial(measure_steps.frechet_interval, again=5)
    monkeypatch.setattr(measure_steps, "frechet_interval", few)
    from ldmkit.recipes.ladder import network

    write_student(folder, 2, network("cpu").state_dict())  # the teacher's own weights
    told = ["measure_steps", "--pictures", "8", "--steps", "1", "2", "--folder", str(folder)]
    told += ["--runs", str(tmp_path), "--out", str(out), "--figure", str(tmp_path / "f.png")]
    monkeypatch.setattr("sys.argv", told)
    measure_steps.main()
    rows = json.loads((out / "steps.json").read_text())["rows"]
    assert [(row["run"], row["steps"]) for row in rows] == [
        ("teacher, DDIM", 1),
        ("teacher, DDIM", 2),
        ("teacher, DPM++", 1),
        ("teacher, DPM++", 2),
        ("student", 2),
    ]
    student = rows[-1]
    assert "over_plain_ddim" in student
    assert student["variety"]["captions"] == 8
    # One step of DPM++ is one step of DDIM: the same noise, the same pictures.
    assert rows[0]["obedience"] == rows[2]["obedience"]
    assert rows[0]["frechet"] == pytest.approx(rows[2]["frechet"], rel=1e-2)
    with Image.open(out / "sheet-steps.png") as sheet:
        assert sheet.size == (660, 5 * 66)
    assert measure_steps.card_rows(rows).count("\n") == 6
    assert (tmp_path / "f.png").is_file()

    # The same again, and a part of it: nothing is painted twice, every kept row is told.
    monkeypatch.setattr(measure_steps, "painted", None)
    measure_steps.main()
    monkeypatch.setattr("sys.argv", [*told, "--only", "student", "--steps", "2"])
    measure_steps.main()
    assert json.loads((out / "steps.json").read_text())["rows"] == rows
    assert not [path for path in (tmp_path / "steps").iterdir() if path.is_dir()]
