"""What an autograd graph tells about finite differences: kinks they cross, the narrowest numbers it computes in.

Where a function has kinks, differences of its gradient count the jumps between theta - h and theta + h, which second
derivatives do not hold; in a wide ReLU network so many are crossed that two steps agree, on another number. Behind the
last kink a function is smooth: along parameters that enter there, differences can be trusted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

__all__ = ["GraphFacts", "graph_facts"]

# Nodes whose first derivative jumps somewhere. Where it is continuous (SmoothL1), differences converge.
_KINK = re.compile(
    r"(Relu|LeakyRelu|Threshold|Prelu\w*|RreluWithNoise\w*|Hardtanh|Hardswish|Hardsigmoid|Hardshrink|Softshrink|Elu"
    r"|Abs|Sgn|Clamp\w*|Max\w*|Min\w*|Amax|Amin|Aminmax|AdaptiveMaxPool\w*|FractionalMaxPool\w*|Cummax|Cummin|Fmax|Fmin"
    r"|Median|Nanmedian|Kthvalue|Mode|MultiMarginLoss|MultilabelMarginLoss\w*|Remainder|Fmod|Frac)Backward"
    r"|.*relu",  # autograd Functions of other libraries
    re.IGNORECASE,
)
# Nodes after which the value itself jumps.
_JUMP = re.compile(r"(Topk|Sort|Argsort|Round|Floor|Ceil|Trunc|Sign|Heaviside|Unique\w*|Bernoulli|Multinomial)Backward")


@frozen(kw_only=True)
class GraphFacts:
    """Facts of one graph.

    Parameters
    ----------
    kink : str
        A node whose value or derivative jumps; empty if there is none.
    jump : str
        A node whose value jumps; empty if there is none.
    leaves : frozenset of int
        ``id`` of the leaves.
    behind : frozenset of int
        ``id`` of those whose every path to the root passes no kink or jump.
    dtype : torch.dtype
        The narrowest floating-point dtype that a derivative passes through.
    convolves : bool
        Whether there is a convolution or a recurrent layer.
    """

    kink: str
    jump: str
    leaves: frozenset[int]
    behind: frozenset[int]
    dtype: torch.dtype
    convolves: bool


def graph_facts(roots: Iterable[Tensor], dtype: torch.dtype) -> GraphFacts:
    """Walk the graph behind `roots` once; `dtype` is the widest that counts as narrowest."""
    nodes = _reached([t.grad_fn for t in roots if t.grad_fn is not None])
    names = {node: node.name().rsplit("::", 1)[-1] for node in nodes}
    jumps = [node for node in nodes if _JUMP.match(names[node])]
    kinks = [*jumps, *(node for node in nodes if _KINK.match(names[node]))]
    before = set(_reached(kinks))
    leaves = {id(node.variable): node for node in nodes if hasattr(node, "variable")}
    for node in nodes:
        for entry in getattr(node, "_input_metadata", ()):
            if entry.dtype.is_floating_point and torch.finfo(entry.dtype).eps > torch.finfo(dtype).eps:
                dtype = entry.dtype
    return GraphFacts(
        kink=names[kinks[0]] if kinks else "",
        jump=names[jumps[0]] if jumps else "",
        leaves=frozenset(leaves),
        behind=frozenset(leaf for leaf, node in leaves.items() if node not in before),
        dtype=dtype,
        convolves=any("onvolution" in name or "Rnn" in name for name in names.values()),
    )


def _reached(nodes: list[Any]) -> list[Any]:
    seen = dict.fromkeys(nodes)
    waiting = list(seen)
    while waiting:
        for following, _ in waiting.pop().next_functions:
            if following is not None and following not in seen:
                seen[following] = None
                waiting.append(following)
    return list(seen)
