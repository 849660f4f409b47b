"""``sweep``: every combination once, in this thread or any executor, the same pictures."""

import functools
import multiprocessing
import os
import signal
import sys
import types
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import ldmkit
from ldmkit.experiments import runs
from ldmkit.loading.device import own

PROMPT = "a red cat with a crown"


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(size="small")


def pixels(grid):
    return np.stack([np.asarray(image, np.int16) for image in grid.images])


def test_every_combination_in_order(pipe):
    grid = ldmkit.sweep(
        pipe,
        {"seed": range(3), "guidance_scale": [1, 3]},
        prompt=PROMPT,
        num_inference_steps=2,
    )
    assert grid.axes == {"seed": (0, 1, 2), "guidance_scale": (1, 3)}
    assert (grid.seeds, grid.prompts) == ((0, 0, 1, 1, 2, 2), (PROMPT,) * 6)
    assert grid.call["num_inference_steps"] == 2
    assert "guidance_scale" not in grid.call
    for i, image in enumerate(grid.images):
        seed, scale = divmod(i, 2)
        want = pipe(
            PROMPT,
            num_inference_steps=2,
            guidance_scale=(1, 3)[scale],
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        assert np.array_equal(np.asarray(image), np.asarray(want)), i


def test_any_keyword_is_an_axis(pipe):
    axes = {
        "prompt": [PROMPT, "a blue dog"],
        "negative_prompt": ["", "a hat"],
        "scheduler": ["ddim", "ddpm"],
        "eta": (0.0, 0.5),
    }
    grid = ldmkit.sweep(pipe, axes, num_inference_steps=1)
    assert grid.shape == (2, 2, 2, 2)
    assert grid.axes["scheduler"] == ("ddim", "ddpm")
    assert set(grid.seeds) == {0}  # one noise for all, unless told otherwise
    assert grid.measure == "obedience"
    assert grid.prompts == (PROMPT,) * 8 + ("a blue dog",) * 8


def test_pictures_and_tensors_as_axis_are_numbered():
    pipe = tiny.pipeline("img2img", size="small")
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    grid = ldmkit.sweep(
        pipe, {"image": pictures, "strength": [0.5, 1.0]}, PROMPT, num_inference_steps=4, seed=3
    )
    assert grid.axes == {"image": ("image 1", "image 2"), "strength": (0.5, 1.0)}
    assert grid.values["calls"].tolist() == [2, 4, 2, 4]
    assert set(grid.seeds) == {3}


def test_latents_say_the_noise_themselves(pipe):
    noise = [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    grid = ldmkit.sweep(pipe, {"latents": noise}, PROMPT, num_inference_steps=1)
    seeded = ldmkit.sweep(pipe, {"seed": range(2)}, PROMPT, num_inference_steps=1)
    assert grid.seeds == (None, None)
    assert np.array_equal(pixels(grid), pixels(seeded))


def test_other_words_make_pictures_without_scores(pipe):
    grid = ldmkit.sweep(pipe, {"seed": [1]}, "Paris, oil on canvas", num_inference_steps=1)
    assert (grid.measure, "score" in grid.values) == ("", False)
    with pytest.raises(TypeError, match="clip_space takes a name"):
        ldmkit.sweep(pipe, {"seed": [1]}, "Paris", num_inference_steps=1, clip=3)


AXES = {"seed": range(2), "scheduler": ["ddim", "euler ancestral"]}


def test_threads_make_the_same_pictures(pipe):
    here = ldmkit.sweep(pipe, AXES, PROMPT, num_inference_steps=2)
    seen = []
    with ThreadPoolExecutor(4) as pool:
        there = ldmkit.sweep(
            pipe,
            AXES,
            PROMPT,
            num_inference_steps=2,
            executor=pool,
            on_update=lambda told: seen.append((told.index, told.done)),
        )
    assert np.array_equal(pixels(here), pixels(there))
    assert sorted(index for index, _ in seen) == [0, 1, 2, 3]
    assert [done for _, done in seen] == [1, 2, 3, 4]


# In a worker: notes which models it opens.
COUNTING = """
import ldmkit.experiments.runs as runs
runs.loads = []
runs.load = lambda name, runs=runs, real=runs.load: (runs.loads.append(name), real(name))[1]
"""
LOADS = "(__import__('os').getpid(), __import__('ldmkit.experiments.runs', fromlist=['x']).loads)"


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    pipe.save_pretrained(path)
    return str(path)


def left_when_a_worker_dies(folder, executor, kill):
    """The pictures of a sweep that loses a worker after the first two; what it said of it."""
    with pytest.warns(UserWarning, match="A worker of the executor died") as heard:
        grid = ldmkit.sweep(
            folder,
            {"seed": range(6)},
            PROMPT,
            num_inference_steps=2,
            executor=executor,
            on_update=lambda told: kill() if told.done == 2 else None,
        )
    made = sum(image is not None for image in grid.images)
    assert 2 <= made < 6
    said = [str(one.message) for one in heard]
    assert sum(f"{made} of 6 pictures were made and are kept" in one for one in said) == 1
    return grid


@pytest.mark.slow
def test_processes_open_a_name_once_each_and_what_they_made_outlives_one(pipe, folder):
    here = ldmkit.sweep(pipe, AXES, PROMPT, num_inference_steps=2)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ldmkit.experiments.runs", "tiny"])  # torch once, not twice
    with ProcessPoolExecutor(2, mp_context=context, initializer=exec, initargs=(COUNTING,)) as pool:
        there = ldmkit.sweep(folder, AXES, PROMPT, num_inference_steps=2, executor=pool)
        assert np.abs(pixels(here) - pixels(there)).max() <= 1
        loads = dict(future.result() for future in [pool.submit(eval, LOADS) for _ in range(20)])
        assert set(map(tuple, loads.values())) <= {(folder,), ()}  # a quick one makes all of it
        sent = ldmkit.sweep(pipe, AXES, PROMPT, num_inference_steps=2, executor=pool)
        assert np.abs(pixels(here) - pixels(sent)).max() <= 1  # the pipeline itself, pickled
        assert sent.axes == there.axes == here.axes
        worker = next(pid for pid, opened in loads.items() if opened)
        left_when_a_worker_dies(folder, pool, lambda: os.kill(worker, signal.SIGKILL))


@pytest.mark.slow
def test_engines_of_ipyparallel_do_so_too(pipe, folder, tmp_path, monkeypatch):
    engines = pytest.importorskip("ipyparallel")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    here = ldmkit.sweep(pipe, AXES, PROMPT, num_inference_steps=2)
    cluster = engines.Cluster(n=2, log_level=40)
    with cluster as client:
        client[:].execute(COUNTING, block=True)
        pool = client.executor()
        there = ldmkit.sweep(folder, AXES, PROMPT, num_inference_steps=2, executor=pool)
        assert np.abs(pixels(here) - pixels(there)).max() <= 1
        loads = dict(client[:].apply_sync(eval, LOADS))
        assert list(loads.values()) == [[folder], [folder]]
        worker = next(iter(loads))
        left_when_a_worker_dies(folder, pool, lambda: os.kill(worker, signal.SIGKILL))


class RemoteError(Exception):
    """As ipyparallel's: it stands for the error whose name it tells."""

    ename = "EngineError"


@pytest.mark.parametrize("death", [BrokenProcessPool("gone"), RemoteError("gone")])
@pytest.mark.parametrize("survivors", [0, 2])
def test_a_worker_that_dies_takes_only_its_own(pipe, death, survivors):
    pool = Lazy(most=survivors)
    pool.rest = death
    run = functools.partial(
        ldmkit.sweep, pipe, {"seed": range(3)}, PROMPT, num_inference_steps=1, executor=pool
    )
    if not survivors:
        with pytest.raises(RuntimeError, match="before a picture was made") as raised:
            run()
        assert type(death).__name__ in str(raised.value)
        return
    with pytest.warns(UserWarning, match="2 of 3 pictures were made and are kept, images holds"):
        grid = run()
    assert [image is not None for image in grid.images] == [True, True, False]
    assert grid.table.rows[2]["seconds"] is None
    assert "<table" in grid._repr_mimebundle_()["text/html"]


@pytest.fixture
def opened(monkeypatch):
    """Names that were loaded; each gives a pipeline of its own."""
    names, cache = [], dict(runs._kept)

    def load(name):
        names.append(name)
        return own(tiny.pipeline(size="small"))

    for module in ("ldmkit.experiments.sweep", "ldmkit.experiments.runs"):
        monkeypatch.setattr(sys.modules[module], "load", load)
    runs._kept.clear()
    yield names
    runs._kept.clear()
    runs._kept.update(cache)


@pytest.mark.parametrize("threads", [0, 3])
def test_a_name_is_opened_once(opened, threads):
    pool = ThreadPoolExecutor(threads) if threads else None
    grid = ldmkit.sweep("some model", AXES, PROMPT, num_inference_steps=1, executor=pool)
    assert opened == ["some model"]
    assert len(grid) == 4


def test_a_worker_opens_a_name_once_and_again_after_release(opened):
    """A process that only runs jobs: nobody lends it the model."""
    job = runs.Job("some model", None, (PROMPT,), (1,), {"num_inference_steps": 1}, (0,))
    runs.run(job)
    runs.run(job)
    assert opened == ["some model"]
    ldmkit.release()
    runs.run(job)
    assert opened == ["some model"] * 2


def test_a_sweep_by_name_after_release_opens_it_again(opened):
    for number in (1, 2):
        ldmkit.sweep("some model", {"seed": [1]}, PROMPT, num_inference_steps=1)
        assert len(opened) == number
        ldmkit.release()


def test_released_in_the_middle_says_so_and_keeps_what_is_made(opened):
    with pytest.warns(UserWarning, match="was released: 1 of 2 pictures are made and kept"):
        grid = ldmkit.sweep(
            "some model",
            {"seed": [1, 2]},
            PROMPT,
            num_inference_steps=1,
            on_update=lambda made: ldmkit.release(),
        )
    assert [image is not None for image in grid.images] == [True, False]
    assert opened == ["some model"]


@pytest.mark.parametrize("threads", [0, 3])
def test_a_bare_run_beside_it_changes_nothing(pipe, threads):
    """Another grid of timesteps on the reader's scheduler, in the midst of each picture."""

    def beside(ran, step, timestep, tensors):
        pipe.scheduler.set_timesteps(10)
        return {}

    call = {"num_inference_steps": 4, "callback_on_step_end": beside}
    want = ldmkit.sweep(pipe, {"seed": range(3)}, PROMPT, num_inference_steps=4)
    pool = ThreadPoolExecutor(threads) if threads else None
    got = ldmkit.sweep(pipe, {"seed": range(3)}, PROMPT, executor=pool, **call)
    assert got.values["calls"].tolist() == [4, 4, 4]
    assert np.array_equal(pixels(want), pixels(got))
    table = ldmkit.compare(pipe, [PROMPT], seed=1, clip=False, **call)
    assert np.array_equal(pixels(table)[0], pixels(want)[1])


class Lazy(Executor):
    """Runs one job for each that is asked for; the rest wait for ever."""

    rest = None  # or what they die of

    def __init__(self, most):
        self.most, self.futures = most, []

    def submit(self, function, /, *arguments):
        future = Future()
        self.futures.append(future)
        if len(self.futures) <= self.most:
            try:
                future.set_result(function(*arguments))
            except Exception as error:
                future.set_exception(error)
        elif self.rest is not None:
            future.set_exception(self.rest)
        return future


def test_stop_cancels_what_has_not_begun(pipe):
    pool = Lazy(most=2)
    grid = ldmkit.sweep(
        pipe,
        {"seed": range(5)},
        PROMPT,
        num_inference_steps=1,
        executor=pool,
        on_update=lambda told: told.done < 2,
    )
    assert [image is not None for image in grid.images] == [True, True, False, False, False]
    assert [future.cancelled() for future in pool.futures] == [False, False, True, True, True]


def test_an_error_in_a_worker_is_raised_and_ends_the_rest(pipe):
    pool = Lazy(most=1)

    def breaks(*arguments):
        raise ZeroDivisionError("in the middle")

    call = {"num_inference_steps": 1, "callback_on_step_end": breaks}
    with pytest.raises(ZeroDivisionError, match="in the middle"):
        ldmkit.sweep(pipe, {"seed": range(3)}, PROMPT, executor=pool, **call)
    assert pool.futures[1].cancelled()


@pytest.mark.parametrize(
    ("axes", "call", "error", "words"),
    [
        (
            {"guidence_scale": [1]},
            {},
            TypeError,
            "no axis 'guidence_scale'; did you mean 'guidance",
        ),
        ({"output_type": ["pil"]}, {}, TypeError, "know no axis 'output_type'"),
        ({"seed": 3}, {}, TypeError, "The axis 'seed' needs a list of values, got int"),
        ({"prompt": "a red cat"}, {"prompt": None}, TypeError, "The axis 'prompt' needs a list"),
        ({"seed": []}, {}, ValueError, "The axis 'seed' needs one value or more"),
        ({"seed": [1, 1]}, {}, ValueError, "Values of the axis 'seed' must differ, got [1, 1]"),
        (
            {"seed": range(1000), "guidance_scale": range(1000)},
            {},
            ValueError,
            "at most 100,000 pictures, got 1,000,000; take fewer",
        ),
        ({"seed": range(10**30)}, {}, ValueError, "pictures, got more than 100,000; take fewer"),
        ({"steps": [2]}, {}, TypeError, "know no axis 'steps'; did you mean 'timesteps'?"),
        ({3: [2]}, {}, TypeError, "know no axis 3; it takes: "),
        ({}, {}, TypeError, "axes must be a dict"),
        ([1, 2], {}, TypeError, "axes must be a dict"),
        ({"seed": [1]}, {"seed": 2}, ValueError, "seed can't be an axis and a keyword at once"),
        ({"seed": ["x"]}, {}, TypeError, "seed must be a whole number"),
        ({"seed": [(1, 2)]}, {}, TypeError, "seed must be one number per picture"),
        ({"seed": [1]}, {"prompt": ["a", "b"]}, TypeError, "prompt must be one string per picture"),
        ({"prompt": [3]}, {"prompt": None}, TypeError, "prompt must be one string per picture"),
        ({"scheduler": ["ddim", "eular"]}, {}, ValueError, "did you mean 'euler'?"),
        ({"num_inference_steps": [4, 0]}, {}, ValueError, "between 1 and 1024 inclusive, got 0"),
        (
            {"seed": [1]},
            {"guidance": 3},
            TypeError,
            "sweep and StableDiffusionPipeline know no key",
        ),
        ({"seed": [1]}, {"prompt": None}, TypeError, "needs a prompt, got None; write sweep"),
    ],
)
def test_refuses_before_anything_runs(pipe, monkeypatch, axes, call, error, words):
    monkeypatch.setattr("ldmkit.experiments.runs.record", lambda *a, **k: pytest.fail("it ran"))
    with pytest.raises(error) as raised:
        ldmkit.sweep(pipe, axes, **{"prompt": PROMPT, **call})
    assert words in str(raised.value)


def test_takes_no_other_than_pipelines():
    with pytest.raises(TypeError, match="sweep takes a diffusers pipeline first, got int"):
        ldmkit.sweep(3, {"seed": [1]}, PROMPT)
    with pytest.raises(ValueError, match="neither a folder, nor a model's name"):
        ldmkit.sweep("criters model", {"seed": [1]}, PROMPT)


def test_more_pictures_than_places_are_refused(pipe):
    with pytest.raises(RuntimeError, match="made 2 pictures where 1 were asked for"):
        ldmkit.sweep(pipe, {"seed": [1]}, PROMPT, num_inference_steps=1, num_images_per_prompt=2)


def test_a_run_without_a_picture_says_so(pipe, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pipe.vae, "decode", full)
    with (
        pytest.warns(UserWarning, match="All steps were made and are kept, but then"),
        pytest.raises(RuntimeError, match="A run made no picture: its memory ran out"),
    ):
        ldmkit.sweep(pipe, {"seed": [1]}, PROMPT, num_inference_steps=1)


class Deaf:
    """A pipeline whose steps nobody hears: its own scheduler is another than it shows."""

    def __init__(self):
        self.scheduler = tiny.scheduler()

    def __call__(self, prompt, size=8):
        return types.SimpleNamespace(images=[Image.new("RGB", (size, size))])


def test_a_picture_without_steps_is_swept():
    with pytest.warns(UserWarning, match="No step passed"):
        grid = ldmkit.sweep(Deaf(), {"size": [8, 16]}, PROMPT, clip=False)
    assert [image.size for image in grid.images] == [(8, 8), (16, 16)]
    assert [row["first_timestep"] for row in grid.table.rows] == [None, None]
    assert "<table" in grid._repr_mimebundle_()["text/html"]
