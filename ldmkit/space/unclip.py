"""``sample_prior``, ``decode_embedding``, ``variations``: DALL-E 2's two halves, one by one.

unCLIP (Ramesh et al. 2022, arXiv 2204.06125) makes a picture of words in two steps: the *prior*
makes a picture's CLIP embedding of the words, the *decoder* a picture of the embedding. Between
the two lies a vector that can be added to, walked along, and decoded many times.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, SupportsIndex, overload

import numpy as np
import torch
from numpy.typing import NDArray

from ldmkit.loading.origin import origin_of
from ldmkit.recording import checks, record
from ldmkit.recording.told import length_said_once, versions
from ldmkit.records import Embedding, Step, Trajectory
from ldmkit.space.adaptors import Family, family_of
from ldmkit.space.prior import Drawn, Prior, draw, steps_of

__all__ = ["decode_embedding", "sample_prior"]

_MOST_SAMPLES = 64
_PRIORS = '"critters-unclip", "stable-unclip", "kandinsky22" or "karlo"'

# The run that drew an embedding, for the record of what is decoded of it.
_runs: weakref.WeakKeyDictionary[Embedding, Trajectory] = weakref.WeakKeyDictionary()


@overload
def sample_prior(unclip: Any, prompt: str, **options: Any) -> Embedding: ...
@overload
def sample_prior(unclip: Any, prompt: Sequence[str], **options: Any) -> list[Embedding]: ...
def sample_prior(
    unclip: Any,
    prompt: str | Sequence[str],
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
    paper, several are drawn and the one with the largest dot product with the text's own
    embedding is kept (arXiv 2204.06125, section 2.2).

    Args:
        unclip: a pipeline with a prior: StableUnCLIP, Kandinsky 2.2 (combined), Karlo.
        prompt: the words, or a list of them for a list of embeddings.
        seed: ``torch.Generator("cpu").manual_seed(seed)``; a list gives one for each prompt.
        best_of: samples drawn for each prompt; 1 takes the first as it comes.
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
    family, prior = _with_prior(unclip)
    checks.check_prompt("prompt", prompt)
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    seeds = checks.check_seed(seed, generator, takes_generator=True)
    told = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    settings = {
        name: family.prior_default(name) if value is None else value for name, value in told.items()
    }
    _check_prior(prior, best_of, settings)
    best_of = int(best_of)
    checks.warn_if_cut(prior, "prompt", prompt)
    with length_said_once():
        drawn = draw(
            prior,
            texts,
            count=best_of,
            generator=_generators(seeds, len(texts), best_of) if generator is None else generator,
            latents=latents,
            **settings,
        )
    told_seeds = seeds if isinstance(seeds, tuple) else (seeds,) * len(texts)
    found = [
        _kept(unclip, prior, drawn, i, text, told_seeds[i], settings)
        for i, text in enumerate(texts)
    ]
    return found[0] if isinstance(prompt, str) else found


def _with_prior(unclip: Any) -> tuple[Family, Prior]:
    family = family_of(unclip)
    prior = None if family is None else family.prior()
    if family is None or prior is None:
        raise TypeError(
            "sample_prior takes an unCLIP pipeline with a prior, and "
            f"{type(unclip).__name__} has none; open one with ldmkit.load({_PRIORS})."
        )
    return family, prior


def _check_prior(prior: Prior, best_of: Any, settings: dict[str, Any]) -> None:
    checks.check_call(prior, settings, settings)
    if not isinstance(best_of, SupportsIndex) or isinstance(best_of, bool):
        raise TypeError(f"best_of must be a whole number, got {best_of!r}; 2 is the paper's.")
    if not 1 <= int(best_of) <= _MOST_SAMPLES:
        raise ValueError(f"best_of must be between 1 and {_MOST_SAMPLES} inclusive, got {best_of}.")
    # Its grid is divided by the number of steps less one.
    if type(prior.scheduler).__name__ == "UnCLIPScheduler" and settings["num_inference_steps"] < 2:
        raise ValueError("num_inference_steps of this prior must be at least 2, got 1.")


def _kept(
    unclip: Any,
    prior: Prior,
    drawn: Drawn,
    i: int,
    text: str,
    seed: int | None,
    settings: dict[str, Any],
) -> Embedding:
    """The best of text i's samples, its run noted."""
    best = int(drawn.scores()[i].argmax())
    vector = drawn.embeddings[i, best].float().cpu().numpy()
    embedding = Embedding(vector, label=text, kind="prior")
    row = i * drawn.embeddings.shape[1] + best
    _runs[embedding] = Trajectory(
        **steps_of(prior, drawn.tape, [row], ("latents", "denoised")),
        prompt=text,
        seed=seed,
        call={**settings, "best_of": drawn.embeddings.shape[1], "sample": best},
        model=origin_of(unclip).name,
        versions=versions(),
    )
    return embedding


