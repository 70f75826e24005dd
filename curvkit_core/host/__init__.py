"""The plugin host: finds, checks and lists what is installed. Imports no torch, numpy or cattrs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curvkit_core.host.auto import Selection
    from curvkit_core.host.availability import Availability
    from curvkit_core.host.catalog import Catalog
    from curvkit_core.host.finding import Finding
    from curvkit_core.host.records import PluginRecord
    from curvkit_core.host.registry import Registry, configure_default, default_registry, load_registry

__all__ = [
    "Availability",
    "Catalog",
    "Finding",
    "PluginRecord",
    "Registry",
    "Selection",
    "configure_default",
    "default_registry",
    "load_registry",
]

_MODULE = {
    "Availability": "availability",
    "Catalog": "catalog",
    "Finding": "finding",
    "PluginRecord": "records",
    "Selection": "auto",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"{__name__}.{_MODULE.get(name, 'registry')}"), name)
