"""DALL-E 2's two halves, one by one: ``sample_prior``, ``decode_embedding``, ``variations``.

unCLIP (Ramesh et al. 2022, arXiv 2204.06125) makes a picture of words in two steps: the *prior*
makes a picture's CLIP embedding of the words, the *decoder* a picture of the embedding. Between
the two lies a vector that can be added to, walked along, and decoded many times.

    z = ldmkit.sample_prior(unclip, "a red cat", seed=0)
    traj = ldmkit.decode_embedding(unclip, z, seed=0)

Every kind of unCLIP pipeline is a row of ``UNCLIPS``: which parts make its prior, which diffusers
pipeline decodes an embedding, and under what names it takes it. Loops and formulas stay in
diffusers and in ``prior``; a class of diffusers that vanishes takes one row with it.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import torch
from PIL import Image

from ldmkit.check import function, short, whole
from ldmkit.loading.device import check_open
from ldmkit.loading.families import denoiser_of
from ldmkit.loading.quiet import no_retirement_notice, swift_imports
from ldmkit.loading.siblings import origin_of
from ldmkit.recording import call as checks
from ldmkit.recording import record
from ldmkit.recording.arrays import prior_arrays
from ldmkit.recording.settings import versions
from ldmkit.recording.truncation import Heard, heard
from ldmkit.records import Embedding, Step, Trajectory
from ldmkit.records.trajectory import MAX_STAGES
from ldmkit.space.clip import clip_space
from ldmkit.space.encoders import embeddings_of, space_name, stacked
from ldmkit.space.prior import Prior, draw

__all__ = [
    "UNCLIPS",
    "Unclip",
    "check_decoding",
    "decode_embedding",
    "decoding_unclip",
    "sample_prior",
    "unclip_of",
    "variations",
]

_UNCLIPS = '"critters-unclip", "stable-unclip", "kandinsky22" or "karlo"'  # what to load, in words
_MOST_SAMPLES, _MOST_IMAGES = 64, 64
_REST = inspect.Parameter.VAR_KEYWORD
_STATISTICS = ("clip_mean", "clip_std")
_SET_BY_LDMKIT = ("image", "image_embeds", "image_embeddings", "prompt", "noise_level", "latents")
_HANDLED = ("noise_level", "prompt", "latents", "keep", "preview", "on_step")
_OWN = ("embedding", "seed", *_HANDLED)

# The run that drew an embedding, for the record of what is decoded of it.
_runs: weakref.WeakKeyDictionary[Embedding, Trajectory] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Unclip:
    """One kind of unCLIP pipeline; parts and sizes are named as the pipeline names them.

    Attributes:
        prior_parts: tokenizer, text encoder, network and scheduler of the prior; empty for none.
        prior_names: the keywords of the prior's steps and guidance in the pipeline's own call.
        decodes: whether it decodes embeddings at all.
        sibling: class of diffusers that decodes them, made of ``parts``; ``""``: the pipeline.
        parts: what the sibling is made of.
        tower: part that stands for the sibling's picture tower, which it asks the precision alone
            while embeddings are given.
        takes: the decoder's keyword for embeddings.
        width_of: the part that says how many numbers an embedding has, and the name in its config.
        names: ldmkit's keywords to those of the decoder's call, where they differ.
        needs: keywords that only the user can give.
        takes_prompt: whether the decoder also reads words.
        told_noise: whether the decoder puts noise on its embedding itself and is told how much.
        leaves_black: whether guidance leads away from a black picture's embedding.
        pipe: the pipeline that the user holds.
    """

    prior_parts: tuple[str, ...] = ()
    prior_names: Mapping[str, str] = field(
        default_factory=lambda: {
            "num_inference_steps": "prior_num_inference_steps",
            "guidance_scale": "prior_guidance_scale",
        }
    )
    decodes: bool = True
    sibling: str = ""
    parts: tuple[str, ...] = ()
    tower: str = ""
    takes: str = "image_embeds"
    width_of: tuple[str, str] = ("", "")
    names: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    takes_prompt: bool = False
    told_noise: bool = False
    leaves_black: bool = False
    pipe: Any = None

    def prior(self) -> Prior | None:
        """The parts that make embeddings of words, or ``None``."""
        if not self.prior_parts:
            return None
        tokenizer, text_encoder, network, scheduler = (
            getattr(self.pipe, name) for name in self.prior_parts
        )
        return Prior(tokenizer, text_encoder, network, scheduler, self.device())

    def prior_default(self, name: str) -> Any:
        """What the prior runs with when nobody says: the weights' own, else the pipeline's."""
        return _default(self.pipe, self.pipe, self.prior_names[name])

    def decoder(self) -> Any:
        """The pipeline that makes pictures of embeddings, of the parts as they are now.

        Raises:
            TypeError: there is none.
        """
        pipe = self.pipe
        if not self.decodes:
            raise TypeError(
                f"{type(pipe).__name__} makes embeddings and decodes none; open both halves with "
                'ldmkit.load("kandinsky22").'
            )
        if not self.sibling:
            return pipe
        with swift_imports():
            import diffusers

            kind = getattr(diffusers, self.sibling)
        parts = {name: getattr(pipe, name) for name in self.parts}
        if self.tower:
            parts |= {"feature_extractor": None, "image_encoder": getattr(pipe, self.tower)}
        with no_retirement_notice():
            decoder = kind(**parts)
        # As quiet as the whole, which passes its setting on to the pipelines inside.
        quiet = getattr(getattr(pipe, "decoder_pipe", pipe), "_progress_bar_config", {})
        decoder.set_progress_bar_config(**quiet)
        return decoder

    def width(self) -> int:
        """How many numbers an embedding has."""
        part, name = self.width_of
        return int(getattr(getattr(self.pipe, part).config, name))

    def keywords(self) -> dict[str, inspect.Parameter]:
        """The keywords that ``decode_embedding`` passes on, ldmkit's names and the decoder's."""
        known = inspect.signature(self.decoder().__call__).parameters
        kept = {
            name: parameter
            for name, parameter in known.items()
            if name not in _SET_BY_LDMKIT and parameter.kind != _REST
        }
        return kept | {own: known[name] for own, name in self.names.items() if name in known}

    def steps(self) -> int:
        """Of the decoder when nobody says: the weights' own number, else the pipeline's."""
        return int(_default(self.pipe, self.decoder(), "num_inference_steps") or 50)

    def size(self, call: Mapping[str, Any]) -> tuple[int, int] | None:
        """(width, height) of the decoder's pictures, where it says."""
        decoder = self.decoder()
        side = getattr(getattr(decoder, "unet", None), "config", {}).get("sample_size")
        factor = getattr(decoder, "vae_scale_factor", None)
        if side is None or factor is None:
            return None
        return call.get("width") or side * factor, call.get("height") or side * factor

    def arguments(self, vectors: torch.Tensor, noise_level: int, prompt: str) -> dict[str, Any]:
        """The decoder's keywords for embeddings (b, d)."""
        told: dict[str, Any] = {self.takes: vectors.to(self.device(), self.dtype())}
        if self.takes_prompt:  # one for each embedding
            told["prompt"] = prompt if len(vectors) == 1 else [prompt] * len(vectors)
        if self.told_noise:
            told["noise_level"] = noise_level
        if self.leaves_black:
            with torch.no_grad():
                black = self.pipe.prior_pipe.get_zero_embed(len(vectors), device=self.device())
            told["negative_image_embeds"] = black.to(self.dtype())
        return told

    def most_noise(self) -> int:
        """The highest ``noise_level``; 0 where nothing says what noise is to these embeddings."""
        prior = self.prior()
        scheduler = self.pipe.image_noising_scheduler if self.told_noise else None
        if scheduler is None and prior is not None:
            scheduler = prior.scheduler
        return 0 if scheduler is None else int(scheduler.config.num_train_timesteps) - 1

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


