"""Guidance told apart, against the network's own answers, in the exact classes of each family."""

import functools

import diffusers
import numpy as np
import pytest
import tiny
import tiny_families as families
import torch
from PIL import Image

from ldmkit.recording import record
from ldmkit.recording.guidance import sides

BARELY = 1e-5
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def watched(pipe, network, prompt=None, **call):
    """The record and, in order, what the network gave: the first item or the sample."""
    answers = []

    def keep(module, args, output):
        answers.append((output[0] if isinstance(output, tuple) else output.sample).clone())

    hook = network.register_forward_hook(keep)
    try:
        return record(pipe, prompt, seed=7, keep="all", **call), answers
    finally:
        hook.remove()


def noise(traj, step, output):
    """ε of an answer in flow matching, noise = x + (1 - sigma) · v (arXiv 2210.02747)."""
    packed = families.unpacked(output) if output.ndim == 3 else output
    return traj.latents[step] + (1 - traj.sigmas[step]) * packed.numpy()


@pytest.mark.parametrize(
    ("build", "call"),
    [
        (families.flux, families.FLUX_CALL | families.FLUX_TRUE_GUIDANCE),
        (families.qwen, families.QWEN_CALL),
    ],
    ids=["flux", "qwen"],
)
def test_two_calls_a_step_with_the_words_first(build, call):
    pipe = build()
    traj, answers = watched(pipe, pipe.transformer, **call)
    assert len(answers) == 6
    for step in range(3):
        words, without = answers[2 * step : 2 * step + 2]
        assert np.abs(traj.noise_pred_text[step] - noise(traj, step, words)).max() <= BARELY
        assert np.abs(traj.noise_pred_uncond[step] - noise(traj, step, without)).max() <= BARELY
        assert (words - without).abs().max() > 1e-3, "nothing to tell apart"


def test_one_batch_without_words_first():
    pipe = families.sd3()
    traj, answers = watched(pipe, pipe.transformer, **families.SD3_CALL)
    for step, both in enumerate(answers):
        assert np.abs(traj.noise_pred_uncond[step] - noise(traj, step, both[:1])).max() <= BARELY
        assert np.abs(traj.noise_pred_text[step] - noise(traj, step, both[1:])).max() <= BARELY


def test_guidance_that_is_distilled_asks_once():
    pipe = families.flux()
    traj, _ = watched(pipe, pipe.transformer, **families.FLUX_CALL)
    assert traj.noise_pred_uncond is None
    assert np.array_equal(traj.noise_pred_text, traj.noise_pred)


def test_a_modular_pipeline_with_the_words_first():
    pipe = families.modular_sdxl()
    call = {"num_inference_steps": 3, "height": 32, "width": 32}
    traj, answers = watched(pipe, pipe.unet, "a red cat", **call)
    assert len(answers) == 6
    words, without = (np.stack([a.numpy() for a in answers[i::2]]) for i in (0, 1))
    assert np.abs(traj.noise_pred_text - words).max() <= BARELY
    assert np.abs(traj.noise_pred_uncond - without).max() <= BARELY


@pytest.mark.parametrize("out_channels", [4, 8])
def test_two_labels_are_a_batch_of_two(out_channels):
    pipe = families.dit(out_channels)
    call = {"class_labels": [3, 5], "num_inference_steps": 3}
    traj, answers = watched(pipe, pipe.transformer, guidance_scale=3.0, **call)
    assert traj.batch_size == len(traj.images) == 2
    words, without = (np.stack([a[i : i + 2, :4].numpy() for a in answers]) for i in (0, 2))
    assert np.abs(traj.noise_pred_text - words).max() <= BARELY
    assert np.abs(traj.noise_pred_uncond - without).max() <= BARELY
    guided = without + 3.0 * (words - without)
    assert np.abs(traj.noise_pred - guided).max() <= BARELY
    default = record(pipe, seed=7, **call)
    assert default.batch_size == 2
    unguided = record(pipe, seed=7, guidance_scale=1.0, keep="all", **call)
    assert unguided.batch_size == 2
    assert unguided.noise_pred_uncond is None


