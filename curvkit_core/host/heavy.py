"""Which heavy libraries a plugin's import brought in: seen in ``sys.modules`` before and after, so nearly free."""

from __future__ import annotations

import sys

HEAVY = frozenset(
    {
        "accelerate",
        "cupy",
        "datasets",
        "jax",
        "matplotlib",
        "numpy",
        "pandas",
        "peft",
        "scipy",
        "sklearn",
        "tensorflow",
        "torch",
        "torchaudio",
        "torchvision",
        "transformer_lens",
        "transformers",
        "triton",
    }
)


def heavy_loaded() -> frozenset[str]:
    """Return the heavy libraries that are imported now."""
    return HEAVY.intersection(sys.modules)


def newly_loaded(before: frozenset[str]) -> list[str]:
    """Return the heavy libraries imported since, the outermost first.

    Python puts a module at the end of ``sys.modules`` when its import is done, so what it brought in stands before it.
    """
    fresh = heavy_loaded() - before
    return [name for name in reversed(sys.modules) if name in fresh] if fresh else []
