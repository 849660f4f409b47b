"""Random pipelines of further families in their exact classes; text comes as embeddings.

See ``tiny``: the least networks that run, good for what is exact and never for how a picture looks.
"""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import tiny
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

WIDTH = 32  # of the texts' embeddings


def _vae() -> Any:
    vae = tiny.pipeline(size="small").vae
    vae.register_to_config(shift_factor=0.1)
    return vae


def _seeded(build: Any) -> Any:
    """Weights that are the same each time, and large enough for the words to matter."""

    @functools.wraps(build)
    def built(*args: Any, **kwargs: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipe = build(*args, **kwargs)
            for part in pipe.components.values():
                if isinstance(part, torch.nn.Module):
                    part.eval().requires_grad_(False)
            network = getattr(pipe, "transformer", None)
            for weight in () if network is None else network.parameters():
                weight.data.normal_(0, 0.15)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return built


def embeds(*shape: int, seed: int = 0) -> torch.Tensor:
    """Words' embeddings, or what stands for them."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unpacked(tokens: torch.Tensor) -> torch.Tensor:
    """FLUX's tokens (b, t, 4c) of a square picture as (b, c, h, w), a square of two each."""
    side = int(tokens.shape[1] ** 0.5)
    patches = tokens.reshape(len(tokens), side, side, -1, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, 2 * side, 2 * side)


@_seeded
def flux() -> Any:
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
    )
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=_vae(),
        transformer=transformer,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
    )


FLUX_CALL = {
    "height": 32,
    "width": 32,
    "num_inference_steps": 3,
    "prompt_embeds": embeds(1, 5, WIDTH),
    "pooled_prompt_embeds": embeds(1, WIDTH),
}
FLUX_TRUE_GUIDANCE = {
    "negative_prompt_embeds": embeds(1, 5, WIDTH, seed=1),
    "negative_pooled_prompt_embeds": embeds(1, WIDTH, seed=1),
    "true_cfg_scale": 3.0,
}


@_seeded
def qwen() -> Any:
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(8, 4, 4),
    )
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=24,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        transformer=transformer,
        text_encoder=None,
        tokenizer=None,
    )


QWEN_CALL = {
    "height": 32,
    "width": 32,
    "num_inference_steps": 3,
    "prompt_embeds": embeds(1, 5, WIDTH),
    "prompt_embeds_mask": torch.ones(1, 5, dtype=torch.long),
    "negative_prompt_embeds": embeds(1, 5, WIDTH, seed=1),
    "negative_prompt_embeds_mask": torch.ones(1, 5, dtype=torch.long),
    "true_cfg_scale": 3.0,
}


@_seeded
def sd3() -> Any:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        out_channels=4,
    )
    numbers = ("", "_2", "_3")
    nothing = {f"{part}{n}": None for part in ("text_encoder", "tokenizer") for n in numbers}
    return diffusers.StableDiffusion3Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=_vae(),
        transformer=transformer,
        **nothing,
    )


SD3_CALL = {
    "height": 32,
    "width": 32,
    "num_inference_steps": 3,
    "guidance_scale": 3.0,
    "prompt_embeds": embeds(1, 5, WIDTH),
    "pooled_prompt_embeds": embeds(1, WIDTH),
    "negative_prompt_embeds": embeds(1, 5, WIDTH, seed=1),
    "negative_pooled_prompt_embeds": embeds(1, WIDTH, seed=1),
}


@_seeded
def dit(out_channels: int = 8) -> Any:
    """A transformer over classes; with 8 channels it tells a variance, too."""
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=out_channels,
        num_layers=1,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_num_groups=4,
    )
    vae = tiny.pipeline(size="small").vae
    return diffusers.DiTPipeline(transformer, vae, tiny.scheduler("epsilon"))


def _stable_parts() -> dict[str, Any]:
    return {"requires_safety_checker": False, **tiny.pipeline(size="small").components}


@_seeded
def pag() -> Any:
    """Perturbed attention guidance: a third answer, of a network whose attention is disturbed."""
    return diffusers.StableDiffusionPAGPipeline(**_stable_parts(), pag_applied_layers=["mid"])


@_seeded
def pix2pix() -> Any:
    """InstructPix2Pix: answers to words and picture, to the picture, and to nothing."""
    parts = _stable_parts()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        parts["unet"] = tiny._unet(tiny._SHAPES["small"], 8)
    return diffusers.StableDiffusionInstructPix2PixPipeline(**parts)


@_seeded
def modular_sdxl() -> Any:
    """Stable Diffusion XL of blocks (``diffusers.ModularPipeline``)."""
    plain = tiny.pipeline(size="small")
    words = plain.tokenizer
    wide = plain.text_encoder.config.hidden_size
    second = CLIPTextModelWithProjection(
        CLIPTextConfig(**{**plain.text_encoder.config.to_dict(), "projection_dim": wide})
    )
    shape = tiny._SHAPES["small"]
    unet = diffusers.UNet2DConditionModel(
        **{
            **dict(tiny._unet(shape, 4).config),
            "cross_attention_dim": 2 * wide,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + wide,
        }
    )
    pipe = diffusers.StableDiffusionXLAutoBlocks().init_pipeline()
    pipe.update_components(
        scheduler=diffusers.EulerDiscreteScheduler.from_config(tiny.scheduler("epsilon").config),
        vae=plain.vae,
        unet=unet,
        text_encoder=plain.text_encoder,
        text_encoder_2=second,
        tokenizer=words,
        tokenizer_2=words,
    )
    return pipe
