"""Record files: what is written comes back, and nothing else is believed."""

import contextlib
import json
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldmkit.records import RecordError, Trajectory
from ldmkit.records.record import MAX_HEADER, read_record, write_atomically
from ldmkit.records.trajectory import ESTIMATES

from .make import make, write_record

NAMES = ("latents", *ESTIMATES, "timesteps", "alphas", "sigmas", "rgb")


def same(a, b):
    assert repr(a) == repr(b)
    for name in NAMES:
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None), name
        assert left is None or np.array_equal(left, right), name
    for name in ("prompt", "negative_prompt", "seed", "call", "model", "versions", "stopped"):
        assert getattr(a, name) == getattr(b, name), name
    assert a.previews.keys() == b.previews.keys()
    assert all(np.array_equal(a.previews[lane], b.previews[lane]) for lane in a.previews)
    assert [p.tobytes() for p in a.images] == [p.tobytes() for p in b.images]
    assert len(a.stages) == len(b.stages)
    for left, right in zip(a.stages, b.stages, strict=True):
        same(left, right)


@pytest.fixture
def saved(tmp_path):
    return make(4).save(tmp_path / "run.safetensors")


def test_round_trip_to_the_bit(tmp_path):
    prior = make(2, side=1, previews=(), images=(), rgb=None)
    traj = make(
        4,
        batch=2,
        prompt=("</script> ", "é 🦊 \u2028 \ud800"),
        seed=(3, 4),
        negative_prompt="blurry",
        stopped=True,
        stages=(prior, make(1)),
    )
    same(traj, Trajectory.open(traj.save(tmp_path / "a b.safetensors")))


def test_safetensors_itself_reads_the_file(saved):
    from safetensors.numpy import load_file

    assert np.array_equal(load_file(saved)["latents"], make(4).latents)


def test_float16_halves_the_arrays_and_keeps_the_schedule(tmp_path):
    traj = make(8, side=32, previews=())
    full, half = tmp_path / "full", tmp_path / "half"
    traj.save(full), traj.save(half, dtype="float16")
    assert half.stat().st_size < 0.6 * full.stat().st_size
    twin = Trajectory.open(half)
    assert np.array_equal(twin.alphas, traj.alphas)
    assert twin.latents.dtype == np.float32
    assert np.abs(twin.latents - traj.latents).max() <= 2**-10 * np.abs(traj.latents).max()


def test_float16_refuses_what_it_cannot_hold(tmp_path):
    traj = make(2, latents=np.full((3, 1, 4, 16, 16), 1e6))
    with pytest.raises(RecordError, match=r'latents reaches 1e\+06.*dtype="float32"'):
        traj.save(tmp_path / "x", dtype="float16")
    with pytest.raises(RecordError, match='dtype must be "float32" or "float16"'):
        traj.save(tmp_path / "x", dtype="int8")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", [{"f": print}, {"guidance_scale": float("nan")}, {"x": {1, 2}}])