def _default(pipe: Any, called: Any, name: str) -> Any:
    """What a keyword is when nobody says: what the weights were made for, else the call's own."""
    known = inspect.signature(called.__call__).parameters
    return origin_of(pipe).defaults.get(name, known[name].default if name in known else None)


# Decodes embeddings, has no prior.
_STABLE = Unclip(width_of=("image_normalizer", "embedding_dim"), takes_prompt=True, told_noise=True)
_KANDINSKY = Unclip(width_of=("unet", "encoder_hid_dim"), needs=("negative_image_embeds",))
# Decodes embeddings to pixels, and makes them larger.
_KARLO = Unclip(
    takes="image_embeddings",
    width_of=("text_proj", "clip_embeddings_dim"),
    names={
        "num_inference_steps": "decoder_num_inference_steps",
        "guidance_scale": "decoder_guidance_scale",
        "latents": "decoder_latents",
    },
)
UNCLIPS: dict[str, Unclip] = {
    "StableUnCLIPImg2ImgPipeline": _STABLE,
    # The embedded one, and Stable unCLIP with Karlo's prior.
    "StableUnCLIPPipeline": replace(
        _STABLE,
        prior_parts=("prior_tokenizer", "prior_text_encoder", "prior", "prior_scheduler"),
        sibling="StableUnCLIPImg2ImgPipeline",
        parts=(
            *("image_normalizer", "image_noising_scheduler", "tokenizer", "text_encoder"),
            *("unet", "scheduler", "vae"),
        ),
        tower="prior_text_encoder",
    ),
    "KandinskyV22Pipeline": _KANDINSKY,
    # Both of its pipelines in one.
    "KandinskyV22CombinedPipeline": replace(
        _KANDINSKY,
        prior_parts=("prior_tokenizer", "prior_text_encoder", "prior_prior", "prior_scheduler"),
        sibling="KandinskyV22Pipeline",
        parts=("unet", "scheduler", "movq"),
        needs=(),
        leaves_black=True,
    ),
    "KandinskyV22PriorPipeline": Unclip(
        decodes=False,
        prior_parts=("tokenizer", "text_encoder", "prior", "scheduler"),
        prior_names={
            "num_inference_steps": "num_inference_steps",
            "guidance_scale": "guidance_scale",
        },
    ),
    "UnCLIPImageVariationPipeline": _KARLO,
    # Karlo whole.
    "UnCLIPPipeline": replace(
        _KARLO,
        prior_parts=("tokenizer", "text_encoder", "prior", "prior_scheduler"),
        sibling="UnCLIPImageVariationPipeline",
        parts=(
            *("decoder", "text_encoder", "tokenizer", "text_proj", "super_res_first"),
            *("super_res_last", "decoder_scheduler", "super_res_scheduler"),
        ),
        tower="text_encoder",
    ),
}


