"""A plan as a run file again, with nothing left open: what ``curvkit config show --resolved`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curvkit_core.config import plain
from curvkit_core.runs.plan import Plan, PlannedComponent

__all__ = ["resolved_tables"]


def resolved_tables(plan: Plan) -> dict[str, Any]:
    """Return a run file's tables with names in full, and every option; it makes the same plan.

    Parameters
    ----------
    plan : Plan
        From :func:`make_plan`.

    Returns
    -------
    dict
        Tables; an option whose value is none is left out, as TOML has no word for it. A seed that was drawn stands as
        it was drawn.
    """
    operators = []
    for operator in plan.operators:
        table = _table(operator.component)
        operators.append({**table, "params": list(operator.params)} if operator.params else table)
    every = tuple(range(len(plan.operators)))
    sweep, algorithms = None, []
    for algorithm in plan.algorithms:
        table = _table(algorithm.component)
        if algorithm.on != every:
            table["on"] = list(dict.fromkeys(plan.operators[i].component.name for i in algorithm.on))
        if algorithm.component.path == "$.sweep":
            sweep = {key: value for key, value in table.items() if key != "kind"}
        else:
            algorithms.append(table)
    tables: dict[str, Any] = {"schema": 1, "problem": _table(plan.problem), "operator": operators}
    if algorithms:
        tables["algorithm"] = algorithms
    if sweep is not None:
        tables["sweep"] = sweep
    if plan.landscape is not None:
        tables["landscape"] = _known(plan.landscape)
    tables["backend"] = _table(plan.backend)
    for name, section in (("auto", plan.auto), ("budget", plan.budget), ("checkpoint", plan.checkpoint)):
        known = _known(section)
        if known:
            tables[name] = known
    return tables


def _table(component: PlannedComponent) -> dict[str, Any]:
    return {"kind": component.name, **(_known(component.config) if component.config is not None else {})}


def _known(config: Any) -> dict[str, Any]:
    found = plain(config)
    return {key: value for key, value in found.items() if value is not None} if isinstance(found, Mapping) else {}
