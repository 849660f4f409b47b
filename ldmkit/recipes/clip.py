"""Train the embedded CLIP: captions and pictures in one space (Radford et al. 2021, figure 3).

    python -m ldmkit.recipes.clip --minutes 12

Its text half is also the text encoder of the latent diffusion pipelines. Captions are phrased anew
each time; pictures and captions are never held-out combinations.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from ldmkit.critters.world import EVALUATION_SEED, VERSION
from ldmkit.distilling.muon import Muon
from ldmkit.recipes.captioning import captions_of
from ldmkit.recipes.common import Run, arguments, drawings, half, scene
from ldmkit.recipes.vocabulary import POSITIONS, build_tokenizer

BATCH = 192
_MEAN, _STD = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]  # pictures enter in -1…1, as in the autoencoder


def build(tokenizer: CLIPTokenizer) -> CLIPModel:
    """The embedded CLIP with fresh weights."""
    end = tokenizer.eos_token_id
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        projection_dim=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end,
        pad_token_id=end,
    )
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=64,
        patch_size=8,
        projection_dim=128,
    )
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=128
    )
    return CLIPModel(config)


def tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Captions -> (b, 32) token ids, padded as the pipelines pad."""
    ids = tokenizer(
        captions, padding="max_length", max_length=POSITIONS, truncation=True, return_tensors="pt"
    )
    return ids.input_ids


def pixels(pictures: np.ndarray) -> torch.Tensor:
    """(b, 64, 64, 3) uint8 -> (b, 3, 64, 64) float32 as the processor would."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def contrast(model: CLIPModel, ids: torch.Tensor, x: torch.Tensor, device: str) -> torch.Tensor:
    """Symmetric cross-entropy over the batch's caption-picture similarities."""
    with half(device):
        out = model(input_ids=ids, pixel_values=x)
    logits = out.logits_per_text.float()  # (b captions, b pictures)
    target = torch.arange(len(logits), device=logits.device)
    return (
        functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    ) / 2


@torch.no_grad()
def top1(
    model: CLIPModel,
    tokenizer: CLIPTokenizer,
    pool: int = 512,
    start: int = EVALUATION_SEED,
    pictures: np.ndarray | None = None,
) -> dict[str, float]:
    """Among ``pool`` evaluation pairs: how often the caption finds its picture, and the reverse."""
    indices = np.arange(start, start + pool)
    if pictures is None:
        pictures = np.stack([np.asarray(scene(int(i)).draw(64, int(i))) for i in indices])
    out = model(
        input_ids=tokens(tokenizer, captions_of(indices, 0)).to(model.device),
        pixel_values=pixels(pictures).to(model.device),
    )
    target = torch.arange(pool)
    return {
        "text_to_picture": float((out.logits_per_text.argmax(1).cpu() == target).float().mean()),
        "picture_to_text": float((out.logits_per_image.argmax(1).cpu() == target).float().mean()),
    }


def train(options: argparse.Namespace) -> tuple[CLIPModel, CLIPTokenizer]:
    """Run the recipe; returns the model with its averaged weights, and the tokenizer."""
    torch.manual_seed(options.seed)
    cache = options.runs / "cache"
    pictures = drawings(options.drawings, 0, cache)
    unseen = np.array(drawings(options.unseen, EVALUATION_SEED, cache)[:512])
    tokenizer = build_tokenizer()
    model = build(tokenizer) if options.start is None else CLIPModel.from_pretrained(options.start)
    model.to(options.device).train()
    model.set_attn_implementation("eager")  # fused attention's backward is slow in bfloat16 on CPUs
    run = Run(
        options.name or "clip",
        model,
        Muon(model.named_parameters(), vector_lr=0.15, weight_decay=0.1),
        options.minutes,
        options.rate,
        options.runs,
        decay=0.99,
    )

    def evaluate() -> dict[str, float]:
        with run.averaged():
            return top1(model, tokenizer, len(unseen), pictures=unseen)

    for step in run.steps(evaluate):
        rng = np.random.default_rng((options.seed, step))
        indices = np.sort(rng.choice(len(pictures), options.batch, replace=False))
        ids = tokens(tokenizer, captions_of(indices, step + 1)).to(options.device)
        loss = contrast(model, ids, pixels(pictures[indices]).to(options.device), options.device)
        run.update(loss)
        with torch.no_grad():
            model.logit_scale.clamp_(max=float(np.log(100)))  # as CLIP does
    model.load_state_dict(run.average)
    return model.eval(), tokenizer


def export(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a transformers folder: float16 weights, float32 in the configuration."""
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 64},
        crop_size={"height": 64, "width": 64},
        image_mean=_MEAN,
        image_std=_STD,
        resample=int(Image.Resampling.BICUBIC),
    )
    model.half().save_pretrained(folder)
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)
    full_precision_config(folder / "config.json")
    (folder / "model.safetensors").chmod(0o644)


def full_precision_config(path: Path) -> None:
    """Say float32: a half text encoder beside a float32 U-Net dies in its first product."""
    import json

    config = json.loads(path.read_text())
    for part in (config, config.get("text_config", {}), config.get("vision_config", {})):
        for name in ("dtype", "torch_dtype"):
            if name in part:
                part[name] = "float32"
    config["dtype"] = "float32"
    config["critters_version"] = VERSION
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Command line."""
    options = arguments(__doc__, minutes=12, batch=BATCH).parse_args()
    model, tokenizer = train(options)
    print(top1(model, tokenizer))
    export(model, tokenizer, options.export or options.runs / (options.name or "clip") / "model")


if __name__ == "__main__":
    main()
