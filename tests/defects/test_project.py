"""Defects seen in other tools, in how a project is kept: X43, X45, X46."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import curvkit_core
from curvkit_core.algorithms import DriverOptions

ROOT = Path(__file__).parents[2]
BLOCK = 80_000_000  # bytes of the tensor that a measurement of memory has to see


def peak_of(program: str) -> int:
    """Bytes by which a child process's peak memory grows over `program`, torch being imported.

    From VmHWM: ``ru_maxrss`` of a child starts at what its parent held when it was forked.
    """
    text = (
        "import torch\n"
        "def peak(): return 1024 * int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        f"before = peak()\n{program}\nprint(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return int(done.stdout)


def traced(action: Callable[[], object]) -> int:
    """The same by tracemalloc: the defect."""
    tracemalloc.start()
    try:
        held = action()
        assert held is not None
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="a process's peak memory is read from /proc")
def test_x43_memory_is_measured_where_tensors_live() -> None:
    """tracemalloc sees next to nothing of an 80 MB tensor: a child's peak does, and no test uses the other."""
    wasteful, lean = "x = torch.ones(80, 1000, 1000, dtype=torch.uint8)", "x = torch.ones(10, dtype=torch.uint8)"
    assert peak_of(wasteful) > 0.9 * BLOCK
    assert peak_of(lean) < 0.1 * BLOCK
    assert traced(lambda: torch.ones(BLOCK, dtype=torch.uint8)) < 1e-3 * BLOCK
    sources = [path for folder in ("tests", "benchmarks", "plugins") for path in (ROOT / folder).rglob("*.py")]
    using = [path for path in sources if re.search(r"\btracemalloc\.start\(", path.read_text())]
    assert using == [Path(__file__)]  # to show the defect, above


def undeclared(declared: set[str], used: set[str], optional: set[str]) -> set[str]:
    """What is declared and not imported, or imported and not declared."""
    return (declared - used) | (used - declared - optional)