def _generators(seeds: int | tuple[int, ...] | None, count: int, each: int = 1) -> Any:
    """One generator for all, or one for each of ``count`` things drawn ``each`` times."""
    if seeds is None:
        return None
    if isinstance(seeds, int):
        return torch.Generator("cpu").manual_seed(seeds)
    if len(seeds) != count:
        raise ValueError(
            f"seed must be one number or one for each of the {count}, got {len(seeds)}; "
            "leave some out or give more."
        )
    own = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return [generator for generator in own for _ in range(each)]


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
        noise_level: how much noise is put on the embedding first, 0…999: the more, the freer
            the picture. Stable unCLIP's decoder is told the level, the others are not.
        prompt: words for the decoder beside the embedding, where it reads any.
        latents: first noise (b, c, h, w) instead of the generator's; one of it serves a batch.
        keep: as in ``record``.
        preview: as in ``record``.
        on_step: as in ``record``.
        **call: the decoder's own keywords (``num_inference_steps``, ``guidance_scale``, ...).

    Returns:
        The decoder's trajectory, its prompt empty, ``call["embedding"]`` the label; the run of
        the prior that drew the embedding, if one did, is ``stages[0]``.

    Raises:
        TypeError: a pipeline that decodes no embeddings, or a wrong type.
        ValueError: an embedding of another model, or a value out of its range.
    """
    family = _decoding(unclip)
    vectors, given = _vectors(unclip, family, embedding)
    seeds = checks.check_seed(seed, call.get("generator"), takes_generator=True)
    count = len(vectors) * int(call.get("num_images_per_prompt") or 1)
    arguments = family.arguments(torch.tensor(vectors), noise_level, prompt)
    if latents is not None:
        arguments["latents"] = _first_noise(latents, count)
    if seeds is not None:
        arguments["generator"] = _generators(seeds, count)
    arguments |= call
    arguments = {family.names.get(name, name): value for name, value in arguments.items()}
    traj = record(
        family.decoder(),
        arguments.pop("prompt", None),
        keep=keep,
        preview=preview,
        on_step=on_step,
        **arguments,
    )
    labels = [one.label if isinstance(one, Embedding) else "" for one in given]
    told = {"embedding": labels[0] if len(labels) == 1 else labels, "noise_level": noise_level}
    return replace(
        traj,
        prompt=prompt,
        seed=seeds,
        model=origin_of(unclip).name,
        call={**traj.call, **told},
        stages=tuple(_runs[one] for one in given if isinstance(one, Embedding) and one in _runs),
    )


def _decoding(unclip: Any) -> Family:
    family = family_of(unclip)
    if family is None:
        raise TypeError(
            "decode_embedding takes an unCLIP pipeline, got "
            f"{type(unclip).__name__}; open one with ldmkit.load({_PRIORS})."
        )
    return family


def _vectors(unclip: Any, family: Family, given: Any) -> tuple[NDArray[np.float32], list[Any]]:
    """(b, d) and the b things that were given, each an ``Embedding`` where it was one."""
    things = list(given) if isinstance(given, (list, tuple)) else [given]
    if things and all(isinstance(one, Embedding) for one in things):
        rows = [one.vector for one in things]
    else:
        whole = given.detach().float().cpu() if torch.is_tensor(given) else given
        array = np.asarray(whole, dtype=np.float32)
        rows = list(array[None] if array.ndim == 1 else array)
        things = [Embedding(row) for row in rows]
    width = family.width()
    for one in things:
        if len(one) != width:
            raise ValueError(
                f"{origin_of(unclip).name!r} decodes embeddings of {width} dimensions, got "
                f"{len(one)} of {one.model or 'an unnamed model'!r}; encode it with the CLIP of "
                "this model: ldmkit.clip_space."
            )
    return np.stack(rows), things


def _first_noise(latents: Any, count: int) -> torch.Tensor:
    tensor = latents if torch.is_tensor(latents) else torch.tensor(np.asarray(latents))
    return tensor.expand(count, *tensor.shape[1:]) if len(tensor) == 1 else tensor
