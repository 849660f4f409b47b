"""Random pipelines with the classes of the embedded model, for every test that needs one.

``pipeline()`` has the embedded model's own shapes; ``pipeline(size="small")`` is the least
network that still has cross-attention on every level, so that a test which runs all schedulers
stays short. The weights are random: good for what is exact (identity, shapes, formulas), never
for what a picture looks like.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

Size = Literal["embedded", "small"]
Kind = Literal["text2img", "img2img", "inpaint", "inpaint9"]

#: Names of the schedulers that a recorder has to serve, as diffusers calls them.
SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "LCMScheduler",
    "TCDScheduler",
)

_WORDS = "a red green blue black white cat dog fox owl with in the top hat crown snow at night"
_CLASSES = {
    "text2img": StableDiffusionPipeline,
    "img2img": StableDiffusionImg2ImgPipeline,
    "inpaint": StableDiffusionInpaintPipeline,
    "inpaint9": StableDiffusionInpaintPipeline,
}
_SHAPES: dict[str, dict[str, Any]] = {
    "embedded": {
        "unet": (48, 96, 128),
        "unet_groups": 16,
        "head": 32,
        "vae": (24, 48, 64),
        "vae_groups": 8,
        "text": 128,
        "layers": 4,
        "sample": 16,
    },
    "small": {
        "unet": (8, 16),
        "unet_groups": 4,
        "head": 8,
        "vae": (4, 8, 8),
        "vae_groups": 4,
        "text": 16,
        "layers": 1,
        "sample": 8,
    },
}


def _bytes_to_unicode() -> list[str]:
    """The 256 printable stand-ins for bytes that byte-level BPE uses, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(spare))]


def tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer of 32 positions that knows every byte and about twenty words whole."""
    letters = _bytes_to_unicode()
    vocabulary = letters + [letter + "</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in _WORDS.split():
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            if (parts[0], parts[1]) not in merges:
                merges.append((parts[0], parts[1]))
                vocabulary.append(parts[0] + parts[1])
            parts = [parts[0] + parts[1], *parts[2:]]
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=merges,
        model_max_length=32,
    )


def scheduler(prediction_type: str = "v_prediction") -> DDIMScheduler:
    """The embedded model's scheduler: 1,024 steps, so that 64, 32, 16 ... are exact grids."""
    return DDIMScheduler(
        num_train_timesteps=1024,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.02,
        prediction_type=prediction_type,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        clip_sample=False,
        steps_offset=1,
    )


def _text_encoder(shape: dict[str, Any], words: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=shape["text"],
            intermediate_size=4 * shape["text"],
            num_hidden_layers=shape["layers"],
            num_attention_heads=4,
            max_position_embeddings=32,
            projection_dim=shape["text"],
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def _vae(shape: dict[str, Any]) -> AutoencoderKL:
    levels = len(shape["vae"])
    return AutoencoderKL(
        block_out_channels=shape["vae"],
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=shape["vae_groups"],
        mid_block_add_attention=False,
        sample_size=4 * shape["sample"],
        scaling_factor=0.5,
    )


def _unet(shape: dict[str, Any], in_channels: int) -> UNet2DConditionModel:
    levels = len(shape["unet"])
    return UNet2DConditionModel(
        sample_size=shape["sample"],
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=shape["unet"],
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        layers_per_block=1,
        cross_attention_dim=shape["text"],
        attention_head_dim=[max(1, width // shape["head"]) for width in shape["unet"]],
        norm_num_groups=shape["unet_groups"],
    )


def picture(seed: int = 0, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """A picture of noise, which is like no other seed's."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pipeline(
    kind: Kind = "text2img",
    *,
    size: Size = "embedded",
    prediction_type: str = "v_prediction",
    scheduler_name: str = "DDIMScheduler",
    seed: int = 0,
    **scheduler_options: Any,
) -> Any:
    """A Stable Diffusion pipeline with random weights.

    Args:
        kind: ``"text2img"``, its siblings ``"img2img"`` and ``"inpaint"``, or ``"inpaint9"``
            with a U-Net of nine input channels (latents, mask, masked picture).
        size: ``"embedded"`` (64×64 pictures, 5 M parameters) or ``"small"`` (32×32, 0.1 M).
        prediction_type: ``"epsilon"``, ``"v_prediction"`` or ``"sample"``.
        scheduler_name: any scheduler class of diffusers, built from the embedded one's config.
        seed: of the weights; the same seed, the same weights.
        **scheduler_options: override entries of the scheduler's config.
    """
    import diffusers

    shape = _SHAPES[size]
    words = tokenizer()
    base = scheduler(prediction_type)
    chosen = getattr(diffusers, scheduler_name).from_config(base.config, **scheduler_options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = {
            "tokenizer": words,
            "text_encoder": _text_encoder(shape, words),
            "vae": _vae(shape),
            "unet": _unet(shape, 9 if kind == "inpaint9" else 4),
        }
    for part in ("text_encoder", "vae", "unet"):
        parts[part].eval().requires_grad_(False)
    # The advice on safety checkers is for real models; here it would fill every test's log.
    logger = logging.getLogger("diffusers")
    level, logger.level = logger.level, logging.ERROR
    try:
        pipe = _CLASSES[kind](
            **parts,
            scheduler=chosen,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    finally:
        logger.level = level
    pipe.set_progress_bar_config(disable=True)
    return pipe
