r"""What stands between :math:`hW^\top + b` and a row's loss: scale, soft cap, and how a target's mass is spread.

A row with target y has the masses :math:`q_c = (1-\epsilon) w_y [c = y] + \epsilon w_c / V`, as in
``torch.nn.CrossEntropyLoss``: :math:`s = \sum_c q_c` is the row's own mass, :math:`q_c / s` a distribution.
"""

from __future__ import annotations

import math

import torch
from attrs import define, field, frozen, validators
from torch import Tensor

__all__ = ["CHUNK_BYTES", "LinearCeOptions", "RowTargets", "read_targets"]

#: Default bound on what a chunk of rows takes: 128 MiB, 333 rows of a 50,257-word vocabulary with two float32 tensors.
CHUNK_BYTES = 1 << 27


@frozen(kw_only=True, eq=False)
class LinearCeOptions:
    r"""The options of a linear head's cross-entropy: logits :math:`z = \kappa\tanh(\sigma(hW^\top + b)/\kappa)`.

    Parameters
    ----------
    ignore_index : int
        Targets that do not count.
    label_smoothing : float, 0 to 1
        Share of the target's mass that is spread over all classes.
    class_weights : Tensor, shape (V,), or None
        Not negative.
    softcap : float, positive, or None
        kappa; None: no cap.
    logit_scale : float
        sigma.
    chunk_bytes : int
        Bound on the (rows, V) tensors of one chunk of rows, together; at least one row is taken.
    """

    ignore_index: int = -100
    label_smoothing: float = field(default=0.0, validator=[validators.ge(0.0), validators.le(1.0)])
    class_weights: Tensor | None = None
    softcap: float | None = None
    logit_scale: float = 1.0
    chunk_bytes: int = field(default=CHUNK_BYTES, validator=validators.ge(1))

    def __attrs_post_init__(self) -> None:
        """Refuse what is no cap, no scale and no weight."""
        if self.softcap is not None and not 0.0 < self.softcap < math.inf:
            msg = f"softcap={self.softcap!r}: expected a positive number, or None for no cap."
            raise ValueError(msg)
        if not 0.0 < abs(self.logit_scale) < math.inf:
            msg = f"logit_scale={self.logit_scale!r}: expected a finite number that is not 0."
            raise ValueError(msg)
        if self.class_weights is not None and bool((self.class_weights < 0).any()):
            msg = f"class_weights has the entry {float(self.class_weights.min()):g}: expected none below 0."
            raise ValueError(msg)


@define
class RowTargets:
    """Targets as the sweeps use them.

    `index` (N,): classes, 0 where a row does not count. `keep` (N,): rows that count, being neither ignored nor of mass
    0. `mass` (N,): s. `share` (N,): the target's own part of q / s. `spread` (V,), a number, or None: eps w / V.
    """

    index: Tensor
    keep: Tensor
    mass: Tensor
    share: Tensor
    spread: Tensor | float | None


def read_targets(targets: Tensor, classes: int, options: LinearCeOptions, dtype: torch.dtype) -> RowTargets:
    """The masses of class targets (N,) over `classes` classes, in `dtype`.

    Raises
    ------
    ValueError
        For class weights of another number, or a target that is no class.
    """
    keep = targets != options.ignore_index
    index = torch.where(keep, targets, 0)
    if bool(((index < 0) | (index >= classes)).any()):
        wrong = int(index[(index < 0) | (index >= classes)][0])
        msg = f"a target is {wrong}: expected 0 <= target < {classes}, or ignore_index={options.ignore_index}."
        raise ValueError(msg)
    smooth = options.label_smoothing
    if options.class_weights is None:
        mass = torch.ones(len(index), dtype=dtype, device=index.device)
        share, spread = mass * (1.0 - smooth), smooth / classes
        return RowTargets(index, keep, mass, share, spread if smooth else None)
    weights = options.class_weights.to(index.device, dtype)
    if weights.shape != (classes,):
        msg = f"class_weights has shape {tuple(weights.shape)}: expected ({classes},), one a class."
        raise ValueError(msg)
    spread_by_class = weights * (smooth / classes)
    own = (1.0 - smooth) * weights[index]
    mass = own + spread_by_class.sum()
    keep = keep & (mass > 0)
    share = torch.where(mass > 0, own / mass, 0.0)
    return RowTargets(index, keep, mass, share, spread_by_class if smooth else None)
