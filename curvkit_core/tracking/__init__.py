"""Curvature through training: measured now and then, kept as rows, written as CSV or JSON lines, drawn."""

from curvkit_core.tracking.row import TrackerRow
from curvkit_core.tracking.tracker import CurvatureTracker

__all__ = ["CurvatureTracker", "TrackerRow"]
