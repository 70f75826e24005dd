"""One microbatch of the model as a linear map at the current parameters: J v, J^T u, and the loss-Hessian's product."""

from curvkit_core.linearize.linearization import Linearization
from curvkit_core.linearize.reverse import ReverseLinearization, linearized

__all__ = ["Linearization", "ReverseLinearization", "linearized"]
