"""Where ranks and shards meet: the backend protocol, the one-process identity, the vectors' space."""

from curvkit_core.backends.protocol import Backend, ComparesRanks, HoldsShards, SharesFailures, StoresRows, World
from curvkit_core.backends.single import SingleBackend
from curvkit_core.backends.vector_space import Segment, VectorSpace

__all__ = [
    "Backend",
    "ComparesRanks",
    "HoldsShards",
    "Segment",
    "SharesFailures",
    "SingleBackend",
    "StoresRows",
    "VectorSpace",
    "World",
]
