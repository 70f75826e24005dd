"""Residual bounds of eigsh are honest: at every stop, with noisy products, coarse bases, lost orthogonality."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from cases import F64, symmetric_matrix
from eigen_cases import SPECTRA, drive, operator, residuals, separate

from curvkit_core import LambdaOperator, eigsh
from curvkit_core.algorithms import Eigsh
from curvkit_core.algorithms.basis import Basis
from curvkit_core.backends import VectorSpace

ALL_OPTIONS = [
    {},
    {"reorthogonalize": "full"},
    {"basis_storage": "host"},
    {"basis_storage": "disk"},
    {"basis_dtype": "float32"},
    {"basis_dtype": "bfloat16"},
]


NEAR_PAIRS = torch.tensor([40.0, 39.999, 20.0, 19.9, 10.0, 9.0, 8.0], dtype=F64)


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
def test_bounds_hold_at_every_possible_stop(options: dict[str, str]) -> None:
    """Before the basis is full, right after a restart, after the noise was measured: |A q - theta q| <= bound."""
    A = symmetric_matrix(SPECTRA["spread"])
    op = operator(A)
    algorithm = Eigsh(k=4, ncv=12, tol=1e-13, max_matvecs=60, seed=0, **options)
    for number, state in enumerate(drive(algorithm, op), start=1):
        for ended in (state, algorithm.finish(op.space, separate(state))):
            result = algorithm.result(op.space, ended)
            truth = residuals(result, A)
            assert (truth <= result.residuals * 1.001).all(), number
            assert not (truth <= 1e-3 * result.residuals).all()
        assert result.num_matvecs == number


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["outliers", "power-law", "spread"])
def test_partial_reorthogonalisation_costs_no_digit_of_a_value(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eigenvalues to rounding as with full, against a dense decomposition, at half of the passes; without any they go.

    Values have errors of residual^2 / gap, below rounding here, and of rounding: 10 eps |A|.
    """
    spectrum = torch.cat([torch.linspace(0.0, 1.0, 340, dtype=F64), SPECTRA[name].abs() + 1.0])
    A = symmetric_matrix(spectrum).to(dtype)
    exact = torch.linalg.eigvalsh(A.double()).flip(0)[:5]
    passes: list[int] = []

    plain = Basis.gram

    def counted(*args: Any, **options: Any) -> torch.Tensor:
        passes.append(1)
        return plain(*args, **options)

    monkeypatch.setattr(Basis, "gram", counted)

    def solve(mode: str, tol: float = 1e-4) -> tuple[float, bool]:
        passes.clear()
        result = eigsh(operator(A), k=5, ncv=30, tol=tol, max_matvecs=200, seed=0, reorthogonalize=mode)
        bounded = (residuals(result, A.double()) <= result.residuals * 1.01).all()
        return float((result.eigenvalues - exact).abs().max() / exact[0]), bool(bounded)

    full, full_bounded = solve("full")
    all_passes = len(passes)
    partial, partial_bounded = solve("partial")
    tol = 10 * torch.finfo(dtype).eps
    assert full_bounded and partial_bounded
    assert full <= tol + 1e-7 and partial <= full + tol
    # outliers 160 times the bulk's beta: rounding alone passes the limit of overlaps in float32, so every row is due
    assert len(passes) <= all_passes * (1.0 if name == "outliers" and dtype == torch.float32 else 0.7)
    monkeypatch.setattr("curvkit_core.algorithms.eigenpairs.reorthogonalization._LIMIT", -9.0)
    lost, _ = solve("partial", tol=0.0)
    assert len(passes) <= 8  # the first rows, in any case
    assert lost > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["outliers", "power-law", "near-pairs"])