def cutoff(after):
    """Guidance ends after so many steps, as diffusers' own callback does it."""
    return diffusers.callbacks.SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=after)


def test_guidance_that_ends_keeps_its_steps():
    pipe = tiny.pipeline(size="small")
    call = {"num_inference_steps": 6, "guidance_scale": 4.0}
    whole = record(pipe, "a red cat", seed=7, keep="all", **call)
    traj, answers = watched(pipe, pipe.unet, "a red cat", callback_on_step_end=cutoff(2), **call)
    assert [len(answer) for answer in answers] == [2, 2, 2, 1, 1, 1]
    assert np.array_equal(traj.noise_pred_uncond[:3], whole.noise_pred_uncond[:3])
    assert np.array_equal(traj.noise_pred_text[:3], whole.noise_pred_text[:3])
    assert np.isnan(traj.noise_pred_uncond[3:]).all()
    assert np.array_equal(traj.noise_pred_text[3:], traj.noise_pred[3:])
    assert traj.call["guidance"] == [4.0, 4.0, 4.0, 1.0, 1.0, 1.0]
    assert "guidance" not in traj.keywords
    assert "guidance" not in whole.call, "guidance_scale says it"


def test_the_figure_advises_nothing_that_was_done():
    from ldmkit.records import RecordError

    pipe = tiny.pipeline(size="small")
    call = {"num_inference_steps": 6, "guidance_scale": 4.0, "callback_on_step_end": cutoff(2)}
    traj = record(pipe, "a red cat", seed=7, keep="all", **call)
    traj.guidance_figure(2)
    with pytest.raises(RecordError, match=r"off at step 3.*steps 0 to 2") as error:
        traj.guidance_figure(3)
    assert "guidance_scale" not in str(error.value)
    call.pop("callback_on_step_end")
    for keep in (("latents", "denoised"), ("latents", "denoised", "noise_pred_text")):
        with pytest.raises(RecordError, match='record again with keep="all"') as error:
            record(pipe, "a red cat", seed=7, keep=keep, **call).guidance_figure(1)
        assert "above 1" not in str(error.value), "it was"
    with pytest.raises(RecordError, match="guidance_scale above 1"):
        record(pipe, "a cat", seed=7, keep="all", num_inference_steps=2, guidance_scale=1.0)\
            .guidance_figure(1)  # fmt: skip


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_perturbed_attention_is_no_answer_without_words(guidance_scale):
    pipe = families.pag()
    call = {"num_inference_steps": 3, "guidance_scale": guidance_scale, "pag_scale": 2.0}
    traj, answers = watched(pipe, pipe.unet, "a red cat", **call)
    guided = guidance_scale > 1
    parts = np.stack([answer.numpy() for answer in answers])  # (n, parts, ...)
    assert parts.shape[1] == 2 + guided
    alpha, sigma = (v.reshape(-1, 1, 1, 1, 1) for v in (traj.alphas, traj.sigmas))
    words = sigma * traj.latents[:-1] + alpha * parts[:, [1 if guided else 0]]  # of v-prediction
    assert np.abs(traj.noise_pred_text - words).max() <= BARELY
    assert (traj.noise_pred_uncond is not None) is guided
    if guided:
        without = sigma * traj.latents[:-1] + alpha * parts[:, [0]]
        assert np.abs(traj.noise_pred_uncond - without).max() <= BARELY


def test_three_answers_of_which_one_had_the_picture_alone():
    pipe = families.pix2pix()
    picture = Image.fromarray(np.arange(32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8))
    call = {"num_inference_steps": 3, "image": picture, "guidance_scale": 3.0}
    traj, answers = watched(pipe, pipe.unet, "make it red", **call)
    alpha, sigma = (v.reshape(-1, 1, 1, 1, 1) for v in (traj.alphas, traj.sigmas))
    parts = np.stack([answer.numpy() for answer in answers])
    for i, side in ((0, traj.noise_pred_text), (2, traj.noise_pred_uncond)):
        noise = sigma * traj.latents[:-1] + alpha * parts[:, [i]]
        assert np.abs(side - noise).max() <= BARELY


