"""Small models with data in float64, and their dense matrices by another path: torch.func on the model as it is.

Nothing here goes through curvkit's own differentiation: the parameters are swapped by
``torch.func.functional_call``, the losses are torch's functional ones over all data at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from attrs import evolve, frozen
from torch import Tensor, nn
from torch.nn import functional

from curvkit_core import BCEWithLogitsLoss, CrossEntropyLoss, LinearCrossEntropyLoss, MSELoss, Problem

F64 = torch.float64


class TiedMLP(nn.Module):
    """Two layers share a weight, unless not `tied`; one is never used; a BatchNorm is in eval mode."""

    def __init__(self, outputs: int = 3, *, width: int = 3, tied: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width)
        self.middle = nn.Linear(width, width)
        self.unused = nn.Linear(2, 2)
        self.again = nn.Linear(width, width)
        if tied:
            self.again.weight = self.middle.weight
        self.last = nn.Linear(width, outputs)

    def features(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.first(x)))
        return torch.tanh(self.again(torch.tanh(self.middle(h))))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.features(x))


class SharedConvNet(nn.Module):
    """One convolution applied twice, or two if not `tied`, with GroupNorm."""

    def __init__(self, outputs: int = 3, *, width: int = 2, tied: bool = True) -> None:
        super().__init__()
        self.lift = nn.Conv2d(1, width, 3, padding=1)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.GroupNorm(1, width)
        self.head = nn.Linear(width, outputs)
        self.again = None if tied else nn.Conv2d(width, width, 3, padding=1)

    def features(self, x: Tensor) -> Tensor:
        again = self.conv if self.again is None else self.again
        h = torch.tanh(self.lift(x))
        h = h + torch.tanh(self.norm(self.conv(h)))
        h = h + torch.tanh(self.norm(again(h)))
        return h.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class TinyTransformer(nn.Module):
    """One block, embeddings tied to the head unless not `tied`, an unused head, fused attention; logits (N, V, T)."""

    def __init__(self, vocabulary: int = 5, width: int = 4, length: int = 4, *, tied: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.1 * torch.randn(length, width))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.unused_head = nn.Linear(width, vocabulary)
        self.head = None if tied else nn.Linear(width, vocabulary, bias=False)

    def features(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens) + self.position[: tokens.shape[1]]
        q, k, v = (t[:, None] for t in self.qkv(self.norm(h)).chunk(3, dim=-1))
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0]
        return (h + self.mix(attended)) / math.sqrt(h.shape[-1])

    def forward(self, tokens: Tensor) -> Tensor:
        head = self.embed if self.head is None else self.head
        return (self.features(tokens) @ head.weight.T).movedim(-1, 1)


def head_of(model: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of what makes logits of ``model.features``."""
    if isinstance(model, TinyTransformer):
        return (model.embed if model.head is None else model.head).weight, None
    head = model.last if isinstance(model, TiedMLP) else model.head
    return head.weight, head.bias


@frozen(kw_only=True, eq=False)
class Case:
    """A model, its data as one batch, curvkit's loss for it, and torch's loss SUM and divisor of the same."""

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    loss: object
    loss_sum: Callable[[Tensor, Tensor], Tensor]
    units: float

    def batches(self, sizes: tuple[int, ...] | None = None) -> list[tuple[Tensor, Tensor]]:
        """The data cut into batches of these sizes; None: one batch."""
        sizes = (len(self.inputs),) if sizes is None else sizes
        return list(zip(self.inputs.split(list(sizes)), self.targets.split(list(sizes)), strict=True))

    def problem(self, sizes: tuple[int, ...] | None = None, **options: object) -> Problem:
        """The problem over the data cut so."""
        return Problem(self.model, self.batches(sizes), self.loss, **options)


def _cross_entropy_sum(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="sum")


def tied_mlp(examples: int = 13) -> Case:
    """Classification with two ignored targets."""
    torch.manual_seed(0)
    targets = torch.randint(0, 3, (examples,))
    targets[1] = targets[5] = -100
    return Case(
        model=TiedMLP().to(F64),
        inputs=torch.randn(examples, 4, dtype=F64),
        targets=targets,
        loss=CrossEntropyLoss(),
        loss_sum=_cross_entropy_sum,
        units=examples - 2,
    )


def regression_mlp(examples: int = 13) -> Case:
    """Mean squared error over two outputs."""
    torch.manual_seed(1)
    return Case(
        model=TiedMLP(outputs=2).to(F64),
        inputs=torch.randn(examples, 4, dtype=F64),
        targets=torch.randn(examples, 2, dtype=F64),
        loss=MSELoss(),
        loss_sum=lambda f, t: functional.mse_loss(f, t, reduction="sum") / 2,
        units=examples,
    )


def multilabel_mlp(examples: int = 13) -> Case:
    """Binary cross-entropy over three labels."""
    torch.manual_seed(2)
    return Case(
        model=TiedMLP().to(F64),
        inputs=torch.randn(examples, 4, dtype=F64),
        targets=torch.randint(0, 2, (examples, 3)).to(F64),
        loss=BCEWithLogitsLoss(),
        loss_sum=lambda z, t: functional.binary_cross_entropy_with_logits(z, t, reduction="sum") / 3,
        units=examples,
    )


