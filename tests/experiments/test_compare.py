"""``compare``: only what is compared differs; the pictures are diffusers' own."""

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler

import ldmkit
from ldmkit.loading.siblings import Origin, remember

PROMPTS = ["a red cat", "a blue dog with a top hat", "a black fox at night"]


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(size="small")


def pixels(images):
    return np.stack([np.asarray(image, np.int16) for image in images])


def bare(pipe, scheduler, steps, prompts, seeds, **call):
    """Diffusers alone."""
    own, pipe.scheduler = pipe.scheduler, scheduler.from_config(pipe.scheduler.config)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    try:
        done = pipe(list(prompts), num_inference_steps=steps, generator=generators, **call)
    finally:
        pipe.scheduler = own
    return pixels(done.images)


def test_pictures_are_diffusers_own_for_every_sampler(pipe):
    grid = ldmkit.compare(
        pipe,
        PROMPTS[:2],
        scheduler=("ddim", "euler ancestral"),
        num_inference_steps=(2, 3),
        seed=40,
        guidance_scale=3.0,
    )
    assert grid.axes == {
        "scheduler": ("ddim", "euler ancestral"),
        "num_inference_steps": (2, 3),
        "prompt": tuple(PROMPTS[:2]),
    }
    assert grid.seeds == (40, 41) * 4
    assert grid.prompts == tuple(PROMPTS[:2]) * 4
    for name, kind in (
        ("ddim", DDIMScheduler),
        ("euler ancestral", EulerAncestralDiscreteScheduler),
    ):
        for steps in (2, 3):
            part = grid.select(scheduler=name, num_inference_steps=steps)
            want = bare(pipe, kind, steps, PROMPTS[:2], (40, 41), guidance_scale=3.0)
            assert np.abs(pixels(part.images) - want).max() == 0, (name, steps)


@pytest.mark.slow
def test_what_is_told(pipe):
    grid = ldmkit.compare(pipe, PROMPTS[:2], scheduler=("ddim", "euler", "heun"), seed=(7, 3))
    assert grid.measure == "obedience"
    assert set(grid.values["score"]) <= {0.0, 1.0}
    assert grid.seeds == (7, 3) * 3
    assert grid.call["num_inference_steps"] == 50  # the pipeline's own
    assert "scheduler" not in grid.call  # which differs
    assert grid.model == "StableDiffusionPipeline"
    assert set(grid.versions) >= {"torch", "diffusers"}
    rows = {row["scheduler"]: row for row in grid.table}
    assert (rows["ddim"]["calls"], rows["heun"]["calls"]) == (50, 99)
    # 50 of 1,024 trailing steps begin at the last one; Euler's alpha is told at unit variance.
    alpha = float(pipe.scheduler.alphas_cumprod[1023]) ** 0.5
    for row in rows.values():
        assert row["first_timestep"] == 1023
        assert row["first_alpha"] == pytest.approx(alpha, abs=1e-6)
        assert row["seconds"] > 0


def test_batches_change_nothing_but_rounding(pipe):
    kinds = {"scheduler": "ddpm", "num_inference_steps": (2,), "clip": False}
    whole = ldmkit.compare(pipe, PROMPTS, **kinds)
    single = ldmkit.compare(pipe, PROMPTS, batch_size=1, **kinds)
    assert np.abs(pixels(whole.images) - pixels(single.images)).max() <= 2
    assert (whole.measure, "score" in whole.values) == ("", False)


def test_models_keep_their_own_settings():
    teacher, student = tiny.pipeline(size="small"), tiny.pipeline(size="small", seed=1)
    remember(teacher, Origin("teacher", {"guidance_scale": 4.0, "num_inference_steps": 9}))
    remember(student, Origin("student", {"guidance_scale": 1.0}))
    grid = ldmkit.compare(
        {"teacher": teacher, "student": student}, PROMPTS[0], num_inference_steps=(1, 2)
    )
    assert grid.axes == {
        "model": ("teacher", "student"),
        "num_inference_steps": (1, 2),
        "prompt": (PROMPTS[0],),
    }
    assert grid.model == "teacher, student"
    assert "guidance_scale" not in grid.call
    want = bare(student, DDIMScheduler, 2, PROMPTS[:1], [0], guidance_scale=1.0)
    assert (
        np.abs(pixels([grid.select(model="student", num_inference_steps=2).image]) - want).max()
        == 0
    )


def test_labelled_schedulers_keep_their_settings(pipe):
    leading = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="leading")
    grid = ldmkit.compare(
        pipe,
        PROMPTS[:1],
        scheduler={"trailing": "ddim", "leading": leading},
        num_inference_steps=(4,),
    )
    starts = dict(zip(grid.table["scheduler"], grid.table["first_timestep"], strict=True))
    assert starts == {"trailing": 1023, "leading": 769}


def test_repeated_captions_are_numbered(pipe):
    grid = ldmkit.compare(pipe, ["a red cat"] * 3, num_inference_steps=1)
    assert grid.axes["prompt"] == ("a red cat", "a red cat (2)", "a red cat (3)")
    assert grid.prompts == ("a red cat",) * 3


