"""Devices: which is chosen, how a model fits it, and where a network works that comes and goes.

No GPU is here: what torch says of one is faked. What needs a real one is in test_gpu.py.
"""

import gc
import warnings
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from accelerate.hooks import CpuOffload, add_hook_to_module, remove_hook_from_module

import ldmkit
from ldmkit import doctor
from ldmkit.loading import device as devices
from ldmkit.loading import memory
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


# --- which device, and how a model fits it: on figures, since this machine has no GPU -----------


class Gpu:
    """What torch says of GPUs, as a test wants it."""

    def __init__(self, monkeypatch):
        self._patch = monkeypatch
        self.there(cuda=False, mps=False)
        monkeypatch.setattr(devices, "_trouble", lambda device: "")

    def there(self, *, cuda, mps, count=1, name="Tesla T4", bfloat16=True, build="12.8"):
        put = self._patch.setattr
        put(torch.cuda, "is_available", lambda: cuda)
        put(torch.cuda, "device_count", lambda: count if cuda else 0)
        put(torch.cuda, "get_device_name", lambda device=None: name)
        put(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bfloat16)
        put(torch.cuda, "empty_cache", lambda: None)
        put(torch.version, "cuda", build)
        put(torch.backends.mps, "is_available", lambda: mps)

    def free(self, gigabytes):
        self._patch.setattr(memory, "free_memory", lambda device: gigabytes * 1e9)

    def broken(self, words):
        self._patch.setattr(devices, "_trouble", lambda device: words)


@pytest.fixture
def gpu(monkeypatch):
    return Gpu(monkeypatch)


@pytest.mark.parametrize(
    ("there", "chosen", "why"),
    [
        ({"cuda": True, "mps": False}, "cuda", "Tesla T4, the first of 1 GPU"),
        ({"cuda": True, "mps": True, "count": 2}, "cuda", "Tesla T4, the first of 2 GPUs"),
        ({"cuda": False, "mps": True, "build": None}, "mps", "Apple's GPU; this torch is a build"),
        ({"cuda": False, "mps": False, "build": None}, "cpu", "is a build without CUDA, and there"),
        ({"cuda": False, "mps": False}, "cpu", "torch finds no GPU that its build for CUDA"),
    ],
)
def test_the_device_is_chosen_with_a_reason(gpu, there, chosen, why, capsys):
    gpu.there(**there)
    gpu.free(15)
    assert devices.choose_device().type == chosen
    assert devices.found_device()[0] == chosen
    assert why in devices.found_device()[1]
    facts = dict(doctor.examine().facts)
    assert facts["device"].startswith(f"{chosen} (")
    assert why in facts["device"]
    assert facts["models"].startswith("with 15 GB free, whole: critters, critters-unclip, sd15,")
    rest = "; by parts: sd35-medium, flux2-klein; by layers: " if chosen == "cuda" else "; too larg"
    assert rest in facts["models"]


def test_a_gpu_that_can_compute_nothing_is_left_alone(gpu):
    gpu.there(cuda=True, mps=False, name="Tesla K80")
    gpu.broken("no kernel image is available for execution on the device")
    assert devices.choose_device().type == "cpu"
    assert devices.found_device()[1] == (
        "Tesla K80 is here, but a first computation on it failed: no kernel image is available "
        "for execution on the device, and there is no Apple GPU"
    )


@pytest.mark.parametrize("device", ["cuda:1", "mps", "xpu", "meta", "hpu", "vulkan"])
def test_devices_that_are_not_here_are_refused(gpu, device):
    gpu.there(cuda=True, mps=False)
    assert devices.choose_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ValueError, match=f"on this machine, got '{device}' and torch finds none"):
        devices.choose_device(device)


@pytest.mark.parametrize(
    ("device", "embedded", "made_in", "bfloat16", "chosen"),
    [
        ("cpu", False, "bfloat16", True, torch.float32),
        ("cuda", True, "bfloat16", True, torch.float32),
        ("cuda", False, "float16", False, torch.float16),
        ("cuda", False, "bfloat16", True, torch.bfloat16),
        ("mps", False, "bfloat16", False, torch.bfloat16),
    ],
)
def test_the_precision_follows_device_and_model(gpu, device, embedded, made_in, bfloat16, chosen):
    gpu.there(cuda=True, mps=True, bfloat16=bfloat16)
    got = devices.choose_dtype(None, torch.device(device), embedded=embedded, made_in=made_in)
    assert got == chosen


