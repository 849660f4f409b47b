"""What a pipeline's safety checker blacked out, nothing of a record shows; the latents stay."""

import re
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from diffusers import EulerDiscreteScheduler
from diffusers.pipelines.deepfloyd_if import IFPipelineOutput
from PIL import Image
from tiny_encoders import same, with_checker

from ldmkit.check import heard_by
from ldmkit.figures.player import trajectory_payload
from ldmkit.figures.sheet import sheet_image
from ldmkit.figures.side_by_side import comparison_payload, side_by_side
from ldmkit.recording import record, recorder
from ldmkit.recording.safety import hidden_of
from ldmkit.records import RecordError, Trajectory
from ldmkit.records.pictures import LANES, drawable, lane_array

CALL = {"num_inference_steps": 3, "guidance_scale": 4.0, "keep": "all"}
HID = (
    "The model's safety checker blacked out 1 of 1 pictures; the record still holds their latents, "
    "and draws none of their steps (unsafe_previews=True does)."
)


def run(pipe, prompt="a cat", **call):
    """(the record, what was said)."""
    said = []
    with heard_by(said.append):
        traj = record(pipe, prompt, **{"seed": 7, **CALL, **call})
    return traj, said


@pytest.fixture(scope="module")
def plain():
    return run(tiny.pipeline(size="small"))[0]


@pytest.fixture(scope="module")
def flagged():
    return run(with_checker(tiny.pipeline(size="small")))


def other(traj):
    """The same record of other latents: what is drawn of it must not differ."""
    noise = np.random.default_rng(0)
    names = ("latents", "denoised", "noise_pred", "noise_pred_text", "noise_pred_uncond")
    arrays = {name: noise.standard_normal(getattr(traj, name).shape) for name in names}
    shown = {lane: 255 - array for lane, array in traj.previews.items()}
    return replace(traj, **arrays, previews=shown)


def test_the_verdict_is_kept_and_said(flagged, plain):
    traj, said = flagged
    assert traj.hidden == (True,)
    assert not np.asarray(traj.image).any()
    assert said == [HID]
    assert np.array_equal(traj.latents, plain.latents)  # they stay
    assert np.array_equal(traj.denoised, plain.denoised)


def everything_drawn(traj, folder):
    """Every way that shows a record, as bytes without the random names of elements."""
    bundle = traj._repr_mimebundle_()
    html = bundle["text/html"] + traj.to_html(folder / "page.html").read_text()
    beside = side_by_side(traj, traj)._repr_mimebundle_()
    parts = [
        *re.findall(r"base64,([\w+/=]+)", html + beside["text/html"]),
        *re.findall(r"[\w+/=]{400,}", html + beside["text/html"]),  # the player's frames
        bundle["image/png"],
        beside["image/png"],
        sheet_image(traj).tobytes(),
        trajectory_payload(traj).frames,
        comparison_payload([traj, traj], lanes=("latents", "denoised")).frames,
        traj.to_gif(folder / "a.gif").read_bytes(),
        traj.to_webp(folder / "a.webp").read_bytes(),
        traj.to_png(folder / "a.png").read_bytes(),
    ]
    lanes = [lane for lane in LANES if drawable(traj, lane)]
    assert len(lanes) == 7
    for lane in lanes:
        parts += [picture.tobytes() for picture in traj.pictures(lane)]
        parts.append(lane_array(traj, lane).tobytes())
    figure = traj.figure(every=1)
    guidance = traj.guidance_figure(1)
    for axes in (*figure.axes, *guidance.axes):
        parts += [np.asarray(image.get_array()).tobytes() for image in axes.images]
    return parts


@pytest.mark.parametrize("preview", ["vae", "linear"])
def test_nothing_that_is_drawn_depends_on_what_was_hidden(preview, tmp_path):
    traj, _ = run(with_checker(tiny.pipeline(size="small")), preview=preview)
    assert everything_drawn(traj, tmp_path) == everything_drawn(other(traj), tmp_path)


