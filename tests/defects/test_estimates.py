"""Defects seen in other tools, in estimators: X31-X38, and what X28 says of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import F64, symmetric_matrix
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from curvkit_core import LambdaOperator, diagonal, eigsh, frobenius_norm, load_registry, spectral_density, trace
from curvkit_core.algorithms import run

DECAY = torch.arange(1, 41, dtype=F64) ** -1.5


def operator(A: Tensor, calls: list[int] | None = None) -> LambdaOperator:
    def product(v: Tensor) -> Tensor:
        if calls is not None:
            calls.append(1)
        return A @ v

    return LambdaOperator(product, len(A), dtype=A.dtype)


@pytest.mark.parametrize("scale", [1e-20, 1e-13, 1e20])
def test_x28_estimates_scale_with_the_operator(scale: float) -> None:
    """Absolute thresholds: an operator times c has c times the trace, and its density on c times the grid."""
    A = symmetric_matrix(DECAY)
    for method in ("hutchinson", "hutch++", "xtrace", "xnystrace"):
        one, other = (trace(operator(c * A), method=method, num_matvecs=30, seed=0) for c in (1.0, scale))
        assert other.estimate == pytest.approx(scale * one.estimate, rel=1e-9, abs=0)
        assert other.stderr == pytest.approx(scale * one.stderr, rel=1e-6, abs=0)
    one, other = (spectral_density(operator(c * A), num_probes=2, steps=10, seed=0) for c in (1.0, scale))
    assert torch.allclose(other.nodes / scale, one.nodes, rtol=0, atol=1e-9)
    assert torch.allclose(other.density * scale, one.density, rtol=1e-6, atol=1e-9 * float(one.density.max()))
    thresholded = torch.where((scale * A).abs() < 1e-10, 0.0, scale * A)  # the defect
    if scale < 1:
        assert float(thresholded.trace()) != pytest.approx(scale * float(A.trace()), rel=1e-2, abs=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_x31_low_precision_operators_are_estimated(dtype: torch.dtype) -> None:
    """SLQ and Hutch++ raise on bf16 operators: all run, right to the operator's own rounding."""
    A = symmetric_matrix(DECAY).to(dtype)
    truth = float(A.double().trace())
    for method in ("hutchinson", "hutch++", "xtrace"):
        assert trace(operator(A), method=method, num_matvecs=90, seed=0).estimate == pytest.approx(truth, rel=0.1)
    assert float(diagonal(operator(A), method="xdiag", seed=0).estimate.sum()) == pytest.approx(truth, rel=0.1)
    assert frobenius_norm(operator(A), num_matvecs=90, seed=0).estimate == pytest.approx(
        float(A.double().norm()), rel=0.2
    )
    density = spectral_density(operator(A), num_probes=4, steps=12, seed=0)
    assert float(density.nodes.max()) == pytest.approx(1.0, abs=4 * torch.finfo(dtype).eps)
    with pytest.raises((RuntimeError, TypeError)):  # the defect: an orthonormal basis in the operator's own dtype
        torch.linalg.qr(A)


