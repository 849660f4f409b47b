"""Records: frozen dataclasses over numpy and their files. No torch, no kernel, no GPU."""

from ldmkit.records.errors import RecordError
from ldmkit.records.trajectory import Step, Steps, Trajectory

__all__ = ["RecordError", "Step", "Steps", "Trajectory"]
