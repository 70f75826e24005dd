"""What eigsh adds to its products: its time less theirs, over theirs, on the GPT-2-shaped network's kept GGN."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from matvec.workloads import WORKLOADS
from torch import Tensor

__all__ = ["GOAL", "measure_bookkeeping"]

K, PRODUCTS = 10, 40
GOAL = 0.10


def measure_bookkeeping(
    *, small: bool, repeats: int, clock: Callable[[], float], log: Callable[[str], None]
) -> dict[str, Any]:
    """One run of 40 products, `repeats` times: ``shares`` of bookkeeping, their median ``share``, seconds of each."""
    from curvkit_core import CrossEntropyLoss, GGNOperator, Problem, eigsh
    from curvkit_core.operators import CurvatureOperator

    class Timed(CurvatureOperator):
        """The same operator, its products timed."""

        def __init__(self, base: CurvatureOperator) -> None:
            super().__init__(base.space, symmetric=base.symmetric, problem=base.problem)
            self.base, self.seconds = base, 0.0

        def rows_product(self, V: Tensor) -> Tensor:
            begun = clock()
            product = self.base.apply(V)
            self.seconds += clock() - begun
            return product

    workload = WORKLOADS["gpt2"](small=small)
    problem = Problem(workload.model, [(workload.inputs, workload.targets)], CrossEntropyLoss(), preflight="off")
    ggn = GGNOperator(problem, strategy="reverse", cache="keep")
    log("bookkeeping: the first product, which builds the graph")
    ggn.apply(ggn.space.random("gaussian", 0, 0, 1))
    shares, runs, products = [], [], []
    for repeat in range(repeats):
        log(f"bookkeeping: repetition {repeat + 1} of {repeats}")
        op = Timed(ggn)
        begun = clock()
        result = eigsh(op, k=K, tol=1e-12, max_matvecs=PRODUCTS, seed=repeat)
        seconds = clock() - begun
        assert result.num_matvecs <= PRODUCTS
        runs.append(seconds)
        products.append(op.seconds)
        shares.append((seconds - op.seconds) / op.seconds)
    return {
        "text": workload.text,
        "n": ggn.n,
        "products": PRODUCTS,
        "seconds": runs,
        "seconds_of_products": products,
        "shares": shares,
        "share": median(shares),
        "missed": ["share"] if median(shares) > GOAL else [],
    }
