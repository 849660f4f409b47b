"""The small decoder of step pictures: whose it is, when it is taken, how near it comes."""

import copy
import json
import threading

import numpy as np
import pytest
import tiny
import torch

import ldmkit
from ldmkit.critters import Scene
from ldmkit.critters.world import EVALUATION_SEED
from ldmkit.loading.catalog import embedded_folder
from ldmkit.recording import preview, record
from ldmkit.recording.preview import SmallDecoder, fingerprint, small_decoder

CPU = torch.device("cpu")
WEIGHTS = embedded_folder("critters").parent
TOLD = json.loads((WEIGHTS / "metrics.json").read_text())["preview"]
CALL = {"seed": 7, "num_inference_steps": 3}


@pytest.fixture(scope="module")
def pipe():
    return ldmkit.load("critters")


@pytest.fixture
def decodes(pipe, monkeypatch):
    """How many pictures the autoencoder decoded."""
    counted, decode = [], type(pipe.vae).decode

    def counting(self, latents, *args, **kwargs):
        counted.append(len(latents))
        return decode(self, latents, *args, **kwargs)

    monkeypatch.setattr(type(pipe.vae), "decode", counting)
    return counted


def test_step_pictures_of_the_embedded_model_come_from_it(pipe, decodes):
    preview.linear_rgb(pipe.vae, 4)  # fitted by the autoencoder, once
    decodes.clear()
    traj = record(pipe, "a red cat", **CALL)
    assert decodes == [1], "the final picture is the autoencoder's, the steps' are not"
    assert set(traj.previews) == {"latents", "denoised"}
    small = small_decoder(pipe.vae, CPU)
    unit = traj.latents[:-1, 0] / np.hypot(traj.alphas, traj.sigmas)[:, None, None, None]
    for lane, latents in (("denoised", traj.denoised[:, 0]), ("latents", unit)):
        expected = preview.decode_small(small, latents.astype(np.float32))
        assert np.array_equal(traj.previews[lane][:, 0], expected)
    final = preview.decode(pipe.vae, traj.latents[-1])[0]
    assert np.array_equal(np.asarray(traj.image), final)


def test_each_lane_that_is_a_picture_is_decoded_once(pipe, monkeypatch):
    seen, forward = [], SmallDecoder.forward

    def counting(self, latents):
        seen.append(len(latents))
        return forward(self, latents)

    small = copy.deepcopy(small_decoder(pipe.vae, CPU))
    small.forward = counting.__get__(small)
    monkeypatch.setattr("ldmkit.recording.pictures.small_decoder", lambda vae, device: small)
    traj = record(pipe, "a red cat", keep="all", guidance_scale=3.5, **CALL)
    assert set(traj.previews) == {"latents", "denoised", "denoised_text", "denoised_uncond"}
    assert sum(seen) == 4 * 3
    assert max(seen) <= 16  # more fall out of the cache
    noise = traj.pictures("noise_pred")[0]  # no picture: a cell for a latent, framed
    cells = np.asarray(noise).reshape(16, 4, 16, 4, 3)[1:-1, :, 1:-1]
    assert (cells == cells[:, :1, :, :1]).all(), "one colour for a latent: no network"


def test_noise_looks_as_the_autoencoder_draws_it(pipe):
    drawn = record(pipe, "a red cat", num_inference_steps=8, seed=7)
    wanted = record(pipe, "a red cat", num_inference_steps=8, seed=7, preview="vae")
    gaps = drawn.previews["latents"].astype(float) - wanted.previews["latents"]
    decibels = 10 * np.log10(255**2 / (gaps**2).mean(axis=(1, 2, 3, 4)))
    assert decibels[0] > 18, "pure noise, about 19 dB as record's docstring says"
    assert decibels[-1] > 24, "nearly a picture"


def test_vae_still_means_the_autoencoder(pipe, decodes):
    traj = record(pipe, "a red cat", preview="vae", **CALL)
    assert sum(decodes) >= 1 + 2 * 3
    assert set(traj.previews) == {"latents", "denoised"}
    expected = preview.decode(pipe.vae, traj.denoised[:, 0])
    assert np.array_equal(traj.previews["denoised"][:, 0], expected)


def test_it_belongs_to_these_weights_alone(pipe):
    assert small_decoder(pipe.vae, CPU) is not None
    assert small_decoder(ldmkit.load("critters-unclip").vae, CPU) is small_decoder(pipe.vae, CPU)
    assert small_decoder(copy.deepcopy(pipe.vae).half(), CPU) is not None
    trained = copy.deepcopy(pipe.vae)
    with torch.no_grad():
        trained.decoder.conv_out.bias += 0.01
    assert small_decoder(trained, CPU) is None
    assert small_decoder(tiny.pipeline(size="small").vae, CPU) is None
    assert small_decoder(copy.deepcopy(pipe.vae).to("meta"), CPU) is None
    assert small_decoder(torch.nn.Linear(2, 2), CPU) is None


