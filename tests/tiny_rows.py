"""Cases for the rows of ``loading/families.py`` that no case of ``tiny_families`` is of.

Where a pipeline takes no embeddings, its ``encode_prompt`` is one that gives some.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import diffusers
import tiny
import tiny_families as families
import tiny_unclip
import torch
from tiny_families import Case, embeds

_velocity, _turned, _words, _flow = (
    families._velocity,
    families._turned,
    families._words,
    families._flow,
)
_BOTH, _MASKS, _QUICK, _STEPS = families._BOTH, families._MASKS, families._QUICK, families._STEPS
_PICTURE = families._PICTURE
_T5 = ("prompt_embeds_t5", "negative_prompt_embeds_t5")
_LLAMA = ("prompt_embeds_llama3", "negative_prompt_embeds_llama3")
_POOLED = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")


def _plain_vae() -> Any:
    return tiny.pipeline(size="small").vae


def _eighth_vae() -> Any:
    """Some count on 8 pixels for a latent."""
    return diffusers.AutoencoderKL(
        block_out_channels=(4,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=1,
    )


def _tiny_vae() -> Any:
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )


def _film_vae(z: int, **options: Any) -> Any:
    shape = {"base_dim": 3, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "z_dim": z}
    shape |= {"temperal_downsample": [False, True, True]}
    shape |= {"latents_mean": [0.1] * z, "latents_std": [0.8] * z}
    return diffusers.AutoencoderKLWan(**shape, **options)


@families._seeded
def _omnigen() -> Any:
    """Its processor is made of torchvision, of which texts alone need nothing."""
    from diffusers.pipelines.omnigen import pipeline_omnigen, processor_omnigen

    made = ("Compose", "Lambda", "ToTensor", "Normalize")
    processor_omnigen.transforms = SimpleNamespace(**{n: lambda *a, **k: None for n in made})
    pipeline_omnigen.OmniGenMultiModalProcessor = processor_omnigen.OmniGenMultiModalProcessor
    transformer = diffusers.OmniGenTransformer2DModel(
        vocab_size=64,
        pad_token_id=2,
        hidden_size=16,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        num_layers=1,
        time_step_dim=4,
        rope_scaling={"long_factor": [1.0] * 4, "short_factor": [1.0] * 4},
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1)
    return diffusers.OmniGenPipeline(transformer, scheduler, _eighth_vae(), _Letters())


def _with(build: Any, **own: Any) -> Any:
    """A pipeline with other values of its own: some know only large pictures."""

    def built() -> Any:
        pipe = build()
        for name, value in own.items():
            setattr(pipe, name, value)
        return pipe

    return built


class _Letters:
    """What OmniGen's processor asks of a tokenizer: here a number for each letter."""

    model_max_length = 512
    image_processor = None

    def __call__(self, text: str, **options: Any) -> Any:
        return SimpleNamespace(input_ids=[ord(letter) % 61 + 3 for letter in text])


@families._seeded
def _ledits() -> Any:
    parts = families._stable_parts()
    del parts["image_encoder"]
    parts["scheduler"] = diffusers.DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        algorithm_type="sde-dpmsolver++",
        solver_order=2,
    )
    pipe = diffusers.LEditsPPPipelineStableDiffusion(**parts)
    pipe.set_progress_bar_config(disable=True)
    pipe.invert(_PICTURE, num_inversion_steps=4, generator=torch.Generator().manual_seed(0))
    return pipe


@families._seeded
def _hunyuan_dit() -> Any:
    shape = {"sample_size": 8, "num_layers": 2, "patch_size": 2, "attention_head_dim": 8}
    shape |= {"num_attention_heads": 3, "in_channels": 4, "hidden_size": 24}
    shape |= {"cross_attention_dim": 16, "cross_attention_dim_t5": 16, "pooled_projection_dim": 8}
    shape |= {"text_len": 5, "text_len_t5": 6, "activation_fn": "gelu-approximate"}
    nothing = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    return diffusers.HunyuanDiTPipeline(
        **dict.fromkeys((*nothing, "safety_checker", "feature_extractor")),
        vae=_eighth_vae(),
        transformer=diffusers.HunyuanDiT2DModel(**shape),
        scheduler=tiny.scheduler("epsilon"),
        requires_safety_checker=False,
    )


def _projected(clip: Any) -> Any:
    config = families.CLIPTextConfig(**{**clip.config.to_dict(), "projection_dim": 8})
    return families.CLIPTextModelWithProjection(config)


@families._seeded
def _amused() -> Any:
    plain = tiny.pipeline(size="small")
    shape = {"hidden_size": 8, "cond_embed_dim": 8, "micro_cond_encode_dim": 2}
    shape |= {"micro_cond_embed_dim": 10, "vocab_size": 32, "codebook_size": 8, "in_channels": 8}
    shape |= {"block_out_channels": 8, "num_res_blocks": 1, "downsample": True, "upsample": True}
    shape |= {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    shape |= {"block_num_heads": 1, "encoder_hidden_size": plain.text_encoder.config.hidden_size}
    vqvae = diffusers.VQModel(
        block_out_channels=[8],
        down_block_types=["DownEncoderBlock2D"],
        up_block_types=["UpDecoderBlock2D"],
        latent_channels=8,
        norm_num_groups=8,
        num_vq_embeddings=32,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
    )
    return diffusers.AmusedPipeline(
        vqvae=vqvae,
        tokenizer=plain.tokenizer,
        text_encoder=_projected(plain.text_encoder),
        transformer=diffusers.UVit2DModel(**shape),
        scheduler=diffusers.AmusedScheduler(mask_token_id=31),
    )


@families._seeded
def _cascade() -> Any:
    from diffusers.models import StableCascadeUNet
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel

    plain = tiny.pipeline(size="small")
    blocks = ["SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"]
    decoder = StableCascadeUNet(
        in_channels=4,
        out_channels=4,
        conditioning_dim=16,
        block_out_channels=[8, 16],
        num_attention_heads=[1, 2],
        down_num_layers_per_block=[1, 1],
        up_num_layers_per_block=[1, 1],
        down_blocks_repeat_mappers=[1, 1],
        up_blocks_repeat_mappers=[1, 1],
        block_types_per_layer=[blocks[:2], blocks],
        switch_level=None,
        clip_text_pooled_in_channels=8,
        dropout=[0.0, 0.0],
    )
    for weight in decoder.parameters():
        weight.data.normal_(0, 0.15)
    return diffusers.StableCascadeDecoderPipeline(
        decoder,
        plain.tokenizer,
        _projected(plain.text_encoder),
        diffusers.DDPMWuerstchenScheduler(),
        PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=2),
    )


@families._seeded
def _dreamlite() -> Any:
    unet = diffusers.DreamLiteUNetModel(
        sample_size=8,
        down_block_types=(
            "DreamLiteCrossAttnNoSelfAttnDownBlock2D",
            "DreamLiteCrossAttnDownBlock2D",
        ),
        up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=8,
    )
    pipe = diffusers.DreamLitePipeline(
        tiny.pipeline(size="small").text_encoder,
        None,
        None,
        _tiny_vae(),
        unet,
        diffusers.FlowMatchEulerDiscreteScheduler(),
    )
    pipe.encode_prompt = lambda mode, prompts, **options: (
        embeds(len(prompts), 5, 16),
        torch.ones(len(prompts), 5, dtype=torch.long),
    )
    return pipe


_fibo = _flow(
    "BriaFiboPipeline",
    "BriaFiboTransformer2DModel",
    {"in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8}
    | {"num_attention_heads": 2, "joint_attention_dim": 64, "axes_dims_rope": [0, 4, 4]}
    | {"text_encoder_dim": 32},
    lambda: _film_vae(4, scale_factor_spatial=8),
)
_ideogram = _flow(
    "Ideogram4Pipeline",
    "Ideogram4Transformer2DModel",
    {"in_channels": 8, "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
    | {"intermediate_size": 32, "adaln_dim": 8, "llm_features_dim": 16}
    | {"mrope_section": (4, 2, 2)},
    lambda: families._flux2_vae(2),
    unconditional_transformer=None,
)
_longcat = _flow(
    "LongCatImageEditPipeline",
    "LongCatImageTransformer2DModel",
    {"in_channels": 64, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16}
    | {"num_attention_heads": 2, "joint_attention_dim": 32, "pooled_projection_dim": 32}
    | {"axes_dims_rope": [4, 4, 8]},
    families._z_vae,
    text_processor=_Letters(),
)


def _longcat_small() -> Any:
    """It makes every picture one of 1024² pixels."""
    from diffusers.pipelines.longcat_image import pipeline_longcat_image_edit as module

    module.calculate_dimensions = lambda area, ratio: (16, 16)
    pipe = _longcat()
    pipe.encode_prompt = lambda prompt, **options: (
        embeds(1, 5, 32, seed=len(prompt[0])),
        torch.zeros(5, 3),
    )
    return pipe


def _fibo_of_embeds() -> Any:
    pipe, words, mask = _fibo(), embeds(2, 5, 64), torch.ones(1, 5)
    layers = [embeds(1, 5, 32, seed=i) for i in range(4)]
    pipe.encode_prompt = lambda *args, **options: (
        *(words[:1], words[1:], torch.zeros(1, 5, 3), mask, mask, layers[:2], layers[2:]),
    )
    return pipe


def _ideogram_of_embeds() -> Any:
    pipe, other = _ideogram(), _ideogram().transformer
    pipe.register_modules(unconditional_transformer=other)

    def encode(prompt: Any, grid_h: int, grid_w: int, max_sequence_length: int, **options: Any):
        places = pipe._prepare_ids([5], grid_h, grid_w, max_sequence_length, "cpu")
        padding = torch.zeros(1, grid_h * grid_w, 16)
        return torch.cat([embeds(1, max_sequence_length, 16), padding], dim=1), *places

    pipe.encode_prompt = encode
    return pipe


_kandinsky = _flow(
    "Kandinsky5T2IPipeline",
    "Kandinsky5Transformer3DModel",
    {"in_visual_dim": 16, "out_visual_dim": 16, "in_text_dim": 32, "in_text_dim2": 16}
    | {"time_dim": 16, "model_dim": 16, "ff_dim": 32, "num_text_blocks": 1}
    | {"num_visual_blocks": 1, "axes_dims": (1, 1, 2), "visual_cond": False},
    families._z_vae,
)


_joy = {"hidden_size": 32, "num_attention_heads": 2, "text_dim": 16, "num_layers": 1}
_joy |= {"patch_size": [1, 2, 2], "in_channels": 4, "rope_dim_list": [4, 6, 6], "theta": 256}


def _joy_edit(kind: str) -> Any:
    network = kind.replace("Pipeline", "Transformer3DModel")
    make = _flow(kind, network, _joy, lambda: _film_vae(4), processor=None)

    def build() -> Any:
        pipe = make()
        for name in ("image_processor", "vae_image_processor"):
            if processor := getattr(pipe, name, None):
                processor.get_default_height_width = lambda *a, **k: (32, 32)
        pipe.encode_prompt_multiple_images = lambda prompt, **options: (
            embeds(1, 5, 16, seed=len(str(prompt))),
            torch.ones(1, 5),
        )
        return pipe

    return build


def _joined(answer: Any, x: Any, alpha: float, sigma: float) -> Any:
    """JoyImage: (b, pictures, c, frames, h, w)."""
    return _velocity(answer.reshape(1, -1, 4, *x.shape[-2:])[:, -1], x, alpha, sigma)


def _patches(answer: Any, x: Any, alpha: float, sigma: float) -> Any:
    """JoyImage Plus: (b, patches, c, 1, 2, 2), those that are made first."""
    rows, columns = x.shape[-2] // 2, x.shape[-1] // 2
    own = answer[:, : rows * columns].reshape(1, rows, columns, 4, 2, 2)
    return _velocity(own.transpose(0, 3, 1, 4, 2, 5).reshape(x.shape), x, alpha, sigma)


def _channels_last(answer: Any, x: Any, alpha: float, sigma: float) -> Any:
    return _velocity(answer[:, 0].transpose(0, 3, 1, 2), x, alpha, sigma)


def _behind(answer: Any, x: Any, alpha: float, sigma: float) -> Any:
    """Ideogram 4: the picture's tokens stand behind the words'; the sign is turned."""
    own = answer[:, -(x[0, 0].size // 4) :]
    tokens = own.reshape(1, x.shape[-2] // 2, x.shape[-1] // 2, 2, 2, -1)
    return _velocity(-tokens.transpose(0, 5, 1, 3, 2, 4).reshape(x.shape), x, alpha, sigma)


def _half(answer: Any, x: Any, alpha: float, sigma: float) -> Any:
    """DreamLite: another picture stands beside."""
    return _velocity(answer[..., : x.shape[-1]], x, alpha, sigma)


def _exploding(answer: Any, x: Any, alpha: float, sigma: float) -> Any:
    """Cosmos 2: EDM's sigmas (arXiv 2206.00364) of a flow."""
    t = sigma / (sigma + 1)
    x0 = (1 - t) * x - t * answer.reshape(x.shape)
    return (x - x0) / sigma


def _backwards(answer: Any, x: Any, alpha: float, sigma: float) -> Any:
    """OmniGen: its network tells the way to the picture."""
    return x - alpha * answer


def _karlo_noise(answer: Any, x: Any, alpha: float, sigma: float) -> Any:
    return answer[:, :3]


def _cosmos() -> Any:
    """Its transformer asks torchvision for one thing: to make a mask larger."""
    from diffusers.models.transformers import transformer_cosmos as module

    larger = lambda mask, size, **k: torch.nn.functional.interpolate(mask, size=tuple(size))  # noqa: E731
    module.transforms = SimpleNamespace(
        functional=SimpleNamespace(resize=larger), InterpolationMode=SimpleNamespace(NEAREST=0)
    )
    shape = {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "num_layers": 1}
    shape |= {"attention_head_dim": 16, "mlp_ratio": 2, "text_embed_dim": 16, "adaln_lora_dim": 4}
    shape |= {"max_size": (4, 32, 32), "patch_size": (1, 2, 2), "rope_scale": (2.0, 1.0, 1.0)}
    return _flow(
        "Cosmos2TextToImagePipeline",
        "CosmosTransformer3DModel",
        shape | {"concat_padding_mask": True, "extra_pos_embed_type": None},
        lambda: _film_vae(4),
        safety_checker=_Passes(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
    )()


class _Passes(torch.nn.Module):
    """A guard that lets everything pass."""

    device, dtype = torch.device("cpu"), torch.float32

    def check_text_safety(self, text: str) -> bool:
        return True

    def check_video_safety(self, frames: Any) -> Any:
        return frames


_UNET = {"network": "unet"}
_FLUX_ROPE = {"in_channels": 16, "attention_head_dim": 16, "num_attention_heads": 2}
_FLUX_ROPE |= {"joint_attention_dim": 32, "pooled_projection_dim": 32}
_FLUX_ROPE |= {"axes_dims_rope": (4, 4, 8), "num_layers": 1, "num_single_layers": 1}


@families._seeded
def _controlled() -> Any:
    pipe = families.flux()
    control = diffusers.FluxControlNetModel(patch_size=1, **_FLUX_ROPE)
    nothing = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    return diffusers.FluxControlNetInpaintPipeline(
        pipe.scheduler,
        pipe.vae,
        **dict.fromkeys(nothing),
        transformer=pipe.transformer,
        controlnet=control,
    )


def _cloze() -> Any:
    make = _flow(
        "VisualClozeGenerationPipeline",
        "FluxTransformer2DModel",
        _FLUX_ROPE | {"patch_size": 1, "in_channels": 32 + 64, "out_channels": 16},
        resolution=32,
    )
    pipe = make()
    pipe.encode_prompt = lambda *a, **k: (
        embeds(1, 5, 32),
        embeds(1, 32),
        torch.zeros(5, 3),
    )
    return pipe


CASES = {
    "LuminaPipeline": Case(
        _flow(
            "LuminaPipeline",
            "LuminaNextDiT2DModel",
            {"sample_size": 4, "hidden_size": 4, "num_layers": 1, "num_attention_heads": 1}
            | {"num_kv_heads": 1, "multiple_of": 16, "cross_attention_dim": 8, "patch_size": 2}
            | {"in_channels": 4, "norm_eps": 1e-5, "learn_sigma": True, "qk_norm": True},
            _plain_vae,
        ),
        _QUICK | _words(*_BOTH, width=8, masks=_MASKS),
        (4, 4, 4),
        0,
        1,
        lambda answer, x, alpha, sigma: _turned(answer[:, :4], x, alpha, sigma),
    ),
    "OmniGenPipeline": Case(
        _omnigen,
        {"prompt": "a red cat", "height": 32, "width": 32, "num_inference_steps": 3}
        | {"guidance_scale": 3.0},
        (4, 4, 4),
        0,
        1,
        _backwards,
    ),
    "DreamLitePipeline": Case(
        _dreamlite,
        {"prompt": "a red cat", "height": 32, "width": 32, "num_inference_steps": 3},
        (4, 16, 16),
        noise=_half,
        **_UNET,
    ),
    "LEditsPPPipelineStableDiffusion": Case(
        _ledits,
        {"editing_prompt": ["a crown", "a hat"], "edit_warmup_steps": 0}
        | {"use_intersect_mask": False},
        (4, 8, 8),
        None,
        0,
        told=("never with a prompt",),
        **_UNET,
    ),
    "HunyuanDiTPipeline": Case(
        _hunyuan_dit,
        _QUICK
        | {"height": 64, "width": 64, "use_resolution_binning": False}
        | _words(*_BOTH, width=16, masks=_MASKS)
        | _words(
            *(name + "_2" for name in _BOTH),
            width=16,
            tokens=6,
            masks=tuple(name + "_2" for name in _MASKS),
        ),
        (4, 8, 8),
        noise=lambda answer, x, alpha, sigma: answer[:, :4],
    ),
    "HiDreamImagePipeline": Case(
        _with(
            _flow(
                "HiDreamImagePipeline",
                "HiDreamImageTransformer2DModel",
                {"patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 1}
                | {"num_single_layers": 1, "attention_head_dim": 8, "num_attention_heads": 4}
                | {"caption_channels": [32, 16], "text_emb_dim": 64, "axes_dims_rope": (4, 2, 2)}
                | {"max_resolution": (32, 32), "llama_layers": (0, 1), "num_routed_experts": 2}
                | {"num_activated_experts": 1},
            ),
            default_sample_size=8,
        ),
        _QUICK
        | _words(*_T5, width=32)
        | {name: embeds(2, 1, 5, 16, seed=i) for i, name in enumerate(_LLAMA)}
        | {name: embeds(1, 64, seed=i) for i, name in enumerate(_POOLED)},
        (4, 8, 8),
        noise=lambda answer, x, alpha, sigma: _velocity(-answer, x, alpha, sigma),
    ),
    "HunyuanImagePipeline": Case(
        _flow(
            "HunyuanImagePipeline",
            "HunyuanImageTransformer2DModel",
            {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "num_layers": 1}
            | {"attention_head_dim": 8, "num_single_layers": 1, "num_refiner_layers": 1}
            | {"patch_size": (1, 1), "text_embed_dim": 16, "text_embed_2_dim": 16}
            | {"rope_axes_dim": (4, 4), "guidance_embeds": False},
            lambda: diffusers.AutoencoderKLHunyuanImage(
                3,
                3,
                4,
                (32, 32, 32),
                1,
                spatial_compression_ratio=4,
                sample_size=32,
                scaling_factor=0.5,
            ),
            guider=diffusers.guiders.ClassifierFreeGuidance(guidance_scale=3.0),
        ),
        {"height": 32, "width": 32, "num_inference_steps": 3}
        | _words(*_BOTH, width=16)
        | _words(*(name + "_2" for name in _BOTH), width=16)
        | {name + "_mask" + end: torch.ones(1, 5) for name in _BOTH for end in ("", "_2")},
        (4, 8, 8),
        0,
        1,
        _velocity,
    ),
    "AuraFlowPipeline": Case(
        _flow(
            "AuraFlowPipeline",
            "AuraFlowTransformer2DModel",
            {"sample_size": 8, "patch_size": 2, "in_channels": 4, "num_mmdit_layers": 1}
            | {"num_single_dit_layers": 1, "attention_head_dim": 8, "num_attention_heads": 4}
            | {"joint_attention_dim": 32, "caption_projection_dim": 32, "out_channels": 4}
            | {"pos_embed_max_size": 64},
            _plain_vae,
        ),
        _QUICK | _words(*_BOTH, width=32) | {name: torch.ones(1, 5) for name in _MASKS},
        (4, 8, 8),
        noise=_velocity,
    ),
    "BriaFiboPipeline": Case(
        _fibo_of_embeds,
        _QUICK | {"prompt": "a red cat", "height": 64, "width": 64},
        (4, 4, 4),
        noise=lambda answer, x, alpha, sigma: _velocity(
            answer.reshape(1, 4, 4, 4).transpose(0, 3, 1, 2), x, alpha, sigma
        ),
    ),
    "Ideogram4Pipeline": Case(
        _ideogram_of_embeds,
        {"prompt": "a red cat", "height": 8, "width": 12, "num_inference_steps": 3}
        | {"guidance_schedule": [3.0] * 3, "max_sequence_length": 8},
        (2, 8, 12),
        0,
        1,
        _behind,
        "transformer unconditional_transformer",
    ),
    "VisualClozeGenerationPipeline": Case(
        _cloze,
        {"task_prompt": "a cat", "content_prompt": "a hat", "num_inference_steps": 3}
        | {"image": [[_PICTURE, _PICTURE], [_PICTURE, None]]},
        (4, 8, 16),
        0,
        None,
        None,
        decodes=False,  # its picture is the last of the row
    ),
    "FluxControlNetInpaintPipeline": Case(
        _controlled,
        families.FLUX_CALL
        | {"image": _PICTURE, "mask_image": _PICTURE, "control_image": _PICTURE, "strength": 1.0},
        (4, 8, 8),
        0,
        None,
        families._packed,
        decodes=False,
    ),
    "LongCatImageEditPipeline": Case(
        _longcat_small,
        {"num_inference_steps": 3, "guidance_scale": 3.0, "image": _PICTURE}
        | {"prompt": ["a red cat"], "negative_prompt": ["bad"]},
        (16, 8, 8),
        0,
        1,
        lambda answer, x, alpha, sigma: families._packed(answer[:, :16], x, alpha, sigma),
    ),
    "Kandinsky5T2IPipeline": Case(
        _with(_kandinsky, resolutions=[(32, 32)]),
        _QUICK
        | _words("prompt_embeds_qwen", "negative_prompt_embeds_qwen", width=32)
        | {"prompt_embeds_clip": embeds(1, 16), "negative_prompt_embeds_clip": embeds(1, 16)}
        | dict.fromkeys(
            ("prompt_cu_seqlens", "negative_prompt_cu_seqlens"), torch.tensor([0, 5]).int()
        ),
        (16, 4, 4),
        0,
        1,
        _channels_last,
    ),
    "JoyImageEditPipeline": Case(
        _joy_edit("JoyImageEditPipeline"),
        _QUICK | {"image": _PICTURE, "prompt": "a red cat", "negative_prompt": "bad"},
        (4, 4, 4),
        0,
        1,
        _joined,
    ),
    "JoyImageEditPlusPipeline": Case(
        _joy_edit("JoyImageEditPlusPipeline"),
        _QUICK | {"images": [[_PICTURE]], "prompt": ["a red cat"], "negative_prompt": ["bad"]},
        (4, 4, 4),
        noise=_patches,
    ),
    "Cosmos2TextToImagePipeline": Case(
        _cosmos,
        _QUICK | _words(*_BOTH, width=16),
        (4, 4, 4),
        0,
        1,
        _exploding,
        told=("safety checker gave no verdict",),
    ),
    "StableCascadeDecoderPipeline": Case(
        _cascade,
        _STEPS
        | {"prompt": "a red cat", "guidance_scale": 2.0}
        | {"image_embeddings": torch.ones(1, 16, 3, 3)},
        (4, 32, 32),
        0,
        1,
        network="decoder",
    ),
    "AmusedPipeline": Case(
        _amused,
        _STEPS | {"prompt": "a red cat", "height": 16, "width": 16},
        (1, 16, 16),
        told=("AmusedScheduler fills in masked codes of a codebook",),
    ),
    "UnCLIPPipeline": Case(
        tiny_unclip.karlo,
        {"prompt": "a red cat", "prior_num_inference_steps": 2, "decoder_num_inference_steps": 3}
        | {"super_res_num_inference_steps": 2, "decoder_guidance_scale": 3.0},
        (3, 8, 8),
        noise=_karlo_noise,
        network="decoder",
        decodes=False,
    ),
    "DiTPipeline": Case(
        families.dit,
        {"class_labels": [3], "num_inference_steps": 3, "guidance_scale": 3.0},
        (4, 8, 8),
        noise=None,
    ),
    "StableDiffusionInstructPix2PixPipeline": Case(
        families.pix2pix,
        {"prompt": "a red cat", "image": _PICTURE, "num_inference_steps": 3},
        (4, 8, 8),
        0,
        2,
        lambda answer, x, alpha, sigma: sigma * x + alpha * answer,
        **_UNET,
    ),
}
