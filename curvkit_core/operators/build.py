"""Core's operators from a problem and their configuration."""

from __future__ import annotations

from curvkit_core.operators.config import EmpiricalFisherConfig, GGNConfig, HessianConfig
from curvkit_core.operators.empirical_fisher import EmpiricalFisherOperator
from curvkit_core.operators.ggn import GGNOperator
from curvkit_core.operators.hessian import HessianOperator
from curvkit_core.problem.problem import Problem

__all__ = ["build_empirical_fisher", "build_ggn", "build_hessian"]


def build_hessian(problem: Problem, config: HessianConfig) -> HessianOperator:
    """Make the Hessian of `problem`."""
    return HessianOperator(problem)


def build_ggn(problem: Problem, config: GGNConfig) -> GGNOperator:
    """Make the generalized Gauss-Newton matrix of `problem`."""
    return GGNOperator(problem)


def build_empirical_fisher(problem: Problem, config: EmpiricalFisherConfig) -> EmpiricalFisherOperator:
    """Make the empirical Fisher of `problem`."""
    return EmpiricalFisherOperator(problem)
