"""Configuration of core's operators in run files; imports no torch."""

from __future__ import annotations

from attrs import field, frozen, validators

__all__ = [
    "BlockDiagonalConfig",
    "EmpiricalFisherConfig",
    "EngineConfig",
    "FisherConfig",
    "GGNConfig",
    "HessianConfig",
]


_STRATEGIES = ("auto", "reverse", "lean", "finite-difference")
_CACHES = ("auto", "keep", "rebuild", "offload")


@frozen(kw_only=True)
class EngineConfig:
    """How an operator over data makes its products: cost, never meaning.

    Parameters
    ----------
    strategy : {"auto", "reverse", "lean", "finite-difference"}
        How products are made: on kept graphs or leanly, as memory allows; by reverse mode; in one training step's
        memory; by differences, which are not exact.
    cache : {"auto", "keep", "rebuild", "offload"}
        Whether graphs are kept between products.
    memory_budget : str, or none
        For kept graphs, as "8GiB"; none: half of what is free.
    compile : bool
        Compile whole products: tens of seconds, then faster on many.
    """

    strategy: str = field(default="auto", validator=validators.in_(_STRATEGIES))
    cache: str = field(default="auto", validator=validators.in_(_CACHES))
    memory_budget: str | None = None
    compile: bool = False


@frozen(kw_only=True)
class HessianConfig(EngineConfig):
    """The Hessian of the data's risk."""


@frozen(kw_only=True)
class GGNConfig(EngineConfig):
    """The generalized Gauss-Newton matrix."""


@frozen(kw_only=True)
class FisherConfig(EngineConfig):
    """The sampled Fisher, its targets drawn from the model.

    Parameters
    ----------
    num_samples : int, at least 1
        Targets drawn for each unit.
    seed : int, at least 0
        Of the draws.
    """

    num_samples: int = field(default=1, validator=validators.ge(1))
    seed: int = field(default=0, validator=validators.ge(0))


@frozen(kw_only=True)
class EmpiricalFisherConfig(EngineConfig):
    """The covariance of the units' gradients.

    Parameters
    ----------
    centered : bool
        About the gradients' mean; otherwise about zero.
    """

    centered: bool = False


@frozen(kw_only=True)
class BlockDiagonalConfig:
    """An operator without the coupling between groups of parameters.

    Parameters
    ----------
    groups : list of str
        A glob, or a module's name, for each block.
    of : {"hessian", "ggn", "fisher", "empirical-fisher"}
        The operator in each block.
    """

    groups: tuple[str, ...] = field(validator=validators.min_len(1))
    of: str = field(default="ggn", validator=validators.in_(("hessian", "ggn", "fisher", "empirical-fisher")))
