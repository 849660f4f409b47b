"""``Table`` lives with the records; this is its old address."""

from ldmkit.records.table import Table

__all__ = ["Table"]
