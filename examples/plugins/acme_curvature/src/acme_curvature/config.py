"""What a run file may say of `acme/jacobian-gram`; imports no torch."""

from attrs import field, frozen
from attrs.validators import ge, optional


@frozen(kw_only=True)
class JacobianGramConfig:
    """The Gram matrix of the network's Jacobian.

    Parameters
    ----------
    output : int or None
        One coordinate of the output's last dimension (a class), or all of them.
    """

    output: int | None = field(default=None, validator=optional(ge(0)))
