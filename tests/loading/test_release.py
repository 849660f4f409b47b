"""``release`` frees memory and leaves a pipeline that says so."""

import copy
import gc
import threading
import time
import weakref

import numpy as np
import pytest
import tiny
import tiny_unclip
from PIL import Image

import ldmkit
from ldmkit.check import heard_by
from ldmkit.loading import device
from ldmkit.loading.samplers import with_sampler
from ldmkit.recording import record


def test_a_released_pipeline_says_so():
    pipe = tiny.pipeline(size="small")
    unet = pipe.unet
    ldmkit.release(pipe)
    assert next(unet.parameters()).is_meta, "whoever held the network would hold its memory"
    ldmkit.release(pipe)  # twice is once


@pytest.fixture(scope="module")
def released():
    pipe = tiny.pipeline(size="small")
    twin = with_sampler(pipe, "euler")
    ldmkit.release(pipe)
    return {"pipe": pipe, "twin": twin}


PICTURE = Image.new("RGB", (32, 32))
USES = {
    "call": lambda pipe: pipe("a cat"),
    "record": lambda pipe: record(pipe, "a cat"),
    "load": ldmkit.load,
    "anatomy": ldmkit.anatomy,
    "sweep": lambda pipe: ldmkit.sweep(pipe, {"seed": [1]}, "a red cat"),
    "compare": lambda pipe: ldmkit.compare({"a": pipe}, ["a red cat"]),
    "compare samplers": lambda pipe: ldmkit.compare(pipe, ["a red cat"], scheduler="ddim"),
    "clip_space": ldmkit.clip_space,
    "score": lambda pipe: ldmkit.score(PICTURE, "a red cat", clip=pipe),
    **{
        f"interpolate {space}": lambda pipe, space=space, ends=ends, more=more: ldmkit.interpolate(
            pipe, *ends, space=space, **more
        )
        for space, ends, more in (
            ("clip_image", (PICTURE, PICTURE), {}),
            ("prompt", ("a cat", "a dog"), {}),
            ("noise", (1, 2), {"prompt": "a cat"}),
            ("latent", (PICTURE, PICTURE), {}),
        )
    },
    "text_diff": lambda pipe: ldmkit.text_diff(pipe, PICTURE, "a cat", "a dog"),
    "sample_prior": lambda pipe: ldmkit.sample_prior(pipe, "a cat"),
    "decode_embedding": lambda pipe: ldmkit.decode_embedding(pipe, np.zeros(8)),
    "variations": lambda pipe: ldmkit.variations(pipe, PICTURE),
    "invert": lambda pipe: ldmkit.invert(pipe, PICTURE),
    "encode_image": lambda pipe: ldmkit.encode_image(pipe, PICTURE),
    "decode_latents": lambda pipe: ldmkit.decode_latents(pipe, np.zeros((4, 8, 8))),
    "with_sampler": lambda pipe: with_sampler(pipe, "ddim"),
    "a scheduler of another": lambda pipe: setattr(pipe, "scheduler", None),
    "PromptPanel": ldmkit.PromptPanel,
}


@pytest.mark.parametrize("who", ["pipe", "twin"])
@pytest.mark.parametrize("use", USES)
def test_whatever_is_asked_of_it_and_of_its_twins(released, use, who):
    with pytest.raises(RuntimeError, match="was released and has no weights any more"):
        USES[use](released[who])


def test_what_is_not_asked_of_it(released):
    """What notebooks poke at; release; a repr."""
    pipe = released["pipe"]
    ldmkit.release(pipe)
    assert "Released" in repr(pipe)
    assert not hasattr(pipe, "_repr_html_")
    assert not hasattr(pipe, "_ipython_canary_method_should_not_exist_")


def test_a_space_of_a_released_pipeline_says_so():
    unclip = tiny_unclip.stable()
    space = ldmkit.clip_space(unclip)
    space.encode_text("a cat")
    ldmkit.release(unclip)
    with pytest.raises(RuntimeError, match="was released"):
        space.encode_text("a cat")


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


def in_thread(pipe, run):
    """Starts a run beside this thread, waits for its first step; what it gives, by ``wait()``."""
    began, found = threading.Event(), []

    def work():
        try:
            found.append(run(pipe))
        except Exception as error:
            found.append(error)

    pipe.unet.register_forward_pre_hook(lambda *_: (began.set(), time.sleep(0.05))[0])
    thread = threading.Thread(target=work)
    thread.start()
    assert began.wait(60)

    def wait():
        thread.join(60)
        return found[0]

    return wait


