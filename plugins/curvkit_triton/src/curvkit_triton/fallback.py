"""What a compiled kernel does where the compiler fails: core's reference from then on, the reason said and kept."""

from __future__ import annotations

import warnings
from types import TracebackType

from attrs import define

__all__ = ["Fallback"]


@define(eq=False)
class Fallback:
    """A context around a compiled call: an error of the compiler ends it, is kept as `reason` and warned of, once.

    Parameters
    ----------
    name, instead : str
        The kernel's, and that of what takes its place.
    reason : str
        Why it fell back; empty while it has not.
    failed : bool
        Whether the last call did.
    """

    name: str
    instead: str
    reason: str = ""
    failed: bool = False

    def __enter__(self) -> Fallback:
        self.failed = False
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        """Swallow what the compiler raised, and nothing else: memory that ran out is the caller's to know."""
        if error is None or not _is_the_compilers(error):
            return False
        self.failed = True
        self.reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        msg = f"{self.name} gives way to {self.instead} from here on: torch.compile failed with {self.reason}"
        warnings.warn(msg, RuntimeWarning, stacklevel=3)
        return True


def _is_the_compilers(error: BaseException) -> bool:
    """By the class's home, for torch has moved and renamed these errors."""
    return any(c.__module__.startswith(("torch._dynamo", "torch._inductor")) for c in type(error).__mro__)
