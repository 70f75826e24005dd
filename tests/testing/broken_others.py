"""Backends, kernels and problems with one defect each, and the check that must name it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from attrs import Factory, define, field, frozen
from torch import Tensor, nn

from curvkit_core import BackendSpec, CrossEntropyLoss, KernelSpec, MSELoss, Problem, ProblemSpec
from curvkit_core.backends import Segment, SingleBackend, VectorSpace, World
from curvkit_core.kernels import ce_hvp


@frozen(kw_only=True)
class TwoOfNothing(SingleBackend):
    """Says it is one of two."""

    world: World = World(rank=0, size=2)


@frozen(kw_only=True)
class MeanReduce(SingleBackend):
    """Halves every sum."""

    def reduce(self, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(t / 2 for t in sums)


@frozen(kw_only=True)
class HalvesTheProduct(SingleBackend):
    """Halves what is large, and not the count beside it."""

    def reduce(self, sums: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(t / 2 if t.numel() > 10 else t for t in sums)


@frozen(kw_only=True)
class DropsABatch(SingleBackend):
    """Deals out all but the last."""

    def shard(self, batches: Iterable[Any]) -> Iterable[Any]:
        return list(batches)[:-1]


@frozen(kw_only=True)
class ShardsOnce(SingleBackend):
    """Deals out an iterator, which is empty the second time."""

    def shard(self, batches: Iterable[Any]) -> Iterable[Any]:
        return iter(batches)


@frozen(kw_only=True)
class OtherProbes(SingleBackend):
    """Names parameters anew, so that random vectors are others."""

    def space(self, parameters: Any) -> VectorSpace:
        segments = [Segment(name=f"rank0.{s.name}", numel=s.numel) for s in parameters.segments]
        return VectorSpace(segments, dtype=parameters.dtype, device=parameters.device)


@frozen(kw_only=True)
class LeavesContext(SingleBackend):
    """Freezes the model for good where something goes wrong."""

    @contextlib.contextmanager
    def context(self, model: nn.Module) -> Iterator[None]:
        model.register_buffer("marked", torch.zeros(1))
        yield
        del model.marked


@define(kw_only=True)
class CanBeWritten:
    """Not frozen."""

    world: World = Factory(World)
    space = SingleBackend.space
    reduce = SingleBackend.reduce
    shard = SingleBackend.shard
    context = SingleBackend.context

    def __hash__(self) -> int:
        return 0


def backend(cls: Any, *tags: str) -> BackendSpec:
    return BackendSpec(name="local/broken", summary="Broken on purpose", factory=cls, tags=tags or ("single",))


def slightly_off(z: Tensor, s: Tensor, u: Tensor, /) -> Tensor:
    return ce_hvp(z, s, u) * 1.001


def float16_sums(z: Tensor, s: Tensor, u: Tensor, /) -> Tensor:
    """Accumulates in the inputs' dtype."""
    counts = (s != 0)[:, None]
    p = torch.softmax(torch.where(counts, z, 0), -1)
    u = torch.where(counts, u, 0)
    mean = torch.zeros_like(u[..., :1])
    for word in range(z.shape[-1]):
        mean = mean + (p * u)[..., word : word + 1]
    return p * (u - mean) * s[:, None].to(p.dtype)


def masks_by_product(z: Tensor, s: Tensor, u: Tensor, /) -> Tensor:
    """Multiplies an ignored row by 0: inf and NaN stay."""
    p = torch.softmax(z, -1)
    return p * (u - (p * u).sum(-1, keepdim=True)) * s[:, None].to(p.dtype)


def no_infinities(z: Tensor, s: Tensor, u: Tensor, /) -> Tensor:
    """Clamps masked words into the vocabulary."""
    return ce_hvp(z.clamp_min(-1.0), s, u)


def writes(z: Tensor, s: Tensor, u: Tensor, /) -> Tensor:
    found = ce_hvp(z, s, u)
    u[s == 0] = 0.0
    z.sub_(z.amax(-1, keepdim=True))
    return found


def in_place(z: Tensor, s: Tensor, u: Tensor, /) -> Tensor:
    return u.copy_(ce_hvp(z, s, u))


def only_one_direction(z: Tensor, s: Tensor, u: Tensor, /) -> Tensor:
    return ce_hvp(z, s, u) if u.ndim == 2 else ce_hvp(z, s, u[0]).expand_as(u).clone()


def wrong_strides(z: Tensor, s: Tensor, u: Tensor, /) -> Tensor:
    """Reads memory as if it were packed."""
    flat = z if z.is_contiguous() else z.as_strided(z.shape, (z.shape[1], 1))
    return ce_hvp(flat, s, u)


def not_repeatable(z: Tensor, s: Tensor, u: Tensor, /) -> Tensor:
    """Every other call differs in the last bits."""
    _CALLS.append(1)
    return ce_hvp(z, s, u) * (1 + 4 * torch.finfo(u.dtype).eps * (len(_CALLS) % 2))


_CALLS: list[int] = []


def broadcasts(z: Tensor, s: Tensor, u: Tensor, /) -> Tensor:
    """Cuts whatever does not fit."""
    rows, words = min(len(s), len(z)), min(z.shape[1], u.shape[-1])
    return ce_hvp(z[:rows, :words], s[:rows], u[..., :rows, :words])


def other_dtype(z: Tensor, s: Tensor, u: Tensor, /) -> Tensor:
    return ce_hvp(z, s, u).float()


