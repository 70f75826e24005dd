"""From a plan to results: preconditions before any product, known answers, observers, interruption."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from curvkit_core import Registry
from curvkit_core.config import ConfigError
from curvkit_core.runs import Run, RunLog, execute, make_plan, plan_record, prepare
from curvkit_core.runs.progress import LineProgress, QuietProgress

SPECTRUM = (5.0, 3.0, 2.0, 1.0, 0.5, -1.0)  # as in conftest.py
TAIL = SPECTRUM[2:]


def run(data: dict[str, Any], registry: Registry, progress: Any = None) -> Run:
    plan = make_plan(data, registry, source="run.toml")
    prepared = prepare(plan, registry)
    started = Run(plan=plan_record(plan, prepared), folder=Path("nowhere"), problem=prepared.problem.describe())
    return execute(prepared, started, registry, progress or QuietProgress())


def mistakes(data: dict[str, Any], registry: Registry) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        run(data, registry)
    return {mistake.path: mistake.text for mistake in caught.value.mistakes}


def test_run_finds_the_known_spectrum(data: dict[str, Any], registry: Registry) -> None:
    """diag(lambda): its largest eigenvalues, its trace (exact with signs), its mean, whole and restricted."""
    results = run(data, registry).results
    assert [(r.label, r.algorithm) for r in results] == [
        ("core/hessian", "core/eigsh"),
        ("core/hessian", "core/trace"),
        ("core/hessian", "local/rayleigh"),
        ("core/hessian[tail]", "core/eigsh"),
        ("core/hessian[tail]", "core/trace"),
        ("core/hessian[tail]", "local/rayleigh"),
    ]
    eps = 1e-13  # n * eps * |A|, with room
    whole, trace, quotient, tail, _, tail_quotient = (r.result for r in results)
    assert whole.eigenvalues.tolist() == pytest.approx(sorted(SPECTRUM)[:-3:-1], abs=eps)
    assert tail.eigenvalues.tolist() == pytest.approx(sorted(TAIL)[:-3:-1], abs=eps)
    assert trace.estimate == pytest.approx(sum(SPECTRUM), abs=eps)
    assert quotient.quotient == pytest.approx(2 * sum(SPECTRUM) / len(SPECTRUM), abs=eps)
    assert tail_quotient.quotient == pytest.approx(2 * sum(TAIL) / len(TAIL), abs=eps)
    assert whole.info.operator == "core/hessian"
    assert whole.info.algorithm == "core/eigsh"
    assert results[3].params == ("tail",)


def test_options_of_an_operator_reach_it(data: dict[str, Any], registry: Registry) -> None:
    """c times the Hessian has c times its mean eigenvalue."""
    data["operator"] = [{"kind": "local/scaled", "factor": 3}]
    data["algorithm"] = [{"kind": "local/rayleigh"}]
    (row,) = run(data, registry).results
    assert row.result.quotient == pytest.approx(3 * sum(SPECTRUM) / len(SPECTRUM), abs=1e-13)


def test_problem_is_built_once(data: dict[str, Any], registry: Registry) -> None:
    """Two operators share the problem, its data and its checks."""
    prepared = prepare(make_plan(data, registry), registry)
    first, second = prepared.jobs[0].op, prepared.jobs[3].op
    assert first.problem.model is second.problem.model is prepared.problem.model
    assert (first.n, second.n) == (6, 4)


def test_preconditions_are_told_together_before_any_product(data: dict[str, Any], registry: Registry) -> None:
    """k > n and the like stand at their option, for each operator they fail on; no product is made."""
    data["algorithm"][0] = {"kind": "eigsh", "k": 5}
    data["algorithm"][2]["most"] = 3
    data["backend"] = {"kind": "local/counting"}
    plan = make_plan(data, registry, source="run.toml")
    with pytest.raises(ConfigError) as caught:
        prepare(plan, registry)
    rows = [(m.path, m.text) for m in caught.value.mistakes]
    assert rows == [
        ("$.algorithm[2].most", "on core/hessian: most=3 is out of range: expected at least 6, the operator's size."),
        (
            "$.algorithm[0].k",
            "on core/hessian[tail]: k=5 is out of range: expected 1 <= k <= 4, the operator's size. Pass a smaller k.",
        ),
        (
            "$.algorithm[2].most",
            "on core/hessian[tail]: most=3 is out of range: expected at least 4, the operator's size.",
        ),
    ]


@pytest.mark.parametrize(
    ("change", "path", "text"),
    [
        ({"operator": [{"kind": "hessian", "params": ["tail", "typo.*"]}]}, "$.operator[0].params[1]", "typo"),
        ({"problem": {"kind": "local/none"}}, "$.problem", "local/none gave a int: expected a Problem"),
        ({"operator": [{"kind": "local/none"}]}, "$.operator[0]", "gave a NoneType: expected a CurvatureOperator"),
        (
            {"problem": {"kind": "local/explode"}},
            "$.problem",
            "local/explode failed with ZeroDivisionError: integer division or modulo by zero (",
        ),
        ({"problem": {"kind": "local/diagonal", "spectrum": [1.0]}}, "$.problem", "failed with RuntimeError"),
        ({"operator": [{"kind": "local/skew"}]}, "$.algorithm[0]", "core/eigsh needs a symmetric operator"),
        (
            {"problem": {"kind": "core/python", "factory": "no_such_module_here:build"}},
            "$.problem.factory",
            "no module 'no_such_module_here'",
        ),
        ({"problem": {"kind": "core/python", "factory": "json:nope"}}, "$.problem.factory", "no 'nope'"),
        ({"problem": {"kind": "core/python", "factory": "json:dumps"}}, "$.problem", "TypeError: dumps()"),
        ({"problem": {"kind": "core/python", "factory": "os:getcwd"}}, "$.problem.factory", "returned a str"),
    ],
)
def test_what_cannot_be_built_is_told_at_its_place(
    data: dict[str, Any], registry: Registry, change: dict[str, Any], path: str, text: str
) -> None:
    """A component that fails, of whatever error, is one line at its place in the file."""
    for algorithm in data["algorithm"]:
        algorithm.pop("on", None)
    got = mistakes({**data, **change}, registry)
    assert list(got) == [path]
    assert text in got[path]


def test_error_in_the_users_own_function_names_its_line(
    data: dict[str, Any], registry: Registry, tmp_path: Path
) -> None:
    """core/python: the last line of the user's file, though the error came from torch."""
    (tmp_path / "own_problem_of_test.py").write_text("import torch\n\ndef build():\n    return torch.ones(2) @ 3\n")
    data["problem"] = {"kind": "core/python", "factory": "own_problem_of_test:build", "path": str(tmp_path)}
    (text,) = mistakes(data, registry).values()
    assert f"({tmp_path / 'own_problem_of_test.py'}, line 4, in build)" in text


