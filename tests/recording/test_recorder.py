"""``recorder`` round loops of every kind: one's own, a modular pipeline, no scheduler at all."""

from itertools import pairwise

import diffusers
import numpy as np
import pytest
import tiny
import tiny_families
import torch
from PIL import Image

import ldmkit
from ldmkit.figures.captions import details
from ldmkit.recording import record, recorder
from ldmkit.recording.settings import guider_of

QUICK = {"num_inference_steps": 4, "guidance_scale": 4.0}
UNWATCHED = "ignore:noise_pred_text, noise_pred_uncond can't be told"


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(size="small")


def same(first, second):
    return np.array_equal(np.asarray(first), np.asarray(second))


def words_of(pipe, *texts):
    tokens = pipe.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
    return pipe.text_encoder(tokens.input_ids)[0]


@torch.no_grad()
def denoise(pipe, steps=4, scale=4.0, seed=7, until=None):
    """A student's loop, as in every course: classifier-free guidance and DDIM."""
    pipe.scheduler.set_timesteps(steps)
    both = words_of(pipe, "", "a red cat")
    generator = torch.Generator("cpu").manual_seed(seed)
    x = torch.randn(1, 4, 8, 8, generator=generator) * pipe.scheduler.init_noise_sigma
    for i, t in enumerate(pipe.scheduler.timesteps):
        if i == until:
            break
        seen = pipe.scheduler.scale_model_input(torch.cat([x] * 2), t)
        without, with_words = pipe.unet(seen, t, both).sample.chunk(2)
        x = pipe.scheduler.step(without + scale * (with_words - without), t, x).prev_sample
    return x


def test_a_loop_in_a_cell(pipe):
    bare = denoise(pipe)
    with ldmkit.recorder(
        pipe.scheduler, pipe.unet, vae=pipe.vae, prompt="a red cat", keep="all"
    ) as tape:
        x = denoise(pipe)
    traj = tape.trajectory
    assert torch.equal(bare, x)
    assert np.array_equal(traj.latents[-1], x.numpy())
    assert traj.prompt == "a red cat"
    assert not traj.stopped
    assert traj is tape.trajectory, "made once"
    guided = traj.noise_pred_uncond + 4.0 * (traj.noise_pred_text - traj.noise_pred_uncond)
    assert np.abs(guided - traj.noise_pred).max() <= 1e-5
    with torch.no_grad():
        pixels = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample
    assert same(traj.image, pipe.image_processor.postprocess(pixels)[0])
    assert set(traj.previews) >= {"latents", "denoised"}
    traj._repr_mimebundle_()


def test_it_is_what_record_writes(pipe):
    with recorder(pipe.scheduler, pipe.unet, pipe.vae, keep="all") as tape:
        pipe("a red cat", generator=torch.Generator("cpu").manual_seed(7), **QUICK)
    whole = record(pipe, "a red cat", seed=7, keep="all", **QUICK)
    for name in ("latents", "denoised", "noise_pred", "noise_pred_text", "model_output"):
        assert np.array_equal(getattr(tape.trajectory, name), getattr(whole, name))
    assert same(tape.trajectory.image, whole.image)


def test_the_part_is_kept_when_the_loop_fails(pipe):
    def failing():
        denoise(pipe, until=2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), recorder(pipe.scheduler, vae=pipe.vae) as tape:
        failing()
    traj = tape.trajectory
    assert traj.stopped
    assert len(traj.timesteps) == 2
    assert traj.image.size == (32, 32)
    assert "step" not in vars(pipe.scheduler)
    assert "set_timesteps" not in vars(pipe.scheduler)
    assert not pipe.unet._forward_hooks


def test_the_part_is_kept_when_the_loop_is_left(pipe):
    whole = record(pipe, "a red cat", seed=7, **QUICK)
    with recorder(pipe.scheduler, vae=pipe.vae) as tape:
        denoise(pipe, until=3)
    assert tape.trajectory.stopped
    assert np.array_equal(tape.trajectory.denoised, whole.denoised[:3])


