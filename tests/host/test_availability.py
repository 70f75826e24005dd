"""Two tiers: installed metadata, then the probe on demand."""

import subprocess
import sys

import pytest

from curvkit_core import OperatorSpec
from curvkit_core.host.availability import Availability, availability


def spec(**fields):
    """An operator with requirements."""
    return OperatorSpec(name="local/x", summary="", factory="a:b", **fields)


@pytest.mark.parametrize(
    ("requires", "answer"),
    [
        ([], Availability(True)),
        (["dep"], Availability(True)),
        (["dep>=1.5"], Availability(True)),
        (["dep==2.0rc1"], Availability(True)),
        (["Dep[extra]>=1"], Availability(True)),
        (["dep>=3"], Availability(False, "dep>=3 is needed, 2.0rc1 is installed")),
        (["absent>=3"], Availability(False, "absent>=3 is not installed")),
        (["dep", "absent"], Availability(False, "absent is not installed")),
        (["absent; python_version < '3'"], Availability(True)),
        (["dep>=3; python_version >= '3'"], Availability(False, "dep>=3 is needed, 2.0rc1 is installed")),
        (["not a requirement!"], Availability(False, "its requirement 'not a requirement!' is not a PEP 508 string")),
    ],
)
def test_requirements_are_answered_from_metadata(dists, requires, answer):
    """A release candidate that is installed counts; a marker that does not hold asks for nothing."""
    dists.add("dep", version="2.0rc1")
    assert availability(spec(requires=requires)) == answer


def test_probe_is_not_run_unless_asked_for():
    """Unknown is an answer."""
    called = []
    probed = spec(probe=lambda: called.append(1) or (True, ""))
    assert availability(probed) == Availability(None, "probe")
    assert called == []
    assert availability(probed, probe=True) == Availability(True)
    assert called == [1]


def test_requirements_come_before_the_probe():
    """What is not installed is not probed."""
    answer = availability(spec(requires=["curvfix-absent"], probe=lambda: 1 / 0), probe=True)
    assert answer == Availability(False, "curvfix-absent is not installed")


def test_packaging_is_imported_only_to_answer_requirements():
    """It costs 20 ms of every start."""
    program = (
        "import sys; from curvkit_core import OperatorSpec; from curvkit_core.host.availability import availability\n"
        "s = lambda r: OperatorSpec(name='a/b', summary='', factory='a:b', requires=r)\n"
        "availability(s([])); before = 'packaging' in sys.modules; availability(s(['pluggy'])); "
        "print(before, 'packaging' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
