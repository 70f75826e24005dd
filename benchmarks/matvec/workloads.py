"""What is differentiated: three networks, one batch each, cross-entropy averaged over all targets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from attrs import field, frozen
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

__all__ = ["WORKLOADS", "Workload"]

SEQUENCE = 128


@frozen(kw_only=True, eq=False)
class Workload:
    """A network in eval mode, one batch of data, and its loss, the mean of cross-entropy over all targets.

    `model(inputs)` are the logits, (N, C), and `targets` (N,). For the tool that takes gradients of single samples,
    `sample_batch` is the same batch cut into samples and `sample_loss(model, sample)` the loss of one.
    `allowance` multiplies the goals, which are set for the GPT-2 shape; `preflight` is handed to curvkit's problem.
    A network that is not `smooth` has kinks: a unit within rounding of one goes the other way in float64.
    """

    name: str
    text: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    sample_batch: tuple[Tensor, Tensor]
    allowance: float = 1.0
    smooth: bool = True
    checkpointed: bool = False
    unit_is_sample: bool = True
    preflight: str = "error"
    criterion: nn.CrossEntropyLoss = field(factory=nn.CrossEntropyLoss)

    @property
    def num_parameters(self) -> int:
        """Entries of all parameters."""
        return sum(p.numel() for p in self.model.parameters())

    def forward(self) -> tuple[Tensor, Tensor]:
        """Logits and mean loss, with a graph: as training loops are written, which hold the logits to the end."""
        logits = self.model(self.inputs)
        return logits, self.criterion(logits, self.targets)

    def gradient(self) -> Tensor:
        """The mean loss's gradient as one vector: what every ratio is taken to."""
        _logits, loss = self.forward()
        slopes = torch.autograd.grad(loss, list(self.model.parameters()))
        return torch.cat([s.reshape(-1) for s in slopes])

    def sample_loss(self, model: nn.Module, sample: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of one sample, averaged over its targets."""
        inputs, targets = sample
        if not self.unit_is_sample:
            return self.criterion(model(inputs), targets)
        return self.criterion(model(inputs.unsqueeze(0)), targets.unsqueeze(0))

    def direction(self) -> Tensor:
        """A vector of norm 1: what an eigensolver asks for."""
        v = torch.randn(self.num_parameters, generator=torch.Generator().manual_seed(1))
        return v / v.norm()


class Block(nn.Module):
    """A pre-norm transformer block; attention written out, so that every tool can differentiate it twice."""

    def __init__(self, width: int, heads: int, length: int = SEQUENCE) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.register_buffer("hidden", torch.ones(length, length, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to the same."""
        B, T, D = x.shape
        q, k, v = self.qkv(self.norm_attention(x)).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q @ k.mT) * (D // self.heads) ** -0.5
        mixed = scores.masked_fill(self.hidden[:T, :T], float("-inf")).softmax(-1) @ v
        x = x + self.projection(mixed.transpose(1, 2).reshape(B, T, D))
        return x + self.down(functional.gelu(self.up(self.norm_mlp(x)), approximate="tanh"))


class GPT2Shape(nn.Module):
    """GPT-2's shape with a tied head. Takes tokens in one row, (B * T,), and gives logits, (B * T, V)."""

    def __init__(
        self, vocabulary: int, layers: int, width: int, heads: int, *, length: int = SEQUENCE, checkpointed: bool
    ) -> None:
        super().__init__()
        self.checkpointed = checkpointed
        self.length = length
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, length) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if "norm" not in name:
                nn.init.normal_(parameter, std=0.02 if parameter.ndim > 1 else 0.0)

    def features(self, row: Tensor) -> Tensor:
        """(B * T,) tokens to (B * T, width) hidden states, which the head multiplies."""
        x = self.tokens(row.view(-1, self.length)) + self.positions.weight
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x)
        return self.norm(x).flatten(0, 1)

    def forward(self, row: Tensor) -> Tensor:
        """(B * T,) tokens to (B * T, V) logits."""
        return functional.linear(self.features(row), self.tokens.weight)


