"""What the launchers ask of their tensors: where they are, of which dtype, and that no element is written twice."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import triton
from torch import Tensor

__all__ = ["DTYPES", "check_device", "check_dtypes", "has_overlap", "is_interpreted", "on_device", "processors"]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTERPRETED_PROCESSORS = 2  # small, so that small shapes are cut into splits, too


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    return bool(triton.knobs.runtime.interpret)


def on_device(t: Tensor | None) -> AbstractContextManager[None]:
    """A context in which kernels are launched where `t` is: Triton takes the current device."""
    return torch.cuda.device(t.device) if t is not None and t.is_cuda else nullcontext()


def processors(device: torch.device) -> int:
    """How many multiprocessors there are to keep busy."""
    if device.type != "cuda":
        return _INTERPRETED_PROCESSORS
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


def check_device(name: str, instead: str, **tensors: Tensor | None) -> None:
    """Refuse tensors that are on no GPU, or not on the same one."""
    found = {what: t.device for what, t in tensors.items() if t is not None}
    good = "cpu" if is_interpreted() else "cuda"
    if len(set(found.values())) != 1 or any(device.type != good for device in found.values()):
        places = ", ".join(f"{what} on {device}" for what, device in found.items())
        kind = "CPU" if good == "cpu" else "CUDA or ROCm"
        msg = f"{name} got {places}: expected all on one {kind} device. Use {instead} elsewhere."
        raise ValueError(msg)


def check_dtypes(name: str, instead: str, dtypes: Sequence[torch.dtype], **tensors: Tensor | None) -> None:
    """Refuse dtypes that the kernel does not take."""
    for what, t in tensors.items():
        if t is not None and t.dtype not in dtypes:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            msg = f"{name} got {what} of dtype {str(t.dtype).removeprefix('torch.')}: expected {known}. Use {instead}."
            raise TypeError(msg)


def has_overlap(t: Tensor) -> bool:
    """Whether two indices may be one place in memory: dimensions, by stride, must each span what is inside them."""
    inside = 1
    for stride, size in sorted(zip(t.stride(), t.shape, strict=True)):
        if size > 1:
            if stride < inside:
                return True
            inside = stride * (size - 1) + inside
    return False
