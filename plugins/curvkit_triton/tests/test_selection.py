"""Which kernel `auto` takes where, and why not another; no Triton is needed to answer."""

from __future__ import annotations

import importlib.util
import shutil
from types import ModuleType

import pytest
import torch

from curvkit_core import KernelSpec
from curvkit_core.kernels import Kernels, ce_hvp, chunked_linear_ce
from curvkit_triton import _plugin, probes
from curvkit_triton.compiled_ce_hvp import compiled_ce_hvp
from curvkit_triton.compiled_linear_ce import compiled_linear_ce

SPECS = {spec.name: spec for spec in _plugin.curvkit_kernels(None)}


def hide_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch and the import system say where there is a GPU, Triton, and a compiler."""
    monkeypatch.setattr(importlib.util, "find_spec", ModuleType)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


def test_four_kernels_are_offered_triton_first() -> None:
    """Each operation has two, of which none takes a CPU: compiling was measured there, and does not pay."""
    assert set(SPECS) == {"triton/ce-hvp", "triton/linear-ce", "triton/ce-hvp-compile", "triton/linear-ce-compile"}
    for op in ("ce-hvp", "linear-ce"):
        fused, compiled = SPECS[f"triton/{op}"], SPECS[f"triton/{op}-compile"]
        assert fused.op == compiled.op == op.replace("-", "_")
        assert fused.priority > compiled.priority > 0  # of core's references it is 0
        assert fused.devices == ("cuda",)
        assert "cpu" not in compiled.devices
        assert all(isinstance(spec, KernelSpec) and spec.probe for spec in (fused, compiled))


def test_the_compiled_ones_are_kernels() -> None:
    """They stand in a problem's kernels as the references do."""
    kernels = Kernels(ce_hvp=compiled_ce_hvp, linear_ce=compiled_linear_ce)
    assert kernels != Kernels(ce_hvp=ce_hvp, linear_ce=chunked_linear_ce)


def test_the_triton_probe_says_what_is_missing(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thing taken away after the other."""
    assert probes.triton() == (True, "")
    hide_compilers(monkeypatch)
    assert probes.triton() == (False, "no C compiler (cc, gcc, clang), which Triton's launcher needs")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert probes.triton() == (False, "a card is older than compute capability 8.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert probes.triton() == (False, "no CUDA device")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert probes.triton() == (False, "triton is not installed")


def test_the_compilers_probe_looks_at_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """CXX, with its flags, before the usual names."""
    hide_compilers(monkeypatch)
    assert probes.compiler() == (False, "no C++ compiler (g++, c++, clang++)")
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "my-c++" else None)
    monkeypatch.setenv("CXX", "my-c++ -O2")
    assert probes.compiler() == (True, "")
    monkeypatch.setenv("CXX", "gone")
    assert probes.compiler()[0] is False
