"""Stable Diffusion 1.5's own shapes with random weights: what time and memory are measured on.

860 million parameters of U-Net and 84 of autoencoder, made where they shall work; the encoder of
words has CLIP's width and the small tokenizer of ``tiny``. ``narrow`` makes the same in little, to
try code on a CPU.
"""

from __future__ import annotations

from typing import Any

import tiny
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

BLOCKS = 4


def stable(device: str, dtype: torch.dtype = torch.float16, *, narrow: bool = False) -> Any:
    """A pipeline of 512 x 512 pictures (64 x 64 where narrow)."""
    words = tiny.tokenizer()
    widths = (32, 32, 64, 64) if narrow else (320, 640, 1280, 1280)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8 if narrow else 64, block_out_channels=widths, cross_attention_dim=768
        )
        vae = AutoencoderKL(
            block_out_channels=(32, 32, 32, 32) if narrow else (128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * BLOCKS,
            up_block_types=("UpDecoderBlock2D",) * BLOCKS,
            layers_per_block=2,
            latent_channels=4,
        )
        text = CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=2,
            num_attention_heads=12,
            max_position_embeddings=words.model_max_length,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
        )
        text_encoder = CLIPTextModel(text)
    for part in (unet, vae, text_encoder):
        part.to(dtype).eval().requires_grad_(False)
    pipe = StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=words,
        scheduler=tiny.scheduler("epsilon"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
