"""What eigsh adds to its products: its time less theirs, over theirs, on the GPT-2-shaped network.

A product of the GGN is the cheapest there is, one of the Hessian costs about twice as much: the share depends on it.
"""

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
    """One run of 40 products on kept graphs, `repeats` times an operator: the ``shares`` of bookkeeping and more."""
    import curvkit_core
    from curvkit_core import CrossEntropyLoss, Problem, eigsh
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

        def rows_product_into(self, V: Tensor, out: Tensor) -> None:
            begun = clock()
            self.base.apply(V, out=out)
            self.seconds += clock() - begun

    workload = WORKLOADS["gpt2"](small=small)
    rows: list[dict[str, Any]] = []
    n = 0
    for name, reorthogonalize in (("GGNOperator", None), ("GGNOperator", "full"), ("HessianOperator", None)):
        label = name if reorthogonalize is None else f"{name}, reorthogonalize={reorthogonalize!r}"
        problem = Problem(workload.model, [(workload.inputs, workload.targets)], CrossEntropyLoss(), preflight="off")
        base = getattr(curvkit_core, name)(problem, strategy="reverse", cache="keep")
        n = base.n
        log(f"bookkeeping: the first product of {name}, which builds the graph")
        base.apply(base.space.random("gaussian", 0, 0, 1))
        runs, products = [], []
        for repeat in range(repeats):
            log(f"bookkeeping: {label}, repetition {repeat + 1} of {repeats}")
            op = Timed(base)
            begun = clock()
            result = eigsh(op, k=K, tol=1e-12, max_matvecs=PRODUCTS, reorthogonalize=reorthogonalize, seed=repeat)
            runs.append(clock() - begun)
            products.append(op.seconds)
            assert result.num_matvecs <= PRODUCTS
        shares = [(run - own) / own for run, own in zip(runs, products, strict=True)]
        row = {
            "operator": label,
            "seconds": runs,
            "seconds_of_products": products,
            "shares": shares,
        }
        rows.append(
            {
                **row,
                "share": median(shares),
                "missed": ["share"] if reorthogonalize is None and median(shares) > GOAL else [],
            }
        )
    return {"text": workload.text, "n": n, "products": PRODUCTS, "rows": rows}
