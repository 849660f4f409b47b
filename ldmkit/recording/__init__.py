"""Whatever denoises to a record; the picture stays the same to the bit."""

from ldmkit.recording.recorder import record, recorder

__all__ = ["record", "recorder"]
