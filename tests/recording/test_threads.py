"""What runs beside a record: neither changes the other, whoever began first."""

import copy
import functools
import threading
from threading import Event

import numpy as np
import pytest
import tiny
import torch

import ldmkit
from ldmkit.loading.siblings import from_picture
from ldmkit.recording import hooks, record, recorder

QUICK = {"num_inference_steps": 6, "guidance_scale": 4.0, "preview": "none"}
OTHER = {"num_inference_steps": 3, "guidance_scale": 1.0}
CAT = {"prompt": "a cat", "seed": 1, **QUICK}
WAIT = 20  # seconds: more is a lock that never opens


@pytest.fixture
def pipe():
    return tiny.pipeline(size="small", scheduler_name="EulerDiscreteScheduler")


def same(first, second):
    return np.array_equal(np.asarray(first), np.asarray(second))


def bare(pipe, **call):
    return pipe("a dog", generator=torch.Generator("cpu").manual_seed(3), **(call or OTHER)).images[
        0
    ]


class Beside(threading.Thread):
    """Runs a function and keeps what came of it."""

    def __init__(self, work):
        super().__init__(daemon=True)
        self.work, self.made, self.error = work, None, None
        self.start()

    def run(self):
        try:
            self.made = self.work()
        except Exception as error:
            self.error = error

    def ended(self):
        self.join(WAIT)
        assert not self.is_alive(), "it waits for ever"
        return self


def test_a_bare_call_of_the_same_pipeline_waits_its_turn(pipe):
    alone, other = record(pipe, "a red cat", seed=7, keep="all", **QUICK), bare(pipe)
    threads = []

    def on_step(step):
        if step.index == 2:
            threads.append(Beside(lambda: bare(pipe)))
            threads[0].join(0.3)  # time enough to spoil the run, were it let in
            assert threads[0].is_alive()

    traj = record(pipe, "a red cat", seed=7, keep="all", on_step=on_step, **QUICK)
    (thread,) = threads
    thread.ended()
    assert thread.error is None
    assert same(thread.made, other)
    assert same(traj.image, alone.image)
    for name in ("timesteps", "sigmas", "latents", "denoised", "noise_pred_uncond"):
        assert np.array_equal(getattr(traj, name), getattr(alone, name))
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    assert "__call__" not in vars(type(pipe)) or type(pipe).__module__.startswith("diffusers")


def test_a_sibling_that_shares_the_scheduler_waits(pipe):
    twin = copy.copy(pipe)  # as panels and students make them
    alone, other = record(pipe, "a red cat", seed=7, **QUICK), bare(twin)
    threads = []

    def on_step(step):
        if step.index == 2:
            threads.append(Beside(lambda: bare(twin)))
            threads[0].join(0.3)

    traj = record(pipe, "a red cat", seed=7, on_step=on_step, **QUICK)
    assert same(threads[0].ended().made, other)
    assert same(traj.image, alone.image)
    assert len(traj.timesteps) == len(alone.timesteps)


@pytest.mark.parametrize("place", ["words", "loop"])
@pytest.mark.parametrize("kind", ["itself", "twin"])
def test_a_bare_run_that_is_under_way_is_never_mixed_in(pipe, place, kind):
    """It ends with an error where it can't go on; a sibling waits that has not begun its steps."""
    other = pipe if kind == "itself" else copy.copy(pipe)
    alone, plain = record(pipe, "a red cat", seed=7, keep="all", **QUICK), bare(other)
    reached, go_on = threading.Event(), threading.Event()

    def pause(*args):
        reached.set()
        go_on.wait(WAIT)
        return {}

    if place == "words":
        read = other.encode_prompt
        mine = threading.get_ident()
        other.encode_prompt = lambda *args, **kwargs: (
            (threading.get_ident() != mine and pause()) or read(*args, **kwargs)
        )
        thread = Beside(lambda: bare(other))
    else:
        thread = Beside(lambda: bare(other, callback_on_step_end=pause, **OTHER))
    assert reached.wait(WAIT)

    def on_step(step):
        if step.index == 1:
            go_on.set()
            thread.join(0.3)

    traj = record(pipe, "a red cat", seed=7, keep="all", on_step=on_step, **QUICK)
    assert same(traj.image, alone.image)
    for name in ("timesteps", "latents", "noise_pred_text"):
        assert np.array_equal(getattr(traj, name), getattr(alone, name))
    if (place, kind) == ("words", "twin"):
        assert same(thread.ended().made, plain)
    elif place == "loop":
        assert "began while this run was under way" in str(thread.ended().error)
    else:  # its guidance is the record's by now: diffusers itself may stumble first
        assert thread.ended().error is not None


