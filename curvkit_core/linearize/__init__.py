"""One microbatch of the model as a linear map at the current parameters: J v, J^T u, and the loss-Hessian's product."""

from curvkit_core.linearize.displaced import gradient_at, loss_at, outputs_at
from curvkit_core.linearize.engine import Engine, EngineOptions
from curvkit_core.linearize.lean import LeanLinearization
from curvkit_core.linearize.linearization import Linearization

__all__ = ["Engine", "EngineOptions", "LeanLinearization", "Linearization", "gradient_at", "loss_at", "outputs_at"]
