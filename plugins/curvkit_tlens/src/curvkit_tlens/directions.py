"""Directions from a file, for run files: a tensor (m, features) saved with safetensors."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

__all__ = ["read_directions"]


def read_directions(path: str) -> Tensor:
    """The one tensor of a safetensors file, or the one called ``directions``. No code is run.

    Raises
    ------
    ValueError
        If there is no such file, or it holds several tensors and none of that name.
    """
    if not Path(path).is_file():
        msg = f"directions={path!r}: no such file. Save a tensor (m, features) with safetensors.torch.save_file."
        raise ValueError(msg)
    held = load_file(path)
    if len(held) == 1:
        return next(iter(held.values()))
    if "directions" not in held:
        msg = f"directions={path!r} holds {', '.join(sorted(held)) or 'nothing'}: expected one tensor, or 'directions'."
        raise ValueError(msg)
    return held["directions"]