class Residual(nn.Module):
    """Two convolutions with GroupNorm beside a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm_first = nn.GroupNorm(8, outside)
        self.second = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm_second = nn.GroupNorm(8, outside)
        self.shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, H, W) to (N, outside, H / stride, W / stride)."""
        y = functional.relu(self.norm_first(self.first(x)))
        return functional.relu(self.norm_second(self.second(y)) + self.shortcut(x))


class ResidualCNN(nn.Module):
    """A ResNet for 32 x 32 images: three stages of two blocks, with GroupNorm."""

    def __init__(self, width: int, *, checkpointed: bool) -> None:
        super().__init__()
        self.checkpointed = checkpointed
        self.stem = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.norm = nn.GroupNorm(8, width)
        sizes = [(width, width, 1), (width, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1)]
        sizes += [(2 * width, 4 * width, 2), (4 * width, 4 * width, 1)]
        self.blocks = nn.ModuleList(Residual(*s) for s in sizes)
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) images to (N, 10) logits."""
        x = functional.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x)
        return self.head(x.mean((2, 3)))


def digits(*, hidden: tuple[int, ...], name: str, small: bool = False) -> Workload:
    """The network of core/digits-mlp, trained by it, on its training images as one batch."""
    from curvkit_core.problem.digits_config import DigitsMLPConfig
    from curvkit_core.problem.digits_mlp import build

    hidden = tuple(min(size, 32) for size in hidden) if small else hidden
    config = DigitsMLPConfig(hidden=hidden, epochs=1 if small else 10, batch_size=2048)
    problem = build(config)
    (batch,) = problem.batches
    layers = "-".join(map(str, (64, *hidden, 10)))
    return Workload(
        name=name,
        text=f"{layers} tanh MLP on {len(batch[0]):,} digits",
        model=problem.model.eval(),
        inputs=batch[0],
        targets=batch[1],
        sample_batch=batch,
        allowance=1.25,
    )


def cnn(*, checkpointed: bool, small: bool = False) -> Workload:
    """A residual CNN on random images."""
    width, images = (8, 2) if small else (32, 64)
    torch.manual_seed(0)
    model = ResidualCNN(width, checkpointed=checkpointed).eval()
    batch = (torch.randn(images, 3, 32, 32), torch.randint(10, (images,)))
    return Workload(
        name="cnn-checkpointed" if checkpointed else "cnn",
        text=f"residual CNN with GroupNorm, width {width}, {images} images 3 x 32 x 32"
        + (", every block checkpointed" if checkpointed else ""),
        model=model,
        inputs=batch[0],
        targets=batch[1],
        sample_batch=batch,
        allowance=1.25,
        smooth=False,
        checkpointed=checkpointed,
    )


def gpt2(*, checkpointed: bool, small: bool = False) -> Workload:
    """GPT-2's shape: V = 50,257, 4 layers, width 256, 4 heads, 4 x 128 random tokens."""
    vocabulary, layers, width, rows = (101, 2, 16, 2) if small else (50_257, 4, 256, 4)
    torch.manual_seed(0)
    model = GPT2Shape(vocabulary, layers, width, 4, checkpointed=checkpointed).eval()
    inputs, targets = torch.randint(vocabulary, (2, rows * SEQUENCE))
    return Workload(
        name="gpt2-checkpointed" if checkpointed else "gpt2",
        text=f"GPT-2 shape, V = {vocabulary:,}, {layers} layers, width {width}, {rows} x {SEQUENCE} tokens, tied head"
        + (", every block checkpointed" if checkpointed else ""),
        model=model,
        inputs=inputs,
        targets=targets,
        sample_batch=(inputs.view(-1, SEQUENCE), targets.view(-1, SEQUENCE)),
        checkpointed=checkpointed,
        unit_is_sample=False,
    )


#: name -> function(small=) that makes it; the small one has the same operations, and warms a process up.
WORKLOADS: dict[str, Callable[..., Workload]] = {
    "mlp": partial(digits, hidden=(32, 16), name="mlp"),
    "mlp-wide": partial(digits, hidden=(512, 512), name="mlp-wide"),
    "cnn": partial(cnn, checkpointed=False),
    "gpt2": partial(gpt2, checkpointed=False),
    "cnn-checkpointed": partial(cnn, checkpointed=True),
    "gpt2-checkpointed": partial(gpt2, checkpointed=True),
}
