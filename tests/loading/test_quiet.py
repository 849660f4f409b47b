"""A switch stays thrown for all who need it; what was left out comes when asked for."""

import gc
import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import diffusers
import pytest
import tiny
import torch
from diffusers.utils import logging as of_diffusers
from transformers import CLIPModel
from transformers.utils import logging as of_transformers

import ldmkit
from ldmkit.loading import quiet, siblings
from ldmkit.loading.open import moved_classes

CODE = """
import sys, threading
import ldmkit
pipe = ldmkit.load("critters")
loaded = [name for name in sys.modules if name.startswith("diffusers.models.transformers.")]
assert len(loaded) < 20, loaded  # of some eighty
import diffusers.models.autoencoders as autoencoders, diffusers.models.transformers as transformers
from diffusers.models.autoencoders import vae  # came by itself before
names = [(autoencoders, "AutoencoderTiny"), (transformers, "FluxTransformer2DModel"),
         (autoencoders, "AutoencoderKLWan"), (transformers, "WanTransformer3DModel")] * 4
start, wrong = threading.Barrier(len(names)), []
def ask(package, name):
    start.wait()
    try:
        getattr(package, name)
    except Exception as error:
        wrong.append(repr(error))
threads = [threading.Thread(target=ask, args=one) for one in names]
[thread.start() for thread in threads]
[thread.join(200) for thread in threads]
assert not wrong, wrong
assert not any(thread.is_alive() for thread in threads)
assert sys.modules["diffusers.models.autoencoders"].vae is vae
assert type(pipe.vae) is sys.modules["diffusers.models.autoencoders"].AutoencoderKL
from diffusers.models.transformers import FluxTransformer2DModel
from diffusers.models import AutoencoderTiny, autoencoders
import diffusers
assert autoencoders.AutoencoderTiny is AutoencoderTiny is diffusers.AutoencoderTiny
assert FluxTransformer2DModel is diffusers.FluxTransformer2DModel
assert type(pipe.vae) is autoencoders.AutoencoderKL
try:
    autoencoders.NoSuchNetwork
except AttributeError:
    pass
else:
    raise AssertionError("a name that does not exist was found")
"""


@pytest.mark.slow
def test_networks_that_were_left_out_come_when_threads_ask_for_them_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr


def bars():
    return of_diffusers.is_progress_bar_enabled() or of_transformers.is_progress_bar_enabled()


def karlo(tmp_path):
    index = tmp_path / "model_index.json"
    if not index.exists():
        index.write_text('{"text_proj": ["unclip", "UnCLIPTextProjModel"]}')
    return moved_classes(tmp_path)


SWITCHES = {
    "collector": (lambda path: quiet.swift_imports(), gc.isenabled, True),
    "bars": (lambda path: quiet.no_progress_bars(), bars, True),
    "classes": (karlo, lambda: hasattr(diffusers, "UnCLIPTextProjModel"), False),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_thrown_until_the_last_thread_leaves(name, tmp_path):
    """A comes, B comes, A leaves, B leaves; then twice as many as fast as they can."""
    make, state, before = SWITCHES[name]
    of_diffusers.enable_progress_bar()
    of_transformers.enable_progress_bar()
    assert state() is before
    a, b = make(tmp_path), make(tmp_path)
    a.__enter__()
    b.__enter__()
    assert state() is not before
    a.__exit__(None, None, None)
    assert state() is not before, "put back under the feet of the second"
    b.__exit__(None, None, None)
    assert state() is before

    def pass_through(_):
        with make(tmp_path):
            return state() is not before

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(pass_through, range(200)))
    assert state() is before


def test_what_one_thread_leaves_unsaid_another_says(caplog):
    logger = logging.getLogger("ldmkit.tests.quiet")
    inside, done = threading.Event(), threading.Event()

    def elsewhere():
        inside.wait(10)
        logger.warning("a word of the other")
        done.set()

    other = threading.Thread(target=elsewhere)
    other.start()
    with quiet.unsaid(logger.name), quiet.unsaid(logger.name):
        logger.warning("unsaid")
        inside.set()
        assert done.wait(10)
        logger.error("errors are said")
    other.join()
    logger.warning("said again")
    told = [entry.getMessage() for entry in caplog.records]
    assert told == ["a word of the other", "errors are said", "said again"]
    assert not logger.filters


def test_siblings_made_at_once_leave_the_log_as_it_was(monkeypatch):
    """Of two threads the one that came last used to put ERROR back."""
    logger = logging.getLogger("diffusers")
    monkeypatch.setattr(logger, "level", logging.INFO)
    kind = diffusers.StableDiffusionImg2ImgPipeline
    both_inside, leave = threading.Barrier(2), threading.Event()

    class Slow(kind):
        def __init__(self, *args, **kwargs):
            both_inside.wait(10)
            leave.wait(10) if threading.current_thread().name == "late" else leave.set()
            super().__init__(*args, **kwargs)

    options = {**tiny.pipeline(size="small").components, "requires_safety_checker": False}
    threads = [
        threading.Thread(target=siblings._quietly, args=(Slow, options), name=name)
        for name in ("early", "late")
    ]
    with ExitStack() as stack:
        for thread in threads:
            thread.start()
            stack.callback(thread.join, 20)
    assert logger.level == logging.INFO


def test_the_advice_on_safety_checkers_is_given_once(caplog):
    pipe = tiny.pipeline(size="small")
    pipe.register_to_config(requires_safety_checker=True)
    monkey = logging.getLogger("diffusers")
    monkey.propagate, before = True, monkey.propagate
    try:
        siblings.from_picture(pipe)
        told = [entry.getMessage() for entry in caplog.records]
        assert not any("safety checker" in words for words in told), told
        diffusers.StableDiffusionImg2ImgPipeline(**pipe.components)
        assert any("safety checker" in entry.getMessage() for entry in caplog.records)
    finally:
        monkey.propagate = before


def test_models_are_opened_one_after_the_other(tmp_path, monkeypatch):
    """Two at once could leave torch's weights unfilled, its default dtype changed, for good."""
    tiny.pipeline(size="small").save_pretrained(tmp_path)
    inside, most = 0, 0

    def slowly(kind):
        original = kind.from_pretrained

        def from_pretrained(*args, **kwargs):
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            try:
                threading.Event().wait(0.05)
                return original(*args, **kwargs)
            finally:
                inside -= 1

        monkeypatch.setattr(kind, "from_pretrained", from_pretrained)

    slowly(diffusers.DiffusionPipeline)
    slowly(CLIPModel)
    filled, dtype = torch.nn.init.normal_, torch.get_default_dtype()
    calls = [
        lambda: ldmkit.load(tmp_path, dtype="float16"),
        lambda: ldmkit.load(tmp_path),
        lambda: ldmkit.clip_space("critters-clip", device="cpu"),
    ]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda call: call(), calls))
    assert most == 1
    assert torch.nn.init.normal_ is filled
    assert torch.get_default_dtype() is dtype