def shared_convnet(examples: int = 7) -> Case:
    """Classification by a residual CNN."""
    torch.manual_seed(3)
    return Case(
        model=SharedConvNet().to(F64),
        inputs=torch.randn(examples, 1, 4, 4, dtype=F64),
        targets=torch.randint(0, 3, (examples,)),
        loss=CrossEntropyLoss(),
        loss_sum=_cross_entropy_sum,
        units=examples,
    )


def tiny_transformer(examples: int = 6) -> Case:
    """Next-token prediction: ragged rows, their tails ignored."""
    torch.manual_seed(4)
    tokens = torch.randint(0, 5, (examples, 5))
    targets = tokens[:, 1:].clone()
    targets[0, 2:] = targets[3, 1:] = -100
    return Case(
        model=TinyTransformer().to(F64),
        inputs=tokens[:, :-1],
        targets=targets,
        loss=CrossEntropyLoss(),
        loss_sum=_cross_entropy_sum,
        units=int((targets != -100).sum()),
    )


def without_logits(examples: int = 6) -> Case:
    """The transformer's loss from its hidden states and the tied head, a row or two at a time."""
    case = tiny_transformer(examples)
    return evolve(case, loss=LinearCrossEntropyLoss("features", "embed", chunk_bytes=2 * 2 * 5 * 8))


CASES = {
    "tied-mlp": tied_mlp,
    "regression-mlp": regression_mlp,
    "multilabel-mlp": multilabel_mlp,
    "shared-convnet": shared_convnet,
    "tiny-transformer": tiny_transformer,
    "without-logits": without_logits,
}


def flat_risk(case: Case) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The risk as a function of one flat vector of the model's parameters, and the parameters in that form."""
    outputs, flat = flat_outputs(case)
    return lambda theta: case.loss_sum(outputs(theta, case.inputs), case.targets) / case.units, flat


def flat_outputs(case: Case) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """The model's outputs as a function of (flat parameters, inputs), and the parameters in that form."""
    model = case.model.eval()
    named = {name: p.detach() for name, p in model.named_parameters()}
    flat = torch.cat([p.reshape(-1) for p in named.values()])

    def outputs(theta: Tensor, inputs: Tensor) -> Tensor:
        pieces = theta.split([p.numel() for p in named.values()])
        values = {name: piece.view(p.shape) for (name, p), piece in zip(named.items(), pieces, strict=True)}
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return torch.func.functional_call(model, values, (inputs,))

    return outputs, flat


@frozen(kw_only=True, eq=False)
class DenseTruth:
    """Dense matrices over the model's parameters (tied ones once), in the order of ``named_parameters()``."""

    hessian: Tensor
    ggn: Tensor
    empirical_fisher: Tensor


def dense_truth(case: Case) -> DenseTruth:
    """Hessian, GGN and empirical Fisher by torch.func, all data at once."""
    outputs, flat = flat_outputs(case)
    risk, _ = flat_risk(case)
    # Not torch.func.hessian, which is jacfwd of jacrev: on the transformer here torch 2.13 gives a Hessian 1.5 % wrong
    # through jacrev's vmap, while jacfwd of grad agrees with central differences to 4e-11 (test_cases.py holds this).
    hessian = torch.func.jacfwd(torch.func.grad(risk))(flat)
    z = outputs(flat, case.inputs)
    jacobian = torch.func.jacrev(outputs)(flat, case.inputs).reshape(z.numel(), -1)
    output_gradient = torch.func.grad(lambda y: case.loss_sum(y, case.targets))
    output_hessian = torch.func.jacfwd(output_gradient)(z).reshape(z.numel(), z.numel())
    gradients = [
        torch.func.grad(lambda theta, i=i, t=t: case.loss_sum(outputs(theta, i), t))(flat) for i, t in _units(case)
    ]
    per_unit = torch.stack(gradients)
    return DenseTruth(
        hessian=hessian,
        ggn=jacobian.mT @ output_hessian @ jacobian / case.units,
        empirical_fisher=per_unit.mT @ per_unit / case.units,
    )


def _units(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Inputs and targets of each unit alone: all other targets of its row are ignored."""
    units = []
    for row, target in zip(case.inputs, case.targets, strict=True):
        if target.is_floating_point() or target.ndim == 0:
            if target.is_floating_point() or target != -100:
                units.append((row[None], target[None]))
            continue
        for place in (target != -100).nonzero()[:, 0]:
            alone = torch.full_like(target, -100)
            alone[place] = target[place]
            units.append((row[None], alone[None]))
    return units


def relative(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b| in the Frobenius norm."""
    return float((a.double() - b.double()).norm() / b.double().norm())


def symmetric_matrix(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """A dense symmetric float64 matrix with these eigenvalues and random eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    n = len(eigenvalues)
    Q, _ = torch.linalg.qr(torch.randn(n, n, dtype=F64, generator=generator))
    A = Q @ (eigenvalues.to(F64)[:, None] * Q.mT)
    return (A + A.mT) / 2
