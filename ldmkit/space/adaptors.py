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

from ldmkit.loading.device import check_open
from ldmkit.loading.origin import origin_of
from ldmkit.loading.quiet import no_retirement_notice, swift_imports
from ldmkit.recording.hooks import denoiser_of
from ldmkit.space.prior import Prior

__all__ = ["UNCLIPS", "Family", "family_of"]

UNCLIPS = '"critters-unclip", "stable-unclip", "kandinsky22" or "karlo"'  # what to load, in words

Call = dict[str, Any]

_REST = inspect.Parameter.VAR_KEYWORD
_STATISTICS = ("clip_mean", "clip_std")
_SET_BY_LDMKIT = ("image", "image_embeds", "image_embeddings", "prompt", "noise_level", "latents")


class Family:
    """One kind of unCLIP pipeline; subclasses say what differs.

    Attributes:
        pipe: the pipeline that the user holds.
        names: ldmkit's keywords to those of the decoder's call, where they differ.
        prior_names: the keywords of the prior's steps and guidance in the pipeline's own call.
        needs: keywords that only the user can give.
        takes_prompt: whether the decoder also reads words.
        told_noise: whether the decoder puts noise on its embedding itself and is told how much.
    """

    names: Mapping[str, str] = {}
    prior_names: Mapping[str, str] = {
        "num_inference_steps": "prior_num_inference_steps",
        "guidance_scale": "prior_guidance_scale",
    }
    needs: tuple[str, ...] = ()
    takes_prompt = False
    told_noise = False

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def prior(self) -> Prior | None:
        """The parts that make embeddings of words, or ``None``."""
        return None

    def decoder(self) -> Any:
        """The pipeline that makes pictures of embeddings.

        Raises:
            TypeError: there is none.
        """
        raise TypeError(
            f"{type(self.pipe).__name__} makes embeddings and decodes none; open both halves with "
            'ldmkit.load("kandinsky22").'
        )

    def width(self) -> int:
        """How many numbers an embedding has."""
        raise NotImplementedError

    def keywords(self) -> dict[str, inspect.Parameter]:
        """The keywords that ``decode_embedding`` passes on, ldmkit's names and the decoder's."""
        known = inspect.signature(self.decoder().__call__).parameters
        kept = {
            name: parameter
            for name, parameter in known.items()
            if name not in _SET_BY_LDMKIT and parameter.kind != _REST
        }
        return kept | {own: known[name] for own, name in self.names.items() if name in known}

    def arguments(self, vectors: torch.Tensor, noise_level: int, prompt: str) -> Call:
        """The decoder's keywords for embeddings (b, d)."""
        raise NotImplementedError

    def most_noise(self) -> int:
        """The highest ``noise_level``; 0 where nothing says what noise is to these embeddings."""
        prior = self.prior()
        return 0 if prior is None else int(prior.scheduler.config.num_train_timesteps) - 1

    def noised(self, vectors: torch.Tensor, level: int, generator: Any) -> torch.Tensor:
        """Embeddings (b, d) with the prior's own noise, for decoders that put none on.

        √ᾱ · z + √(1 − ᾱ) · ε on embeddings at mean 0 and deviation 1, then taken back.
        """
        from diffusers.utils.torch_utils import randn_tensor

        prior = self.prior()
        if self.told_noise or level == 0 or prior is None:
            return vectors
        mean, std = (getattr(prior.network, name).float().cpu() for name in _STATISTICS)
        noise = randn_tensor(vectors.shape, generator=generator)
        levels = torch.full((len(vectors),), level)
        mixed: torch.Tensor = prior.scheduler.add_noise((vectors - mean) / std, noise, levels)
        return mixed * std + mean

    def device(self) -> torch.device:
        """Where the pipeline runs."""
        device: torch.device = self.pipe._execution_device
        return device

    def dtype(self) -> torch.dtype:
        """The precision of the network that decodes."""
        network = denoiser_of(self.pipe)
        return torch.float32 if network is None else next(network.parameters()).dtype

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

    def most_noise(self) -> int:
        """Of the schedule that the decoder was trained with."""
        return int(self.pipe.image_noising_scheduler.config.num_train_timesteps) - 1

    def decoder(self) -> Any:
        """The pipeline itself."""
        return self.pipe

    def width(self) -> int:
        """Of the normaliser."""
        return int(self.pipe.image_normalizer.config.embedding_dim)

    def arguments(self, vectors: torch.Tensor, noise_level: int, prompt: str) -> Call:
        """One prompt for each embedding."""
        prompts = prompt if len(vectors) == 1 else [prompt] * len(vectors)
        dtype = self.dtype()
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