def test_a_call_that_began_just_before_notes_nothing_on_the_pipeline(pipe):
    alone = record(pipe, "a red cat", seed=7, **QUICK)
    refused = []

    def on_step(step):
        if step.index == 1:
            refused.append(Beside(lambda: setattr(pipe, "_guidance_scale", 99.0)).ended().error)

    traj = record(pipe, "a red cat", seed=7, on_step=on_step, **QUICK)
    assert "began while this run was under way" in str(refused[0])
    assert same(traj.image, alone.image)


def test_interrupting_from_another_thread_is_diffusers_own_way(pipe):
    def on_step(step):
        if step.index == 1:
            Beside(lambda: setattr(pipe, "_interrupt", True)).ended()

    traj = record(pipe, "a red cat", seed=7, on_step=on_step, **QUICK)
    assert traj.stopped
    assert len(traj.timesteps) == 2


def test_a_loop_beside_a_recorded_loop_is_told(pipe):
    x = torch.zeros(1, 4, 8, 8)
    pipe.scheduler.set_timesteps(2)
    first = pipe.scheduler.timesteps[0]
    with recorder(pipe.scheduler) as tape:
        thread = Beside(lambda: pipe.scheduler.step(x, first, x)).ended()
        pipe.scheduler.step(x, first, x)
    assert isinstance(thread.error, RuntimeError)
    assert len(tape.trajectory.timesteps) == 1


def test_a_record_waits_for_who_is_within_the_scheduler(pipe):
    """Else the steps of a run that began just before would be set over the record's own."""
    alone, within = record(pipe, seed=7, prompt="a cat", **QUICK), Event()

    class Slow(type(pipe.scheduler)):
        def set_timesteps(self, *args, **options):
            if isinstance(threading.current_thread(), Beside):
                within.set()
                Event().wait(0.3)
            super().set_timesteps(*args, **options)

    pipe.scheduler.__class__ = Slow
    thread = Beside(functools.partial(bare, copy.copy(pipe)))
    assert within.wait(WAIT)
    traj = record(pipe, seed=7, prompt="a cat", **QUICK)
    assert same(traj.image, alone.image)
    assert np.array_equal(traj.sigmas, alone.sigmas)
    assert "began while this run was under way" in str(thread.ended().error)


@pytest.mark.parametrize("kind", ["itself", "twin"])
def test_many_threads_bare_and_recorded(pipe, kind):
    alone = {seed: record(pipe, "a cat", seed=seed, **QUICK).image for seed in range(3)}
    other = bare(pipe)
    recorded = {
        seed: Beside(lambda s=seed: record(pipe, "a cat", seed=s, **QUICK)) for seed in alone
    }
    plain = [Beside(functools.partial(bare, pipe if kind == "itself" else copy.copy(pipe)))]
    for seed, thread in recorded.items():
        assert same(thread.ended().made.image, alone[seed])
    for thread in plain:
        thread.ended()
        # Begun between two records it may be refused; it is never another picture.
        assert thread.error is not None or same(thread.made, other)


def test_attention_is_heard_and_changed_in_its_own_thread_alone(pipe):
    """A twin with a scheduler of its own runs the same network, in the midst of a layer of it."""
    twin = copy.copy(pipe)
    twin.scheduler = copy.deepcopy(pipe.scheduler)
    alone, other = record(pipe, attention=["cat"], **CAT), bare(twin)
    mine, made = threading.get_ident(), []

    def beside(*args):
        if threading.get_ident() == mine and not made:
            made.append(Beside(lambda: bare(twin)).ended().made)

    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_q
    hook = layer.register_forward_hook(beside)
    traj = record(pipe, attention=["cat"], **CAT)
    hook.remove()
    assert same(made[0], other)
    for ours, others in zip(traj.attention.maps, alone.attention.maps, strict=True):
        assert np.array_equal(ours, others)
    with ldmkit.intervene(pipe, words=None) as plan:
        assert same(Beside(lambda: bare(twin)).ended().made, other)
        assert plan.changed == 0
        assert not same(bare(twin), other)


