r"""The loss's curvature in an activation or an input: :math:`\nabla_a^2 L`, its Gauss-Newton part, or a Fisher."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from curvkit_core import checks
from curvkit_core.backends import Segment, VectorSpace
from curvkit_core.linearize import EngineOptions, Linearization
from curvkit_core.linearize.forward import Forward
from curvkit_core.losses.protocol import Outputs
from curvkit_core.operators.activation_site import Tap
from curvkit_core.operators.base import CurvatureOperator
from curvkit_core.operators.data_layout import DataLayout
from curvkit_core.operators.data_operator import DataOperator
from curvkit_core.operators.empirical_fisher import EmpiricalFisherOperator
from curvkit_core.operators.fisher import FisherOperator
from curvkit_core.operators.ggn import GGNOperator
from curvkit_core.operators.hessian import HessianOperator
from curvkit_core.problem.problem import Piece, Problem

__all__ = ["ActivationOperator"]

_KINDS = ("hessian", "ggn", "fisher", "empirical-fisher")


class ActivationOperator(CurvatureOperator):
    r"""The Hessian :math:`\nabla_a^2 L` of the risk in an activation a, or the Gauss-Newton matrix or a Fisher in it.

    The vectors are the activation over all the data, each batch's flattened in C order, the batches one after another:
    with the data on the leading axis no cut into batches changes it, and examples that do not meet in the network have
    zero blocks between them. The risk is the problem's, divided by the number of units of all the data. For one batch
    give the problem that batch; for some positions use :class:`curvkit_core.operators.SubmatrixOperator`.

    Only the part of the run that follows the activation is differentiated: a Hessian product costs at most three
    gradients, one of the other kinds 7/3, rebuilt. One forward pass on construction counts the elements.

    Parameters
    ----------
    problem : Problem
        Its parameters are constants here, whichever are chosen.
    at : str
        A module's name, ``"blocks.3"``: its output, or the first tensor of a tuple; it runs once in a forward.
        ``"batch:x"`` or ``"batch:0"``: the input under that key, attribute or position of the batch.
    kind : {"hessian", "ggn", "fisher", "empirical-fisher"}
        The matrix that the operator of that name is over the parameters, in the activation's place.
    num_samples : int, at least 1
    seed : int, 0 to 2^63 - 1
        Of ``kind="fisher"``: the targets are those of :class:`curvkit_core.FisherOperator`.

    Attributes
    ----------
    shapes : tuple of torch.Size
        The activation's shape in each microbatch, in the vectors' order.

    Raises
    ------
    TypeError
        If the value there is no tensor of floating-point numbers, or the loss lacks what the kind needs: a Gauss-Newton
        split, targets to draw, units that can be told apart.
    ValueError
        If there is no such module or entry, it runs several times or never, or the data is spread over ranks.
    """

    def __init__(
        self, problem: Problem, at: str, *, kind: str = "hessian", num_samples: int = 1, seed: int = 0
    ) -> None:
        if not isinstance(problem, Problem):
            msg = f"problem is a {type(problem).__name__}: expected a curvkit_core.Problem(model, batches, loss)."
            raise TypeError(msg)
        if kind not in _KINDS:
            msg = f"kind={kind!r} is unknown: expected one of {', '.join(map(repr, _KINDS))}."
            raise ValueError(msg)
        if kind != "hessian" and getattr(problem.loss, "hessian_only", False):
            msg = (
                f"{type(problem.loss).__name__} does not tell where the model ends and the loss begins, so there is no "
                "Gauss-Newton split. Use a loss adapter with outputs and loss_sum, or kind='hessian'."
            )
            raise TypeError(msg)
        self.at, self.kind = at, kind
        self._problem = problem
        # one of the same kind over the parameters: it multiplies here too, on another linearization, and the checks
        # look at the network and the loss through it
        self._over_parameters = _over_parameters(problem, kind, num_samples, seed)
        self._layout = DataLayout(problem, f"elements at {at!r}")
        dtype, device = torch.float32, problem.parameters.device
        shapes = []
        with problem.opened():
            for piece in problem.pieces():
                activation = _ActivationLinearization(problem, piece, at, differentiable=False).activation
                dtype, device = torch.promote_types(dtype, activation.dtype), activation.device
                self._layout.add(piece, activation.numel())
                shapes.append(activation.shape)
        if not self._layout.total:
            msg = f"the data ({type(problem.batches).__name__}) gave no activations: pass at least one batch."
            raise ValueError(msg)
        self.shapes = tuple(shapes)
        space = VectorSpace([Segment(name=at, numel=self._layout.total)], dtype=dtype, device=device)
        super().__init__(space, symmetric=True, problem=problem)

    def rows_product(self, V: Tensor) -> Tensor:
        """One pass over the data, each microbatch's part of V by itself; divided once by the number of units."""
        problem = self._problem
        watch = checks.begin(problem, self._over_parameters, EngineOptions(cache="rebuild"))
        total = torch.zeros_like(V)
        count = torch.zeros((), dtype=torch.float64, device=V.device)
        index = -1
        self._over_parameters.begin_pass()
        with problem.opened():
            for index, piece in enumerate(problem.pieces()):
                lin = _ActivationLinearization(problem, piece, self.at)
                place = self._layout.place(index, piece, lin.activation.numel())
                if not lin.reaches_outputs:
                    self._note_no_effect()
                with lin.opened():
                    part = V[:, place]
                    product = self._over_parameters.batch_product(lin, piece.batch, part)
                if watch is not None:
                    watch.after(piece, lin, part, product)
                total[:, place] = product * piece.weight
                count += piece.count
                problem.history.batches_seen = piece.number + 1
        self._layout.check_complete(index + 1)
        product = problem.average(total, count)
        if watch is not None:
            watch.end(problem.num_units)
        return product

    def _note_no_effect(self) -> None:
        text = f"no output depends on the activation at {self.at!r}: its curvature there is zero."
        if text not in self._problem.history.findings:
            self._problem.history.findings.append(text)


