"""What a checkpoint must match to be taken up again: the algorithm and its inputs, the operator, the model, the data.

Contents count, not objects: parameters and buffers, every tensor of the operator and the examples are hashed. What only
bitwise equality depends on (threads, device, versions) is kept apart.

A run may go on with other ranks: parameters, vectors and data are hashed so that what each rank has adds up to what one
process would say.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from curvkit_core.algorithms.provenance import versions
from curvkit_core.backends import HoldsShards, VectorSpace
from curvkit_core.backends.probes import hashed_words, stream_key
from curvkit_core.checks.data_contents import Contents, Digest
from curvkit_core.linearize.fingerprint import content_hash
from curvkit_core.operators import CurvatureOperator
from curvkit_core.operators.linear_map import LinearMap
from curvkit_core.problem.parameters import canonical_name
from curvkit_core.problem.problem import Problem
from curvkit_core.problem.untouched import untouched

__all__ = ["circumstances", "differences", "identity"]

_PLAIN = (bool, int, float, str, type(None))
_WORDS = 6  # numbers that tell a rank's data: rows, units, a hash in four
_PLACES = 1 << 16  # elements after which the weights of places come again, times another one
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


def identity(algorithm: Any, op: CurvatureOperator, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Plain facts of a run, to be compared by :func:`differences`. Reads the data once, without the model."""
    return {
        "algorithm": _facts(algorithm),
        "inputs": {name: _of_input(value, op.space) for name, value in inputs.items()},
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


def _of_input(value: Any, space: VectorSpace) -> Any:
    if not isinstance(value, Tensor) or not space.is_rows(value):
        return _facts(value)
    total, rows = 0, value.detach().reshape(-1, space.n_local)
    for number, row in enumerate(rows):
        offset = 0
        for s in space.segments:
            weight = stream_key(0, number, s.name) | 1
            total += weight * _hash_of_elements(row[offset : offset + s.numel], s.start)
            offset += s.numel
    shape = "x".join(map(str, (*value.shape[:-1], space.n)))
    return f"{str(value.dtype).removeprefix('torch.')} {shape} {_over_shards(total, space):016x}"


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
    names = "\n".join(problem.parameters.names).encode()
    found = {
        "model": _class_name(problem.model),
        "values": hashlib.blake2b(repr(_of_values(problem)).encode(), digest_size=8).hexdigest(),
        "parameters": f"{len(problem.parameters)}, {hashlib.blake2b(names, digest_size=8).hexdigest()}",
        "loss": _facts(problem.loss),
        "weighting": problem.weighting,
        "mode": problem.mode,
        "microbatch_size": problem.microbatch_size,
        "num_batches": None if data else problem.num_batches,  # where data are read, those are what counts
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


def _class_name(model: nn.Module) -> str:
    """The model's own class, whatever wraps it or, as torch's ``fully_shard`` does, was derived from it."""
    while type(model).__name__ == "DistributedDataParallel" and isinstance(model.module, nn.Module):
        model = model.module
    classes = type(model).__mro__
    names = [cls.__name__ for cls in classes]
    return classes[names.index("FSDPModule") + 1 if "FSDPModule" in names else 0].__qualname__


def _of_values(problem: Problem) -> list[int]:
    """A hash of all parameters, where they lie in parts of all parts together; then those of buffers and plain tensors.

    The latter are whole on every rank.
    """
    model, backend, total = problem.model, problem.backend, 0
    with backend.context(model):
        for raw, parameter in model.named_parameters():
            value, start = parameter.detach(), 0
            if isinstance(backend, HoldsShards):
                if hasattr(value, "to_local"):
                    value, start = backend.piece(raw, parameter)
                elif backend.world.rank:
                    continue  # whole on every rank: counted once
            total += (stream_key(0, 0, canonical_name(raw)) | 1) * _hash_of_elements(value, start)
    plain = [v for m in model.modules() for n, v in vars(m).items() if isinstance(v, Tensor) and not n.startswith("_")]
    whole = [t.detach() for t in (*model.buffers(), *plain) if t.layout is torch.strided]
    return [_over_shards(total, problem.space), *(int(content_hash(t)) for t in whole)]


def _hash_of_elements(run: Tensor, start: int) -> int:
    """The sum of a run's elements, as integers, each times an odd weight of its place: runs add up to their whole.

    `start` is the first element's place. Those of 64 bits are mixed first, since bit 63 times an odd weight is bit 63:
    two flipped signs would cancel.
    """
    flat = run.contiguous().reshape(-1)
    words = flat.view(_INTEGERS.get(flat.element_size(), torch.int64)) if flat.numel() else flat
    weights = _weights(words.device)
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    low = 0
    while low < words.numel():
        block, first = divmod(start + low, _PLACES)
        some = words[low : low + _PLACES - first]
        mixed = (some >> 33).add_(some) if some.dtype == torch.int64 else some
        total = total + (mixed * weights[first : first + len(some)]).sum() * (stream_key(0, block, "") | 1)
        low += len(some)
    return int(total)


@cache
def _weights(device: torch.device) -> Tensor:
    return hashed_words(_PLACES, device=device)


def _over_shards(total: int, space: VectorSpace) -> int:
    """The shards' sum modulo 2^64, told in words of 16 bits, whose sums are exact."""
    words = [float(total % (1 << 64) >> shift & 0xFFFF) for shift in (0, 16, 32, 48)]
    summed = space.sum_over_shards(torch.tensor(words, dtype=torch.float64)).tolist()
    return sum(int(w) << 16 * i for i, w in enumerate(summed)) % (1 << 64)


def _over_ranks(problem: Problem, contents: Contents) -> tuple[int, float, int]:
    """Rows, units and the sum of the batches' hashes over all ranks' data, however it is dealt out."""
    words = [float(contents.all_rows >> shift & 0xFFFF) for shift in (0, 16, 32, 48)]
    own = torch.tensor([contents.rows, contents.units, *words], dtype=torch.float64)
    assert own.numel() == _WORDS
    nothing = torch.zeros(1, dtype=problem.space.dtype, device=problem.space.device)
    _, summed = problem.backend.reduce((nothing, own))
    rows, units, *words = summed.tolist()
    return int(rows), units, sum(int(w) << shift for w, shift in zip(words, (0, 16, 32, 48), strict=True)) % (1 << 64)
