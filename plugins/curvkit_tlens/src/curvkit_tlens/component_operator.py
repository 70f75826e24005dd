"""The operator tlens/component: a curvature in the parameters of components, or of some heads of them."""

from __future__ import annotations

from typing import Any

from attrs import fields

from curvkit_core import (
    CurvatureOperator,
    EmpiricalFisherOperator,
    FisherOperator,
    GGNOperator,
    HessianOperator,
    Problem,
)
from curvkit_core.operators.config import EngineConfig
from curvkit_tlens.components import match_components
from curvkit_tlens.config import ComponentConfig

__all__ = ["build"]


def build(problem: Problem, config: ComponentConfig) -> CurvatureOperator:
    """Restrict the problem to the components and make the operator."""
    part = problem.restrict(match_components(*config.components, heads=config.heads))
    engine: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(EngineConfig)}
    if config.of == "fisher":
        return FisherOperator(part, num_samples=config.num_samples, seed=config.seed, **engine)
    if config.of == "empirical-fisher":
        return EmpiricalFisherOperator(part, **engine)
    return HessianOperator(part, **engine) if config.of == "hessian" else GGNOperator(part, **engine)
