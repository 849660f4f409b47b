"""Small networks compute on one thread, and nobody else's number of threads changes."""

import copy
import inspect
import subprocess
import sys
import threading

import pytest
import torch

import ldmkit
from ldmkit.threads import all_on_one_thread, on_one_thread, one_thread


@pytest.fixture(autouse=True)
def _three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def fresh():
    """What a thread begins with that computes for the first time."""
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return seen[0]


def soon(number):
    """Until new threads begin with a number: it is put back by another thread."""
    return any(fresh() == number for _ in range(1000))


class Counting(torch.nn.Linear):
    def forward(self, x, fail=False):
        self.seen = torch.get_num_threads()
        if fail:
            raise KeyboardInterrupt
        return super().forward(x)


def test_one_inside_and_the_readers_own_outside():
    with one_thread():
        assert torch.get_num_threads() == 1
        assert soon(3)  # threads that begin meanwhile
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    assert soon(3)


def test_a_thread_that_computes_meanwhile_keeps_its_own():
    inside, go_on, seen = threading.Event(), threading.Event(), []

    def other():
        seen.append(torch.get_num_threads())
        inside.wait(10)
        seen.append(torch.get_num_threads())
        go_on.set()

    thread = threading.Thread(target=other)
    thread.start()
    with one_thread():
        inside.set()
        assert go_on.wait(10)
    thread.join()
    assert seen == [3, 3]


def test_two_threads_with_a_network_each():
    network, seen = on_one_thread(Counting(2, 2).eval()), []

    def other():
        network(torch.ones(1, 2))
        seen.append(torch.get_num_threads())

    threads = [threading.Thread(target=other) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [3] * 4
    assert torch.get_num_threads() == 3


def test_an_interrupted_call_gives_the_number_back():
    network = on_one_thread(Counting(2, 2).eval())
    with pytest.raises(KeyboardInterrupt):
        network(torch.ones(1, 2), fail=True)
    assert network.seen == 1
    assert torch.get_num_threads() == 3


def test_a_network_stays_what_it_is():
    plain = Counting(2, 2).eval()
    network = copy.deepcopy(plain)
    assert on_one_thread(network) is network
    assert type(network) is Counting
    assert inspect.signature(network.forward) == inspect.signature(plain.forward)
    assert network.state_dict().keys() == plain.state_dict().keys()
    x = torch.ones(1, 2)
    assert torch.equal(network(x), plain(x))
    assert (network.seen, plain.seen) == (1, 3)


def test_a_copy_computes_with_its_own_weights():
    network = on_one_thread(Counting(2, 2).eval())
    twin = copy.deepcopy(network)
    with torch.no_grad():
        twin.weight += 1
    x = torch.ones(1, 2)
    assert not torch.equal(twin(x), network(x))
    assert twin.seen == 1


def test_what_is_trained_takes_all():
    network = on_one_thread(Counting(2, 2).train())
    network(torch.ones(1, 2))
    assert network.seen == 3


@pytest.mark.parametrize("name", ["critters", "critters-unclip"])
def test_every_network_of_an_embedded_model(name):
    pipe = ldmkit.load(name)
    assert all_on_one_thread(pipe)
    seen = {}

    def noting(key):
        return lambda module, args: seen.setdefault(key, set()).add(torch.get_num_threads())

    for part, network in pipe.components.items():
        if not isinstance(network, torch.nn.Module) or not list(network.parameters()):
            continue
        halves = ("encoder", "decoder") if hasattr(network, "decode") else ("",)
        for half in halves:
            within = network.get_submodule(half).modules()
            for leaf in [m for m in within if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]:
                leaf.register_forward_pre_hook(noting((part, half)))
    picture = ldmkit.critters.Scene.sample(400_000).draw()
    if name == "critters":
        pipe("a red cat", num_inference_steps=1, guidance_scale=4.0)
    else:
        pipe("a red cat", num_inference_steps=1, prior_num_inference_steps=1)
    ldmkit.encode_image(pipe, picture)
    assert set().union(*seen.values()) == {1}
    assert {("unet", ""), ("vae", "encoder"), ("vae", "decoder"), ("text_encoder", "")} <= set(seen)
    assert torch.get_num_threads() == 3


def test_the_judge_and_clip():
    seen = []
    clip = ldmkit.clip_space("critters")
    picture = ldmkit.critters.Scene.sample(400_000).draw()

    def note(module, args):
        if isinstance(module, torch.nn.Linear) and "forward" not in vars(module):
            seen.append(torch.get_num_threads())

    handle = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        ldmkit.critters.judge(picture, "a red cat")
        clip.encode_text("a red cat")
        clip.encode_image(picture)
    finally:
        handle.remove()
    assert seen
    assert set(seen) == {1}


def test_a_readers_own_pipeline_computes_as_before(tmp_path):
    import tiny

    pipe, seen = ldmkit.load(tiny.pipeline()), []
    pipe.unet.conv_in.register_forward_pre_hook(
        lambda module, args: seen.append(torch.get_num_threads())
    )
    pipe("a red cat", num_inference_steps=1)
    assert seen == [3]
    on_one_thread(pipe.unet)
    assert not all_on_one_thread(pipe), "its text encoder isn't"


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_a_forked_child_computes_too():
    code = (
        "import os, torch; from ldmkit.threads import one_thread\n"
        "torch.set_num_threads(3)\n"
        "with one_thread(): pass\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    with one_thread(): inside = torch.get_num_threads()\n"
        "    os._exit(0 if (inside, torch.get_num_threads()) == (1, 3) else 1)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("wish", [None, "3"])
def test_doctor_says_how_many_and_why(wish, monkeypatch):
    from ldmkit import doctor

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if wish:
        monkeypatch.setenv("OMP_NUM_THREADS", wish)
    said = dict(doctor.examine().facts)["threads"]
    assert said.startswith(f"torch computes on 3 ({'OMP_NUM_THREADS is 3' if wish else ''}")
    assert ("CPU cores" in said) == (wish is None)
    assert "the embedded models on 1" in said
