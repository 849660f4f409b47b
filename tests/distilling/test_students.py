"""`distill`: any U-Net pipeline to students of fewer steps, stopped, kept and gone on with."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import tiny
import torch
from diffusers import (
    DDIMPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from PIL import Image
from transformers import CLIPTextModelWithProjection

import ldmkit
from ldmkit.distilling import Ladder, distill, students
from ldmkit.distilling.conditioning import conditioning_of, predictor
from ldmkit.loading.siblings import origin_of, steps_of

PROMPTS = ["a red cat", "a blue dog", "a green owl with a crown", "a fox in the snow"]


def _pipe(**options):
    """Its network has one level: an update costs what its layers are, not what is in them."""
    pipe = tiny.pipeline(size="small", **options)
    config = dict(pipe.unet.config)
    for name in ("block_out_channels", "down_block_types", "up_block_types", "attention_head_dim"):
        config[name] = config[name][:1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe.unet = UNet2DConditionModel.from_config(config).eval().requires_grad_(False)
    return pipe


def _distil(pipe, rungs=(4, 2), **options):
    return distill(pipe, rungs, **{"updates": 3, "prompts": PROMPTS, "batch_size": 4, **options})


def _latents(pipe, steps, guidance, seeds=range(8)):
    """Where runs of a pipeline end, (b, c, h, w)."""
    noise = torch.cat(
        [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in seeds]
    )
    words = [PROMPTS[s % len(PROMPTS)] for s in seeds]
    made = pipe(
        words,
        latents=noise,
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="latent",
    )
    return made.images


@pytest.mark.slow
@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_a_student_lands_nearer_to_its_teacher_than_plain_steps_do(prediction_type):
    pipe = _pipe(prediction_type=prediction_type)
    before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    ladder = _distil(pipe, (2,), updates=30, guidance_scale=1.0, batch_size=16)
    teacher, plain = _latents(pipe, 4, 1.0), _latents(pipe, 2, 1.0)
    student = _latents(ladder.student(2), 2, 1.0)
    assert (student - teacher).square().mean() < 0.9 * (plain - teacher).square().mean()
    first, last = ladder.losses[2][:10], ladder.losses[2][-10:]
    assert sum(last) < 0.9 * sum(first)
    # The teacher and its pipeline stay as they were.
    assert all(torch.equal(before[name], w) for name, w in pipe.unet.state_dict().items())
    assert not any(weight.requires_grad for weight in pipe.unet.parameters())


def test_each_student_teaches_the_next(monkeypatch):
    pipe, teachers = _pipe(), []
    told = students.predictor

    def heard(unet, keywords, scheduler, guidance=1.0):
        teachers.append((unet, guidance))
        return told(unet, keywords, scheduler, guidance)

    monkeypatch.setattr(students, "predictor", heard)
    ladder = _distil(pipe, (4, 2, 1), updates=1, guidance_scale=5.0)
    asked = [pair for pair in teachers if not pair[0].training]
    assert [scale for _, scale in asked] == [5.0, 1.0, 1.0]  # guidance in the first rung only
    assert asked[0][0] is pipe.unet
    assert asked[1][0] is ladder.student(4).unet
    assert asked[2][0] is ladder.student(2).unet


def test_the_pipeline_and_the_predictor_say_the_same():
    """One step on the predictor's v ends where the pipeline itself ends, guided and not."""
    for prediction_type in ("v_prediction", "epsilon"):
        pipe = tiny.pipeline(size="small", prediction_type=prediction_type)
        for scale in (1.0, 4.0):
            heard = conditioning_of(pipe, PROMPTS, scale, {})
            guided = scale if heard.both is not heard.with_words else 1.0
            noise = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                t = torch.full((4,), 1023)
                v = predictor(pipe.unet, heard.both, pipe.scheduler, guided)(noise, t)
            alpha = pipe.scheduler.alphas_cumprod[1023].sqrt()
            ours = alpha * noise - (1 - alpha**2).sqrt() * v  # a single step ends at x0
            theirs = pipe(
                PROMPTS,
                latents=noise,
                num_inference_steps=1,
                guidance_scale=scale,
                output_type="latent",
            ).images
            # Where the processor has bfloat16, the predictor takes it; ε is divided by α = 0.07.
            assert float((ours - theirs).abs().max()) <= 0.05 * float(theirs.abs().max())


def _sdxl():
    """Stable Diffusion XL's parts, tiny: two encoders, pooled words and sizes beside the prompt."""
    small = _pipe()
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=32,
        attention_head_dim=2,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
    )
    return StableDiffusionXLPipeline(
        vae=small.vae,
        text_encoder=small.text_encoder,
        tokenizer=small.tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(small.text_encoder.config),
        tokenizer_2=small.tokenizer,
        unet=unet,
        scheduler=small.scheduler,
        add_watermarker=False,
    )


