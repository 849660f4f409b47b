"""Models, samplers and settings side by side: the same noise, the same question, one table."""

from ldmkit.experiments.compare import compare
from ldmkit.experiments.decided import decided
from ldmkit.experiments.runs import Progress
from ldmkit.experiments.score import score
from ldmkit.experiments.sweep import sweep

__all__ = ["Progress", "compare", "decided", "score", "sweep"]
