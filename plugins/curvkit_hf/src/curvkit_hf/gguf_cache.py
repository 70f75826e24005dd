"""A GGUF file's weights as float32 safetensors, made once and kept: dequantising takes longer than computing does."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from curvkit_core.results.atomic import atomic_folder

__all__ = ["dequantised_folder"]

_BLOCK = 1 << 22


def dequantised_folder(file: Path, cache: str | None) -> Path:
    """A folder that ``from_pretrained`` loads, with what the GGUF file holds; made on first use.

    Parameters
    ----------
    file : Path
        The GGUF file.
    cache : str or None
        Where folders are kept, one a file's contents; None: ``curvkit/hf`` in the user's cache.

    Raises
    ------
    ValueError
        If transformers cannot read the file, or a package that it reads with is missing.
    """
    root = Path(cache) if cache is not None else _user_cache() / "curvkit" / "hf"
    folder = root / f"{file.stem}-{_digest(file)[:16]}"
    if (folder / "model.safetensors").is_file():
        return folder
    try:
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except ImportError as error:
        msg = f'model={str(file)!r} needs gguf and accelerate ({error}). Install them: pip install "curvkit-hf[gguf]".'
        raise ValueError(msg) from error
    except (OSError, KeyError, NotImplementedError, RuntimeError, ValueError) as error:
        msg = f"model={str(file)!r} cannot be read as a GGUF model ({type(error).__name__}: {error})."
        raise ValueError(msg) from error
    try:
        with atomic_folder(folder, replace=True) as temporary:
            _write(model, tokenizer, temporary)
    except OSError as error:
        msg = f"cache={str(root)!r} cannot be written ({error}). Name a folder with room for the float32 weights."
        raise ValueError(msg) from error
    return folder


def _write(model: nn.Module, tokenizer: Any, folder: Path) -> None:
    """The state dict, since ``save_pretrained`` refuses a model that was read from GGUF; tied weights once."""
    once: dict[int, str] = {}
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if once.setdefault(value.data_ptr(), name) == name:
            state[name] = value.contiguous()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    config.pop("quantization_config", None)  # the weights are numbers now
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=str), encoding="utf-8")
    tokenizer.save_pretrained(folder)


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _user_cache() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else Path.home() / ".cache"
