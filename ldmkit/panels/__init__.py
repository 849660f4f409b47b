"""Panels: experiments as stock ipywidgets; what they make is a record that outlives them."""

from ldmkit.panels.trajectory import TrajectoryPanel

__all__ = ["TrajectoryPanel"]
