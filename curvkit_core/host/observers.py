"""Tell the plugins that watch runs; what they raise is logged and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from curvkit_core.host.records import PluginRecord


class Observers:
    """The plugins that implement ``curvkit_run_started`` or ``curvkit_run_finished``, in order of namespace."""

    def __init__(self, plugins: Iterable[PluginRecord]) -> None:
        self._plugins = sorted((p for p in plugins if p.observes), key=lambda p: p.namespace)

    def call_run_started(self, run: Any) -> None:
        """Say that a run begins."""
        self._call("curvkit_run_started", run)

    def call_run_finished(self, run: Any) -> None:
        """Say that a run has ended."""
        self._call("curvkit_run_finished", run)

    def _call(self, hook: str, run: Any) -> None:
        for plugin in self._plugins:
            try:
                getattr(plugin.hooks, hook)(run=run)
            except (Exception, SystemExit):
                import logging

                logging.getLogger("curvkit").exception("plugin %s failed in %s", plugin.label, hook)
