"""Curvature operators: symmetric linear maps over a problem's parameters, other maps of its data, and their algebra."""

from curvkit_core.lazy import lazy_names

_WHERE = {
    "ActivationOperator": "curvkit_core.operators.activation",
    "BlockDiagonalOperator": "curvkit_core.operators.blocks",
    "CurvatureOperator": "curvkit_core.operators.base",
    "DataOperator": "curvkit_core.operators.data_operator",
    "EmpiricalFisherOperator": "curvkit_core.operators.empirical_fisher",
    "FisherOperator": "curvkit_core.operators.fisher",
    "GGNOperator": "curvkit_core.operators.ggn",
    "HessianOperator": "curvkit_core.operators.hessian",
    "JacobianOperator": "curvkit_core.operators.jacobian",
    "LambdaOperator": "curvkit_core.operators.lambda_operator",
    "LinearMap": "curvkit_core.operators.linear_map",
    "LowRankUpdate": "curvkit_core.operators.low_rank",
    "StochasticOperator": "curvkit_core.operators.stochastic",
    "SubmatrixOperator": "curvkit_core.operators.submatrix",
    "block_diagonal": "curvkit_core.operators.blocks",
    "build_block_diagonal": "curvkit_core.operators.build",
    "build_empirical_fisher": "curvkit_core.operators.build",
    "build_fisher": "curvkit_core.operators.build",
    "build_ggn": "curvkit_core.operators.build",
    "build_hessian": "curvkit_core.operators.build",
}
__all__ = list(_WHERE)
__getattr__, __dir__ = lazy_names(__name__, _WHERE)
