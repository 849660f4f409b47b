"""``anatomy``: the parts of a pipeline, what goes in and out of each, and how long it takes."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ldmkit.check import say, short
from ldmkit.loading.device import is_pipeline
from ldmkit.loading.siblings import twin_of
from ldmkit.records.stats import Table

__all__ = ["anatomy"]

_SIDE = 128  # pixels: four places of an autoencoder that shrinks 32 times
_FRAMES = 9  # of a film: one, and eight that autoencoders of 4 and of 8 frames divide
_COLUMNS = ("part", "class", "parameters", "in", "out", "milliseconds")


@dataclass
class _Seen:
    """What passed through one part during the trial run."""

    taken: str = ""
    given: str = ""
    seconds: float = float("inf")
    started: float = 0.0


def anatomy(pipe: Any) -> Table:
    """The parts of a pipeline as a table: class, parameters, shapes and milliseconds.

    Makes one small picture in two steps to see what passes; the batch of a guided U-Net is two,
    without and with the words. Pipelines that draw more than 128 pixels a side draw 128 here.
    Milliseconds are the faster of two calls on this machine.

    Args:
        pipe: a diffusers pipeline.

    Returns:
        One row per part: ``part``, ``class``, ``parameters``, ``in`` and ``out`` (shape of the
        first tensor; empty where the trial run didn't pass), ``milliseconds``.

    Raises:
        TypeError: not a pipeline.
    """
    if not is_pipeline(pipe):
        raise TypeError(
            f"anatomy takes a diffusers pipeline, got {short(pipe)}; "
            "open one with ldmkit.load(name)."
        )
    parts = {name: part for name, part in pipe.components.items() if part is not None}
    parts = dict(sorted(parts.items(), key=lambda item: _place(item[0])))
    with _watched(parts) as seen:
        _trial(twin_of(pipe))  # a panel may be running it meanwhile
    rows = tuple(_row(name, part, seen.get(name)) for name, part in parts.items())
    return Table(columns=_COLUMNS, rows=tuple(row for row in rows if row is not None))


def _place(name: str) -> tuple[int, int]:
    """Where in the flow from words to picture a part stands; an unCLIP's prior comes first."""
    flow = ("tokenizer", "text", "prior", "image", "unet", "transformer", "decoder", "scheduler")
    own = name.removeprefix("prior_")  # of prior_prior, too
    found = [i for i, start in enumerate(flow) if own.startswith(start)]
    return (0 if name.startswith("prior") else 1), (found[0] if found else len(flow))


def _row(name: str, part: Any, seen: _Seen | None) -> dict[str, Any] | None:
    if isinstance(part, (bool, int, float, str, tuple, list)):
        return None  # switches such as force_zeros_for_empty_prompt
    row: dict[str, Any] = {"part": name, "class": type(part).__name__}
    if hasattr(part, "parameters"):
        row["parameters"] = sum(weight.numel() for weight in part.parameters())
    if seen is not None and seen.taken:
        row |= {"in": seen.taken, "out": seen.given, "milliseconds": seen.seconds * 1000}
    return row


def _trial(pipe: Any) -> None:
    import torch

    known = inspect.signature(pipe.__call__).parameters
    # unCLIP pipelines count the steps of their prior apart
    call: dict[str, Any] = {name: 2 for name in known if name.endswith("num_inference_steps")}
    if "prompt" in known:
        call["prompt"] = "a red cat"
    if "generator" in known:
        call["generator"] = torch.Generator("cpu").manual_seed(0)
    call |= _small(pipe, known)
    bar = dict(getattr(pipe, "_progress_bar_config", {}))
    try:
        pipe.set_progress_bar_config(**bar | {"disable": True})
        pipe(**call)
    except (TypeError, ValueError, AttributeError):
        return  # it wants more than words, such as a picture: parts and sizes are shown alone
    except Exception as error:  # whatever a family's own parts raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        say(f"The trial run ended early ({reason}): what passed until then is shown.")
    finally:
        pipe.set_progress_bar_config(**bar)


def _small(pipe: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords for a small picture, where the pipeline's own is larger or nobody can tell."""
    if "height" not in known or "width" not in known:
        return {}
    networks = (getattr(pipe, name, None) for name in ("unet", "transformer"))
    config = next((one for found in networks if (one := getattr(found, "config", None))), None)
    cells, own = getattr(config, "sample_size", None), None
    if isinstance(cells, int):
        own = cells * int(getattr(pipe, "vae_scale_factor", 8))
    if own is not None and own <= _SIDE and known["height"].default is None:
        return {}
    side = min(_SIDE, own or _SIDE)
    small: dict[str, Any] = {"height": side, "width": side}
    if "use_resolution_binning" in known:  # else the nearest size that it was trained on
        small["use_resolution_binning"] = False
    return small | ({"num_frames": _FRAMES} if "num_frames" in known else {})


@contextmanager
def _watched(parts: dict[str, Any]) -> Iterator[dict[str, _Seen]]:
    import torch

    seen: dict[str, _Seen] = {}
    handles = []
    for name, part in parts.items():
        # A pipeline calls the autoencoder's decode, not its forward: watch the decoder inside.
        module = getattr(part, "decoder", part) if hasattr(part, "decode") else part
        if isinstance(module, torch.nn.Module):
            seen[name] = _Seen()
            before, after = _watch(seen[name])
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _watch(seen: _Seen) -> tuple[Callable[..., None], Callable[..., None]]:
    me = threading.get_ident()  # the networks are shared: another thread's calls pass here, too

    def before(module: Any, args: Any, kwargs: Any) -> None:
        if threading.get_ident() != me:
            return
        _wait(module)
        seen.started = time.perf_counter()

    def after(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if threading.get_ident() != me:
            return
        _wait(module)
        seen.seconds = min(seen.seconds, time.perf_counter() - seen.started)
        seen.taken = _shape([*args, *kwargs.values()])
        seen.given = _shape(output)

    return before, after


def _wait(module: Any) -> None:
    import torch

    weight = next(iter(module.parameters()), None)
    if weight is not None and weight.is_cuda:  # kernels run on their own: time them, not the call
        torch.cuda.synchronize(weight.device)


def _shape(values: Any) -> str:
    import torch

    if isinstance(values, torch.Tensor):
        return " × ".join(map(str, values.shape))
    items = values.values() if hasattr(values, "values") else values
    if isinstance(items, (str, bytes)) or not hasattr(items, "__iter__"):
        return ""
    for item in items:
        several = isinstance(item, (list, tuple))  # Z-Image's pictures are a list
        if (isinstance(item, torch.Tensor) and item.ndim > 0) or several:
            return _shape(item)
    return ""