def unclip_of(pipe: Any) -> Unclip | None:
    """The family of a pipeline, ``None`` for a stranger; a subclass belongs to its parent's.

    Raises:
        RuntimeError: a pipeline that was released.
    """
    check_open(pipe)
    for kind in type(pipe).__mro__:
        if kind.__name__ in UNCLIPS:
            return replace(UNCLIPS[kind.__name__], pipe=pipe)
    return None


@overload
def sample_prior(
    unclip: Any,
    prompt: str,
    *,
    seed: int | Sequence[int] | None = None,
    best_of: int = 2,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    generator: Any = None,
    latents: Any = None,
) -> Embedding: ...
@overload
def sample_prior(
    unclip: Any,
    prompt: list[str] | tuple[str, ...],
    *,
    seed: int | Sequence[int] | None = None,
    best_of: int = 2,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    generator: Any = None,
    latents: Any = None,
) -> list[Embedding]: ...
def sample_prior(
    unclip: Any,
    prompt: str | list[str] | tuple[str, ...],
    *,
    seed: int | Sequence[int] | None = None,
    best_of: int = 2,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    generator: Any = None,
    latents: Any = None,
) -> Embedding | list[Embedding]:
    """Draws the embedding of a picture that the words could have.

    The words leave open what they don't say, so each seed gives another embedding. As in the
    paper, two are drawn and the one with the larger dot product with the text's own embedding
    is kept (arXiv 2204.06125, section 2.2).

    Args:
        unclip: a pipeline with a prior: StableUnCLIP, Kandinsky 2.2 (combined), Karlo.
        prompt: the words, or a list of them for a list of embeddings.
        seed: ``torch.Generator("cpu").manual_seed(seed)``; a list gives one for each prompt.
        best_of: samples drawn for each prompt, 1 to 64; 1 takes the first as it comes.
        num_inference_steps: of the prior; by default what the weights were made for.
        guidance_scale: of the prior.
        generator: instead of ``seed``.
        latents: (b · best_of, d) first noise instead of the generator's.

    Returns:
        The embedding (d,), kind ``"prior"``, at CLIP's own length; a list of them for a list.

    Raises:
        TypeError: a pipeline without a prior, or a wrong type.
        ValueError: a value out of its range.
    """
    family = unclip_of(unclip)
    prior = None if family is None else family.prior()
    if family is None or prior is None:
        raise TypeError(
            "sample_prior takes an unCLIP pipeline with a prior, and "
            f"{short(unclip)} has none; open one with ldmkit.load({_UNCLIPS})."
        )
    if prompt is None:
        raise TypeError('prompt must be a string, got None; "" is no words.')
    checks.check_prompt("prompt", prompt)
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    if generator is not None:
        checks.check_generator(generator)
    seeds = checks.check_seed(seed, generator, takes_generator=True)
    settings: dict[str, Any] = {
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
    }
    settings |= {name: family.prior_default(name) for name in settings if settings[name] is None}
    checks.check_call(prior, settings, settings, "sample_prior")
    checks.check_least(prior.scheduler, settings)
    best_of = whole("best_of", best_of, 1, _MOST_SAMPLES)
    if latents is not None:
        shape = (len(texts) * best_of, prior.network.config.embedding_dim)
        latents = checks.first_noise(latents, shape).to(prior.device)
    each = checks.generators(seeds, len(texts), best_of) if generator is None else generator
    with heard(Heard(prior, {"prompt": texts})):
        drawn = draw(prior, texts, count=best_of, generator=each, latents=latents, **settings)
    found = []
    for i, text in enumerate(texts):
        best = int(drawn.scores()[i].argmax())
        vector = drawn.embeddings[i, best].float().cpu().numpy()
        label = text or "no words"
        found.append(Embedding(vector, label, "prior", space_name(unclip)))
        rows, names = [i * best_of + best], ("latents", "denoised")
        scheduler = type(prior.scheduler).__name__
        _runs[found[-1]] = Trajectory(
            **prior_arrays(prior.network, prior.scheduler, drawn.tape, names, rows),
            prompt=text,
            seed=seeds[i] if isinstance(seeds, tuple) else seeds,
            call={**settings, "best_of": best_of, "sample": best, "scheduler": scheduler},
            model=origin_of(unclip).name,
            versions=versions(),
        )
    return found[0] if isinstance(prompt, str) else found


