"""Which checks there are, and which a component's kind and tags call for."""

from __future__ import annotations

import importlib

from curvkit_core.host.records import PluginRecord
from curvkit_core.host.specs import ComponentSpec
from curvkit_core.testing.check import Check

__all__ = ["all_checks", "checks_for"]

# by kind, imported when first asked for: an operator's checks need not wait for those of losses
_MODULES = {
    "plugin": ("checks_plugin",),
    "operator": ("checks_component", "checks_operator"),
    "algorithm": ("checks_component", "checks_algorithm"),
    "loss adapter": ("checks_component", "checks_loss"),
    "backend": ("checks_component", "checks_backend"),
    "kernel": ("checks_component", "checks_kernel"),
    "problem": ("checks_component", "checks_problem"),
}


def all_checks(kind: str) -> tuple[Check, ...]:
    """Every check of a kind, ``"plugin"`` included, with those that all components share."""
    modules = [importlib.import_module(f"curvkit_core.testing.{name}") for name in _MODULES[kind]]
    return tuple(found for module in modules for found in module.CHECKS)


def checks_for(target: ComponentSpec | PluginRecord) -> list[Check]:
    """Return the checks that a component, or a whole plugin, is held to.

    Parameters
    ----------
    target : ComponentSpec or PluginRecord
        A spec of any kind, ``local/`` ones too, or a row of ``Registry.plugins``.

    Returns
    -------
    list of Check
        In the order in which they run. Its tags choose: ``"psd"``, ``"repeatable"`` and the like each bring one.
    """
    if isinstance(target, PluginRecord):
        return list(all_checks("plugin"))
    if not isinstance(target, ComponentSpec) or target.kind not in _MODULES:
        msg = f"target is a {type(target).__name__}: expected a spec, such as OperatorSpec, or a PluginRecord."
        raise TypeError(msg)
    return [found for found in all_checks(target.kind) if found.concerns(target)]