def test_partial_reorthogonalisation_costs_no_digit_of_a_residual(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """True residuals are at rounding, as with full, and vectors orthonormal, also where overlaps grow further.

    Rounding adds up over 160 products like a random walk: 3 eps sqrt(160) |A|.
    """
    top = NEAR_PAIRS if name == "near-pairs" else SPECTRA[name]
    A = symmetric_matrix(torch.cat([torch.linspace(0.0, 1.0, 340, dtype=F64), top.abs() + 1.0])).to(dtype)
    norm, eps = float(torch.linalg.matrix_norm(A.double(), 2)), torch.finfo(dtype).eps

    def solve(mode: str) -> tuple[float, float]:
        result = eigsh(operator(A), k=5, ncv=30, tol=0.0, max_matvecs=160, seed=0, reorthogonalize=mode)
        truth = residuals(result, A.double())
        assert (truth <= result.residuals * 1.001).all()
        overlaps = result.eigenvectors.double() @ result.eigenvectors.double().mT - torch.eye(5, dtype=F64)
        return float(truth[result.residuals < 1e-2 * norm].max()) / norm, float(overlaps.abs().max())

    full, _ = solve("full")
    partial, overlaps = solve("partial")
    walk = 3 * eps * 160**0.5
    assert partial <= max(full, walk)
    assert overlaps <= 10 * eps
    monkeypatch.setattr("curvkit_core.algorithms.eigenpairs.reorthogonalization._SAFE", 1e-2)
    partial, overlaps = solve("partial")
    assert partial <= max(full, walk)
    assert overlaps <= 10 * eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["outliers", "near-pairs"])