def test_x45_what_is_declared_is_imported() -> None:
    """tqdm and scipy are required and imported nowhere: core's seven dependencies are all used, no other is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[\[<>=!~ ]", line)[0] for line in project["dependencies"]}
    used = set()
    for path in (ROOT / "curvkit_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                used |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                used.add(str(node.module).partition(".")[0])
    used -= {*sys.stdlib_module_names, "curvkit_core"}
    used = {"attrs" if name == "attr" else name for name in used}
    # imported where they are asked for
    optional = {"matplotlib", "sklearn", "scipy", "numpy", "pandas", "lightning", "pytest", "hypothesis"}
    assert undeclared(declared, used, optional) == set()
    assert len(declared) <= 7
    assert undeclared(declared | {"tqdm"}, used, optional) == {"tqdm"}
    assert undeclared(declared - {"rich"}, used, optional) == {"rich"}


SIGNATURES = {
    "Problem": "model, batches, loss, *, params, weighting, mode, microbatch_size, backend, kernels, preflight, "
    "forward_context",
    "HessianOperator": "problem, *, strategy, cache, memory_budget",
    "GGNOperator": "problem, *, strategy, cache, memory_budget",
    "EmpiricalFisherOperator": "problem, *, strategy, cache, memory_budget",
    "LambdaOperator": "fn, n, *, dtype, device, symmetric",
    "CrossEntropyLoss": "*, ignore_index, label_smoothing, weight, target, inputs",
    "MSELoss": "*, target, inputs",
    "BCEWithLogitsLoss": "*, pos_weight, target, inputs",
    "CallableLoss": "fn, *, num_units",
    "eigsh": "op, *, k, which, tol, ncv, max_matvecs, seed, start, on_progress",
    "trace": "op, *, method, num_matvecs, probes, seed, on_progress",
    "spectral_density": "op, *, method, num_probes, steps, sigma, grid_size, probes, seed, on_progress",
    "block_lanczos": "op, *, k, which, block_size, tol, ncv, max_matvecs, seed, start, checkpoint, resume",
    "lobpcg": "op, *, k, which, tol, max_matvecs, seed, start, preconditioner, checkpoint, resume",
    "power_iteration": "op, *, k, tol, momentum, max_matvecs, seed, start, checkpoint, resume",
    "lanczos_tridiagonal": "op, *, steps, seed, start, checkpoint, resume",
    "spectral_norm": "op, *, tol, max_matvecs, seed, start, checkpoint, resume",
    "frobenius_norm": "op, *, num_matvecs, tol, probes, seed, checkpoint, resume",
    "diagonal": "op, *, method, num_matvecs, tol, probes, seed, checkpoint, resume",
    "solve": "op, b, *, method, damping, tol, max_matvecs, start, preconditioner, checkpoint, resume",
    "matrix_function": "op, b, *, function, damping, steps, tol, seed, checkpoint, resume",
    "logdet": "op, *, damping, num_probes, steps, probes, seed, checkpoint, resume",
    "effective_dimension": "op, *, damping, num_probes, steps, probes, seed, checkpoint, resume",
    "nystrom": "op, *, rank, oversample, seed, checkpoint, resume",
    "condition_number": "op, *, damping, tol, ncv, max_matvecs, seed, start, checkpoint, resume",
    "save_result": "result, folder",
    "load_result": "folder",
    "match_names": "",
    "match_regex": "",
}
METHODS = {
    "Problem": "restrict, describe, num_units, parameters, model",
    "CurvatureOperator": "apply, shift, to_dense, to_scipy, n, shape, dtype, device, space, symmetric, problem",
}


def breaks(listed: str, function: Callable[..., Any]) -> list[str]:
    """What a caller written against the list would trip over: names gone, moved, or made positional or required."""
    parameters = inspect.signature(function).parameters
    positional, _, keyword = listed.partition("*")
    names = [name.strip() for name in positional.split(",") if name.strip()]
    passed_on = DriverOptions.__annotations__ if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) else {}
    found = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    problems = [f"{found[: len(names)]} for {names}"] if found[: len(names)] != names else []
    for name in (name.strip() for name in keyword.split(",") if name.strip()):
        if name in passed_on:
            continue
        if name not in parameters or parameters[name].default is inspect.Parameter.empty:
            problems.append(f"no optional {name}")
    required = [n for n, p in parameters.items() if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    return problems + [f"{name} is required" for name in required]


@pytest.mark.parametrize("name", SIGNATURES)
def test_x46_public_signatures_are_kept(name: str) -> None:
    """A release that moved names broke its users: what is listed goes on working; more may be added."""
    assert breaks(SIGNATURES[name], getattr(curvkit_core, name)) == []


@pytest.mark.parametrize("name", METHODS)
def test_x46_public_attributes_are_kept(name: str) -> None:
    """Methods, properties and attributes that the documentation names."""
    operator = curvkit_core.LambdaOperator(lambda v: v, 2)
    where = operator if name == "CurvatureOperator" else curvkit_core.Problem
    source = inspect.getsource(curvkit_core.Problem)
    missing = [
        attribute
        for attribute in METHODS[name].split(", ")
        if not hasattr(where, attribute) and f"self.{attribute}:" not in source and f"self.{attribute} =" not in source
    ]
    assert missing == []


def test_x46_sees_a_breaking_change() -> None:
    """A name gone, a keyword made required, two arguments exchanged; an addition is none."""

    def listed(op: object, *, k: int = 6, tol: float = 1e-4) -> None: ...

    def gone(op: object, *, k: int = 6) -> None: ...

    def required(op: object, *, k: int, tol: float = 1e-4) -> None: ...

    def exchanged(k: int, op: object, *, tol: float = 1e-4) -> None: ...

    def longer(op: object, extra: int = 0, *, k: int = 6, tol: float = 1e-4, more: int = 0) -> None: ...

    text = "op, *, k, tol"
    assert breaks(text, listed) == breaks(text, longer) == []
    assert all(breaks(text, f) for f in (gone, required, exchanged))
