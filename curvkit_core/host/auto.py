"""`auto`: which component to take where the user named none, with the reason for each that was passed over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from attrs import frozen

from curvkit_core.errors import AmbiguousComponentError, UnavailableComponentError
from curvkit_core.host.availability import Availability
from curvkit_core.host.specs import ComponentSpec
from curvkit_core.host.texts import joined

if TYPE_CHECKING:
    from curvkit_core.host.catalog import Catalog
    from curvkit_core.host.registry import Registry

S = TypeVar("S", bound=ComponentSpec)


@frozen(kw_only=True)
class Selection(Generic[S]):
    """What `auto` chose.

    Parameters
    ----------
    spec : ComponentSpec
    skipped : tuple of (name, reason)
        What could have been taken, by name, and why it was not. A plugin that failed to load is there
        as ``"name/*"``, since nobody knows what it would have offered.
    """

    spec: S
    skipped: tuple[tuple[str, str], ...] = ()

    def describe(self, what: str) -> str:
        """Return ``kernel ce_hvp: core/ce-hvp (skipped triton/ce-hvp: no CUDA device)``."""
        skipped = "; ".join(f"{name}: {reason}" for name, reason in self.skipped)
        return f"{what}: {self.spec.name}" + (f" (skipped {skipped})" if skipped else "")


def select(
    catalog: Catalog[S],
    *,
    available: Callable[[S], Availability],
    prefer: Sequence[str],
    allow_experimental: bool,
    where: Callable[[S], tuple[bool, str]],
) -> Selection[S]:
    """Choose from a catalog; `Catalog.auto` has the meaning of the arguments."""
    skipped = _quarantined(catalog.registry)
    able: list[S] = []
    for spec in catalog:
        good, reason = where(spec)
        if good:
            good, reason = _eligible(spec, spec.name in prefer, allow_experimental)
        if good:
            answer = available(spec)
            good, reason = answer.ok is True, answer.reason or "not known to run here"
        if good:
            able.append(spec)
        elif reason:
            skipped.append((spec.name, reason))
    skipped.sort()
    if not able:
        why = "; ".join(f"{name}: {reason}" for name, reason in skipped) or "none is offered"
        msg = f"auto: no {catalog.kind.kind} can run here ({why}). mend: name one in the run file"
        raise UnavailableComponentError(msg)
    return Selection(spec=_best(able, prefer), skipped=tuple(skipped))


def _eligible(spec: S, preferred: bool, allow_experimental: bool) -> tuple[bool, str]:
    """Tell whether `auto` may take it, and if not, why; an empty reason is not worth a word."""
    if spec.priority is None:
        return False, "it has no priority, so auto never takes it" if preferred else ""
    if spec.stability == "experimental" and not allow_experimental:
        return False, "experimental"
    return True, ""


def _quarantined(registry: Registry) -> list[tuple[str, str]]:
    """Return ``("triton/*", reason)`` for each plugin that might have offered something and could not load."""
    out = [p for p in registry.plugins if p.status in ("broken", "incompatible")]
    return [(f"{p.namespace}/*", f"its plugin failed at {p.stage}: {p.reason}") for p in out]


def _best(able: list[S], prefer: Sequence[str]) -> S:
    by_name = {spec.name: spec for spec in able}
    for name in prefer:
        if name in by_name:
            return by_name[name]
    top = max(spec.priority or 0 for spec in able)
    best = [spec for spec in able if spec.priority == top]
    if len(best) > 1:
        names = [spec.name for spec in best]
        msg = (
            f"auto: {joined(names)} tie at priority {top}. mend: name one in the run file"
            f' ([auto] prefer = ["{names[0]}"])'
        )
        raise AmbiguousComponentError(msg)
    return best[0]