@pytest.mark.parametrize("budget", [2, 3, 4, 5, 8, 31])
@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace", "xnystrace"])
def test_x32_the_budget_is_never_passed(method: str, budget: int) -> None:
    """Told 1 product, Hutch++ spends 3, stderr NaN: the count is the operator's own, and one error is given."""

    def kept(estimate: Callable[[LambdaOperator, int], tuple[int, float]]) -> bool:
        calls: list[int] = []
        told, stderr = estimate(operator(symmetric_matrix(DECAY), calls), budget)
        return len(calls) == told <= budget and stderr == stderr

    def ours(op: LambdaOperator, budget: int) -> tuple[int, float]:
        result = trace(op, method=method, num_matvecs=budget, seed=0)
        return result.num_matvecs, result.stderr

    def thirds_of_at_least_one(op: LambdaOperator, budget: int) -> tuple[int, float]:
        """The defect: a third for each phase, and one product at least."""
        third = max(1, -(-budget // 3))
        for v in torch.randn(3 * third, op.n, dtype=F64):
            op @ v
        return 3 * third, float("nan") if third == 1 else 0.1

    assert kept(ours)
    assert kept(thirds_of_at_least_one) == (budget > 3 and budget % 3 == 0)


def test_x32_a_budget_too_small_for_an_error_is_refused() -> None:
    with pytest.raises(ValueError, match="'num_matvecs' must be >= 2: 1"):
        trace(operator(symmetric_matrix(DECAY)), num_matvecs=1)


class Allocations(TorchDispatchMode):
    """Bytes of the largest tensor that any operation made, and of the largest of 64-bit integers."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.largest_int64 = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.untyped_storage().nbytes() == out.numel() * out.itemsize:
            self.largest = max(self.largest, out.numel() * out.itemsize)
            if out.dtype == torch.int64:
                self.largest_int64 = max(self.largest_int64, out.numel() * 8)
        return out


@pytest.mark.parametrize(
    ("estimate", "drawn"),
    [
        (lambda op, seed: trace(op, num_matvecs=9, seed=seed), lambda r: r.samples),
        (lambda op, seed: spectral_density(op, num_probes=1, steps=4, seed=seed), lambda r: r.nodes),
        (lambda op, seed: eigsh(op, k=1, max_matvecs=3, seed=seed), lambda r: r.eigenvectors),
    ],
)
def test_x33_no_seed_draws_one_and_records_it(
    estimate: Callable[[LambdaOperator, int | None], Any], drawn: Callable[[Any], Tensor]
) -> None:
    """seed=None always gives the same numbers: here others each time, and the recorded seed gives them back."""
    op = operator(symmetric_matrix(DECAY))

    def draws_and_records(estimate: Callable[[LambdaOperator, int | None], Any]) -> bool:
        results = []
        for seed in (None, None):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # a global generator is not what they come from
                results.append(estimate(op, seed))
        first, second = results
        return (
            first.seed != second.seed
            and not torch.equal(drawn(first), drawn(second))
            and torch.equal(drawn(first), drawn(estimate(op, first.seed)))
        )

    assert draws_and_records(estimate)
    assert not draws_and_records(lambda op, seed: estimate(op, 0 if seed is None else seed))


def test_x33_a_probe_takes_the_memory_of_one_vector() -> None:
    """Probes go through int64, 8 bytes a parameter: signs are made in chunks, whatever n is."""
    n = 1 << 22
    space = LambdaOperator(lambda v: v, n).space
    with Allocations() as made:
        space.random("rademacher", 0, 0, 1)
    assert made.largest <= 4 * n
    assert made.largest_int64 <= 2 * n
    with Allocations() as made:
        torch.randint(0, 2, (n,)).mul_(2).sub_(1).float()  # the defect
    assert made.largest_int64 == 8 * n


def test_x34_quadrature_has_no_ghosts() -> None:
    """SLQ without reorthogonalisation: an outlier has one node a probe, however many the steps."""
    spectrum = torch.cat([torch.linspace(0, 1, 199, dtype=F64), torch.tensor([50.0], dtype=F64)])
    A = symmetric_matrix(spectrum)
    result = spectral_density(operator(A), num_probes=3, steps=90, seed=0)
    assert ((result.nodes > 25) & (result.weights > 0)).sum(1).tolist() == [1, 1, 1]
    q, before, beta, diagonal, off = torch.ones(200, dtype=F64) / 200**0.5, 0.0, 0.0, [], []
    for _ in range(90):  # the defect: three terms and no more
        w = A @ q - beta * before
        diagonal.append(float(q @ w))
        w = w - diagonal[-1] * q
        before, beta = q, float(w.norm())
        off.append(beta)
        q = w / beta
    T = torch.tensor(diagonal).diag() + torch.tensor(off[:-1]).diag(1) + torch.tensor(off[:-1]).diag(-1)
    assert int((torch.linalg.eigvalsh(T.double()) > 25).sum()) > 1


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_x34_errors_cover_and_small_operators_work(method: str) -> None:
    """Estimates without error or seed, num_matvecs < n: 95 % bars cover over 200 seeds; n = 1 is exact."""
    A = symmetric_matrix(torch.linspace(-1, 2, 24, dtype=F64))
    truth = float(A.trace())
    results = [trace(operator(A), method=method, num_matvecs=40, seed=s) for s in range(200)]

    def coverage(factor: float) -> float:
        return sum(abs(r.estimate - truth) <= factor * 1.96 * r.stderr + 1e-12 for r in results) / 200

    assert coverage(1.0) >= 0.88
    assert coverage(0.3) < 0.88  # bars three times too short are seen
    tiny = trace(operator(torch.tensor([[3.0]], dtype=F64)), method=method, num_matvecs=5, seed=0)
    assert (tiny.estimate, tiny.stderr) == pytest.approx((3.0, 0.0), abs=1e-12)
    assert spectral_density(operator(torch.tensor([[3.0]], dtype=F64)), seed=0).nodes.unique().tolist() == [3.0]


def test_x35_the_density_has_mass_one_and_the_right_moments() -> None:
    """A density raises, or has wrong weights: its mass, moments and real nodes are held."""
    spectrum = torch.linspace(0, 1, 60, dtype=F64) ** 4
    result = spectral_density(operator(symmetric_matrix(spectrum)), num_probes=40, steps=12, seed=0)
    mass = float((result.density[1:] + result.density[:-1]).mul(result.grid.diff() / 2).sum())
    assert mass == pytest.approx(1.0, abs=1e-6)

    def off_moments(nodes: Tensor, weights: Tensor) -> float:
        """The worst of the first four moments, in standard errors over the probes."""
        worst = 0.0
        for power in range(1, 5):
            samples = (weights * nodes**power).sum(1)
            truth = float(spectrum.pow(power).mean())
            worst = max(worst, abs(float(samples.mean()) - truth) / float(samples.std() / len(samples) ** 0.5))
        return worst

    assert not result.nodes.is_complex()
    assert torch.allclose(result.weights.sum(1), torch.ones(40, dtype=F64), rtol=1e-12)
    assert off_moments(result.nodes, result.weights) <= 4.5
    wrong = result.weights.abs().sqrt()  # the defect: first components, not their squares
    assert off_moments(result.nodes, wrong / wrong.sum(1, keepdim=True)) > 4.5


def test_x36_an_estimate_does_not_stop_where_it_stalls() -> None:
    """The trace stops when its running mean stalls, a biased rule: over 200 seeds ours has no bias."""
    u = torch.full((4,), 0.5, dtype=F64)
    op = LambdaOperator(lambda v: u * (u @ v), 4, dtype=F64)  # trace 1; z'Az is 0, 1 or 4

    def bias_in_standard_errors(estimates: list[float]) -> float:
        found = torch.tensor(estimates, dtype=F64)
        assert float(found.std() / 200**0.5) < 0.1  # or nothing could be seen
        return abs(float(found.mean()) - 1.0) / float(found.std() / 200**0.5)

    def samples(seed: int) -> Tensor:
        return trace(op, method="hutchinson", num_matvecs=20, seed=seed).samples

    def until_it_stalls(samples: Tensor, tol: float = 1e-3) -> float:
        """The defect."""
        mean = 0.0
        for count in range(1, len(samples) + 1):
            before, mean = mean, float(samples[:count].mean())
            if abs(mean - before) / (abs(before) + 1e-6) < tol:
                break
        return mean

    assert bias_in_standard_errors([float(samples(seed).mean()) for seed in range(200)]) <= 4.5
    assert bias_in_standard_errors([until_it_stalls(samples(seed)) for seed in range(200)]) > 4.5


@pytest.mark.parametrize("name", load_registry(allow=[]).algorithms.names())
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_x37_every_listed_algorithm_runs(name: str, dtype: torch.dtype) -> None:
    """What is listed raises NotImplementedError, or goes through SciPy: all of ours runs, in either precision."""
    registry = load_registry(allow=[])
    algorithm = registry.load_factory(registry.algorithms.get(name))()
    A = (symmetric_matrix(DECAY) + 0.1 * torch.eye(40, dtype=F64)).to(dtype)
    asked_for = [p for p in inspect.signature(algorithm.init).parameters.values() if p.kind is p.KEYWORD_ONLY]
    inputs = {p.name: torch.ones(40, dtype=dtype) for p in asked_for if p.default is p.empty}
    result = run(algorithm, operator(A), inputs=inputs)
    assert result.info.algorithm
    assert result.num_matvecs > 0

    class ListedOnly:
        """The defect."""

        def init(self, space: Any) -> None:
            raise NotImplementedError

    with pytest.raises(NotImplementedError):
        run(ListedOnly(), operator(A))


OPTIONS: list[tuple[Callable[..., Any], dict[str, Any], dict[str, Any], Callable[[Any], Any]]] = [
    (eigsh, {"k": 2}, {"k": 3}, lambda r: len(r.eigenvalues)),
    (eigsh, {"which": "LA"}, {"which": "SA"}, lambda r: float(r.eigenvalues[0])),
    (eigsh, {"which": "LM"}, {"which": "BE"}, lambda r: float(r.eigenvalues[0])),
    (eigsh, {"tol": 1e-2}, {"tol": 1e-12}, lambda r: r.num_matvecs),
    (eigsh, {"ncv": 8, "tol": 1e-10}, {"ncv": 20, "tol": 1e-10}, lambda r: r.num_matvecs),
    (eigsh, {"max_matvecs": 5}, {"max_matvecs": 7}, lambda r: r.num_matvecs),
    (eigsh, {"seed": 0}, {"seed": 1}, lambda r: float(r.eigenvectors[0, 0].abs())),
    (trace, {"method": "hutchinson"}, {"method": "hutch++"}, lambda r: r.estimate),
    (trace, {"method": "hutchinson"}, {"method": "xtrace"}, lambda r: r.estimate),
    (trace, {"num_matvecs": 6}, {"num_matvecs": 9}, lambda r: r.num_matvecs),
    (trace, {"tol": 0.9, "method": "hutchinson"}, {"method": "hutchinson"}, lambda r: r.num_matvecs),
    (trace, {"probes": "rademacher"}, {"probes": "gaussian"}, lambda r: r.estimate),
    (trace, {"probes": "gaussian"}, {"probes": "sphere"}, lambda r: r.estimate),
    (trace, {"seed": 0}, {"seed": 1}, lambda r: r.estimate),
    (diagonal, {"method": "hutchinson"}, {"method": "xdiag", "num_matvecs": 30}, lambda r: float(r.estimate[0])),
    (diagonal, {"num_matvecs": 6}, {"num_matvecs": 9}, lambda r: r.num_matvecs),
    (diagonal, {"tol": 5.0}, {"tol": 1e-9}, lambda r: r.num_matvecs),
    (diagonal, {"probes": "rademacher"}, {"probes": "gaussian"}, lambda r: float(r.estimate[0])),
    (diagonal, {"seed": 0}, {"seed": 1}, lambda r: float(r.estimate[0])),
    (frobenius_norm, {"num_matvecs": 6}, {"num_matvecs": 9}, lambda r: r.num_matvecs),
    (frobenius_norm, {"tol": 0.5}, {"tol": 1e-9}, lambda r: r.num_matvecs),
    (frobenius_norm, {"probes": "rademacher"}, {"probes": "gaussian"}, lambda r: r.estimate),
    (frobenius_norm, {"seed": 0}, {"seed": 1}, lambda r: r.estimate),
    (spectral_density, {"num_probes": 2}, {"num_probes": 3}, lambda r: len(r.nodes)),
    (spectral_density, {"steps": 4}, {"steps": 5}, lambda r: r.nodes.shape[1]),
    (spectral_density, {"sigma": 0.1}, {"sigma": 0.2}, lambda r: float(r.density.max())),
    (spectral_density, {"grid_size": 10}, {"grid_size": 20}, lambda r: len(r.grid)),
    (spectral_density, {"probes": "rademacher"}, {"probes": "gaussian"}, lambda r: float(r.nodes[0, 0])),
    (spectral_density, {"seed": 0}, {"seed": 1}, lambda r: float(r.nodes[0, 0])),
]


@pytest.mark.parametrize(("function", "one", "other", "seen"), OPTIONS)
def test_x38_every_option_has_its_effect(
    function: Callable[..., Any], one: dict[str, Any], other: dict[str, Any], seen: Callable[[Any], Any]
) -> None:
    """reortho="none" reorthogonalises all the same: each option's effect is observed."""
    A, options_of = symmetric_matrix(torch.cat([DECAY, -0.5 * DECAY])), function

    def effect(function: Callable[..., Any]) -> bool:
        small = {"num_probes": 2, "steps": 8} if options_of is spectral_density else {}
        first, second = (seen(function(operator(A), **{"seed": 0, **small, **options})) for options in (one, other))
        return bool(first != second)

    assert effect(function)
    assert not effect(lambda op, **options: function(op, **{"seed": 0, **one}))  # the defect: the option is not read
