"""What a record keeps of its call repeats the run, or says what it can't hold."""

import numpy as np
import pytest
import tiny
import tiny_encoders
import torch
from diffusers import (
    AnimateDiffPipeline,
    EulerDiscreteScheduler,
    MotionAdapter,
    UNet2DConditionModel,
)
from PIL import Image
from tiny_encoders import same

from ldmkit.check import heard_by
from ldmkit.recording import record, recorder
from ldmkit.recording.settings import adapters_of
from ldmkit.records import Trajectory

QUICK = {"num_inference_steps": 3, "preview": "none"}
SIZE = {"height": 32, "width": 32}


def euler(**options):
    pipe = tiny.pipeline(size="small", prediction_type="epsilon")
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, **options)
    return pipe


def keywords(traj):
    """(the keywords, what was said of them)."""
    said = []
    with heard_by(said.append):
        return traj.keywords, said


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("timesteps", [900, 500, 100]),
        ("timesteps", np.array([900, 500, 100])),
        ("sigmas", [10.0, 3.0, 1.0, 0.5]),
        ("sigmas", torch.tensor([10.0, 3.0, 1.0])),
    ],
)
def test_a_schedule_by_hand(name, schedule, tmp_path):
    pipe = euler()
    first = record(pipe, "a cat", seed=7, preview="none", **{name: schedule})
    # Euler takes the last sigma for the end of the last step
    steps = len(schedule) - (name == "sigmas")
    assert first.call["num_inference_steps"] == steps == len(first.timesteps)
    told = Trajectory.from_png(first.to_png(tmp_path / "cat.png"))
    again, said = keywords(told)
    assert said == []
    assert same(record(pipe, **again, preview="none").image, first.image)
    usual = record(pipe, "a cat", seed=7, num_inference_steps=steps, preview="none")
    assert not same(usual.image, first.image)


def test_flux_by_hand():
    pipe = tiny_encoders.flux()
    first = record(pipe, "a cat", seed=7, preview="none", sigmas=[1.0, 0.5], **SIZE)
    assert first.call["num_inference_steps"] == 2
    assert first.call["sigmas"] == [1.0, 0.5]
    assert same(record(pipe, **first.keywords, preview="none").image, first.image)


class Scaled(torch.nn.Module):
    """A linear layer with what peft's LoRA layers hold: names, scales, ranks."""

    def __init__(self, inner, weights, rank=4, alpha=8):
        super().__init__()
        self.inner, self.merged_adapters, self.disable_adapters = inner, [], False
        self.active_adapters = list(weights)
        self.r, self.lora_alpha = dict.fromkeys(weights, rank), dict.fromkeys(weights, alpha)
        self.scaling = {name: weight * alpha / rank for name, weight in weights.items()}

    def forward(self, x):
        return self.inner(x) * (1 + sum(self.scaling[name] for name in self.active_adapters))


@pytest.fixture
def with_adapters():
    pipe = tiny.pipeline(size="small")
    block = pipe.unet.mid_block.attentions[0].transformer_blocks[0]
    block.attn1.to_q = Scaled(block.attn1.to_q, {"style": 0.7, "zorp": 0.2})
    return pipe, block.attn1.to_q


def test_adapters_are_told_with_their_weights(with_adapters, tmp_path):
    pipe, _ = with_adapters
    traj = record(pipe, "a cat", seed=7, **QUICK)
    assert traj.call["adapters"] == {"unet": {"style": 0.7, "zorp": 0.2}}
    _, said = keywords(Trajectory.from_png(traj.to_png(tmp_path / "cat.png")))
    assert said == [
        "These keywords alone don't repeat the run: load its adapters first: style (0.7), "
        "zorp (0.2)."
    ]


