"""These tests need Triton, and run its kernels in its interpreter, on the CPU: `nox -s "plugin(triton)"`."""

import os
from typing import Any

import numpy as np
import pytest

# read where a kernel is decorated: before any of them is imported
os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def exact_bfloat16_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mend the interpreter, which multiplies bfloat16's bit patterns as integers, and let the launchers use it so."""
    from triton import language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    import curvkit_triton.linear_ce as module

    plain = InterpreterBuilder.create_dot

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return plain(self, widened(a), widened(b), *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
    monkeypatch.setattr(module, "is_interpreted", lambda: False)
