"""Run files: plan, prepare, execute, record, report."""

from curvkit_core.lazy import lazy_names

_WHERE = {
    "Destination": "curvkit_core.runs.destination",
    "Plan": "curvkit_core.runs.plan",
    "Run": "curvkit_core.runs.outcome",
    "RunLog": "curvkit_core.runs.log",
    "RunResult": "curvkit_core.runs.outcome",
    "RunState": "curvkit_core.runs.run_state",
    "compare_runs": "curvkit_core.runs.comparison",
    "draw_figures": "curvkit_core.runs.figures",
    "execute": "curvkit_core.runs.execution",
    "load_run": "curvkit_core.runs.record",
    "make_plan": "curvkit_core.runs.plan",
    "opened_state": "curvkit_core.runs.run_state",
    "plan_record": "curvkit_core.runs.record",
    "prepare": "curvkit_core.runs.preparation",
    "print_sections": "curvkit_core.runs.table",
    "progress_for": "curvkit_core.runs.progress",
    "read_run_file": "curvkit_core.runs.run_file",
    "read_started": "curvkit_core.runs.run_state",
    "open_run": "curvkit_core.runs.record",
    "report_html": "curvkit_core.runs.report.page",
    "report_sections": "curvkit_core.runs.report.sections",
    "write_run": "curvkit_core.runs.record",
}
__all__ = list(_WHERE)
__getattr__, __dir__ = lazy_names(__name__, _WHERE)
