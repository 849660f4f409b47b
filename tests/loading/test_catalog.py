"""Rows for real models: what they say is counted again from the classes that they name."""

import diffusers
import numpy as np
import pytest
import tiny
import torch
import transformers

import ldmkit
from ldmkit.loading.catalog import CATALOG, GPUS, Row

# Where a class's own defaults are not the model's: from diffusers' conversion scripts, and the
# configurations that transformers' pages show for the text encoders.
CLIP = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "projection_dim": 768,
}  # fmt: skip
BIG_G = CLIP | {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 20, "projection_dim": 1280,
}  # fmt: skip
T5 = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24,
    "num_heads": 64, "feed_forward_proj": "gated-gelu",
}  # fmt: skip
QWEN_3 = {
    "vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728, "head_dim": 128,
    "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
}  # fmt: skip
GEMMA = {
    "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "head_dim": 256,
    "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
}  # fmt: skip
QWEN_VL = {
    "text_config": {
        "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
        "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    },
    "vision_config": {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
        "out_hidden_size": 3584,
    },
}  # fmt: skip
KL = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
}  # fmt: skip
KL_16 = KL | {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
DC_BLOCKS = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
DC = {
    "encoder_block_types": DC_BLOCKS, "decoder_block_types": DC_BLOCKS,
    "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3), "decoder_layers_per_block": (3,) * 6,
    "downsample_block_type": "Conv", "upsample_block_type": "interpolate",
}  # fmt: skip
XL = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10], "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}  # fmt: skip
SD3 = {"qk_norm": "rms_norm"}
SD3_MEDIUM = SD3 | {
    "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536,
    "pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)),
}  # fmt: skip
SD3_LARGE = SD3 | {
    "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432,
    "pos_embed_max_size": 192,
}  # fmt: skip
KLEIN = {
    "in_channels": 128, "num_layers": 5, "num_single_layers": 20, "attention_head_dim": 128,
    "num_attention_heads": 24, "joint_attention_dim": 7680, "guidance_embeds": False,
}  # fmt: skip
PIXART = {"caption_channels": 4096, "use_additional_conditions": False}

CLIP_AND_T5 = (("CLIPTextModelWithProjection", CLIP), ("CLIPTextModelWithProjection", BIG_G),
               ("T5EncoderModel", T5))  # fmt: skip
XL_REST = (
    ("CLIPTextModel", CLIP), ("CLIPTextModelWithProjection", BIG_G), ("AutoencoderKL", KL)
)  # fmt: skip
FLUX_REST = (("CLIPTextModel", CLIP), ("T5EncoderModel", T5), ("AutoencoderKL", KL_16))
PARTS = {
    "sdxl": (("UNet2DConditionModel", XL), *XL_REST),
    "sdxl-turbo": (("UNet2DConditionModel", XL), *XL_REST),
    "lcm-sdxl": (("UNet2DConditionModel", XL | {"time_cond_proj_dim": 256}), *XL_REST),
    "sd35-medium": (
        ("SD3Transformer2DModel", SD3_MEDIUM), *CLIP_AND_T5, ("AutoencoderKL", KL_16)
    ),
    "sd35-large": (("SD3Transformer2DModel", SD3_LARGE), *CLIP_AND_T5, ("AutoencoderKL", KL_16)),
    "flux-schnell": (("FluxTransformer2DModel", {}), *FLUX_REST),
    "flux-dev": (("FluxTransformer2DModel", {"guidance_embeds": True}), *FLUX_REST),
    "flux2-klein": (
        ("Flux2Transformer2DModel", KLEIN), ("Qwen3Model", QWEN_3), ("AutoencoderKLFlux2", {})
    ),
    "z-image-turbo": (
        ("ZImageTransformer2DModel", {}), ("Qwen3Model", QWEN_3), ("AutoencoderKL", KL_16)
    ),
    "qwen-image": (
        ("QwenImageTransformer2DModel", {}),
        ("Qwen2_5_VLForConditionalGeneration", QWEN_VL),
        ("AutoencoderKLQwenImage", {}),
    ),
    "sana": (("SanaTransformer2DModel", {}), ("Gemma2Model", GEMMA), ("AutoencoderDC", DC)),
    "pixart-sigma": (
        ("PixArtTransformer2DModel", PIXART), ("T5EncoderModel", T5), ("AutoencoderKL", KL)
    ),
}  # fmt: skip


