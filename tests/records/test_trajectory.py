"""The record itself: the law it keeps, what it refuses, how its lanes are drawn."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ldmkit.records import RecordError, Trajectory

from .make import PROMPT, RGB, make

BARE = {"prompt": "x", "timesteps": [3, 2], "alphas": [0.6, 0.8], "sigmas": [0.8, 0.6]}


def test_builder_keeps_the_law():
    for traj in (make(12), make(12, euler=True)):
        alphas, sigmas = (a[:, None, None, None, None] for a in (traj.alphas, traj.sigmas))
        mixed = alphas * traj.denoised + sigmas * traj.noise_pred
        assert np.abs(mixed - traj.latents[:-1]).max() <= 1e-5


def test_steps_by_name():
    traj = make(5)
    step = traj.steps[1]
    assert len(traj.steps) == len(list(traj.steps)) == 5
    assert (step.index, step.timestep) == (1, traj.timesteps[1])
    assert np.array_equal(step.latents, traj.latents[1])
    assert np.array_equal(step.output, traj.latents[2])
    assert np.array_equal(traj.steps[-1].output, traj.latents[-1])
    assert step.model_output is None
    assert [s.index for s in traj.steps[1:4:2]] == [1, 3]
    with pytest.raises(IndexError):
        traj.steps[5]


def test_arrays_are_frozen_and_the_callers_stay_writable():
    latents = np.zeros((3, 1, 4, 8, 8), np.float32)
    call = {"eta": 0.0}
    traj = Trajectory(**BARE, latents=latents, call=call)
    with pytest.raises(ValueError, match="read-only"):
        traj.latents[0] = 1
    latents[0] = 1
    call["eta"] = 1.0
    assert traj.call == {"eta": 0.0}
    with pytest.raises(AttributeError):
        traj.prompt = "y"


def test_travels_between_processes():
    # A sweep may run on ipyparallel or Dask, which copy results by pickle (between own processes;
    # nothing of ldmkit reads a pickle from a file).
    traj = make(3)
    for twin in (copy.deepcopy(traj), pickle.loads(pickle.dumps(traj))):
        assert np.array_equal(twin.latents, traj.latents)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("latents", np.zeros((2, 1, 4, 8, 8)), r"latents must have the shape \(3, "),
        ("latents", np.zeros((3, 0, 4, 8, 8)), "latents must have"),
        ("denoised", np.zeros((2, 4, 8, 8)), "denoised must have"),
        ("alphas", [1.0], r"alphas must have the shape \(2,\), got \(1,\)"),
        ("previews", {"denoised": np.zeros((2, 1, 8, 8), np.uint8)}, "previews"),
        ("prompt", 3, "prompt must be str"),
        ("prompt", (), "prompt must not be an empty tuple"),
        ("negative_prompt", b"bytes", "negative_prompt must be str"),
        ("seed", 1.5, "seed must be int"),
        ("seed", True, "seed must be int"),
        ("model", None, "model must be a string"),
        ("images", (np.zeros((8, 8, 3)),), "images must be PIL"),
        ("stages", ("prior",), "stages must be trajectories"),
    ],
)
def test_refuses_in_one_sentence(field, value, words):
    with pytest.raises(RecordError, match=words) as caught:
        Trajectory(**{**BARE, field: value})
    assert "\n" not in str(caught.value)


def test_arrays_must_agree_with_each_other():
    latents = np.zeros((3, 1, 4, 8, 8))
    with pytest.raises(RecordError, match="denoised must have"):
        Trajectory(**BARE, latents=latents, denoised=np.zeros((2, 2, 4, 8, 8)))
    with pytest.raises(RecordError, match="rgb must have"):
        Trajectory(**BARE, latents=latents, rgb=np.zeros((4, 3)))


def test_linear_picture_is_the_matrix():
    traj = make(4, side=8, size=64, previews=())
    got = np.asarray(traj.pictures("denoised", size=(8, 8))[2]) / 255
    want = np.einsum("chw,cd->hwd", traj.denoised[2, 0], RGB[:-1]) + RGB[-1]
    assert np.abs(got - want.clip(0, 1)).max() <= 0.5 / 255 + 1e-6


def test_noisy_lane_is_at_unit_scale_for_euler():
    """Euler's latents divided by √(1 + sigma²) are DDIM's: the two lanes look the same."""
    ddim, euler = make(6, previews=()), make(6, euler=True, previews=())
    assert np.abs(euler.latents[0]).max() > 10 * np.abs(ddim.latents[0]).max()
    pairs = zip(ddim.pictures("latents"), euler.pictures("latents"), strict=True)
    assert max(np.abs(np.int16(a) - np.int16(b)).max() for a, b in pairs) <= 1


def test_previews_are_preferred():
    traj = make(4, previews=("denoised",))
    picture = traj.pictures("denoised")[3]
    assert np.array_equal(np.asarray(picture), traj.previews["denoised"][3, 0])


def test_every_lane_has_one_picture_per_step_of_the_final_size():
    traj = make(4, side=8, size=96)
    for lane in ("latents", "denoised", "noise_pred"):
        pictures = traj.pictures(lane)
        assert [p.size for p in pictures] == [(96, 96)] * 4
        assert {p.info["is_picture"] for p in pictures} == {lane != "noise_pred"}


def test_noise_is_marked_by_a_dashed_frame():
    noise = np.asarray(make(4).pictures("noise_pred")[0])
    edge = noise[0].reshape(-1, 3)
    assert {tuple(map(int, pixel)) for pixel in edge} == {(0, 0, 0), (255, 255, 255)}


@pytest.mark.parametrize("strength", [0.01, 1.0, 30.0])
def test_noise_is_as_lively_for_every_autoencoder(strength):
    noise = np.random.default_rng(0).standard_normal((2, 1, 4, 32, 32))
    traj = make(2, side=32, noise_pred=noise, rgb=RGB * strength, previews=())
    inner = np.asarray(traj.pictures("noise_pred")[0])[4:-4, 4:-4]
    assert abs(inner.mean() / 255 - 0.5) < 0.02
    assert 0.17 < inner.std() / 255 < 0.22


def test_batches():
    traj = make(3, batch=2)
    assert traj.batch_size == 2
    first, second = (traj.pictures("latents", batch=b)[0] for b in (0, 1))
    assert np.asarray(first).tobytes() != np.asarray(second).tobytes()
    with pytest.raises(RecordError, match="between 0 and 1 inclusive, got 2"):
        traj.pictures("latents", batch=2)


def test_lanes_that_cannot_be_drawn_say_why():
    traj = make(3, noise_pred=None, denoised=None)
    with pytest.raises(RecordError, match=r"did not keep 'noise_pred'.*keep="):
        traj.pictures("noise_pred")
    with pytest.raises(RecordError, match=r"lane must be one of latents, .*got 'noise'"):
        traj.pictures("noise")
    with pytest.raises(RecordError, match="rgb is None"):
        make(3, rgb=None, previews=()).pictures("latents")


@pytest.mark.parametrize("lane", ["noise_pred", "denoised"])
def test_a_lane_that_was_not_kept_follows_from_the_law(lane):
    whole, part = make(5, previews=()), make(5, previews=(), **{lane: None})
    pairs = zip(whole.pictures(lane), part.pictures(lane), strict=True)
    assert max(np.abs(np.int16(a) - np.int16(b)).max() for a, b in pairs) <= 1


def test_estimates_before_guidance_follow_from_their_noise():
    whole = make(4, previews=())
    sides = {"noise_pred_text": whole.noise_pred, "noise_pred_uncond": whole.noise_pred * 0.9}
    traj = make(4, previews=(), **sides)
    same, other = (traj.pictures(f"denoised_{side}") for side in ("text", "uncond"))
    pairs = [*zip(same, traj.pictures("denoised"), strict=True)]
    assert max(np.abs(np.int16(a) - np.int16(b)).max() for a, b in pairs) <= 1
    assert other[0].tobytes() != same[0].tobytes()
    assert other[0].info["is_picture"]
    with pytest.raises(RecordError, match=r"did not keep 'denoised_text'.*keep=\"all\""):
        whole.pictures("denoised_text")


def test_no_noise_follows_where_sigma_is_zero(recwarn):
    traj = make(3, noise_pred=None, sigmas=[0.9, 0.5, 0.0])
    assert len(traj.pictures("noise_pred")) == 3
    assert not recwarn.list


def test_pixel_models_need_no_matrix():
    latents = np.full((3, 1, 3, 8, 8), -1.0, np.float32)
    traj = Trajectory(**BARE, latents=latents)
    assert np.asarray(traj.pictures("latents")[0]).max() == 0


def test_nan_latents_are_drawn_black_without_a_warning(recwarn):
    latents = np.full((3, 1, 4, 8, 8), np.nan, np.float32)
    traj = Trajectory(**BARE, latents=latents, rgb=RGB)
    assert np.asarray(traj.pictures("latents")[0]).max() == 0
    assert not recwarn.list


def test_image_of_a_stopped_run():
    with pytest.raises(RecordError, match="no final picture"):
        _ = make(3, images=(), stopped=True).image
    assert isinstance(make(3).image, Image.Image)


def test_repr_is_one_line():
    words = repr(make(3, prompt="a\nb" * 500))
    assert "\n" not in words
    assert len(words) < 250
    assert PROMPT in repr(make(3))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 5), batch=st.integers(1, 3), side=st.integers(1, 9))
def test_any_shape_can_be_drawn(n, batch, side):
    traj = make(n, batch=batch, side=side, size=16)
    assert len(traj.pictures("latents", batch - 1)) == n