def test_refused_product_names_operator_and_algorithm(data: dict[str, Any], registry: Registry) -> None:
    """A loss that is not finite, seen in the first product."""
    data["problem"]["spectrum"] = [1e308] * 4
    ((path, text),) = mistakes(data, registry).items()
    assert path == "$.operator[0], $.algorithm[0]"
    assert text.startswith("core/eigsh on core/hessian: ")
    assert "loss-not-finite" in text


def test_named_backend_and_preferred_kernel_reach_the_problem(data: dict[str, Any], registry: Registry) -> None:
    """The run file's backend reduces the sums; [auto] prefer picks the kernel; numbers stay the same."""
    plain = run(data, registry)
    data["backend"] = {"kind": "local/counting"}
    data["auto"] = {"prefer": ["local/ce-hvp"]}
    registry.register_local(_with_priority(registry.kernels.get("local/ce-hvp")))
    prepared = prepare(make_plan(data, registry), registry)
    assert prepared.kernels == {"ce_hvp": "local/ce-hvp", "linear_ce": "core/linear-ce"}
    assert "kernel ce_hvp: local/ce-hvp" in prepared.notes
    assert prepared.problem.kernels.ce_hvp.__name__ == "other_ce_hvp"
    assert prepared.problem.backend.counts == []
    again = execute(prepared, plain, registry, QuietProgress())
    assert len(prepared.problem.backend.counts) > 0
    for before, after in zip(plain.results, again.results, strict=True):
        if before.algorithm == "local/rayleigh":
            assert before.result.quotient == after.result.quotient


def _with_priority(spec: Any) -> Any:
    from attrs import evolve

    return evolve(spec, priority=0)


