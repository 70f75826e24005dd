"""The conformance kit: what a plugin's components must keep, as checks that their authors run.

Importing it imports neither torch nor pytest. Its pytest side is in the extra: ``pip install "curvkit-core[testing]"``.
"""

from curvkit_core.lazy import lazy_names

_WHERE = {
    "Case": "curvkit_core.testing.case",
    "Check": "curvkit_core.testing.check",
    "CheckResult": "curvkit_core.testing.check",
    "CountedOperator": "curvkit_core.testing.matrices",
    "LawBrokenError": "curvkit_core.testing.check",
    "NewCheckWarning": "curvkit_core.testing.running",
    "Record": "curvkit_core.testing.check",
    "SkippedError": "curvkit_core.testing.check",
    "TinyProblem": "curvkit_core.testing.tiny_problems",
    "check_plugin": "curvkit_core.testing.running",
    "checks_for": "curvkit_core.testing.catalogue",
    "dense_empirical_fisher": "curvkit_core.testing.dense_truths",
    "dense_ggn": "curvkit_core.testing.dense_truths",
    "dense_hessian": "curvkit_core.testing.dense_truths",
    "matrix_with": "curvkit_core.testing.matrices",
    "parametrize_with_checks": "curvkit_core.testing.parametrizing",
    "run_checks": "curvkit_core.testing.running",
    "summary": "curvkit_core.testing.running",
    "tiny_problem": "curvkit_core.testing.tiny_problems",
}
__all__ = list(_WHERE)
__getattr__, __dir__ = lazy_names(__name__, _WHERE)
