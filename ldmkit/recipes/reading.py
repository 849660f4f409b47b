"""A wider reading of embeddings for the unCLIP decoder, which learns to read before it paints.

What a picture holds lies deep in its embedding: of a drawing's animal, a linear layer tells two
thirds from CLIP's 128 numbers, two hidden layers (512 and 320) more than nine tenths, if they are
shown enough drawings. Denoising alone teaches such layers slowly, because an ear is few pixels. So
the class embedding is first taught to tell the drawings' attributes apart, and the U-Net then only
has to listen to it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from ldmkit.critters.judging import HEADS
from ldmkit.distilling.muon import Muon

TIME_WIDTH = 512  # of the timestep's and class embedding; the text-to-image U-Net has 192
_BATCH = 2048
_RATE = 0.1  # Muon's, of the two layers
_HEADS_RATE = 0.04  # of it: AdamW's, for heads and biases
_WARM = 200  # steps
_UNSEEN = -1  # a label that the drawing hides

Inputs = Callable[[NDArray[np.int64]], torch.Tensor]


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
        steps: of 2,048 drawings each.
        rng: picks the drawings.
    """
    reader.train()
    # What tells animals apart is faint beside what tells places and colours apart. After 4,000
    # steps on the same 575,000 drawings AdamW has 0.80 of unseen animals right, Muon 0.90; but
    # 0.87 if it moves the heads, too.
    named = ((n.replace("heads", "embedding"), p) for n, p in reader.named_parameters())
    optimizer = Muon(named, _RATE, vector_lr=_HEADS_RATE)
    warm = min(_WARM, steps // 10 + 1)
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min(1.0, (k + 1) / warm) * (1 - k / max(1, steps))
    )
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


def fresh(unet: UNet2DConditionModel, width: int = TIME_WIDTH) -> Reader:
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
        reader: from `fresh`.
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
def taken(unet: UNet2DConditionModel) -> Reader:
    """The reader that stands in a wide class embedding, its heads fresh.

    Args:
        unet: from `widen`, as it came or trained on.
    """
    old, layers = time_width(unet), unet.class_embedding
    reader = fresh(unet, layers.linear_1.out_features)
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
