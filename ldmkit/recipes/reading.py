"""A wider reading of embeddings for the unCLIP decoder, which learns to read before it paints.

What a picture holds lies deep in its embedding: of a drawing's animal, a linear layer tells two
thirds from CLIP's 128 numbers, two hidden layers of 320 five sixths. Denoising alone teaches such
layers slowly, because an ear is few pixels. So the new half of the class embedding is first taught
to tell the drawings' attributes apart, and the U-Net then only has to listen to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from ldmkit.critters.judging import HEADS

TIME_WIDTH = 512  # of the timestep's and class embedding; the text-to-image U-Net has 192
_BATCH = 1024
_RATE = 2e-3
_UNSEEN = -1  # a label that the drawing hides

Inputs = Callable[[NDArray[np.int64]], torch.Tensor]


class Reader(nn.Module):
    """The class embedding's layers, with a head for each attribute in the U-Net's place.

    Args:
        inputs: length of a class vector.
        width: of both hidden layers.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, width)
        self.linear_2 = nn.Linear(width, width)
        self.heads = nn.ModuleDict({n: nn.Linear(width, len(v)) for n, v in HEADS.items()})

    def forward(self, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
        """(b, inputs) -> logits (b, values) of each attribute."""
        # Residual blocks apply SiLU to the embedding themselves, before their own projection.
        x = functional.silu(self.linear_2(functional.silu(self.linear_1(vectors))))
        return {name: head(x) for name, head in self.heads.items()}


def learn(
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
        steps: of 1,024 drawings each.
        rng: picks the drawings.
    """
    reader.train()
    optimizer = torch.optim.AdamW(reader.parameters(), _RATE, weight_decay=0.02)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, max(1, steps))
    for _ in tqdm(range(steps), desc="reading", disable=steps < 1000):
        picked = np.sort(rng.integers(0, len(table), _BATCH))
        logits, target = reader(vectors(picked)), table[torch.from_numpy(picked)]
        loss = torch.zeros(())
        for column, values in enumerate(logits.values()):
            told = functional.cross_entropy(
                values, target[:, column], ignore_index=_UNSEEN, reduction="sum"
            )
            loss = loss + told / _BATCH
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rates.step()
    return reader.eval()


@torch.no_grad()
def widen(unet: UNet2DConditionModel, reader: Reader) -> UNet2DConditionModel:
    """The same function with a wider time embedding, whose new part holds the reader's answers.

    Nothing listens to the new part yet: what leads out of it is zero.

    Args:
        unet: a decoder with class embedding "projection".
        reader: as wide as what is added.
    """
    old = unet.time_embedding.linear_1.out_features
    width = old + reader.linear_1.out_features
    wide = UNet2DConditionModel.from_config(dict(unet.config) | {"time_embedding_dim": width})
    state = wide.state_dict()
    for name, tensor in unet.state_dict().items():
        if state[name].shape != tensor.shape:
            grown = torch.zeros_like(state[name])
            grown[tuple(slice(0, n) for n in tensor.shape)] = tensor
            tensor = grown
        state[name] = tensor
    # Hidden units of the timestep's that are zero could never learn: only their way out is.
    fresh = nn.Linear(wide.time_embedding.linear_1.in_features, width)
    state["time_embedding.linear_1.weight"][old:] = fresh.weight[old:]
    wide.load_state_dict(state)
    put_back(wide, reader)
    return wide


@torch.no_grad()
def taken(unet: UNet2DConditionModel) -> Reader:
    """The reader that stands in a wide class embedding, its heads fresh.

    Args:
        unet: from `widen`, as it came or trained on.
    """
    first = unet.class_embedding.linear_1
    reader = Reader(first.in_features, first.out_features - time_width(unet))
    for ours, theirs in _places(unet, reader):
        ours.copy_(theirs)
    return reader


@torch.no_grad()
def put_back(unet: UNet2DConditionModel, reader: Reader) -> None:
    """Write a reader into the new part of a wide class embedding, which then says that alone."""
    for ours, theirs in _places(unet, reader):
        theirs.copy_(ours)
    old = time_width(unet)
    unet.class_embedding.linear_2.weight[old:, :old] = 0


def hold(unet: UNet2DConditionModel) -> None:
    """Keep a wide class embedding's reader as it was taught: denoising blurs what it tells.

    Its rows get no gradient. Muon's iteration leaves rows of zeros at zero.
    """
    old = time_width(unet)
    for layer in (unet.class_embedding.linear_1, unet.class_embedding.linear_2):
        for parameter in (layer.weight, layer.bias):
            parameter.register_hook(lambda g: torch.cat((g[:old], torch.zeros_like(g[old:]))))


def _places(
    unet: UNet2DConditionModel, reader: Reader
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """A reader's tensors, and views of where they stand in a class embedding."""
    old = time_width(unet)
    for layer in ("linear_1", "linear_2"):
        ours, theirs = getattr(reader, layer), getattr(unet.class_embedding, layer)
        yield ours.weight, theirs.weight[old:, -ours.in_features :]
        yield ours.bias, theirs.bias[old:]


def time_width(unet: UNet2DConditionModel) -> int:
    """How wide the timestep's embedding is without a reader's part: diffusers' own default."""
    return 4 * int(unet.config["block_out_channels"][0])


def score(reader: Reader, vectors: torch.Tensor, table: torch.Tensor) -> dict[str, float]:
    """Share of right answers of each attribute, where the drawing shows it."""
    with torch.no_grad():
        answers = reader(vectors)
    shares = {}
    for column, (name, logits) in enumerate(answers.items()):
        shown = table[:, column] != _UNSEEN
        right = (logits.argmax(1) == table[:, column])[shown]
        shares[name] = float(right.float().mean())
    return shares
