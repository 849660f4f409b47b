"""Pipelines beside a pipeline, of the same parts: a twin, and one that begins from a picture."""

from __future__ import annotations

import copy
import importlib
import inspect
from typing import Any

from ldmkit.loading.quiet import swift_imports, unsaid
from ldmkit.loading.samplers import remember_as

__all__ = ["can_take_picture", "from_picture", "takes_picture", "twin_of"]


def twin_of(pipe: Any) -> Any:
    """A second pipeline of the very same parts, whose own settings can be changed."""
    twin = copy.copy(pipe)
    remember_as(twin, pipe)
    return twin


def takes_picture(pipe: Any) -> bool:
    """Whether the pipeline itself begins from a picture: ``image`` and ``strength``."""
    return {"image", "strength"} <= set(inspect.signature(type(pipe).__call__).parameters)


def can_take_picture(pipe: Any) -> bool:
    """Whether it does or diffusers knows a sibling that does; loads nothing."""
    return takes_picture(pipe) or (hasattr(pipe, "components") and _name(type(pipe)) is not None)


def from_picture(pipe: Any) -> Any:
    """The pipeline's image-to-image sibling.

    Networks and scheduler are shared, nothing is copied. diffusers' own ``from_pipe`` would turn
    the networks to float32.

    Args:
        pipe: a diffusers pipeline; one that takes a picture itself is given back.

    Raises:
        TypeError: diffusers has no such sibling of this pipeline.
    """
    if takes_picture(pipe):
        return pipe
    name = _name(type(pipe)) if hasattr(pipe, "components") else None
    if name is None:
        raise TypeError(f"{type(pipe).__name__} can't begin from a picture; leave it out.")
    with swift_imports():
        kind = getattr(importlib.import_module("diffusers"), name)
    wanted = inspect.signature(kind.__init__).parameters
    parts = {name: part for name, part in pipe.components.items() if name in wanted}
    options = {name: pipe.config[name] for name in wanted if name in pipe.config} | parts
    twin = _quietly(kind, options)
    twin.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    remember_as(twin, pipe)
    return twin


def _name(kind: type) -> str | None:
    """StableDiffusionPipeline -> StableDiffusionImg2ImgPipeline, and so for other families."""
    name = f"{kind.__name__.removesuffix('Pipeline')}Img2ImgPipeline"
    return name if name in dir(importlib.import_module("diffusers")) else None


def _quietly(kind: type, options: dict[str, Any]) -> Any:
    """Without the advice on safety checkers, which was given when the first was made."""
    with unsaid(*{parent.__module__ for parent in kind.__mro__}):
        return kind(**options)
