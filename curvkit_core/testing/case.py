"""What an author hands to the kit where its own small models do not fit: options, a model with data, a truth.

A Hugging Face loss cannot run on a small MLP, an operator on activations has another space, a result type of one's own
has a truth that the kit cannot know. Without a case the checks that need one are skipped, and the report says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from attrs import Factory, field, frozen

from curvkit_core.errors import CurvkitError

if TYPE_CHECKING:
    from torch import nn

    from curvkit_core.problem import Problem

__all__ = ["CASES_ATTRIBUTE", "Case", "Cases", "load_cases"]

#: A string of this name in a plugin's module says where its cases are: ``CHECK_CASES = "acme_curvature.cases:CASES"``.
CASES_ATTRIBUTE = "CHECK_CASES"


@frozen(kw_only=True, eq=False)
class Case:
    """How one component is to be tried. All but the component's name may be left out.

    Parameters
    ----------
    component : str
        ``"acme/kfac"``.
    label : str
        Tells several cases of a component apart in the report.
    options : mapping
        Of its configuration, as a run file gives them: small, so that a check takes a second.
    problem : callable or None
        For an operator: ``problem()`` gives a small Problem, in float64 if it can be. None: the kit's own.
    model, batches : callable or None
        For a loss adapter: ``model()`` gives a small model that has its outputs, ``batches()`` a list of batches with
        at least two rows each.
    bind : bool
        For a loss adapter that binds to its model: a problem shows it the model first, as it does for a user. False:
        it is tried as the factory made it, which must be right too.
    with_ignored : callable or None
        For a loss adapter: ``with_ignored(batch)`` gives the batch with further content that must not count: padding,
        rows whose targets are ignored.
    prepare : callable or None
        ``prepare(model)`` gives the model, or another in its place, as the component needs it: sharded, wrapped,
        called once. Every model goes through it, the kit's own and the case's. A backend of many ranks is tried in
        processes of their own, which import it by name: there it must be a module's function.
    within : callable or None
        ``within()`` gives a context manager around each check: a process group, a mode of attention. Processes that a
        check starts are outside of it.
    device : str or None
        For a kernel: where it is tried although its spec does not name it, as ``"cpu"`` under an interpreter.
    assume_available : bool
        Try it although its probe says no: a kernel under an interpreter, a backend of many ranks in one process.
    inputs : callable or None
        For an algorithm: ``inputs(space)`` gives the tensors of its ``init``, by name.
    truth : callable or None
        The answer by another path. For an operator ``truth(problem)``, its dense matrix. For a loss adapter
        ``truth(model, batch)``, the loss's sum and the number of units. For an algorithm ``truth(matrix, algorithm,
        inputs, result, record)``, which holds what the result claims by means of the
        :class:`~curvkit_core.testing.Record`.
    expected_failed : mapping of str to str
        Checks that this component cannot pass, each with the reason.
    """

    component: str
    label: str = ""
    options: Mapping[str, Any] = Factory(dict)
    problem: Callable[[], Problem] | None = None
    model: Callable[[], nn.Module] | None = None
    batches: Callable[[], list[Any]] | None = None
    bind: bool = True
    with_ignored: Callable[[Any], Any] | None = None
    prepare: Callable[[nn.Module], nn.Module] | None = None
    within: Callable[[], AbstractContextManager[Any]] | None = None
    device: str | None = None
    assume_available: bool = False
    inputs: Callable[[Any], Mapping[str, Any]] | None = None
    truth: Callable[..., Any] | None = field(default=None)
    expected_failed: Mapping[str, str] = Factory(dict)


#: A case, several, a function that gives several, or the place of any of these as ``"pkg.module:attr"``.
Cases = str | Case | Iterable[Case] | Callable[[], Iterable[Case]] | None


def load_cases(cases: Cases) -> tuple[Case, ...]:
    """Return the cases, from wherever they are.

    Raises
    ------
    CurvkitError
        If the place has no cases.
    """
    found: Any = cases
    if isinstance(found, str):
        from curvkit_core.host.references import resolve

        found = resolve(found, "the cases")
    if callable(found) and not isinstance(found, Case):
        found = found()
    found = () if found is None else (found,) if isinstance(found, Case) else tuple(found)
    for item in found:
        if not isinstance(item, Case):
            msg = (
                f"cases={cases!r:.80} holds an item of type {type(item).__name__}: expected curvkit_core.testing.Case."
            )
            raise CurvkitError(msg)
    return found  # type: ignore[no-any-return]  # what was imported by name
