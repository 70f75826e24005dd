r"""The problem: model, data and loss, and their risk :math:`L(\theta) = \sum_b \ell_b(\theta) / \sum_b N_b`.

Everything is told in sums: a batch's sum of unit losses :math:`\ell_b` and its number of units :math:`N_b`.
:meth:`Problem.average` alone divides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import islice
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from curvkit_core.backends import Backend, HoldsShards, SharesFailures, SingleBackend, VectorSpace
from curvkit_core.errors import CurvkitError
from curvkit_core.kernels import Kernels
from curvkit_core.losses.from_torch import as_loss_adapter
from curvkit_core.losses.protocol import BindsToModel, LossAdapter, UsesKernels
from curvkit_core.problem.batches import check_reiterable, microbatches, moved
from curvkit_core.problem.history import History
from curvkit_core.problem.parameters import ParameterSpace
from curvkit_core.problem.selection import ReadsModel, Selector
from curvkit_core.problem.untouched import untouched

__all__ = ["Piece", "Problem"]

_CHOICES = {
    "weighting": ("unit", "batch-mean"),
    "mode": ("eval", "train", "as-is"),
    "preflight": ("error", "warn", "off"),
}


@frozen(kw_only=True, eq=False)
class Piece:
    """One microbatch on the model's device: `weight` times its sum goes into the total, `count` into the divisor.

    It is part number `part` of batch number `number`. `loss_weight` times its loss is what is differentiated: it takes
    `weight`'s place where products of several ranks are added before they could be weighed.
    """

    batch: Any
    number: int
    part: int
    weight: float | Tensor
    count: float | Tensor
    loss_weight: float | Tensor = 1.0


class Problem:
    r"""A model, its data and its loss, seen as a function of the chosen parameters. The model is read, never written.

    Parameters
    ----------
    model : torch.nn.Module
        A model wrapped by ``torch.compile`` is unwrapped: its compiled form has no second derivatives.
    batches : iterable
        Any re-iterable of batches: a list, a DataLoader. Batches are tuples, mappings, attrs or dataclasses of tensors.
    loss : LossAdapter, or torch.nn.CrossEntropyLoss, MSELoss, BCEWithLogitsLoss
        Your own function: ``CallableLoss(fn)``.
    params : None, str, iterable of str, or callable
        Which parameters: None is all that require grad; globs; or ``(name, parameter) -> bool``, or a mask of the
        parameter's shape for part of it.
    weighting : {"unit", "batch-mean"}
        ``"unit"``: every example, or target token that is not ignored, counts alike, however the data is cut.
        ``"batch-mean"``: every batch counts alike, for comparison with tools that average batch means.
    mode : {"eval", "train", "as-is"}
        The model's mode during products; each module's own is restored.
    num_batches : int or None
        Use only the first so many batches of each pass: the same ones for every operator and product, so a loader that
        shuffles is refused by the checks.
    microbatch_size : int or None
        Cut batches into pieces of so many rows: less memory, the same operator.
    backend : Backend or None
        None: this process alone.
    kernels : Kernels
        The kernels the loss computes with.
    preflight : {"error", "warn", "off"}
        What happens when a check shows a product wrong.
    forward_context : callable or None
        Gives a context manager for every forward pass, for autocast and the like.

    Raises
    ------
    TypeError, ValueError
        For data that can be read only once, no parameters, no match, unknown options: by name, with the mend.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        loss: LossAdapter | nn.Module,
        *,
        params: str | Iterable[str] | Selector | ReadsModel | None = None,
        weighting: str = "unit",
        mode: str = "eval",
        microbatch_size: int | None = None,
        num_batches: int | None = None,
        backend: Backend | None = None,
        kernels: Kernels = Kernels(),  # noqa: B008 - frozen
        preflight: str = "error",
        forward_context: Callable[[], AbstractContextManager[Any]] | None = None,
    ) -> None:
        for name, value in (("weighting", weighting), ("mode", mode), ("preflight", preflight)):
            if value not in _CHOICES[name]:
                msg = f"{name}={value!r} is unknown: expected one of {', '.join(map(repr, _CHOICES[name]))}."
                raise ValueError(msg)
        for name, size in (("microbatch_size", microbatch_size), ("num_batches", num_batches)):
            if size is not None and (not isinstance(size, int) or size < 1):
                msg = f"{name}={size!r}: expected a positive integer, or None for whole batches, and all of them."
                raise ValueError(msg)
        if not isinstance(model, nn.Module):
            msg = f"model is a {type(model).__name__}: expected a torch.nn.Module."
            raise TypeError(msg)
        self.model: nn.Module = getattr(model, "_orig_mod", model)
        adapter = as_loss_adapter(loss)
        self._loss: LossAdapter = adapter.with_kernels(kernels) if isinstance(adapter, UsesKernels) else adapter
        self._binds = isinstance(self._loss, BindsToModel)  # asked at every look: a Protocol's isinstance takes 15 us
        self.kernels = kernels
        self.batches = check_reiterable(batches)
        self.weighting = weighting
        self.mode = mode
        self.microbatch_size = microbatch_size
        self.num_batches = num_batches
        self.backend: Backend = backend if backend is not None else SingleBackend()
        self.parameters = self._chosen(params)
        self.preflight = preflight
        self.forward_context = forward_context
        self.space: VectorSpace = self.backend.space(self.parameters)
        self.history = History()
        #: A line for people: what this network is. Builders of problems may set it.
        self.description = ""

    def __repr__(self) -> str:
        return f"Problem({type(self.model).__name__}, {type(self._loss).__name__}, n={self.parameters.n:,})"

    @property
    def loss(self) -> LossAdapter:
        """The loss adapter; one that binds to the model has seen it, with the first microbatch of the data."""
        if not self._binds or isinstance(self.backend, HoldsShards):
            return self._loss  # on shards a forward of one rank alone would wait for the others
        if self.history.bound_loss is None:
            assert isinstance(self._loss, BindsToModel)
            self.history.bound_loss = self._bind(self._loss)
        bound: LossAdapter = self.history.bound_loss  # type: ignore[assignment]  # History holds plain facts
        return bound

    def restrict(self, params: str | Iterable[str] | Selector | ReadsModel) -> Problem:
        """The same model, data and loss as a function of fewer, or other, parameters; shares data and checks."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.parameters = self._chosen(params)
        twin.space = self.backend.space(twin.parameters)
        return twin

    def _chosen(self, params: str | Iterable[str] | Selector | ReadsModel | None) -> ParameterSpace:
        if not isinstance(self.backend, HoldsShards):
            return ParameterSpace(self.model, params)
        with self.backend.context(self.model):  # between products a block may have been left whole
            return ParameterSpace(self.model, params, cut=self.backend.piece)

    def equipped(self, *, backend: Backend | None = None, kernels: Kernels | None = None) -> Problem:
        """The same problem on another backend, which deals its batches out to the ranks, or with other kernels."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.history = History()  # what was learned, and the graphs kept, are of other data or of another computation
        if backend is not None:
            twin.backend = backend
            # the first num_batches of all, and then this rank's of them
            whole = self.batches if self.num_batches is None else _First(self.batches, self.num_batches)
            twin.batches = backend.shard(whole)
            twin.num_batches = None if backend.world.size > 1 else self.num_batches
            if isinstance(backend, HoldsShards):
                chosen = {id(e.parameter) for e in self.parameters}
                twin.parameters = twin._chosen(lambda name, parameter: id(parameter) in chosen)
            twin.space = backend.space(twin.parameters)
        if kernels is not None:
            twin.kernels = kernels
            twin._loss = self._loss.with_kernels(kernels) if isinstance(self._loss, UsesKernels) else self._loss
        return twin

    def on_batches(self, batches: Iterable[Any]) -> Problem:
        """The same model and loss on other data."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        # the operators and the model are the same; the data are not
        twin.history = History(
            probed=self.history.probed,
            findings=list(self.history.bound_notes),
            bound_loss=self.history.bound_loss,
            bound_notes=self.history.bound_notes,
        )
        twin.batches = check_reiterable(batches)
        return twin

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Surround a pass over the data: the model's mode, the backend's context; all as it was afterwards.

        Parameters that were replaced in the model since the last pass are looked up again by name.
        """
        with ExitStack() as stack:
            stack.enter_context(untouched(self.model, self.mode))
            stack.enter_context(self.backend.context(self.model))
            self.parameters.follow()
            yield

    def pieces(self) -> Iterator[Piece]:
        """Every microbatch of every batch, in the data's order."""
        device = self.parameters.device
        for number, batch in enumerate(islice(self.batches, self.num_batches)):
            batch = moved(batch, device)
            units = self.loss.num_units(batch) if self.weighting == "batch-mean" else None
            if units is not None and float(units) == 0:
                msg = f"batch {number} has no units (all targets ignored): weighting='batch-mean' cannot divide by it."
                raise ValueError(msg)
            for part, micro in enumerate(microbatches(batch, self.microbatch_size)):
                if units is None:
                    yield Piece(batch=micro, number=number, part=part, weight=1.0, count=self.loss.num_units(micro))
                else:
                    weight, count = 1.0 / float(units), 1.0 if part == 0 else 0.0
                    yield Piece(batch=micro, number=number, part=part, weight=weight, count=count)

    def pieces_in_step(self) -> Iterator[Piece]:
        """The microbatches for a pass that runs the model: where a forward is collective, as many on every rank.

        A rank that has run out repeats a microbatch with weight 0. Products there are added over the ranks as they are
        made, so that a microbatch's weight goes into its loss.
        """
        if not isinstance(self.backend, HoldsShards):
            yield from self.pieces()
            return
        for piece, counts in self.backend.in_step(self.pieces()):
            weight, count = (piece.weight, piece.count) if counts else (0.0, 0.0)
            yield evolve(piece, weight=1.0, count=count, loss_weight=weight)

    @contextmanager
    def together(self, total: Tensor, count: Tensor | None = None) -> Iterator[None]:
        """Surround what leads to sums shaped as these, which :meth:`average` adds: where it fails, other ranks hear it.

        They stop with an error that names this rank; what was raised here goes on. Without `count` it is one number.
        """
        try:
            yield
        except BaseException as error:
            if isinstance(self.backend, SharesFailures):
                zero = torch.zeros((), dtype=torch.float64) if count is None else torch.zeros_like(count)
                try:
                    self.backend.give_up((torch.zeros_like(total), zero), error)
                except CurvkitError as unheard:
                    error.add_note(f"The other ranks could not be told: {unheard}")
            raise

    def _bind(self, loss: BindsToModel) -> BindsToModel:
        context = self.forward_context if self.forward_context is not None else nullcontext
        with self.opened(), torch.no_grad(), context():
            # inside: a loader may draw from the global generator as soon as it is asked for a batch
            first = next(iter(self.batches), None)
            if first is None:  # an empty rank, or no data at all: the first product says so
                return loss
            micro = next(iter(microbatches(moved(first, self.parameters.device), self.microbatch_size)))
            bound, notes = loss.bind(self.model, micro)
        self.history.bound_notes = notes
        self.history.findings.extend(notes)
        return bound

    def average(self, total: Tensor, count: Tensor) -> Tensor:
        """Reduce sum and count over the ranks and divide: the one place that does."""
        total, count = self.backend.reduce((total, count))
        units = float(count)
        if not units > 0:
            seen = "no batches" if self.history.batches_seen == 0 else "no units: all targets are ignored"
            msg = (
                f"the data ({type(self.batches).__name__}) gave {seen}. Pass "
                "at least one batch with a target that counts."
            )
            raise ValueError(msg)
        self.history.units = units
        return total.div_(units)

    @property
    def num_units(self) -> float:
        """What the risk's sum is divided by, over all data and ranks: known after a product, else by a pass."""
        if self.history.units is None:
            count = torch.zeros((), dtype=torch.float64)
            total = torch.zeros(1, dtype=torch.float64)
            with self.together(total):
                for piece in self.pieces():
                    self.history.batches_seen = piece.number + 1
                    count += float(piece.count)
            self.average(total, count)
        units = self.history.units
        assert units is not None
        return units

    def describe(self) -> dict[str, Any]:
        """Plain facts for records: description, model, loss, size, weighting, dtype, device."""
        return {
            "description": self.description,
            "model": type(self.model).__name__,
            "loss": type(self._loss).__name__,
            "n": self.parameters.n,
            "parameters": len(self.parameters),
            "weighting": self.weighting,
            "mode": self.mode,
            "microbatch_size": self.microbatch_size,
            "num_batches": self.num_batches,
            "dtype": str(self.parameters.dtype).removeprefix("torch."),
            "device": str(self.parameters.device),
            "ranks": self.backend.world.size,
        }


class _First:
    """The first `count` of some batches, to be read again and again."""

    def __init__(self, batches: Iterable[Any], count: int) -> None:
        self.batches = batches
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.batches), self.count)