def test_a_record_goes_on_listening_where_an_intervention_beside_it_ends(pipe):
    """Whoever came first may go first: neither takes the other's ears away."""
    alone, (inside, go_on) = record(pipe, attention=["cat"], **CAT), (Event(), Event())

    def on_step(step):
        inside.set()
        go_on.wait(WAIT)

    forward = "forward" in vars(pipe.unet)
    with ldmkit.intervene(pipe, words=None):
        thread = Beside(lambda: record(pipe, attention=["cat"], on_step=on_step, **CAT))
        assert inside.wait(WAIT)
    go_on.set()
    traj = thread.ended().made
    assert "intervene" not in traj.call
    assert same(traj.image, alone.image)
    for ours, others in zip(traj.attention.maps, alone.attention.maps, strict=True):
        assert np.array_equal(ours, others)
    assert ("forward" in vars(pipe.unet)) is forward
    assert not any(module._forward_pre_hooks for module in pipe.unet.modules())


def test_running_it_bare_within_on_step_is_refused(pipe):
    with pytest.raises(RuntimeError, match="on_step must not run it"):
        record(pipe, "a cat", on_step=lambda step: bare(pipe), **QUICK)
    with (
        pytest.raises(RuntimeError, match="on_step must not run it"),
        recorder(pipe.scheduler, on_step=lambda step: bare(copy.copy(pipe))),
    ):
        bare(pipe)
    assert same(bare(pipe), bare(pipe))


def test_another_pipeline_may_run_within_on_step(pipe):
    other, alone = tiny.pipeline(size="small", seed=1), []

    def on_step(step):
        alone.append(bare(other))
        record(other, "a cat", **QUICK)

    recorded = record(pipe, "a dog", seed=3, on_step=on_step, keep="all", **QUICK)
    assert same(recorded.image, record(pipe, "a dog", seed=3, **QUICK).image)
    assert recorded.noise_pred_uncond is not None
    assert same(alone[-1], bare(other))
    for again in (lambda step: bare(pipe), lambda step: record(pipe, "a cat", **QUICK)):
        with pytest.raises(RuntimeError, match="on_step must not"):
            record(pipe, on_step=lambda step, again=again: record(other, "", on_step=again), **CAT)


@pytest.mark.parametrize("kind", ["bare", "recorded"])
def test_who_holds_the_scheduler_too_has_his_turn(pipe, kind):
    """An object of a student's that holds the scheduler, too, and calls the pipeline."""
    inside, go = threading.Event(), threading.Event()

    class Studio:
        def __init__(self):
            self.scheduler = pipe.scheduler

        def __call__(self):
            inside.set()
            go.wait(WAIT)
            return bare(pipe) if kind == "bare" else record(pipe, **CAT).image

    studio = Beside(Studio())
    assert inside.wait(WAIT)
    taken = Beside(lambda: record(pipe, **CAT))
    while not hooks._lock_of(pipe.scheduler).locked():
        assert taken.is_alive()
    go.set()
    assert len(taken.ended().made.timesteps) == QUICK["num_inference_steps"]
    assert same(studio.ended().made, bare(pipe) if kind == "bare" else record(pipe, **CAT).image)


def test_a_copy_that_is_made_meanwhile_is_a_plain_one(pipe):
    made = []

    def on_step(step):
        made.extend([copy.copy(pipe), copy.deepcopy(pipe)])
        return False

    record(pipe, "a cat", on_step=on_step, **QUICK)
    assert {type(twin) for twin in made} == {type(pipe)}
    assert "step" not in vars(made[1].scheduler)
    assert same(bare(made[1]), bare(pipe))


def test_nothing_stays_behind(pipe):
    kind = type(pipe)
    with pytest.raises(KeyError):
        record(pipe, "a cat", on_step=lambda step: {}["missing"], **QUICK)
    assert type(pipe) is kind
    assert not {"step", "set_timesteps", "scale_model_input"} & set(vars(pipe.scheduler))
    assert not pipe.unet._forward_hooks


def test_a_released_pipeline_says_so():
    pipe = tiny.pipeline(size="small")
    twin, picture = copy.copy(pipe), from_picture(pipe)
    ldmkit.release(pipe)
    for gone in (pipe, twin, picture):
        with pytest.raises(RuntimeError, match="was released and has no weights"):
            record(gone, "a cat", **QUICK)


def test_a_release_of_ones_own_run_is_refused_in_words(pipe):
    def on_step(step):
        ldmkit.release(pipe)

    with pytest.raises(RuntimeError, match="can't be released by its own run"):
        record(pipe, "a cat", on_step=on_step, **QUICK)
    assert record(pipe, "a cat", **QUICK).images
