"""Curvature of TransformerLens models: losses, components, hook points, interventions. `_plugin` is what core loads."""

from curvkit_core.lazy import lazy_names

_WHERE = {
    "HookPointOperator": "curvkit_tlens.hook_point",
    "NextTokenLoss": "curvkit_tlens.next_token",
    "ablated": "curvkit_tlens.hooks",
    "component_names": "curvkit_tlens.named_components",
    "interventions": "curvkit_tlens.hooks",
    "match_components": "curvkit_tlens.components",
    "patched": "curvkit_tlens.hooks",
}
__all__ = list(_WHERE)
__getattr__, __dir__ = lazy_names(__name__, _WHERE)
