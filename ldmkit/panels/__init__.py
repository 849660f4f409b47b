"""Panels: experiments as stock ipywidgets; what they make is a record that outlives them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ldmkit.panels.compare import ComparePanel
from ldmkit.panels.trajectory import TrajectoryPanel

if TYPE_CHECKING:
    from ldmkit.panels.arithmetic import ArithmeticPanel
    from ldmkit.panels.distilling import DistillPanel
    from ldmkit.panels.interpolation import InterpolationPanel
    from ldmkit.panels.prompt import PromptPanel

__all__ = [
    "ArithmeticPanel",
    "ComparePanel",
    "DistillPanel",
    "InterpolationPanel",
    "PromptPanel",
    "TrajectoryPanel",
]

# They need torch, a record's player does not.
_RUNNING = {
    "ArithmeticPanel": "ldmkit.panels.arithmetic",
    "DistillPanel": "ldmkit.panels.distilling",
    "InterpolationPanel": "ldmkit.panels.interpolation",
    "PromptPanel": "ldmkit.panels.prompt",
}


def __getattr__(name: str) -> Any:
    if name not in _RUNNING:
        raise AttributeError(f"module 'ldmkit.panels' has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(_RUNNING[name]), name)
    return found