def test_what_sdxl_tells_its_unet_beside_the_words_is_heard():
    pipe = _sdxl()
    heard = conditioning_of(pipe, PROMPTS, 5.0, {"height": 32, "width": 32})
    assert heard.shape == (4, 4, 8, 8)
    assert heard.both["added_cond_kwargs"]["text_embeds"].shape == (8, 16)
    assert heard.with_words["added_cond_kwargs"]["time_ids"].shape == (4, 6)
    few = heard.rows(torch.tensor([3, 3]))
    embeds = heard.both["added_cond_kwargs"]["text_embeds"]  # those without words first
    assert torch.equal(few["added_cond_kwargs"]["text_embeds"], embeds[[7, 7]])
    assert torch.equal(few["encoder_hidden_states"], heard.both["encoder_hidden_states"][[7, 7]])
    ladder = _distil(pipe, (2,), height=32, width=32)
    assert ladder.finished


def test_pipelines_without_words_are_distilled_too():
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        layers_per_block=1,
    )
    pipe = DDIMPipeline(unet, tiny.scheduler("epsilon"))
    ladder = distill(pipe, (2, 1), updates=2, batch_size=2)
    assert ladder.finished
    picture = ladder.student(1)(batch_size=1, num_inference_steps=1).images[0]
    assert picture.size == (8, 8)
    with pytest.raises(TypeError, match=r"takes no guidance_scale, got 3\.5"):
        distill(pipe, (2,), guidance_scale=3.5)


def test_the_students_defaults_are_known_to_record():
    ladder = _distil(_pipe(), (2,))
    student = ladder.student(2)
    traj = ldmkit.record(student, "a red cat", seed=0, preview="none")
    assert len(traj.timesteps) == 2
    assert traj.call["guidance_scale"] == 1.0
    assert origin_of(student).name.endswith(":steps2")
    assert student.scheduler is not ladder.student(2).scheduler


# --- watched, stopped, gone on with ------------------------------------------------------------


def test_on_update_sees_each_update_and_can_draw():
    seen, drawn = [], []

    def look(update):
        seen.append((update.steps, update.update, update.updates))
        assert update.loss == update.ladder.losses[update.steps][-1]
        drawn.append(_latents(update.ladder.student(update.steps), 2, 1.0, range(1)))

    _distil(_pipe(), (4, 2), updates=2, on_update=look)
    assert seen == [(4, 1, 2), (4, 2, 2), (2, 1, 2), (2, 2, 2)]
    assert not torch.equal(drawn[2], drawn[3])  # it learns while one looks


def test_false_stops_and_climb_goes_on():
    ladder = _distil(_pipe(), (4, 2), on_update=lambda u: u.update < 2)
    assert ladder.stopped.startswith(
        "Stopped by on_update after 2 of 3 updates of the student of 4"
    )
    assert {n: len(had) for n, had in ladder.losses.items()} == {4: 2}
    assert "4 steps: 2 of 3 updates" in repr(ladder)
    assert "climb() goes on" in repr(ladder)
    assert ladder.student(4).unet is not None  # what it has learned so far
    with pytest.raises(ValueError, match=r"begun \(4\), got 2; climb\(\) trains the next"):
        ladder.student(2)
    assert not ladder.finished
    assert ladder.climb() is ladder
    assert {n: len(had) for n, had in ladder.losses.items()} == {4: 3, 2: 3}
    assert ladder.finished
    assert ladder.stopped is None


def test_false_after_a_students_last_update_stops_before_the_next():
    ladder = _distil(_pipe(), (4, 2), on_update=lambda u: np.bool_(u.update < 3))
    assert {n: len(had) for n, had in ladder.losses.items()} == {4: 3}
    assert "3 of 3 updates of the student of 4" in ladder.stopped
    ladder.climb(on_update=lambda u: u.update < 3)
    assert ladder.finished
    assert ladder.stopped is None  # nothing is left to go on with


def test_an_interrupt_keeps_the_ladder_and_climb_goes_on():
    def interrupt(update):
        if update.steps == 2 and update.update == 1:
            raise KeyboardInterrupt

    words = "Interrupted after 1 of 3 updates of the student of 2 steps; its weights are kept"
    with pytest.warns(UserWarning, match=words) as told:
        ladder = distill(_pipe(), (4, 2), updates=3, prompts=PROMPTS, on_update=interrupt)
    assert told[0].filename == __file__
    assert isinstance(ladder, Ladder)
    first = ladder.losses[4]
    ladder.climb()
    assert ladder.finished
    assert ladder.losses[4] == first  # what was finished isn't trained again


def test_a_loss_that_is_no_number_stops_and_the_last_good_weights_are_kept(monkeypatch):
    real = students.loss

    def broken(student, rung, lesson):
        found = real(student, rung, lesson)
        calls.append(found)
        return found * math.nan if len(calls) == 3 else found

    calls = []
    monkeypatch.setattr(students, "loss", broken)
    with pytest.warns(
        UserWarning,
        match=r"finite after 2 of 3 .* climb\(learning_rate=0\.001\)",
    ):
        ladder = _distil(_pipe(), (2,))
    kept = ladder.student(2).unet.state_dict()
    assert all(torch.isfinite(weight).all() for weight in kept.values())
    assert len(ladder.losses[2]) == 2
    ladder.climb(learning_rate=0.001)
    assert ladder.finished


