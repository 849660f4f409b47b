"""Train the unCLIP prior: of a caption, the embedding that a picture of it could have.

    python -m ldmkit.recipes.prior --minutes 30

A causal transformer over the caption's tokens, its text embedding, the diffusion timestep, the
noised embedding and a last token whose output is the clean embedding (Ramesh et al. 2022,
section 2.2: it predicts x0, not the noise). Some captions are empty, for guidance.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, PriorTransformer
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPModel, CLIPTextModelWithProjection, CLIPTokenizer

from ldmkit.distilling.muon import Muon
from ldmkit.recipes.captioning import Captioned, captions_of, empty_captions
from ldmkit.recipes.common import TUNING_SEED, Run, arguments, drawings, half
from ldmkit.recipes.embeddings import CLIP, WIDTH, Pictures, fit
from ldmkit.recipes.unet import stratified
from ldmkit.recipes.vocabulary import POSITIONS

BATCH = 128
_EXTRA = 4  # tokens after the caption's: text embedding, timestep, noised embedding, output


def build(normalizer: StableUnCLIPImageNormalizer) -> PriorTransformer:
    """The embedded prior with fresh weights, 3 M.

    Args:
        normalizer: its mean and deviation are the prior's: what it diffuses is `scale`d.
    """
    prior = PriorTransformer(
        num_attention_heads=6,
        attention_head_dim=32,
        num_layers=6,
        embedding_dim=WIDTH,
        num_embeddings=POSITIONS,
        additional_embeddings=_EXTRA,
    )
    with torch.no_grad():
        prior.clip_mean.copy_(normalizer.mean)
        prior.clip_std.copy_(normalizer.std)
        prior.positional_embedding.normal_(std=0.02)
        prior.prd_embedding.normal_(std=0.02)
    return prior


def build_scheduler() -> DDPMScheduler:
    """A cosine schedule that ends where noise is all there is.

    Not `UnCLIPScheduler`: the pipeline passes no ``prev_timestep``, which that one would misread.
    """
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        variance_type="fixed_small_log",
        timestep_spacing="trailing",
        clip_sample=True,
        clip_sample_range=5.0,  # deviations; guidance can overshoot
    )


def text_encoder(clip: str = CLIP) -> CLIPTextModelWithProjection:
    """The text half of a CLIP folder with its projection."""
    whole = CLIPModel.from_pretrained(clip, dtype=torch.float32)
    text = CLIPTextModelWithProjection(whole.config.text_config)
    names = text.state_dict().keys()
    text.load_state_dict({k: v for k, v in whole.state_dict().items() if k in names}, strict=True)
    return text.eval()


class Words:
    """Captions as the prior hears them."""

    def __init__(self, clip: str, device: str) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(clip)
        self.text = text_encoder(clip).to(device)
        self.device = device

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> dict[str, torch.Tensor]:
        """Captions -> `PriorTransformer`'s arguments, no longer than the longest caption."""
        read = self.tokenizer(
            captions, padding=True, max_length=POSITIONS, truncation=True, return_tensors="pt"
        ).to(self.device)
        with half(self.device):
            out = self.text(read.input_ids)
        return {
            "proj_embedding": out.text_embeds.float(),
            "encoder_hidden_states": out.last_hidden_state.float(),
            "attention_mask": read.attention_mask.bool(),
        }


def predict(
    prior: PriorTransformer, x: torch.Tensor, t: torch.Tensor, words: dict[str, torch.Tensor]
) -> torch.Tensor:
    """The clean embedding (b, 128), scaled, of a noised one; padding is left out.

    Nothing attends to padding, so the places of missing tokens are taken out of the position
    embedding and the causal mask: the same numbers for a third of the work.
    """
    length = words["attention_mask"].shape[1]
    kept = [*range(length), *range(POSITIONS, POSITIONS + _EXTRA)]
    shorter = {
        "positional_embedding": prior.positional_embedding[:, kept],
        "causal_attention_mask": prior.causal_attention_mask[:, : len(kept), : len(kept)],
    }
    out = functional_call(prior, shorter, (x, t), words)
    embedding: torch.Tensor = out.predicted_image_embedding
    return embedding.float()


def train(options: argparse.Namespace) -> PriorTransformer:
    """Run the recipe; returns the prior with its averaged weights."""
    torch.manual_seed(options.seed)
    cache, device = options.runs / "cache", options.device
    pictures = Pictures(options.clip, options.device)
    embeddings = pictures.training(options.drawings, cache)
    normalizer = fit(embeddings)
    scaled = normalizer.scale(embeddings)
    held = normalizer.scale(pictures.embed(np.array(drawings(500, TUNING_SEED, cache))))
    words = Words(options.clip, device)
    held_words = words(captions_of(np.arange(TUNING_SEED, TUNING_SEED + len(held)), 0))
    prior = (
        build(normalizer)
        if options.start is None
        else PriorTransformer.from_pretrained(options.start, dtype=torch.float32)
    )
    for statistics in (prior.clip_mean, prior.clip_std):
        statistics.requires_grad_(False)
    prior.to(device).train()
    captioned = Captioned(
        len(scaled), options.empty, options.silence, options.omit, options.mistaken
    )
    scheduler = build_scheduler()
    run = Run(
        options.name or "prior",
        prior,
        Muon(prior.named_parameters(), vector_lr=0.1),
        options.minutes,
        options.rate,
        options.runs,
    )

    def evaluate() -> dict[str, float]:
        noise = torch.randn(held.shape, generator=torch.Generator().manual_seed(0))
        t = torch.linspace(0, 999, len(held)).long()
        x = scheduler.add_noise(held, noise, t)
        with run.averaged(), torch.no_grad(), half(device):
            y = predict(prior, x.to(device), t.to(device), held_words).cpu()
            last = torch.full((len(held),), 999, device=device)
            guess = predict(prior, noise.to(device), last, held_words).cpu()
        cosine = torch.cosine_similarity(normalizer.unscale(guess), normalizer.unscale(held))
        return {
            "mse": float((y - held).square().mean()),
            "guess_cosine": float(cosine.mean()),  # of the mean embedding, from noise alone
        }

    with sdpa_kernel(SDPBackend.MATH if device == "cpu" else list(SDPBackend.__members__.values())):
        for step in run.steps(evaluate):
            rng = np.random.default_rng((options.seed, step))
            picked, captions = captioned.batch(options.batch, step, rng)
            t = stratified(options.batch, rng, 1000)
            x0 = scaled[picked]
            x = scheduler.add_noise(x0, torch.randn_like(x0), t)
            with half(device):
                y = predict(prior, x.to(device), t.to(device), words(captions))
            loss = (y - x0.to(device)).square().mean()
            run.update(loss)
    prior.load_state_dict(run.average)
    return prior.eval()


def main() -> None:
    """Command line."""
    parser = arguments(__doc__, minutes=30, batch=BATCH)
    parser.add_argument("--clip", default=CLIP, help="folder of the embedded CLIP")
    empty_captions(parser)
    options = parser.parse_args()
    prior = train(options)
    folder: Path = options.export or options.runs / (options.name or "prior") / "model"
    prior.save_pretrained(folder)  # float32: a run may go on


if __name__ == "__main__":
    main()