def test_what_reorthogonalisation_takes_away_is_what_residuals_live_on(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """n = 20,000: residuals at rounding, in float32 below those of full; by T alone they are overlaps times |A|."""
    n, eps = 20_000, torch.finfo(dtype).eps
    diagonal = torch.rand(n, dtype=F64, generator=torch.Generator().manual_seed(0))
    if name == "outliers":
        diagonal[:20] = torch.linspace(2.0, 40.0, 20, dtype=F64)
    else:
        diagonal *= 0.01
        diagonal[:10] = torch.tensor([100.0, 50.0, 49.9, 20.0, 10.0, 5.0, 3.0, 2.9, 2.8, 1.0], dtype=F64)
    d = diagonal.to(dtype)
    norm = float(d.max())

    def solve(mode: str) -> tuple[float, float]:
        result = eigsh(
            LambdaOperator(lambda v: v * d, n, dtype=dtype), k=9, tol=0.0, max_matvecs=50, seed=0, reorthogonalize=mode
        )
        V = result.eigenvectors.double()
        truth = (V * d.double() - result.eigenvalues[:, None] * V).norm(dim=1)
        assert (truth <= 1.001 * result.residuals).all()
        return float(truth.max()) / norm, float((V @ V.mT - torch.eye(9, dtype=F64)).abs().max())

    full, _ = solve("full")
    partial, overlaps = solve("partial")
    assert partial <= (min(full, eps) if dtype == torch.float32 else 10 * eps)
    assert overlaps <= 10 * eps
    module = importlib.import_module("curvkit_core.algorithms.eigenpairs.eigsh")
    corrected = module.ritz_pairs
    monkeypatch.setattr(module, "ritz_pairs", lambda *a, **options: corrected(*a, **{**options, "overlap": 0.0}))
    uncorrected, _ = solve("partial")
    assert dtype == torch.float64 or uncorrected > 2 * partial

    def normalize(
        space: VectorSpace, rows: torch.Tensor, theta: Any, left: torch.Tensor, residuals: Any
    ) -> torch.Tensor:
        rows /= space.norms(rows).to(rows)[:, None]
        return left

    monkeypatch.setattr(module, "orthonormalize_ritz_vectors", normalize)
    assert solve("partial")[0] > 5 * partial


NOISE = {
    "bfloat16 results": lambda A, V: (V @ A).bfloat16().to(V.dtype),
    "bfloat16": lambda A, V: (V.bfloat16() @ A.bfloat16()).to(V.dtype),
    "float16 arguments": lambda A, V: V.half().to(V.dtype) @ A,
    "random": lambda A, V: V @ A + 1e-3 * A.norm() * torch.nn.functional.normalize(torch.randn_like(V), dim=1),
}


@pytest.mark.parametrize("name", ["outliers", "power-law", "near-pairs", "indefinite"])
@pytest.mark.parametrize("noise", NOISE)
def test_partial_reorthogonalisation_takes_noisy_products(noise: str, name: str) -> None:
    """As good as full: the estimate starts from what the products' noise is. Pairs, bounds, convergence."""
    tops = {"near-pairs": NEAR_PAIRS, "indefinite": torch.tensor([-30.0, -5.0, 6.0, 20.0], dtype=F64)}
    top = tops[name] if name in tops else SPECTRA[name].abs() + 1.0
    spectrum = torch.cat([torch.linspace(0.0, 1.0, 340, dtype=F64), top])
    exact, A = symmetric_matrix(spectrum), symmetric_matrix(spectrum).float()
    found = {}
    for mode in ("full", "partial"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            op = LambdaOperator(lambda v: NOISE[noise](A, v[None])[0], len(A), dtype=torch.float32)
            result = eigsh(op, k=4, which="LM", tol=1e-4, max_matvecs=120, seed=0, reorthogonalize=mode)
        truth = residuals(result, exact)
        assert (truth <= 1.01 * result.residuals).all()
        gram = result.eigenvectors.double() @ result.eigenvectors.double().mT
        assert (gram - torch.eye(4, dtype=F64)).abs().max() <= 10 * torch.finfo(torch.float32).eps
        found[mode] = (float(truth.max()), result)
    full, partial = found["full"], found["partial"]
    assert partial[0] <= 2.0 * full[0]
    assert partial[1].status == full[1].status
    assert partial[1].num_matvecs <= full[1].num_matvecs + 10  # one restart: noise decides when it ends
    gap = 1e-4 * float(spectrum.abs().max()) + 2 * full[0]
    assert (partial[1].eigenvalues - full[1].eigenvalues).abs().max() <= gap


@pytest.mark.parametrize("scale", [1.0, 1e20])
def test_repeated_values_take_the_basis_apart_and_nothing_is_lost(scale: float) -> None:
    """Five values and fewer, many times each: couplings of 1e-10 |A|, after which rows begin as rounding alone.

    Without the distrust that follows such a coupling a tenth of these runs ends with other overlaps, or bounds.
    """
    for seed in range(24):
        generator = torch.Generator().manual_seed(seed)
        n = int(torch.randint(10, 40, (1,), generator=generator))
        levels = torch.tensor([-1.0, 0.0, 0.25, 0.5, 1.0], dtype=F64)[
            torch.randperm(5, generator=generator)[: 2 + seed % 4]
        ]
        A = symmetric_matrix(levels[torch.randint(0, len(levels), (n,), generator=generator)])
        op = LambdaOperator(lambda v, A=A: (A @ v) * scale, n, dtype=F64)
        for which in ("LA", "SA", "BE"):
            result = eigsh(op, k=n // 2, which=which, tol=1e-10, seed=seed)
            assert result.status == "converged"
            assert (residuals(result, A * scale) <= 1.01 * result.residuals).all()
            gram = result.eigenvectors @ result.eigenvectors.mT
            assert (gram - torch.eye(n // 2, dtype=F64)).abs().max() <= 1e-12


def test_the_default_is_partial_but_for_rounded_rows() -> None:
    """As a basis in a lower dtype is stored, the estimate knows nothing of it."""
    space = operator(symmetric_matrix(SPECTRA["spread"])).space
    assert Eigsh(k=2, seed=0).init(space).overlaps is not None
    assert Eigsh(k=2, seed=0, basis_dtype="float64").init(space).overlaps is not None
    assert Eigsh(k=2, seed=0, basis_dtype="bfloat16").init(space).overlaps is None
    assert Eigsh(k=2, seed=0, reorthogonalize="full").init(space).overlaps is None


@pytest.mark.parametrize("options", ALL_OPTIONS[2:4], ids=str)
def test_a_basis_off_the_device_gives_the_same_pairs(options: dict[str, str]) -> None:
    """But for rounding: rows come over two at a time, and sums of other lengths round otherwise."""
    A = symmetric_matrix(SPECTRA["spread"])
    here = eigsh(operator(A), k=4, ncv=12, tol=1e-12, seed=0)
    there = eigsh(operator(A), k=4, ncv=12, tol=1e-12, seed=0, **options)
    assert here.num_matvecs == there.num_matvecs
    gap = 0.13  # of this spectrum: vectors turn by a residual over it, 5e-12 |A| = 5
    assert (here.eigenvalues - there.eigenvalues).abs().max() <= 1e-13 * 5.0
    assert (here.eigenvectors - there.eigenvectors).abs().max() <= 2 * 1e-12 * 5.0 / gap


@pytest.mark.parametrize(("dtype", "tol"), [("bfloat16", 1e-4), ("float16", 1e-4), ("float32", 1e-9)])
def test_a_coarse_basis_claims_no_more_than_it_can(dtype: str, tol: float) -> None:
    """Bounds of eps |A| at least, not converged, and an end; a tolerance above that is reached."""
    A = symmetric_matrix(SPECTRA["outliers"])
    coarse = eigsh(operator(A), k=3, tol=tol, basis_dtype=dtype, seed=0)
    eps = torch.finfo(getattr(torch, dtype)).eps
    assert coarse.status == "noise" and not coarse.converged.any()
    assert coarse.num_matvecs < 100
    assert (coarse.residuals >= eps * 39.0).all()
    assert (residuals(coarse, A) <= coarse.residuals).all()
    assert residuals(coarse, A).max() >= 1e-3 * eps * 40.0
    fine = eigsh(operator(A), k=1, tol=20 * eps, basis_dtype=dtype, seed=0)
    assert fine.status == "converged" and fine.converged.all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_operators_are_taken(dtype: torch.dtype) -> None:
    """X31: the operator rounds its argument and result to 2^-8 or 2^-11; vectors are float32."""
    A = symmetric_matrix(SPECTRA["outliers"])
    result = eigsh(operator(A, dtype), k=3, tol=1e-2, seed=0)
    tol = 4 * torch.finfo(dtype).eps * 40.0
    assert result.eigenvectors.dtype == torch.float32
    assert (result.eigenvalues - torch.tensor([40.0, 20.0, 10.0], dtype=F64)).abs().max() <= tol


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_noise_of_the_products_is_in_the_bounds(dtype: torch.dtype) -> None:
    """Lanczos's own bounds fall to 1e-5 |A| while products are right to 2^-8 or 2^-11: it stops and says why.

    The truth is the rounded matrix in float64, multiplied without rounding.
    """
    A = symmetric_matrix(torch.cat([torch.linspace(0, 1, 397, dtype=F64), torch.tensor([10.0, 20.0, 40.0])]))
    rounded = A.to(dtype).to(F64)
    result = eigsh(operator(A, dtype), k=3, tol=1e-5, seed=0)
    truth = residuals(result, rounded)
    assert result.status == "noise" and not result.converged.any()
    assert result.num_matvecs < 100
    assert (truth <= result.residuals).all()
    assert (result.residuals <= 20 * truth.max()).all()
    assert eigsh(operator(A, dtype), k=1, tol=0.05, seed=0).status == "converged"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [60, 400])
def test_bounds_with_noisy_products_hold_at_every_stop(n: int, dtype: torch.dtype) -> None:
    """Also before the noise is measured, when Lanczos's own bounds are far below it; those alone would not hold."""
    A = symmetric_matrix(torch.cat([torch.linspace(0, 1, n - 3, dtype=F64), torch.tensor([10.0, 20.0, 40.0])]))
    rounded = A.to(dtype).to(F64)
    algorithm, op = Eigsh(k=3, tol=1e-6, max_matvecs=45, seed=0), operator(A, dtype)
    plain = []
    for state in drive(algorithm, op):
        result = algorithm.result(op.space, state)
        truth = residuals(result, rounded)
        assert (truth <= result.residuals * 1.001).all(), state.num_matvecs
        assert not result.converged.any()
        state = separate(state)
        state.noise = state.spread = state.dropped = 0.0
        state.beside.zero_()
        plain.append(bool((truth <= algorithm.result(op.space, state).residuals * 1.001).all()))
    assert not all(plain)
