"""Records: frozen dataclasses over numpy and their files. No torch, no kernel, no GPU."""

from ldmkit.records.embedding import Embedding
from ldmkit.records.errors import RecordError
from ldmkit.records.trajectory import Step, Steps, Trajectory
from ldmkit.records.walk import Walk

__all__ = ["Embedding", "RecordError", "Step", "Steps", "Trajectory", "Walk"]