def test_a_t4_hears_that_it_imitates_bfloat16(gpu):
    gpu.there(cuda=True, mps=False, bfloat16=False)
    with pytest.warns(UserWarning, match="this GPU has no bfloat16 of its own"):
        got = devices.choose_dtype(None, torch.device("cuda"), embedded=False, made_in="bfloat16")
    assert got == torch.bfloat16


class Pipe(SimpleNamespace):
    """A pipeline that only notes how it is placed: 8 GB and 2 GB of halves, without memory."""

    model_cpu_offload_seq = "words->network"

    def __init__(self, **parts):
        with torch.device("meta"):
            words, network = Part(1, 2 * 10**9), Part(1, 5 * 10**8)
        tiling = SimpleNamespace(enable_tiling=lambda: self.done.append("tiles"))
        super().__init__(done=[], vae=tiling, components={"words": words, "network": network})
        for name, part in parts.items():
            self.components[name] = part
        for name, part in self.components.items():
            part.half()
            part.to = lambda *where, name=name: self.done.append((name, *where))

    def to(self, *where):
        self.done.append(("all", *where))
        return self

    def enable_model_cpu_offload(self, device):
        self.done.append("parts")

    def enable_group_offload(self, device, offload_type, exclude_modules):
        self.done.append((offload_type, *exclude_modules))


CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("gigabytes", "done", "said"),
    [
        (40, [("all", CUDA)], None),
        (12, ["parts", "tiles"], "works by parts: what isn't at work waits"),
        (9, [("leaf_level",), "tiles"], "works by layers: what isn't at work waits"),
    ],
)
def test_the_plan_follows_free_memory(gpu, gigabytes, done, said):
    gpu.there(cuda=True, mps=False)
    gpu.free(gigabytes)
    pipe = Pipe()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert memory.place(pipe, CUDA) is pipe
    assert pipe.done == done
    assert [said in str(one.message) for one in heard] == ([] if said is None else [True])


def test_autoencoders_and_parts_that_groups_cannot_take_stay(gpu):
    gpu.free(1)
    with torch.device("meta"):
        autoencoder = Part(2, 2)
    autoencoder.decode = print
    pipe = Pipe(coder=autoencoder)
    pipe.components["words"]._supports_group_offloading = False
    with pytest.warns(UserWarning, match="by layers"):
        memory.place(pipe, CUDA)
    assert pipe.done == [("leaf_level", "words", "coder"), "tiles"]


def test_on_mps_nothing_is_sliced_and_what_may_not_fit_is_said(gpu):
    gpu.there(cuda=False, mps=True)
    gpu.free(9)
    mps = torch.device("mps")
    pipe = Pipe()
    with pytest.warns(UserWarning, match="mps has 9.0 GB free, so a run may not fit"):
        memory.place(pipe, mps)
    assert pipe.done == [("all", mps)]
    sources = Path(memory.__file__).parents[1].rglob("*.py")
    callers = [f.name for f in sources if "enable_attention_slicing(" in f.read_text()]
    assert callers == []


class Quantised(torch.nn.Parameter):
    """As GGUF and torchao keep weights: parameters of a class of their own."""


def test_what_is_quantised_or_mapped_is_not_moved(gpu):
    gpu.free(40)
    pipe = Pipe()
    pipe.components["network"].is_quantized = True
    with pytest.warns(UserWarning, match=r"Not moved: network is quantised\.$"):
        memory.place(pipe, CUDA)
    assert pipe.done == [("words", CUDA)]

    with torch.device("meta"):
        by_hand = Part(2, 2)
        by_hand.weight = Quantised(by_hand.weight.data)
    pipe = Pipe(by_hand=by_hand)
    with pytest.warns(UserWarning, match=r"Not moved: by_hand is quantised\.$"):
        memory.move(pipe, CUDA, torch.float16)
    assert pipe.done == [("words", CUDA, torch.float16), ("network", CUDA, torch.float16)]

    pipe = Pipe()
    pipe.hf_device_map = {"words": 0, "network": 1}
    with pytest.warns(UserWarning, match="words is placed by the pipeline's device_map; network"):
        memory.move(pipe, CUDA)
    assert pipe.done == []


def test_what_comes_and_goes_is_not_moved(guest):
    pipe = Pipe(guest=guest)
    with pytest.warns(UserWarning, match="guest is brought to its device whenever it works"):
        memory.move(pipe, torch.device("cpu"))
    assert [name for name, _ in pipe.done] == ["words", "network"]