def decode_embedding(
    unclip: Any,
    embedding: Any,
    *,
    seed: int | Sequence[int] | None = None,
    noise_level: int = 0,
    prompt: str = "",
    latents: Any = None,
    keep: str | Sequence[str] = ("latents", "denoised"),
    preview: str = "auto",
    on_step: Callable[[Step], bool | None] | None = None,
    **call: Any,
) -> Trajectory:
    """Makes a picture of an embedding, and records each step; no word is heard.

    Args:
        unclip: a pipeline that decodes image embeddings.
        embedding: an ``Embedding``, a vector (d,), a batch (b, d), or a list of them.
        seed: as in ``record``; a list gives one for each embedding.
        noise_level: how much noise is put on the embedding first, 0…999: the more, the less of
            it the picture follows. Stable unCLIP's decoder does so itself and is told how much;
            for Kandinsky's and Karlo's it is done here, and they take the result at its word.
        prompt: words for the decoder beside the embedding, where it reads any.
        latents: first noise (b, c, h, w) instead of the generator's; that of one serves a batch.
        keep: as in ``record``.
        preview: as in ``record``.
        on_step: as in ``record``.
        **call: the decoder's own keywords; ``num_inference_steps`` and ``guidance_scale`` by
            these names in every family.

    Returns:
        The decoder's trajectory: its prompt empty, ``call["embedding"]`` the label, or labels.
        The prior's runs that drew the embeddings, where it did, are its ``stages``.

    Raises:
        TypeError: a pipeline that decodes no embeddings, an unknown keyword, or a wrong type.
        ValueError: an embedding of another model, or a value out of its range.
    """
    family = decoding_unclip(unclip, "decode_embedding")
    decoder = family.decoder()
    given = embeddings_of(embedding, family.width(), space_name(unclip))
    runs = [run for one in given if (run := _runs.get(one)) is not None]
    if len(runs) > MAX_STAGES:  # before anything runs that no record could hold
        raise ValueError(
            f"decode_embedding takes at most {MAX_STAGES} embeddings of the prior at once, got "
            f"{len(runs)}; decode them in several calls."
        )
    seeds = checks.check_seed(seed, call.get("generator"), takes_generator=True)
    own = {"noise_level": noise_level, "prompt": prompt, "latents": latents}
    own |= {"keep": keep, "preview": preview, "on_step": on_step}
    check_decoding(family, {**call, **own})
    count = len(given) * int(call.get("num_images_per_prompt") or 1)
    drawing = checks.generators(seeds, count) if seeds is not None else call.get("generator")
    vectors = family.noised(torch.tensor(stacked(given)), noise_level, drawing)
    arguments = family.arguments(vectors, noise_level, prompt) | call | {"generator": drawing}
    if latents is not None:
        noise = checks.first_noise(latents, (count, 0, 0, 0))
        arguments["latents"] = noise.to(family.device(), family.dtype())
    if isinstance(arguments.get("negative_prompt"), str) and len(given) > 1:
        arguments["negative_prompt"] = [arguments["negative_prompt"]] * len(given)
    arguments = {family.names.get(name, name): value for name, value in arguments.items()}
    words = arguments.pop("prompt", None)
    traj = record(decoder, words, keep=keep, preview=preview, on_step=on_step, **arguments)
    own = {name: ours for ours, name in family.names.items()}
    labels = [one.label for one in given]
    told = {"embedding": labels[0] if len(given) == 1 else labels, "noise_level": noise_level}
    # What the decoder was given is made of the embedding and the seed: these are to be given again.
    theirs = {own.get(name, name) for name in traj.call.get("left_out", ())}
    theirs &= {*call, *(() if latents is None else ("latents",))}
    told["left_out"] = sorted({"embedding", *theirs} | ({"generator"} & set(call)))
    kept = {name: value for name, value in traj.call.items() if name != "generator_seed"}
    return replace(
        traj,
        prompt=prompt,
        seed=seeds,
        model=origin_of(unclip).name,
        call={own.get(name, name): value for name, value in kept.items()} | told,
        stages=tuple(runs),
    )


