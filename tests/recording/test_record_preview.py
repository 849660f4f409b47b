"""Step pictures: the linear fit, the decode, and when ``auto`` takes which."""

import dataclasses

import numpy as np
import pytest
import tiny
import torch

from ldmkit.recording import preview, record, recorder
from ldmkit.records import RecordError, Trajectory


class LinearAutoencoder(torch.nn.Module):
    """Decodes by a known matrix, each latent a flat block of 4×4 pixels."""

    def __init__(self, matrix, constant, **config):
        super().__init__()
        self.matrix, self.constant = torch.tensor(matrix), torch.tensor(constant)
        self.device, self.dtype = torch.device("cpu"), torch.float32
        defaults = {"scaling_factor": 0.5, "block_out_channels": (1, 1, 1), "latent_channels": 4}
        self.config = type("Config", (), defaults | config)()
        self.largest_batch = 0

    def decode(self, latents, return_dict=True):
        self.largest_batch = max(self.largest_batch, len(latents))
        colours = torch.einsum("kchw,cd->kdhw", latents, self.matrix) + self.constant[:, None, None]
        blocks = colours.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
        return (blocks * 2 - 1,)  # as diffusers: -1..1


def linear(**config):
    rng = np.random.default_rng(0)
    matrix = rng.uniform(-0.04, 0.04, (4, 3)).astype(np.float32)
    return LinearAutoencoder(matrix, np.array([0.5, 0.4, 0.6], np.float32), **config)


def test_the_fit_finds_a_linear_autoencoder():
    vae = linear()
    fit = preview.linear_rgb(vae, 4)
    assert fit.shape == (5, 3)
    assert fit.dtype == np.float32
    # The network sees latents times 0.5, so the matrix stands doubled; 8 bits of colour blur it.
    assert np.abs(fit[:4] - 2 * vae.matrix.numpy()).max() <= 1e-3
    assert np.abs(fit[4] - vae.constant.numpy()).max() <= 1e-3
    assert preview.linear_rgb(vae, 4) is fit, "fitted once per autoencoder"


def test_the_fit_is_kept_by_the_weights():
    """Another pipeline's copy has it, what was trained on has not."""
    vae, again = (tiny.pipeline(size="small").vae for _ in range(2))
    fit = preview.linear_rgb(vae, 4)
    assert preview.linear_rgb(again, 4) is fit
    with torch.no_grad():
        again.decoder.conv_out.bias += 0.5
    other = preview.linear_rgb(again, 4)
    assert np.abs(other[4] - fit[4]).min() > 0.1
    assert preview.linear_rgb(vae, 4) is fit


@pytest.mark.parametrize(
    "config",
    [
        {"scaling_factor": 0.18215},
        {"scaling_factor": 1.5305, "shift_factor": 0.0609},  # SD3
        {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.0, 2.0, 0.5, 0.7]},
    ],
    ids=str,
)
def test_scale_and_unscale_undo_each_other(config):
    vae = linear(**config)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    back = preview.unscale(vae, preview.scale(vae, latents))
    assert (back - latents).abs().max() <= 1e-5
    if "shift_factor" in config:  # what SD3's pipeline does before its decode
        expected = latents / 1.5305 + 0.0609
        assert (preview.unscale(vae, latents) - expected).abs().max() <= 1e-6


def test_decode_is_the_pipelines_own():
    pipe = tiny.pipeline(size="small")
    traj = record(pipe, "a cat", seed=7, num_inference_steps=3, preview="none")
    assert np.array_equal(preview.decode(pipe.vae, traj.latents[-1])[0], np.asarray(traj.image))


def test_large_pictures_are_decoded_in_turns():
    vae = linear()
    frames = np.zeros((5, 4, 32, 32), np.float32)  # 128×128 pixels each
    assert preview.decode(vae, frames).shape == (5, 128, 128, 3)
    assert vae.largest_batch == 4


def test_previews_are_decoded_latents_at_unit_variance():
    pipe = tiny.pipeline(size="small", scheduler_name="EulerDiscreteScheduler")
    call = {"num_inference_steps": 3, "num_images_per_prompt": 2}
    traj = record(pipe, "a cat", seed=7, preview="vae", **call)
    assert set(traj.previews) == {"latents", "denoised"}
    assert traj.previews["denoised"].shape == (3, 2, 32, 32, 3)
    expected = preview.decode(pipe.vae, traj.denoised[1])
    assert np.array_equal(traj.previews["denoised"][1], expected)
    unit = traj.latents[0] / np.sqrt(1 + traj.sigmas[0] ** 2)
    expected = preview.decode(pipe.vae, unit.astype(np.float32))
    # One more rounding of the division may move a colour by one.
    difference = np.abs(traj.previews["latents"][0].astype(int) - expected)
    assert difference.max() <= 1