@pytest.mark.parametrize(
    ("machine", "free", "device", "dtype", "said"),
    [
        (70, 69, "cpu", torch.float32, None),
        (36, 0, "cpu", torch.float32, '36 GB of memory; take dtype="bfloat16", take a larger'),
        (13, 0, "cpu", torch.float32, "13 GB of memory; take a larger machine"),
        (13, 15, "cuda", torch.float16, "34 GB of weights in float16 and this machine has 13 GB"),
        (13, 80, "cuda", torch.float16, "34 GB of weights in float16 and this machine has 13 GB"),
        (35, 15, "cuda", torch.float16, None),
    ],
)
def test_what_nothing_can_hold_is_refused_before_it_is_fetched(
    gpu, monkeypatch, machine, free, device, dtype, said
):
    ram = SimpleNamespace(total=machine * 10**9, available=0)
    monkeypatch.setattr("psutil.virtual_memory", lambda: ram)
    gpu.free(free)
    weights = 17 * 10**9 * dtype.itemsize
    if said is None:
        memory.check_room("flux-dev", weights, torch.device(device), dtype)
        return
    with pytest.raises(MemoryError) as raised:
        memory.check_room("flux-dev", weights, torch.device(device), dtype)
    assert said in str(raised.value)
    monkeypatch.setattr("diffusers.FluxPipeline.from_pretrained", pytest.fail)
    gpu.there(cuda=device == "cuda", mps=False)
    with pytest.raises(MemoryError, match="flux-dev has"):
        ldmkit.load("flux-dev", device=device, dtype=dtype)


def test_a_model_that_fits_no_free_memory_is_said(gpu):
    gpu.free(3)
    with pytest.warns(UserWarning, match="and this machine has 3 GB of memory free; close what"):
        memory.check_room("sd15", 4 * 10**9, torch.device("cpu"), torch.float32)


def test_free_memory_counts_what_torch_keeps_unused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5 * 10**9, 15 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 4 * 10**9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1 * 10**9)
    assert memory.free_memory(CUDA) == 8 * 10**9
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 3 * 10**9)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 1 * 10**9)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 12 * 10**9)
    ram = SimpleNamespace(total=16 * 10**9, available=11 * 10**9)
    monkeypatch.setattr("psutil.virtual_memory", lambda: ram)
    assert memory.free_memory(torch.device("mps")) == 10 * 10**9


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: ..."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't "
                     "allocate memory: you tried to allocate 4000000000000 bytes."),
        MemoryError(),
    ],
)  # fmt: skip
def test_memory_that_ran_out_is_one_sentence_and_holds_nothing(error):
    def run():
        latents = torch.zeros(8)
        alive.append(weakref.ref(latents))
        raise error

    alive = []
    with (
        pytest.raises(torch.OutOfMemoryError, match=r"^The memory of cuda ran out") as raised,
        memory.told_of_memory("cuda"),
    ):
        run()
    assert "\n" not in str(raised.value)
    assert alive[0]() is None, "the error's frames keep the run's tensors"


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match="shapes differ"), memory.told_of_memory("cpu"):
        raise RuntimeError("shapes differ")


# --- by layers, with diffusers' own groups (on the CPU: they come from there and go there) -------


def test_a_model_by_layers_is_recorded_as_the_bare_one():
    """... in float16 with an autoencoder that needs float32, as Stable Diffusion XL's does."""
    whole, parted = tiny.pipeline(size="small"), tiny.pipeline(size="small")
    for pipe in (whole, parted):
        pipe.vae.register_to_config(force_upcast=True)
        pipe.to(dtype=torch.float16)
    with pytest.warns(UserWarning, match="works by layers"):
        memory._offload(parted, torch.device("cpu"), "by layers", "1 GB of weights", 0.0)
    assert works_on(parted.unet) == torch.device("cpu")
    call = {"num_inference_steps": 2}
    bare = whole("a red cat", generator=torch.Generator("cpu").manual_seed(7), **call).images[0]
    traj = ldmkit.record(parted, "a red cat", seed=7, keep="all", preview="vae", **call)
    assert np.array_equal(np.asarray(bare), np.asarray(traj.image))
    assert len(traj.pictures("denoised")) == 2
    unet = parted.unet
    weights = [weakref.ref(weight) for weight in unet.parameters()]
    ldmkit.release(parted)
    gc.collect()
    assert all(weight.is_meta for weight in unet.parameters())
    assert [one() for one in weights] == [None] * len(weights)


def test_groups_say_where_they_work():
    part = torch.nn.Sequential(Part(2, 2))  # the first that works tells, as in diffusers
    config = SimpleNamespace(onload_device=torch.device("meta"))
    hooks = {"other": SimpleNamespace(), "group_offloading": SimpleNamespace(config=config)}
    part[0]._diffusers_hook = SimpleNamespace(hooks=hooks)
    assert works_on(part) == torch.device("meta")
