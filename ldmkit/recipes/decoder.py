"""Train the unCLIP decoder: the U-Net again, led by a picture's embedding instead of its words.

    python -m ldmkit.recipes.decoder --minutes 45 --from DIR/unet

The embedding, noised to a level that the network is told (Stable unCLIP's conditioning
augmentation, after Ho et al. 2021, arXiv 2106.15282), enters beside the timestep. Captions are
mostly dropped, so that it must carry the picture (Ramesh et al. 2022, section 2.1, drop half).
A decoder that is not wide yet first gets the layers of `recipes.reading`, which tell attributes
apart. The U-Net and the normaliser are written at the end; `recipes.unclip` makes the pipeline.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel

from ldmkit.distilling.muon import Muon
from ldmkit.recipes import reading
from ldmkit.recipes.captioning import captions_of
from ldmkit.recipes.common import TUNING_SEED, Run, arguments, drawings, half, scene
from ldmkit.recipes.embeddings import (
    CLIP,
    UNET,
    VAE,
    WIDTH,
    Pictures,
    build_noising,
    fit,
    training_seeds,
)
from ldmkit.recipes.judge import labels
from ldmkit.recipes.unet import Conditions, build_scheduler, forget_origin, noisy, stratified

BATCH = 64
_CAPTIONS_DROPPED = 0.92  # the prompt stays empty when an embedding is decoded
_VECTORS_DROPPED = 0.1  # the pipeline's unconditional: zeros, the noise level's half included
_CLEAN = 0.7  # share of embeddings at noise level 0, the pipeline's default
_READ_CLEAN = 0.97  # … of those that a reader learns from


def warm_start(folder: str) -> UNet2DConditionModel:
    """A text-to-image U-Net with a class embedding whose last layer is zero: the same function.

    Args:
        folder: of a U-Net, or of an earlier decoder (then as it is).
    """
    start = UNet2DConditionModel.from_pretrained(folder, dtype=torch.float32)
    if start.config.class_embed_type == "projection":
        return start
    unet = UNet2DConditionModel.from_config(
        dict(start.config)
        | {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2 * WIDTH}
    )
    found = unet.load_state_dict(start.state_dict(), strict=False)
    fresh = [name for name in found.missing_keys if not name.startswith("class_embedding.")]
    if fresh or found.unexpected_keys:
        raise ValueError(
            f"{folder}: the U-Net to start from must fit the decoder; without weights are {fresh}, "
            f"without a place {found.unexpected_keys}. Name a critters U-Net's folder"
        )
    for parameter in unet.class_embedding.linear_2.parameters():
        torch.nn.init.zeros_(parameter)
    return unet


class Vectors:
    """Embeddings to the U-Net's class vectors, as the pipeline builds them.

    Args:
        normalizer: mean and deviation of each dimension.
    """

    def __init__(self, normalizer: StableUnCLIPImageNormalizer) -> None:
        self.normalizer = normalizer
        self._scheduler = build_noising()

    def __call__(self, embeddings: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """(b, 128) embeddings and (b,) noise levels -> (b, 256).

        `StableUnCLIPPipeline.noise_image_embeddings` takes one level for all; training wants many.
        """
        x = self.normalizer.scale(embeddings)
        x = self._scheduler.add_noise(x, torch.randn_like(x), levels)
        told = get_timestep_embedding(levels, WIDTH, flip_sin_to_cos=True, downscale_freq_shift=0)
        return torch.cat((self.normalizer.unscale(x), told), 1)

    def noised(
        self, embeddings: torch.Tensor, rng: np.random.Generator, clean: float = _CLEAN
    ) -> torch.Tensor:
        """Class vectors with noise levels drawn, a share of them 0."""
        count = len(embeddings)
        levels = (rng.random(count) ** 2 * 1000).astype(np.int64)  # low ones dominate
        levels[rng.random(count) < clean] = 0
        return self(embeddings, torch.from_numpy(levels))

    def training(self, embeddings: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Class vectors with noise levels drawn and one in ten zeroed."""
        vectors = self.noised(embeddings, rng)
        return vectors * torch.from_numpy(rng.random((len(vectors), 1)) >= _VECTORS_DROPPED)


