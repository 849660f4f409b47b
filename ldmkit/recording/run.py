"""``record``: run a pipeline as it is and keep what passes."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ldmkit.loading.origin import origin_of
from ldmkit.recording import checks
from ldmkit.recording import preview as previews
from ldmkit.recording.arrays import arrays_of, step_of
from ldmkit.recording.hooks import (
    Call,
    Stop,
    Tape,
    denoiser_of,
    exclusive,
    hooked,
    scheduler_of,
)
from ldmkit.records import Step, Trajectory

__all__ = ["record"]

Seed = int | Sequence[int]


def record(
    pipe: Any,
    prompt: str | Sequence[str] | None = None,
    *,
    seed: Seed | None = None,
    keep: str | Sequence[str] = ("latents", "denoised"),
    preview: str = "auto",
    on_step: Callable[[Step], bool | None] | None = None,
    **call: Any,
) -> Trajectory:
    """Runs a diffusers pipeline and records each step; the picture is the same to the bit.

    Args:
        pipe: any diffusers pipeline with a scheduler; full records need a U-Net.
        prompt: the words, or a list of them for a batch; optional where the pipeline's is.
        seed: ``torch.Generator("cpu").manual_seed(seed)``; a list gives one per picture. In
            place of the pipeline's own ``generator=``, which is taken as well.
        keep: names of ``Trajectory``'s arrays, or ``"all"``: ``latents`` (what enters each step,
            at the scheduler's scale, then the last output), ``denoised`` (the clean estimate x0),
            ``noise_pred`` (ε after guidance), ``noise_pred_text`` and ``noise_pred_uncond``
            (ε before guidance; the latter only with guidance on), ``model_output`` (as the
            network gave it, guided, as the scheduler got it).
        preview: step pictures: ``"vae"`` decodes them after the run, ``"linear"`` keeps the
            linear map from latents to colours alone, ``"none"`` neither; ``"auto"`` decodes
            where the autoencoder is small.
        on_step: called after each step with the step by name; ``False`` stops the run and keeps
            the part so far, its last clean estimate as the picture.
        **call: the pipeline's own keywords (``num_inference_steps``, ``guidance_scale``, ...).
            What a pipeline of ``ldmkit.load`` was made for is its default.

    Returns:
        The trajectory, numpy only.

    Raises:
        TypeError: no pipeline, an unknown keyword (the nearest name is told), or a wrong type.
        ValueError: a value out of its range; ``seed`` and ``generator`` together.
        RuntimeError: no step was made; or the pipeline is being recorded by this thread.
    """
    parameters = checks.parameters_of(pipe)
    names = checks.check_keep(keep)
    checks.check_preview(preview)
    scheduler = scheduler_of(pipe)
    if scheduler is None:
        raise TypeError(
            "record takes a pipeline with a scheduler whose steps it can follow, and "
            f"{type(pipe).__name__} has none; open one with ldmkit.load(name)."
        )
    seeds = checks.check_seed(seed, call.get("generator"), "generator" in parameters)
    call = _complete(pipe, parameters, prompt, seeds, call)
    denoiser = denoiser_of(pipe)
    with exclusive(scheduler, denoiser):
        tape, images, stopped = _run(pipe, scheduler, denoiser, call, names, on_step)
        arrays = arrays_of(tape, scheduler, names)
        vae = previews.autoencoder_of(pipe)
        if stopped:
            images = _last_estimate(vae, tape, scheduler)
        pictures = _pictures(vae, arrays, preview)
    return Trajectory(
        **arrays,
        **pictures,
        images=images,
        stopped=stopped,
        prompt=_frozen(call.get("prompt")) or "",
        negative_prompt=_frozen(call.get("negative_prompt")),
        seed=seeds,
        call=_writable(call, parameters, scheduler),
        model=origin_of(pipe).name,
        versions=_versions(),
    )


def _complete(
    pipe: Any,
    parameters: Mapping[str, Any],
    prompt: Any,
    seeds: int | tuple[int, ...] | None,
    call: dict[str, Any],
) -> dict[str, Any]:
    """Checks the keywords and adds the model's defaults and the generator."""
    checks.check_call(pipe, parameters, call)
    for name, value in (("prompt", prompt), ("negative_prompt", call.get("negative_prompt"))):
        checks.check_prompt(name, value)
        checks.warn_if_cut(pipe, name, value)
    if prompt is not None:
        if "prompt" not in parameters:
            raise TypeError(f"{type(pipe).__name__} takes no prompt; leave it out.")
        call = {"prompt": prompt if isinstance(prompt, str) else list(prompt), **call}
    elif "prompt" in parameters and call.get("prompt_embeds") is None:
        raise TypeError(
            f"{type(pipe).__name__} needs a prompt, got None; "
            'write record(pipe, "a red cat"), or "" for no words.'
        )
    for name, value in origin_of(pipe).defaults.items():
        if name in parameters:
            call.setdefault(name, value)
    if seeds is not None:
        call["generator"] = _generator(seeds)
    return call


def _generator(seeds: int | tuple[int, ...]) -> Any:
    # On the CPU whatever the device: the same first noise everywhere.
    if isinstance(seeds, tuple):
        return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return torch.Generator("cpu").manual_seed(seeds)


