"""Twins and image-to-image siblings: the same parts, the same picture, the original untouched."""

import numpy as np
import pytest
import tiny
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from ldmkit.loading.origin import Origin, origin_of, remember
from ldmkit.loading.siblings import can_take_picture, from_picture, takes_picture, twin_of


def test_a_twin_shares_all_and_changes_alone():
    pipe = tiny.pipeline(size="small")
    before = dict(vars(pipe))
    twin = twin_of(pipe)
    assert type(twin) is type(pipe)
    assert all(twin.components[name] is part for name, part in pipe.components.items())
    twin.set_progress_bar_config(disable=None)
    twin.scheduler = None
    assert vars(pipe) == before


def test_the_sibling_shares_parts_and_makes_the_same_picture():
    pipe = tiny.pipeline(size="small")
    remember(pipe, Origin("mine", {"num_inference_steps": 4}))
    sibling = from_picture(pipe)
    assert type(sibling) is StableDiffusionImg2ImgPipeline
    assert all(part is pipe.components[name] for name, part in sibling.components.items())
    assert origin_of(sibling).name == "mine"
    bare = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    call = {"image": Image.radial_gradient("L").convert("RGB").resize((32, 32)), "strength": 0.5}
    pictures = [
        one("a cat", generator=torch.Generator().manual_seed(1), num_inference_steps=4, **call)
        for one in (sibling, bare)
    ]
    a, b = (np.asarray(p.images[0], int) for p in pictures)
    assert np.abs(a - b).max() == 0
    assert sibling._progress_bar_config == pipe._progress_bar_config


def test_half_precision_stays():
    pipe = tiny.pipeline(size="small").to(torch.float16)
    assert from_picture(pipe).unet.dtype == pipe.unet.dtype == torch.float16


def test_a_pipeline_that_takes_a_picture_is_given_back():
    pipe = tiny.pipeline("img2img", size="small")
    assert takes_picture(pipe)
    assert can_take_picture(pipe)
    assert from_picture(pipe) is pipe


def test_who_has_no_sibling():
    class Stranger:
        components = {}  # noqa: RUF012

        def __call__(self, prompt):
            """Runs."""

    assert not can_take_picture(Stranger())
    with pytest.raises(TypeError, match="Stranger can't begin from a picture; leave it out"):
        from_picture(Stranger())
