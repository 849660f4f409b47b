"""The first half of DALL-E 2: a caption to the embedding of a picture that it could have.

The loop stands here in the open, once for every family, instead of inside three pipelines of a
thousand lines: words to CLIP's text tower, noise to the prior, step by step (Ramesh et al. 2022,
arXiv 2204.06125, section 2.2). Each family's own prior gives the same embedding from the same
seed; the tests compare.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ldmkit.recording.hooks import Tape, exclusive, hooked

__all__ = ["Conditioning", "Drawn", "Prior", "draw"]


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
class Conditioning:
    """Texts as the prior takes them: projection (b, d), states (b, n, d), which n are words."""

    embeddings: torch.Tensor
    states: torch.Tensor
    mask: torch.Tensor

    def repeated(self, count: int) -> Conditioning:
        """Each text ``count`` times in a row."""
        parts = (self.embeddings, self.states, self.mask)
        return Conditioning(*(part.repeat_interleave(count, dim=0) for part in parts))

    def after(self, other: Conditioning) -> Conditioning:
        """Both as one batch, ``other`` first."""
        mine, others = vars(self), vars(other)
        return Conditioning(**{name: torch.cat([others[name], mine[name]]) for name in mine})


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
    given = _conditioning(prior, texts)
    words = given.repeated(count)
    if guided:
        words = words.after(_conditioning(prior, [""] * len(texts)).repeated(count))
    # DDPM's step takes no `prev_timestep`, which UnCLIP's needs.
    known = inspect.signature(scheduler.step).parameters
    tape = Tape()
    with exclusive(scheduler, prior.network), hooked(scheduler, (), tape):
        scheduler.set_timesteps(num_inference_steps, device=prior.device)
        x = _noise(prior, len(texts) * count, given.embeddings.dtype, generator, latents)
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
    return Drawn(embeddings.unflatten(0, (len(texts), count)), given.embeddings, tape)


def _conditioning(prior: Prior, texts: Sequence[str]) -> Conditioning:
    read = prior.tokenizer(
        list(texts),
        padding="max_length",
        max_length=prior.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    said = prior.text_encoder(read.input_ids.to(prior.device))
    mask = read.attention_mask.bool().to(prior.device)
    return Conditioning(said.text_embeds, said.last_hidden_state, mask)


def _noise(
    prior: Prior, count: int, dtype: torch.dtype, generator: Any, latents: torch.Tensor | None
) -> torch.Tensor:
    from diffusers.utils.torch_utils import randn_tensor

    if latents is None:
        shape = (count, prior.network.config.embedding_dim)
        latents = randn_tensor(shape, generator=generator, device=prior.device, dtype=dtype)
    return latents.to(prior.device, dtype) * prior.scheduler.init_noise_sigma
