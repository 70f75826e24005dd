"""The report of a run: tables for a terminal, and one self-contained page."""

from curvkit_core.lazy import lazy_names

_WHERE = {
    "number": "curvkit_core.runs.report.numbers",
    "number_column": "curvkit_core.runs.report.numbers",
    "report_html": "curvkit_core.runs.report.page",
    "report_sections": "curvkit_core.runs.report.sections",
    "with_error": "curvkit_core.runs.report.numbers",
}
__all__ = list(_WHERE)
__getattr__, __dir__ = lazy_names(__name__, _WHERE)
