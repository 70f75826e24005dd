"""The backend and the kernels of a run, put into its problem."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from curvkit_core.config import ConfigError, Mistake
from curvkit_core.errors import CurvkitError
from curvkit_core.runs.plan import Plan, selection_note

if TYPE_CHECKING:
    from curvkit_core.backends import Backend
    from curvkit_core.host.registry import Registry
    from curvkit_core.problem import Problem

__all__ = ["equip"]


def equip(
    problem: Problem, backend: Backend, plan: Plan, registry: Registry
) -> tuple[Problem, tuple[str, ...], dict[str, str]]:
    """Give a problem the backend and the kernels that were chosen.

    Parameters
    ----------
    problem : Problem
        As its factory built it. One that already has a backend or kernels of its own keeps them, unless the run file
        names a backend.
    backend : Backend
        As the plan chose it.
    plan : Plan
        For what ``auto`` may take.
    registry : Registry
        Holds the kernels.

    Returns
    -------
    problem : Problem
        The same object where nothing changes.
    notes : tuple of str
        What ``auto`` took and skipped.
    kernels : dict
        Operation to the kernel's name; empty where the problem brought its own.

    Raises
    ------
    ConfigError
        If no kernel fits.
    """
    from curvkit_core.backends import SingleBackend
    from curvkit_core.kernels import Kernels

    kernels, names, notes = problem.kernels, dict[str, str](), list[str]()
    if kernels == Kernels():
        chosen = {}
        for field in attrs.fields(Kernels):
            selection = _select(field.name, problem, plan, registry)
            chosen[field.name] = registry.load_factory(selection.spec)
            names[field.name] = selection.spec.name
            notes.append(selection_note(f"kernel {field.name}", selection))
        kernels = Kernels(**chosen)
    if plan.backend_auto and not isinstance(problem.backend, SingleBackend):
        backend = problem.backend
    if backend == problem.backend and kernels == problem.kernels:
        return problem, tuple(notes), names
    return problem.equipped(backend=backend, kernels=kernels), tuple(notes), names


def _select(op: str, problem: Problem, plan: Plan, registry: Registry) -> Any:
    facts = problem.describe()
    device, dtype = str(facts["device"]).partition(":")[0], facts["dtype"]

    def fits(spec: Any) -> tuple[bool, str]:
        if spec.op != op:
            return False, ""
        if not {"*", device} & set(spec.devices):
            return False, f"takes {' or '.join(spec.devices)}, not {device}"
        if not {"*", dtype} & set(spec.dtypes):
            return False, f"takes {' or '.join(spec.dtypes)}, not {dtype}"
        return True, ""

    try:
        return registry.kernels.auto(
            where=fits, prefer=plan.auto.prefer, allow_experimental=plan.auto.allow_experimental
        )
    except CurvkitError as error:
        raise ConfigError([Mistake("$.auto", str(error))], plan.source) from error
