"""`curvkit show`, `plot`, `compare`, `config show` and `completion`: what a stored run is read with."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from curvkit_core.cli.completion import SHELLS, completion_script
from curvkit_core.cli.main import COMMANDS, main
from curvkit_core.host.registry import configure_default
from curvkit_core.runs.comparison import eigenspace_overlap
from curvkit_core.runs.record import load_run

PROBLEM = """\
import torch
from curvkit_core import CallableLoss, Problem


class Diagonal(torch.nn.Module):
    def __init__(self, values):
        super().__init__()
        self.values = torch.tensor(values, dtype=torch.float64)
        self.w = torch.nn.Parameter(torch.ones(len(values), dtype=torch.float64))


def build(values=(5.0, 3.0, 2.0, 1.0, 0.5, -1.0)):
    def loss(model, batch):
        return 0.5 * (model.values * model.w**2).sum() * batch[0].mean()

    return Problem(Diagonal(values), [(torch.ones((3, 1), dtype=torch.float64),)], CallableLoss(loss))
"""
RUN_FILE = """\
schema = 1
[problem]
kind = "core/python"
factory = "diagonal_to_read:build"
[[operator]]
kind = "hessian"
[[algorithm]]
kind = "eigsh"
k = 2
seed = 0
[[algorithm]]
kind = "trace"
method = "hutchinson"
num_matvecs = 8
probes = "gaussian"
[[algorithm]]
kind = "spectral-density"
num_probes = 2
steps = 4
seed = 0
[budget]
seconds = 500
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished runs, whose spectra differ in the second eigenvalue and in the trace by 1."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "diagonal_to_read.py").write_text(PROBLEM)
    (folder / "run.toml").write_text(RUN_FILE)
    path = f'--set=problem.path="{folder}"'
    other = "--set=problem.options={values=[5.0, 4.0, 2.0, 1.0, 0.5, -1.0]}"
    common = ["--no-plugins", "run", str(folder / "run.toml"), "--no-plots", path]
    try:
        assert main([*common, "--out", str(folder / "one"), "--set=algorithm.1.seed=0"]) == 0
        assert main([*common, "--out", str(folder / "two"), "--set=algorithm.1.seed=1", other]) == 0
    finally:
        configure_default()
    return folder


@pytest.fixture(autouse=True)
def default_registry() -> Iterator[None]:
    yield
    configure_default()


def call(*arguments: object) -> int:
    return main(["--no-plugins", *map(str, arguments)])


