"""``sample_prior``: words to the embedding of a picture that they could have."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, overload

from ldmkit.check import short, whole
from ldmkit.loading.origin import origin_of
from ldmkit.recording import call as checks
from ldmkit.recording.arrays import prior_arrays
from ldmkit.recording.kept import versions
from ldmkit.recording.words import Heard, heard
from ldmkit.records import Embedding, Trajectory
from ldmkit.space.adaptors import UNCLIPS, Family, family_of
from ldmkit.space.encoders import space_name
from ldmkit.space.given import check_generator, generators, noise_of
from ldmkit.space.prior import Drawn, Prior, check_least, draw

__all__ = ["run_behind", "sample_prior"]

_MOST_SAMPLES = 64

# The run that drew an embedding, for the record of what is decoded of it.
_runs: weakref.WeakKeyDictionary[Embedding, Trajectory] = weakref.WeakKeyDictionary()


def run_behind(embedding: Embedding) -> Trajectory | None:
    """The prior's run that drew an embedding, ``None`` for one that came otherwise."""
    return _runs.get(embedding)


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
    family, prior = _with_prior(unclip)
    texts = _texts(prior, prompt)
    check_generator(generator)
    seeds = checks.check_seed(seed, generator, takes_generator=True)
    settings = _settings(family, prior, num_inference_steps, guidance_scale)
    best_of = whole("best_of", best_of, 1, _MOST_SAMPLES)
    if latents is not None:
        shape = (len(texts) * best_of, prior.network.config.embedding_dim)
        latents = noise_of(latents, shape).to(prior.device)
    each = generators(seeds, len(texts), best_of) if generator is None else generator
    with heard(Heard(prior, {"prompt": texts})):
        drawn = draw(prior, texts, count=best_of, generator=each, latents=latents, **settings)
    space, model = space_name(unclip), origin_of(unclip).name
    found = []
    for i, text in enumerate(texts):
        best = int(drawn.scores()[i].argmax())
        vector = drawn.embeddings[i, best].float().cpu().numpy()
        found.append(Embedding(vector, label=text or "no words", kind="prior", model=space))
        told = {**settings, "best_of": best_of, "sample": best}
        own = seeds[i] if isinstance(seeds, tuple) else seeds
        _runs[found[-1]] = _run_of(prior, drawn, i * best_of + best, text, own, told, model)
    return found[0] if isinstance(prompt, str) else found


def _with_prior(unclip: Any) -> tuple[Family, Prior]:
    family = family_of(unclip)
    prior = None if family is None else family.prior()
    if family is None or prior is None:
        raise TypeError(
            "sample_prior takes an unCLIP pipeline with a prior, and "
            f"{short(unclip)} has none; open one with ldmkit.load({UNCLIPS})."
        )
    return family, prior


def _texts(prior: Prior, prompt: Any) -> list[str]:
    if prompt is None:
        raise TypeError('prompt must be a string, got None; "" is no words.')
    checks.check_prompt("prompt", prompt)
    return [prompt] if isinstance(prompt, str) else list(prompt)


def _settings(family: Family, prior: Prior, steps: Any, guidance: Any) -> dict[str, Any]:
    told = {"num_inference_steps": steps, "guidance_scale": guidance}
    settings = {
        name: family.prior_default(name) if value is None else value for name, value in told.items()
    }
    checks.check_call(prior, settings, settings, "sample_prior")
    check_least(prior.scheduler, settings)
    return settings


def _run_of(
    prior: Prior,
    drawn: Drawn,
    row: int,
    text: str,
    seed: int | None,
    call: dict[str, Any],
    model: str,
) -> Trajectory:
    """The run of one sample as a record."""
    names = ("latents", "denoised")
    return Trajectory(
        **prior_arrays(prior.network, prior.scheduler, drawn.tape, names, [row]),
        prompt=text,
        seed=seed,
        call={**call, "scheduler": type(prior.scheduler).__name__},
        model=model,
        versions=versions(),
    )
