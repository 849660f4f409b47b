"""ldmkit: see, measure and take apart latent diffusion in a notebook.

Public names are resolved when they are first used (PEP 562), so that ``import ldmkit`` costs
about what ``import numpy`` costs: torch and diffusers load with the first name that needs them.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ldmkit import critters
    from ldmkit.distilling import Ladder, distill
    from ldmkit.experiments.compare import compare
    from ldmkit.experiments.decided import decided
    from ldmkit.experiments.score import score
    from ldmkit.experiments.sweep import sweep
    from ldmkit.figures.side_by_side import side_by_side
    from ldmkit.latents import decode_latents, encode_image
    from ldmkit.latents.inversion import invert
    from ldmkit.loading import anatomy, load, models, release
    from ldmkit.panels import (
        ArithmeticPanel,
        ComparePanel,
        DistillPanel,
        InterpolationPanel,
        PromptPanel,
        TrajectoryPanel,
    )
    from ldmkit.recording.intervene import intervene
    from ldmkit.recording.recorder import record, recorder
    from ldmkit.records import AttentionMaps, Embedding, Grid, Trajectory, Walk
    from ldmkit.space.arithmetic import text_diff
    from ldmkit.space.clip import clip_space
    from ldmkit.space.interpolate import interpolate
    from ldmkit.space.paths import slerp
    from ldmkit.space.unclip import decode_embedding, sample_prior, variations

__all__ = [
    "ArithmeticPanel",
    "AttentionMaps",
    "ComparePanel",
    "DistillPanel",
    "Embedding",
    "Grid",
    "InterpolationPanel",
    "Ladder",
    "PromptPanel",
    "Trajectory",
    "TrajectoryPanel",
    "Walk",
    "__version__",
    "anatomy",
    "clip_space",
    "compare",
    "critters",
    "decided",
    "decode_embedding",
    "decode_latents",
    "distill",
    "encode_image",
    "interpolate",
    "intervene",
    "invert",
    "load",
    "models",
    "record",
    "recorder",
    "release",
    "sample_prior",
    "score",
    "side_by_side",
    "slerp",
    "sweep",
    "text_diff",
    "variations",
]

# Where each public name lives; a name that maps to itself is a subpackage.
_HOMES = {
    "ArithmeticPanel": "ldmkit.panels",
    "AttentionMaps": "ldmkit.records",
    "ComparePanel": "ldmkit.panels",
    "DistillPanel": "ldmkit.panels",
    "Embedding": "ldmkit.records",
    "Grid": "ldmkit.records",
    "InterpolationPanel": "ldmkit.panels",
    "Ladder": "ldmkit.distilling",
    "PromptPanel": "ldmkit.panels",
    "Trajectory": "ldmkit.records",
    "TrajectoryPanel": "ldmkit.panels",
    "Walk": "ldmkit.records",
    "anatomy": "ldmkit.loading",
    "clip_space": "ldmkit.space.clip",
    "compare": "ldmkit.experiments",
    "critters": "ldmkit.critters",
    "decided": "ldmkit.experiments",
    "decode_embedding": "ldmkit.space.unclip",
    "decode_latents": "ldmkit.latents",
    "distill": "ldmkit.distilling",
    "encode_image": "ldmkit.latents",
    "interpolate": "ldmkit.space.interpolate",
    "intervene": "ldmkit.recording.intervene",
    "invert": "ldmkit.latents.inversion",
    "load": "ldmkit.loading",
    "models": "ldmkit.loading",
    "record": "ldmkit.recording",
    "recorder": "ldmkit.recording",
    "release": "ldmkit.loading",
    "sample_prior": "ldmkit.space.unclip",
    "score": "ldmkit.experiments",
    "side_by_side": "ldmkit.figures.side_by_side",
    "slerp": "ldmkit.space.paths",
    "sweep": "ldmkit.experiments",
    "text_diff": "ldmkit.space.arithmetic",
    "variations": "ldmkit.space.unclip",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ldmkit' has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    value = module if _HOMES[name] == f"ldmkit.{name}" else getattr(module, name)
    globals()[name] = value  # the next look-up is an ordinary one
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
