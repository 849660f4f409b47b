"""Pipelines beside a pipeline, of the same networks: a twin, one that begins from a picture.

They share an origin: the name that records give, and what the weights were made for.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import re
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ldmkit.check import say
from ldmkit.loading.device import akin
from ldmkit.loading.folder import made_for
from ldmkit.loading.quiet import swift_imports, unsaid

__all__ = [
    "Origin",
    "can_take_picture",
    "from_picture",
    "origin_of",
    "remember",
    "remember_as",
    "say_if_astray",
    "steps_of",
    "takes_picture",
    "twin_of",
]


@dataclass(frozen=True)
class Origin:
    """What ``load`` knows of a pipeline.

    Attributes:
        name: catalog name, hub id or folder name, with ``:variant`` where one was asked for.
        defaults: keywords of the call that its weights were made for, such as
            ``num_inference_steps``; empty where nobody said.
    """

    name: str
    defaults: Mapping[str, Any] = field(default_factory=dict)


# Beside the pipelines, not on them: they stay plain diffusers objects.
_origins: weakref.WeakKeyDictionary[Any, Origin] = weakref.WeakKeyDictionary()


def remember(pipe: Any, origin: Origin) -> None:
    """Notes the origin of a pipeline and of its network, which sibling pipelines share."""
    for part in (pipe, getattr(pipe, "unet", None)):
        if part is not None:
            _origins[part] = origin


def origin_of(pipe: Any) -> Origin:
    """The origin of a pipeline; a stranger's is its class name and no defaults."""
    for part in (pipe, getattr(pipe, "unet", None)):
        try:
            if part is not None and part in _origins:
                return _origins[part]
        except TypeError:  # can't be hashed or referred to weakly: a stranger
            continue
    return Origin(name=type(pipe).__name__)


def remember_as(twin: Any, pipe: Any) -> None:
    """Gives a copy of a pipeline the name and defaults of its original, and its end."""
    akin(twin, pipe)
    origin = origin_of(pipe)
    if origin.name != type(pipe).__name__ or origin.defaults:  # a stranger stays one
        remember(twin, origin)


def steps_of(pipe: Any) -> int | None:
    """The steps that a pipeline's student was made for; ``None`` of all other pipelines."""
    found = re.search(r":steps(\d+)$", origin_of(pipe).name)
    return int(found[1]) if found else None


def say_if_astray(pipe: Any, scheduler: Any, call: Mapping[str, Any], stacklevel: int = 2) -> None:
    """Tells who runs a student otherwise than it learned to draw.

    Args:
        pipe: any pipeline.
        scheduler: that the run will take.
        call: the run's keywords, complete.
        stacklevel: as for ``warnings.warn``.
    """
    steps = steps_of(pipe)
    if steps is None:
        return
    config = scheduler.config
    here = f"{type(scheduler).__name__} with {config.get('timestep_spacing')} spacing"
    meant = {"DDIMScheduler with trailing spacing", "DDIMParallelScheduler with trailing spacing"}
    wrong = [] if here in meant else [here]
    for name, value in made_for(steps).items():
        if name in call and call[name] != value:
            wrong.append(f"{name} {call[name]:g}")
    if wrong:
        say(
            f"{origin_of(pipe).name} was distilled for {steps} DDIM steps (trailing spacing) with "
            f"its teacher's guidance inside (guidance_scale 1), and this run has "
            f"{' and '.join(wrong)}: it draws what it never learned; leave those out.",
            stacklevel=stacklevel + 1,
        )


def twin_of(pipe: Any) -> Any:
    """A second pipeline of the very same networks, with schedulers and settings of its own.

    Whatever runs in a thread of its own runs on a twin: a scheduler carries state from step to
    step, and a recorder stands on it. Pipelines inside of it (a prior's) become twins, too.
    """
    twin = _twin(pipe, {})
    remember_as(twin, pipe)
    return twin


def _twin(pipe: Any, made: dict[int, Any]) -> Any:
    twin = copy.copy(pipe)
    for name, part in list(getattr(pipe, "__dict__", {}).items()):
        if callable(getattr(part, "step", None)) and not hasattr(part, "parameters"):
            copied = _own_scheduler
        elif callable(part) and hasattr(part, "components") and not isinstance(part, type):
            copied = functools.partial(_twin, made=made)
        else:
            continue
        if id(part) not in made:  # Kandinsky holds its scheduler twice, once in its prior
            made[id(part)] = copied(part)
        setattr(twin, name, made[id(part)])
    return twin


def _own_scheduler(scheduler: Any) -> Any:
    """The same settings, those that were set by hand too, which no ``config`` tells."""
    twin = copy.copy(scheduler)  # in one go: it may be at work in another thread
    for name, value in list(vars(twin).items()):
        if callable(value) and hasattr(type(scheduler), name):
            del vars(twin)[name]  # a recorder's step, which belongs to a run of the original
        elif name != "_internal_dict":  # the config, which is frozen
            with suppress(RuntimeError, TypeError):  # a lock, a gradient: what can't be copied
                vars(twin)[name] = copy.deepcopy(value)
    return twin


def takes_picture(pipe: Any) -> bool:
    """Whether the pipeline itself begins from a picture: ``image`` and ``strength``."""
    return {"image", "strength"} <= set(inspect.signature(type(pipe).__call__).parameters)


def can_take_picture(pipe: Any) -> bool:
    """Whether it does or diffusers knows a sibling that does; loads nothing."""
    return takes_picture(pipe) or (hasattr(pipe, "components") and _name(type(pipe)) is not None)


def from_picture(pipe: Any) -> Any:
    """The pipeline's image-to-image sibling.

    Networks are shared, the scheduler is its own (see ``twin_of``). diffusers' own ``from_pipe``
    would turn the networks to float32.

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
    parts = {name: part for name, part in _twin(pipe, {}).components.items() if name in wanted}
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