def test_progress_and_stop(pipe):
    seen = []

    def on_update(progress):
        seen.append(progress)
        return len(seen) < 3

    grid = ldmkit.compare(
        pipe,
        PROMPTS,
        scheduler=("ddim", "euler"),
        num_inference_steps=(1,),
        batch_size=1,
        on_update=on_update,
    )
    assert [(p.done, p.total) for p in seen] == [(1, 6), (2, 6), (3, 6)]
    # Captions outermost: the first has been compared, of the second one picture is there.
    assert [p.index for p in seen] == [0, 3, 1]
    assert seen[1].point == {
        "scheduler": "euler",
        "num_inference_steps": 1,
        "prompt": PROMPTS[0],
    }
    assert seen[0].score in (0.0, 1.0)
    assert [image is not None for image in grid.images] == [True, True, False, True, False, False]
    assert grid.images[3].tobytes() == seen[1].image.tobytes()
    assert repr(grid).endswith("6 pictures, 3 of them not made, with obedience)")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            {"guidence_scale": 3},
            TypeError,
            "compare and StableDiffusionPipeline know no keyword 'gui",
        ),
        ({"schedular": "ddim"}, TypeError, "did you mean 'scheduler'?"),
        ({"scheduler": "eular"}, ValueError, "did you mean 'euler'?"),
        ({"scheduler": ()}, ValueError, "scheduler must name one or more"),
        ({"scheduler": ("ddim", DDIMScheduler)}, ValueError, "label them: scheduler={"),
        ({"num_inference_steps": (4, 4)}, ValueError, "must be different whole numbers"),
        ({"num_inference_steps": ()}, ValueError, "must be different whole numbers, got ()"),
        (
            {"num_inference_steps": 1.5},
            TypeError,
            "num_inference_steps must be a whole number of 1 or more, got 1.5",
        ),
        ({"num_inference_steps": (4, 2000)}, ValueError, "between 1 and 1024 inclusive, got 2000"),
        (
            {"num_inference_steps": ("4",)},
            TypeError,
            "whole number of 1 or more, got '4'",
        ),
        ({"seed": (1, 2, 3)}, ValueError, "seed must be one number or 2, one per prompt, got 3"),
        ({"seed": None}, TypeError, "seed must be a whole number, got None"),
        ({"seed": -1}, ValueError, "seed must be between 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be between 1 and 256 inclusive, got 0"),
        ({"guidance_scale": float("nan")}, ValueError, "must be a finite number"),
        ({"prompts": []}, ValueError, "prompts must hold at least one"),
        ({"prompts": 3}, TypeError, "prompts must be a string or a list"),
        ({"prompts": None}, TypeError, "compare needs prompts"),
        ({"prompts": ["a red elefant"]}, ValueError, "give clip="),
        ({"models": "critters"}, TypeError, "compare takes a diffusers pipeline first, got str"),
        ({"models": {}}, ValueError, "compare needs a pipeline"),
        ({"models": {"a": 3}}, TypeError, "compare takes a diffusers pipeline first, got int"),
    ],
)
def test_refuses_before_anything_runs(pipe, monkeypatch, arguments, error, words):
    monkeypatch.setattr("ldmkit.experiments.runs.record", lambda *a, **k: pytest.fail("it ran"))
    call = {"models": pipe, "prompts": PROMPTS[:2], **arguments}
    with pytest.raises(error) as raised:
        ldmkit.compare(call.pop("models"), call.pop("prompts"), **call)
    assert words in str(raised.value)


def test_other_words_without_scores(pipe):
    grid = ldmkit.compare(pipe, ["Paris, oil on canvas"], num_inference_steps=1, clip=False)
    assert grid.measure == ""


def test_other_words_with_the_embedded_clip(pipe):
    grid = ldmkit.compare(pipe, ["Paris, oil on canvas"], num_inference_steps=1, clip="critters")
    assert grid.measure == "CLIP cosine"
    want = ldmkit.score(grid.images[0], "Paris, oil on canvas", clip="critters")
    assert grid.estimate().value == pytest.approx(want, abs=1e-6)


def test_students_draw_with_their_own_number_of_steps_only(pipe, tmp_path):
    few = tiny.pipeline(size="small")
    told = []
    grid = ldmkit.compare(
        {"teacher": pipe, "student": {3: few}},
        PROMPTS[:2],
        num_inference_steps=(2, 3),
        seed=40,
        guidance_scale=3.0,
        on_update=told.append,
    )
    assert grid.axes["model"] == ("teacher", "student")
    alone = ldmkit.compare(few, PROMPTS[:2], num_inference_steps=(3,), seed=40, guidance_scale=3.0)
    made = grid.select(model="student", num_inference_steps=3)
    assert np.abs(pixels(made.images) - pixels(alone.images)).max() == 0
    assert grid.select(model="student", num_inference_steps=2).images == (None, None)
    assert [(one.done, one.total) for one in told] == [(i, 6) for i in range(1, 7)]
    assert [row["pictures"] for row in grid.table] == [2, 2, 0, 2]
    assert "2 not made" in repr(grid) or "2 of them not made" in repr(grid)
    # Its curve runs through what was made; nothing is drawn, and nothing warns, where none was.
    lines = {line.get_label(): line for line in grid.figure().axes[1].get_lines()}
    assert list(lines["student"].get_xdata()) == [3.0]
    assert "not made" in grid.to_html(tmp_path / "grid.html").read_text()
    panel = ldmkit.ComparePanel(grid, num_inference_steps=2)
    assert "not made" in panel._pictures.value
    panel.close()


@pytest.mark.parametrize(
    ("steps", "students", "kind", "words"),
    [
        ((2, 4), {3: 0}, ValueError, r"those that 'student' has pipelines for \(3\), got 2, 4"),
        (None, {3: 0}, ValueError, r"pipelines for \(3\), got none"),
        ((2,), {}, ValueError, r"pipelines for \(none\), got 2"),
        ((2,), {"2": 0}, TypeError, "A number of steps of 'student' must be a whole number"),
        ((3,), {3: "critters"}, TypeError, "takes a diffusers pipeline"),
    ],
)
def test_students_that_fit_no_number_of_steps_are_refused(pipe, steps, students, kind, words):
    with pytest.raises(kind, match=words):
        ldmkit.compare({"student": students}, PROMPTS, num_inference_steps=steps)
