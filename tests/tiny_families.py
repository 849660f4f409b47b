"""Random pipelines of further families in their exact classes; text comes as embeddings.

See ``tiny``: the least networks that run, good for what is exact and never for how a picture looks.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import tiny
import torch
from PIL import Image
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


# --- one case for each family of loading/families.py ---------------------------------------------


@dataclass(frozen=True)
class Case:
    """A family on small random weights, and what a record of it must say.

    Attributes:
        build: makes the pipeline.
        call: its keywords; words come as embeddings where that is possible.
        shape: (c, h, w) of its latents.
        text: which of the network's answers in a step had the words, in their order; ``None``
            where none had the prompt.
        uncond: which had none; ``None`` where guidance is off.
        noise: ε of an answer, from (answer, latents, alpha, sigma), the family's own way; ``None``
            where it isn't checked here, but in ``tests/recording/test_noise_law.py``.
        network: the part that is asked, or two.
        decodes: the last latents are the picture.
        told: what is said of it, a piece of each sentence.
    """

    build: Callable[[], Any]
    call: dict[str, Any]
    shape: tuple[int, int, int]
    text: int | None = 1
    uncond: int | None = 0
    noise: Callable[..., Any] | None = lambda answer, x, alpha, sigma: answer
    network: str = "transformer"
    decodes: bool = True
    told: tuple[str, ...] = ()


def _velocity(answer: Any, x: Any, alpha: float, sigma: float) -> Any:
    """Flow matching (arXiv 2210.02747)."""
    return x + (1 - sigma) * answer


def _turned(answer: Any, x: Any, alpha: float, sigma: float) -> Any:
    """Flow matching, where the network tells the way to the picture, perhaps as a film."""
    return x - (1 - sigma) * answer.reshape(x.shape)


def _from_clean(answer: Any, x: Any, alpha: float, sigma: float) -> Any:
    """PRX in pixels: x0, and a velocity of it that is kept from growing."""
    return x + (1 - sigma) * (x - answer) / max(sigma, 0.05)


def _packed(answer: Any, x: Any, alpha: float, sigma: float) -> Any:
    return _velocity(unpacked(torch.from_numpy(answer)).numpy(), x, alpha, sigma)


def _flow(kind: str, network: str, shape: dict[str, Any], vae: Any = None, **parts: Any) -> Any:
    """A pipeline of flow matching whose texts come as embeddings."""

    @_seeded
    def build() -> Any:
        known = inspect.signature(getattr(diffusers, kind).__init__).parameters
        nothing = {name: None for name in known if name.startswith(("text_enc", "tokenizer"))}
        own = {"vae": _vae() if vae is None else vae()} if "vae" in known else {}
        made = {
            "transformer": getattr(diffusers, network)(**shape),
            "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(),
        }
        return getattr(diffusers, kind)(**{**nothing, **made, **own, **parts})

    return build


def _flux2_vae(channels: int = 1) -> Any:
    vae = diffusers.AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    vae.bn.running_mean.uniform_(-0.5, 0.5)  # else the normalisation would be none
    vae.bn.running_var.uniform_(0.5, 2)
    return vae


def _z_vae() -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=16,
        norm_num_groups=2,
        scaling_factor=0.4,
        shift_factor=0.1,
    )


def _sprint_vae() -> Any:
    return diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=[1, 1],
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        upsample_block_type="interpolate",
        downsample_block_type="conv",
        scaling_factor=0.41407,
    )


def _words(*names: str, width: int, tokens: int = 5, masks: tuple[str, ...] = ()) -> dict[str, Any]:
    """Embeddings under these names, each of its own words."""
    made = {name: embeds(1, tokens, width, seed=i) for i, name in enumerate(names)}
    return made | {name: torch.ones(1, tokens, dtype=torch.bool) for name in masks}


_BOTH = ("prompt_embeds", "negative_prompt_embeds")
_MASKS = ("prompt_attention_mask", "negative_prompt_attention_mask")
_QUICK = {"height": 32, "width": 32, "num_inference_steps": 3, "guidance_scale": 4.0}
_ROPE = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2}


@_seeded
def _sag() -> Any:
    parts = _stable_parts() | {"scheduler": tiny.scheduler("epsilon")}
    return diffusers.StableDiffusionSAGPipeline(**parts)


@_seeded
def _sega() -> Any:
    parts = _stable_parts() | {"scheduler": tiny.scheduler("epsilon")}
    del parts["image_encoder"]
    return diffusers.SemanticStableDiffusionPipeline(**parts)


@_seeded
def _cycle() -> Any:
    parts = _stable_parts() | {"scheduler": diffusers.DDIMScheduler(set_alpha_to_one=False)}
    del parts["image_encoder"]
    return diffusers.CycleDiffusionPipeline(**parts)


@_seeded
def _ldm() -> Any:
    vqvae = diffusers.VQModel(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        num_vq_embeddings=16,
    )
    return diffusers.LDMPipeline(vqvae, _pixels(), tiny.scheduler("epsilon"))


def _pixels(**options: Any) -> Any:
    return diffusers.UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(4, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=2,
        **options,
    )


def _of_pixels(kind: str, scheduler: str) -> Any:
    return _seeded(lambda: getattr(diffusers, kind)(_pixels(), getattr(diffusers, scheduler)()))


_PICTURE = Image.fromarray(np.arange(32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8))
_STEPS = {"num_inference_steps": 3}
_ALONE = {"text": 0, "uncond": None, "network": "unet"}

CASES = {
    "FluxPipeline": Case(flux, FLUX_CALL, (4, 8, 8), 0, None, _packed),
    "FluxPipeline, true guidance": Case(
        flux, FLUX_CALL | FLUX_TRUE_GUIDANCE, (4, 8, 8), 0, 1, _packed
    ),
    "QwenImagePipeline": Case(qwen, QWEN_CALL, (4, 8, 8), 0, 1, _packed),
    "StableDiffusion3Pipeline": Case(sd3, SD3_CALL, (4, 8, 8), noise=_velocity),
    "ChromaPipeline": Case(
        _flow(
            "ChromaPipeline",
            "ChromaTransformer2DModel",
            _ROPE
            | {"in_channels": 16, "attention_head_dim": 16, "joint_attention_dim": WIDTH}
            | {"axes_dims_rope": (4, 4, 8), "approximator_num_channels": 16}
            | {"approximator_hidden_dim": 32, "approximator_layers": 1},
        ),
        _QUICK | _words(*_BOTH, width=WIDTH, masks=_MASKS),
        (4, 8, 8),
        0,
        1,
        _packed,
    ),
    "BriaPipeline": Case(
        _flow(
            "BriaPipeline",
            "BriaTransformer2DModel",
            _ROPE
            | {"in_channels": 16, "attention_head_dim": 8, "joint_attention_dim": WIDTH}
            | {"axes_dims_rope": (0, 4, 4)},
        ),
        _QUICK | _words(*_BOTH, width=WIDTH),
        (4, 8, 8),
        noise=_packed,
    ),
    "Flux2KleinPipeline": Case(
        _flow(
            "Flux2KleinPipeline",
            "Flux2Transformer2DModel",
            _ROPE
            | {"in_channels": 4, "attention_head_dim": 16, "joint_attention_dim": WIDTH}
            | {"axes_dims_rope": (4, 4, 4, 4), "guidance_embeds": False},
            _flux2_vae,
        ),
        _QUICK | {"height": 8, "width": 12} | _words(*_BOTH, width=WIDTH),
        (1, 8, 12),
        0,
        1,
        lambda answer, x, alpha, sigma: (
            x
            + (1 - sigma)
            * answer.reshape(1, 4, 6, 1, 2, 2).transpose(0, 3, 1, 4, 2, 5).reshape(x.shape)
        ),
    ),
    "CogView4Pipeline": Case(
        _flow(
            "CogView4Pipeline",
            "CogView4Transformer2DModel",
            {"in_channels": 4, "out_channels": 4, "num_layers": 1, "attention_head_dim": 4}
            | {"num_attention_heads": 4, "text_embed_dim": WIDTH, "time_embed_dim": 8}
            | {"condition_dim": 4},
            lambda: tiny.pipeline(size="small").vae,  # it knows no shift_factor
        ),
        _QUICK | _words(*_BOTH, width=WIDTH, tokens=16),
        (4, 8, 8),
        0,
        1,
        _velocity,
    ),
    "Lumina2Pipeline": Case(
        _flow(
            "Lumina2Pipeline",
            "Lumina2Transformer2DModel",
            {"sample_size": 4, "in_channels": 4, "hidden_size": 8, "num_layers": 1}
            | {"num_attention_heads": 1, "num_kv_heads": 1, "multiple_of": 16}
            | {"axes_dim_rope": (4, 2, 2), "cap_feat_dim": 8},
        ),
        _QUICK | _words(*_BOTH, width=8, masks=_MASKS),
        (4, 4, 4),  # it counts on 8 pixels for a place
        0,
        1,
        _turned,
    ),
    "ZImagePipeline": Case(
        _flow(
            "ZImagePipeline",
            "ZImageTransformer2DModel",
            {"dim": 32, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}
            | {"cap_feat_dim": 16, "axes_dims": [8, 4, 4], "axes_lens": [256, 32, 32]},
            _z_vae,
        ),
        _QUICK
        | {"prompt_embeds": [embeds(5, 16)], "negative_prompt_embeds": [embeds(5, 16, seed=1)]},
        (16, 16, 16),
        0,
        1,
        _turned,
    ),
    "ErnieImagePipeline": Case(
        _flow(
            "ErnieImagePipeline",
            "ErnieImageTransformer2DModel",
            {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 1, "ffn_hidden_size": 32}
            | {"in_channels": 4, "out_channels": 4, "text_in_dim": 16, "rope_axes_dim": (4, 6, 6)},
            _flux2_vae,
        ),
        _QUICK
        | {"height": 8, "width": 12, "prompt_embeds": [embeds(5, 16)]}
        | {"negative_prompt_embeds": [embeds(5, 16, seed=1)]},
        (1, 8, 12),
        noise=lambda answer, x, alpha, sigma: (
            x + (1 - sigma) * torch.pixel_shuffle(torch.from_numpy(answer), 2).numpy()
        ),
        decodes=False,  # it counts on another epsilon of its batch norm
    ),
    "PRXPixelPipeline": Case(
        _flow(
            "PRXPixelPipeline",
            "PRXTransformer2DModel",
            {"in_channels": 3, "patch_size": 1, "context_in_dim": 16, "hidden_size": 8}
            | {"mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "axes_dim": [2, 2]}
            | {"bottleneck_size": 8},
        ),
        {"prompt": None, "height": 32, "width": 32, "num_inference_steps": 3}
        | {"guidance_scale": 4.0, "use_resolution_binning": False}
        | _words(*_BOTH, width=16, masks=_MASKS),
        (3, 32, 32),
        noise=_from_clean,
    ),
    "SanaSprintPipeline": Case(
        _flow(
            "SanaSprintPipeline",
            "SanaTransformer2DModel",
            {"in_channels": 4, "out_channels": 4, "num_layers": 1, "num_attention_heads": 2}
            | {"attention_head_dim": 4, "num_cross_attention_heads": 2}
            | {"cross_attention_head_dim": 4, "cross_attention_dim": 8, "caption_channels": 8}
            | {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads", "sample_size": 32},
            _sprint_vae,
            scheduler=diffusers.SCMScheduler(),
        ),
        {"height": 32, "width": 32, "num_inference_steps": 2, "use_resolution_binning": False}
        | _words("prompt_embeds", width=8, masks=_MASKS[:1]),
        (4, 16, 16),
        0,
        None,
        None,
        decodes=False,  # its picture is the last clean estimate
    ),
    "StableDiffusionSAGPipeline": Case(
        _sag, _STEPS | {"prompt": "a red cat", "guidance_scale": 4.0}, (4, 8, 8), network="unet"
    ),
    "StableDiffusionSAGPipeline, unguided": Case(
        _sag, _STEPS | {"prompt": "a red cat", "guidance_scale": 1.0}, (4, 8, 8), **_ALONE
    ),
    "SemanticStableDiffusionPipeline": Case(
        _sega,
        _STEPS | {"prompt": "a red cat", "editing_prompt": ["a crown"], "edit_warmup_steps": 0},
        (4, 8, 8),
        network="unet",
    ),
    "CycleDiffusionPipeline": Case(
        _cycle,
        {"prompt": "a red cat", "source_prompt": "a blue dog", "image": _PICTURE, "eta": 0.1}
        | {"num_inference_steps": 4, "guidance_scale": 3.0, "strength": 0.8},
        (4, 8, 8),
        text=3,
        uncond=1,
        network="unet",
    ),
    "LDMPipeline": Case(_ldm, _STEPS, (3, 8, 8), **_ALONE),
    "ScoreSdeVePipeline": Case(
        _of_pixels("ScoreSdeVePipeline", "ScoreSdeVeScheduler"),
        _STEPS,
        (3, 8, 8),
        decodes=False,
        noise=lambda a, x, alpha, sigma: -sigma * a,
        **_ALONE,
    ),
    "KarrasVePipeline": Case(
        _of_pixels("KarrasVePipeline", "KarrasVeScheduler"), _STEPS, (3, 8, 8), noise=None, **_ALONE
    ),
    "ConsistencyModelPipeline": Case(
        _of_pixels("ConsistencyModelPipeline", "CMStochasticIterativeScheduler"),
        _STEPS,
        (3, 8, 8),
        decodes=False,
        noise=None,
        **_ALONE,
    ),
}
