"""A picture with its call: what comes back, and what broken or hostile files get told."""

import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ldmkit.records import RecordError, Trajectory
from ldmkit.records.png import KEY, MAX_TEXT

from .make import PROMPT, make

HOSTILE = "</script><script>alert(1)</script>\" onload='x' \u2028 & <b>"


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def itxt(text, key=KEY):
    return chunk(b"iTXt", key.encode() + b"\0\1\0\0\0" + zlib.compress(text))


def png(*chunks, size=(8, 8), claims=None, before=()):
    """A PNG with chunks of any kind between its header and its pixels, or before the header."""
    rows = zlib.compress(b"".join(b"\0" + bytes(3 * size[0]) for _ in range(size[1])))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *(claims or size), 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + b"".join(before)
        + header
        + b"".join(chunks)
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


def words(**changed):
    told = {
        "format": "call",
        "version": 1,
        "prompt": "a cat",
        "negative_prompt": None,
        "seed": 7,
        "call": {"num_inference_steps": 4},
        "model": "tiny",
        "versions": {},
        "stopped": False,
    }
    return json.dumps({**told, **changed}).encode()


def test_the_call_comes_back_with_the_picture(tmp_path):
    traj = make(6, prompt=HOSTILE, negative_prompt="snow")
    twin = Trajectory.from_png(traj.to_png(tmp_path / "cat.png"))
    assert np.array_equal(np.asarray(twin.image), np.asarray(traj.image))
    for name in ("prompt", "negative_prompt", "seed", "call", "model", "versions", "stopped"):
        assert getattr(twin, name) == getattr(traj, name)
    assert (len(twin.steps), twin.latents, twin.batch_size) == (0, None, 1)
    want = {"prompt": HOSTILE, "negative_prompt": "snow", "seed": 7}
    assert twin.keywords == traj.keywords
    assert twin.keywords == {**want, "num_inference_steps": 6, "guidance_scale": 4.0}
    with Image.open(tmp_path / "cat.png") as plain:
        assert json.loads(plain.text[KEY])["prompt"] == HOSTILE


def test_it_shows_itself_without_its_steps(tmp_path):
    twin = Trajectory.from_png(make(6, prompt=HOSTILE).to_png(tmp_path / "cat.png"))
    html = twin._repr_mimebundle_()["text/html"]
    assert html.count("<script>alert") == 0
    assert "6 steps, not kept" in html
    assert twin.to_html(tmp_path / "cat.html").stat().st_size > 1000
    assert len(twin.figure().axes) >= 1


def test_one_of_a_batch_remembers_the_batch(tmp_path):
    traj = make(3, batch=2, prompt=("a cat", "a dog"), seed=(4, 5))
    twin = Trajectory.from_png(traj.to_png(tmp_path / "dog.png", batch=1))
    assert (twin.prompt, twin.seed, len(twin.images)) == ("a dog", 5, 1)
    assert twin.call["batch"]["picture"] == 1
    again = twin.keywords
    assert (again["prompt"], again["seed"]) == (["a cat", "a dog"], [4, 5])
    assert "batch" not in again
    with pytest.raises(RecordError, match="between 0 and 1 inclusive, got 2"):
        traj.to_png(tmp_path / "x.png", batch=2)


def test_several_pictures_per_prompt_keep_their_own_words(tmp_path):
    traj = make(3, batch=4, prompt=("a cat", "a dog"), seed=1)
    told = [Trajectory.from_png(traj.to_png(tmp_path / "x.png", batch=b)).prompt for b in range(4)]
    assert told == ["a cat", "a cat", "a dog", "a dog"]


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    for traj, told in (
        (make(3, images=()), "no final picture"),
        (make(3, call={"eta": float("nan")}), "plain JSON"),
        (make(3, call={"image": object()}), "plain JSON"),
        (make(3, prompt="x" * (MAX_TEXT + 1)), "500,000 characters"),
    ):
        with pytest.raises(RecordError, match=told):
            traj.to_png(tmp_path / "x.png")
    with pytest.raises(OSError, match="No such file"):
        make(3).to_png(tmp_path / "none" / "x.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not a PNG"),
        (b"GIF89a" + bytes(30), "not a PNG"),
        (b"\x89PNG\r\n\x1a\n", "cut off or damaged"),
        (png(), "a picture without its call"),
        (png(itxt(words(), "parameters")), "a picture without its call"),
        (png(itxt(words()))[:-40], "cut off or damaged"),
        (png(itxt(words())[:-9] + b"brokenbit"), "cut off or damaged|without its call"),
        (png(itxt(b"\0" * 40_000_000)), "cut off or damaged"),
        (png(*[itxt(b"x" * 1_000_000, f"k{i}") for i in range(80)]), "cut off or damaged"),
        (png(itxt(words()), size=(8, 8), claims=(2**30, 2**30)), "the limit is 40,000,000"),
        (png(itxt(words()), size=(8, 8), claims=(13_000, 13_000)), "the limit is 40,000,000"),
        (png(itxt(b"{")), "can't be read"),
        (png(itxt(b"[" * 500_000)), "can't be read"),
        (png(itxt(b"[]")), "can't be read"),
        (png(itxt(b"\xff\xfe")), "without its call|can't be read"),
        (png(itxt(words(format="pickle"))), "it is of a 'pickle'"),
        (png(itxt(words(version=2))), "version 2, this ldmkit reads 1"),
        (png(itxt(words(prompt=["a", 3]))), "prompt must be str"),
        (png(itxt(words(seed="7"))), "seed must be int"),
        (png(itxt(words(call=[1]))), "call must be a dict"),
        (png(itxt(words(versions="1"))), "versions must be a dict"),
        (png(itxt(words().replace(b'"seed": 7', b'"seed": NaN'))), "NaN is no JSON"),
        (png(itxt(words().replace(b'"seed": 7, ', b""))), "it lacks 'seed'"),
    ],
)
def test_bad_files_get_one_sentence(tmp_path, content, told):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=told) as caught:
        Trajectory.from_png(path)
    assert "\n" not in str(caught.value)
    assert "'bad.png'" in str(caught.value)