def test_the_record_may_be_read_while_it_is_made(pipe):
    lengths = []

    def on_step(step):
        lengths.append(len(tape.trajectory.timesteps))
        if step.index == 2:
            raise KeyError

    with pytest.raises(KeyError), recorder(pipe.scheduler, preview="none", on_step=on_step) as tape:
        denoise(pipe)
    assert lengths == [1, 2, 3]
    assert tape.trajectory.stopped


def test_two_runs_in_one_block_are_told(pipe):
    with recorder(pipe.scheduler, vae=pipe.vae) as tape:
        pipe("a cat", num_inference_steps=2)
        last = pipe("a dog", num_inference_steps=3, generator=torch.Generator().manual_seed(1))
    with pytest.warns(UserWarning, match="2 runs passed one after the other: the record holds the"):
        traj = tape.trajectory
    assert len(traj.timesteps) == 5
    assert np.abs(np.subtract(traj.image, last.images[0], dtype=np.int16)).max() <= 1


def test_on_step_ends_a_loop(pipe):
    seen = []

    def on_step(step):
        seen.append(step)
        return len(seen) < 2

    with recorder(pipe.scheduler, vae=pipe.vae, on_step=on_step) as tape:
        denoise(pipe)
        raise AssertionError("the block is left before")
    assert tape.trajectory.stopped
    assert len(tape.trajectory.timesteps) == len(seen) == 2
    assert tape.trajectory.image.size == (32, 32)


def test_a_loop_that_says_its_steps():
    rng = np.random.default_rng(0)
    target, x = rng.standard_normal((1, 4, 8, 8)), rng.standard_normal((1, 4, 8, 8)) * 10
    sigmas = [10.0, 3.0, 1.0, 0.0]
    entered = []
    with ldmkit.recorder(prompt="a cat", keep="all") as tape:
        for sigma, following in pairwise(sigmas):
            entered.append(x)
            level = {"alpha": torch.ones(1), "sigma": np.float32(sigma)}
            tape.step(latents=torch.from_numpy(x), denoised=target, **level)
            x = target + following / sigma * (x - target)
    traj = tape.trajectory
    assert np.abs(traj.latents[:-1] - np.stack(entered)).max() <= 1e-5
    assert np.abs(traj.latents[-1] - target).max() <= 1e-6
    assert np.abs(traj.denoised - target).max() <= 1e-6
    assert list(traj.sigmas) == sigmas[:-1]
    law = traj.denoised + traj.sigmas.reshape(-1, 1, 1, 1, 1) * traj.noise_pred
    assert np.abs(law - traj.latents[:-1]).max() <= 1e-5
    assert np.isnan(traj.timesteps).all(), "no number was told"
    assert not traj.stopped
    traj._repr_mimebundle_()


def test_steps_that_are_said_may_be_ended(pipe):
    x = torch.zeros(1, 4, 8, 8)
    with recorder(vae=pipe.vae, on_step=lambda step: step.index < 1) as tape:
        for t in (3, 2, 1):
            tape.step(latents=x, denoised=x, alpha=0.6, sigma=0.8, timestep=t, output=x + t)
    assert list(tape.trajectory.timesteps) == [3, 2]
    assert (tape.trajectory.latents[-1] == 2).all()
    assert tape.trajectory.stopped


