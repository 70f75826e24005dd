"""Parameters that a loss or a forward reads past the model: their share of the curvature would be missing."""

from __future__ import annotations

from curvkit_core.checks.finding import Finding, report
from curvkit_core.checks.graph_facts import GraphFacts
from curvkit_core.problem.problem import Problem

__all__ = ["check_captured"]


def check_captured(problem: Problem, facts: GraphFacts) -> None:
    """Report ``parameter-captured`` where the loss's graph, made with other leaves in the model, has a parameter in it.

    A parameter in a list or a closure made before is the user's own: what stands in its place in the modules does not
    reach the loss on that way, and no difference of the loss sees it either.
    """
    names = [e.name for e in problem.parameters if id(e.parameter) in facts.leaves]
    if not names:
        return
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    finding = Finding(
        code="parameter-captured",
        seen=f"the loss reads parameter {names[0]!r}{more} past the model, from a list, a closure or an optimizer: "
        "products would lack that part of its curvature.",
        mend="read parameters from the model that the loss is given, fn(model, batch), or from their module, at each "
        "call: model.parameters().",
    )
    report(problem, finding)