def test_a_record_in_another_thread_is_stopped_and_keeps_its_part():
    pipe = tiny.pipeline(size="small")
    wait = in_thread(pipe, lambda pipe: record(pipe, "a cat", num_inference_steps=20))
    with pytest.warns(UserWarning, match="release stopped 1 run of this pipeline first"):
        ldmkit.release(pipe)
    traj = wait()
    assert traj.stopped
    assert 0 < len(traj.steps) < 20


def test_a_sweep_in_another_thread_is_stopped_and_keeps_its_pictures():
    pipe = tiny.pipeline(size="small")
    made = []
    wait = in_thread(
        pipe,
        lambda pipe: ldmkit.sweep(
            pipe, {"seed": range(9)}, "a cat", num_inference_steps=3, on_update=made.append
        ),
    )
    with pytest.warns(UserWarning, match="release stopped 1 run"):
        ldmkit.release(pipe)
    grid = wait()
    assert not isinstance(grid, Exception), grid
    assert [image is not None for image in grid.images] == [i < len(made) for i in range(9)]
    assert len(made) < 9


@pytest.mark.parametrize("place", ["between steps", "within the U-Net", "within the decoder"])
def test_a_bare_run_in_another_thread_ends_in_a_true_sentence(place):
    """Nothing stands round a pipeline that nobody records: the weights that it needs say it."""
    pipe, own = tiny.pipeline(size="small"), copy.copy(tiny.pipeline(size="small"))
    own.register_modules(unet=pipe.unet)  # a stranger with one of its networks
    inside, go_on, ended = threading.Event(), threading.Event(), []

    def pause(*args):
        inside.set()
        go_on.wait(20)

    call = {"num_inference_steps": 3}
    if place == "between steps":
        call["callback_on_step_end"] = lambda *args: pause() or {}
    elif place == "within the U-Net":
        pipe.unet.mid_block.register_forward_pre_hook(pause)
    else:
        pipe.vae.decoder.conv_in.register_forward_pre_hook(pause)

    def run():
        try:
            pipe("a cat", **call)
        except RuntimeError as error:
            ended.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    assert inside.wait(20)
    unet = pipe.unet
    ldmkit.release(pipe)
    go_on.set()
    thread.join(20)
    assert ended == [device.RELEASED]
    for use in (lambda: own("a cat", **call), lambda: unet.conv_in.weight + 1, unet.state_dict):
        with pytest.raises(RuntimeError, match="was released and has no weights any more"):
            use()


BETWEEN = {
    "sweep": lambda pipe, then: ldmkit.sweep(
        pipe, {"seed": range(3)}, "a cat", num_inference_steps=1, on_update=then
    ),
    "compare": lambda pipe, then: ldmkit.compare(
        pipe, ["a red cat"] * 3, batch_size=1, num_inference_steps=1, on_update=then
    ),
    "interpolate": lambda pipe, then: ldmkit.interpolate(
        pipe, 1, 2, space="noise", t=[0, 0.5, 1], prompt="a cat", num_inference_steps=1,
        batch_size=1, on_frame=lambda number, picture: then(number),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BETWEEN)
def test_a_release_between_two_pictures_loses_none(what):
    pipe = tiny.pipeline(size="small")
    with pytest.warns(UserWarning, match="was released: 1 of 3 pictures are made and kept"):
        made = BETWEEN[what](pipe, lambda told: ldmkit.release(pipe))
    assert sum(image is not None for image in made.images) == 1


def test_a_release_before_the_first_picture_of_a_compare_is_said():
    """Each model makes a picture first, to be warm: that one is stopped, too."""
    pipe = tiny.pipeline(size="small")
    compare = BETWEEN["compare"]
    wait = in_thread(pipe, lambda pipe: compare(pipe, None))
    with heard_by(lambda words: None):
        ldmkit.release(pipe)
    assert str(wait()) == device.RELEASED


def test_a_callback_cannot_release_its_own_run():
    pipe = tiny.pipeline(size="small")
    with pytest.raises(RuntimeError, match="can't be released by its own run"):
        record(pipe, "a cat", num_inference_steps=2, on_step=lambda step: ldmkit.release(pipe))
    assert record(pipe, "a cat", num_inference_steps=1).images, "nothing was released"
