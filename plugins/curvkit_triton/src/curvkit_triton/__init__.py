"""Triton kernels for GPUs, as a curvkit plugin. `_plugin` is what core loads."""

__all__: list[str] = []
