"""The broken distributions of `tests/fixtures/plugins`, all at once and in this process."""

import json
import re
import sys

from fixtures.check_broken import EXPECTED, HEALTHY, ODD
from fixtures.fake_dists import PLUGINS

from curvkit_core import load_registry
from curvkit_core.cli.main import main


def test_every_fixture_is_expected(dists):
    """The list of `check_broken` and the folder agree."""
    names = {f"curvfix-{path.parent.name}" for path in PLUGINS.glob("*/pyproject.toml")}
    assert names == {dist for _, dist in (*EXPECTED, *HEALTHY, *ODD)} - {"curvkit-core"}


def test_all_broken_at_once_leave_core_and_the_healthy_alone(dists):
    """Status, stage and reason of each, as in an environment where they are installed."""
    for path in sorted(PLUGINS.glob("*/pyproject.toml")):
        dists.add_fixture(path.parent.name)
    registry = load_registry()
    rows = {(p.namespace, p.dist): p for p in registry.plugins}
    for key, (status, stage, reason) in EXPECTED.items():
        assert (rows[key].status, rows[key].stage) == (status, stage), rows[key]
        assert re.search(reason, rows[key].reason), rows[key]
    assert {key for key, row in rows.items() if row.status == "ok"} == HEALTHY | set(ODD)
    assert registry.operators.get("healthy/two-hessians").factory == "curvfix_healthy:build"
    assert "curvfix_group_two" not in sys.modules


def test_listing_of_all_is_json_and_exits_0(dists, capsys):
    """Whatever the plugins do, stdout is JSON and nothing else."""
    for path in sorted(PLUGINS.glob("*/pyproject.toml")):
        dists.add_fixture(path.parent.name)
    dists.add("fake-noisy", "noisy", "print('hello from a plugin')\n")
    assert main(["list-plugins", "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)["plugins"]) == len(EXPECTED) + len(HEALTHY) + len(ODD) + 1
    assert "hello from a plugin" in err
