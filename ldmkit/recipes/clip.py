"""Train the embedded CLIP: captions and pictures in one space (Radford et al. 2021, figure 3).

    python -m ldmkit.recipes.clip --minutes 12

Its text half is also the text encoder of the latent diffusion pipelines. Captions are phrased anew
each time; pictures and captions are never held-out combinations. The tokenizer is CLIP's byte-level
BPE over the words of the critters' grammar: merges are learned from the word list alone until every
word is one token, so a caption has as many tokens as words, and anything else (emoji, other
languages) still falls apart into bytes.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from itertools import pairwise
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
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ldmkit.critters.language import words
from ldmkit.critters.world import EVALUATION_SEED, VERSION
from ldmkit.distilling.muon import Muon
from ldmkit.recipes.data import captions_of, drawings, scene, to_tensor, unseen
from ldmkit.recipes.train import CLIP, Run, arguments, exported, half, target_of, train_model

BATCH = 192
POSITIONS = 32  # the longest caption has 26 tokens with its commas, start and end
_END = "</w>"
_MEAN, _STD = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]  # pictures enter in -1…1, as in the autoencoder


def learn_merges(vocabulary: frozenset[str]) -> list[tuple[str, str]]:
    """Merge the commonest pair of neighbours, again and again, until each word is one piece."""
    splits = {word: [*word[:-1], word[-1] + _END] for word in sorted(vocabulary)}
    merges = []
    while any(len(pieces) > 1 for pieces in splits.values()):
        pairs = Counter(p for s in splits.values() for p in pairwise(s))
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        for pieces in splits.values():
            i = 0
            while i < len(pieces) - 1:
                if (pieces[i], pieces[i + 1]) == best:
                    pieces[i : i + 2] = ["".join(best)]
                i += 1
    return merges


def build_tokenizer() -> CLIPTokenizer:
    """The tokenizer; end-of-text is also the padding, as in CLIP."""
    merges = learn_merges(words)
    symbols = list(bytes_to_unicode().values())
    pieces = [*symbols, *(s + _END for s in symbols), *("".join(m) for m in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)},
        merges=merges,
        model_max_length=POSITIONS,
    )


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
        pixel_values=to_tensor(pictures).to(model.device),
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
    new = unseen(cache)[:512]
    tokenizer = build_tokenizer()
    model = build(tokenizer) if options.start is None else CLIPModel.from_pretrained(options.start)
    model.set_attn_implementation("eager")  # fused attention's backward is slow in bfloat16 on CPUs

    def loss(run: Run, rng: np.random.Generator) -> torch.Tensor:
        indices = np.sort(rng.choice(len(pictures), options.batch, replace=False))
        ids = tokens(tokenizer, captions_of(indices, run.step + 1)).to(options.device)
        x = to_tensor(pictures[indices]).to(options.device)
        return contrast(model, ids, x, options.device)

    train_model(
        model,
        "clip",
        options,
        loss,
        lambda: top1(model, tokenizer, pool=len(new), pictures=new),
        Muon(model.named_parameters(), vector_lr=0.15, weight_decay=0.1),
        decay=0.99,
        after=lambda: model.logit_scale.data.clamp_(max=float(np.log(100))),  # as CLIP does
    )
    return model, tokenizer


def export(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a transformers folder: float16 weights, float32 in the configuration."""
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 64},
        crop_size={"height": 64, "width": 64},
        image_mean=_MEAN,
        image_std=_STD,
        resample=int(Image.Resampling.BICUBIC),
    )
    with exported(folder) as partial:
        model.half().save_pretrained(partial)
        CLIPProcessor(processor, tokenizer).save_pretrained(partial)
        full_precision_config(partial / "config.json")
        (partial / "model.safetensors").chmod(0o644)


def full_precision_config(path: Path) -> None:
    """Say float32: a half text encoder beside a float32 U-Net dies in its first product."""
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
    options = arguments(__doc__, minutes=12, batch=BATCH, shipped=CLIP).parse_args()
    target = target_of(options, "clip")
    model, tokenizer = train(options)
    print(top1(model, tokenizer))
    export(model, tokenizer, target)


if __name__ == "__main__":
    main()
