"""``record`` beside the pipeline: seeds, batches, siblings, stopping, and leaving no trace."""

import threading
import warnings

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from ldmkit.recording import hooks, record
from ldmkit.records import Trajectory

QUICK = {"num_inference_steps": 4, "guidance_scale": 4.0, "preview": "none"}


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(size="small")


def generator(seed=7):
    return torch.Generator("cpu").manual_seed(seed)


def same(first, second):
    return np.array_equal(np.asarray(first), np.asarray(second))


def picture(size=32):
    ramp = np.linspace(0, 255, size * size * 3).reshape(size, size, 3)
    return Image.fromarray(ramp.astype(np.uint8))


def mask(size=32):
    pixels = np.zeros((size, size), np.uint8)
    pixels[: size // 2] = 255
    return Image.fromarray(pixels)


def test_what_a_record_says_of_its_run(pipe):
    traj = record(pipe, "a red cat", seed=7, negative_prompt="a dog", **QUICK)
    assert isinstance(traj, Trajectory)
    assert (traj.prompt, traj.negative_prompt, traj.seed) == ("a red cat", "a dog", 7)
    assert traj.call["num_inference_steps"] == 4
    assert traj.call["guidance_scale"] == 4.0
    assert traj.call["scheduler"] == "DDIMScheduler"
    assert traj.versions["torch"] == torch.__version__.split("+")[0] or traj.versions["torch"]
    assert traj.model == "StableDiffusionPipeline"
    assert not traj.stopped
    assert traj.latents.shape == (5, 1, 4, 8, 8)
    assert traj.denoised.shape == (4, 1, 4, 8, 8)
    assert traj.noise_pred is None


def test_defaults_of_a_foreign_pipeline_are_its_own(pipe):
    traj = record(pipe, "a cat", seed=1, num_inference_steps=2, preview="none")
    assert traj.call["guidance_scale"] == 7.5


def test_a_batch_with_a_seed_for_each(pipe):
    words = ["a red cat", "a blue dog"]
    traj = record(pipe, words, seed=[3, 4], **QUICK)
    assert traj.prompt == tuple(words)
    assert traj.seed == (3, 4)
    assert traj.latents.shape == (5, 2, 4, 8, 8)
    for i, (word, seed) in enumerate(zip(words, [3, 4], strict=True)):
        alone = record(pipe, word, seed=seed, **QUICK)
        assert np.abs(alone.latents[:, 0] - traj.latents[:, i]).max() <= 1e-4


def test_several_pictures_per_prompt(pipe):
    traj = record(pipe, "a cat", seed=7, num_images_per_prompt=3, **QUICK)
    bare = pipe(
        "a cat",
        generator=generator(),
        num_images_per_prompt=3,
        num_inference_steps=4,
        guidance_scale=4.0,
    ).images
    assert len(traj.images) == 3
    assert all(same(*pair) for pair in zip(bare, traj.images, strict=True))
    assert traj.denoised.shape[1] == 3


def test_seeds_may_be_numpys_or_a_range(pipe):
    one = record(pipe, "a cat", seed=np.int64(7), **QUICK)
    assert one.seed == 7
    several = record(pipe, ["a cat", "a cat"], seed=range(7, 9), **QUICK)
    assert several.seed == (7, 8)
    assert (
        record(pipe, "a cat", **(QUICK | {"guidance_scale": np.float32(2)})).call["guidance_scale"]
        == 2.0
    )
    assert np.abs(several.latents[:, 0] - one.latents[:, 0]).max() <= 1e-4


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_latents_that_are_no_longer_finite_are_said(pipe):
    with pytest.warns(UserWarning, match="no longer finite"):
        record(pipe, "a cat", seed=7, **(QUICK | {"guidance_scale": 1e38}))


def test_generator_instead_of_seed(pipe):
    first = record(pipe, "a cat", generator=generator(7), **QUICK)
    second = record(pipe, "a cat", seed=7, **QUICK)
    assert same(first.image, second.image)
    assert first.seed is None


def test_latents_are_taken_and_are_the_first_to_enter(pipe):
    start = torch.randn(1, 4, 8, 8, generator=generator())
    traj = record(pipe, "a cat", latents=start, **QUICK)
    assert np.array_equal(traj.latents[0], start.numpy())
    assert "latents" not in traj.call


@pytest.mark.parametrize("kind", ["img2img", "inpaint", "inpaint9"])
def test_siblings(kind):
    sibling = tiny.pipeline(kind, size="small")
    call = {"image": picture(), "num_inference_steps": 6, "strength": 0.7, "guidance_scale": 4.0}
    if kind.startswith("inpaint"):
        call |= {"mask_image": mask(), "height": 32, "width": 32}
    bare = sibling("a red cat", generator=generator(), **call).images[0]
    traj = record(sibling, "a red cat", seed=7, keep="all", preview="none", **call)
    assert same(bare, traj.image)
    assert len(traj.timesteps) == 4  # 70 % of six
    alphas, sigmas = (v.reshape(-1, 1, 1, 1, 1) for v in (traj.alphas, traj.sigmas))
    law = alphas * traj.denoised + sigmas * traj.noise_pred
    assert np.abs(law - traj.latents[:-1]).max() <= 1e-5
    assert "image" not in traj.call
    assert traj.call["strength"] == 0.7


def test_four_channel_inpainting_blends_between_steps():
    sibling = tiny.pipeline("inpaint", size="small")
    call = {"image": picture(), "mask_image": mask(), "height": 32, "width": 32}
    seen = []
    call |= {"num_inference_steps": 4, "preview": "none", "on_step": seen.append}
    traj = record(sibling, "a cat", seed=7, **call)
    # What enters a step isn't what left the one before: the kept half was put back.
    assert np.abs(traj.latents[1] - seen[0].output).max() > 1e-3
    assert np.array_equal(traj.latents[1], seen[1].latents)


def test_keep_decides_what_is_there(pipe):
    traj = record(pipe, "a cat", seed=7, keep="model_output", **QUICK)
    assert traj.latents is None
    assert traj.denoised is None
    assert traj.model_output.shape == (4, 1, 4, 8, 8)
    everything = record(pipe, "a cat", seed=7, keep="all", **QUICK)
    assert np.array_equal(everything.model_output, traj.model_output)
    assert everything.noise_pred_uncond is not None
    nothing = record(pipe, "a cat", seed=7, keep=(), **QUICK)
    assert same(nothing.image, traj.image)


def test_stopping_keeps_the_part(pipe):
    whole = record(pipe, "a cat", seed=7, keep="all", **QUICK)
    seen = []

    def on_step(step):
        seen.append(step)
        return step.index < 1

    part = record(pipe, "a cat", seed=7, keep="all", on_step=on_step, **QUICK)
    assert part.stopped
    assert len(part.timesteps) == 2
    assert np.array_equal(part.latents, whole.latents[:3])
    assert [step.index for step in seen] == [0, 1]
    for step, kept in zip(seen, whole.steps, strict=False):
        assert step.timestep == kept.timestep
        assert (step.alpha, step.sigma) == (kept.alpha, kept.sigma)
        assert np.array_equal(step.noise_pred_text, kept.noise_pred_text)
        assert np.array_equal(step.output, kept.output)
    with torch.no_grad():  # its last clean estimate is its picture
        last = torch.from_numpy(whole.denoised[1].copy()) / pipe.vae.config.scaling_factor
        pixels = pipe.vae.decode(last).sample
    shown = pipe.image_processor.postprocess(pixels, output_type="pil")[0]
    assert same(shown, part.image)


def test_on_step_that_says_nothing_goes_on(pipe):
    steps = []
    traj = record(pipe, "a cat", seed=7, on_step=steps.append, **QUICK)
    assert len(steps) == 4
    assert not traj.stopped


def test_an_error_leaves_no_hook_behind(pipe):
    def on_step(step):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        record(pipe, "a cat", seed=7, keep="all", on_step=on_step, **QUICK)
    assert "step" not in vars(pipe.scheduler)
    assert not pipe.unet._forward_hooks
    record(pipe, "a cat", seed=7, **QUICK)  # and no lock


def test_recording_within_a_recording_is_refused(pipe):
    with pytest.raises(RuntimeError, match="already being recorded"):
        record(pipe, "a cat", on_step=lambda step: record(pipe, "a cat", seed=1, **QUICK), **QUICK)


def test_threads_take_turns(pipe):
    alone = {seed: record(pipe, "a cat", seed=seed, **QUICK).image for seed in range(4)}
    together = {}

    def work(seed):
        together[seed] = record(pipe, "a cat", seed=seed, **QUICK).image

    threads = [threading.Thread(target=work, args=(seed,)) for seed in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(alone[seed], together[seed]) for seed in alone)


def test_siblings_that_share_parts_share_the_lock(pipe):
    order = []
    with hooks.exclusive(pipe.scheduler):
        thread = threading.Thread(
            target=lambda: order.append(record(pipe, "a cat", seed=0, **QUICK).seed)
        )
        thread.start()
        thread.join(0.3)
        assert order == []
    thread.join()
    assert order == [0]


def test_output_type_latent_has_no_picture(pipe):
    traj = record(pipe, "a cat", seed=7, output_type="latent", **QUICK)
    assert traj.images == ()
    assert traj.latents is not None


def test_a_pipeline_without_a_unet():
    """A transformer over classes: nobody described it, yet latents and picture are there."""
    from diffusers import DiTPipeline, DiTTransformer2DModel

    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_num_groups=4,
    ).eval()
    pipe = DiTPipeline(transformer, tiny.pipeline(size="small").vae, tiny.scheduler("epsilon"))
    pipe.set_progress_bar_config(disable=True)
    call = {"class_labels": [3], "num_inference_steps": 3}
    bare = pipe(generator=generator(), **call).images[0]
    traj = record(pipe, seed=7, preview="none", **call)
    assert same(bare, traj.image)
    assert len(traj.timesteps) == 3
    assert traj.latents.shape[0] == 4
    assert traj.prompt == ""


