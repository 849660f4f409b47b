"""What a family of pipelines does in its own way: the one place that knows families.

A row says only what differs from the usual, and a family without a row is taken as usual: latents
(b, c, h, w), or tokens that the pipeline's own ``_unpack_latents`` turns into them; an answer of
the network without words before the one with them.

To add a family, write one row into ``FAMILIES`` and one case into ``tests/tiny_rows.py`` (its exact
classes on small random weights): under 40 lines together. Run ``ldmkit.record`` on it first,
since most need no row.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch

__all__ = [
    "FAMILIES",
    "Family",
    "Layout",
    "Stage",
    "answers_of",
    "autoencoder_of",
    "denoiser_of",
    "denoisers_of",
    "family_of",
    "layout_of",
    "scheduler_of",
    "stages_of",
    "step_of",
]

Names = Mapping[str, Any]  # of the pipeline's running call
Order = Literal["apart", "text_first", "image_first"]
_USUAL_ANSWERS = (("uncond", "text"),)

# Turns what a step gets into (b, c, h, w), or (b, c, frames, h, w).
Shaped = Callable[[Any], Any]


@dataclass(frozen=True)
class Family:
    """A family of pipelines.

    Attributes:
        classes: beginnings of the class names of its pipelines.
        answers: what the network is asked for in a step, in its order in batch or calls, once for
            each number of answers: ``"text"`` (that to the prompt) and ``"uncond"``, others by what
            they are, and ``"..."`` for any number of them.
            Of two the numbers decide where they can: ``ldmkit.recording.guidance``.
        unguided: the same where guidance is off and the network is asked more than once yet.
        doubled_by: keyword of the call that, above 1, makes the pipeline keep each picture's
            latents twice, the second time without words.
        unpack: the pipeline's method that makes (b, c, h, w), or (b, c, 1, h, w), of its tokens;
            or a function of (pipeline, names of its running call) that gives one.
        asks: parameters of that method that the running call keeps under other names.
        at_vae: of a pipeline, what turns clean latents into those that its autoencoder would be
            given by other families; ``None`` where it is as usual.
        from_zero: pixels are in 0..1, where others have -1..1.
        behind: the network answers with more tokens than the picture's, and these are the last.
        instead: what its steps do where they take no noise away, as the end of a sentence.
        tokens: where the words stand among the network's tokens, or ``"apart"``: it reads them by
            cross-attention.
        text_tokens: whose tokens the network's text is made of, in this order: names of
            tokenizers, and numbers of tokens that are of no word.
    """

    classes: tuple[str, ...] = ()
    answers: tuple[tuple[str, ...], ...] = _USUAL_ANSWERS
    unguided: tuple[tuple[str, ...], ...] = ()
    doubled_by: str = ""
    unpack: str | Callable[[Any, Mapping[str, Any]], Shaped] = "_unpack_latents"
    asks: Mapping[str, str] = field(default_factory=dict)
    at_vae: Callable[[Any], Shaped] | None = None
    from_zero: bool = False
    behind: bool = False
    instead: str = ""
    tokens: Order = "apart"
    text_tokens: tuple[str | int, ...] = ("tokenizer",)


def _by_ids(pipe: Any, names: Names) -> Shaped:
    """FLUX.2: tokens (b, t, 4c) at places of their own, four channels of each a square."""
    ids = names["latent_ids"] if "latent_ids" in names else names["latent_image_ids"]

    def unpack(tokens: Any) -> Any:
        placed = pipe._unpack_latents_with_ids(tokens, ids[:, : tokens.shape[1]])
        return pipe._unpatchify_latents(placed)  # (b, 4c, h/2, w/2) -> (b, c, h, w)

    return unpack


def _unpatched(pipe: Any, names: Names) -> Shaped:
    """Ernie: (b, 4c, h/2, w/2)."""
    return pipe._unpatchify_latents


def _by_grid(pipe: Any, names: Names) -> Shaped:
    """Ideogram 4: tokens (b, t, p · p · c)."""
    p, rows, columns = pipe.patch_size, names["grid_h"], names["grid_w"]

    def unpack(tokens: Any) -> Any:
        patches = tokens.reshape(len(tokens), rows, columns, p, p, -1)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), -1, rows * p, columns * p)

    return unpack


def _fibo(pipe: Any, names: Names) -> Shaped:
    """Bria FIBO: patches of two as in FLUX, or of one."""
    own = pipe._unpack_latents if names["do_patching"] else pipe._unpack_latents_no_patch
    return partial(
        own, height=names["height"], width=names["width"], vae_scale_factor=pipe.vae_scale_factor
    )


def _last_of_sizes(pipe: Any, names: Names) -> Shaped:
    """VisualCloze: tokens of a grid of pictures; its last row is the one that is made."""
    sizes = names["processor_output"]["image_size"][0]
    return lambda tokens: pipe._unpack_latents(tokens, sizes, pipe.vae_scale_factor)[-1]


def _channels_last(pipe: Any, names: Names) -> Shaped:
    """Kandinsky 5: (b, frames, h, w, c), perhaps with channels of another picture after."""
    channels = names.get("num_channels_latents")
    return lambda latents: latents[..., :channels].permute(0, 4, 1, 2, 3)


def _last_picture(pipe: Any, names: Names) -> Shaped:
    """JoyImage: (b, pictures, c, frames, h, w); the last is made."""
    return lambda latents: latents[:, -1]


def _codes(pipe: Any, names: Names) -> Shaped:
    """aMUSEd: (b, h, w) of a codebook's numbers."""
    return lambda latents: latents.unsqueeze(1)


