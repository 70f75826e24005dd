"""From a plan to things that can be multiplied: the problem, its operators, and every precondition, with no product."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import frozen

from curvkit_core.config import ConfigError, Mistake
from curvkit_core.runs.blame import blamed
from curvkit_core.runs.equip import equip
from curvkit_core.runs.plan import Plan, PlannedAlgorithm, PlannedComponent, PlannedOperator

if TYPE_CHECKING:
    from curvkit_core.backends import Backend
    from curvkit_core.host.registry import Registry
    from curvkit_core.operators import CurvatureOperator
    from curvkit_core.problem import Problem

__all__ = ["Job", "Prepared", "built_backend", "prepare"]


@frozen(kw_only=True, eq=False)
class Job:
    """One algorithm on one operator."""

    operator: PlannedOperator
    operator_index: int
    algorithm: PlannedAlgorithm
    algorithm_index: int
    op: CurvatureOperator

    @property
    def label(self) -> str:
        """``core/eigsh on core/hessian``."""
        return f"{self.algorithm.component.name} on {self.operator.label}"


@frozen(kw_only=True, eq=False)
class Prepared:
    """A plan whose parts are built and fit one another.

    Parameters
    ----------
    plan : Plan
        What was asked for.
    problem : Problem
        With the backend and the kernels that the plan chose.
    jobs : tuple of Job
        Operator by operator.
    notes : tuple of str
        What ``auto`` took and skipped.
    kernels : dict
        Operation to the kernel's name.
    """

    plan: Plan
    problem: Problem
    jobs: tuple[Job, ...]
    notes: tuple[str, ...]
    kernels: dict[str, str]


def prepare(
    plan: Plan,
    registry: Registry,
    *,
    backend: Backend | None = None,
    stage: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Build the problem and the operators, and ask every algorithm whether it can run on its operators.

    Parameters
    ----------
    plan : Plan
        From :func:`make_plan`.
    registry : Registry
        Where the plan was made.
    backend : Backend or None
        What :func:`built_backend` gives, where it is there already.
    stage : callable
        Told what is being built.

    Returns
    -------
    Prepared
        Ready for :func:`execute`.

    Raises
    ------
    ConfigError
        With all preconditions that do not hold, each with the place in the run file it comes from.
    """
    from curvkit_core.problem import Problem

    backend = built_backend(plan, registry) if backend is None else backend
    stage(f"problem {plan.problem.name}")
    problem = _build(plan.problem, registry, plan.source, expected=Problem)
    problem, notes, kernels = equip(problem, backend, plan, registry)
    operators: list[CurvatureOperator | None] = []
    mistakes: list[Mistake] = []
    for operator in plan.operators:
        try:
            operators.append(_operator(operator, problem, registry, plan.source))
        except ConfigError as error:
            operators.append(None)
            mistakes += error.mistakes
    jobs = [
        Job(operator=plan.operators[i], operator_index=i, algorithm=algorithm, algorithm_index=j, op=op)
        for i, op in enumerate(operators)
        if op is not None
        for j, algorithm in enumerate(plan.algorithms)
        if i in algorithm.on
    ]
    for job in jobs:
        mistakes += _unmet(job)
    if mistakes:
        raise ConfigError(mistakes, plan.source)
    return Prepared(plan=plan, problem=problem, jobs=tuple(jobs), notes=plan.notes + notes, kernels=kernels)


def built_backend(plan: Plan, registry: Registry) -> Backend:
    """Build the plan's backend.

    Raises
    ------
    ConfigError
        With whatever it raises, at its place in the run file.
    """
    from curvkit_core.backends import Backend

    built: Backend = _build(plan.backend, registry, plan.source, expected=Backend)
    return built


def _build(
    component: PlannedComponent, registry: Registry, source: str, *inputs: Any, expected: type | None = None
) -> Any:
    """Call a factory; whatever it raises is said at the component's place in the run file."""
    config = () if component.config is None else (component.config,)
    try:
        built = registry.load_factory(component.spec)(*inputs, *config)
    except (Exception, SystemExit) as error:
        raise ConfigError([blamed(component, error)], source) from error
    if expected is not None and not isinstance(built, expected):
        text = f"{component.name} gave a {type(built).__name__}: expected a {expected.__name__}"
        raise ConfigError([Mistake(component.path, text)], source)
    return built


def _operator(operator: PlannedOperator, problem: Problem, registry: Registry, source: str) -> CurvatureOperator:
    from curvkit_core.operators import CurvatureOperator

    component = operator.component
    mistakes = []
    for i, glob in enumerate(operator.params):  # each has to match, not just one of them
        try:
            problem.restrict(glob)
        except ValueError as error:
            mistakes.append(Mistake(f"{component.path}.params[{i}]", str(error)))
    if mistakes:
        raise ConfigError(mistakes, source)
    restricted = problem.restrict(operator.params) if operator.params else problem
    op: CurvatureOperator = _build(component, registry, source, restricted, expected=CurvatureOperator)
    return op


def _unmet(job: Job) -> list[Mistake]:
    """Return why the algorithm cannot run on the operator: `init` draws start vectors and costs no product."""
    algorithm = job.algorithm.component
    if getattr(algorithm.config, "needs_symmetric", False) and not job.op.symmetric:
        text = f"{algorithm.name} needs a symmetric operator, {job.operator.label} is not. Name others with on = [...]"
        return [Mistake(algorithm.path, text)]
    try:
        algorithm.config.init(job.op.space)
    except Exception as error:  # noqa: BLE001 - a plugin's algorithm may raise anything; all are shown
        found = blamed(algorithm, error)
        return [Mistake(found.path, f"on {job.operator.label}: {found.text}")]
    return []