def _over_parameters(problem: Problem, kind: str, num_samples: int, seed: int) -> DataOperator:
    if kind == "fisher":
        return FisherOperator(problem, num_samples=num_samples, seed=seed, cache="rebuild")
    if kind == "empirical-fisher":
        return EmpiricalFisherOperator(problem, cache="rebuild")
    return HessianOperator(problem, cache="rebuild") if kind == "hessian" else GGNOperator(problem, cache="rebuild")


class _ActivationLinearization(Linearization):
    """One microbatch as a function of the activation: V is (k, elements).

    Parameters
    ----------
    problem : Problem
    piece : Piece
    at : str
    differentiable : bool
        Whether a graph is built; False: only the activation is wanted.
    """

    def __init__(self, problem: Problem, piece: Piece, at: str, *, differentiable: bool = True) -> None:
        self._forward = Forward(problem, {}, second_order=differentiable)
        self._tap = Tap(problem.model, at)
        self.loss = problem.loss
        self.parameters = problem.parameters
        self.batch = self._tap.enter(piece.batch)
        with self.opened(), torch.set_grad_enabled(differentiable):
            self._outputs = self._forward.run(self.batch)
        self.activation = self._tap.finish()
        self.y = tuple(t.detach() for t in self._outputs)

    @property
    def reaches_outputs(self) -> bool:
        """Whether the model's outputs depend on the activation."""
        return any(t.requires_grad for t in self._outputs)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Surround every use: checkpointed parts of the model are run again in a backward."""
        with torch.enable_grad(), self._forward.opened(), self._tap.installed():
            yield

    def jvp(self, V: Tensor) -> Outputs:
        """J v: J^T u differentiated in u."""
        dummies = tuple(torch.zeros_like(t, requires_grad=True) for t in self._outputs)
        slope = self._slope(dict(enumerate(dummies)))
        if slope is None:
            return tuple(t.new_zeros((len(V), *t.shape)) for t in self.y)
        rows = [torch.autograd.grad(slope, dummies, self._shaped(v), retain_graph=True, allow_unused=True) for v in V]
        return tuple(
            torch.stack([torch.zeros_like(t) if row[i] is None else row[i] for row in rows])
            for i, t in enumerate(self.y)
        )

    def vjp(self, u: Outputs) -> Tensor:
        """J^T u: one backward pass a row."""
        rows = []
        for k in range(u[0].shape[0]):
            slope = self._slope({i: t[k].to(self._outputs[i].dtype) for i, t in enumerate(u)}, create_graph=False)
            rows.append(torch.zeros_like(self.activation) if slope is None else slope)
        return torch.stack(rows).flatten(1).to(torch.promote_types(self.activation.dtype, torch.float32))

    def hvp(self, V: Tensor) -> Tensor:
        """The loss sum's Hessian times each row: one reverse pass a row through the gradient's graph."""
        loss = self.loss.loss_sum(self._outputs, self.batch)
        slope = None
        if loss.requires_grad:
            (slope,) = torch.autograd.grad(loss, self.activation, create_graph=True, allow_unused=True)
        rows = []
        for v in V:
            found = None
            if slope is not None and slope.requires_grad:
                (found,) = torch.autograd.grad(
                    slope, self.activation, self._shaped(v), retain_graph=True, allow_unused=True
                )
            rows.append(torch.zeros_like(self.activation) if found is None else found)
        return torch.stack(rows).flatten(1).to(V)

    def _slope(self, along: dict[int, Tensor], *, create_graph: bool = True) -> Tensor | None:
        """J^T u as a tensor shaped like the activation; None where no output depends on it."""
        live = [i for i, t in enumerate(self._outputs) if t.requires_grad]
        if not live:
            return None
        (slope,) = torch.autograd.grad(
            [self._outputs[i] for i in live],
            self.activation,
            [along[i] for i in live],
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
        )
        return slope

    def _shaped(self, v: Tensor) -> Tensor:
        return v.view(self.activation.shape).to(self.activation)
