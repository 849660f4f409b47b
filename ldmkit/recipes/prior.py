"""Train the unCLIP prior: of a caption, the embedding that a picture of it could have.

    python -m ldmkit.recipes.prior --minutes 30

A causal transformer over the caption's tokens, its text embedding, the diffusion timestep, the
noised embedding and a last token whose output is the clean embedding (Ramesh et al. 2022,
section 2.2: it predicts x0, not the noise). Some captions are empty, for guidance.

An embedding is, everywhere, what ``CLIPVisionModelWithProjection`` calls ``image_embeds``: the
projection **as it comes, not normalised** (norms of 12.2 ± 0.5 here), because that is what
diffusers' unCLIP pipelines feed. `fit` shifts and scales each dimension to mean 0 and deviation 1
over the training drawings; the prior (``clip_mean``, ``clip_std``) and the pipeline's normaliser
hold the same numbers.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, PriorTransformer
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from torch.func import functional_call
from transformers import CLIPModel, CLIPTextModelWithProjection, CLIPTokenizer

from ldmkit.distilling.muon import Muon
from ldmkit.recipes.clip import POSITIONS
from ldmkit.recipes.data import (
    TUNING_SEED,
    Captioned,
    captions_of,
    drawings,
    drawn,
    empty_captions,
    save_array,
    to_tensor,
    training_seeds,
)
from ldmkit.recipes.train import (
    CLIP,
    WEIGHTS,
    Run,
    arguments,
    exported,
    half,
    target_of,
    train_model,
)
from ldmkit.recipes.unet import stratified

BATCH = 128
WIDTH = 128  # of an embedding
_EXTRA = 4  # tokens after the caption's: text embedding, timestep, noised embedding, output


class Pictures:
    """The frozen picture half of CLIP: drawings to embeddings.

    Args:
        clip: its folder.
        device: to work on; embeddings come back to the CPU.
    """

    def __init__(self, clip: str = CLIP, device: str = "cpu") -> None:
        self.model = CLIPModel.from_pretrained(clip, dtype=torch.float32).to(device).eval()

    @torch.no_grad()
    def embed(self, pictures: np.ndarray) -> torch.Tensor:
        """(n, 64, 64, 3) uint8 -> (n, 128) float32, projected and not normalised."""
        out = []
        for i in range(0, len(pictures), 100):
            x = to_tensor(pictures[i : i + 100]).to(self.model.device)
            out.append(self.model.get_image_features(pixel_values=x).pooler_output.cpu())
        return torch.cat(out)

    def training(self, count: int, cache: Path) -> torch.Tensor:
        """The embeddings of the training drawings, encoded once per CLIP.

        The drawings themselves are not kept: many more can be read than a U-Net is shown.

        Args:
            count: of drawings, a multiple of 500; their seeds are `training_seeds`.
            cache: folder for the ``.npy``.

        Raises:
            ValueError: more than there are.
        """
        seeds = training_seeds(count)
        weights = b"".join(
            w.cpu().numpy().tobytes() for w in self.model.vision_model.state_dict().values()
        )
        path = cache / f"embeddings-{hashlib.sha256(weights).hexdigest()[:12]}-{count}.npy"
        if not path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            parts = [part for part in (seeds[:TUNING_SEED], seeds[TUNING_SEED:]) if len(part)]
            chunks = [self.embed(c) for part in parts for c in drawn(len(part), int(part[0]))]
            save_array(path, torch.cat(chunks).numpy())
        return torch.from_numpy(np.load(path))


def fit(embeddings: torch.Tensor) -> StableUnCLIPImageNormalizer:
    """The normaliser that gives each dimension mean 0 and deviation 1.

    Args:
        embeddings: (n, d), not normalised.
    """
    normalizer = StableUnCLIPImageNormalizer(embeddings.shape[1]).requires_grad_(False)
    normalizer.mean.copy_(embeddings.mean(0, keepdim=True))
    normalizer.std.copy_(embeddings.std(0, keepdim=True))
    return normalizer


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
    captioned = Captioned(len(scaled), options.empty, options.silence)
    scheduler = build_scheduler()

    def evaluate() -> dict[str, float]:
        noise = torch.randn(held.shape, generator=torch.Generator().manual_seed(0))
        t = torch.linspace(0, 999, len(held)).long()
        x = scheduler.add_noise(held, noise, t)
        with half(device):
            y = predict(prior, x.to(device), t.to(device), held_words).cpu()
            last = torch.full((len(held),), 999, device=device)
            guess = predict(prior, noise.to(device), last, held_words).cpu()
        cosine = torch.cosine_similarity(normalizer.unscale(guess), normalizer.unscale(held))
        return {
            "mse": float((y - held).square().mean()),
            "guess_cosine": float(cosine.mean()),  # of the mean embedding, from noise alone
        }

    def loss(run: Run, rng: np.random.Generator) -> torch.Tensor:
        picked, captions = captioned.batch(options.batch, run.step, rng)
        t = stratified(options.batch, rng, 1000)
        x0 = scaled[picked]
        x = scheduler.add_noise(x0, torch.randn_like(x0), t)
        with half(device):
            y = predict(prior, x.to(device), t.to(device), words(captions))
        return (y - x0.to(device)).square().mean()

    return train_model(prior, "prior", options, loss, evaluate, Muon(prior.named_parameters()))


def main() -> None:
    """Command line."""
    shipped = WEIGHTS / "critters-unclip" / "prior"
    parser = arguments(__doc__, minutes=30, batch=BATCH, shipped=shipped)
    parser.add_argument("--clip", default=CLIP, help="folder of the embedded CLIP")
    empty_captions(parser)
    options = parser.parse_args()
    target = target_of(options, "prior")
    prior = train(options)
    with exported(target) as folder:
        prior.save_pretrained(folder)  # float32: a run may go on


if __name__ == "__main__":
    main()
