"""The direction of imports, held by import-linter, with controls that show it can fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the core package that lies in `folder`, with the tree's contracts."""
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", program, "--config", str(ROOT / "pyproject.toml"), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_imports_run_one_way():
    """Every contract of pyproject.toml is kept."""
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("results/types.py", "import curvkit_core.algorithms", "Imports run one way"),
        ("host/specs.py", "import torch", "host imports neither"),
        ("config/converter.py", "import numpy", "config imports neither"),
        ("operators/hessian.py", "import curvkit_core.host.registry", "Nothing below runs and cli"),
        ("runs/__init__.py", "def f():\n    import curvkit_hf", "Core imports no plugin"),
    ],
)
def test_a_wrong_import_is_refused(tmp_path, module, line, contract):
    """Negative control: one wrong import in a copy of core breaks the contract that forbids it."""
    shutil.copytree(ROOT / "curvkit_core", tmp_path / "curvkit_core", ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "curvkit_core" / module
    file.write_text(f"{file.read_text()}\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    broken = [text for text in done.stdout.splitlines() if text.rstrip().endswith("BROKEN")]
    assert any(contract in text for text in broken), done.stdout
