"""The first half of DALL-E 2: a caption to the embedding of a picture that it could have.

The loop stands here in the open, once for every family, instead of inside three pipelines of a
thousand lines: words to CLIP's text tower, noise to the prior, step by step (Ramesh et al. 2022,
arXiv 2204.06125, section 2.2). Each family's own prior gives the same embedding from the same
seed; the tests compare.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ldmkit.check import short
from ldmkit.recording.hooks import Tape, exclusive, hooked

__all__ = [
    "Drawn",
    "Heard",
    "Prior",
    "check_generator",
    "check_least",
    "draw",
    "generators",
    "noise_of",
]


@dataclass(frozen=True)
class Prior:
    """What a prior is made of.

    Attributes:
        tokenizer: of CLIP's text tower.
        text_encoder: the tower with its projection.
        network: the ``PriorTransformer``.
        scheduler: its noise law.
        device: where to run.
    """

    tokenizer: Any
    text_encoder: Any
    network: Any
    scheduler: Any
    device: torch.device


@dataclass(frozen=True)
class Heard:
    """Texts as the prior hears them: projection (b, d), states (b, n, d), which n are words."""

    embeddings: torch.Tensor
    states: torch.Tensor
    mask: torch.Tensor

    def repeated(self, count: int) -> Heard:
        """Each text ``count`` times in a row."""
        parts = (self.embeddings, self.states, self.mask)
        return Heard(*(part.repeat_interleave(count, dim=0) for part in parts))

    def after(self, other: Heard) -> Heard:
        """Both as one batch, ``other`` first."""
        mine, others = vars(self), vars(other)
        return Heard(**{name: torch.cat([others[name], mine[name]]) for name in mine})


@dataclass(frozen=True)
class Drawn:
    """What came out: k samples for each of b texts.

    Attributes:
        embeddings: (b, k, d) in CLIP's space, not normalised.
        texts: (b, d) the texts' own embeddings.
        tape: every step of the run, (b·k, d) each, still in the prior's scaled space.
    """

    embeddings: torch.Tensor
    texts: torch.Tensor
    tape: Tape

    def scores(self) -> torch.Tensor:
        """(b, k) dot products with the text's embedding."""
        return (self.embeddings * self.texts[:, None]).sum(-1)


@torch.no_grad()
def draw(
    prior: Prior,
    texts: Sequence[str],
    *,
    count: int,
    generator: Any,
    num_inference_steps: int,
    guidance_scale: float,
    latents: torch.Tensor | None = None,
) -> Drawn:
    """Samples embeddings for texts: x_t to x_{t−1}, from noise, guided away from the empty text.

    Args:
        prior: the parts.
        texts: b captions.
        count: k samples for each.
        generator: one for the batch, or one for each of the b·k samples.
        num_inference_steps: n.
        guidance_scale: w of (1 − w) · without words + w · with words; 1 and less is unguided.
        latents: (b·k, d) first noise instead of the generator's.
    """
    scheduler, guided = prior.scheduler, guidance_scale > 1
    heard = _hear(prior, texts)
    words = heard.repeated(count)
    if guided:
        words = words.after(_hear(prior, [""] * len(texts)).repeated(count))
    # DDPM's step takes no `prev_timestep`, which UnCLIP's needs.
    known = inspect.signature(scheduler.step).parameters
    tape = Tape()
    with exclusive(scheduler, prior.network), hooked(scheduler, (), tape):
        scheduler.set_timesteps(num_inference_steps, device=prior.device)
        x = _noise(prior, len(texts) * count, heard.embeddings.dtype, generator, latents)
        for i, t in enumerate(scheduler.timesteps):
            both = torch.cat([x] * 2) if guided else x
            said = prior.network(
                scheduler.scale_model_input(both, t),
                timestep=t,
                proj_embedding=words.embeddings,
                encoder_hidden_states=words.states,
                attention_mask=words.mask,
            ).predicted_image_embedding
            if guided:
                without, with_words = said.chunk(2)
                said = without + guidance_scale * (with_words - without)
            later = scheduler.timesteps[i + 1] if i + 1 < len(scheduler.timesteps) else None
            options = {"generator": generator, "prev_timestep": later}
            options = {name: value for name, value in options.items() if name in known}
            x = scheduler.step(said, timestep=t, sample=x, **options)[0]  # (b·k, d)
    embeddings = prior.network.post_process_latents(x)
    return Drawn(embeddings.unflatten(0, (len(texts), count)), heard.embeddings, tape)


