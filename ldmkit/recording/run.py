"""``record``: run a pipeline as it is and keep what passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ldmkit.loading.origin import origin_of
from ldmkit.loading.students import say_if_astray
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
    prior_of,
    scheduler_of,
)
from ldmkit.recording.shown import images_of, last_estimate, step_pictures
from ldmkit.recording.stages import before, with_prior
from ldmkit.recording.told import length_said_once, say_what_was_hidden, versions, writable
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
        seed: ``torch.Generator("cpu").manual_seed(seed)``, a list for one per picture; or give
            the pipeline's own ``generator=``.
        keep: names of ``Trajectory``'s arrays, or ``"all"``: ``latents`` (what enters each step,
            at the scheduler's scale, then the last output), ``denoised`` (the clean estimate x0),
            ``noise_pred`` (ε after guidance), ``noise_pred_text`` and ``noise_pred_uncond``
            (ε before guidance; the latter only with guidance on), ``model_output`` (as the
            network gave it, guided, as the scheduler got it).
        preview: step pictures: ``"vae"`` decodes them after the run, ``"linear"`` keeps the
            linear map from latents to colours, ``"none"`` neither; ``"auto"``: vae where small.
        on_step: called after each step with the step by name; ``False`` stops the run and keeps
            the part, its last clean estimate as the picture.
        **call: the pipeline's own keywords (``num_inference_steps``, ``guidance_scale``, ...).
            What a pipeline of ``ldmkit.load`` was made for is its default.

    Returns:
        The trajectory, numpy only.

    Raises:
        TypeError: no pipeline, an unknown keyword (the nearest name is told), or a wrong type.
        ValueError: a value out of its range; ``seed`` and ``generator`` together.
        RuntimeError: no step was made, or this thread is recording the pipeline already.
    """
    parameters = checks.parameters_of(pipe)
    names = checks.check_keep(keep)
    checks.check_preview(preview)
    scheduler = _scheduler(pipe)
    seeds = checks.check_seed(seed, call.get("generator"), "generator" in parameters)
    call = _complete(pipe, parameters, prompt, seeds, call)
    say_if_astray(pipe, scheduler, call)
    denoiser, vae = denoiser_of(pipe), previews.autoencoder_of(pipe)
    prior = prior_of(pipe)
    with exclusive(scheduler, denoiser, *(prior or ())):
        with before(prior) as earlier:
            tape, images, stopped = _run(pipe, scheduler, denoiser, call, names, on_step)
        arrays = arrays_of(tape, scheduler, names)
        images = last_estimate(vae, tape, scheduler) if stopped else images
        pictures = step_pictures(vae, arrays, preview)
    traj = Trajectory(
        **arrays,
        **pictures,
        images=images,
        stopped=stopped,
        prompt=_frozen(call.get("prompt")) or "",
        negative_prompt=_frozen(call.get("negative_prompt")),
        seed=seeds,
        call=writable(call, parameters, scheduler),
        model=origin_of(pipe).name,
        versions=versions(),
    )
    return with_prior(traj, prior, earlier, names, parameters, call)


def _scheduler(pipe: Any) -> Any:
    scheduler = scheduler_of(pipe)
    if scheduler is None:
        raise TypeError(
            "record takes a pipeline with a scheduler whose steps it can follow, and "
            f"{type(pipe).__name__} has none; open one with ldmkit.load(name)."
        )
    return scheduler


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
    with hooked(scheduler, denoiser if unguided else None, tape, after), length_said_once():
        try:
            output = pipe(**call)
        except Stop:
            # The loop was left from inside: what pipelines do at their end falls to us.
            if callable(getattr(pipe, "maybe_free_model_hooks", None)):
                pipe.maybe_free_model_hooks()
            return tape, (), True
    say_what_was_hidden(output, tape)
    return tape, images_of(output), False


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value
