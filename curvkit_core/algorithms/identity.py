"""What a checkpoint must match to be taken up again: the algorithm and its inputs, the operator, the model, the data.

Contents count, not objects: parameters and buffers, every tensor of the operator and the examples are hashed. What only
bitwise equality depends on (threads, device, versions) is kept apart.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from curvkit_core.algorithms.provenance import versions
from curvkit_core.backends import HoldsShards
from curvkit_core.checks.data_contents import Contents, Digest
from curvkit_core.linearize.fingerprint import content_hash, fingerprint_of_model
from curvkit_core.operators import CurvatureOperator
from curvkit_core.operators.linear_map import LinearMap
from curvkit_core.problem.problem import Problem
from curvkit_core.problem.untouched import untouched

__all__ = ["circumstances", "differences", "identity"]

_PLAIN = (bool, int, float, str, type(None))
_WORDS = 6  # numbers that tell a rank's data: rows, units, a hash in four


def identity(algorithm: Any, op: CurvatureOperator, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Plain facts of a run, to be compared by :func:`differences`. Reads the data once, without the model."""
    return {
        "algorithm": _facts(algorithm),
        "inputs": {name: _facts(value) for name, value in inputs.items()},
        "operator": _of_operator(op),
    }


def circumstances(op: CurvatureOperator) -> dict[str, Any]:
    """What a product's last bits depend on beside its operator."""
    return {
        "device": str(op.device) if op.device.type == "cpu" else torch.cuda.get_device_name(op.device),
        "threads": torch.get_num_threads(),
        "strategy": re.sub(r" \([^)]*\)", "", str(getattr(op, "strategy", ""))),  # without sizes
        "torch": versions().get("torch", ""),
        "curvkit-core": versions().get("curvkit-core", ""),
        "ranks": op.problem.backend.world.size if isinstance(op.problem, Problem) else 1,
    }


def differences(there: Any, here: Any, path: str = "") -> list[str]:
    """Where two of these differ: ``"operator.problem.parameters: 91ab... there, 77f0... here"``."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = dict.fromkeys([*there, *here])
        return [line for key in keys for line in differences(there.get(key), here.get(key), f"{path}.{key}".strip("."))]
    return [] if there == here else [f"{path}: {there!r} there, {here!r} here"]


def _facts(value: Any) -> Any:
    """A value as JSON has it: what is plain as it is, tensors hashed, attrs classes field by field."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Tensor):
        return _of_tensor(value)
    if isinstance(value, LinearMap):
        return _of_operator(value)
    if isinstance(value, Mapping):
        return {str(key): _facts(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return {str(i): _facts(item) for i, item in enumerate(value)}
    name = f"{type(value).__module__}:{type(value).__qualname__}"
    if attrs.has(type(value)):
        return {"type": name, **{f.name: _facts(getattr(value, f.name)) for f in attrs.fields(type(value))}}
    return name


def _of_tensor(tensor: Tensor) -> str:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    return f"{str(tensor.dtype).removeprefix('torch.')} {shape} {int(content_hash(tensor.detach())) % (1 << 64):016x}"


def _of_operator(op: LinearMap) -> dict[str, Any]:
    """Type, size, what its public attributes say, and its problem."""
    found: dict[str, Any] = {"type": type(op).__qualname__, "shape": f"{op.shape}", "dtype": str(op.dtype)}
    for name, value in vars(op).items():
        if name.startswith("_") or name in ("domain", "codomain", "problem", "algorithm", "num_matvecs"):
            continue
        found[name] = _facts(value)
    if isinstance(op.problem, Problem):
        found["problem"] = _of_problem(op.problem, data=op.deterministic)
    return found


def _of_problem(problem: Problem, *, data: bool) -> dict[str, Any]:
    sharded = isinstance(problem.backend, HoldsShards)  # a rank sees its part alone, another one on other ranks
    hashes = repr(() if sharded else fingerprint_of_model(problem.model, problem.loss).hashes).encode()
    names = "\n".join(problem.parameters.names).encode()
    found = {
        "model": type(problem.model).__qualname__,
        "values": hashlib.blake2b(hashes, digest_size=8).hexdigest(),
        "parameters": f"{len(problem.parameters)}, {hashlib.blake2b(names, digest_size=8).hexdigest()}",
        "loss": _facts(problem.loss),
        "weighting": problem.weighting,
        "mode": problem.mode,
        "microbatch_size": problem.microbatch_size,
        "num_batches": problem.num_batches,
    }
    if data:
        digest, units = Digest(), 0.0
        nothing = torch.zeros(1, dtype=problem.space.dtype, device=problem.space.device)
        with (
            problem.together(nothing, torch.zeros(_WORDS, dtype=torch.float64)),
            untouched(problem.model, problem.mode),
        ):
            for piece in problem.pieces():
                digest.add(piece)
                units += float(piece.count)
        contents = digest.contents(units)
        # by example where they can be told apart, so that the order may differ
        rows = contents.all_rows if contents.by_row else hash(contents.batches) % (1 << 64)
        number, units = contents.rows, contents.units
        if problem.backend.world.size > 1:
            number, units, rows = _over_ranks(problem, contents)
        found["data"] = f"{number} rows, {units:g} units, {rows:016x}"
    return found


def _over_ranks(problem: Problem, contents: Contents) -> tuple[int, float, int]:
    """Rows, units and the sum of the batches' hashes over all ranks' data, however it is dealt out."""
    words = [float(contents.all_rows >> shift & 0xFFFF) for shift in (0, 16, 32, 48)]
    own = torch.tensor([contents.rows, contents.units, *words], dtype=torch.float64)
    assert own.numel() == _WORDS
    nothing = torch.zeros(1, dtype=problem.space.dtype, device=problem.space.device)
    _, summed = problem.backend.reduce((nothing, own))
    rows, units, *words = summed.tolist()
    return int(rows), units, sum(int(w) << shift for w, shift in zip(words, (0, 16, 32, 48), strict=True)) % (1 << 64)
