"""The loss itself: its value, its gradient, and its slices along directions beside the parabola of their curvature."""

from curvkit_core.landscape.plane import loss_plane
from curvkit_core.landscape.risk import LossAndGradient, loss_and_gradient, losses_at
from curvkit_core.landscape.slices import loss_slice

__all__ = ["LossAndGradient", "loss_and_gradient", "loss_plane", "loss_slice", "losses_at"]
