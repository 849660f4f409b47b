"""A running pipeline to a record; the picture stays the same to the bit."""

from ldmkit.recording.run import record

__all__ = ["record"]
