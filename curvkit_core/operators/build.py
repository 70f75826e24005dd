"""Core's operators from a problem and their configuration."""

from __future__ import annotations

from typing import Any

from attrs import fields

from curvkit_core.operators.blocks import BlockDiagonalOperator, block_diagonal
from curvkit_core.operators.config import (
    BlockDiagonalConfig,
    EmpiricalFisherConfig,
    EngineConfig,
    FisherConfig,
    GGNConfig,
    HessianConfig,
)
from curvkit_core.operators.empirical_fisher import EmpiricalFisherOperator
from curvkit_core.operators.fisher import FisherOperator
from curvkit_core.operators.ggn import GGNOperator
from curvkit_core.operators.hessian import HessianOperator
from curvkit_core.problem.problem import Problem

__all__ = ["build_block_diagonal", "build_empirical_fisher", "build_fisher", "build_ggn", "build_hessian"]


def build_hessian(problem: Problem, config: HessianConfig) -> HessianOperator:
    """Make the Hessian of `problem`."""
    return HessianOperator(problem, **_engine(config))


def build_ggn(problem: Problem, config: GGNConfig) -> GGNOperator:
    """Make the generalized Gauss-Newton matrix of `problem`."""
    return GGNOperator(problem, **_engine(config))


def build_fisher(problem: Problem, config: FisherConfig) -> FisherOperator:
    """Make the sampled Fisher of `problem`."""
    return FisherOperator(problem, num_samples=config.num_samples, seed=config.seed, **_engine(config))


def build_empirical_fisher(problem: Problem, config: EmpiricalFisherConfig) -> EmpiricalFisherOperator:
    """Make the empirical Fisher of `problem`, or the centred covariance of its gradients."""
    return EmpiricalFisherOperator(problem, centered=config.centered, **_engine(config))


def build_block_diagonal(problem: Problem, config: BlockDiagonalConfig) -> BlockDiagonalOperator:
    """Make an operator of `problem` without the coupling between groups."""
    return block_diagonal(problem, config.groups, kind=config.of)


def _engine(config: EngineConfig) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in fields(EngineConfig)}
