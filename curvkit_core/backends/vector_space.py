"""The space that vectors live in: inner products, combinations, orthonormal bases and random vectors.

Vectors are rows: a block of k vectors is (k, n_local). Whatever is elementwise is plain torch on those rows; whatever
needs all of n goes through this class, which is where a backend of many ranks adds its collectives: it overrides
`sum_over_shards`, `factor` and `agree`, and for files `writes`, `layout`, `is_rows`, `whole_rows` and `own_rows`; one
that is a :class:`StoresRows` as well keeps vectors in parts on disk, too. Small matrices are float64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from attrs import frozen
from torch import Tensor

from curvkit_core.backends import probes

__all__ = ["Segment", "VectorSpace"]

# Sums of 2^10 float32 products, added in float64: at n = 4 million a norm is right to 1e-9 (chunks of 2^16: 1e-7; one
# plain sum is wrong in the 4th-5th digit). Chunks of 2^12 take 0.81 of the time (one thread, one row against 20), but
# give four times the error where a few elements are most of the vector, as eigenvectors of outliers are.
_CHUNK = 1 << 10
_BLOCK = 1 << 12  # so many chunks at once: the scratch is 2^12 k m numbers, whatever n is
_SCALED_BLOCK = 1 << 6  # and where rows are copied to be scaled
_KINDS = ("rademacher", "gaussian", "sphere")


@frozen(kw_only=True)
class Segment:
    """A run of a vector that belongs to one parameter: `numel` elements from element `start` of that parameter.

    `row` is how many elements an entry of the parameter's first dim has: shards are whole numbers of those.
    """

    name: str
    numel: int
    start: int = 0
    row: int = 1


class VectorSpace:
    """Vectors over `segments`, at least float32, on one device.

    Parameters
    ----------
    segments : iterable of Segment
        In the vectors' order.
    dtype : torch.dtype
        float32 or float64. Lower precision is refused: a bfloat16 basis loses orthogonality to 3e-3.
    device : torch.device
        Where the rows lie.
    """

    def __init__(self, segments: Iterable[Segment], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        if dtype not in (torch.float32, torch.float64):
            msg = f"dtype={dtype} is no dtype for vectors: expected torch.float32 or torch.float64."
            raise TypeError(msg)
        self.segments = tuple(segments)
        self.dtype = dtype
        self.device = torch.device(device)

    @property
    def n_local(self) -> int:
        """Length of the rows on this rank."""
        return sum(s.numel for s in self.segments)

    @property
    def n(self) -> int:
        """Length of the vectors in their global meaning."""
        return self.n_local

    @property
    def layout(self) -> tuple[tuple[str, int], ...]:
        """The parameters in the vectors' order, each with how many elements all ranks together have of it."""
        return tuple((s.name, s.numel) for s in self.segments)

    @property
    def eps(self) -> float:
        """Unit roundoff of the vectors: the distance from 1 to the next number."""
        return float(torch.finfo(self.dtype).eps)

    def gram(self, A: Tensor, B: Tensor) -> Tensor:
        """Inner products A B^T, shape (k, m), float64 on the CPU; float32 rows are summed in chunks of 2^10."""
        return self._scaled(A, B, _chunked_gram)

    def dots(self, A: Tensor, B: Tensor) -> Tensor:
        """Inner products of A's rows with B's, one by one: shape (k,), float64 on the CPU."""
        return self._scaled(A, B, _chunked_dots)

    def norms(self, A: Tensor) -> Tensor:
        """Euclidean norms of the rows: shape (k,), float64 on the CPU."""
        return self.dots(A, A).clamp_min(0.0).sqrt()

    def combine(self, C: Tensor, A: Tensor) -> Tensor:
        """Combinations C A of A's rows: C (m, k) float64, A (k, n), result (m, n)."""
        return C.to(dtype=A.dtype, device=A.device) @ A

    def orthonormalize(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """Give Q (k, n) with orthonormal rows and R (k, k) upper triangular, float64, with A = R^T Q.

        Householder QR: rows of a dependent block give small diagonal entries in R, and Q is orthonormal all the same.
        """
        if A.shape[0] > self.n:
            msg = f"{A.shape[0]} rows cannot be orthonormal in dimension n={self.n}. Pass at most n rows."
            raise ValueError(msg)
        return self.factor(A)

    def random(self, kind: str, seed: int, index: int, rows: int) -> Tensor:
        """Random vectors number `index`, ..., `index + rows - 1` of the stream `seed`, with E[z z^T] = I.

        `kind` is "rademacher" (independent signs), "gaussian", or "sphere" (uniform, of norm sqrt(n)). A vector depends
        on (seed, index, parameter name, element) alone: not on rank, shard, device or what was drawn before.
        """
        if kind not in _KINDS:
            msg = f"probe kind {kind!r} is unknown: expected one of {', '.join(_KINDS)}."
            raise ValueError(msg)
        out = torch.empty((rows, self.n_local), dtype=self.dtype, device=self.device)
        fill = probes.fill_signs if kind == "rademacher" else probes.fill_gaussian
        for row in range(rows):
            offset = 0
            for s in self.segments:
                key = probes.stream_key(seed, index + row, s.name)
                fill(out[row, offset : offset + s.numel], key=key, start=s.start)
                offset += s.numel
        if kind == "sphere":
            out *= (self.n**0.5 / self.norms(out)).to(out)[:, None]
        return out

    def comfortable_rows(self) -> int:
        """How many vectors a block may hold that is only a convenience: 256 MiB of them, from 1 to 16."""
        return max(1, min(16, 2**28 // max(1, self.n_local * self.dtype.itemsize)))

    def zeros(self, rows: int) -> Tensor:
        """A block of zero vectors, shape (rows, n_local)."""
        return torch.zeros((rows, self.n_local), dtype=self.dtype, device=self.device)

    def check(self, V: Tensor, name: str) -> Tensor:
        """Return `V` as rows of this space: (k, n_local), this dtype, this device; or say what is wrong with it."""
        rows = V[None] if V.ndim == 1 else V
        if rows.ndim != 2 or rows.shape[1] != self.n_local:
            msg = (
                f"{name} has shape {tuple(V.shape)}: expected ({self.n_local},) "
                f"or (k, {self.n_local}), rows of length n."
            )
            if self.n != self.n_local:
                msg += f" That is this rank's part of n={self.n}: problem.parameters.from_named cuts whole tensors."
            raise ValueError(msg)
        rows = rows.to(dtype=self.dtype, device=self.device)
        return rows.clone() if rows.is_inference() and not torch.is_inference_mode_enabled() else rows

    def agree(self, value: int) -> int:
        """The largest of the ranks' values, so that what one of them decides by its own clock is done by all of them.

        Here there is one rank. Ranks call it in the same order; a value is from 0 to 2^24.
        """
        return value

    @property
    def writes(self) -> bool:
        """Whether this process writes the files of all ranks."""
        return True

    def is_rows(self, tensor: Tensor) -> bool:
        """Whether a tensor is one of vectors: (n_local,) or (k, n_local). All ranks ask together, and hear the same."""
        return tensor.ndim in (1, 2) and tensor.shape[-1] == self.n_local

    def whole_rows(self, rows: Tensor) -> Tensor:
        """Rows with all their elements in the parameters' order, where `writes` says so; here they are whole."""
        return rows

    def own_rows(self, rows: Tensor) -> Tensor:
        """This rank's part of rows that have all their elements."""
        return rows

    def sum_over_shards(self, small: Tensor) -> Tensor:
        """Add a small matrix over shards; here vectors are whole."""
        return small

    def factor(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """The QR factorisation that `orthonormalize` promises, of rows that fit."""
        Q, R = torch.linalg.qr(A.mT)
        return Q.mT.contiguous(), R.to(dtype=torch.float64, device="cpu")

    def _scaled(self, A: Tensor, B: Tensor, product: Callable[..., Tensor]) -> Tensor:
        """The product; where squares left float32's range (operators scaled by 1e-20 or 1e20), again on scaled rows."""
        plain = product(A, B)
        largest = float(plain.abs().max()) if plain.numel() else 1.0
        if A.dtype == torch.float64 or not A.shape[1] or 1e-25 < largest < float("inf"):
            return self.sum_over_shards(plain)
        a, b = _row_scales(A), _row_scales(B)
        scaled = product(A, B, a, b)
        a, b = a.double().cpu(), b.double().cpu()
        return self.sum_over_shards(scaled * (a * b.mT if scaled.ndim == 2 else (a * b)[:, 0]))


def _row_scales(A: Tensor) -> Tensor:
    """Largest magnitude of each row, (k, 1), 1 for zero rows."""
    largest = torch.maximum(A.amax(dim=1, keepdim=True), -A.amin(dim=1, keepdim=True))
    return torch.where(largest > 0, largest, torch.ones_like(largest))


def _pieces(A: Tensor, scale: Tensor | None) -> Iterator[Tensor]:
    """A's rows as (chunks, k, length): blocks of whole chunks, then the remainder as one short chunk.

    Views, or a few chunks at a time divided by `scale` (k, 1): no copy of all rows is ever made.
    """
    whole = A.shape[1] // _CHUNK
    block = _BLOCK if scale is None else _SCALED_BLOCK
    for first in range(0, whole, block):
        chunks = min(block, whole - first)
        columns = A[:, first * _CHUNK : (first + chunks) * _CHUNK].unflatten(1, (chunks, _CHUNK)).transpose(0, 1)
        yield columns if scale is None else columns / scale
    if A.shape[1] % _CHUNK or not whole:
        rest = A[:, whole * _CHUNK :][None]
        yield rest if scale is None else rest / scale


def _chunked_gram(A: Tensor, B: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    pairs = zip(_pieces(A, a), _pieces(B, b), strict=True)
    return torch.stack([torch.bmm(x, y.mT).sum(0, dtype=torch.float64) for x, y in pairs]).sum(0).cpu()


def _chunked_dots(A: Tensor, B: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    # A row at a time: BLAS dots; an elementwise product of the whole block took three times a gram's time at n = 4e6.
    rows = [
        _chunked_gram(A[i : i + 1], B[i : i + 1], *(None if s is None else s[i : i + 1] for s in (a, b)))[0]
        for i in range(A.shape[0])
    ]
    return torch.cat(rows) if rows else torch.empty(0, dtype=torch.float64)