def _run(
    pipe: Any,
    scheduler: Any,
    denoiser: torch.nn.Module | None,
    call: dict[str, Any],
    names: tuple[str, ...],
    on_step: Callable[[Step], bool | None] | None,
) -> tuple[Tape, tuple[Image.Image, ...], bool]:
    """Runs the pipeline under the hooks: (what was written, the pictures, stopped early)."""
    tape = Tape()

    def after(last: Call) -> None:
        if on_step is None:
            return
        answer = on_step(step_of(len(tape.calls) - 1, last, scheduler, names))
        if isinstance(answer, (bool, np.bool_)) and not answer:
            raise Stop

    unguided = {"noise_pred_text", "noise_pred_uncond"} & set(names)
    with hooked(scheduler, denoiser if unguided else None, tape, after), _length_said_once():
        try:
            output = pipe(**call)
        except Stop:
            # The loop was left from inside: what pipelines do at their end falls to us.
            if callable(getattr(pipe, "maybe_free_model_hooks", None)):
                pipe.maybe_free_model_hooks()
            return tape, (), True
    _say_what_was_hidden(output, tape)
    return tape, _images(output), False


@contextmanager
def _length_said_once() -> Iterator[None]:
    """Drops the libraries' own words on a long prompt, which repeat all of it; ours were said."""

    def keep(entry: logging.LogRecord) -> bool:
        said = ("was truncated because", "Token indices sequence length is longer")
        return not any(words in entry.getMessage() for words in said)

    handlers = [
        handler
        for library in ("diffusers", "transformers")
        for handler in logging.getLogger(library).handlers
    ]
    for handler in handlers:
        handler.addFilter(keep)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(keep)


def _images(output: Any) -> tuple[Image.Image, ...]:
    images = getattr(output, "images", ())
    return tuple(image for image in images if isinstance(image, Image.Image))


def _say_what_was_hidden(output: Any, tape: Tape) -> None:
    """A black picture has two reasons: tell them apart."""
    if tape.calls and not torch.isfinite(tape.calls[-1].output).all():
        warnings.warn(
            "The latents are no longer finite (NaN or infinite), so the picture shows nothing: "
            "take a smaller guidance_scale, or dtype float32.",
            UserWarning,
            stacklevel=4,
        )
    flagged = getattr(output, "nsfw_content_detected", None)
    if flagged and any(flagged):
        warnings.warn(
            f"The model's safety checker blacked out {sum(map(bool, flagged))} of "
            f"{len(flagged)} pictures; the record still holds their latents.",
            UserWarning,
            stacklevel=4,
        )


def _last_estimate(vae: Any, tape: Tape, scheduler: Any) -> tuple[Image.Image, ...]:
    """The last clean estimate as pictures: what a stopped run has to show."""
    last = step_of(0, tape.calls[-1], scheduler, ("denoised",)).denoised
    if vae is None or last is None or not np.isfinite(last).all():
        return ()
    return tuple(Image.fromarray(picture) for picture in previews.decode(vae, last))


def _pictures(vae: Any, arrays: Mapping[str, Any], preview: str) -> dict[str, Any]:
    """``rgb`` and ``previews`` of a record."""
    kept = {name: arrays[name] for name in ("latents", "denoised") if arrays[name] is not None}
    if preview == "none" or vae is None or not kept:
        return {}
    shape = next(iter(kept.values())).shape
    if shape[2] != getattr(vae.config, "latent_channels", shape[2]):
        return {}  # packed in a way that nobody described
    rgb = previews.linear_rgb(vae, shape[2])
    positions = sum(array[:, :, 0].size for array in kept.values())
    if preview == "linear" or (preview == "auto" and not previews.decode_is_cheap(vae, positions)):
        return {"rgb": rgb}
    return {"rgb": rgb, "previews": {lane: _decoded(vae, arrays, lane) for lane in kept}}


def _decoded(vae: Any, arrays: Mapping[str, Any], lane: str) -> NDArray[np.uint8]:
    frames = arrays[lane][: len(arrays["timesteps"])]  # (n, b, c, h, w)
    if lane == "latents":
        # Euler's latents grow to sigma; the autoencoder knows those of unit variance.
        c = np.sqrt(arrays["alphas"] ** 2 + arrays["sigmas"] ** 2)
        frames = frames / np.where(c > 0, c, 1)[:, None, None, None, None]
    count, batch = frames.shape[:2]
    flat = np.asarray(frames, dtype=np.float32).reshape(-1, *frames.shape[2:])
    pictures = previews.decode(vae, flat)
    return pictures.reshape(count, batch, *pictures.shape[1:])


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _writable(
    call: Mapping[str, Any], parameters: Mapping[str, Any], scheduler: Any
) -> dict[str, Any]:
    """The keywords that JSON can hold, with those that the run took from the signature."""
    told = {
        name: parameters[name].default
        for name in ("num_inference_steps", "guidance_scale", "strength", "eta")
        if name in parameters
    } | dict(call)
    words = {"prompt", "negative_prompt", "generator"}
    kept = {name: value for name, value in told.items() if name not in words and _plain(value)}
    return kept | {"scheduler": type(scheduler).__name__}


def _plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


@functools.cache  # each look-up reads a file
def _versions() -> dict[str, str]:
    found = {}
    for name in ("ldmkit", "diffusers", "transformers", "torch", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # a source tree that isn't installed
            continue
    return found
