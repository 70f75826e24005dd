"""Compile every kernel for chips that are not there, as its launcher would launch it, and print what came out as JSON.

Run in a process of its own, with Triton's interpreter off: ``python ahead_of_time.py TARGET...``, of `TARGETS`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from attrs import define, evolve, field, frozen
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import curvkit_triton.ce_hvp as ce_hvp_module
import curvkit_triton.linear_ce as linear_ce_module
from curvkit_core.kernels import LinearCeOptions

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}
KERNELS = ("stats_kernel", "rows_kernel", "words_kernel")


@frozen(eq=False)
class Launch:
    """A kernel with the arguments that its launcher passed."""

    what: str
    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    options: dict[str, Any]


@define
class Recorder:
    """Stands where a kernel does, and launches nothing."""

    kernel: Any
    what: str = ""
    launches: list[Launch] = field(factory=list)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **options: self.launches.append(Launch(self.what, self.kernel, grid, args, options))


def recorded(name: str) -> Iterator[Launch]:
    """Every kernel in every dtype: plain, and with all options on."""
    module: Any = linear_ce_module
    for m in (ce_hvp_module, linear_ce_module):
        m.check_device = lambda *_, **__: None
    module.processors = lambda _: 132
    hip = TARGETS[name].backend == "hip"
    module.matmul_precision = lambda: "ieee" if hip else "tf32x3"
    torch.version.hip = "0" if hip else None  # what the launchers ask
    yield from _ce_hvp()
    yield from _linear_ce()


def _ce_hvp() -> Iterator[Launch]:
    module: Any = ce_hvp_module
    recorder = Recorder(module._ce_hvp_kernel)
    module._ce_hvp_kernel = recorder
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        for classes in (10, 1000, 50_257):
            recorder.what = f"ce-hvp {_word(dtype)} V={classes}"
            z = torch.empty(2, classes, dtype=dtype)
            module.ce_hvp(z, torch.empty(2), torch.empty_like(z))
    recorder.what = "ce-hvp bfloat16 shifted slices, columns apart, in place"
    z, u = torch.empty(2, 8, 50_257, dtype=torch.bfloat16)[:, :-1], torch.empty(50_257, 14)
    module.ce_hvp(z[0], torch.empty(7) > 0, u.mT[:7], out=u.mT[:7])
    module._ce_hvp_kernel = recorder.kernel
    yield from recorder.launches


def _linear_ce() -> Iterator[Launch]:
    module: Any = linear_ce_module
    recorders = {name: Recorder(getattr(module, name)) for name in KERNELS}
    for name, recorder in recorders.items():
        setattr(module, name, recorder)
    rows, width, words = 256, 768, 50_257
    targets = torch.zeros(rows, dtype=torch.int64)
    every = LinearCeOptions(label_smoothing=0.1, softcap=30.0, logit_scale=0.5, class_weights=torch.ones(words))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        h, W, b = (torch.empty(shape, dtype=dtype) for shape in ((rows, width), (words, width), (words,)))
        d = tuple(torch.empty(1, *t.shape, dtype=dtype) for t in (h, W, b))
        for options, bias in ((LinearCeOptions(), None), (every, b)):
            y, along = (h, W, bias), (d[0], d[1], None if bias is None else d[2])
            wanted = (True, True, bias is not None)
            for what in ("loss", "slopes", "gradient", "gauss-newton", "hessian"):
                for recorder in recorders.values():
                    recorder.what = f"{what} {_word(dtype)} {'plain' if bias is None else 'all options'}"
                if what == "loss":
                    module.triton_linear_ce(y, targets, options)
                elif what == "slopes":
                    module.triton_linear_ce.slopes(
                        y, targets, options, tuple(t if t is None else t[0] for t in along), None
                    )
                elif what == "gradient":
                    module.triton_linear_ce.gradient(y, targets, options, torch.empty(rows), wanted)
                else:
                    newton = what == "gauss-newton"
                    module.triton_linear_ce.product(y, targets, options, None, along, wanted, gauss_newton=newton)
    for name, recorder in recorders.items():
        setattr(module, name, recorder.kernel)
        yield from recorder.launches


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def source(launch: Launch) -> ASTSource:
    """The launch as Triton's own compiler would specialise it: ones are constants, multiples of 16 are known."""
    kernel = launch.kernel
    constants = {name: value for name, value in launch.options.items() if name.isupper()}
    signature = dict.fromkeys(kernel.arg_names, "constexpr")
    attributes = {}
    for place, (name, value) in enumerate(zip(kernel.arg_names, launch.args, strict=False)):
        if isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            aligned = value.storage_offset() * value.element_size() % 16 == 0
        elif isinstance(value, float):
            signature[name] = "fp32"
            aligned = False
        elif value == 1:
            constants[name] = 1
            aligned = False
        else:
            signature[name] = "i64" if abs(value) >= 2**31 else "i32"
            aligned = value % 16 == 0
        if aligned:
            attributes[place,] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)


