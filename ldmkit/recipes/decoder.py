"""Train the unCLIP decoder: the U-Net again, led by a picture's embedding instead of its words.

    python -m ldmkit.recipes.decoder --minutes 45 --from DIR/unet

The embedding, noised to a level that the network is told (Stable unCLIP's conditioning
augmentation, after Ho et al. 2021, arXiv 2106.15282), enters beside the timestep. Captions are
mostly dropped, so that it must carry the picture (Ramesh et al. 2022, section 2.1, drop half).
The U-Net and the normaliser are written at the end; `recipes.unclip` makes the pipeline.

It learns to read before it paints. What a picture holds lies deep in its embedding: of a drawing's
animal, a linear layer tells two thirds from CLIP's 128 numbers, two hidden layers (512 and 320)
more than nine tenths, if they are shown enough drawings. Denoising alone teaches such layers
slowly, because an ear is few pixels. So the class embedding is first taught to tell the drawings'
attributes apart (`Reader`), and the U-Net then only has to listen to it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from ldmkit.critters.judging import HEADS
from ldmkit.distilling.muon import Muon
from ldmkit.recipes.data import TUNING_SEED, captions_of, drawings, scene, training_seeds
from ldmkit.recipes.judge import labels
from ldmkit.recipes.prior import WIDTH, Pictures, fit
from ldmkit.recipes.train import (
    CLIP,
    UNET,
    VAE,
    WEIGHTS,
    Run,
    arguments,
    exported,
    half,
    target_of,
    train_model,
)
from ldmkit.recipes.unet import Conditions, build_scheduler, forget_origin, stratified

BATCH = 64
_CAPTIONS_DROPPED = 0.92  # the prompt stays empty when an embedding is decoded
_VECTORS_DROPPED = 0.1  # the pipeline's unconditional: zeros, the noise level's half included
_CLEAN = 0.7  # share of embeddings at noise level 0, the pipeline's default
_READ_CLEAN = 0.97  # … of those that a reader learns from
TIME_WIDTH = 512  # of the timestep's and class embedding; the text-to-image U-Net has 192
_READ_BATCH = 2048
_READ_RATE = 0.1  # Muon's, of the two layers
_HEADS_RATE = 0.04  # of it: AdamW's, for heads and biases
_READ_WARM = 200  # steps
_UNSEEN = -1  # a label that the drawing hides

Inputs = Callable[[NDArray[np.int64]], torch.Tensor]


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


def build_noising() -> DDPMScheduler:
    """Noise on embeddings: ``noise_level`` 0 … 999 of a cosine schedule, as in Stable unCLIP."""
    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")


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


# --- a reader -----------------------------------------------------------------------------------


class Reader(nn.Module):
    """The class embedding's layers, with a head for each attribute in the U-Net's place.

    Args:
        inputs: length of a class vector.
        hidden: width of the first layer.
        width: of the second, whose answers the U-Net hears.
    """

    def __init__(self, inputs: int, hidden: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, hidden)
        self.linear_2 = nn.Linear(hidden, width)
        self.heads = nn.ModuleDict({n: nn.Linear(width, len(v)) for n, v in HEADS.items()})

    def forward(self, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
        """(b, inputs) -> logits (b, values) of each attribute."""
        # Residual blocks apply SiLU to the embedding themselves, before their own projection.
        x = functional.silu(self.linear_2(functional.silu(self.linear_1(vectors))))
        return {name: head(x) for name, head in self.heads.items()}


def teach(
    vectors: Inputs,
    table: torch.Tensor,
    reader: Reader,
    steps: int,
    rng: np.random.Generator,
) -> Reader:
    """Teach a reader.

    Args:
        vectors: numbers of drawings to their class vectors, noised as in training.
        table: (n, heads) right answers, -1 where the drawing hides one.
        reader: fresh, or one that has learned before.
        steps: of 2,048 drawings each.
        rng: picks the drawings.
    """
    reader.train()
    # What tells animals apart is faint beside what tells places and colours apart. After 4,000
    # steps on the same 575,000 drawings AdamW has 0.80 of unseen animals right, Muon 0.90; but
    # 0.87 if it moves the heads, too.
    named = ((n.replace("heads", "embedding"), p) for n, p in reader.named_parameters())
    optimizer = Muon(named, _READ_RATE, vector_lr=_HEADS_RATE)
    warm = min(_READ_WARM, steps // 10 + 1)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min(1.0, (k + 1) / warm) * (1 - k / max(1, steps))
    )
    for _ in tqdm(range(steps), desc="reading", disable=steps < 1000):
        picked = np.sort(rng.integers(0, len(table), _READ_BATCH))
        logits, target = reader(vectors(picked)), table[torch.from_numpy(picked)]
        loss = torch.zeros(())
        for column, values in enumerate(logits.values()):
            told = functional.cross_entropy(
                values, target[:, column], ignore_index=_UNSEEN, reduction="sum"
            )
            loss = loss + told / _READ_BATCH
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rates.step()
    return reader.eval()


def fresh_reader(unet: UNet2DConditionModel, width: int = TIME_WIDTH) -> Reader:
    """A reader that would widen a decoder's time embedding to a width."""
    first = unet.class_embedding.linear_1
    return Reader(first.in_features, width, width - time_width(unet))