def test_guidance_rescaled_after_it_was_done():
    pipe = tiny.pipeline(size="small")
    call = {"num_inference_steps": 3, "guidance_scale": 6.0, "guidance_rescale": 0.7}
    traj, answers = watched(pipe, pipe.unet, "a red cat", **call)
    alpha, sigma = (v.reshape(-1, 1, 1, 1, 1) for v in (traj.alphas, traj.sigmas))
    v = np.stack([answer.numpy() for answer in answers])
    noise = sigma * traj.latents[:-1] + alpha * v[:, 1:]  # of v-prediction
    assert np.abs(traj.noise_pred_text - noise).max() <= BARELY


# --- the rule itself ---------------------------------------------------------------------------


def answers(count=3, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    words = rng.standard_normal((count, batch, 4, 3, 3)).astype(np.float32)
    return words, words + 0.1 * rng.standard_normal(words.shape).astype(np.float32)


def _order(words_first):
    return (("text", "uncond"),) if words_first else (("uncond", "text"),)


@pytest.mark.parametrize("scale", [1.5, 4.0, 12.0, -2.0])
@pytest.mark.parametrize("words_come_first", [True, False])
@pytest.mark.parametrize("usual", [True, False])
@pytest.mark.parametrize("turned", [1.0, -1.0])
def test_the_numbers_tell_whatever_the_order(scale, words_come_first, usual, turned):
    words, without = answers()
    guided = without + np.float32(scale) * (words - without)
    if scale < 0:  # words pushed away from: their part is the one that is taken less than none of
        words, without, scale = without, words, 1 - scale
    pair = (words, without) if words_come_first else (without, words)
    parts = [[turned * pair[0][i], turned * pair[1][i]] for i in range(3)]
    found = sides(guided, parts, _order(usual), guided)
    assert np.abs(found.text - words).max() <= BARELY
    assert np.abs(found.uncond - without).max() <= BARELY
    assert np.abs(found.scales - scale).max() <= 1e-3


def test_the_usual_order_where_both_are_the_same():
    words, _ = answers()
    parts = [[words[i], words[i]] for i in range(3)]
    found = sides(words, parts, _order(True), words)
    assert np.array_equal(found.text, words)
    assert np.isnan(found.scales).all()


def test_an_answer_that_was_converted_before_the_step():
    """PRX in pixels predicts x0 and steps with (latents - x0) / t."""
    words, without = answers()
    latents = answers(seed=3)[0]
    t = np.array([1.0, 0.6, 0.2], np.float32).reshape(3, 1, 1, 1, 1)
    guided = (latents - (without + np.float32(4) * (words - without))) / t
    parts = [[without[i], words[i]] for i in range(3)]
    found = sides(guided, parts, _order(True), latents)
    assert np.abs(found.text - (latents - words) / t).max() <= 1e-4
    assert np.abs(found.uncond - (latents - without) / t).max() <= 1e-4


def test_what_is_no_sum_of_the_two_is_not_told_apart():
    words, without = answers()
    other = answers(seed=5)[0]
    parts = [[without[i], words[i]] for i in range(3)]
    assert sides(other, parts, _order(False), words) is None


@functools.cache
def stable():
    return tiny.pipeline(size="small")


def test_half_precision_is_told_apart():
    words, without = answers()
    half = (without + 4 * (words - without)).astype(np.float16).astype(np.float32)
    parts = [[without[i], words[i]] for i in range(3)]
    found = sides(half, parts, _order(True), words)
    assert np.array_equal(found.text, words)
    assert np.abs(found.scales - 4).max() <= 0.02


def test_on_step_tells_both_sides():
    seen = []
    call = {"num_inference_steps": 3, "guidance_scale": 4.0, "keep": "all"}
    traj = record(stable(), "a red cat", seed=7, on_step=seen.append, **call)
    for step, kept in zip(seen, traj.steps, strict=True):
        assert np.array_equal(step.noise_pred_text, kept.noise_pred_text)
        assert np.array_equal(step.noise_pred_uncond, kept.noise_pred_uncond)
    assert torch.is_tensor(seen[0].latents) is False
