"""What core loads through the entry point `tlens`: light, so that listing plugins imports nothing heavy."""

from curvkit_core import PluginInfo, hookimpl


@hookimpl
def curvkit_plugin_info() -> PluginInfo:
    """Say which plugin API this speaks; components are registered by further hooks in this module."""
    return PluginInfo(api="1.0", summary="TransformerLens hooked models")