def size(kind, config):
    """Weights and stored tables of a network that is made without memory."""
    with torch.device("meta"):
        if hasattr(diffusers, kind):
            network = getattr(diffusers, kind)(**config)
        else:
            made = getattr(transformers, kind)
            network = made(made.config_class(**config))
    weights = sum(weight.numel() for weight in network.parameters())
    table = getattr(getattr(network, "pos_embed", None), "pos_embed", None)  # SD3's is stored
    return weights + (table.numel() if table is not None and kind.startswith("SD3") else 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_parameters_are_those_of_the_classes():
    counted = {name: [size(*part) for part in parts] for name, parts in PARTS.items()}
    told = {name: (CATALOG[name].parameters, CATALOG[name].largest) for name in PARTS}
    assert told == {name: (sum(parts), max(parts)) for name, parts in counted.items()}


def test_rows_that_are_fetched_say_all_that_a_reader_asks():
    rows = [row for row in CATALOG.values() if not row.embedded]
    assert {*PARTS} <= {row.name for row in rows}
    for row in rows:
        assert isinstance(getattr(diffusers, row.family), type)
        assert row.hub_id.count("/") == 1
        assert row.licence
        assert row.checked == "random weights only"  # nobody has run the real ones
        # Files hold two bytes a weight or four, and what small ones add.
        assert 1.9 <= 1e9 * row.download_gb / row.parameters <= 5.0, row.name


def test_what_fits_follows_from_the_parameters():
    big = Row(
        name="big", family="FluxPipeline", parameters=10 * 10**9, largest=5 * 10**9,
        download_gb=20.0, licence="", gated=False, embedded=False, checked="",
    )  # fmt: skip
    # 20 GB of weights and 6 for the work; the largest part 10 and 3
    assert [big.on(gigabytes * 10**9) for gigabytes in (26, 25, 13, 12)] == [
        "whole", "by parts", "by parts", "by layers",
    ]  # fmt: skip
    assert big.memory == "GPU 26 GB, by parts 13 GB, CPU 52 GB"


def test_models_show_it():
    table = ldmkit.models()
    rows = {row["name"]: row for row in table.rows}
    assert {*GPUS} <= {*table.columns}
    for name, row in rows.items():
        assert [row[gpu] for gpu in GPUS] == [CATALOG[name].on(room) for room in GPUS.values()]
    assert [rows["sdxl"][gpu] for gpu in GPUS] == ["whole"] * 3
    assert [rows["flux-dev"][gpu] for gpu in GPUS] == ["by layers", "by layers", "whole"]
    assert (rows["flux-schnell"]["gated"], rows["flux2-klein"]["gated"]) == (True, False)
    assert "worked out from the parameters" in table._repr_html_()


# --- "random weights only": classes of the table that no other test runs --------------------------


def sana():
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8,
        caption_channels=8, sample_size=32,
    )  # fmt: skip
    blocks = ("ResBlock", "EfficientViTBlock")
    vae = diffusers.AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types=blocks,
        decoder_block_types=blocks, encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), upsample_block_type="interpolate", scaling_factor=0.4,
    )  # fmt: skip
    return diffusers.SanaPipeline(
        transformer=transformer, vae=vae, tokenizer=None, text_encoder=None,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
    )  # fmt: skip


def pixart_sigma():
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2,
        caption_channels=8, in_channels=4, cross_attention_dim=16, out_channels=8,
        use_additional_conditions=False,
    )  # fmt: skip
    vae = tiny.pipeline(size="small").vae
    return diffusers.PixArtSigmaPipeline(
        transformer=transformer, vae=vae, tokenizer=None, text_encoder=None,
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )  # fmt: skip


@pytest.mark.parametrize("build", [sana, pixart_sigma])
def test_small_random_ones_are_recorded(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe = build()
    pipe.set_progress_bar_config(disable=True)
    words, masks = torch.randn(2, 1, 5, 8, generator=torch.Generator().manual_seed(0)), {}
    for name, vectors in zip(("", "negative_"), words, strict=True):
        masks[f"{name}prompt_embeds"] = vectors
        masks[f"{name}prompt_attention_mask"] = torch.ones(1, 5)
    call = masks | {"num_inference_steps": 2, "height": 32, "width": 32, "guidance_scale": 3.0}
    call |= {"use_resolution_binning": False, "negative_prompt": None}
    noise = torch.Generator("cpu").manual_seed(7)
    bare = pipe(prompt=None, generator=noise, **call).images[0]
    traj = ldmkit.record(pipe, seed=7, keep="all", **call)
    assert np.array_equal(np.asarray(bare), np.asarray(traj.image))
    assert traj.denoised.shape == (2, *traj.latents.shape[1:])
    alphas, sigmas = (one.reshape(-1, 1, 1, 1, 1) for one in (traj.alphas, traj.sigmas))
    law = alphas * traj.denoised + sigmas * traj.noise_pred
    assert np.abs(law - traj.latents[:-1]).max() <= 1e-5 * np.abs(traj.latents).max()
    assert np.abs(traj.noise_pred_text - traj.noise_pred_uncond).max() > 0