@torch.no_grad()
def widen(
    unet: UNet2DConditionModel, reader: Reader, vectors: torch.Tensor
) -> UNet2DConditionModel:
    """Nearly the same function with a wider time embedding; its new part is a reader's answers.

    Nothing listens to the new part yet: what leads out of it is zero.

    Args:
        unet: a decoder with class embedding "projection".
        reader: from `fresh_reader`.
        vectors: see `put_back`.
    """
    old = unet.time_embedding.linear_1.out_features
    width = reader.linear_1.out_features
    wide = UNet2DConditionModel.from_config(dict(unet.config) | {"time_embedding_dim": width})
    state = wide.state_dict()
    for name, tensor in unet.state_dict().items():
        if state[name].shape != tensor.shape:
            grown = torch.zeros_like(state[name])
            grown[tuple(slice(0, n) for n in tensor.shape)] = tensor
            tensor = grown
        state[name] = tensor
    # Hidden units of the timestep's that are zero could never learn: only their way out is.
    new = nn.Linear(wide.time_embedding.linear_1.in_features, width)
    state["time_embedding.linear_1.weight"][old:] = new.weight[old:]
    wide.load_state_dict(state)
    put_back(wide, reader, vectors)
    return wide


@torch.no_grad()
def reader_of(unet: UNet2DConditionModel) -> Reader:
    """The reader that stands in a wide class embedding, its heads fresh.

    Args:
        unet: from `widen`, as it came or trained on.
    """
    old, layers = time_width(unet), unet.class_embedding
    reader = fresh_reader(unet, layers.linear_1.out_features)
    reader.linear_1.load_state_dict(layers.linear_1.state_dict())
    reader.linear_2.weight.copy_(layers.linear_2.weight[old:])
    reader.linear_2.bias.copy_(layers.linear_2.bias[old:])
    return reader


@torch.no_grad()
def put_back(unet: UNet2DConditionModel, reader: Reader, vectors: torch.Tensor) -> None:
    """Write a reader into a wide class embedding.

    The part that denoising taught now has to do with the reader's first layer: its second is
    fitted, by least squares, to say what it said.

    Args:
        unet: wide.
        reader: as wide.
        vectors: (n, inputs) of training drawings, many more than the first layer is wide.
    """
    old, layers = time_width(unet), unet.class_embedding
    said = layers(vectors)[:, :old]
    layers.linear_1.load_state_dict(reader.linear_1.state_dict())
    heard = functional.silu(layers.linear_1(vectors))
    heard = torch.cat((heard, torch.ones(len(heard), 1)), 1).double()
    # "gelsd" bears first layers with units that never differ.
    fitted = torch.linalg.lstsq(heard, said.double(), driver="gelsd").solution.T.float()
    layers.linear_2.weight.copy_(torch.cat((fitted[:, :-1], reader.linear_2.weight)))
    layers.linear_2.bias.copy_(torch.cat((fitted[:, -1], reader.linear_2.bias)))


def hold(unet: UNet2DConditionModel) -> None:
    """Keep a wide class embedding's reader as it was taught: denoising blurs what it tells.

    Its first layer and its rows of the second get no gradient. Muon's iteration leaves rows of
    zeros at zero.
    """
    old, layers = time_width(unet), unet.class_embedding
    layers.linear_1.requires_grad_(False)
    for parameter in (layers.linear_2.weight, layers.linear_2.bias):
        parameter.register_hook(lambda g: torch.cat((g[:old], torch.zeros_like(g[old:]))))