def test_that_test_can_fail(plain, tmp_path):
    one, two = everything_drawn(plain, tmp_path), everything_drawn(other(plain), tmp_path)
    assert sum(a != b for a, b in zip(one, two, strict=False)) > 40


def test_the_tile_says_so(flagged):
    traj, _ = flagged
    (tile, *rest) = traj.pictures("denoised", size=(128, 128))
    colours = np.asarray(tile)
    assert (colours[0] == 128).all()  # an even grey
    assert (colours == 255).any()  # words on it
    assert not tile.info["is_picture"]
    assert all(same(tile, one) for one in rest)
    assert "hidden by the safety checker" in traj._repr_mimebundle_()["text/html"]


def test_what_is_decoded_is_taken_out_of_the_record(flagged):
    traj, _ = flagged
    assert set(traj.previews) >= {"latents", "denoised"}
    for array in traj.previews.values():
        assert (array == array[:1]).all()


def test_it_survives_a_file(flagged, tmp_path):
    traj, _ = flagged
    again = Trajectory.open(traj.save(tmp_path / "a.safetensors"))
    assert again.hidden == (True,)
    assert all(same(a, b) for a, b in zip(again.pictures(), traj.pictures(), strict=True))
    assert replace(traj, prompt="other").hidden == (True,)


def test_of_a_batch_only_the_flagged_is_hidden():
    bare = tiny.pipeline(size="small")
    both, _ = run(bare, ["a cat", "a dog"], seed=[1, 2])
    pipe = with_checker(tiny.pipeline(size="small"), both.images[1], both.images[0])
    traj, said = run(pipe, ["a cat", "a dog"], seed=[1, 2])
    assert traj.hidden == (False, True)
    assert "blacked out 1 of 2 pictures" in said[0]
    assert same(traj.images[0], both.images[0])
    assert not np.asarray(traj.images[1]).any()
    assert all(
        same(a, b) for a, b in zip(traj.pictures(batch=0), both.pictures(batch=0), strict=True)
    )
    assert len({picture.tobytes() for picture in traj.pictures(batch=1)}) == 1


def test_unsafe_previews_keep_the_steps(plain):
    traj, said = run(with_checker(tiny.pipeline(size="small")), unsafe_previews=True)
    assert traj.hidden == ()
    assert said == [HID.split(", and")[0] + "."]
    assert not np.asarray(traj.image).any()  # the final picture stays the checker's
    assert all(same(a, b) for a, b in zip(traj.pictures(), plain.pictures(), strict=True))


def test_a_checker_that_finds_nothing_hides_nothing(plain):
    strange = Image.effect_noise((32, 32), 99).convert("RGB")
    traj, said = run(with_checker(tiny.pipeline(size="small"), strange, plain.image))
    assert (traj.hidden, said) == ((), [])
    assert same(traj.image, plain.image)


def test_a_run_that_is_stopped_is_checked(plain):
    pipe = with_checker(tiny.pipeline(size="small"))
    traj, said = run(pipe, on_step=lambda step: step.index < 1)
    assert traj.stopped
    assert traj.hidden == (True,)
    assert not np.asarray(traj.image).any()
    assert said == [HID]
    shown, _ = run(pipe, on_step=lambda step: step.index < 1, unsafe_previews=True)
    assert not np.asarray(shown.image).any()
    free, _ = run(tiny.pipeline(size="small"), on_step=lambda step: step.index < 1)
    assert np.asarray(free.image).any()


def test_a_recorder_round_the_pipeline_hides_as_the_pipeline_does(plain):
    def taped(pipe, **options):
        with recorder(pipe.scheduler, pipe.unet, vae=pipe.vae, keep="all", **options) as tape:
            pipe("a cat", num_inference_steps=3, guidance_scale=4.0)
        return tape.trajectory

    with heard_by((said := []).append):
        traj = taped(with_checker(tiny.pipeline(size="small")))
    assert said == [HID]
    assert traj.hidden == (True,)
    assert not np.asarray(traj.image).any()
    assert np.isfinite(traj.latents).all()
    assert taped(tiny.pipeline(size="small")).hidden == ()
    with heard_by((said := []).append):
        unsafe = taped(with_checker(tiny.pipeline(size="small")), unsafe_previews=True)
    assert unsafe.hidden == ()
    assert len(said) == 1
    assert not np.asarray(unsafe.image).any()