class Lesson(NamedTuple):
    """A batch: what the network is given, and the v that it should answer."""

    x: torch.Tensor  # (b, 4, 16, 16) noisy latents
    t: torch.Tensor  # (b,) timesteps
    words: torch.Tensor  # (b, 32, 128)
    vectors: torch.Tensor  # (b, 256)
    v: torch.Tensor  # (b, 4, 16, 16)


class Lessons:
    """What the decoder is shown: latents to predict, words mostly unsaid, embeddings.

    Args:
        options: the recipe's.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        cache = options.runs / "cache"
        self.seed, self.size = options.seed, options.batch
        self.conditions = Conditions(options.clip, options.autoencoder, options.device)
        self.latents = self.conditions.training_latents(options.drawings, cache).to(options.device)
        self.empty = self.conditions.embed([""])
        self.alphas = build_scheduler().alphas_cumprod.to(options.device)
        self._deviation = 0.08 * float(self.conditions.vae.config.scaling_factor)  # the encoder's
        pictures = Pictures(options.clip, options.device)
        self.embeddings = pictures.training(options.drawings, cache)
        self.vectors = Vectors(fit(self.embeddings))
        self._reading_steps = options.reading_steps
        more = max(options.drawings, options.reading_drawings or 0)
        self._read = pictures.training(more, cache) if options.reading_steps else self.embeddings
        unseen = np.array(drawings(500, TUNING_SEED, cache)[:128])
        self._held = self.conditions.latents(unseen).float()
        self._held_vectors = self.vectors(pictures.embed(unseen), torch.zeros(128).long())

    def taught(self, reader: reading.Reader, again: bool = False) -> reading.Reader:
        """A reader that tells the drawings' attributes from class vectors.

        Args:
            reader: fresh, or taken from a decoder.
            again: it has learned before; its heads have not.
        """
        rng = np.random.default_rng((self.seed, 0))

        def vectors(picked: NDArray[np.int64]) -> torch.Tensor:
            return self.vectors.noised(self._read[picked], rng, _READ_CLEAN)

        scenes = [scene(int(seed)) for seed in training_seeds(len(self._read))]
        table = torch.from_numpy(labels(scenes))
        if again:
            # Heads that know nothing yet would pull at what the decoder listens to.
            for layer in (reader.linear_1, reader.linear_2):
                layer.requires_grad_(False)
            reading.learn(vectors, table, reader, self._reading_steps // 10, rng)
            reader.requires_grad_(True)
        return reading.learn(vectors, table, reader, self._reading_steps, rng)

    def examples(self) -> torch.Tensor:
        """(n, 256) class vectors of up to 20,000 drawings, as in training."""
        rng = np.random.default_rng((self.seed, 1))
        return self.vectors.training(self.embeddings[:20_000], rng)

    def batch(self, step: int) -> Lesson:
        """The batch of a step."""
        rng = np.random.default_rng((self.seed, step))
        picked = np.sort(rng.integers(0, len(self.latents), self.size))
        words = self.empty.repeat(self.size, 1, 1)
        said = np.flatnonzero(rng.random(self.size) >= _CAPTIONS_DROPPED)
        if len(said):
            words[said] = self.conditions.embed(captions_of(picked[said], step + 1))
        x0 = self.latents[torch.from_numpy(picked).to(self.latents.device)].float()
        x0 = x0 + self._deviation * torch.randn_like(x0)
        t = stratified(self.size, rng, len(self.alphas)).to(x0.device)
        x, v = noisy(x0, t, torch.randn_like(x0), self.alphas)
        vectors = self.vectors.training(self.embeddings[picked], rng)
        return Lesson(x, t, words, vectors, v)

    def held(self) -> Lesson:
        """128 pictures that are not trained on, without words, with the same noise each time."""
        noise = torch.randn(self._held.shape, generator=torch.Generator().manual_seed(0))
        t = torch.linspace(0, len(self.alphas) - 1, len(noise)).long()
        x, v = noisy(self._held, t, noise, self.alphas.cpu())
        return Lesson(x, t, self.empty.expand(len(x), -1, -1), self._held_vectors, v)


def error(unet: UNet2DConditionModel, lesson: Lesson) -> torch.Tensor:
    """Mean squared error of the network's v."""
    device = str(unet.device)
    x, t, words, vectors, v = (part.to(device) for part in lesson)
    with half(device):
        y = unet(x, t, words, class_labels=vectors).sample
    return (y.float() - v).square().mean()