def test_what_was_trained_on_is_decoded_by_itself(pipe):
    other = copy.copy(pipe)
    other.vae = copy.deepcopy(pipe.vae)
    with torch.no_grad():
        other.vae.decoder.conv_out.bias += 0.5
    traj = record(other, "a red cat", **CALL)
    expected = preview.decode(other.vae, traj.denoised[:, 0])
    assert np.array_equal(traj.previews["denoised"][:, 0], expected)


def test_saved_and_opened_it_draws_the_same(pipe, tmp_path):
    small = small_decoder(pipe.vae, CPU)
    small.save(tmp_path, pipe.vae)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("autoencoder") == fingerprint(pipe.vae)
    assert SmallDecoder(**config).state_dict().keys() == small.state_dict().keys()
    shipped = WEIGHTS / "critters" / "preview"
    names = ("config.json", "model.safetensors")
    assert all((tmp_path / n).read_bytes() == (shipped / n).read_bytes() for n in names)
    assert (shipped / "model.safetensors").stat().st_size < 500_000


def test_it_is_as_near_as_the_model_card_says(pipe):
    drawings = [Scene.sample(EVALUATION_SEED + i, held_out=False).draw(64, i) for i in range(60)]
    latents = ldmkit.encode_image(pipe, drawings).numpy()
    pair = [preview.decode(pipe.vae, latents)]
    pair.append(preview.decode_small(small_decoder(pipe.vae, CPU), latents))
    error = (pair[0].astype(float) - pair[1]).reshape(60, -1)
    decibels = 10 * np.log10(255**2 / (error**2).mean(axis=1))
    assert decibels.mean() == pytest.approx(TOLD["drawings"]["db"], abs=0.5)
    assert np.abs(error).mean() == pytest.approx(TOLD["drawings"]["mean_255"], rel=0.1)
    card = (WEIGHTS / "MODEL_CARD.md").read_text()
    for name, values in TOLD.items():
        assert f"| small decoder, {name} | {values['db']:.1f} dB, {values['mean_255']:.1f}" in card


def test_the_last_step_looks_like_the_picture(pipe):
    traj = record(pipe, "a red cat with a top hat", seed=7)
    last = traj.pictures("denoised")[-1]
    worst = TOLD["estimates at timestep 205"]["worst_255"]
    assert np.abs(np.asarray(last, float) - np.asarray(traj.image, float)).mean() <= worst
    seen, shown = (ldmkit.critters.judge(picture, traj.prompt) for picture in (last, traj.image))
    assert shown.obeyed
    assert {n: a.seen for n, a in seen.attributes.items()} == {
        n: a.seen for n, a in shown.attributes.items()
    }


# --- SDXL's autoencoder is decoded in float32 ----------------------------------------------------


@pytest.fixture
def halved():
    vae = tiny.pipeline(size="small").vae.half()
    vae.register_to_config(force_upcast=True)
    return vae


LATENTS = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)


def test_a_decode_in_float32_leaves_the_shared_network_alone(halved, monkeypatch):
    seen, decode = [], type(halved).decode

    def watching(self, latents, **options):
        seen.append((self.dtype, latents.dtype, halved.dtype, self.encoder is halved.encoder))
        return decode(self, latents, **options)

    monkeypatch.setattr(type(halved), "decode", watching)
    halved._hf_hook = Hook()
    drawn = preview.decode(halved, LATENTS)
    assert seen == [(torch.float32, torch.float32, torch.float16, False)]
    del halved._hf_hook
    whole = copy.deepcopy(halved).float()
    assert np.array_equal(drawn, preview.decode(whole, LATENTS))


class Hook:
    """What accelerate hangs on a network that comes and goes: it holds its neighbours."""

    execution_device = "cpu"

    def __deepcopy__(self, memo):
        raise AssertionError("the neighbours would be copied too")


def test_two_threads_decode_one_autoencoder(halved):
    expected, drawn = preview.decode(halved, LATENTS), []
    gate = threading.Barrier(3)

    def decoding():
        gate.wait()
        drawn.extend(preview.decode(halved, LATENTS) for _ in range(5))

    def bare():  # as a pipeline beside it decodes, in the precision that it finds
        gate.wait()
        with torch.no_grad():
            for _ in range(20):
                halved.decode(torch.from_numpy(LATENTS).half())

    failed = []
    threads = [
        threading.Thread(target=guarded, args=(f, failed)) for f in (decoding, decoding, bare)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(drawn) == 10
    assert all(np.array_equal(one, expected) for one in drawn)
    assert halved.dtype == torch.float16


def guarded(run, failed):
    try:
        run()
    except Exception as error:
        failed.append(error)