def test_show_prints_the_report_again(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same tables as at the run's end, or result.json as it is."""
    assert call("show", runs / "one") == 0
    text = capsys.readouterr().out
    for part in ("problem core/python", "eigenvalues (core/eigsh, k = 2", "5.00000", "trace (core/trace", "cost"):
        assert part in text
    assert call("show", runs / "one", "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((runs / "one/result.json").read_text())


def test_plot_draws_again_into_another_folder(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """PNG and SVG of eigenvalues and density, and the page; the run is as it was."""
    pytest.importorskip("matplotlib")
    before = sorted((p.name, p.stat().st_mtime_ns) for p in (runs / "one").iterdir())
    assert call("plot", runs / "one", "--out", tmp_path / "figures") == 0
    names = sorted(p.name for p in (tmp_path / "figures").iterdir())
    assert names == [
        "eigsh-hessian-convergence.png", "eigsh-hessian-convergence.svg", "eigsh-hessian.png", "eigsh-hessian.svg",
        "report.html", "spectral-density-hessian.png", "spectral-density-hessian.svg",
        "trace-hessian-convergence.png", "trace-hessian-convergence.svg",
    ]  # fmt: skip
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()].count("report.html") == 1
    assert (tmp_path / "figures/report.html").read_text() == (runs / "one/report.html").read_text()
    assert sorted((p.name, p.stat().st_mtime_ns) for p in (runs / "one").iterdir()) == before


def test_compare_tells_differences_with_errors(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """lambda_2 is 3 and 4; the eigenspaces share one of two vectors or both, by which is which; densities overlaid."""
    assert call("compare", runs / "one", runs / "two", "--out", tmp_path / "both.html") == 0
    text = capsys.readouterr().out
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip().startswith(("one ", "two "))}
    assert rows
    (second,) = [i for i, line in enumerate(text.splitlines()) if "eigenvalue 2" in line]
    assert re.search(r"two\s+4\.00000\s+\+- \S+\s+1\.0+\s+\+- ", text.splitlines()[second + 1])
    assert "overlap of eigenspaces with one" in text
    assert re.search(r"eigsh on core/hessian\s+two\s+2\s+1\.000", text)
    page = (tmp_path / "both.html").read_text()
    assert page.count("<figure") == 2
    assert "Spectral density of core/hessian, logarithmic" in page


def test_compare_matches_other_algorithms_by_what_they_found(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """eigsh in two runs, lobpcg and the smallest eigenvalues in the third: the largest stand side by side."""
    path = f'--set=problem.path="{runs}"'
    algorithms = '--set=algorithm=[{kind="eigsh", k=2, which="SA", seed=0}, {kind="lobpcg", k=2, seed=0}]'
    out = ["--no-plots", "--out", tmp_path / "three"]
    assert call("run", runs / "run.toml", path, algorithms, *out) == 0
    capsys.readouterr()
    assert call("compare", runs / "one", tmp_path / "three", runs / "two") == 0
    lines = capsys.readouterr().out.splitlines()
    (at,) = [i for i, line in enumerate(lines) if "eigsh, lobpcg on core/hessian: eigenvalue 2" in line]
    assert re.search(r"three\s+3\.0000", lines[at + 1])
    assert re.search(r"two\s+4\.00000\s", lines[at + 2])
    assert not any("trace" in line for line in lines)  # the third has none
    assert any(re.search(r"eigsh, lobpcg on core/hessian\s+three\s+2\s+1\.000", line) for line in lines)


def test_overlap_is_the_squared_cosines_mean(runs: Path) -> None:
    """Spans of (e1, e2) and (e1, cos e2 + sin e3): (1 + cos^2)/2, whatever the basis."""
    import attrs

    eigen = load_run(runs / "one")[0].result
    angle = torch.tensor(0.3, dtype=torch.float64)
    first = torch.eye(6, dtype=torch.float64)[:2]
    second = torch.zeros(2, 6, dtype=torch.float64)
    second[0, 0], second[1, 1], second[1, 2] = 1.0, angle.cos(), angle.sin()
    mixed = torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64) @ second
    overlap = eigenspace_overlap(*(attrs.evolve(eigen, eigenvectors=v) for v in (first, mixed)))
    assert overlap == pytest.approx(float((1 + angle.cos() ** 2) / 2), abs=1e-14)
    assert eigenspace_overlap(eigen, attrs.evolve(eigen, eigenvectors=torch.zeros(2, 7))) is None


def damaged(runs: Path, tmp_path: Path, name: str) -> Path:
    folder = tmp_path / "damaged"
    shutil.copytree(runs / "one", folder)
    if name == "newer":
        (folder / "result.json").write_text('{"schema": 7, "runs": []}')
    elif name == "newer plan":
        (folder / "plan.json").write_text('{"schema": 7}')
    elif name == "no plan":
        (folder / "plan.json").unlink()
    elif name == "no tensors":
        (folder / "result.safetensors").unlink()
    elif name == "cut tensors":
        path = folder / "result.safetensors"
        path.write_bytes(path.read_bytes()[:-10])
    elif name == "cut json":
        path = folder / "result.json"
        path.write_text(path.read_text()[:200])
    return folder


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("newer", "has schema 7: expected 1 or 2. A later curvkit may have written it."),
        ("newer plan", "plan.json has schema 7: expected 1."),
        ("no plan", "plan.json"),
        ("no tensors", "result.safetensors is not there"),
        ("cut tensors", "result.safetensors is damaged"),
        ("cut json", "result.json is not JSON"),
    ],
)
@pytest.mark.parametrize("command", ["show", "plot", "compare"])
def test_damaged_run_is_one_message(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, name: str, text: str
) -> None:
    """Exit code 2, which file, no traceback; nothing in the folder is touched."""
    folder = damaged(runs, tmp_path, name)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    others = [runs / "one"] if command == "compare" else []
    assert call(command, *others, folder) == 2
    shown = capsys.readouterr()
    assert text in shown.err
    assert "Traceback" not in shown.err
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_wrong_folders_are_one_message(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not there, a file, no run, one run only, a page with another suffix."""
    for arguments, text in (
        (("show", tmp_path / "nowhere"), "is not there: expected the folder of a run"),
        (("show", runs / "run.toml"), "is a file: expected the folder of a run"),
        (("show", tmp_path), "result.json is not there"),
        (("compare", runs / "one"), "expected the folders of two or more runs"),
        (("compare", runs / "one", runs / "two", "--out", "x.pdf"), "expected a file that ends in .html"),
    ):
        assert call(*arguments) == 2
        assert text in capsys.readouterr().err


def test_resolved_file_makes_the_same_plan(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """config show --resolved prints names in full and every default; read again, it prints itself."""
    path = f'--set=problem.path="{runs}"'
    assert call("config", "show", "--resolved", runs / "run.toml", path, "--set=algorithm.1.seed=3") == 0
    text = capsys.readouterr().out
    for part in ('kind = "core/hessian"', 'kind = "core/eigsh"', 'which = "LA"', "seed = 3", 'kind = "core/single"'):
        assert part in text
    (tmp_path / "resolved.toml").write_text(text)
    assert call("config", "show", "--resolved", tmp_path / "resolved.toml") == 0
    assert capsys.readouterr().out == text
    assert call("config", "show", runs / "run.toml") == 0
    plain = capsys.readouterr().out
    assert 'kind = "eigsh"' in plain
    assert "which" not in plain


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_command(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command and run's options; where the shell is installed, it reads the script without complaint."""
    assert call("completion", shell) == 0
    text = capsys.readouterr().out
    assert text == completion_script(shell)
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", text)
    assert ("-l resume" if shell == "fish" else "--resume") in text
    assert "$commands" not in text or shell == "fish"
    program = shutil.which(shell)
    if program is not None:
        script = tmp_path / "script"
        script.write_text(text)
        subprocess.run([program, "-n", str(script)], check=True, timeout=30)


def test_bash_completes_commands_and_options() -> None:
    """A real bash: `curvkit con<TAB>`, `curvkit run --re<TAB>`, `curvkit config <TAB>`."""
    bash = shutil.which("bash")
    assert bash is not None
    for words, expected in (
        (["curvkit", "con"], {"config"}),
        (["curvkit", "run", "--re"], {"--resume"}),
        (["curvkit", "config", ""], {"check", "show"}),
        (["curvkit", "completion", "z"], {"zsh"}),
    ):
        listed = " ".join(f"'{word}'" for word in words)
        program = (
            f"{completion_script('bash')}\nCOMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _curvkit\n"
            'printf "%s\\n" "${COMPREPLY[@]}"\n'
        )
        done = subprocess.run([bash, "-c", program], capture_output=True, text=True, check=True, timeout=30)
        assert set(done.stdout.split()) == expected, words