@pytest.mark.parametrize(
    ("told", "kind", "words"),
    [
        ({"latents": "noise"}, TypeError, "latents must be a tensor or an array"),
        ({"latents": torch.zeros(4, 8, 8)}, TypeError, "(b, c, h, w)"),
        ({"latents": None}, TypeError, "got None"),
        ({"denoised": torch.zeros(1, 4, 4, 4)}, ValueError, "shape of latents, (1, 4, 8, 8)"),
        ({"output": torch.zeros(2, 4, 8, 8)}, ValueError, "output must have the shape"),
        ({"alpha": float("nan")}, ValueError, "alpha must be a finite number"),
        ({"sigma": None}, TypeError, "sigma must be a number"),
        ({"timestep": "last"}, TypeError, "timestep must be a number"),
    ],
    ids=str,
)
def test_steps_that_are_refused(told, kind, words):
    x = torch.zeros(1, 4, 8, 8)
    with recorder() as tape:
        tape.step(latents=x, denoised=x, alpha=1.0, sigma=1.0)
        with pytest.raises(kind) as error:
            tape.step(**{"latents": x, "denoised": x, "alpha": 1.0, "sigma": 1.0, **told})
    assert words in str(error.value)
    assert len(tape.trajectory.timesteps) == 1, "what was told before stays"


def test_what_a_loop_that_says_its_steps_can_not_keep():
    with pytest.raises(ValueError, match="got 'model_output'"), recorder(keep="model_output"):
        pass


def test_steps_are_not_said_twice(pipe):
    x = torch.zeros(1, 4, 8, 8)
    with recorder(pipe.scheduler) as tape, pytest.raises(TypeError, match="listens to its DDIM"):
        tape.step(latents=x, denoised=x, alpha=1.0, sigma=1.0)


@pytest.mark.parametrize("stranger", ["ddim", 7, dict, torch.nn.Linear(1, 1)])
def test_what_is_no_scheduler(stranger):
    with (
        pytest.raises(TypeError, match=r"recorder takes a scheduler.*pipe\.scheduler"),
        recorder(stranger),
    ):
        pass


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"network": "unet"}, "network must be the torch.nn.Module"),
        ({"network": [1]}, "network must be the torch.nn.Module"),
        ({"network": abs}, "network must be the torch.nn.Module"),
        ({"vae": "vae"}, "vae must be an autoencoder"),
        ({"unsafe_previews": 1}, "unsafe_previews must be True or False"),
    ],
)
def test_what_is_no_network_and_no_autoencoder(pipe, given, words):
    with pytest.raises(TypeError, match=words), recorder(pipe.scheduler, **given):
        pass
    assert "step" not in vars(pipe.scheduler)


def test_a_pipeline_is_no_scheduler(pipe):
    with pytest.raises(TypeError, match=r"give pipe\.scheduler, or record"), recorder(pipe):
        pass


def test_a_block_without_steps_says_so(pipe):
    with recorder(pipe.scheduler) as tape:
        pass
    with pytest.raises(RuntimeError, match="made no scheduler step"):
        tape.trajectory  # noqa: B018


# --- a scheduler that a student wrote ----------------------------------------------------------


class Plain:
    """Nothing but a step: three arguments under names of one's own, and no equality or hash."""

    __hash__ = None

    def step(self, eps, when, x):
        return x - 0.1 * eps


class Preserving(Plain):
    def __init__(self):
        self.alphas_cumprod = np.linspace(0.99, 0.01, 100)
        self.prediction_type = "sample"


@pytest.mark.filterwarnings(UNWATCHED)
def test_a_scheduler_that_only_steps():
    x = torch.randn(1, 4, 8, 8)
    with recorder(Plain(), keep="all") as tape:
        for t in (3, 2, 1):
            x = tape.scheduler.step(torch.ones_like(x), t, x)
    with pytest.warns(UserWarning, match="Plain has a noise law that ldmkit doesn't know") as said:
        traj = tape.trajectory
    assert len(said) == 1
    assert np.isnan(traj.alphas).all()
    assert list(traj.timesteps) == [3, 2, 1]
    assert np.array_equal(traj.latents[-1], x.numpy())
    assert traj.model_output.shape == (3, 1, 4, 8, 8)


def test_a_scheduler_with_a_table_of_alphas():
    scheduler, x = Preserving(), torch.randn(1, 4, 8, 8)
    with recorder(scheduler, keep=("latents", "denoised", "noise_pred")) as tape:
        for t in (90, 50, 10):
            x = scheduler.step(torch.ones_like(x), when=t, x=x)
    traj = tape.trajectory  # nothing is guessed, so nothing is said
    kept = scheduler.alphas_cumprod[[90, 50, 10]]
    assert np.abs(traj.alphas - np.sqrt(kept)).max() <= 1e-12
    assert (traj.denoised == 1).all()