def test_adapters_that_do_nothing_are_not_told(with_adapters):
    pipe, layer = with_adapters
    layer.active_adapters = ["style"]
    assert adapters_of(pipe) == {"unet": {"style": 0.7}}
    layer.merged_adapters = ["style"]
    assert adapters_of(pipe) == {"unet": {"style": "fused at 0.7"}}
    layer.merged_adapters, layer.disable_adapters = [], True
    assert adapters_of(pipe) == {}
    assert "adapters" not in record(pipe, "a cat", seed=7, **QUICK).call
    pipe._merged_adapters = {"gone"}  # fused, then unloaded: their weights stay
    assert adapters_of(pipe) == {"pipeline": {"gone": "fused, nothing tells at which scale"}}


def test_the_scale_of_a_lora_is_kept(tmp_path):
    pipe, call = tiny_encoders.flux(), {**QUICK, **SIZE, "seed": 7}
    traj = record(pipe, "a cat", joint_attention_kwargs={"scale": 0.5}, **call)
    told = Trajectory.from_png(traj.to_png(tmp_path / "cat.png"))
    assert told.keywords["joint_attention_kwargs"] == {"scale": 0.5}
    assert "left_out" not in told.call
    traj = record(pipe, "a cat", joint_attention_kwargs={"mask": torch.ones(1)}, **call)
    assert traj.call["left_out"] == ["joint_attention_kwargs"]


def test_what_is_left_out_is_said_when_it_is_replayed(tmp_path):
    pipe = tiny.pipeline("img2img", size="small")
    start = Image.new("RGB", (32, 32), "red")
    traj = record(
        pipe,
        "a cat",
        seed=1,
        image=start,
        callback_on_step_end=lambda pipe, i, t, values: values,
        **QUICK,
    )
    assert traj.call["left_out"] == ["callback_on_step_end", "image"]
    _, said = keywords(Trajectory.from_png(traj.to_png(tmp_path / "a.png")))
    assert said == [
        "These keywords alone don't repeat the run: give callback_on_step_end=, image= again."
    ]
    with pytest.warns(UserWarning, match="give callback_on_step_end=, image= again") as warned:
        assert traj.keywords
    assert warned[0].filename == __file__


def test_a_run_without_a_seed_says_so():
    _, said = keywords(record(tiny.pipeline(size="small"), "a cat", **QUICK))
    assert said == [
        "These keywords alone don't repeat the run: it had no seed, so its noise is gone "
        "(give seed= next time)."
    ]


def test_a_generator_that_a_seed_makes_again(tmp_path):
    pipe = tiny.pipeline(size="small")
    fresh = torch.Generator().manual_seed(11)
    first = record(pipe, "a cat", generator=fresh, **QUICK)
    again, said = keywords(Trajectory.from_png(first.to_png(tmp_path / "a.png")))
    assert (again["seed"], said) == (11, [])
    assert same(record(pipe, **again, preview="none").image, first.image)
    pair = [torch.Generator().manual_seed(i) for i in (0, 1)]
    first = record(pipe, ["a cat", "a dog"], generator=pair, **QUICK)
    again, said = keywords(first)
    assert (again["seed"], said) == ([0, 1], [])
    assert same(record(pipe, **again, preview="none").images[1], first.images[1])


def test_a_generator_that_no_seed_makes_again():
    pipe = tiny.pipeline(size="small")
    used = torch.Generator().manual_seed(11)
    torch.randn(3, generator=used)
    one = torch.Generator().manual_seed(11)
    for generator, prompt in ((used, "a cat"), ([one, one], ["a cat", "a dog"])):
        traj = record(pipe, prompt, generator=generator, **QUICK)
        assert traj.call["left_out"] == ["generator"]
        again, said = keywords(traj)
        assert "seed" not in again
        assert said == ["These keywords alone don't repeat the run: give generator= again."]


def test_learnt_words_are_named():
    pipe = tiny.pipeline(size="small")
    pipe.load_textual_inversion(torch.randn(2, 16), token="<zorp>")
    assert "learned_words" not in record(pipe, "a cat", seed=1, **QUICK).call
    traj = record(pipe, "a <zorp>", seed=1, **QUICK)
    assert traj.call["learned_words"] == ["<zorp>"]
    assert keywords(traj)[1] == [
        "These keywords alone don't repeat the run: load its learnt words first: <zorp>."
    ]


