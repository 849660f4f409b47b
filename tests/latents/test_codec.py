"""``encode_image`` and ``decode_latents`` against the pipeline's own."""

import threading

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import ldmkit
from ldmkit.recording import record
from ldmkit.recording.hooks import exclusive


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(size="small")


def picture(size=(32, 32)):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def test_encoding_is_the_mean_at_the_networks_scale(pipe):
    latents = ldmkit.encode_image(pipe, picture())
    assert latents.shape == (1, 4, 8, 8)
    pixels = torch.from_numpy(np.asarray(picture()).astype(np.float32)) / 127.5 - 1
    with torch.no_grad():
        mean = pipe.vae.encode(pixels.permute(2, 0, 1)[None]).latent_dist.mean
    assert (latents - mean * pipe.vae.config.scaling_factor).abs().max() <= 1e-5
    assert torch.equal(latents, ldmkit.encode_image(pipe, picture()))


def test_decoding_a_trajectorys_last_latents_is_its_picture(pipe):
    traj = record(pipe, "a cat", seed=7, num_inference_steps=2, preview="none")
    shown = ldmkit.decode_latents(pipe, traj.latents[-1])
    assert np.array_equal(np.asarray(shown), np.asarray(traj.image))
    alone = ldmkit.decode_latents(pipe, torch.from_numpy(traj.latents[-1, 0].copy()))
    assert np.array_equal(np.asarray(alone), np.asarray(traj.image))


def test_batches(pipe):
    latents = ldmkit.encode_image(pipe, [picture(), picture()])
    assert latents.shape == (2, 4, 8, 8)
    shown = ldmkit.decode_latents(pipe, latents)
    assert [one.size for one in shown] == [(32, 32)] * 2


def test_odd_sizes_are_resized_down(pipe):
    assert ldmkit.encode_image(pipe, picture((35, 18))).shape == (1, 4, 4, 8)


def test_whatever_holds_the_picture_gives_the_same_latents(pipe, tmp_path):
    one = picture()
    want = ldmkit.encode_image(pipe, one)
    pixels = np.asarray(one)
    tensor = torch.tensor(pixels).permute(2, 0, 1)
    exif = Image.Exif()
    exif[0x0112] = 3
    one.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "turned.png", exif=exif)
    path = tmp_path / "turned.png"
    for same in (path, str(path), Image.open(path), pixels, pixels / 255, tensor, tensor / 255):
        assert torch.equal(ldmkit.encode_image(pipe, same), want)
    for several in ([path, pixels], np.stack([pixels, pixels]), torch.stack([tensor, tensor])):
        assert torch.allclose(
            ldmkit.encode_image(pipe, several), want.repeat(2, 1, 1, 1), atol=1e-5
        )


@pytest.mark.parametrize(
    ("pictures", "kind", "words"),
    [
        (np.full((8, 8, 3), 2.0), ValueError, "floats from 0 to 1, got 2 to 2"),
        (7, TypeError, "must be a PIL image, a path, an array or a tensor, got int"),
        (picture((3, 9)), ValueError, "at least 4 pixels a side"),
        ([], ValueError, "picture must be a picture or a list of them"),
        ([picture(), picture((16, 16))], ValueError, r"got \[\(16, 16\), \(32, 32\)\]"),
        (Image.new("L", (5000, 8)), ValueError, "at most 4096 pixels"),
    ],
)
def test_bad_pictures(pipe, pictures, kind, words):
    with pytest.raises(kind, match=words):
        ldmkit.encode_image(pipe, pictures)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 8, 8), (8, 8), (0, 4, 8, 8)])
def test_bad_latents(pipe, shape):
    with pytest.raises(ValueError, match=r"must have the shape \(b, 4, h, w\)"):
        ldmkit.decode_latents(pipe, np.zeros(shape))


def test_no_autoencoder():
    with pytest.raises(TypeError, match="autoencoder"):
        ldmkit.decode_latents(object(), np.zeros((1, 4, 8, 8)))


def test_takes_turns_with_whoever_records(pipe):
    """The pipeline may change its autoencoder's dtype meanwhile, as SDXL's does."""
    for use in (
        lambda: ldmkit.encode_image(pipe, picture((32, 32))),
        lambda: ldmkit.decode_latents(pipe, np.zeros((4, 8, 8))),
    ):
        done = threading.Event()
        thread = threading.Thread(target=lambda: (use(), done.set()))  # noqa: B023
        with exclusive(pipe.unet):
            thread.start()
            assert not done.wait(0.3)
        assert done.wait(20)
        thread.join()


def test_what_is_asked_within_a_run_waits_for_nobody(pipe):
    seen = []

    def look(step):
        seen.append(ldmkit.decode_latents(pipe, step.latents))
        seen.append(ldmkit.encode_image(pipe, seen[-1]))

    ldmkit.record(pipe, "a cat", seed=1, num_inference_steps=2, on_step=look)
    assert len(seen) == 4


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_latents_that_hold_no_picture_are_refused(pipe, value):
    with pytest.raises(ValueError, match="latents must be finite numbers, got NaN or infinity"):
        ldmkit.decode_latents(pipe, np.full((4, 8, 8), value))