def check_least(scheduler: Any, call: Mapping[str, Any]) -> None:
    """Refuses the one step that UnCLIP's scheduler divides by zero for: its grid has n − 1 gaps.

    Raises:
        ValueError: one step only.
    """
    is_unclip = type(scheduler).__name__ == "UnCLIPScheduler"
    if is_unclip and call.get("num_inference_steps", 2) < 2:
        raise ValueError(
            "num_inference_steps must be at least 2 with UnCLIPScheduler, got "
            f"{call['num_inference_steps']}."
        )


def _hear(prior: Prior, texts: Sequence[str]) -> Heard:
    read = prior.tokenizer(
        list(texts),
        padding="max_length",
        max_length=prior.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    said = prior.text_encoder(read.input_ids.to(prior.device))
    mask = read.attention_mask.bool().to(prior.device)
    return Heard(said.text_embeds, said.last_hidden_state, mask)


def _noise(
    prior: Prior, count: int, dtype: torch.dtype, generator: Any, latents: torch.Tensor | None
) -> torch.Tensor:
    from diffusers.utils.torch_utils import randn_tensor

    if latents is None:
        shape = (count, prior.network.config.embedding_dim)
        latents = randn_tensor(shape, generator=generator, device=prior.device, dtype=dtype)
    return latents.to(prior.device, dtype) * prior.scheduler.init_noise_sigma


def noise_of(given: Any, shape: tuple[int, ...], *, many: bool = False) -> torch.Tensor:
    """First noise as a tensor; that of one serves a batch.

    Args:
        given: tensor or array (b, ...), or (1, ...).
        shape: what is needed, the batch first; of pictures' only the batch counts.
        many: whether the batch may be any, where it isn't known yet.

    Raises:
        TypeError: no numbers.
        ValueError: another shape, or numbers that aren't finite.
    """
    try:
        plain = given if torch.is_tensor(given) else np.array(given, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(
            f"latents must be a tensor or array of the shape {shape}, got {short(given)}."
        ) from None
    tensor = plain if torch.is_tensor(plain) else torch.tensor(plain)
    fits = tensor.ndim == len(shape) and (many or tensor.shape[0] in (1, shape[0]))
    if not fits or (len(shape) == 2 and tensor.shape[1] != shape[1]):
        raise ValueError(f"latents must have the shape {shape}, got {tuple(tensor.shape)}.")
    if not torch.isfinite(tensor).all():
        raise ValueError("latents must be finite numbers, got NaN or infinity among them.")
    return tensor if many else tensor.expand(shape[0], *tensor.shape[1:])


def generators(seeds: int | tuple[int, ...] | None, count: int, each: int = 1) -> Any:
    """One generator for all, or one for each of ``count`` things that are drawn ``each`` times.

    On the CPU whatever the device: the same noise everywhere.

    Raises:
        ValueError: another number of seeds.
    """
    if seeds is None:
        return None
    if isinstance(seeds, int):
        return torch.Generator("cpu").manual_seed(seeds)
    if len(seeds) != count:
        raise ValueError(
            f"seed must be one number or a list of {count}, one for each, got {len(seeds)} of them."
        )
    own = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return [generator for generator in own for _ in range(each)]


def check_generator(generator: Any) -> None:
    """Refuses what draws no noise.

    Raises:
        TypeError: neither a ``torch.Generator``, nor a list of them, nor ``None``.
    """
    several = generator if isinstance(generator, (list, tuple)) else [generator]
    right = all(isinstance(one, torch.Generator) for one in several)
    if generator is not None and not (right and several):
        raise TypeError(
            f"generator must be a torch.Generator or a list of them, got {short(generator)}; "
            "seed=7 makes one."
        )