def time_width(unet: UNet2DConditionModel) -> int:
    """How wide the timestep's embedding is without a reader's part: diffusers' own default."""
    return 4 * int(unet.config["block_out_channels"][0])


# --- training -----------------------------------------------------------------------------------


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
        self.scheduler = build_scheduler()
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

    def taught(self, reader: Reader, again: bool = False) -> Reader:
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
            teach(vectors, table, reader, self._reading_steps // 10, rng)
            reader.requires_grad_(True)
        return teach(vectors, table, reader, self._reading_steps, rng)

    def examples(self) -> torch.Tensor:
        """(n, 256) class vectors of up to 20,000 drawings, as in training."""
        rng = np.random.default_rng((self.seed, 1))
        return self.vectors.training(self.embeddings[:20_000], rng)

    def batch(self, step: int, rng: np.random.Generator) -> Lesson:
        """The batch of a step."""
        picked = np.sort(rng.integers(0, len(self.latents), self.size))
        words = self.empty.repeat(self.size, 1, 1)
        said = np.flatnonzero(rng.random(self.size) >= _CAPTIONS_DROPPED)
        if len(said):
            words[said] = self.conditions.embed(captions_of(picked[said], step + 1))
        x0 = self.latents[torch.from_numpy(picked).to(self.latents.device)].float()
        x0 = x0 + self._deviation * torch.randn_like(x0)
        t = stratified(self.size, rng, len(self.scheduler)).to(x0.device)
        noise = torch.randn_like(x0)
        return self._lesson(
            x0, noise, t, words, self.vectors.training(self.embeddings[picked], rng)
        )

    def held(self) -> Lesson:
        """128 pictures that are not trained on, without words, with the same noise each time."""
        noise = torch.randn(self._held.shape, generator=torch.Generator().manual_seed(0))
        t = torch.linspace(0, len(self.scheduler) - 1, len(noise)).long()
        words = self.empty.expand(len(noise), -1, -1)
        return self._lesson(self._held, noise, t, words, self._held_vectors)

    def _lesson(
        self,
        x0: torch.Tensor,
        noise: torch.Tensor,
        t: torch.Tensor,
        words: torch.Tensor,
        vectors: torch.Tensor,
    ) -> Lesson:
        x, v = self.scheduler.add_noise(x0, noise, t), self.scheduler.get_velocity(x0, noise, t)
        return Lesson(x, t, words, vectors, v)


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
    if unet.time_embedding.linear_1.out_features < TIME_WIDTH:
        if options.hold and not options.reading_steps:
            raise ValueError(
                f"--hold keeps a reader as it is, and {options.start or UNET} has none: "
                "leave it out, or give --from a decoder that reads"
            )
        fresh = fresh_reader(unet)
        taught = fresh if begun else lessons.taught(fresh)
        unet = widen(unet, taught, lessons.examples())
    elif not begun and options.reading_steps:
        taught = lessons.taught(reader_of(unet), again=True)
        put_back(unet, taught, lessons.examples())
    if options.reading_steps or options.hold:  # else nothing worth holding may stand there
        hold(unet)

    def evaluate() -> dict[str, float]:
        led = lessons.held()
        alone = led._replace(vectors=led.vectors * 0)
        return {"v_mse": float(error(unet, led)), "v_mse_alone": float(error(unet, alone))}

    def loss(run: Run, rng: np.random.Generator) -> torch.Tensor:
        return error(unet, lessons.batch(run.step, rng))

    train_model(unet, "decoder", options, loss, evaluate, Muon(for_muon(unet)))
    return unet, lessons.vectors.normalizer


def save(unet: UNet2DConditionModel, normalizer: StableUnCLIPImageNormalizer, folder: Path) -> None:
    """Write ``unet`` and ``image_normalizer`` below a folder, in float32: a run may go on."""
    with exported(folder) as partial:
        for name, part in (("unet", unet), ("image_normalizer", normalizer)):
            part.save_pretrained(partial / name)
            forget_origin(partial / name / "config.json")


def main() -> None:
    """Command line."""
    shipped = WEIGHTS / "critters-unclip" / "unet"
    parser = arguments(__doc__, minutes=45, batch=BATCH, shipped=shipped)
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
    target = target_of(options, "decoder")
    save(*train(options), target)


if __name__ == "__main__":
    main()
