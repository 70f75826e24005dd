"""What a whole plugin keeps: it loads without a finding, weighs nothing, and is typed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from curvkit_core.host.discover import find_plugins
from curvkit_core.host.records import PluginRecord
from curvkit_core.testing.check import Record, SkippedError, check
from curvkit_core.testing.checks_component import imports_light
from curvkit_core.testing.subject import Subject
from curvkit_core.version import PLUGIN_API

__all__ = ["CHECKS", "module_of"]

_CPU_SECONDS = 0.5  # curvkit-core itself takes 0.1; torch takes 1 and more


def module_of(plugin: PluginRecord) -> str | None:
    """The module that the plugin's entry point names; None where it is not installed."""
    if plugin.namespace == "core":
        return "curvkit_core.host.builtin"
    for candidate in find_plugins():
        if (candidate.namespace, candidate.dist) == (plugin.namespace, plugin.dist) and candidate.entry_point:
            return candidate.entry_point.module
    return None


def _record(subject: Subject) -> PluginRecord:
    plugin = subject.plugin
    assert plugin is not None
    return plugin


@check("plugin")
def loads(subject: Subject, record: Record) -> None:
    """It is found, imported, speaks the API, and what it offers is valid; nothing odd was seen on the way."""
    plugin = _record(subject)
    why = "; ".join(plugin.details) or plugin.reason
    record.true(plugin.status == "ok", f"{plugin.status} at {plugin.stage}: {why}. mend: {plugin.hint}")
    record.true(not plugin.findings, "; ".join(f"{f.stage}: {f.text}" for f in plugin.findings))


@check("plugin")
def offers(subject: Subject, record: Record) -> None:
    """It offers at least one component, or watches runs."""
    plugin = _record(subject)
    record.note("components", len(plugin.specs))
    record.true(plugin.specs or plugin.observes, "no hook gave anything")


@check("plugin")
def handshake(subject: Subject, record: Record) -> None:
    """The API it asks for is MAJOR.MINOR, of the host's major, and no newer than the host's."""
    api = _record(subject).api
    theirs, ours = ([int(part) if part.isdigit() else -1 for part in text.split(".")] for text in (api, PLUGIN_API))
    record.equal("the parts of its API's number", len(theirs), 2)
    record.equal("its API's major", theirs[0], ours[0])
    record.at_most("its API's minor", theirs[1], ours[1])


@check("plugin")
def imports_are_light(subject: Subject, record: Record) -> None:
    """Its module is imported where torch, numpy, triton and transformers cannot be, in half a CPU second."""
    module = module_of(_record(subject))
    if module is None:
        msg = "it is no installed distribution"
        raise SkippedError(msg)
    record.at_most("CPU seconds", imports_light((module,)), _CPU_SECONDS)


@check("plugin")
def typed(subject: Subject, record: Record) -> None:
    """Its package carries py.typed, so that type checkers read its annotations."""
    module = module_of(_record(subject))
    found = None if module is None else importlib.util.find_spec(module.partition(".")[0])
    if found is None or not found.submodule_search_locations:
        msg = "it is no package"
        raise SkippedError(msg)
    places = [Path(place) / "py.typed" for place in found.submodule_search_locations]
    record.true(any(place.is_file() for place in places), f"there is no {places[0]}")


CHECKS = (loads, offers, handshake, imports_are_light, typed)
