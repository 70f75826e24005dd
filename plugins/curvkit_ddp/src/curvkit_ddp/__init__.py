"""Replicated and sharded models on many ranks, as a curvkit plugin. `_plugin` is what core loads."""

__all__: list[str] = []
