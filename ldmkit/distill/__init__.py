"""Models, samplers and settings side by side: the same noise, the same question, one table."""

from ldmkit.distill.cells import Progress
from ldmkit.distill.compare import compare
from ldmkit.distill.scoring import score
from ldmkit.distill.sweep import sweep

__all__ = ["Progress", "compare", "score", "sweep"]
