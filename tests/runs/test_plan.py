"""The plan: every name resolved, every seed drawn, every mistake at once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from curvkit_core import Registry
from curvkit_core.config import ConfigError
from curvkit_core.runs import make_plan, plan_record


def mistakes(data: dict[str, Any], registry: Registry) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        make_plan(data, registry, source="run.toml")
    assert str(caught.value).startswith("run.toml: ")
    return {mistake.path: mistake.text for mistake in caught.value.mistakes}


def test_plan_resolves_names_labels_and_on(data: dict[str, Any], registry: Registry) -> None:
    """Bare names mean core's; `on` names operators; labels tell operators of one kind apart."""
    data["operator"].append({"kind": "core/hessian"})
    data["operator"].append({"kind": "core/ggn"})
    plan = make_plan(data, registry, source="run.toml")
    assert plan.problem.name == "local/diagonal"
    assert [o.label for o in plan.operators] == ["core/hessian", "core/hessian[tail]", "core/hessian #2", "core/ggn"]
    assert [o.params for o in plan.operators] == [(), ("tail",), (), ()]
    assert [a.component.name for a in plan.algorithms] == ["core/eigsh", "core/trace", "local/rayleigh"]
    assert [a.on for a in plan.algorithms] == [(0, 1, 2, 3), (0, 1, 2), (0, 1, 2, 3)]
    assert plan.num_jobs == 11
    assert plan.algorithms[2].component.config.scale == 2.0
    assert plan.backend.name == "core/single"


def test_labels_tell_options_apart(data: dict[str, Any], registry: Registry) -> None:
    """Operators of one kind are named by the options in which they differ, then by number."""
    data["operator"] = [{"kind": "local/scaled", "factor": 2}, {"kind": "local/scaled"}, {"kind": "local/scaled"}]
    del data["algorithm"][1]
    labels = [o.label for o in make_plan(data, registry).operators]
    assert labels == ["local/scaled(factor=2.0)", "local/scaled(factor=1.0)", "local/scaled(factor=1.0) #2"]


def test_seeds_left_open_are_drawn_and_recorded(data: dict[str, Any], registry: Registry) -> None:
    """plan.json holds the seed that is used, for problems and algorithms alike; one that is given stays."""
    data["algorithm"][1]["seed"] = 7
    plans = [make_plan(data, registry) for _ in range(2)]
    records = [plan_record(plan) for plan in plans]
    for plan, record in zip(plans, records, strict=True):
        seeds = [a.component.config.seed for a in plan.algorithms]
        assert [a["config"]["seed"] for a in record["algorithms"]] == seeds
        assert seeds[1] == 7
        assert all(isinstance(seed, int) for seed in seeds)
        assert isinstance(record["problem"]["config"]["seed"], int)
    assert records[0]["algorithms"][0]["config"]["seed"] != records[1]["algorithms"][0]["config"]["seed"]


def test_record_is_json_with_names_versions_and_options(data: dict[str, Any], registry: Registry) -> None:
    """What plan.json holds is enough to run it again."""
    data["auto"] = {"prefer": ["core/single"]}
    record = json.loads(json.dumps(plan_record(make_plan(data, registry, source="run.toml"))))
    assert (record["schema"], record["run_file"]) == (1, "run.toml")
    assert record["problem"]["kind"] == "local/diagonal"
    assert record["operators"][1] == {
        "kind": "core/hessian",
        "provider": record["operators"][0]["provider"],
        "config": {"strategy": "auto", "cache": "auto", "memory_budget": None, "compile": False},
        "params": ["tail"],
        "label": "core/hessian[tail]",
    }
    assert record["operators"][0]["provider"].startswith("curvkit-core ")
    assert record["algorithms"][0]["config"]["k"] == 2
    assert record["algorithms"][1]["on"] == [0, 1]
    assert record["auto"] == {"prefer": ["core/single"], "allow_experimental": False}
    assert record["auto_notes"] == ["backend: core/single"]
    assert {"python", "curvkit-core", "torch", "numpy"} <= set(record["versions"])
    assert record["registry"] == registry.fingerprint()


