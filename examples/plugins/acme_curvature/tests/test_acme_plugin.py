"""How core sees the installed plugin."""

import json
import subprocess
import sys
from importlib import metadata


def row() -> dict:
    """The plugin's entry in `curvkit list-plugins --json`."""
    command = [sys.executable, "-m", "curvkit_core", "list-plugins", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (found,) = [plugin for plugin in json.loads(done.stdout)["plugins"] if plugin["name"] == "acme"]
    return found


def test_plugin_is_listed_with_both_components():
    """Status ok, the installed version, one operator and one algorithm."""
    found = row()
    assert (found["status"], found["dist"]) == ("ok", "acme-curvature")
    assert found["version"] == metadata.version("acme-curvature")
    assert {component["name"] for component in found["components"]} == {
        "acme/jacobian-gram",
        "acme/subspace-iteration",
    }


def test_plugin_module_imports_no_torch():
    """Loading what the entry point names leaves torch out."""
    program = "import sys, acme_curvature._plugin, acme_curvature.config; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
