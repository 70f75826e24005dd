"""One kind's components by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from curvkit_core.errors import UnavailableComponentError
from curvkit_core.host.kinds import Kind
from curvkit_core.host.specs import ComponentSpec

if TYPE_CHECKING:
    from curvkit_core.host.auto import Selection
    from curvkit_core.host.availability import Availability
    from curvkit_core.host.registry import Registry

S = TypeVar("S", bound=ComponentSpec)


class Catalog(Generic[S]):
    """The components of one kind; iterates in name order, whatever the order of plugins, hooks or paths.

    Parameters
    ----------
    kind : type
        The class of its specs.
    specs : iterable of ComponentSpec
    registry : Registry
        Whom to ask about what is not here, and about what can run.
    """

    def __init__(self, kind: Kind, specs: Iterable[S], registry: Registry) -> None:
        self.kind = kind
        self.registry = registry
        self._specs: dict[str, S] = {spec.name: spec for spec in sorted(specs, key=lambda s: s.name)}

    def __len__(self) -> int:
        return len(self._specs)

    def __iter__(self) -> Iterator[S]:
        return iter(tuple(self._specs.values()))

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def __repr__(self) -> str:
        return f"<Catalog of {self.kind.plural}: {', '.join(self._specs) or 'none'}>"

    def names(self) -> tuple[str, ...]:
        """Return the qualified names, sorted."""
        return tuple(self._specs)

    def get(self, name: str) -> S:
        """Return the component of a name; a bare one means core's.

        Parameters
        ----------
        name : str
            ``"hf/causal-lm"``, or ``"ggn"`` for ``"core/ggn"``.

        Raises
        ------
        UnknownComponentError
            If no plugin here has it; the text lists near names or says what to install.
        UnavailableComponentError
            If its plugin is installed but broken, incompatible or blocked.
        AmbiguousComponentError
            If a bare name is not core's and several plugins have it.
        """
        if not isinstance(name, str):
            msg = f"{self.kind.kind} name={name!r} is of type {type(name).__name__}: expected a str."
            raise TypeError(msg)
        found = self._specs.get(name if "/" in name else f"core/{name}")
        if found is None:
            from curvkit_core.host.explain_absence import absence

            raise absence(name, self)
        return found

    def require(self, name: str) -> S:
        """Return the component of a name, having made sure that it can run here.

        Raises
        ------
        UnavailableComponentError
            Also if its requirements or its probe say no: nothing is substituted for what was named.
        """
        spec = self.get(name)
        answer = self.registry.availability(spec, probe=True)
        if answer.ok is not True:
            others = [
                name
                for name, other in self._specs.items()
                if name.startswith("core/")
                and name != spec.name
                and getattr(other, "op", None) == getattr(spec, "op", None)  # another operation's kernel is no help
            ]
            instead = "mend: satisfy what it needs, or name another"
            if spec.priority is not None and others:
                instead = f'use kind = "auto" or {" or ".join(others)}'
            msg = (
                f"{spec.kind} {spec.name!r} cannot run here: {answer.reason}. "
                f"It was named explicitly, so nothing is substituted; {instead}"
            )
            raise UnavailableComponentError(msg)
        return spec

    def auto(
        self,
        *,
        available: Callable[[S], Availability] | None = None,
        prefer: Iterable[str] = (),
        allow_experimental: bool = False,
        where: Callable[[S], tuple[bool, str]] | None = None,
    ) -> Selection[S]:
        """Choose by capability, then availability, then priority; a tie is an error, never the alphabet's to break.

        Parameters
        ----------
        available : callable, optional
            Spec -> Availability; by default requirements and probe.
        prefer : iterable of str
            Names to take first, in this order, where they can run. Names of other kinds are passed by, so
            that one list may serve all.
        allow_experimental : bool
            Whether ``stability="experimental"`` may be taken.
        where : callable, optional
            Spec -> (ok, reason), the caller's capability filter. A refusal with an empty reason means "of no
            concern here" and is not recorded.

        Returns
        -------
        Selection

        Raises
        ------
        AmbiguousComponentError
            On a tie.
        UnavailableComponentError
            If nothing is left; the text has all reasons.
        """
        from curvkit_core.host.auto import select

        return select(
            self,
            available=available or (lambda spec: self.registry.availability(spec, probe=True)),
            prefer=tuple(prefer),
            allow_experimental=allow_experimental,
            where=where or (lambda spec: (True, "")),
        )

    def add(self, spec: S) -> None:
        """Take in one more, replacing its namesake; for the registry, under its lock."""
        self._specs = dict(sorted({**self._specs, spec.name: spec}.items()))
