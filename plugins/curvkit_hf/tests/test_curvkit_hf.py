"""curvkit-hf as core sees it: listed, light, and speaking the plugin API that is installed."""

import json
import os
import subprocess
import sys
from importlib import metadata

import pytest

from curvkit_core import PluginInfo
from curvkit_hf import _plugin

HEAVY = ("torch", "numpy", "transformers")


def child(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter in a child process, with no plugin filter but what `environ` sets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CURVKIT_")}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=kept | environ)


def row(**environ: str) -> dict:
    """This plugin's entry in `curvkit list-plugins --json`."""
    done = child("-m", "curvkit_core", "list-plugins", "--json", **environ)
    assert done.returncode == 0, done.stderr
    (found,) = [plugin for plugin in json.loads(done.stdout)["plugins"] if plugin["name"] == "hf"]
    return found


def test_plugin_is_listed_as_ok():
    """Found by its entry point, with the distribution and version that are installed."""
    found = row()
    assert (found["status"], found["reason"], found["findings"]) == ("ok", None, [])
    assert found["dist"] == "curvkit-hf"
    assert found["version"] == metadata.version("curvkit-hf")
    assert found["api"] == _plugin.curvkit_plugin_info().api


def test_plugin_can_be_blocked():
    """Control: the status comes from the host, and a blocked plugin is not `ok`."""
    assert row(CURVKIT_BLOCK_PLUGINS="hf")["status"] == "blocked"


def test_doctor_finds_nothing_wrong():
    """`curvkit doctor hf` imports it in a child process and exits with 0."""
    done = child("-m", "curvkit_core", "doctor", "hf")
    assert done.returncode == 0, done.stdout


def test_entry_point_is_the_namespace():
    """One entry point, `hf`, aimed at the light module."""
    (entry,) = metadata.entry_points(group="curvkit.plugins.v1", name="hf")
    assert entry.value == "curvkit_hf._plugin"
    assert entry.dist.name == "curvkit-hf"


def test_plugin_info_is_light_and_says_what_it_is():
    """A PluginInfo of API 1, with a summary that fits a row of the listing."""
    info = _plugin.curvkit_plugin_info()
    assert isinstance(info, PluginInfo)
    assert info.api.split(".")[0] == "1"
    assert 0 < len(info.summary) <= 80


@pytest.mark.parametrize("heavy", HEAVY)
def test_module_imports_nothing_heavy(heavy):
    """Loading the plugin's module in a bare child leaves these out of sys.modules."""
    program = "import sys, curvkit_hf._plugin; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = child("-c", program)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert "curvkit_hf" in loaded
    assert heavy not in loaded


ADAPTERS = {
    "hf/causal-lm": "*ForCausalLM",
    "hf/image-classification": "*ForImageClassification",
    "hf/masked-lm": "*ForMaskedLM",
    "hf/seq2seq-lm": "*ForConditionalGeneration",
    "hf/sequence-classification": "*ForSequenceClassification",
    "hf/token-classification": "*ForTokenClassification",
}


def test_six_losses_and_a_problem_are_listed():
    """By the names that run files and `matches` use; each has the pages' summary."""
    names = {component["name"] for component in row()["components"]}
    assert names == {*ADAPTERS, "hf/pretrained"}
    found = {spec.name: spec for spec in _plugin.curvkit_loss_adapters(None)}
    assert set(found) == set(ADAPTERS)
    assert all(ADAPTERS[name] in spec.matches for name, spec in found.items())


@pytest.mark.parametrize("name", ADAPTERS)
def test_losses_are_built_without_transformers(name):
    """They run the model they are given: the class is imported, and makes an adapter with no argument."""
    program = (
        "import sys; from curvkit_core import default_registry; r = default_registry();"
        f"loss = r.load_factory(r.loss_adapters.require({name!r}))();"
        "print(type(loss).__name__, 'transformers' in sys.modules)"
    )
    done = child("-c", program, CURVKIT_PLUGINS="hf")
    assert done.returncode == 0, done.stderr
    expected = {spec.name: spec.factory for spec in _plugin.curvkit_loss_adapters(None)}[name].partition(":")[2]
    assert done.stdout.split() == [expected, "False"]


def test_the_problems_options_are_explained_without_torch():
    """Its configuration is light; every option has a line of documentation."""
    done = child("-m", "curvkit_core", "explain", "hf/pretrained", CURVKIT_PLUGINS="hf")
    assert done.returncode == 0, done.stderr
    for option in (
        "model",
        "text",
        "sequence_length",
        "pack",
        "batch_size",
        "max_tokens",
        "seed",
        "dtype",
        "device_map",
    ):
        assert option in done.stdout
    assert "trust_remote_code =" not in done.stdout
