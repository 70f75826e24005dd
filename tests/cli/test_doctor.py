"""`curvkit doctor`: each plugin in a process of its own, with causes and mends."""

import os
import re
import subprocess
import sys

import pytest
from fixtures.fake_dists import INFO, FakeDists, operators

from curvkit_core.host.measure import traceback_lines


@pytest.fixture
def doctor(tmp_path):
    """Run the command in a child; the fake distributions come first on its path, the installed ones stay."""
    dists = FakeDists(tmp_path / "site-packages")

    def run(*arguments, plugins=None, **environ):
        plain = {k: v for k, v in os.environ.items() if not k.startswith("CURVKIT_")}
        path = os.pathsep.join(filter(None, [str(dists.folder), plain.get("PYTHONPATH")]))
        only = [] if plugins is None else ["--plugins", plugins]
        command = [sys.executable, "-m", "curvkit_core", "doctor", *only, *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**plain, "PYTHONPATH": path, **environ}, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        lines = [line for line in done.stdout.splitlines() if "(not in --plugins)" not in line]
        return done.returncode, lines, done.stderr

    run.dists = dists
    return run


def blurred(lines):
    """Lines with their times as `N ms`, and single spaces."""
    return [re.sub(r"\d+ ms", "N ms", re.sub(r"(?<=\S) +", " ", line)) for line in lines]


def test_sample_of_the_documentation(doctor):
    """A row a plugin; traceback, mend and findings below it; the number of problems; exit code 1."""
    dists = doctor.dists
    dists.add("acme-curvature", "acme-x", "'a plugin'\n\nimport acme_core", version="0.4.2")
    dists.plugin("old-x", dist="foo-curv", version="0.2", info=INFO.replace("1.0", "2.0"))
    dists.plugin("slow-x", "import transformers\n" + operators("slow-x/x"), dist="slowpoke", version="1.1")
    (dists.folder / "transformers.py").write_text("import time; time.sleep(0.05)")
    dists.plugin("twin-x", dist="curvkit-twin", version="0.1.0")
    stale = dists.folder / "old" / "curvkit_twin.egg-info"
    stale.mkdir(parents=True)
    (stale / "PKG-INFO").write_text("Name: curvkit-twin\nVersion: 0.0.9\n")
    sub = os.pathsep.join([str(dists.folder), str(stale.parent)])
    code, lines, _ = doctor(plugins="acme-x,old-x,slow-x,twin-x", PYTHONPATH=sub)
    assert code == 1
    assert lines[0].startswith("core")
    seen = blurred(lines)
    start = seen.index("acme-x broken import N ms")
    here = dists.folder
    assert seen[start:] == [
        "acme-x broken import N ms",
        f'  File "{here / "acme_curvature.py"}", line 3, in <module>',
        *[line for line in seen[start + 2 : start + 4] if "import acme_core" in line or set(line.strip()) == {"^"}],
        "  ModuleNotFoundError: No module named 'acme_core'",
        "  mend: install what acme-curvature 0.4.2 needs, or block it: CURVKIT_BLOCK_PLUGINS=acme-x",
        "old-x incompatible handshake N ms",
        "  needs plugin API 2.0, this curvkit-core 0.1.0 speaks 1.0. mend: upgrade curvkit-core",
        "slow-x ok import N ms",
        "  heavy import at load: transformers. mend: move it behind the factory string (author: slowpoke 1.1)",
        "twin-x ok discover N ms",
        f"  found twice: 0.1.0 at {here} (used), 0.0.9 at {stale.parent} (stale .egg-info). mend: delete the second",
        "4 problems",
    ]
    assert "    import acme_core" in lines


