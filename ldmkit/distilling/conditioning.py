"""What a pipeline tells its U-Net beside the latents, and the v that the U-Net then predicts."""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ldmkit.distilling.ladder import Predict

__all__ = ["Conditioning", "conditioning_of", "predictor", "takes"]


class _Heard(Exception):
    """Leaves a pipeline's call where it calls its U-Net."""


@dataclass(frozen=True)
class Conditioning:
    """The keywords of a U-Net's call for b pictures.

    Attributes:
        shape: (b, c, h, w) of the latents.
        with_words: the keywords, b entries each.
        both: with guidance 2 b entries each, those without words first; else ``with_words``.
    """

    shape: tuple[int, ...]
    with_words: Mapping[str, Any]
    both: Mapping[str, Any]

    def rows(self, numbers: torch.Tensor) -> Mapping[str, Any]:
        """``with_words`` of some of the b pictures."""
        return _each(self.with_words, self.shape[0], lambda x: x[numbers])


def takes(pipe: Any, name: str) -> bool:
    """Whether a pipeline's call has this keyword."""
    return name in inspect.signature(type(pipe).__call__).parameters


def conditioning_of(
    pipe: Any, prompts: Sequence[str], guidance: float | None, call: Mapping[str, Any]
) -> Conditioning:
    """Calls a pipeline as a run would, and leaves the call where the network is asked first.

    So whatever a pipeline makes of its words is understood without being known.

    Args:
        pipe: a diffusers pipeline with a U-Net.
        prompts: one per picture; of pipelines without words only their number counts.
        guidance: the guidance scale, or ``None`` where the call takes none.
        call: more keywords of the pipeline's own.

    Raises:
        TypeError: the U-Net isn't asked, or with other latents than it answers for.
    """
    heard: dict[str, Any] = {}
    thread = threading.get_ident()

    def listen(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != thread:
            return  # another thread draws with the same network
        heard.update(zip(("sample", "timestep", "encoder_hidden_states"), args, strict=False))
        heard.update(kwargs)
        raise _Heard

    words = {"prompt": list(prompts)} if takes(pipe, "prompt") else {"batch_size": len(prompts)}
    options = {"num_inference_steps": 2, "output_type": "latent", **call}
    options["generator"] = torch.Generator().manual_seed(0)  # the process's own stays as it is
    if guidance is not None:
        options["guidance_scale"] = guidance
    twin = copy.copy(pipe)
    twin.scheduler = copy.deepcopy(pipe.scheduler)
    twin.set_progress_bar_config(disable=True)
    handle = pipe.unet.register_forward_pre_hook(listen, with_kwargs=True)
    try:
        twin(**words, **{name: value for name, value in options.items() if takes(pipe, name)})
    except _Heard:
        pass
    finally:
        handle.remove()
    return _parted(pipe, heard, len(prompts))


def _parted(pipe: Any, heard: Mapping[str, Any], count: int) -> Conditioning:
    sample = heard.get("sample")
    if sample is None or len(sample) not in (count, 2 * count):
        got = "no call" if sample is None else f"{len(sample)} latents"
        raise TypeError(
            "distill needs a pipeline whose U-Net is asked for each picture once, or twice with "
            f"guidance, got {got} for {count} pictures from {type(pipe).__name__}."
        )
    if sample.shape[1] != pipe.unet.config.out_channels:
        raise TypeError(
            f"distill needs a U-Net that answers for all it is shown, got {sample.shape[1]} "
            f"channels in and {pipe.unet.config.out_channels} out (inpainting); take its "
            "text-to-image pipeline."
        )
    own = ("sample", "timestep", "return_dict")
    both = {name: value for name, value in heard.items() if name not in own}
    shape = (count, *sample.shape[1:])
    if len(sample) == count:
        return Conditioning(shape, both, both)
    return Conditioning(shape, _each(both, 2 * count, lambda x: x[count:]), both)


def _each(
    keywords: Mapping[str, Any], batch: int, change: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, Any]:
    """The keywords with every tensor of a batch changed, those within dicts, too."""

    def changed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _each(value, batch, change)
        whole = isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == batch
        return change(value) if whole else value

    return {name: changed(value) for name, value in keywords.items()}


def predictor(
    unet: torch.nn.Module, keywords: Mapping[str, Any], scheduler: Any, guidance: float = 1.0
) -> Predict:
    """A function from latents and timesteps to v, for a U-Net that was told these keywords.

    Guidance (Ho & Salimans 2022, arXiv 2207.12598) is the same for noise and for v: both are linear
    in each other at a given z.

    Args:
        unet: predicts noise or v, as its scheduler says.
        keywords: of as many pictures as latents will come; with guidance ``Conditioning.both``.
        scheduler: tells the levels.
        guidance: the scale, 1 for none.
    """
    weight = next(unet.parameters())
    squares = scheduler.alphas_cumprod.to(weight.device)
    says_noise = scheduler.config.prediction_type == "epsilon"

    def predict(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        twice = (z, t) if guidance == 1.0 else (torch.cat((z, z)), torch.cat((t, t)))
        with _quick(weight.device):
            said = unet(twice[0].to(weight.dtype), twice[1], **keywords, return_dict=False)[0]
        said = said.float()
        if guidance != 1.0:
            without, with_words = said.chunk(2)
            said = without + guidance * (with_words - without)
        if says_noise:
            square = squares[t].view(-1, 1, 1, 1).float()
            said = (said - (1 - square).sqrt() * z) / square.sqrt()  # ε = α v + σ z
        return said

    return predict


def _quick(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 arithmetic where the hardware has it: there a step takes less than half as long."""
    stack = ExitStack()
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        stack.enter_context(torch.autocast("cuda", torch.bfloat16))
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # what is quickest beside it
    return stack