def _target_patches(pipe: Any, names: Names) -> Shaped:
    """JoyImage Plus: (b, patches, c, frames, p, p); those of the picture that is made are first."""
    f, rows, columns = names["shape_list"][0][0]

    def unpack(latents: Any) -> Any:
        b, _, c, pf, p, q = latents.shape
        patches = latents[:, : f * rows * columns].reshape(b, f, rows, columns, c, pf, p, q)
        patches = patches.permute(0, 4, 1, 5, 2, 6, 3, 7)
        return patches.reshape(b, c, f * pf, rows * p, columns * q)

    return unpack


def _over_sigma_data(pipe: Any) -> Shaped:
    """Sana Sprint, Cosmos: clean latents have the deviation ``sigma_data`` of the scheduler."""
    data = float(getattr(pipe.scheduler, "config", {}).get("sigma_data") or 1.0)
    return lambda latents: latents / data


def _without_shift(pipe: Any) -> Shaped:
    """Kandinsky 5 leaves out the shift of FLUX's autoencoder."""
    config = pipe.vae.config
    shift = (getattr(config, "shift_factor", None) or 0.0) * config.scaling_factor
    return lambda latents: latents - shift


def _by_squares(pipe: Any) -> Shaped:
    """Ideogram 4: statistics of a square's four places stand side by side, FLUX.2's of channels."""
    bn, p = pipe.vae.bn, pipe.patch_size
    mean, std = bn.running_mean, (bn.running_var + pipe.vae.config.batch_norm_eps).sqrt()
    of_places = [one.reshape(p, p, -1).permute(2, 0, 1).flatten() for one in (mean, std)]
    factor, offset = (
        one.cpu().float().numpy().reshape(-1, 1, p, 1, p)
        for one in (of_places[1] / std, (of_places[0] - mean) / std)
    )

    def at_vae(latents: Any) -> Any:
        *lead, c, h, w = latents.shape
        squares = latents.reshape(*lead, c, h // p, p, w // p, p) * factor + offset
        return squares.reshape(latents.shape)

    return at_vae


_TEXT_FIRST = (("text", "uncond"),)
_PIX2PIX = (("text", "image", "uncond"),)

# The first row that fits is taken: a longer name stands before its own beginning.
FAMILIES = (
    Family(("DiT",), _TEXT_FIRST, doubled_by="guidance_scale"),
    Family(("StableDiffusionInstructPix2Pix", "StableDiffusionXLInstructPix2Pix"), _PIX2PIX),
    Family(
        ("StableDiffusionSAG",),
        (*_USUAL_ANSWERS, ("uncond", "text", "degraded")),
        unguided=(("text", "degraded"),),
    ),
    Family(
        ("CycleDiffusion",), (("source", "text"), ("source_uncond", "uncond", "source", "text"))
    ),
    Family(
        ("StableDiffusion3",),
        (*_USUAL_ANSWERS, ("uncond", "text", "skipped")),
        tokens="image_first",
        text_tokens=("tokenizer", "tokenizer_3"),
    ),
    Family(("Lumina2", "CogView4"), _TEXT_FIRST, tokens="text_first"),
    Family(("Lumina",), _TEXT_FIRST),
    Family(("OmniGen",), (*_TEXT_FIRST, ("text", "uncond", "image"))),
    Family(("DreamLite",), (*_USUAL_ANSWERS, ("uncond", "image", "text"))),
    Family(("LEdits",), (("uncond", "edit"), ("uncond", "edits", "..."))),
    Family(("ZImage",), _TEXT_FIRST),
    Family(("UnCLIP",), text_tokens=(4, "tokenizer")),
    Family(("HunyuanImage",), tokens="image_first"),
    Family(("AuraFlow",), tokens="text_first", text_tokens=(8, "tokenizer")),
    Family(("PRX",), tokens="text_first"),
    Family(("Flux2", "BriaFibo2"), _TEXT_FIRST, unpack=_by_ids, tokens="text_first"),
    Family(("BriaFibo",), unpack=_fibo, tokens="text_first"),
    Family(("ErnieImage",), unpack=_unpatched),
    Family(
        ("Ideogram4",),
        _TEXT_FIRST,
        unpack=_by_grid,
        at_vae=_by_squares,
        behind=True,
    ),
    Family(
        ("VisualCloze",),
        _TEXT_FIRST,
        unpack=_last_of_sizes,
        tokens="text_first",
        text_tokens=("tokenizer_2",),
    ),
    Family(
        ("FluxControlNetInpaint",),
        asks={"height": "global_height", "width": "global_width"},
        tokens="text_first",
        text_tokens=("tokenizer_2",),
    ),
    Family(
        ("LongCatImageEdit",),
        _TEXT_FIRST,
        asks={"height": "calculated_height", "width": "calculated_width"},
        tokens="text_first",
    ),
    Family(("Flux",), _TEXT_FIRST, tokens="text_first", text_tokens=("tokenizer_2",)),
    Family(
        ("Chroma", "OvisImage", "LongCat", "QwenImage", "NucleusMoE", "Krea2"),
        _TEXT_FIRST,
        tokens="text_first",
    ),
    Family(("Bria",), tokens="text_first"),
    Family(("Kandinsky5", "Kandinsky6"), _TEXT_FIRST, unpack=_channels_last, at_vae=_without_shift),
    Family(("JoyImageEditPlus",), unpack=_target_patches),
    Family(("JoyImage",), _TEXT_FIRST, unpack=_last_picture),
    Family(("SanaSprint", "Cosmos"), _TEXT_FIRST, at_vae=_over_sigma_data),
    Family(("Wuerstchen", "StableCascade"), _TEXT_FIRST),
    Family(("Amused",), unpack=_codes, instead="fills in masked codes of a codebook"),
    Family(("ScoreSdeVe",), (("corrected", "text"),), from_zero=True),
    Family(("KarrasVe",), (("corrected", "text"),)),
    Family(("SemanticStableDiffusion",), (*_USUAL_ANSWERS, ("uncond", "text", "..."))),
)

_USUAL = Family()


def family_of(pipe: Any) -> Family:
    """The family of a pipeline, or of the pipeline that a student's own was made of."""
    names = [kind.__name__ for kind in type(pipe).__mro__ if "Pipeline" in kind.__name__]
    fitting = (row for name in names for row in FAMILIES if name.startswith(row.classes))
    return next(fitting, _USUAL)


def answers_of(pipe: Any, names: Names) -> tuple[tuple[str, ...], ...]:
    """What the network is asked for in a step, once for each number of answers.

    A modular pipeline's guider says it itself, and one with perturbed attention (PAG, arXiv
    2403.17377) that it asks once more.
    """
    guider = getattr(getattr(pipe, "guider", None), "_input_predictions", None)
    if guider:
        known = {"pred_cond": "text", "pred_uncond": "uncond"}
        return (tuple(known.get(name, name) for name in guider),)
    if getattr(pipe, "do_perturbed_attention_guidance", False):
        return (("uncond", "text", "perturbed"), ("text", "perturbed"))
    family = family_of(pipe)
    own = getattr(pipe, "do_classifier_free_guidance", True)
    guided = names.get("do_classifier_free_guidance", own)
    return family.answers if guided else family.unguided or family.answers


def _as_it_is(latents: Any) -> Any:
    return latents


@dataclass(frozen=True)
class Layout:
    """How what passes a step becomes pictures' latents.

    Attributes:
        answers: of the network, as ``answers_of`` tells them.
        unpack: makes (b, c, h, w), or (b, c, frames, h, w), of what a step gets; ``None`` where
            it is that already, or nobody described it.
        doubled: each picture's latents are there twice.
        described: the family has a row.
        at_vae: turns clean latents into those that the autoencoder is given; see ``Family``.
        from_zero: pixels are in 0..1, where others have -1..1.
        behind: of an answer with more tokens than the latents those of the picture are the last.
        instead: what the steps do where they take no noise away.
    """

    answers: tuple[tuple[str, ...], ...] = _USUAL_ANSWERS
    unpack: Shaped | None = None
    doubled: bool = False
    described: bool = False
    at_vae: Shaped = _as_it_is
    from_zero: bool = False
    behind: bool = False
    instead: str = ""


def layout_of(pipe: Any, names: Names) -> Layout:
    """What a pipeline's latents look like, from its running call.

    Args:
        pipe: the pipeline that is at work.
        names: of its running call: ``height``, ``width``, ``guidance_scale``...
    """
    family = family_of(pipe)
    try:
        unpack = _unpack_of(pipe, family, names)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        unpack = None  # another version's: its latents are kept as they are, which is said
    above = names.get(family.doubled_by, 0)
    doubled = isinstance(above, (int, float)) and above > 1
    at_vae = _as_it_is if family.at_vae is None else family.at_vae(pipe)
    described = family is not _USUAL
    return Layout(
        answers_of(pipe, names),
        unpack,
        doubled,
        described,
        at_vae,
        family.from_zero,
        family.behind,
        family.instead,
    )


def _unpack_of(pipe: Any, family: Family, names: Names) -> Shaped | None:
    if not isinstance(family.unpack, str):
        return family.unpack(pipe, names)
    own = getattr(pipe, family.unpack, None)
    if own is None:
        return None
    known = {"vae_scale_factor": getattr(pipe, "vae_scale_factor", None), **names}
    _, *wanted = inspect.signature(own).parameters
    asked = {name: known[family.asks.get(name, name)] for name in wanted}
    return lambda latents: latents if latents.ndim == 4 else own(latents, **asked)


# --- the parts of a pipeline, under the names that families give them -----------------------------


def scheduler_of(pipe: Any) -> Any | None:
    """The pipeline's scheduler (its decoder's, where a prior has one too), or ``None``."""
    for name in ("scheduler", "decoder_scheduler"):
        found = getattr(pipe, name, None)
        if callable(getattr(found, step_of(found), None)):
            return found
    return None


def step_of(scheduler: Any) -> str:
    """The name of a scheduler's step: score-SDE predicts, and corrects (arXiv 2011.13456)."""
    return "step" if hasattr(scheduler, "step") else "step_pred"


def denoiser_of(pipe: Any) -> torch.nn.Module | None:
    """The network that predicts noise, or ``None`` where a pipeline keeps it elsewhere."""
    return next(iter(denoisers_of(pipe)), None)


def denoisers_of(pipe: Any) -> tuple[torch.nn.Module, ...]:
    """The networks that predict noise: some pipelines have a second for the last steps."""
    first = (getattr(pipe, name, None) for name in ("unet", "transformer", "decoder", "prior"))
    second = (getattr(pipe, name, None) for name in ("transformer_2", "unconditional_transformer"))
    networks = [found for found in first if isinstance(found, torch.nn.Module)][:1]
    return (*networks, *(found for found in second if isinstance(found, torch.nn.Module)))


@dataclass(frozen=True)
class Stage:
    """What runs before or after the stage that a record is of, with a scheduler of its own.

    Attributes:
        name: the beginning of its keywords, such as ``prior_num_inference_steps``.
        network: what predicts.
        scheduler: whose steps they are.
    """

    name: str
    network: torch.nn.Module
    scheduler: Any


def stages_of(pipe: Any) -> tuple[Stage, ...]:
    """The other stages of a pipeline: a prior of embeddings, Karlo's super-resolution."""
    found = []
    for name, networks in (
        ("prior", ("prior", "prior_prior")),
        ("super_res", ("super_res_first",)),
    ):
        scheduler = getattr(pipe, f"{name}_scheduler", None)
        parts = [
            part for part in (getattr(pipe, one, None) for one in networks) if part is not None
        ]
        if callable(getattr(scheduler, "step", None)) and parts:
            found.append(Stage(name, parts[0], scheduler))
    return tuple(found)


def autoencoder_of(pipe: Any) -> Any | None:
    """The autoencoder of a latent pipeline, or ``None`` (pixel models have none)."""
    for name in ("vae", "movq", "vqvae", "vqgan"):  # the latter two of latent diffusion and Cascade
        vae = getattr(pipe, name, None)
        if hasattr(vae, "decode") and hasattr(vae, "config"):
            return vae
    return None