def test_columns_of_the_documentation(doctor):
    """Status, stage and time stand in columns; a blocked one has its reason there."""
    doctor.dists.plugin("acme", operators("acme/x"))
    _, lines, _ = doctor("acme", plugins="acme")
    assert re.fullmatch(r"acme  ok {11} {2} {9} {4} *\d+ ms", lines[0])
    assert len(lines[0]) == len("acme  ") + 33
    _, lines, _ = doctor("acme", CURVKIT_BLOCK_PLUGINS="acme")
    assert lines[0] == "acme  blocked       filter             (CURVKIT_BLOCK_PLUGINS)"


def test_one_healthy_plugin(doctor):
    """Shown with what it provides; exit code 0."""
    doctor.dists.plugin("acme", operators("acme/x", "acme/y"), dist="acme-dist")
    for name in ("acme", "acme-dist", "Acme_Dist"):
        code, lines, _ = doctor(name)
        assert code == 0
        assert lines[1:] == [
            f"  distribution acme-dist 1.0 at {doctor.dists.folder}",
            "  plugin API 1.0; provides 2 operators",
            "    operator acme/x",
            "    operator acme/y",
            "no problems",
        ]


def test_core_alone(doctor):
    """It has a row like any."""
    code, lines, _ = doctor("core")
    assert (code, lines[-1]) == (0, "no problems")
    assert "    operator core/hessian" in lines


def test_unknown_name(doctor):
    """Exit code 2, with the near name or the command that installs it."""
    doctor.dists.plugin("acme")
    code, lines, err = doctor("acmee", plugins="acme")
    assert (code, lines) == (2, [])
    assert err.startswith("no plugin 'acmee' is installed; did you mean 'acme'? Installed: ")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import os; os._exit(7)", "it ended the process that loaded it, with code 7"),
        ("import time; time.sleep(60)", "loading it did not end within 8 s"),
    ],
)
def test_plugin_that_kills_or_stops_its_process(doctor, source, reason):
    """Only a child process can tell; the others are shown all the same."""
    doctor.dists.add("fake-acme", "acme-x", source)
    doctor.dists.plugin("zz-x", operators("zz-x/x"))
    code, lines, _ = doctor("--timeout", "8", plugins="acme-x,zz-x")
    assert code == 1
    assert f"  {reason}" in lines
    assert any(line.startswith("zz-x") and " ok " in line for line in lines)
    assert lines[-1] == "1 problem"


def test_every_error_of_a_plugin_is_shown(doctor):
    """Validation gathers them."""
    doctor.dists.plugin("acme", operators("acme/X", "other/y"))
    code, lines, _ = doctor("acme")
    assert code == 1
    assert [line.split("'")[1] for line in lines[1:3]] == ["acme/X", "other/y"]


def test_noise_of_a_plugin_does_not_show(doctor):
    """The child's result goes through a file."""
    doctor.dists.plugin("acme", "print('so loud')\n" + operators("acme/x"))
    code, lines, err = doctor("acme")
    assert (code, "so loud" in "".join(lines), err) == (0, False, "")


def test_bad_requirement_is_a_finding(doctor):
    """It would make the component unavailable for ever."""
    doctor.dists.plugin("acme", operators("acme/x", requires=["not a requirement!"]))
    code, lines, _ = doctor("acme")
    assert code == 1
    assert "  acme/x requires 'not a requirement!', which is not a PEP 508 string. mend: the author" in lines[1]


def test_two_distributions_of_one_name_are_both_shown(doctor):
    """Without an import."""
    for letter in "ab":
        doctor.dists.add(f"twice-{letter}", "twice-x", "import os; os._exit(1)")
    code, lines, _ = doctor("twice-x")
    assert code == 1
    assert lines.count("  2 distributions provide 'twice-x': twice-a 1.0 and twice-b 1.0") == 2


def test_traceback_keeps_causes_and_drops_the_host():
    """`raise ... from` has both parts."""
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise RuntimeError("outer") from error
    except RuntimeError as error:
        lines = traceback_lines(error)
    text = "\n".join(lines)
    assert text.index("KeyError: 'inner'") < text.index("direct cause") < text.index("RuntimeError: outer")
    assert all(line.startswith("  ") for line in lines)