class KandinskyDecoder(Family):
    """``KandinskyV22Pipeline`` alone."""

    needs: tuple[str, ...] = ("negative_image_embeds",)

    def decoder(self) -> Any:
        """The pipeline itself."""
        return self.pipe

    def width(self) -> int:
        """Of what the U-Net projects."""
        return int(self.pipe.unet.config.encoder_hid_dim)

    def arguments(self, vectors: torch.Tensor, noise_level: int, prompt: str) -> Call:
        """Embeddings alone; what to guide away from is for the user to say."""
        return {"image_embeds": vectors.to(self.device(), self.dtype())}


class Kandinsky(KandinskyDecoder):
    """``KandinskyV22CombinedPipeline``: both of its pipelines in one."""

    needs = ()

    def prior(self) -> Prior:
        """Its own."""
        pipe = self.pipe
        parts = (pipe.prior_tokenizer, pipe.prior_text_encoder, pipe.prior_prior)
        return Prior(*parts, pipe.prior_scheduler, self.device())

    def decoder(self) -> Any:
        """The second of the two, from the parts as they are now."""
        from diffusers import KandinskyV22Pipeline

        pipe = self.pipe
        decoder = KandinskyV22Pipeline(pipe.unet, pipe.scheduler, pipe.movq)
        return _as_quiet_as(pipe.decoder_pipe, decoder)  # the whole passes the setting on

    def arguments(self, vectors: torch.Tensor, noise_level: int, prompt: str) -> Call:
        """Beside each embedding that of a black picture, for guidance to lead away from."""
        with torch.no_grad():
            zero = self.pipe.prior_pipe.get_zero_embed(len(vectors), device=self.device())
        given = super().arguments(vectors, noise_level, prompt)
        return given | {"negative_image_embeds": zero.to(self.dtype())}


class KandinskyPrior(Family):
    """``KandinskyV22PriorPipeline`` alone: decodes nothing."""

    prior_names: Mapping[str, str] = {
        "num_inference_steps": "num_inference_steps",
        "guidance_scale": "guidance_scale",
    }

    def prior(self) -> Prior:
        """Its own."""
        pipe = self.pipe
        parts = (pipe.tokenizer, pipe.text_encoder, pipe.prior)
        return Prior(*parts, pipe.scheduler, self.device())


class KarloImage(Family):
    """``UnCLIPImageVariationPipeline``: decodes embeddings to pixels, and makes them larger."""

    names: Mapping[str, str] = {
        "num_inference_steps": "decoder_num_inference_steps",
        "guidance_scale": "decoder_guidance_scale",
        "latents": "decoder_latents",
    }

    def decoder(self) -> Any:
        """The pipeline itself."""
        return self.pipe

    def width(self) -> int:
        """Of what is projected to extra words."""
        return int(self.pipe.text_proj.config.clip_embeddings_dim)

    def arguments(self, vectors: torch.Tensor, noise_level: int, prompt: str) -> Call:
        """Embeddings alone."""
        return {"image_embeddings": vectors.to(self.device(), self.dtype())}


class Karlo(KarloImage):
    """``UnCLIPPipeline``: Karlo whole."""

    def prior(self) -> Prior:
        """Its own."""
        pipe = self.pipe
        parts = (pipe.tokenizer, pipe.text_encoder, pipe.prior)
        return Prior(*parts, pipe.prior_scheduler, self.device())

    def decoder(self) -> Any:
        """Its sibling that takes embeddings, made of the same parts."""
        with swift_imports():
            from diffusers import UnCLIPImageVariationPipeline

        shared = ("decoder", "text_encoder", "tokenizer", "text_proj", "super_res_first")
        schedulers = ("super_res_last", "decoder_scheduler", "super_res_scheduler")
        parts = {name: getattr(self.pipe, name) for name in shared + schedulers}
        tower = self.pipe.text_encoder  # asked for its precision alone, as above
        with no_retirement_notice():
            decoder = UnCLIPImageVariationPipeline(
                feature_extractor=None, image_encoder=tower, **parts
            )
        return _as_quiet_as(self.pipe, decoder)


_FAMILIES: dict[str, type[Family]] = {
    "StableUnCLIPPipeline": Stable,
    "StableUnCLIPImg2ImgPipeline": StableImage,
    "KandinskyV22CombinedPipeline": Kandinsky,
    "KandinskyV22Pipeline": KandinskyDecoder,
    "KandinskyV22PriorPipeline": KandinskyPrior,
    "UnCLIPPipeline": Karlo,
    "UnCLIPImageVariationPipeline": KarloImage,
}


def family_of(pipe: Any) -> Family | None:
    """The family of a pipeline, ``None`` for a stranger; a subclass belongs to its parent's.

    Raises:
        RuntimeError: a pipeline that was released.
    """
    check_open(pipe)
    for kind in type(pipe).__mro__:
        if kind.__name__ in _FAMILIES:
            return _FAMILIES[kind.__name__](pipe)
    return None


def _as_quiet_as(pipe: Any, decoder: Any) -> Any:
    decoder.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return decoder