def test_tie_of_kernels_is_an_error_and_not_a_choice(data: dict[str, Any], registry: Registry) -> None:
    """Two kernels of one priority: the text says how to prefer one."""
    registry.register_local(_with_priority(registry.kernels.get("local/ce-hvp")))
    got = mistakes(data, registry)
    assert list(got) == ["$.auto"]
    assert "tie at priority 0" in got["$.auto"]


def test_observers_see_start_and_end(data: dict[str, Any], registry: Registry) -> None:
    """curvkit_run_started comes with the plan and no results."""
    seen = []

    class Watcher:
        @staticmethod
        def call_run_started(run: Run) -> None:
            seen.append(run)

    registry.observers = Watcher()
    run(data, registry)
    (started,) = seen
    assert started.results == ()
    assert started.plan["problem"]["kind"] == "local/diagonal"
    assert started.problem["n"] == 6


@pytest.mark.parametrize("after", [0, 1, 3])
def test_ctrl_c_keeps_what_was_found(data: dict[str, Any], registry: Registry, after: int) -> None:
    """KeyboardInterrupt at the start of job `after`: the jobs before it are kept, the rest does not run."""

    class Interrupting(QuietProgress):
        def job(self, label: str, number: int, count: int) -> Any:
            if number == after + 1:
                raise KeyboardInterrupt
            return super().job(label, number, count)

    got = run(data, registry, Interrupting())
    assert got.interrupted
    assert len(got.results) == after


def test_progress_and_log_tell_of_every_job(data: dict[str, Any], registry: Registry) -> None:
    """A line a job in a pipe; the log has start and end of each, with its products."""
    stream = io.StringIO()
    log = RunLog(LineProgress(stream, clock=lambda: 0.0))
    got = run(data, registry, log)
    lines = stream.getvalue().splitlines()
    assert len(lines) == len(got.results) == 6
    assert lines[1] == "curvkit: [2/6] core/trace on core/hessian: 16 products, 0.0 s"
    ends = [line for line in log.lines if line["event"] == "job finished"]
    assert [(line["job"], line["products"]) for line in ends][1] == ("core/trace on core/hessian", 16)
    assert [line["event"] for line in log.lines if line["event"] != "progress"] == ["job started", "job finished"] * 6


def test_plain_progress_speaks_every_ten_seconds(data: dict[str, Any], registry: Registry) -> None:
    """With a clock that moves four seconds a look, every third event is told."""
    now = iter(range(0, 100_000, 4))
    stream = io.StringIO()
    data["algorithm"] = [{"kind": "core/trace", "method": "hutchinson", "num_matvecs": 96}]
    data["operator"] = data["operator"][:1]
    run(data, registry, LineProgress(stream, clock=lambda: float(next(now))))
    lines = stream.getvalue().splitlines()
    assert 2 <= len(lines) <= 4
    assert "[1/1] core/trace on core/hessian: " in lines[0]
    assert " of 96 products" in lines[0]


def test_same_seeds_give_the_same_numbers(data: dict[str, Any], registry: Registry) -> None:
    """A plan's record, run again, is bitwise the run."""
    plan = make_plan(data, registry)
    prepared = prepare(plan, registry)
    base = Run(plan={}, folder=Path("nowhere"), problem={})
    first, second = (execute(prepared, base, registry, QuietProgress()).results for _ in range(2))
    assert torch.equal(first[0].result.eigenvectors, second[0].result.eigenvectors)
    assert first[1].result.samples.tolist() == second[1].result.samples.tolist()


def test_operators_and_algorithms_share_kept_graphs(data: dict[str, Any], registry: Registry) -> None:
    """Two operators, one of them on a part of the parameters, and three algorithms: one forward pass a batch in all."""
    from curvkit_core import CrossEntropyLoss, Problem, ProblemSpec

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).double()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    batches = [(torch.randn(5, 3, dtype=torch.float64), torch.randint(3, (5,))) for _ in range(2)]
    problem = Problem(model, batches, CrossEntropyLoss(), preflight="off")
    registry.register_local(ProblemSpec(name="local/counted", summary="a", factory=lambda: problem))
    data["problem"] = {"kind": "local/counted"}
    data["operator"] = [{"kind": "hessian"}, {"kind": "ggn"}, {"kind": "ggn", "params": ["2.*"]}]
    data["algorithm"] = [{"kind": "eigsh", "k": 2}, {"kind": "trace", "num_matvecs": 9}, {"kind": "local/rayleigh"}]
    got = run(data, registry)
    assert len(got.results) == 9
    assert len(calls) == len(batches)
