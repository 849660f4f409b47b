"""Records: frozen dataclasses over numpy and their files. No torch, no kernel, no GPU."""

from ldmkit.records.attention import AttentionMaps
from ldmkit.records.embedding import Embedding
from ldmkit.records.gap import Gap
from ldmkit.records.grid import Grid
from ldmkit.records.plane import Plane
from ldmkit.records.record import RecordError
from ldmkit.records.stats import Estimate, Table, mean_of, paired_difference, wilson
from ldmkit.records.trajectory import Step, Steps, Trajectory
from ldmkit.records.walk import Walk

__all__ = [
    "AttentionMaps",
    "Embedding",
    "Estimate",
    "Gap",
    "Grid",
    "Plane",
    "RecordError",
    "Step",
    "Steps",
    "Table",
    "Trajectory",
    "Walk",
    "mean_of",
    "paired_difference",
    "wilson",
]
