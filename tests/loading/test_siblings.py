"""Twins and image-to-image siblings: the same parts, the same picture, the original untouched."""

import threading

import diffusers
import numpy as np
import pytest
import tiny
import tiny_unclip
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from ldmkit.loading.siblings import (
    Origin,
    can_take_picture,
    from_picture,
    origin_of,
    remember,
    takes_picture,
    twin_of,
)
from ldmkit.recording.hooks import Tape, hooked


def shared(one, other):
    """Names of the parts that two pipelines share."""
    return {name for name, part in one.components.items() if part is other.components.get(name)}


def test_a_twin_shares_all_but_its_scheduler_and_changes_alone():
    pipe = tiny.pipeline(size="small")
    before = dict(vars(pipe))
    twin = twin_of(pipe)
    assert type(twin) is type(pipe)
    assert set(pipe.components) - shared(pipe, twin) == {"scheduler"}
    assert twin.scheduler.config == pipe.scheduler.config
    twin.set_progress_bar_config(disable=None)
    twin.scheduler = None
    assert vars(pipe) == before


def test_the_sibling_shares_parts_and_makes_the_same_picture():
    pipe = tiny.pipeline(size="small")
    remember(pipe, Origin("mine", {"num_inference_steps": 4}))
    sibling = from_picture(pipe)
    assert type(sibling) is StableDiffusionImg2ImgPipeline
    assert set(sibling.components) - shared(sibling, pipe) == {"scheduler"}
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


# --- schedulers of their own ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", tiny.SCHEDULERS)
def test_a_twins_run_leaves_the_scheduler_alone_and_makes_the_same_picture(kind):
    pipe = tiny.pipeline(size="small")
    pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config)
    pipe("a dog", num_inference_steps=5)  # leaves its state behind
    twin, before = twin_of(pipe), state(pipe.scheduler)
    pictures = []
    for one in (twin, pipe):
        call = {"num_inference_steps": 6, "generator": torch.Generator().manual_seed(1)}
        pictures.append(np.asarray(one("a cat", **call).images[0], int))
        if one is twin:
            assert state(pipe.scheduler) == before
    assert np.abs(pictures[0] - pictures[1]).max() == 0


def state(scheduler):
    return {name: repr(value) for name, value in vars(scheduler).items()}


def test_what_was_set_by_hand_goes_with_it():
    pipe = tiny.pipeline(size="small")
    pipe.scheduler.alphas_cumprod = pipe.scheduler.alphas_cumprod**2  # no config tells this
    twin = twin_of(pipe)
    assert torch.equal(twin.scheduler.alphas_cumprod, pipe.scheduler.alphas_cumprod)
    twin.scheduler.alphas_cumprod[0] = 7
    assert pipe.scheduler.alphas_cumprod[0] < 1


def test_a_recorders_step_stays_with_the_original():
    pipe = tiny.pipeline(size="small")
    with hooked(pipe.scheduler, (), Tape()) as tape:
        twin_of(pipe)("a cat", num_inference_steps=2)
        from_picture(pipe)("a cat", image=Image.new("RGB", (64, 64)), num_inference_steps=2)
    assert tape.calls == []


def test_a_students_scheduler_is_copied():
    class Own:
        def __init__(self):
            self.lock, self.seen = threading.Lock(), []

        def step(self, *args):
            self.seen.append(args)

    class Pipe:
        def __init__(self):
            self.scheduler = Own()

        def __call__(self):
            self.scheduler.step(1)

    pipe = Pipe()
    twin_of(pipe)()
    assert pipe.scheduler.seen == []


@pytest.mark.parametrize("name", ["karlo", "kandinsky", "stable"])
def test_every_scheduler_of_a_pipeline_that_has_several(name):
    pipe = getattr(tiny_unclip, name)()
    twin = twin_of(pipe)
    own = {n for n, part in pipe.components.items() if callable(getattr(part, "step", None))}
    assert set(pipe.components) - shared(pipe, twin) == own
    assert len(own) > 1
    for part in ("prior_pipe", "decoder_pipe"):  # Kandinsky's, which hold them again
        if hasattr(pipe, part):
            inner = getattr(twin, part)
            assert inner.scheduler is not getattr(pipe, part).scheduler
            assert inner.scheduler in (twin.scheduler, twin.prior_scheduler)