def test_what_is_guessed_is_said():
    scheduler = Preserving()
    del scheduler.prediction_type
    x = torch.randn(1, 4, 8, 8)
    with recorder(scheduler) as tape:
        scheduler.step(x, 50, x)
        scheduler.step(x, 200, x)  # beyond its table
    with pytest.warns(UserWarning, match="Preserving") as said:
        traj = tape.trajectory
    words = [str(warning.message) for warning in said]
    assert any("its network's output as ε" in one for one in words)
    assert any("noise level of 1 of its 2 steps" in one for one in words)
    assert np.isfinite(traj.denoised[0]).all()
    assert np.isnan(traj.denoised[1]).all()


class Slotted:
    __slots__ = ("last",)

    def step(self, eps, t, x):
        return x - eps


def test_a_scheduler_that_can_not_be_heard():
    with pytest.raises(TypeError, match="Slotted has __slots__"), recorder(Slotted()):
        pass


def test_a_loop_in_numpy():
    scheduler, first = Preserving(), np.random.default_rng(0).standard_normal((1, 4, 8, 8))
    x = first
    with recorder(scheduler) as tape:
        for t in (90, 50, 10):
            x = scheduler.step(np.ones_like(x), t, x)
    traj = tape.trajectory
    assert np.array_equal(traj.latents[0], first.astype(np.float32))
    assert np.array_equal(traj.latents[-1], x.astype(np.float32))
    assert (traj.denoised == 1).all()


class Told(Plain):
    """Hands out a dict."""

    def step(self, eps, when, x):
        return {"prev_sample": x - 0.1 * eps}


@pytest.mark.filterwarnings("ignore:Told has a noise law")
def test_what_a_step_hands_out_may_be_a_dict_and_its_timestep_nothing():
    scheduler, x = Told(), torch.randn(1, 4, 8, 8)
    scheduler.timesteps = [2, 1, 0]
    with recorder(scheduler) as tape:
        for _ in range(3):
            x = scheduler.step(x=x, when=None, eps=torch.ones_like(x))["prev_sample"]
    assert np.isnan(tape.trajectory.timesteps).all()
    assert np.array_equal(tape.trajectory.latents[-1], x.numpy())


@pytest.mark.parametrize(
    ("args", "words"),
    [((torch.zeros(1, 4, 8, 8),) * 2, "got 2 of them"), (([1.0], 3, [1.0]), "tensor or an array")],
)
def test_steps_that_can_not_be_read(args, words):
    class Short(Plain):
        def step(self, *args):
            return args[-1]

    with pytest.raises(TypeError, match=words), recorder(scheduler := Short()):
        scheduler.step(*args)


def test_a_prediction_that_nobody_knows_costs_the_estimates_alone():
    scheduler, x = Preserving(), torch.randn(1, 4, 8, 8)
    scheduler.prediction_type = "residual"
    with recorder(scheduler, keep=("latents", "denoised", "model_output")) as tape:
        scheduler.step(torch.ones_like(x), 50, x)
    with pytest.warns(
        UserWarning, match="prediction_type 'residual'.* denoised are missing"
    ) as said:
        traj = tape.trajectory
    assert len(said) == 1
    assert np.array_equal(traj.latents[0], x.numpy())
    assert (traj.model_output == 1).all()
    assert np.isfinite(traj.alphas).all()


@pytest.mark.filterwarnings("ignore:Plain has a noise law")
def test_a_loop_that_counts_its_steps_has_not_stopped():
    scheduler, x = Plain(), torch.zeros(1, 4, 8, 8)
    scheduler.timesteps = [900, 500, 100]
    with recorder(scheduler) as tape:
        for i in range(3):
            x = scheduler.step(x, i, x)
    assert not tape.trajectory.stopped


