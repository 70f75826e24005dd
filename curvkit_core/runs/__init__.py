"""Run files: plan, prepare, execute, record, report."""

from curvkit_core.lazy import lazy_names

_WHERE = {
    "Destination": "curvkit_core.runs.record",
    "Plan": "curvkit_core.runs.plan",
    "Run": "curvkit_core.runs.execution",
    "RunLog": "curvkit_core.runs.log",
    "RunResult": "curvkit_core.runs.execution",
    "draw_figures": "curvkit_core.runs.figures",
    "execute": "curvkit_core.runs.execution",
    "load_run": "curvkit_core.runs.record",
    "make_plan": "curvkit_core.runs.plan",
    "plan_record": "curvkit_core.runs.record",
    "prepare": "curvkit_core.runs.preparation",
    "print_sections": "curvkit_core.runs.table",
    "progress_for": "curvkit_core.runs.progress",
    "read_run_file": "curvkit_core.runs.run_file",
    "report_sections": "curvkit_core.runs.report",
    "write_run": "curvkit_core.runs.record",
}
__all__ = list(_WHERE)
__getattr__, __dir__ = lazy_names(__name__, _WHERE)
