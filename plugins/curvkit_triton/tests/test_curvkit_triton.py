"""curvkit-triton as core sees it: listed, light, and speaking the plugin API that is installed."""

import json
import os
import subprocess
import sys
from importlib import metadata

import pytest

from curvkit_core import PluginInfo
from curvkit_triton import _plugin

HEAVY = ("torch", "numpy", "triton")


def child(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter in a child process, with no plugin filter but what `environ` sets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CURVKIT_")}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=kept | environ)


def row(**environ: str) -> dict:
    """This plugin's entry in `curvkit list-plugins --json`."""
    done = child("-m", "curvkit_core", "list-plugins", "--json", **environ)
    assert done.returncode == 0, done.stderr
    (found,) = [plugin for plugin in json.loads(done.stdout)["plugins"] if plugin["name"] == "triton"]
    return found


def test_plugin_is_listed_as_ok():
    """Found by its entry point, with the distribution and version that are installed."""
    found = row()
    assert (found["status"], found["reason"], found["findings"]) == ("ok", None, [])
    assert found["dist"] == "curvkit-triton"
    assert found["version"] == metadata.version("curvkit-triton")
    assert found["api"] == _plugin.curvkit_plugin_info().api


def test_plugin_can_be_blocked():
    """Control: the status comes from the host, and a blocked plugin is not `ok`."""
    assert row(CURVKIT_BLOCK_PLUGINS="triton")["status"] == "blocked"


def test_doctor_finds_nothing_wrong():
    """`curvkit doctor triton` imports it in a child process and exits with 0."""
    done = child("-m", "curvkit_core", "doctor", "triton")
    assert done.returncode == 0, done.stdout


def test_entry_point_is_the_namespace():
    """One entry point, `triton`, aimed at the light module."""
    (entry,) = metadata.entry_points(group="curvkit.plugins.v1", name="triton")
    assert entry.value == "curvkit_triton._plugin"
    assert entry.dist.name == "curvkit-triton"


def test_plugin_info_is_light_and_says_what_it_is():
    """A PluginInfo of API 1, with a summary that fits a row of the listing."""
    info = _plugin.curvkit_plugin_info()
    assert isinstance(info, PluginInfo)
    assert info.api.split(".")[0] == "1"
    assert 0 < len(info.summary) <= 80


@pytest.mark.parametrize("heavy", HEAVY)
def test_module_imports_nothing_heavy(heavy):
    """Loading the plugin's module in a bare child leaves these out of sys.modules."""
    program = "import sys, curvkit_triton._plugin; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = child("-c", program)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert "curvkit_triton" in loaded
    assert heavy not in loaded