def decoding_unclip(unclip: Any, caller: str) -> Unclip:
    """The family of a pipeline that decodes embeddings.

    Raises:
        TypeError: no unCLIP pipeline.
    """
    family = unclip_of(unclip)
    if family is None:
        raise TypeError(
            f"{caller} takes an unCLIP pipeline, which decodes embeddings of pictures, got "
            f"{short(unclip)}; open one with ldmkit.load({_UNCLIPS})."
        )
    return family


def check_decoding(
    family: Unclip,
    call: Mapping[str, Any],
    caller: str = "decode_embedding",
    own: Iterable[str] = _OWN,
) -> None:
    """Refuses what no decoding can mean, before anything is encoded or drawn.

    Args:
        family: of the pipeline.
        call: ``decode_embedding``'s keywords, as far as they were given.
        caller: who was called, in words.
        own: the caller's own keywords.

    Raises:
        TypeError: an unknown keyword, or of a wrong kind.
        ValueError: out of its range.
    """
    decoder, prompt, latents = family.decoder(), call.get("prompt", ""), call.get("latents")
    checks.check_keep(call.get("keep", ()))
    checks.check_preview(call.get("preview", "none"))
    function("on_step", call.get("on_step"))
    theirs = {name: value for name, value in call.items() if name not in _HANDLED}
    if theirs.get("generator") is not None:
        checks.check_generator(theirs["generator"])
    checks.check_call(decoder, family.keywords(), theirs, caller, own)
    scheduler = getattr(decoder, "decoder_scheduler", None) or decoder.scheduler
    checks.check_least(scheduler, theirs)
    checks.check_prompt("prompt", prompt)
    if not isinstance(prompt, str) or (prompt and not family.takes_prompt):
        raise TypeError(
            f"The decoder of {type(family.pipe).__name__} takes "
            f"{'one string as prompt' if family.takes_prompt else 'no words'}, "
            f"got {short(prompt)}; leave it out."
        )
    level, most = call.get("noise_level", 0), family.most_noise()
    if not most and whole("noise_level", level, 0):
        raise ValueError(
            f"noise_level must be 0, got {short(level)}; nothing here says what noise is to these "
            "embeddings."
        )
    whole("noise_level", level, 0, most)
    if latents is not None:
        checks.first_noise(latents, (1, 0, 0, 0), many=True)
    missing = set(family.needs) - set(theirs)
    if missing:
        raise TypeError(
            f"{type(family.pipe).__name__} alone needs {', '.join(sorted(missing))}=, which its "
            'prior makes; open both with ldmkit.load("kandinsky22").'
        )