def test_a_wrapper_of_ones_own_stays_on(pipe):
    plain, calls = pipe.scheduler.step, []
    pipe.scheduler.step = lambda *args, **kwargs: calls.append(1) or plain(*args, **kwargs)
    own = pipe.scheduler.step
    try:
        record(pipe, "a cat", seed=1, preview="none", **QUICK)
        assert pipe.scheduler.step is own
        assert len(calls) == 4
    finally:
        del pipe.scheduler.step


# --- modular pipelines -------------------------------------------------------------------------

MODULAR = {"num_inference_steps": 3, "height": 32, "width": 32}


@pytest.fixture(scope="module")
def modular():
    return tiny_families.modular_sdxl()


pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_a_modular_pipeline_is_recorded(modular):
    bare = modular(
        prompt="a red cat", generator=torch.Generator().manual_seed(7), output="images", **MODULAR
    )
    traj = record(modular, "a red cat", seed=7, **MODULAR)
    assert same(bare[0], traj.image)
    assert traj.prompt == "a red cat"
    assert traj.seed == 7
    assert traj.call["num_inference_steps"] == 3
    assert traj.latents.shape == (4, 1, 4, 8, 8)
    assert set(traj.previews) == {"latents", "denoised"}
    again = record(modular, **traj.keywords)
    assert same(again.image, traj.image)


def test_a_modular_pipelines_guider_is_told(modular):
    traj = record(modular, "a red cat", seed=7, preview="none", **MODULAR)
    assert traj.call["guider"] == {"class": "ClassifierFreeGuidance", "guidance_scale": 7.5}
    assert "guidance 7.5" in details(traj)
    assert "guider" not in traj.keywords
    usual = modular.guider
    part = diffusers.ClassifierFreeGuidance(guidance_scale=3.0, start=0.4)
    try:
        modular.update_components(guider=part)
        traj = record(modular, "a red cat", seed=7, keep="all", preview="none", **MODULAR)
        part.disable()
        off = guider_of(modular)
    finally:
        modular.update_components(guider=usual)
    told = {"class": "ClassifierFreeGuidance", "guidance_scale": 3.0, "start": 0.4}
    assert traj.call["guider"] == told
    assert traj.call["guidance"] == [1.0, 3.0, 3.0]
    assert "guidance 1 to 3, by step" in details(traj)
    assert off == told | {"enabled": False}


def test_a_modular_pipeline_within_the_recorder(modular):
    traj = record(modular, "a red cat", seed=7, **MODULAR)
    with recorder(modular.scheduler, modular.unet, modular.vae) as tape:
        modular(prompt="a red cat", generator=torch.Generator().manual_seed(7), **MODULAR)
    assert np.array_equal(tape.trajectory.latents, traj.latents)


def test_a_modular_pipeline_may_be_stopped(modular, caplog):
    part = record(modular, "a red cat", seed=7, on_step=lambda step: step.index < 1, **MODULAR)
    assert part.stopped
    assert len(part.timesteps) == 2
    assert part.image.size == (32, 32)
    assert not caplog.records, "stopping is no error of a block"


def test_the_strength_of_no_picture_is_not_told(modular):
    traj = record(modular, "a cat", seed=1, num_inference_steps=2, height=32, width=32)
    assert "strength" not in traj.call


def test_a_modular_pipelines_keywords_are_its_blocks_inputs(modular):
    with pytest.raises(TypeError, match="did you mean 'num_inference_steps'"):
        record(modular, "a cat", num_inference_step=3)
    with pytest.raises(TypeError, match="needs a prompt, got None"):
        record(modular, **MODULAR)


def test_a_picture_that_a_modular_pipeline_begins_from(modular):
    start = Image.new("RGB", (32, 32), "red")
    call = {**MODULAR, "image": start, "strength": 0.7}
    traj = record(modular, "a red cat", seed=7, **call)
    assert len(traj.timesteps) == 2
    assert traj.call["left_out"] == ["image"]