def test_weights_that_broke_are_not_kept():
    """An update that makes weights infinite shows in the next error; the average never saw it."""
    pipe = _pipe()

    def spoil(update):
        if update.update == 2:
            network = update.ladder._pupil.unet
            with torch.no_grad():
                next(network.parameters()).fill_(math.inf)

    with pytest.warns(UserWarning, match="no longer finite after 2 of 3"):
        ladder = _distil(pipe, (2,), on_update=spoil)
    assert all(torch.isfinite(w).all() for w in ladder.student(2).unet.state_dict().values())
    ladder.climb()
    assert ladder.finished


def test_the_same_seed_gives_the_same_ladder():
    again = [_distil(_pipe(), (2,), seed=seed).losses[2] for seed in (5, 5, 6)]
    assert again[0] == again[1] != again[2]


def test_the_process_keeps_its_random_numbers():
    pipe = _pipe()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    _distil(pipe, (2,), updates=1)
    assert torch.equal(torch.rand(3), expected)


# --- kept on disk ------------------------------------------------------------------------------


def test_students_are_saved_as_variants_that_plain_diffusers_opens(tmp_path):
    pipe = _pipe()
    ladder = _distil(pipe, (4, 2))
    folder = ladder.save(tmp_path / "mine")
    assert json.loads((folder / "ldmkit.json").read_text())["variants"] == {
        "steps4": {"num_inference_steps": 4, "guidance_scale": 1.0},
        "steps2": {"num_inference_steps": 2, "guidance_scale": 1.0},
    }
    student = ldmkit.load(folder, variant="steps2", device="cpu")
    assert steps_of(student) == 2
    plain = StableDiffusionPipeline.from_pretrained(
        folder, variant="steps2", safety_checker=None, requires_safety_checker=False
    )
    wanted = ladder.student(2).unet.state_dict()
    for unet in (student.unet, plain.unet):
        gaps = [float((w - wanted[n]).abs().max()) for n, w in unet.state_dict().items()]
        assert max(gaps) <= 1e-3  # float16
    usual = ldmkit.load(folder, device="cpu")
    assert all(
        torch.equal(w, pipe.unet.state_dict()[n]) for n, w in usual.unet.state_dict().items()
    )
    assert steps_of(usual) is None


def test_a_saved_student_is_the_teacher_of_the_next_rung(tmp_path):
    folder = _distil(_pipe(), (4,)).save(tmp_path / "mine")
    student = ldmkit.load(folder, variant="steps4", device="cpu")
    ladder = _distil(student, (2,))
    assert ladder.guidance_scale == 1.0  # it is inside
    assert ladder.finished
    with pytest.raises(ValueError, match=r"half of the 4 steps .* got 8; write rungs=\(2, ...\)"):
        _distil(student, (8,))


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rungs", [(32, 16, 4), (4, 8), (), (4, 4), (3, 1), 8, "84", (4.0, 2.0)])
def test_rungs_that_do_not_halve_are_refused(rungs):
    with pytest.raises(ValueError, match="each half of the one before"):
        _distil(_pipe(), rungs)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"updates": 0}, ValueError, "updates must be 1 or more, got 0"),
        ({"batch_size": 1.5}, TypeError, "batch_size must be a whole number"),
        ({"learning_rate": math.nan}, ValueError, "learning_rate must be a finite number"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate must be a number"),
        ({"guidance_scale": -1}, ValueError, "guidance_scale must be"),
        ({"seed": -1}, ValueError, "seed must be"),
        ({"prompts": None}, TypeError, 'give prompts=\\["a red cat"'),
        ({"prompts": []}, ValueError, "at least one string"),
        ({"prompts": [7]}, TypeError, "must be a string or a list"),
        ({"on_update": 3}, TypeError, "on_update must be a function"),
        ({"rung": 3}, TypeError, "did you mean 'rungs'"),
        ({"update": 3}, TypeError, "did you mean 'updates'"),
    ],
)
def test_bad_values_are_refused_before_anything_is_learned(options, error, words):
    with pytest.raises(error, match=words):
        _distil(_pipe(), **options)


def test_what_is_no_unet_pipeline_is_refused():
    with pytest.raises(TypeError, match="distill takes a diffusers pipeline first"):
        _distil("critters")
    picture = {"image": Image.new("RGB", (32, 32)), "mask_image": Image.new("L", (32, 32), 255)}
    with pytest.raises(TypeError, match="inpainting"):
        _distil(_pipe(kind="inpaint9"), **picture, height=32, width=32)
    with pytest.raises(ValueError, match="prediction_type 'sample'"):
        _distil(_pipe(prediction_type="sample"))
    with pytest.raises(ValueError, match="got EulerDiscreteScheduler"):
        _distil(_pipe(scheduler_name="EulerDiscreteScheduler"))