def variations(
    unclip: Any,
    picture: Image.Image | Embedding,
    *,
    num_images: int = 4,
    noise_level: int = 0,
    seed: int = 0,
    **options: Any,
) -> Trajectory:
    """Makes other pictures of what CLIP sees in one (arXiv 2204.06125, section 3.1).

    What all of them share is what the embedding holds; what differs is what it leaves open.

    Args:
        unclip: a pipeline that decodes image embeddings.
        picture: a PIL picture of any mode and size, or its embedding.
        num_images: how many, 1 to 64; each from a seed of its own.
        noise_level: how far they may go, 0…999; see ``decode_embedding``.
        seed: picture i is what ``decode_embedding`` makes with seed ``seed + i``.
        **options: as ``decode_embedding``'s.

    Returns:
        A trajectory with a batch of pictures: ``traj.images``.

    Raises:
        TypeError: no picture, or a pipeline that decodes no embeddings.
        ValueError: a value out of its range, or a picture that can't be read.
        RuntimeError: neither the pipeline nor the package has its CLIP's eye for pictures.
    """
    family = decoding_unclip(unclip, "variations")
    num_images = whole("num_images", num_images, 1, _MOST_IMAGES)
    first = whole("seed", seed, 0, 2**63 - 1 - _MOST_IMAGES)
    check_decoding(family, {**options, "noise_level": noise_level})
    if not isinstance(picture, (Embedding, Image.Image)):
        raise TypeError(
            f"picture must be a PIL picture or its Embedding, got {short(picture)}; open a file "
            "with PIL.Image.open(path)."
        )
    if not isinstance(picture, Embedding):
        picture = clip_space(unclip).encode_image(picture)
    seeds = first if num_images == 1 else [first + i for i in range(num_images)]
    return decode_embedding(
        unclip, [picture] * num_images, seed=seeds, noise_level=noise_level, **options
    )
