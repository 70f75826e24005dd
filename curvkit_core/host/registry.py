"""The registry: every component that is installed and healthy, and a record of every plugin, healthy or not."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, TypeVar

from curvkit_core.errors import RegistryError, UnavailableComponentError
from curvkit_core.host.assemble import is_strict, load_all, sift
from curvkit_core.host.catalog import Catalog
from curvkit_core.host.discover import Candidate, find_plugins
from curvkit_core.host.filters import make_filters
from curvkit_core.host.kinds import KIND_BY_NAME, KINDS
from curvkit_core.host.records import PluginRecord
from curvkit_core.host.references import resolve
from curvkit_core.host.specs import (
    AlgorithmSpec,
    BackendSpec,
    ComponentSpec,
    KernelSpec,
    LossAdapterSpec,
    OperatorSpec,
    ProblemSpec,
)
from curvkit_core.host.validate import spec_errors
from curvkit_core.version import __version__

if TYPE_CHECKING:
    from curvkit_core.host.availability import Availability
    from curvkit_core.host.observers import Observers

S = TypeVar("S", bound=ComponentSpec)


class Registry:
    """Typed catalogs of what the plugins offer; made by `load_registry` or `default_registry`.

    Parameters
    ----------
    plugins : iterable of PluginRecord
        Core first; a plugin's specs are taken whole or, where it is not ok, not at all.
    warnings : iterable of str
        What was odd about the filters.

    Attributes
    ----------
    plugins : tuple of PluginRecord
        Core first, then by namespace and distribution.
    operators, algorithms, loss_adapters, backends, kernels, problems : Catalog
    observers : Observers
    warnings : tuple of str
    """

    def __init__(self, plugins: Iterable[PluginRecord], warnings: Iterable[str] = ()) -> None:
        self.plugins = tuple(plugins)
        self.warnings = tuple(warnings)
        self._lock = threading.RLock()
        self._probed: dict[ComponentSpec, Availability] = {}
        specs = [spec for plugin in self.plugins for spec in plugin.specs]
        self._catalogs: dict[str, Catalog[Any]] = {
            kind.kind: Catalog(kind, [s for s in specs if s.kind == kind.kind], self) for kind in KINDS
        }

    @cached_property
    def observers(self) -> Observers:
        """The plugins that watch runs."""
        from curvkit_core.host.observers import Observers

        return Observers(self.plugins)

    @property
    def operators(self) -> Catalog[OperatorSpec]:
        """The operators."""
        return self._catalogs["operator"]

    @property
    def algorithms(self) -> Catalog[AlgorithmSpec]:
        """The algorithms."""
        return self._catalogs["algorithm"]

    @property
    def loss_adapters(self) -> Catalog[LossAdapterSpec]:
        """The loss adapters."""
        return self._catalogs["loss adapter"]

    @property
    def backends(self) -> Catalog[BackendSpec]:
        """The backends."""
        return self._catalogs["backend"]

    @property
    def kernels(self) -> Catalog[KernelSpec]:
        """The kernels."""
        return self._catalogs["kernel"]

    @property
    def problems(self) -> Catalog[ProblemSpec]:
        """The problems."""
        return self._catalogs["problem"]

    def catalog(self, kind: str) -> Catalog[Any]:
        """Return the catalog of a kind, by its name (``"loss adapter"``).

        Raises
        ------
        RegistryError
            If there is no such kind.
        """
        if kind not in self._catalogs:
            msg = f"kind={kind!r} is unknown: expected one of {', '.join(KIND_BY_NAME)}."
            raise RegistryError(msg)
        return self._catalogs[kind]

    def find(self, name: str) -> tuple[ComponentSpec, ...]:
        """Return the components of a qualified name, of whatever kind; a bare name means core's."""
        full = name if "/" in name else f"core/{name}"
        return tuple(catalog.get(full) for catalog in self._catalogs.values() if full in catalog)

    def plugin(self, namespace: str) -> PluginRecord | None:
        """Return the healthy plugin of a namespace, or None."""
        return next((p for p in self.plugins if p.namespace == namespace and p.status == "ok"), None)

    def availability(self, spec: ComponentSpec, probe: bool = False) -> Availability:
        """Tell whether a component can run here, from metadata; with `probe` its probe is run, once."""
        from curvkit_core.host.availability import availability

        if not probe:
            return availability(spec)
        with self._lock:
            if spec not in self._probed:
                self._probed[spec] = availability(spec, probe=True)
            return self._probed[spec]

    def load_factory(self, spec: ComponentSpec) -> Any:
        """Import what the spec's factory names.

        Raises
        ------
        UnavailableComponentError
            If it cannot be imported or is not callable; the text names the component.
        """
        factory = spec.factory
        if isinstance(factory, str):
            factory = resolve(factory, f"{spec.kind} {spec.name!r}: its factory")
        if not callable(factory):
            msg = f"{spec.kind} {spec.name!r}: its factory {spec.factory!r} is a {type(factory).__name__}, not callable"
            raise UnavailableComponentError(msg)
        return factory

    def load_config(self, spec: ComponentSpec) -> type | None:
        """Import the class of the spec's options, None where it has none; an algorithm's is its factory.

        Raises
        ------
        UnavailableComponentError
            If it cannot be imported or is not an attrs class; the text names the component.
        """
        found: object = spec.config
        if isinstance(spec, AlgorithmSpec):
            found = self.load_factory(spec)
        elif isinstance(found, str):
            found = resolve(found, f"{spec.kind} {spec.name!r}: its config")
        if found is None:
            return None
        if not isinstance(found, type) or not hasattr(found, "__attrs_attrs__"):
            msg = f"{spec.kind} {spec.name!r}: its config is {found!r:.80}, expected a frozen attrs class"
            raise UnavailableComponentError(msg)
        return found

    def register_local(self, spec: S) -> S:
        """Take in a component of a notebook or script, under ``local/``; its factory may be a callable.

        Registering the same name again replaces it, so that a notebook's cell can be run twice.

        Raises
        ------
        RegistryError
            If the spec is not valid, for one because its name is not ``local/...``.
        """
        kind = KIND_BY_NAME.get(getattr(spec, "kind", ""))
        if kind is None:
            msg = f"register_local takes a spec such as OperatorSpec, got an item of type {type(spec).__name__}."
            raise RegistryError(msg)
        errors = spec_errors(spec, kind, "local")
        if errors:
            msg = f"register_local: {'; '.join(errors)}."
            raise RegistryError(msg)
        with self._lock:
            self._catalogs[kind.kind].add(spec)
        return spec

    def fingerprint(self) -> str:
        """Return a digest of all qualified names and their plugins' versions, to be compared across ranks."""
        import hashlib

        version = {p.namespace: f"{p.dist} {p.version}" for p in self.plugins if p.status == "ok"}
        rows = [
            f"{kind}\t{spec.name}\t{version.get(spec.namespace, 'local')}"
            for kind, catalog in sorted(self._catalogs.items())
            for spec in catalog
        ]
        return hashlib.sha256("\n".join([__version__, *rows]).encode()).hexdigest()[:16]


