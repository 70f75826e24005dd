"""Run docs/how-to/migration.md with the other tools installed: their blocks and ours, and compare what both give."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).parents[2] / "docs/how-to/migration.md"


def main() -> None:
    """Run the blocks in the page's order in one namespace, then hold the numbers against each other."""
    text = PAGE.read_text()
    names: dict[str, object] = {"__name__": "migration"}
    for match in re.finditer(r"^```(py|python)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        line = text.count("\n", 0, match.start()) + 1
        exec(compile("\n" * line + match[2], str(PAGE), "exec"), names)
        if match[1] == "python" and "product" in match[2]:
            # all batches have 32 examples, so both average alike; float32 sums of 195 terms in another order
            difference = (names["product"] - torch.as_tensor(names["theirs_product"])).norm() / names["product"].norm()
            print(f"line {line}: products of the GGN differ by {difference:.1e}")
            assert difference < 1e-5
    values, largest = names["theirs"].eigenvalues, names["ours"].eigenvalues
    print("eigenvalues, hessian-eigenthings and curvkit:", [float(v) for v in values], largest.tolist())
    top = max(map(float, values), key=abs)
    assert abs(top - largest_eigenvalue(names["H"].to_dense())) <= 1e-3 * abs(top)
    one = float(names["top"].eigenvalues[0])
    print("first batch, PyHessian and curvkit:", float(names["values"][0]), one)
    assert abs(float(names["values"][0]) - one) <= 1e-2 * abs(one)  # PyHessian's power iteration stops at 1e-3


def largest_eigenvalue(matrix: torch.Tensor) -> float:
    """The eigenvalue of largest magnitude."""
    return max(torch.linalg.eigvalsh(matrix.double()).tolist(), key=abs)


if __name__ == "__main__":
    main()