def test_call_must_be_json(tmp_path, call):
    with pytest.raises(RecordError, match="must be plain JSON"):
        make(2, call=call).save(tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_long_prompt_is_saved_and_an_endless_one_refused(tmp_path):
    path = make(2, prompt="🦊" * 10_000).save(tmp_path / "long")
    assert len(Trajectory.open(path).prompt) == 10_000
    with pytest.raises(RecordError, match="shorten the prompt"):
        make(2, prompt="x" * MAX_HEADER).save(tmp_path / "endless")
    assert [p.name for p in tmp_path.iterdir()] == ["long"]


def test_an_interrupted_write_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "run"
    path.write_text("old")

    def interrupted(part: Path) -> None:
        part.write_text("half of the new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="missing"):
        make(2).save(tmp_path / "missing" / "run")
    with pytest.raises(FileNotFoundError):
        Trajectory.open(tmp_path / "missing")
    with pytest.raises(RecordError, match="is a folder"):
        Trajectory.open(tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, 2000, -1])
def test_truncated(saved, keep):
    whole = saved.read_bytes()
    saved.write_bytes(whole[:keep])
    with pytest.raises(RecordError, match=r"cut off or damaged|not a record"):
        Trajectory.open(saved)


def test_longer_than_it_says(saved):
    saved.write_bytes(saved.read_bytes() + b"tail")
    with pytest.raises(RecordError, match="contradicts itself"):
        Trajectory.open(saved)


def test_foreign_files(tmp_path):
    from safetensors.numpy import save_file

    picture, archive, weights = (tmp_path / n for n in ("png", "zip", "weights"))
    make(2).image.save(picture, "PNG")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", "b" * 100)
    save_file({"w": np.zeros(3, np.float32)}, weights, metadata={"format": "pt"})
    (tmp_path / "text").write_text('{"a": 1}' * 10)
    for path in (picture, archive, weights, tmp_path / "text"):
        with pytest.raises(RecordError, match="not a record"):
            Trajectory.open(path)


def header(path: Path, fields: dict, *, data: bytes = b"", meta: dict | None = None) -> Path:
    """Writes a file with this header, by hand."""
    meta = {"format": "trajectory", "version": 1} if meta is None else meta
    text = json.dumps({"__metadata__": {"ldmkit": json.dumps(meta)}, **fields}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


TEN_GB = 10 * 2**30


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"latents": entry([TEN_GB // 4], 0, TEN_GB)}, "contradicts itself"),
        ({"latents": entry([TEN_GB // 4], 0, 64)}, "contradicts itself"),
        ({"latents": entry([2**40, 2**40, 0], 0, 0)}, "contradicts itself"),
        ({"a": entry([0, 2**47, 2**47], 0, 0)}, "in a way that records never do"),
        ({"a": entry([2**47, 2**15, 0], 0, 0)}, "in a way that records never do"),
        ({"a": entry([10**5] * 3 + [0], 0, 0)}, "in a way that records never do"),
        ({"a": entry([0] * 70, 0, 0)}, "in a way that records never do"),
        ({"latents": entry([2**60], 0, 64)}, "contradicts itself"),
        ({"latents": entry([-16], 0, 64)}, "contradicts itself"),
        ({"latents": entry([True] * 9, 0, 64)}, "contradicts itself"),
        ({"latents": entry([16.0], 0, 64)}, "contradicts itself"),
        ({"latents": entry([16], 64, 0)}, "contradicts itself"),
        ({"a": entry([0], 0, 0, "I64")}, "in a way that records never do"),
        ({"a": entry([0], 0, 0, "BF16")}, "in a way that records never do"),
        ({"latents": {"shape": [16]}}, "contradicts itself"),
        ({"latents": [1, 2]}, "contradicts itself"),
        ({"a": entry([16], 0, 64), "b": entry([16], 0, 64)}, "contradicts itself"),
        ({"a": entry([8], 32, 64)}, "contradicts itself"),
        ({"a": entry([8], 0, 32)}, "contradicts itself"),
        ({f"a{i}": entry([0], 0, 0) for i in range(10_001)}, "lists 10,001 arrays"),
    ],
)
def test_hostile_headers_cost_nothing(tmp_path, fields, words):
    """Whatever an array claims, and where: safetensors' and numpy's own words don't come out."""
    some = any(e["shape"] != [0] and 0 not in e["shape"] for e in fields.values() if "shape" in e)
    path = header(tmp_path / "x", fields, data=bytes(64 if some else 0))
    tracemalloc.start()
    try:
        with pytest.raises(RecordError, match=words):
            Trajectory.open(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_ten_gb_header(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(struct.pack("<Q", TEN_GB) + b"{" + bytes(64))
    with pytest.raises(RecordError, match="claims a header of 10,737,418,240 bytes"):
        Trajectory.open(path)


def test_a_real_file_over_the_limit(saved):
    with pytest.raises(RecordError, match=r"the limit is 1,000; raise it with max_bytes="):
        Trajectory.open(saved, max_bytes=1000)


def test_deeply_nested_json(tmp_path):
    text = b"{" + b'"a":[' * 100_000
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(RecordError, match="contradicts itself"):
        Trajectory.open(tmp_path / "x")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "walk"}, "holds 'walk', not a trajectory"),
        ({"version": 2}, "is of version 2, this ldmkit reads 1"),
        ({"prompt": 7}, "prompt must be str"),
        ({"stages": [{}] * 257}, "at most 256 stages"),
        ({"stages": 5}, "not a whole trajectory"),
        ({"call": 5}, "not a whole trajectory"),
    ],
)
def test_words_that_contradict_the_arrays(saved, change, words):
    arrays, meta = read_record(saved, max_bytes=2**30)
    write_record(saved, arrays, meta | change)
    with pytest.raises(RecordError, match=words):
        Trajectory.open(saved)


def test_missing_and_misshapen_arrays(saved):
    arrays, meta = read_record(saved, max_bytes=2**30)
    write_record(saved, {k: v for k, v in arrays.items() if k != "alphas"}, meta)
    with pytest.raises(RecordError, match="it lacks 'alphas'"):
        Trajectory.open(saved)
    write_record(saved, arrays | {"latents": arrays["latents"][:2]}, meta)
    with pytest.raises(RecordError, match="latents must have the shape"):
        Trajectory.open(saved)
    write_record(saved, arrays | {"images": np.zeros((1, 3, 3, 7), np.uint8)}, meta)
    with pytest.raises(RecordError, match="not a whole trajectory"):
        Trajectory.open(saved)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, 1500), value=st.integers(0, 255))
def test_a_flipped_byte_is_read_or_refused(saved, place, value):
    """Whatever stands in the header, opening gives a record or a RecordError, nothing else."""
    damaged = bytearray(saved.read_bytes())
    damaged[place] = value
    twin = saved.with_name("damaged")
    twin.write_bytes(damaged)
    with contextlib.suppress(RecordError):
        assert isinstance(Trajectory.open(twin), Trajectory)
