"""Random pipelines of several text encoders, and a safety checker, by diffusers' exact classes.

As in ``tiny``: good for what is exact (who reads how many tokens, what is drawn), never for what
a picture looks like.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import Any

import numpy as np
import tiny
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WIDTH = 16  # of every text encoder


def t5_tokenizer() -> T5Tokenizer:
    """A T5 tokenizer that knows the words of ``tiny``'s whole: one token a word, one at the end."""
    words = [("▁" + word, -1.0) for word in dict.fromkeys(tiny._WORDS.split())]
    letters = [(letter, -9.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *words, *letters]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0)


def _clip(kind: Any, words: Any) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(words) + 8,  # room for learnt words
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        projection_dim=WIDTH,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return kind(config).eval().requires_grad_(False)


def _t5(words: Any) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(words), d_model=WIDTH, d_kv=4, d_ff=32, num_layers=1, num_heads=4
    )
    return T5EncoderModel(config).eval().requires_grad_(False)


def _vae(channels: int) -> AutoencoderKL:
    return (
        AutoencoderKL(
            block_out_channels=(4, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            latent_channels=channels,
            norm_num_groups=4,
            mid_block_add_attention=False,
            sample_size=32,
            scaling_factor=0.5,
            shift_factor=0.0,
        )
        .eval()
        .requires_grad_(False)
    )


@contextmanager
def _seeded() -> Any:
    logger = logging.getLogger("diffusers")
    level, logger.level = logger.level, logging.ERROR
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        logger.level = level


def _quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sdxl() -> StableDiffusionXLPipeline:
    """Two CLIP encoders of 32 positions."""
    with _seeded():
        words = tiny.tokenizer(), tiny.tokenizer()
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=2 * WIDTH,
            attention_head_dim=2,
            norm_num_groups=4,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        )
        return _quiet(
            StableDiffusionXLPipeline(
                vae=_vae(4),
                text_encoder=_clip(CLIPTextModel, words[0]),
                text_encoder_2=_clip(CLIPTextModelWithProjection, words[1]),
                tokenizer=words[0],
                tokenizer_2=words[1],
                unet=unet.eval().requires_grad_(False),
                scheduler=EulerDiscreteScheduler.from_config(tiny.scheduler("epsilon").config),
                add_watermarker=False,
            )
        )


def sd3() -> StableDiffusion3Pipeline:
    """Two CLIP encoders of 32 positions and a T5 that reads ``max_sequence_length``."""
    with _seeded():
        words = tiny.tokenizer(), tiny.tokenizer(), t5_tokenizer()
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=4,
            num_attention_heads=4,
            caption_projection_dim=16,
            joint_attention_dim=2 * WIDTH,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=16,
        )
        encoders = (_clip(CLIPTextModelWithProjection, each) for each in words[:2])
        return _quiet(
            StableDiffusion3Pipeline(
                transformer=transformer.eval().requires_grad_(False),
                scheduler=FlowMatchEulerDiscreteScheduler(),
                vae=_vae(4),
                text_encoder=next(encoders),
                text_encoder_2=next(encoders),
                text_encoder_3=_wide_t5(words[2]),
                tokenizer=words[0],
                tokenizer_2=words[1],
                tokenizer_3=words[2],
            )
        )


def _wide_t5(words: Any) -> T5EncoderModel:
    """SD3 pads both CLIPs side by side to T5's width."""
    config = T5Config(
        vocab_size=len(words), d_model=2 * WIDTH, d_kv=4, d_ff=32, num_layers=1, num_heads=4
    )
    return T5EncoderModel(config).eval().requires_grad_(False)


def flux() -> FluxPipeline:
    """A CLIP encoder for one vector, a T5 for the words."""
    with _seeded():
        words = tiny.tokenizer(), t5_tokenizer()
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=4 * 4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            axes_dims_rope=(4, 4, 8),
        )
        return _quiet(
            FluxPipeline(
                scheduler=FlowMatchEulerDiscreteScheduler(),
                vae=_vae(4),
                text_encoder=_clip(CLIPTextModel, words[0]),
                tokenizer=words[0],
                text_encoder_2=_t5(words[1]),
                tokenizer_2=words[1],
                transformer=transformer.eval().requires_grad_(False),
            )
        )


def with_checker(pipe: Any, hides: Any = None, shows: Any = None) -> Any:
    """Gives a pipeline Stable Diffusion's own safety checker.

    Args:
        pipe: of ``tiny``.
        hides: the picture that it blacks out; ``None``: every one.
        shows: the picture from which it tells that one.
    """
    with _seeded():
        side = {
            "hidden_size": WIDTH,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        }
        config = CLIPConfig(
            text_config=side,
            vision_config={**side, "image_size": 32, "patch_size": 8},
            projection_dim=WIDTH,
        )
        checker = StableDiffusionSafetyChecker(config).eval().requires_grad_(False)
    eyes = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    checker.special_care_embeds_weights.fill_(2)  # a cosine is never above 2
    checker.concept_embeds_weights.fill_(-2 if hides is None else 2)
    if hides is not None:  # the concept is what one picture shows and the other doesn't
        seen = eyes([hides, shows], return_tensors="pt").pixel_values
        bad, good = checker.visual_projection(checker.vision_model(seen)[1])
        checker.concept_embeds[0] = bad - good * (bad @ good) / (good @ good)
        checker.concept_embeds_weights[0] = 0.0
    pipe.register_modules(safety_checker=checker, feature_extractor=eyes)
    return pipe


def long(words: int) -> str:
    """So many words, each one token for every tokenizer here."""
    return " ".join(["cat"] * words)


def same(one: Any, other: Any) -> bool:
    """Whether two pictures are the same to the bit."""
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()
