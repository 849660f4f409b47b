"""Where a network works: its own device, or the one that accelerate brings it to for each call."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.hooks import CpuOffload, add_hook_to_module, remove_hook_from_module

from ldmkit.loading.device import at_work, works_on


class Part(torch.nn.Linear):
    """As diffusers' models do, it says where it is."""

    @property
    def device(self):
        return self.weight.device


@pytest.fixture
def guest():
    """A network that comes and goes; "meta" stands for the GPU that this machine lacks."""
    part = Part(2, 2)
    add_hook_to_module(part, CpuOffload(execution_device="meta"))
    yield part
    remove_hook_from_module(part)


def test_a_network_that_stays():
    part = Part(2, 2)
    assert works_on(part) == torch.device("cpu")
    with at_work(part) as device:
        assert device == torch.device("cpu")


def test_a_network_that_comes_and_goes(guest):
    assert works_on(guest) == torch.device("meta")
    assert guest.device == torch.device("cpu")


def test_a_guest_is_sent_home_whatever_happens(guest):
    gone = []
    guest.to = gone.append

    def fail():
        with at_work(guest) as device:
            assert device == torch.device("meta")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert gone == [torch.device("cpu")]


def test_what_is_nowhere_between_calls_is_not_sent_there():
    hook = SimpleNamespace(execution_device="cpu")  # layer by layer: weights come with each call
    part = SimpleNamespace(device=torch.device("meta"), _hf_hook=hook, to=pytest.fail)
    with at_work(part) as device:
        assert device == torch.device("cpu")
