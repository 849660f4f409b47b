"""A run is repeated from what its picture's file says, to the bit."""

import numpy as np
import pytest
import tiny
import tiny_unclip
import torch
from PIL import Image

import ldmkit
from ldmkit.recording import record
from ldmkit.records import Trajectory

# what a record can't hold is said: tested in test_settings.py
pytestmark = pytest.mark.filterwarnings("ignore:These keywords alone")

CALL = {"num_inference_steps": 3, "guidance_scale": 3.5}


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(size="small")


def pixels(picture):
    return np.asarray(picture).tobytes()


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerAncestralDiscreteScheduler"])
def test_the_same_picture_to_the_bit(name, tmp_path):
    pipe = tiny.pipeline(size="small", scheduler_name=name)
    first = record(pipe, "a red cat", seed=7, negative_prompt="snow", **CALL)
    told = Trajectory.from_png(first.to_png(tmp_path / "cat.png"))
    again = record(pipe, **told.keywords)
    assert pixels(again.image) == pixels(told.image) == pixels(first.image)
    assert again.keywords == told.keywords == first.keywords
    other = record(pipe, **{**told.keywords, "seed": 8})
    assert pixels(other.image) != pixels(first.image)


def test_a_batch_is_repeated_whole(pipe, tmp_path):
    first = record(pipe, ["a red cat", "a dog"], seed=[3, 4], **CALL)
    told = Trajectory.from_png(first.to_png(tmp_path / "dog.png", batch=1))
    again = record(pipe, **told.keywords)
    assert pixels(again.images[told.call["batch"]["picture"]]) == pixels(told.image)


def test_what_no_record_holds_is_named():
    pipe = tiny.pipeline("img2img", size="small")
    start = Image.new("RGB", (32, 32), "red")
    traj = record(pipe, "a cat", seed=1, image=start, strength=0.8, num_inference_steps=3)
    assert traj.call["left_out"] == ["image"]
    assert "left_out" not in traj.keywords
    again = record(pipe, image=start, **traj.keywords)
    assert pixels(again.image) == pixels(traj.image)
    latents = torch.zeros(1, 4, 8, 8)
    traj = record(tiny.pipeline(size="small"), "a cat", latents=latents, num_inference_steps=1)
    assert traj.call["left_out"] == ["latents"]


def test_a_decoded_embedding_is_repeated_with_its_embedding(tmp_path):
    unclip = tiny_unclip.stable()
    vector = np.random.default_rng(0).standard_normal(tiny_unclip.WIDTH)
    options = {"seed": 5, "noise_level": 30, "num_inference_steps": 2}
    first = ldmkit.decode_embedding(unclip, vector, **options)
    told = Trajectory.from_png(first.to_png(tmp_path / "cat.png"))
    again = ldmkit.decode_embedding(unclip, vector, **told.keywords)
    assert pixels(again.image) == pixels(told.image)
    assert told.keywords["noise_level"] == 30
