"""Model and tokenizer from a folder, a GGUF file or the hub; what is not there is one clear message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from curvkit_core.problem.remote_code import remote_code_allowed
from curvkit_hf.config import PretrainedConfig
from curvkit_hf.gguf_cache import dequantised_folder

__all__ = ["load_model_and_tokenizer"]


def load_model_and_tokenizer(config: PretrainedConfig) -> tuple[nn.Module, Any]:
    """Load what `config` names, the model in eval mode on its device.

    Raises
    ------
    ValueError
        If there is no such model, here or on the hub, or no tokenizer with it; with the mend.
    """
    source = _source(config)
    trusted = {"trust_remote_code": remote_code_allowed()}
    revision = {} if Path(source).is_dir() else {"revision": config.revision}
    options: dict[str, Any] = {"dtype": config.dtype if config.dtype == "auto" else getattr(torch, config.dtype)}
    if config.device_map is not None:
        options["device_map"] = config.device_map
    if config.attention is not None:
        options["attn_implementation"] = config.attention
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **trusted, **revision)
        model = AutoModelForCausalLM.from_pretrained(source, **trusted, **revision, **options)
    except ImportError as error:
        msg = f"model={config.model!r} needs a package that is not installed: {_first_line(error)}"
        raise ValueError(msg) from error
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(_what_is_missing(config, error)) from error
    if config.device_map is None:
        model = model.to(_device(config.device))
    return model.eval(), tokenizer


def _source(config: PretrainedConfig) -> str:
    """A folder with a model in it, or a name for the hub; what looks like a path and is none is refused here."""
    path = Path(config.model).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return str(dequantised_folder(path, config.cache))
    if path.is_dir():
        if not (path / "config.json").is_file():
            files = sorted(entry.name for entry in path.iterdir())[:8]
            msg = (
                f"model={config.model!r}: the folder has no config.json (it holds {', '.join(files) or 'nothing'}). "
                "Expected a folder that save_pretrained wrote, or the path of a .gguf file."
            )
            raise ValueError(msg)
        return str(path)
    if path.suffix == ".gguf" or path.is_absolute() or config.model.startswith((".", "~")) or len(path.parts) > 2:
        msg = f"model={config.model!r}: no such file or folder, seen from {Path.cwd()}."
        raise ValueError(msg)
    return config.model


def _what_is_missing(config: PretrainedConfig, error: Exception) -> str:
    text = str(error)
    if "trust_remote_code" in text:
        return (
            f"model={config.model!r} comes with code of its own. If you have read it and trust it: "
            "curvkit run --trust-remote-code. No run file can allow that."
        )
    if "Unrecognized configuration class" in text or "Unrecognized model" in text:
        return f"model={config.model!r} is no causal language model: {_first_line(error)}"
    if Path(config.model).expanduser().exists():
        return f"model={config.model!r} cannot be loaded ({type(error).__name__}): {_first_line(error)}"
    return (
        f"model={config.model!r}: there is no such folder here, and it can be had neither from the hub nor from the "
        f"local cache of what was downloaded before: {_first_line(error)}"
    )


def _first_line(error: Exception) -> str:
    """What the library says, without the advice that follows on further lines."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        msg = f"device={name!r} is unknown: expected 'cpu', 'cuda', 'cuda:1' or 'mps'."
        raise ValueError(msg) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        msg = f"device={name!r}: torch sees {torch.cuda.device_count()} CUDA devices here. Use 'cpu'."
        raise ValueError(msg)
    return device