def load_registry(
    *,
    allow: Iterable[str] | None = None,
    block: Iterable[str] | None = None,
    entry_points: Iterable[EntryPoint] | None = None,
    environ: Mapping[str, str] | None = None,
    allow_from: str = "allow=",
    block_from: str = "block=",
) -> Registry:
    """Load a fresh registry; nothing is shared with the default one.

    Parameters
    ----------
    allow, block : iterable of str, optional
        Namespaces or distribution names. They win over ``CURVKIT_PLUGINS`` and ``CURVKIT_BLOCK_PLUGINS``;
        an empty `allow` means core only.
    entry_points : iterable of EntryPoint, optional
        Use these instead of what is installed.
    environ : mapping, optional
        Instead of ``os.environ``.
    allow_from, block_from : str
        What the listing calls the lists' origin.

    Returns
    -------
    Registry
        A plugin that fails is a record in ``plugins``, never an exception.

    Raises
    ------
    Exception
        With ``CURVKIT_STRICT_PLUGINS=1``, whatever the first failing plugin raised, or a `PluginError`.
    """
    surroundings = os.environ if environ is None else environ
    filters = make_filters(allow, block, surroundings, allow_from=allow_from, block_from=block_from)
    candidates = find_plugins(entry_points)
    loaded = load_all(candidates, filters, strict=is_strict(surroundings))
    return Registry(loaded, filters.warnings(candidates))


class _Default:
    """The process-wide registry: loaded once, under a lock."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.allow: tuple[str, ...] | None = None
        self.block: tuple[str, ...] | None = None
        self.allow_from = ""
        self.block_from = ""
        self.warn: Callable[[str], None] | None = None
        self.registry: Registry | None = None
        self.loading = False


_default = _Default()


def configure_default(
    *,
    allow: Iterable[str] | None = None,
    block: Iterable[str] | None = None,
    allow_from: str = "allow=",
    block_from: str = "block=",
    warn: Callable[[str], None] | None = None,
) -> None:
    """Say how `default_registry` is to load, from now on; with no argument, as in a fresh process.

    Parameters
    ----------
    allow, block, allow_from, block_from
        As in `load_registry`.
    warn : callable, optional
        Takes each warning's text; by default they are Python warnings.
    """
    with _default.lock:
        _default.allow = None if allow is None else tuple(allow)
        _default.block = None if block is None else tuple(block)
        _default.allow_from, _default.block_from = allow_from, block_from
        _default.warn, _default.registry = warn, None


def default_registry() -> Registry:
    """Return the process-wide registry, loading it on the first call; threads wait for one another.

    Raises
    ------
    RegistryError
        If a plugin calls it while plugins are loading: its components are not known yet.
    """
    with _default.lock:
        if _default.registry is not None:
            return _default.registry
        if _default.loading:
            msg = "default_registry() was called while plugins are loading. mend: call it inside a function"
            raise RegistryError(msg)
        _default.loading = True
        try:
            registry = load_registry(
                allow=_default.allow,
                block=_default.block,
                allow_from=_default.allow_from,
                block_from=_default.block_from,
            )
        finally:
            _default.loading = False
        _default.registry = registry
        for text in registry.warnings:
            _warn(text)
        return registry


def survey_default() -> tuple[list[Candidate | PluginRecord], tuple[str, ...]]:
    """Return what `default_registry` would load and what the filters keep out, with their warnings; imports nothing."""
    candidates = find_plugins()
    filters = make_filters(
        _default.allow,
        _default.block,
        os.environ,
        allow_from=_default.allow_from,
        block_from=_default.block_from,
    )
    return sift(candidates, filters), tuple(filters.warnings(candidates))


def _warn(text: str) -> None:
    if _default.warn is not None:
        _default.warn(text)
        return
    import warnings

    warnings.warn(text, UserWarning, stacklevel=3)
