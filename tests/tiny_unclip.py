"""Random unCLIP pipelines in the exact classes: StableUnCLIP, Kandinsky 2.2, Karlo.

The least networks that still have every part; see ``tiny``. The embeddings have 16 dimensions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tiny
import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from ldmkit.loading.quiet import no_retirement_notice

WIDTH = 16  # of an embedding, of the words and of the pictures
PIXELS = 32  # a side of what the vision tower reads


def stable(*, seed: int = 0) -> Any:
    """A ``StableUnCLIPPipeline`` as the embedded one: 32×32 pictures through an autoencoder."""
    from diffusers import DDPMScheduler, StableUnCLIPPipeline
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
        StableUnCLIPImageNormalizer,
    )

    base = tiny.pipeline(size="small", seed=seed)
    with _weights(seed):
        parts = {
            "prior_text_encoder": text_encoder(base.tokenizer),
            "prior": _prior(),
            "image_normalizer": StableUnCLIPImageNormalizer(WIDTH),
            "unet": _unet(
                class_embed_type="projection",
                projection_class_embeddings_input_dim=2 * WIDTH,
                cross_attention_dim=WIDTH,
                attention_head_dim=2,
            ),
        }
        with torch.no_grad():  # as a fitted one: not the identity
            parts["image_normalizer"].mean.normal_()
            parts["image_normalizer"].std.uniform_(0.5, 1.5)
    return _ready(
        StableUnCLIPPipeline,
        prior_tokenizer=base.tokenizer,
        prior_scheduler=DDPMScheduler(
            num_train_timesteps=1000,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="sample",
            clip_sample=True,
            clip_sample_range=5.0,
            variance_type="fixed_small_log",
        ),
        image_noising_scheduler=DDPMScheduler(
            num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2"
        ),
        tokenizer=base.tokenizer,
        text_encoder=base.text_encoder,
        scheduler=base.scheduler,
        vae=base.vae,
        **parts,
    )


def with_eye(*, seed: int = 0) -> Any:
    """``stable`` with the picture half of its CLIP, which reads what its decoder draws.

    The decoder's answers are small, so that few rounds of an inversion settle.
    """
    pipe = stable(seed=seed)
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(0.1)
        pipe.unet.conv_out.bias.zero_()
    with _weights(5):
        pipe.image_encoder, pipe.feature_extractor = vision_encoder().eval(), processor()
    return pipe


def kandinsky(*, seed: int = 0) -> Any:
    """A ``KandinskyV22CombinedPipeline``: prior, picture encoder and MoVQ, 32×32 pictures."""
    from diffusers import DDPMScheduler, KandinskyV22CombinedPipeline, UnCLIPScheduler, VQModel

    words = tiny.tokenizer()
    with _weights(seed):
        parts = {
            "unet": _unet(
                out_channels=8,  # the noise, and a variance that its scheduler drops
                addition_embed_type="image",
                addition_embed_type_num_heads=2,
                encoder_hid_dim=WIDTH,
                encoder_hid_dim_type="image_proj",
                cross_attention_dim=WIDTH,
                attention_head_dim=2,
                down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
                up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
                mid_block_type="UNetMidBlock2DSimpleCrossAttn",
                resnet_time_scale_shift="scale_shift",
            ),
            "movq": VQModel(
                block_out_channels=(32, 32, 32),  # its spatial norm has 32 groups in any case
                down_block_types=("DownEncoderBlock2D",) * 3,
                up_block_types=("UpDecoderBlock2D",) * 3,
                latent_channels=4,
                layers_per_block=1,
                norm_type="spatial",
                num_vq_embeddings=8,
                vq_embed_dim=4,
            ),
            "prior_prior": _prior(),
            "prior_text_encoder": text_encoder(words),
            "prior_image_encoder": vision_encoder(),
        }
    return _ready(
        KandinskyV22CombinedPipeline,
        scheduler=DDPMScheduler(
            num_train_timesteps=1000, beta_schedule="linear", beta_start=0.00085, beta_end=0.012
        ),
        prior_tokenizer=words,
        prior_scheduler=UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=10.0
        ),
        prior_image_processor=processor(),
        **parts,
    )


def karlo(*, seed: int = 0) -> Any:
    """An ``UnCLIPPipeline``: a decoder of 8×8 pixels and an upscaler to 16×16."""
    from diffusers import UnCLIPPipeline, UnCLIPScheduler, UNet2DModel
    from diffusers.pipelines.deprecated.unclip import UnCLIPTextProjModel

    words = tiny.tokenizer()
    learned = {"variance_type": "learned_range", "prediction_type": "epsilon"}
    with _weights(seed):
        parts: dict[str, Any] = {
            "prior": _prior(),
            "text_encoder": text_encoder(words),
            "text_proj": UnCLIPTextProjModel(
                clip_embeddings_dim=WIDTH, time_embed_dim=4 * 8, cross_attention_dim=WIDTH
            ),
            "decoder": _unet(
                sample_size=8,
                in_channels=3,
                out_channels=6,
                class_embed_type="identity",
                cross_attention_dim=WIDTH,
                attention_head_dim=2,
                down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
                up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
                mid_block_type="UNetMidBlock2DSimpleCrossAttn",
                resnet_time_scale_shift="scale_shift",
            ),
        }
        for name in ("super_res_first", "super_res_last"):
            parts[name] = UNet2DModel(
                sample_size=16,
                in_channels=6,
                out_channels=3,
                layers_per_block=1,
                block_out_channels=(8, 16),
                norm_num_groups=4,
                down_block_types=("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D"),
                up_block_types=("ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
            )
    return _ready(
        UnCLIPPipeline,
        tokenizer=words,
        prior_scheduler=UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
        ),
        decoder_scheduler=UnCLIPScheduler(**learned),
        super_res_scheduler=UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="epsilon"
        ),
        **parts,
    )


def text_encoder(words: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """A text tower with its projection."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            projection_dim=WIDTH,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def vision_encoder() -> CLIPVisionModelWithProjection:
    """A picture tower with its projection."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=PIXELS,
            patch_size=8,
            projection_dim=WIDTH,
        )
    )


def processor() -> CLIPImageProcessorPil:
    """What makes pixels of a picture for the tower."""
    size = {"height": PIXELS, "width": PIXELS}
    return CLIPImageProcessorPil(size={"shortest_edge": PIXELS}, crop_size=size)


def _prior() -> Any:
    from diffusers import PriorTransformer

    prior = PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        embedding_dim=WIDTH,
        num_embeddings=32,
    )
    with torch.no_grad():  # as diffusers starts it, hardly anything that comes in matters
        for weight in prior.parameters():
            weight.mul_(2 if weight.ndim == 2 else 1)
        prior.clip_std.uniform_(0.5, 1.5)
        prior.clip_mean.normal_()
        prior.prd_embedding.normal_()
        prior.positional_embedding.normal_()
    return prior


def _unet(**options: Any) -> Any:
    from diffusers import UNet2DConditionModel

    shape: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "layers_per_block": 1,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**shape | options)


@contextlib.contextmanager
def _weights(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _ready(kind: Any, **parts: Any) -> Any:
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    with no_retirement_notice():  # Karlo's
        pipe = kind(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe
