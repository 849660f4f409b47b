"""The `StableUnCLIPPipeline` folder, made of a prior and a decoder.

    python -m ldmkit.recipes.unclip --prior runs/prior/model --decoder runs/decoder/model

DALL-E 2 (Ramesh et al. 2022, arXiv 2204.06125, figure 2) in the form of Stable unCLIP: a prior
makes a picture's embedding of a caption, a latent decoder makes a picture of the embedding.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    PriorTransformer,
    StableUnCLIPPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from transformers import CLIPTokenizer

from ldmkit.critters.world import VERSION
from ldmkit.recipes import decoder, prior
from ldmkit.recipes.clip import full_precision_config
from ldmkit.recipes.embeddings import CLIP, UNET, VAE, Pictures, build_noising, fit
from ldmkit.recipes.unet import build_scheduler, forget_origin, text_encoder

_DECODER = {"num_inference_steps": 32, "guidance_scale": 3.0}
_PRIOR = {"prior_num_inference_steps": 5, "prior_guidance_scale": 3.5}


def assemble(
    transformer: PriorTransformer,
    unet: UNet2DConditionModel,
    normalizer: StableUnCLIPImageNormalizer,
    clip: str = CLIP,
    autoencoder: str = VAE,
) -> StableUnCLIPPipeline:
    """All parts in diffusers' own class."""
    return StableUnCLIPPipeline(
        prior_tokenizer=CLIPTokenizer.from_pretrained(clip),
        prior_text_encoder=prior.text_encoder(clip),
        prior=transformer,
        prior_scheduler=prior.build_scheduler(),
        image_normalizer=normalizer,
        image_noising_scheduler=build_noising(),
        tokenizer=CLIPTokenizer.from_pretrained(clip),
        text_encoder=text_encoder(clip),
        unet=unet,
        scheduler=build_scheduler(),
        vae=AutoencoderKL.from_pretrained(autoencoder),
    )


def export(pipe: StableUnCLIPPipeline, folder: Path) -> None:
    """Write the pipeline's folder: float16 tensors, float32 named in the text encoders.

    Args:
        pipe: its parts become float16.
        folder: replaced as a whole.
    """
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.half()
    pipe.save_pretrained(partial, safe_serialization=True)
    for path in partial.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes them for the owner alone
    for name in ("text_encoder", "prior_text_encoder"):
        full_precision_config(partial / name / "config.json")
    for name in ("vae", "unet", "prior", "image_normalizer"):
        forget_origin(partial / name / "config.json")
    settings = {"critters_version": VERSION, "variants": {"": {**_DECODER, **_PRIOR}}}
    (partial / "ldmkit.json").write_text(json.dumps(settings, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--prior", default=None, help="folder of the prior; fresh weights without")
    parser.add_argument(
        "--decoder", default=None, help="folder of the decoder; fresh layers without"
    )
    parser.add_argument("--from", dest="start", default=UNET, help="U-Net of a fresh decoder")
    parser.add_argument("--clip", default=CLIP, help="folder of the embedded CLIP")
    parser.add_argument("--autoencoder", default=VAE, help="folder of the autoencoder")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="an ignored folder")
    parser.add_argument(
        "--drawings", type=int, default=48_000, help="what a fresh part is fitted to"
    )
    parser.add_argument("--export", type=Path, default=None, help="write the folder here")
    options = parser.parse_args()
    if options.decoder:
        normalizer = StableUnCLIPImageNormalizer.from_pretrained(
            options.decoder, subfolder="image_normalizer"
        )
    else:
        pictures = Pictures(options.clip)
        normalizer = fit(pictures.training(options.drawings, options.runs / "cache"))
    pipe = assemble(
        PriorTransformer.from_pretrained(options.prior)
        if options.prior
        else prior.build(normalizer),
        UNet2DConditionModel.from_pretrained(options.decoder, subfolder="unet")
        if options.decoder
        else decoder.warm_start(options.start),
        normalizer,
        options.clip,
        options.autoencoder,
    )
    export(pipe, options.export or options.runs / "unclip")


if __name__ == "__main__":
    main()
