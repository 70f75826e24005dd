"""Eigenvalues of a diagonal operator: curvkit's eigsh, SciPy's (ARPACK) and hessian-eigenthings' Lanczos, in turn.

Each gets the same products and the same k, end and tolerance; the others keep their own defaults. A repetition runs all
of them one after another, and a time is compared with SciPy's of the same repetition.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from statistics import quantiles
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

__all__ = ["SPECTRA", "Spectrum", "measure_eigenvalues"]

K, TOL = 10, 1e-4
REFERENCE = "scipy eigsh"
#: hessian-eigenthings neither restarts nor stops early: it makes the steps that it is told to, here so many.
EIGENTHINGS_STEPS = 40


@frozen(kw_only=True)
class Spectrum:
    """A diagonal, and what curvkit is to reach on it: time and products over SciPy's, relative error of the values."""

    text: str
    make: Callable[[int], Tensor]
    n: int
    time_goal: float
    products_goal: float = 1.2
    error_goal: float = 1e-6


def _outliers(n: int) -> Tensor:
    diagonal = torch.rand(n, generator=torch.Generator().manual_seed(0))
    diagonal[:20] = torch.linspace(2, 40, 20)
    return diagonal


SPECTRA = {
    "outliers": Spectrum(
        text="20 outliers from 2 to 40 over a uniform bulk in [0, 1]", make=_outliers, n=4_000_000, time_goal=1.0
    ),
    "decay": Spectrum(
        text="eigenvalues i^-1/2", make=lambda n: torch.arange(1.0, n + 1) ** -0.5, n=1_000_000, time_goal=1.0
    ),
}


@frozen(kw_only=True)
class _Outcome:
    values: Tensor
    converged: bool


Product = Callable[[Tensor], Tensor]


def _curvkit(**options: Any) -> Callable[[Product, Tensor, int], _Outcome]:
    def solve(product: Product, diagonal: Tensor, seed: int) -> _Outcome:
        from curvkit_core import LambdaOperator, eigsh

        op = LambdaOperator(product, len(diagonal))
        found = eigsh(op, k=K, which="LA", tol=TOL, seed=seed, **options)
        return _Outcome(values=found.eigenvalues, converged=bool(found.converged.all()))

    return solve


def _scipy(product: Product, diagonal: Tensor, seed: int) -> _Outcome:
    import numpy as np
    from scipy.sparse.linalg import LinearOperator, eigsh

    n = len(diagonal)
    op = LinearOperator((n, n), matvec=lambda v: product(torch.from_numpy(v.reshape(-1))).numpy(), dtype=np.float32)
    start = np.random.default_rng(seed).standard_normal(n).astype(np.float32)
    values, _vectors = eigsh(op, k=K, which="LA", tol=TOL, v0=start)  # raises where it has not converged
    return _Outcome(values=torch.from_numpy(values.copy()).double().sort(descending=True).values, converged=True)


def _eigenthings(product: Product, diagonal: Tensor, seed: int) -> _Outcome:
    from hessian_eigenthings.algorithms.lanczos import lanczos
    from hessian_eigenthings.operators.base import LambdaOperator

    op = LambdaOperator(product, len(diagonal))
    found = lanczos(op, k=K, which="LA", tol=TOL, max_iter=EIGENTHINGS_STEPS, seed=seed)
    return _Outcome(values=found.eigenvalues.double(), converged=bool(found.converged.all()))


SOLVERS: dict[str, Callable[[Product, Tensor, int], _Outcome]] = {
    "curvkit eigsh": _curvkit(),
    "curvkit eigsh, full": _curvkit(reorthogonalize="full"),
    REFERENCE: _scipy,
    "hessian-eigenthings lanczos": _eigenthings,
}


def measure_eigenvalues(
    spectrum: Spectrum, *, n: int, repeats: int, clock: Callable[[], float], log: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Run every solver `repeats` times, in turn.

    Returns
    -------
    list of dict
        A row a solver: ``products``, ``seconds``, ``ratios`` (lists), ``error`` (the largest of all repetitions),
        ``missed`` (goals), or ``failed``, the reason.
    """
    diagonal = spectrum.make(n)
    right = diagonal.double().sort(descending=True).values[:K]
    rows: dict[str, dict[str, Any]] = {
        name: {"solver": name, "products": [], "seconds": [], "errors": [], "converged": True} for name in SOLVERS
    }
    for repeat in range(-1, repeats):  # the first, of a small one, loads what is loaded on first use: not counted
        shown = diagonal if repeat >= 0 else spectrum.make(1000)
        for name, solve in SOLVERS.items():
            row = rows[name]
            if "failed" in row:
                continue
            log(f"{spectrum.text}: {name}, repetition {max(repeat, 0) + 1} of {repeats}")
            calls: list[int] = []

            def product(v: Tensor, calls: list[int] = calls, shown: Tensor = shown) -> Tensor:
                calls.append(1)
                return shown * v

            gc.collect()
            begun = clock()
            try:
                found = solve(product, shown, max(repeat, 0))
            except Exception as error:  # noqa: BLE001 - a tool that is not there is a row with the reason
                row["failed"] = f"{type(error).__name__}: {error}".splitlines()[0][:100]
                continue
            if repeat < 0:
                continue
            row["seconds"].append(clock() - begun)
            row["products"].append(len(calls))
            row["errors"].append(float((found.values[:K] / right - 1.0).abs().max()))
            row["converged"] = row["converged"] and found.converged
    return [_completed(row, rows[REFERENCE], spectrum) for row in rows.values()]


def _completed(row: dict[str, Any], reference: dict[str, Any], spectrum: Spectrum) -> dict[str, Any]:
    if "failed" in row:
        return row
    if "failed" not in reference:
        pairs = zip(row["seconds"], reference["seconds"], strict=True)
        row["ratios"] = [a / b for a, b in pairs]
        row["ratio"] = _quartiles(row["ratios"])
        row["products_ratio"] = sum(row["products"]) / sum(reference["products"])
    row["error"] = max(row["errors"])
    missed = []
    if row["solver"] == "curvkit eigsh":
        missed = ["error"] if row["error"] > spectrum.error_goal or not row["converged"] else []
        if "ratio" in row:
            missed += ["time"] if row["ratio"][1] > spectrum.time_goal else []
            missed += ["products"] if row["products_ratio"] > spectrum.products_goal else []
    row["missed"] = missed
    return row


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high
