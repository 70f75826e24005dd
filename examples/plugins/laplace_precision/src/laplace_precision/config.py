"""What a run file may say of `laplace/precision`; imports no torch."""

from attrs import field, frozen
from attrs.validators import ge


@frozen(kw_only=True)
class PrecisionConfig:
    """The precision of a Laplace posterior, per unit of data.

    Parameters
    ----------
    weight_decay : float, at least 0
        Added to the diagonal, in the unit of the mean loss, as optimizers take it.
    decayed : list of str
        Globs of the parameters that decay.
    earlier : str, or none
        Folder of a result with the eigenpairs of an earlier task.
    earlier_weight : float, at least 0
        How much the earlier task counts: its units of data over this one's.
    """

    weight_decay: float = field(default=1e-4, validator=ge(0.0))
    decayed: tuple[str, ...] = ("*",)
    earlier: str | None = None
    earlier_weight: float = field(default=1.0, validator=ge(0.0))