def test_the_schedulers_settings_are_told():
    one, two = euler(), euler(use_karras_sigmas=True)
    plain, karras = (record(pipe, "a cat", seed=7, **QUICK) for pipe in (one, two))
    assert not same(plain.image, karras.image)
    assert plain.call["scheduler"] == karras.call["scheduler"] == "EulerDiscreteScheduler"
    assert karras.call["scheduler_config"]["use_karras_sigmas"] is True
    assert "use_karras_sigmas" not in plain.call["scheduler_config"]
    assert plain.call["scheduler_config"]["beta_schedule"] == "scaled_linear"
    twin = EulerDiscreteScheduler(**karras.call["scheduler_config"])
    two.scheduler = twin  # what is told makes the very scheduler again
    assert same(record(two, **karras.keywords, preview="none").image, karras.image)


def test_embeddings_instead_of_words():
    pipe = tiny.pipeline(size="small")
    embeds, negative = pipe.encode_prompt("a cat", "cpu", 1, True)
    told = {"prompt_embeds": embeds, "negative_prompt_embeds": negative}
    first = record(pipe, seed=7, **told, **QUICK)
    assert first.call["left_out"] == ["negative_prompt_embeds", "prompt_embeds"]
    again, _ = keywords(first)
    assert same(record(pipe, **again, **told, preview="none").image, first.image)


# --- a callback that ends the run ----------------------------------------------------------------


@pytest.mark.parametrize(("at", "steps", "stopped"), [(1, 2, True), (3, 4, False), (9, 4, False)])
def test_interrupted_by_a_callback(at, steps, stopped):
    def callback(pipe, i, t, values):
        pipe._interrupt = i == at
        return values

    call = {"num_inference_steps": 4, "preview": "none", "seed": 7}
    pipe = tiny.pipeline(size="small")
    traj = record(pipe, "a cat", callback_on_step_end=callback, **call)
    assert (len(traj.timesteps), traj.stopped) == (steps, stopped)
    whole = record(pipe, "a cat", **call)  # and the next run is none of it
    assert not whole.stopped


# --- video ---------------------------------------------------------------------------------------


def animatediff():
    pipe = tiny.pipeline(size="small")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel.from_config(pipe.unet.config)
        motion = MotionAdapter(
            block_out_channels=(8, 16),
            motion_layers_per_block=1,
            motion_norm_num_groups=4,
            motion_num_attention_heads=2,
            use_motion_mid_block=False,
        )
        film = AnimateDiffPipeline(
            vae=pipe.vae,
            text_encoder=pipe.text_encoder,
            tokenizer=pipe.tokenizer,
            unet=unet.eval(),
            motion_adapter=motion.eval(),
            scheduler=pipe.scheduler,
        )
    film.set_progress_bar_config(disable=True)
    return film


def test_frames_of_a_video_are_told():
    said = []
    with heard_by(said.append):
        traj = record(animatediff(), "a cat", seed=7, num_frames=3, num_inference_steps=2, **SIZE)
    assert said[0] == (
        "The latents are those of a film: its 3 frames stand one above the other in the record's "
        "arrays, and no pictures of its steps are drawn."
    )
    assert traj.latents.shape == (3, 1, 4, 3 * 8, 8)
    assert len(traj.images) == 3  # its frames, one by one


def test_frames_before_channels_are_told():
    """CogVideoX and Stable Video Diffusion hold (b, frames, c, h, w)."""
    scheduler, said = EulerDiscreteScheduler(), []
    scheduler.set_timesteps(2)
    x, vae = torch.zeros(1, 6, 4, 8, 8), tiny.pipeline(size="small").vae
    with recorder(scheduler, vae=vae, preview="none") as tape:
        for t in scheduler.timesteps:
            x = scheduler.step(x, t, x).prev_sample
    with heard_by(said.append):
        traj = tape.trajectory
    assert traj.latents.shape == (3, 1, 6, 4 * 8, 8)
    assert said[-1] == (
        "The latents are those of a film: its 6 frames are the channels of the record's arrays, "
        "each with its own 4 channels one above the other, and no pictures of its steps are drawn."
    )
