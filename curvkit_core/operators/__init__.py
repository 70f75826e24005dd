"""Curvature operators: symmetric linear maps over a problem's parameters, and their algebra."""

from curvkit_core.lazy import lazy_names

_WHERE = {
    "CurvatureOperator": "curvkit_core.operators.base",
    "DataOperator": "curvkit_core.operators.data_operator",
    "EmpiricalFisherOperator": "curvkit_core.operators.empirical_fisher",
    "GGNOperator": "curvkit_core.operators.ggn",
    "HessianOperator": "curvkit_core.operators.hessian",
    "LambdaOperator": "curvkit_core.operators.lambda_operator",
    "build_empirical_fisher": "curvkit_core.operators.build",
    "build_ggn": "curvkit_core.operators.build",
    "build_hessian": "curvkit_core.operators.build",
}
__all__ = list(_WHERE)
__getattr__, __dir__ = lazy_names(__name__, _WHERE)
