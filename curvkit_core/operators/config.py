"""Configuration of core's operators in run files; imports no torch."""

from __future__ import annotations

from attrs import frozen

__all__ = ["EmpiricalFisherConfig", "GGNConfig", "HessianConfig"]


@frozen(kw_only=True)
class HessianConfig:
    """The Hessian of the data's risk. No options of its own; `params` restricts it."""


@frozen(kw_only=True)
class GGNConfig:
    """The generalized Gauss-Newton matrix. No options of its own; `params` restricts it."""


@frozen(kw_only=True)
class EmpiricalFisherConfig:
    """The uncentred covariance of the units' gradients. No options of its own; `params` restricts it."""
