"""A registry of core alone, with local components whose answers are known, and a run file that uses them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import field, frozen, validators
from torch import Tensor, nn

from curvkit_core import (
    AlgorithmSpec,
    BackendSpec,
    CallableLoss,
    HessianOperator,
    KernelSpec,
    OperatorSpec,
    Problem,
    ProblemSpec,
    Registry,
    load_registry,
)
from curvkit_core.backends import SingleBackend

SPECTRUM = (5.0, 3.0, 2.0, 1.0, 0.5, -1.0)


@frozen(kw_only=True)
class DiagonalConfig:
    """A quadratic with a known spectrum.

    Parameters
    ----------
    spectrum : list of float
        Its eigenvalues.
    seed : int or None
        Not used; for the planner to draw.
    """

    spectrum: tuple[float, ...] = SPECTRUM
    seed: int | None = None


class Diagonal(nn.Module):
    """Two parameters, `head` of two elements and `tail` of the rest, and the loss sum_i lambda_i w_i^2 / 2."""

    def __init__(self, spectrum: tuple[float, ...]) -> None:
        super().__init__()
        self.spectrum = torch.tensor(spectrum, dtype=torch.float64)
        self.head = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.tail = nn.Parameter(torch.ones(len(spectrum) - 2, dtype=torch.float64))


def quadratic(model: nn.Module, batch: Any) -> Tensor:
    return 0.5 * (model.spectrum * torch.cat([model.head, model.tail]) ** 2).sum() * batch[0].mean()


def build_diagonal(config: DiagonalConfig) -> Problem:
    batches = [(torch.ones(3, 1, dtype=torch.float64),), (torch.ones(1, 1, dtype=torch.float64),)]
    return Problem(Diagonal(config.spectrum), batches, CallableLoss(quadratic))


@frozen(kw_only=True)
class Rayleigh:
    """A third party's algorithm: the quotient of one vector of ones.

    Parameters
    ----------
    scale : float, above 0
        Multiplies the answer.
    seed : int or None
        None draws one.
    """

    scale: float = field(default=1.0, validator=validators.gt(0.0))
    most: int = 100
    seed: int | None = None

    def init(self, space: Any) -> dict[str, Any]:
        if space.n > self.most:
            msg = f"most={self.most} is out of range: expected at least {space.n}, the operator's size."
            raise ValueError(msg)
        return {"row": torch.ones(1, space.n, dtype=space.dtype), "quotient": None}

    def ask(self, state: dict[str, Any], max_rows: int) -> Tensor | None:
        return state["row"] if state["quotient"] is None else None

    def tell(self, space: Any, state: dict[str, Any], V: Tensor, AV: Tensor) -> dict[str, Any]:
        return {**state, "quotient": float((V * AV).sum() / (V * V).sum())}

    def result(self, space: Any, state: dict[str, Any]) -> RayleighResult:
        return RayleighResult(quotient=self.scale * state["quotient"], vector=state["row"][0])


@frozen(kw_only=True, eq=False)
class RayleighResult:
    """Its result, which core knows nothing of."""

    quotient: float
    vector: Tensor


@frozen(kw_only=True)
class CountingBackend:
    """One process that counts its reductions."""

    counts: list[int] = field(factory=list, eq=False)
    inner: SingleBackend = SingleBackend()

    @property
    def world(self) -> Any:
        return self.inner.world

    def space(self, parameters: Any) -> Any:
        return self.inner.space(parameters)

    def reduce(self, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.counts.append(len(sums))
        return sums

    def shard(self, batches: Any) -> Any:
        return batches

    def context(self, model: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()


def other_ce_hvp(logits: Tensor, weight: Tensor, u: Tensor, /) -> Tensor:
    from curvkit_core.kernels import ce_hvp

    return ce_hvp(logits, weight, u)


def explode(*_: Any) -> Any:
    return 1 // 0


@frozen(kw_only=True)
class ScaledConfig:
    """A multiple of the Hessian.

    Parameters
    ----------
    factor : float
        The multiple.
    """

    factor: float = 1.0


def build_scaled(problem: Problem, config: ScaledConfig) -> Any:
    return config.factor * HessianOperator(problem)


def not_symmetric(problem: Problem) -> HessianOperator:
    operator = HessianOperator(problem)
    operator.symmetric = False
    return operator


@pytest.fixture
def registry() -> Registry:
    """Core, and ``local/`` components."""
    made = load_registry(entry_points=[], environ={})
    for spec in (
        ProblemSpec(name="local/diagonal", summary="a", factory=build_diagonal, config=DiagonalConfig),
        ProblemSpec(name="local/none", summary="a", factory=lambda: 3),
        ProblemSpec(name="local/explode", summary="a", factory=explode),
        ProblemSpec(name="local/lacking", summary="a", factory=explode, requires=["no-such-thing>=2"]),
        OperatorSpec(name="local/none", summary="a", factory=lambda problem: None),
        OperatorSpec(name="local/scaled", summary="a", factory=build_scaled, config=ScaledConfig),
        OperatorSpec(name="local/skew", summary="a", factory=not_symmetric),
        AlgorithmSpec(name="local/rayleigh", summary="a", factory=Rayleigh),
        BackendSpec(name="local/counting", summary="a", factory=CountingBackend),
        KernelSpec(name="local/ce-hvp", summary="a", factory=other_ce_hvp, op="ce_hvp"),
    ):
        made.register_local(spec)
    return made


@pytest.fixture
def data() -> dict[str, Any]:
    """A run file's tables: a known spectrum, three algorithms."""
    return {
        "schema": 1,
        "problem": {"kind": "local/diagonal"},
        "operator": [{"kind": "hessian"}, {"kind": "core/hessian", "params": ["tail"]}],
        "algorithm": [
            {"kind": "eigsh", "k": 2, "tol": 1e-10},
            {"kind": "core/trace", "method": "hutchinson", "num_matvecs": 16, "on": ["hessian"]},
            {"kind": "local/rayleigh", "scale": 2},
        ],
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
