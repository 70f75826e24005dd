"""What is differentiated: model, data and loss, the parameters chosen, and how values are swapped in and out."""

from curvkit_core.lazy import lazy_names

_WHERE = {
    "ParameterSpace": "curvkit_core.problem.parameters",
    "Problem": "curvkit_core.problem.problem",
    "ReadsModel": "curvkit_core.problem.selection",
    "match_names": "curvkit_core.problem.selection",
    "match_regex": "curvkit_core.problem.selection",
}
__all__ = list(_WHERE)
__getattr__, __dir__ = lazy_names(__name__, _WHERE)