def kernel(fn: Any, *tags: str, op: str = "ce_hvp") -> KernelSpec:
    return KernelSpec(
        name="local/broken",
        summary="Broken on purpose",
        factory=fn,
        op=op,
        dtypes=["float64", "float32", "bfloat16"],
        tags=tags,
    )


@frozen(kw_only=True)
class Sizes:
    """Of a problem.

    Parameters
    ----------
    seed : int
        Of everything.
    """

    seed: int = 0


def _problem(seed: int, batches: Any = None) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = (torch.randn(6, 2, generator=generator) for _ in range(2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    data = list(zip(inputs.split(3), targets.split(3), strict=True))
    return Problem(model, data if batches is None else batches(data), MSELoss())


def sound(config: Sizes) -> Problem:
    return _problem(config.seed)


def ignores_its_seed(config: Sizes) -> Problem:
    return _problem(3)


def draws_globally(config: Sizes) -> Problem:
    with torch.random.fork_rng(devices=[]):
        return _problem(int(torch.randint(0, 2**31, (1,))))


def moves_the_state(config: Sizes) -> Problem:
    torch.manual_seed(config.seed)
    return _problem(config.seed)


class Shuffled(list[Any]):
    """Another order at each pass."""

    turn = 0

    def __iter__(self) -> Iterator[Any]:
        self.turn += 1
        return iter(list(super().__iter__())[:: 1 if self.turn % 2 else -1])


def shuffles(config: Sizes) -> Problem:
    return _problem(config.seed, Shuffled)


def no_data(config: Sizes) -> Problem:
    return _problem(config.seed, lambda data: [])


def not_finite(config: Sizes) -> Problem:
    problem = _problem(config.seed)
    problem.model[0].weight.data.fill_(float("nan"))
    return problem


def no_problem(config: Sizes) -> Any:
    return _problem(config.seed).model


class Dropping(nn.Module):
    """Drops at random, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.layer(x), 0.5, training=True)


def drops(config: Sizes) -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = Dropping()
        batch = (torch.randn(6, 2), torch.randint(0, 3, (6,)))
    return Problem(model, [batch], CrossEntropyLoss())


@define
class Writable:
    """Options that can be written to, and have no words.

    Parameters
    ----------
    seed : int
        Of everything.
    """

    seed: int = field(default=0)
    width: int = 3


@frozen
class Wordless:
    """Options without words."""

    seed: int = 0
    width: int = 3


@frozen
class Rounding:
    """Options that do not come back as they were.

    Parameters
    ----------
    seed : int
        Of everything.
    width : int
        Rounded up.
    """

    seed: int = 0
    width: int = field(default=3, converter=lambda value: value + 1)


def problem(fn: Any, config: Any = Sizes) -> ProblemSpec:
    return ProblemSpec(name="local/broken", summary="Broken on purpose", factory=fn, config=config, tags=("demo",))


BROKEN: dict[str, tuple[str, Any]] = {
    "one of two, alone": ("backend-world", backend(TwoOfNothing)),
    "can be written to": ("backend-world", backend(CanBeWritten)),
    "reduces to means": ("backend-alone-is-the-identity", backend(MeanReduce)),
    "deals out too little": ("backend-alone-is-the-identity", backend(DropsABatch)),
    "deals out once": ("backend-alone-is-the-identity", backend(ShardsOnce)),
    "other random vectors": ("backend-alone-is-the-identity", backend(OtherProbes)),
    "halves products": ("backend-product", backend(HalvesTheProduct)),
    "leaves its context open": ("backend-product", backend(LeavesContext)),
    "kernel off by 1e-3": ("kernel-agrees", kernel(slightly_off)),
    "kernel adds up in low precision": ("kernel-agrees", kernel(float16_sums)),
    "kernel of another dtype": ("kernel-agrees", kernel(other_dtype)),
    "kernel masks by a product": ("kernel-ignored-rows", kernel(masks_by_product)),
    "kernel loses masked words": ("kernel-masked-words", kernel(no_infinities)),
    "kernel writes to its arguments": ("kernel-leaves-arguments", kernel(writes)),
    "kernel works in place": ("kernel-leaves-arguments", kernel(in_place)),
    "kernel of one direction": ("kernel-several-directions", kernel(only_one_direction)),
    "kernel that takes all for packed": ("kernel-any-layout", kernel(wrong_strides)),
    "kernel not repeatable": ("kernel-repeatable", kernel(not_repeatable, "repeatable")),
    "kernel that cuts what does not fit": ("kernel-outside-its-claims", kernel(broadcasts)),
    "problem without its seed": ("problem-repeats", problem(ignores_its_seed)),
    "problem from torch's generator": ("problem-repeats", problem(draws_globally)),
    "problem that moves the random state": ("problem-builds", problem(moves_the_state)),
    "problem whose data move": ("problem-is-read-again", problem(shuffles)),
    "problem without data": ("problem-builds", problem(no_data)),
    "problem that is not finite": ("problem-builds", problem(not_finite)),
    "no problem": ("problem-builds", problem(no_problem)),
    "problem that drops out": ("problem-is-differentiable", problem(drops)),
    "options that can be written to": ("component-config", problem(sound, Writable)),
    "options that do not come back": ("component-config", problem(sound, Rounding)),
    "options without words": ("component-options-are-documented", problem(sound, Wordless)),
}
SOUND = {"one process": backend(SingleBackend), "core's kernel": kernel(ce_hvp), "a problem": problem(sound)}