def test_all_mistakes_of_a_file_come_at_once(registry: Registry) -> None:
    """Outline, names, types and options in one error, each with its place."""
    got = mistakes(
        {
            "schema": 2,
            "problm": 1,
            "problem": {"kind": "core/digits-mpl"},
            "operator": [
                {"kind": "ggn", "parms": ["a"]},
                {"kind": "core/hessian", "params": "a"},
                {"params": ["a"]},
                3,
            ],
            "algorithm": [
                {"kind": "core/eigsh", "k": 5.9, "kk": 1, "on": ["core/gnn"]},
                {"kind": 3},
                {"kind": "core/eigsh", "k": 0},
            ],
            "backend": {"kind": "core/singl"},
            "auto": {"prefer": "core/single"},
        },
        registry,
    )
    expected = {
        "$": "unknown key 'problm'; did you mean 'problem'?",
        "$.schema": "expected 1, got int 2; this file needs a later curvkit-core",
        "$.problem.kind": "did you mean 'core/digits-mlp'?",
        "$.operator[0]": "unknown key 'parms'; did you mean 'params'?",
        "$.operator[1].params": "expected list of str, got str 'a'",
        "$.operator[2].kind": "missing: expected str",
        "$.operator[3]": "expected a table, [[operator]] with kind",
        "$.algorithm[0]": "unknown key 'kk'; did you mean 'k'?",
        "$.algorithm[0].k": "expected int, got float 5.9",
        "$.algorithm[0].on[0]": "'core/gnn' is no [[operator]] of this file; did you mean 'core/ggn' or",
        "$.algorithm[1].kind": "expected str, got int 3",
        "$.algorithm[2].k": "'k' must be >= 1: 0",
        "$.backend.kind": "did you mean 'core/single'?",
        "$.auto.prefer": "expected list of str, got str 'core/single'",
    }
    assert set(got) == set(expected)
    for path, text in expected.items():
        assert text in got[path]


@pytest.mark.parametrize(
    ("change", "path", "text"),
    [
        ({"schema": None}, "$.schema", "missing: expected schema = 1"),
        ({"schema": True}, "$.schema", "expected 1, got bool True"),
        ({"problem": None}, "$.problem", 'missing: expected [problem] with kind = "core/digits-mlp"'),
        ({"problem": [{"kind": "a"}]}, "$.problem", "got [[problem]] with double brackets"),
        ({"problem": 3}, "$.problem", "expected one table"),
        ({"operator": None}, "$.operator", 'missing: expected [[operator]] with kind = "core/ggn"'),
        ({"operator": {"kind": "core/ggn"}}, "$.operator", "got [operator]: write double brackets"),
        ({"operator": []}, "$.operator", "expected at least one [[operator]]"),
        ({"operator": "core/ggn"}, "$.operator", "got str 'core/ggn'"),
        ({"algorithm": None}, "$.algorithm", 'missing: expected [[algorithm]] with kind = "core/eigsh"'),
        ({"backend": 3}, "$.backend", "expected a table, got int 3"),
        ({"backend": {"kind": "core/single", "x": 1}}, "$.backend", "unknown key 'x'; known: kind"),
        ({"auto": {"prefers": []}}, "$.auto", "unknown key 'prefers'; did you mean 'prefer'?"),
        ({"operator": [{"kind": "core/ggn", "params": []}]}, "$.operator[0].params", "at least one glob"),
        ({"algorithm": [{"kind": "eigsh", "on": []}]}, "$.algorithm[0].on", "expected at least one operator"),
        ({"algorithm": [{"kind": "kfac"}]}, "$.algorithm[0].kind", "algorithm 'kfac' is unknown"),
        ({"problem": {"kind": "acme/x"}}, "$.problem.kind", "no plugin provides 'acme'"),
        ({"problem": {"kind": "local/lacking"}}, "$.problem.kind", "no-such-thing>=2 is not installed"),
    ],
)
def test_one_mistake_is_one_line_with_its_path(
    data: dict[str, Any], registry: Registry, change: dict[str, Any], path: str, text: str
) -> None:
    """Each thing that can be wrong with the outline, alone."""
    changed = {key: value for key, value in {**data, **change}.items() if value is not None}
    for algorithm in changed.get("algorithm") or []:
        if "operator" in change:
            algorithm.pop("on", None)
    got = mistakes(changed, registry)
    assert list(got) == [path]
    assert text in got[path]
