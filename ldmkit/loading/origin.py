"""Where a pipeline came from: its name for records, and what its weights were made for."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Origin", "origin_of", "remember"]


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