class ForeignScheduler:
    """A scheduler that tells nothing of its noise law."""

    def __init__(self, inner):
        self._inner = inner
        self.config = inner.config
        self.order, self.init_noise_sigma = 1, 1.0

    def set_timesteps(self, *args, **kwargs):
        self._inner.set_timesteps(*args, **kwargs)
        self.timesteps = self._inner.timesteps

    def scale_model_input(self, sample, timestep):
        return sample

    def step(self, model_output, timestep, sample, return_dict=True):
        return self._inner.step(model_output, timestep, sample, return_dict=return_dict)


def test_an_unknown_scheduler_keeps_what_it_can():
    pipe = tiny.pipeline(size="small")
    pipe.scheduler = ForeignScheduler(tiny.scheduler())
    with pytest.warns(UserWarning, match="ForeignScheduler has a noise law") as said:
        traj = record(pipe, "a cat", seed=7, **QUICK)
    assert len(said) == 1
    assert traj.latents.shape == (5, 1, 4, 8, 8)
    assert list(traj.timesteps) == [1023, 767, 511, 255]
    assert traj.denoised is None
    assert np.isnan(traj.alphas).all()
    assert traj.image.size == (32, 32)


def test_an_unknown_scheduler_with_alphas_is_read():
    pipe = tiny.pipeline(size="small")
    known = record(pipe, "a cat", seed=7, **QUICK)
    pipe.scheduler = ForeignScheduler(tiny.scheduler())
    pipe.scheduler.alphas_cumprod = pipe.scheduler._inner.alphas_cumprod
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        traj = record(pipe, "a cat", seed=7, **QUICK)
    assert np.array_equal(traj.denoised, known.denoised)


def test_on_step_with_an_unknown_scheduler():
    pipe = tiny.pipeline(size="small")
    pipe.scheduler = ForeignScheduler(tiny.scheduler())
    with pytest.warns(UserWarning, match="noise law"):
        traj = record(pipe, "a cat", seed=7, on_step=lambda step: False, **QUICK)
    assert traj.stopped
    assert traj.images == ()  # no clean estimate, so nothing to show


def test_a_blacked_out_picture_is_said(pipe, monkeypatch):
    plain = type(pipe).__call__

    def flagging(self, *args, **kwargs):
        output = plain(self, *args, **kwargs)
        output.nsfw_content_detected = [True]
        return output

    flagging.__wrapped__ = plain
    monkeypatch.setattr(type(pipe), "__call__", flagging)
    with pytest.warns(UserWarning, match="safety checker blacked out 1 of 1"):
        record(pipe, "a cat", seed=7, **QUICK)