def test_a_header_behind_other_chunks_is_no_way_past_the_limit(tmp_path):
    """Where the header's size would stand in an honest file, a text says 1 × 1."""
    path = tmp_path / "bad.png"
    text = chunk(b"tEXt", struct.pack(">II", 1, 1) + b"x")
    for side in (6_400, 13_000):
        path.write_bytes(png(itxt(words()), claims=(side, side), before=[text]))
        assert path.stat().st_size < 1_000
        tracemalloc.start()
        try:
            with pytest.raises(RecordError, match=r"pixels, the limit is 40,000,000"):
                Trajectory.from_png(path)
            assert tracemalloc.get_traced_memory()[1] < 2**20
        finally:
            tracemalloc.stop()
    path.write_bytes(png(itxt(words()), before=[text]))
    assert Trajectory.from_png(path).image.size == (8, 8)


def test_a_picture_that_could_not_be_read_again_is_not_written(tmp_path):
    huge = make(1, previews=(), images=[Image.new("1", (8_000, 5_001))])
    with pytest.raises(RecordError, match=r"8,000 × 5,001 pixels, the limit is 40,000,000; keep"):
        huge.to_png(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError):
        Trajectory.from_png(tmp_path / "none.png")
    with pytest.raises(RecordError, match="is a folder"):
        Trajectory.from_png(tmp_path)


def test_a_png_of_another_program_keeps_its_other_words(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "steps: 20")
    info.add_itxt(KEY, words().decode(), zip=False)
    Image.new("RGBA", (8, 8)).save(tmp_path / "x.png", pnginfo=info)
    assert Trajectory.from_png(tmp_path / "x.png").prompt == "a cat"


@pytest.mark.parametrize(("kind", "name"), [("GIF", "to_gif"), ("WEBP", "to_webp")])
def test_lanes_move(tmp_path, kind, name):
    traj = make(5, side=8, size=32)
    for lane, frames in (("denoised", 6), ("noise_pred", 5)):
        path = getattr(traj, name)(tmp_path / "x", lane=lane, size=96, duration=50)
        with Image.open(path) as moving:
            assert (moving.format, moving.n_frames, moving.size) == (kind, frames, (96, 96))
            moving.seek(frames - 1)
            last = np.asarray(moving.convert("RGB"), np.float32)
            if kind == "GIF":
                assert moving.info["duration"] == 300
    final = np.asarray(traj.image.resize((96, 96), Image.Resampling.LANCZOS), np.float32)
    assert np.abs(last - final).mean() > 20  # the noise lane doesn't end in the picture
    getattr(traj, name)(tmp_path / "x", size=96)
    with Image.open(tmp_path / "x") as moving:
        moving.seek(5)
        assert np.abs(np.asarray(moving.convert("RGB"), np.float32) - final).mean() < 6


def test_animations_refuse_in_one_sentence(tmp_path):
    for options, told in (
        ({"lane": "noise"}, "lane must be one of"),
        ({"batch": 3}, "batch must be between"),
        ({"size": 1e9}, "size must be between"),
        ({"duration": "1"}, "duration must be between"),
    ):
        with pytest.raises(RecordError, match=told):
            make(3).to_gif(tmp_path / "x.gif", **options)
    bare = Trajectory.from_png(make(3).to_png(tmp_path / "x.png"))
    with pytest.raises(RecordError, match="did not keep 'denoised'"):
        bare.to_gif(tmp_path / "x.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    assert bare.prompt == PROMPT
