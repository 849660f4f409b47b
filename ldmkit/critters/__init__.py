"""The embedded world: critters, whose captions, pictures and combinations are known exactly.

`Scene` says what a picture contains, `Scene.caption` and `parse` go between scenes and words,
`Scene.draw` makes the picture, `judge` looks at any picture and says whether it obeys a caption.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ldmkit.critters.language import UnknownWords, words
from ldmkit.critters.scene import Critter, Scene, held_out, parse
from ldmkit.critters.world import VERSION

if TYPE_CHECKING:
    from ldmkit.critters.judging import Verdict, judge

__all__ = [
    "VERSION",
    "Critter",
    "Scene",
    "UnknownWords",
    "Verdict",
    "held_out",
    "judge",
    "parse",
    "words",
]


def __getattr__(name: str) -> Any:
    if name in ("judge", "Verdict"):  # needs torch
        from importlib import import_module

        module = import_module("ldmkit.critters.judging")
        globals()["judge"], globals()["Verdict"] = module.judge, module.Verdict
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