def compiled(launch: Launch, name: str) -> dict[str, Any]:
    """What the assembler says of it, and offsets that could overflow, from Triton's own language."""
    target = TARGETS[name]
    options = {key: value for key, value in launch.options.items() if not key.isupper()}
    kernel = triton.compile(source(launch), target=target, options=options)
    row = {"target": name, "what": launch.what, "kernel": launch.kernel.__name__, **options}
    row |= {"narrow_offsets": narrow_offsets(kernel.asm["ttir"])}
    if target.backend == "cuda":
        return row | _nvidia(kernel)
    text = kernel.asm["amdgcn"]
    found = {key: int(re.search(rf"\.{key}:\s+(\d+)", text)[1]) for key in _AMD}
    return row | {
        "binary": len(kernel.asm["hsaco"]),
        "registers": found["vgpr_count"],
        # those of scalar registers go to lanes of vector registers, not to memory
        "spills": found["vgpr_spill_count"] + found["private_segment_fixed_size"],
        "scalar_spills": found["sgpr_spill_count"],
        "shared": max(found["group_segment_fixed_size"], kernel.metadata.shared),
    }


_AMD = ("vgpr_count", "vgpr_spill_count", "sgpr_spill_count", "group_segment_fixed_size", "private_segment_fixed_size")


def _nvidia(kernel: Any) -> dict[str, Any]:
    """Registers and local memory as the cubin has them: spills are on the stack, and the kernels need none besides."""
    tool = triton.knobs.nvidia.cuobjdump.path
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        done = subprocess.run([tool, "--dump-resource-usage", str(cubin)], capture_output=True, text=True, check=True)
    found = dict(re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", done.stdout))
    return {
        "binary": len(kernel.asm["cubin"]),
        "registers": int(found["REG"]),
        "spills": int(found["LOCAL"]) + int(found["STACK"]),
        "shared": max(kernel.metadata.shared, int(found["SHARED"])),
    }


def narrow_offsets(text: str) -> list[str]:
    """The pointer additions of 32 bits that depend on which program it is, or on how far a program has walked.

    What is added to a pointer inside a block is bounded by the launcher, and may be int32; where a block starts is not,
    and must be int64. So names are followed from a program's number through all that is computed from it in 32 bits.
    """
    tainted: set[str] = set()
    found, read = [], 0
    for line in text.splitlines():
        names = re.findall(r"%[\w#]+", line)
        loop = re.search(r"scf\.for (%\w+) = (%\w+) to (%\w+)", line)
        if loop:
            tainted |= {loop[1]} if {loop[2], loop[3]} & tainted else set()
        elif "tt.addptr" in line:
            read += 1
            if re.search(r", (?:tensor<[0-9x]*)?i32>?(?: loc.*)?$", line) and names[2] in tainted:
                found.append(line.strip())
        elif re.match(r"\s*%\w+ = (arith|tt|math)\.", line) and not re.search(r"extsi|tt\.load", line):
            tainted |= {names[0]} if "tt.get_program_id" in line or set(names[1:]) & tainted else set()
    assert read == text.count("tt.addptr")
    assert read
    return found


@triton.jit
def narrow_kernel(in_ptr, out_ptr, stride, BLOCK: tl.constexpr):
    """A row's start in int32: the error that is looked for, in both ways."""
    row = tl.program_id(0)
    lanes = tl.arange(0, BLOCK)
    tl.store(out_ptr + (row * stride + lanes), tl.load(in_ptr + row * stride + lanes))


if __name__ == "__main__":
    assert os.environ.get("TRITON_INTERPRET", "0") == "0", "the interpreter compiles nothing"
    for target_name in sys.argv[1:]:
        options = {"BLOCK": 64, "enable_fp_fusion": True}
        wrong = Launch("control", narrow_kernel, (1,), (torch.empty(64), torch.empty(64), 7), options)
        print(json.dumps(compiled(wrong, target_name)), flush=True)
        seen = set()
        for one in recorded(target_name):
            if not seen:  # a block of 256 elements a thread: the other error that is looked for
                spilling = evolve(one, what="control", options={**one.options, "BLOCK": 8192, "num_warps": 1})
                print(json.dumps(compiled(spilling, target_name)), flush=True)
            key = json.dumps([one.kernel.__name__, source(one).hash(), str(one.options)])
            if key not in seen:
                seen.add(key)
                print(json.dumps(compiled(one, target_name)), flush=True)
