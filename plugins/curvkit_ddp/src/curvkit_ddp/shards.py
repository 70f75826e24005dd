r"""How FSDP2 cuts a parameter: R rows into runs of :math:`\lceil R/N \rceil`, the last ones shorter or empty."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor
from torch.distributed.tensor import DTensor

__all__ = ["Cut", "cut_of", "local_part"]


@frozen(kw_only=True)
class Cut:
    """How one parameter lies on N ranks.

    Parameters
    ----------
    shape : torch.Size
        Of the whole.
    size : int
        N.
    """

    shape: torch.Size
    size: int

    @property
    def row(self) -> int:
        """Elements of a row, an entry of the first dim."""
        return self.shape[1:].numel()

    @property
    def padded(self) -> int:
        """Elements of the largest part, to which the others are padded in a collective."""
        return -(-self.shape[0] // self.size) * self.row

    def start(self, rank: int) -> int:
        """The first element of a rank's part in the flattened whole."""
        return min(self.padded * rank, self.shape.numel())


def cut_of(name: str, parameter: Tensor) -> Cut:
    """How a sharded parameter is cut.

    Raises
    ------
    ValueError
        If it is not sharded, or otherwise than along its first dim over one axis of the mesh.
    """
    if not isinstance(parameter, DTensor):
        msg = (
            f"parameter {name!r} is not sharded (a plain {type(parameter).__name__}). Shard the whole model with "
            "curvkit_ddp.shard(model, mesh) or torch's fully_shard; for whole parameters use ReplicatedBackend."
        )
        raise ValueError(msg)
    axes = [axis for axis, placement in enumerate(parameter.placements) if not placement.is_replicate()]
    if len(axes) > 1 or not all(parameter.placements[axis].is_shard(0) for axis in axes):
        msg = (
            f"parameter {name!r} is placed {parameter.placements} on its mesh: expected Shard(0) over one axis and "
            "replicas over the others. Tensor-parallel parameters and other dims are not supported."
        )
        raise ValueError(msg)
    return Cut(shape=parameter.shape, size=parameter.device_mesh.size(axes[0]) if axes else 1)


def local_part(parameter: Tensor) -> Tensor:
    """This rank's part as a plain tensor: a view, whatever is given that is plain already."""
    if not isinstance(parameter, DTensor):
        return parameter
    with torch.no_grad():
        part: Tensor = parameter.detach().to_local()
    return part
