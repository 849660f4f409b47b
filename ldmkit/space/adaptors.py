"""Every unCLIP behind one face: where its prior is, how its decoder takes an embedding.

Each family is a class of a few lines: which parts make the prior, which diffusers pipeline
decodes an embedding, and under what names it takes it. Loops and formulas stay in diffusers and
in ``prior``; a class of diffusers that vanishes takes one of these with it and nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from ldmkit.loading.origin import origin_of
from ldmkit.loading.quiet import swift_imports
from ldmkit.space.prior import Prior

__all__ = ["Family", "family_of"]

Call = dict[str, Any]


class Family:
    """One kind of unCLIP pipeline; subclasses say what differs.

    Attributes:
        pipe: the pipeline that the user holds.
        names: ldmkit's keywords to those of the decoder's call, where they differ.
        prior_names: the keywords of the prior's steps and guidance in the pipeline's own call.
        takes_prompt: whether the decoder also reads words.
        told_noise: whether the decoder is told how noisy its embedding is.
    """

    names: Mapping[str, str] = {}
    prior_names: Mapping[str, str] = {
        "num_inference_steps": "prior_num_inference_steps",
        "guidance_scale": "prior_guidance_scale",
    }
    takes_prompt = False
    told_noise = False

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def prior(self) -> Prior | None:
        """The parts that make embeddings of words, or ``None``."""
        return None

    def decoder(self) -> Any:
        """The pipeline that makes pictures of embeddings."""
        raise NotImplementedError

    def width(self) -> int:
        """How many numbers an embedding has."""
        raise NotImplementedError

    def arguments(self, vectors: torch.Tensor, noise_level: int, prompt: str) -> Call:
        """The decoder's keywords for embeddings (b, d)."""
        raise NotImplementedError

    def towers(self) -> tuple[Any, Any]:
        """The picture tower of CLIP and its processor, ``None`` where the pipeline has none."""
        return getattr(self.pipe, "image_encoder", None), getattr(
            self.pipe, "feature_extractor", None
        )

    def device(self) -> torch.device:
        """Where the pipeline runs."""
        device: torch.device = self.pipe._execution_device
        return device

    def prior_default(self, name: str) -> Any:
        """What the prior runs with when nobody says: the weights' own, else the pipeline's."""
        name = self.prior_names[name]
        known = inspect.signature(self.pipe.__call__).parameters
        made_for = origin_of(self.pipe).defaults
        return made_for.get(name, known[name].default if name in known else None)


class StableImage(Family):
    """``StableUnCLIPImg2ImgPipeline``: decodes embeddings, has no prior."""

    takes_prompt = True
    told_noise = True

    def decoder(self) -> Any:
        """The pipeline itself."""
        return self.pipe

    def width(self) -> int:
        """Of the normaliser."""
        return int(self.pipe.image_normalizer.config.embedding_dim)

    def arguments(self, vectors: torch.Tensor, noise_level: int, prompt: str) -> Call:
        """One prompt for each embedding."""
        prompts = prompt if len(vectors) == 1 else [prompt] * len(vectors)
        dtype = self.pipe.unet.dtype
        return {
            "prompt": prompts,
            "image_embeds": vectors.to(self.device(), dtype),
            "noise_level": noise_level,
        }


class Stable(StableImage):
    """``StableUnCLIPPipeline``: the embedded one, and Stable unCLIP with Karlo's prior."""

    def prior(self) -> Prior:
        """Its own."""
        pipe = self.pipe
        return Prior(
            pipe.prior_tokenizer,
            pipe.prior_text_encoder,
            pipe.prior,
            pipe.prior_scheduler,
            self.device(),
        )

    def decoder(self) -> Any:
        """Its sibling that takes embeddings, made of the same parts."""
        with swift_imports():
            from diffusers import StableUnCLIPImg2ImgPipeline

        shared = ("image_normalizer", "image_noising_scheduler", "tokenizer", "text_encoder")
        parts = {name: getattr(self.pipe, name) for name in (*shared, "unet", "scheduler", "vae")}
        # Of the picture tower it asks the precision alone, while embeddings are given.
        tower = self.pipe.prior_text_encoder
        decoder = StableUnCLIPImg2ImgPipeline(feature_extractor=None, image_encoder=tower, **parts)
        return _as_quiet_as(self.pipe, decoder)

    def towers(self) -> tuple[Any, Any]:
        """None: words are all it reads."""
        return None, None


_FAMILIES: dict[str, type[Family]] = {
    "StableUnCLIPPipeline": Stable,
    "StableUnCLIPImg2ImgPipeline": StableImage,
}


def family_of(pipe: Any) -> Family | None:
    """The family of a pipeline, ``None`` for a stranger; a subclass belongs to its parent's."""
    for kind in type(pipe).__mro__:
        if kind.__name__ in _FAMILIES:
            return _FAMILIES[kind.__name__](pipe)
    return None


def _as_quiet_as(pipe: Any, decoder: Any) -> Any:
    decoder.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return decoder
