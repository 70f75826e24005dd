"""What a rank has found, for the test to read: tensors in safetensors, facts in JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


class Recorded:
    """Tensors and facts of one rank by name."""

    def __init__(self, tensors: dict[str, Tensor] | None = None, facts: dict[str, Any] | None = None) -> None:
        self.tensors = {} if tensors is None else tensors
        self.facts = {} if facts is None else facts

    def save(self, folder: Path, rank: int) -> None:
        """Write them."""
        save_file(
            {name: t.detach().clone().contiguous() for name, t in self.tensors.items()}, folder / f"{rank}.safetensors"
        )
        (folder / f"{rank}.json").write_text(json.dumps(self.facts))

    @classmethod
    def load(cls, folder: Path, rank: int) -> Recorded:
        """Read what a rank wrote."""
        facts = json.loads((folder / f"{rank}.json").read_text())
        return cls(load_file(folder / f"{rank}.safetensors"), facts)


def message_of(call: Any) -> str:
    """``"ValueError: text"`` of what a call raises; empty if it raises nothing."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever it is
        return f"{type(error).__name__}: {error}"
    return ""


def signs_hash(vectors: Tensor) -> str:
    """A vector's bytes, as text."""
    import hashlib

    return hashlib.sha256(vectors.to(torch.float64).numpy().tobytes()).hexdigest()