def test_one_step_in_so_many_is_decoded(monkeypatch, tmp_path):
    """The first and the last always; between them the linear map draws, and it is told."""
    pipe = tiny.pipeline(size="small")
    call = {"seed": 7, "num_inference_steps": 6}
    whole = record(pipe, "a cat", preview="vae", **call)
    linear = record(pipe, "a cat", preview="linear", **call)
    counted, decode = [], preview.decode

    def counting(vae, latents):
        counted.append(len(latents))
        return decode(vae, latents)

    monkeypatch.setattr(preview, "decode", counting)
    part = record(pipe, "a cat", preview="vae", preview_every=4, **call)
    with recorder(pipe.scheduler, pipe.unet, pipe.vae, preview="vae", preview_every=4) as tape:
        pipe("a cat", num_inference_steps=6, generator=torch.Generator().manual_seed(7))
    assert counted[:2] == [3, 3]  # two lanes; the fit decodes 16 others
    decoded = [0, 4, 5]
    side = whole.image.size
    part.save(tmp_path / "run.safetensors")
    for traj in (part, tape.trajectory, Trajectory.open(tmp_path / "run.safetensors")):
        assert traj.preview_every == 4
        for lane in ("latents", "denoised"):
            assert np.array_equal(traj.previews[lane], whole.previews[lane][decoded])
            pictures = traj.pictures(lane)
            assert len(pictures) == 6
            for i in range(6):
                wanted = whole.pictures(lane)[i] if i in decoded else None
                if wanted is None and lane == "denoised":
                    wanted = linear.pictures(lane, size=side)[i]
                assert wanted is None or np.array_equal(pictures[i], wanted)
        told = "Decoded: one step in 4 from the first on, and the last"
        assert traj._repr_mimebundle_()["text/html"].count(told) == 2  # sheet and player
    assert "Decoded" not in whole._repr_mimebundle_()["text/html"]
    for wrong, error in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"preview_every must be .*1 or more"):
            record(pipe, "a cat", preview_every=wrong, **call)
    with pytest.raises(RecordError, match="preview_every must be 1 where rgb"):
        dataclasses.replace(part, rgb=None)


def test_what_each_preview_keeps():
    pipe = tiny.pipeline(size="small")
    call = {"seed": 7, "num_inference_steps": 2}
    assert record(pipe, "a cat", preview="none", **call).rgb is None
    straight = record(pipe, "a cat", preview="linear", **call)
    assert straight.rgb.shape == (5, 3)
    assert straight.previews == {}
    only = record(pipe, "a cat", preview="vae", keep="denoised", **call)
    assert set(only.previews) == {"denoised"}
    assert set(record(pipe, "a cat", **call).previews) == {"latents", "denoised"}, "small: auto"


def test_both_sides_of_guidance_are_decoded():
    pipe = tiny.pipeline(size="small")
    call = {"seed": 7, "num_inference_steps": 2, "keep": "all"}
    traj = record(pipe, "a cat", guidance_scale=4.0, **call)
    sides = {"denoised_text", "denoised_uncond"}
    assert set(traj.previews) == {"latents", "denoised", *sides}
    for i, step in enumerate(traj.steps):
        x0 = (step.latents - step.sigma * step.noise_pred_text) / step.alpha
        expected = preview.decode(pipe.vae, x0.astype(np.float32)).astype(int)
        assert np.abs(traj.previews["denoised_text"][i] - expected).max() <= 1
    assert not sides & set(record(pipe, "a cat", guidance_scale=1.0, **call).previews)


def test_auto_leaves_large_autoencoders_alone(monkeypatch):
    pipe = tiny.pipeline(size="small")
    monkeypatch.setattr(preview, "_CHEAP", {"cpu": 1.0})
    traj = record(pipe, "a cat", seed=7, num_inference_steps=2)
    assert traj.previews == {}
    assert traj.rgb is not None


@pytest.mark.parametrize(
    ("parameters", "positions", "cheap"),
    [
        (500_000, 2 * 32 * 16 * 16, True),  # the embedded model, 32 steps, two lanes
        (49_500_000, 50 * 64 * 64, False),  # Stable Diffusion at 512²
        (49_500_000, 1 * 64 * 64, False),
    ],
)
def test_what_is_cheap_on_a_cpu(parameters, positions, cheap):
    vae = torch.nn.Module()
    vae.decoder = torch.nn.Linear(1, 1)
    vae.decoder.weight = torch.nn.Parameter(torch.empty(parameters, device="meta"))
    vae.device = torch.device("cpu")
    assert preview.decode_is_cheap(vae, positions) is cheap
