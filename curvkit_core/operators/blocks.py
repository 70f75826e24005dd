"""Block-diagonal operators: a block a group of parameters, the coupling between groups left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import Tensor, nn

from curvkit_core.operators.base import CurvatureOperator
from curvkit_core.operators.empirical_fisher import EmpiricalFisherOperator
from curvkit_core.operators.fisher import FisherOperator
from curvkit_core.operators.ggn import GGNOperator
from curvkit_core.operators.hessian import HessianOperator
from curvkit_core.problem.problem import Problem
from curvkit_core.problem.selection import ReadsModel, Selector, as_selector

__all__ = ["BlockDiagonalOperator", "block_diagonal"]

_KINDS: dict[str, Callable[[Problem], CurvatureOperator]] = {
    "hessian": HessianOperator,
    "ggn": GGNOperator,
    "fisher": FisherOperator,
    "empirical-fisher": EmpiricalFisherOperator,
}


class BlockDiagonalOperator(CurvatureOperator):
    """Operators over disjoint blocks of a problem's parameters, zero between them. A product is one of every block.

    Parameters
    ----------
    problem : Problem
        Over all the blocks' parameters; the vectors are laid out in its order.
    blocks : sequence of CurvatureOperator
        Each over ``problem.restrict(...)``; every parameter of `problem` belongs to one of them.

    Raises
    ------
    ValueError
        If blocks overlap, leave a parameter out, or speak of one that is not the problem's.
    """

    def __init__(self, problem: Problem, blocks: Sequence[CurvatureOperator]) -> None:
        super().__init__(problem.space, symmetric=all(b.symmetric for b in blocks), problem=problem)
        self.blocks = tuple(blocks)
        self.deterministic = all(b.deterministic for b in blocks)
        self._places = _places(problem, self.blocks)

    def rows_product(self, V: Tensor) -> Tensor:
        """Each block's product with its part of V."""
        out = self.space.zeros(V.shape[0])
        for block, places in zip(self.blocks, self._places, strict=True):
            part = block.space.zeros(V.shape[0])
            for whole, own in places:
                part[:, own] = V[:, whole]
            product = block.rows_product(part)
            for whole, own in places:
                out[:, whole] = product[:, own]
        return out

    def transposed(self) -> CurvatureOperator | None:
        """The blocks' transposes."""
        if self.symmetric:
            return self
        assert self.problem is not None
        flipped = [b.transposed() for b in self.blocks]
        known = [f for f in flipped if f is not None]
        return BlockDiagonalOperator(self.problem, known) if len(known) == len(flipped) else None


def block_diagonal(
    problem: Problem,
    groups: Iterable[str | Iterable[str] | Selector | ReadsModel],
    *,
    kind: str | Callable[[Problem], CurvatureOperator] = "ggn",
) -> BlockDiagonalOperator:
    """Make the block-diagonal part of an operator over groups of parameters.

    Parameters
    ----------
    problem : Problem
        Its parameters that are in no group are left out: the operator's size is that of the groups together, in the
        problem's order.
    groups : iterable of str, iterable of str, or callable
        A block each, read as the `params` of :class:`Problem`: ``["blocks.0", "blocks.1"]``, ``[["a.*", "b.*"], "c"]``.
    kind : {"hessian", "ggn", "fisher", "empirical-fisher"} or callable
        ``kind(problem)`` -> operator: for options of your own, ``lambda p: FisherOperator(p, num_samples=4)``.

    Returns
    -------
    BlockDiagonalOperator
        Its ``blocks`` in the groups' order share the problem's data, checks and kept graphs.

    Raises
    ------
    TypeError
        If `groups` is one string.
    ValueError
        If a group selects nothing or part of a parameter, two share a parameter, or `kind` is unknown.
    """
    if isinstance(groups, str):
        msg = f"groups={groups!r} is one string: expected a list of groups, [{groups!r}, ...], a block each."
        raise TypeError(msg)
    selectors = [as_selector(group, problem.model) for group in groups]
    if not selectors:
        msg = "groups is empty: expected at least one group of parameters, for instance ['blocks.0', 'blocks.1']."
        raise ValueError(msg)
    if isinstance(kind, str):
        if kind not in _KINDS:
            msg = f"kind={kind!r} is unknown: expected one of {', '.join(map(repr, _KINDS))}, or a callable."
            raise ValueError(msg)
        kind = _KINDS[kind]
    chosen = {id(e.parameter) for e in problem.parameters}
    blocks = [kind(problem.restrict(_Within(selector, chosen))) for selector in selectors]
    together = {id(e.parameter) for b in blocks if b.problem is not None for e in b.problem.parameters}
    whole = problem.restrict(lambda name, parameter: id(parameter) in together)
    return BlockDiagonalOperator(whole, blocks)


class _Within:
    """What `selector` selects of the parameters in `chosen`."""

    def __init__(self, selector: Selector, chosen: set[int]) -> None:
        self.selector = selector
        self.chosen = chosen
        self.patterns = getattr(selector, "patterns", ())

    def __call__(self, name: str, parameter: nn.Parameter) -> bool | Tensor:
        return id(parameter) in self.chosen and self.selector(name, parameter)

    def __repr__(self) -> str:
        return repr(self.selector)


def _places(problem: Problem, blocks: Iterable[CurvatureOperator]) -> list[list[tuple[slice, slice]]]:
    """For each block, where its parameters lie in the whole's vectors and in its own."""
    where = {e.name: e for e in problem.parameters}
    owner: dict[str, int] = {}
    found = []
    for number, block in enumerate(blocks):
        places = []
        for name, own in _entries(block, number):
            if name not in where:
                msg = f"block {number} holds {name!r}, which is no parameter of {problem!r}. Restrict that problem."
                raise ValueError(msg)
            if name in owner:
                msg = f"{name!r} is in blocks {owner[name]} and {number}: expected disjoint blocks."
                raise ValueError(msg)
            owner[name] = number
            places.append((where[name].place, own))
        found.append(places)
    missing = [name for name in where if name not in owner]
    if missing:
        msg = (
            f"{missing[0]!r} is in no block ({len(missing)} such parameters): expected every parameter of {problem!r} "
            "in one. Add a block, or restrict the problem."
        )
        raise ValueError(msg)
    return found


def _entries(block: CurvatureOperator, number: int) -> Iterator[tuple[str, slice]]:
    if block.problem is None or block.n != block.problem.parameters.n:
        msg = f"block {number}, {block!r}, is not laid out over a problem's parameters: expected an operator of one."
        raise ValueError(msg)
    for entry in block.problem.parameters:
        if entry.elements is not None:
            msg = (
                f"block {number} holds part of {entry.name!r}, {entry.numel} of its elements: expected whole "
                "parameters. For a part by itself use problem.restrict(...)."
            )
            raise ValueError(msg)
        yield entry.name, entry.place
