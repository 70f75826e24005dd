"""The public names, listed; importing them lazily; nothing heavy before one is used."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import curvkit_core

MATHS = {
    "Problem", "match_names", "match_regex",
    "CrossEntropyLoss", "MSELoss", "BCEWithLogitsLoss", "CallableLoss", "LinearCrossEntropyLoss",
    "CurvatureOperator", "HessianOperator", "GGNOperator", "EmpiricalFisherOperator", "LambdaOperator",
    "ActivationOperator", "BlockDiagonalOperator", "FisherOperator", "InverseOperator", "JacobianOperator",
    "StochasticOperator", "SubmatrixOperator", "block_diagonal",
    "eigsh", "lanczos_tridiagonal", "solve", "trace", "diagonal", "frobenius_norm", "spectral_density",
    "effective_dimension", "logdet", "spectral_sum",
    "block_lanczos", "lobpcg", "power_iteration", "spectral_norm",
    "save_result", "load_result",
    "CurvatureTracker", "loss_plane", "loss_slice", "sweep",
    "condition_number", "matrix_function", "nystrom", "DiagonalPreconditioner", "NystromPreconditioner",
}  # fmt: skip
HOST = {
    "PluginInfo", "PluginContext", "hookimpl", "PLUGIN_API",
    "OperatorSpec", "AlgorithmSpec", "LossAdapterSpec", "BackendSpec", "KernelSpec", "ProblemSpec",
    "Registry", "default_registry", "load_registry", "CurvkitError",
}  # fmt: skip
PUBLIC = MATHS | HOST | {"__version__"}
HEAVY = {"torch", "numpy", "cattrs", "matplotlib", "rich", "safetensors", "scipy", "sklearn"}


def loaded_by(program: str) -> set[str]:
    """Top-level modules that a child process has loaded after `program`."""
    shown = f"{program}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_all_lists_the_public_names():
    """A name added or removed is a change of the API: it is made here too."""
    assert set(curvkit_core.__all__) == PUBLIC
    assert len(curvkit_core.__all__) == len(PUBLIC)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_name_is_there_and_documented(name):
    """Each can be had from the top, shows up in `dir`, and says what it is."""
    value = getattr(curvkit_core, name)
    assert name in dir(curvkit_core)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert inspect.getdoc(value)


def test_type_checkers_see_the_same_names():
    """What is imported under TYPE_CHECKING, with the version's module, is what `__all__` lists."""
    tree = ast.parse(Path(curvkit_core.__file__).read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("curvkit_core")
        and node.col_offset in (0, 4)
        for alias in node.names
    }
    assert imported >= PUBLIC


def test_import_loads_nothing_heavy():
    """`import curvkit_core`, and every name of the host, leave torch and the rest out."""
    names = ", ".join(sorted(HOST))
    assert loaded_by(f"import curvkit_core\nfrom curvkit_core import {names}") & HEAVY == set()


def test_the_check_sees_a_heavy_import():
    """Negative control: a name of the maths brings torch."""
    assert "torch" in loaded_by("from curvkit_core import Problem")


def test_direct_imports_need_no_registry():
    """Maths works with no plugin host loaded."""
    program = "from curvkit_core import eigsh, LambdaOperator\nimport sys\nassert 'pluggy' not in sys.modules"
    loaded_by(program)


def test_unknown_name_is_an_attribute_error_with_a_hint():
    """A slip names what was meant."""
    with pytest.raises(AttributeError, match=r"HessianOperater.*did you mean 'HessianOperator'"):
        curvkit_core.HessianOperater  # noqa: B018 - reading it is the test