def for_muon(unet: UNet2DConditionModel) -> list[tuple[str, torch.nn.Parameter]]:
    """The class embedding's layers are matrices like the others, whatever they are called."""
    return [(n.replace("class_embedding", "class_layers"), p) for n, p in unet.named_parameters()]


def train(options: argparse.Namespace) -> tuple[UNet2DConditionModel, StableUnCLIPImageNormalizer]:
    """Run the recipe; returns the decoder with its averaged weights, and the normaliser."""
    torch.manual_seed(options.seed)
    lessons = Lessons(options)
    unet = warm_start(options.start or UNET)
    begun = (options.runs / (options.name or "decoder") / "checkpoint.safetensors").exists()
    if unet.time_embedding.linear_1.out_features < reading.TIME_WIDTH:
        if options.hold and not options.reading_steps:
            raise ValueError(
                f"--hold keeps a reader as it is, and {options.start or UNET} has none: "
                "leave it out, or give --from a decoder that reads"
            )
        fresh = reading.fresh(unet)
        taught = fresh if begun else lessons.taught(fresh)
        unet = reading.widen(unet, taught, lessons.examples())
    elif not begun and options.reading_steps:
        taught = lessons.taught(reading.taken(unet), again=True)
        reading.put_back(unet, taught, lessons.examples())
    if options.reading_steps or options.hold:  # else nothing worth holding may stand there
        reading.hold(unet)
    unet.to(options.device).train()
    run = Run(
        options.name or "decoder",
        unet,
        Muon(for_muon(unet), vector_lr=0.1),
        options.minutes,
        options.rate,
        options.runs,
    )

    def evaluate() -> dict[str, float]:
        led = lessons.held()
        alone = led._replace(vectors=led.vectors * 0)
        with run.averaged(), torch.no_grad():
            errors = {"v_mse": error(unet, led), "v_mse_alone": error(unet, alone)}
        return {name: float(value) for name, value in errors.items()}

    cpu = options.device == "cpu"
    with sdpa_kernel(SDPBackend.MATH if cpu else list(SDPBackend.__members__.values())):
        for step in run.steps(evaluate):
            loss = error(unet, lessons.batch(step))
            run.update(loss)
    unet.load_state_dict(run.average)
    return unet.eval(), lessons.vectors.normalizer


def save(unet: UNet2DConditionModel, normalizer: StableUnCLIPImageNormalizer, folder: Path) -> None:
    """Write ``unet`` and ``image_normalizer`` below a folder, in float32: a run may go on."""
    for name, part in (("unet", unet), ("image_normalizer", normalizer)):
        part.save_pretrained(folder / name)
        forget_origin(folder / name / "config.json")


def main() -> None:
    """Command line."""
    parser = arguments(__doc__, minutes=45, batch=BATCH)
    parser.add_argument("--autoencoder", default=VAE, help="folder of the autoencoder")
    parser.add_argument("--clip", default=CLIP, help="folder of the embedded CLIP")
    parser.add_argument(
        "--reading-steps", type=int, default=12_000, help="of telling attributes apart, beforehand"
    )
    parser.add_argument(
        "--reading-drawings", type=int, default=None, help="to tell them apart in, if more"
    )
    parser.add_argument(
        "--hold", action="store_true", help="hold a reader that learns no more (--reading-steps 0)"
    )
    options = parser.parse_args()
    unet, normalizer = train(options)
    save(unet, normalizer, options.export or options.runs / (options.name or "decoder") / "model")


if __name__ == "__main__":
    main()
