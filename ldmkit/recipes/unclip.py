"""The `StableUnCLIPPipeline` folder, made of a prior and a decoder.

    python -m ldmkit.recipes.unclip --prior runs/prior/model --decoder runs/decoder/model

DALL-E 2 (Ramesh et al. 2022, arXiv 2204.06125, figure 2) in the form of Stable unCLIP: a prior
makes a picture's embedding of a caption, a latent decoder makes a picture of the embedding.
"""

from __future__ import annotations

import argparse
from pathlib import Path

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

from ldmkit.recipes import decoder, prior
from ldmkit.recipes.train import CLIP, VAE, check_target
from ldmkit.recipes.unet import build_scheduler, text_encoder, write_folder

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
        image_noising_scheduler=decoder.build_noising(),
        tokenizer=CLIPTokenizer.from_pretrained(clip),
        text_encoder=text_encoder(clip),
        unet=unet,
        scheduler=build_scheduler(),
        vae=AutoencoderKL.from_pretrained(autoencoder),
    )


def export(pipe: StableUnCLIPPipeline, folder: Path) -> None:
    """Write the pipeline's folder; see `recipes.unet.write_folder`."""
    write_folder(pipe, folder, {**_DECODER, **_PRIOR})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--prior", default="runs/prior/model", help="folder of the prior")
    parser.add_argument("--decoder", default="runs/decoder/model", help="folder of the decoder")
    parser.add_argument("--clip", default=CLIP, help="folder of the embedded CLIP")
    parser.add_argument("--autoencoder", default=VAE, help="folder of the autoencoder")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="an ignored folder")
    parser.add_argument("--export", type=Path, default=None, help="write the folder here")
    options = parser.parse_args()
    target = options.export or options.runs / "unclip"
    check_target(target)
    pipe = assemble(
        PriorTransformer.from_pretrained(options.prior),
        UNet2DConditionModel.from_pretrained(options.decoder, subfolder="unet"),
        StableUnCLIPImageNormalizer.from_pretrained(options.decoder, subfolder="image_normalizer"),
        options.clip,
        options.autoencoder,
    )
    export(pipe, target)


if __name__ == "__main__":
    main()