def test_stopped_where_the_checker_cannot_be_asked():
    pipe = tiny.pipeline(size="small")
    pipe.image_guard = lambda pictures: pictures  # of a family that nobody described
    traj, said = run(pipe, on_step=lambda step: False)
    assert traj.images == ()
    assert traj.hidden == (True,)
    assert said[0].startswith("The safety checker can't look at the picture of a run that it")


def test_a_checker_without_a_verdict_hides_all():
    pipe = with_checker(tiny.pipeline(size="small"))
    traj, said = run(pipe, output_type="latent")  # then the pipeline asks it nothing
    assert traj.hidden == (True,)
    assert said == [
        "The model's safety checker gave no verdict on this run, so no picture of its steps is "
        "drawn (unsafe_previews=True does); the record still holds the latents."
    ]
    traj, said = run(pipe, output_type="latent", unsafe_previews=True)
    assert (traj.hidden, said) == ((), [])


def test_broken_latents_and_a_checker_are_told_apart_in_a_batch():
    pipe = tiny.pipeline(size="small")
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    plain = pipe.unet.forward

    def breaks(sample, *args, **kwargs):
        out = plain(sample, *args, **kwargs)
        out[0][1::3] = np.nan  # the second of three, with and without words
        return out

    pipe.unet.forward = breaks
    traj, said = run(pipe, ["a", "b", "c"], seed=[1, 2, 3])
    assert said == [
        "The latents of picture 2 of 3 are no longer finite (NaN or infinite), so the picture "
        "shows nothing: take a smaller guidance_scale, or dtype float32."
    ]
    assert traj.hidden == ()


def test_verdicts_of_deepfloyd():
    images = [Image.new("RGB", (8, 8))] * 3
    output = IFPipelineOutput(images, [False, True, False], [np.bool_(True), False, False])
    assert hidden_of(object(), output, 3) == (True, True, False)
    assert hidden_of(object(), IFPipelineOutput(images, None, None), 3) == ()
    assert hidden_of(object(), output, 6) == (True,) * 6  # whose they are nobody knows


@pytest.mark.parametrize("hidden", [(True, False, True), (1,), "yes", (True, "no")])
def test_a_verdict_that_fits_no_batch_is_refused(hidden):
    with pytest.raises(RecordError, match="hidden must hold"):
        Trajectory(
            prompt="",
            timesteps=[1.0],
            alphas=[1.0],
            sigmas=[0.0],
            latents=np.zeros((2, 2, 4, 8, 8)),
            hidden=hidden,
        )


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
def test_an_autoencoder_that_overflows_is_a_third_reason(monkeypatch):
    """As Stable Diffusion XL's does in float16: finite latents, a picture of nothing."""
    pipe = tiny.pipeline(size="small")
    decode, black = pipe.vae.decode, [False, True, True]

    def overflow(latents, *args, **kwargs):
        (picture,) = decode(latents, return_dict=False, generator=None)
        picture[torch.tensor(black[-len(picture) :])] = float("nan")
        return (picture,)

    monkeypatch.setattr(pipe.vae, "decode", overflow)
    words = "though the latents are finite, so the autoencoder most likely overflowed"
    traj, said = run(pipe, preview="none")
    assert traj.image.getbbox() is None
    assert next(o for o in said if words in o).startswith("The picture is all black though")
    traj, said = run(pipe, ["a cat"] * 3, seed=[1, 2, 3], preview="none")
    assert [picture.getbbox() is None for picture in traj.images] == black
    told = [one for one in said if words in one]
    assert [one.split(" all black")[0] for one in told] == ["Of 3 pictures 2 and 3 are"]
    assert not traj.hidden


def test_what_a_checker_hid_is_no_overflow(flagged):
    traj, said = flagged
    assert traj.image.getbbox() is None
    assert not any("overflowed" in one for one in said)
