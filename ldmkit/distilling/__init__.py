"""Fewer steps: a student learns what its teacher does in two, again and again."""

from ldmkit.distilling.students import Ladder, Update, distill

__all__ = ["Ladder", "Update", "distill"]
