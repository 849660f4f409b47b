"""``release`` frees memory and leaves a pipeline that says so."""

import gc
import weakref

import pytest
import tiny

import ldmkit
from ldmkit.loading import device
from ldmkit.recording import record


def test_a_released_pipeline_says_so():
    pipe = tiny.pipeline(size="small")
    unet = pipe.unet
    ldmkit.release(pipe)
    assert next(unet.parameters()).is_meta, "whoever held the network would hold its memory"
    for use in (lambda: pipe("a cat"), lambda: record(pipe, "a cat")):
        with pytest.raises((RuntimeError, TypeError), match=r"ldmkit\.load"):
            use()
    ldmkit.release(pipe)  # twice is once


def test_nothing_of_it_stays_in_memory():
    pipe = tiny.pipeline(size="small")
    record(pipe, "a cat", seed=1, num_inference_steps=1)  # its fit and locks are cached weakly
    parts = [weakref.ref(part) for part in (pipe.unet, pipe.vae, pipe.text_encoder)]
    ldmkit.release(pipe)
    gc.collect()
    assert [part() for part in parts] == [None] * 3


def test_release_all_frees_what_load_made(tmp_path):
    tiny.pipeline(size="small").save_pretrained(tmp_path)
    ours, stranger = ldmkit.load(tmp_path), tiny.pipeline(size="small")
    ldmkit.release()
    assert isinstance(ours, device.Released)
    assert not isinstance(stranger, device.Released)


def test_what_is_no_pipeline():
    with pytest.raises(TypeError, match="release takes a pipeline"):
        ldmkit.release("critters")


def test_memory_is_planned_with_room_for_a_picture():
    assert device.fits(weights=1_000, free=2_000)
    assert not device.fits(weights=1_000, free=1_100)
