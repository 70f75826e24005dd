"""What a run will do: every name looked up, every option checked, every seed drawn, before anything is built."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
from attrs import Factory, field, frozen

from curvkit_core.config import ConfigError, Mistake, plain, structure
from curvkit_core.errors import CurvkitError
from curvkit_core.runs.sections import (
    AUTO,
    GENERIC_KEYS,
    Auto,
    Budget,
    CheckpointOptions,
    Landscape,
    NoOptions,
    algorithm_tables,
    check_sections,
    component_tables,
    near_hint,
    take,
)

if TYPE_CHECKING:
    from curvkit_core.host.catalog import Catalog
    from curvkit_core.host.registry import Registry
    from curvkit_core.host.specs import ComponentSpec

__all__ = ["Plan", "PlannedAlgorithm", "PlannedComponent", "PlannedOperator", "make_plan"]


@frozen(kw_only=True)
class PlannedComponent:
    """A component that a run uses.

    Parameters
    ----------
    spec : ComponentSpec
        What the registry has.
    config : object
        Its structured options; for an algorithm the algorithm itself; None where it takes none.
    path : str
        Where the run file asks for it, ``$.algorithm[0]``.
    provider : str
        Distribution and version, ``curvkit-core 0.1.0``.
    """

    spec: ComponentSpec
    config: Any
    path: str
    provider: str

    @property
    def name(self) -> str:
        """The qualified name."""
        return self.spec.name

    def record(self) -> dict[str, Any]:
        """Return plain values for ``plan.json``."""
        return {"kind": self.spec.name, "provider": self.provider, "config": plain(self.config)}


@frozen(kw_only=True)
class PlannedOperator:
    """An operator, on all of the problem's parameters or on those that the globs `params` name."""

    component: PlannedComponent
    params: tuple[str, ...] = ()
    label: str = ""


@frozen(kw_only=True)
class PlannedAlgorithm:
    """An algorithm, and the operators (by number) that it runs on."""

    component: PlannedComponent
    on: tuple[int, ...]


@frozen(kw_only=True)
class Plan:
    """Everything that a run file asks for, resolved.

    Parameters
    ----------
    source : str
        The run file.
    problem, backend : PlannedComponent
        One each.
    operators : tuple of PlannedOperator
        In the file's order.
    algorithms : tuple of PlannedAlgorithm
        In the file's order.
    backend_auto : bool
        Whether the run file leaves the backend open.
    auto : Auto
        What ``auto`` may take.
    notes : tuple of str
        What ``auto`` took, and what it skipped and why.
    fingerprint : str
        The registry's.
    budget : Budget
        What all of it may cost.
    checkpoint : CheckpointOptions
        How often the algorithm at work is saved.
    landscape : Landscape or None
        Slices of the loss along eigenvectors, where they are asked for.
    tables : mapping
        The run file's tables, settings applied.
    seeds : mapping of str to int
        Those that the file leaves out, by the component's place in it.
    """

    source: str
    problem: PlannedComponent
    operators: tuple[PlannedOperator, ...]
    algorithms: tuple[PlannedAlgorithm, ...]
    backend: PlannedComponent
    backend_auto: bool = True
    auto: Auto = Factory(Auto)
    notes: tuple[str, ...] = ()
    fingerprint: str = ""
    budget: Budget = Factory(Budget)
    checkpoint: CheckpointOptions = Factory(CheckpointOptions)
    landscape: Landscape | None = None
    tables: Mapping[str, Any] = field(factory=dict, repr=False)
    seeds: Mapping[str, int] = Factory(dict)

    @property
    def num_jobs(self) -> int:
        """How many times an algorithm runs."""
        return sum(len(algorithm.on) for algorithm in self.algorithms)


def make_plan(
    data: Mapping[str, Any],
    registry: Registry,
    *,
    source: str = "run file",
    seeds: Mapping[str, int] | None = None,
) -> Plan:
    """Resolve a run file's tables.

    Parameters
    ----------
    data : mapping
        What :func:`curvkit_core.config.read_toml` gives, settings applied.
    registry : Registry
        Where names are looked up.
    source : str
        The file's name, for errors and records.
    seeds : mapping of str to int, or None
        Seeds that an earlier plan of the same file drew: they are used again.

    Returns
    -------
    Plan
        Seeds that the file leaves out are drawn.

    Raises
    ------
    ConfigError
        With all that can be known to be wrong before the problem is built.
    """
    mistakes = check_sections(data)
    resolver = _Resolver(registry, mistakes, seeds or {})
    auto = resolver.table(Auto, data, AUTO)
    budget = resolver.table(Budget, data, "budget")
    checkpoint = resolver.table(CheckpointOptions, data, "checkpoint")
    landscape = resolver.table(Landscape, data, "landscape") if "landscape" in data else None
    (problem,) = [resolver.component(registry.problems, *at) for at in component_tables(data, "problem")] or [None]
    operators = [resolver.operator(*at) for at in component_tables(data, "operator")]
    known = [operator for operator in operators if operator is not None]
    names = [_full(table.get("kind")) for _, table in component_tables(data, "operator")]
    algorithms = [resolver.algorithm(*at, names) for at in algorithm_tables(data)]
    backend = resolver.backend(data.get("backend", {"kind": "auto"}), auto)
    if mistakes or problem is None or backend is None:
        raise ConfigError(mistakes, source)
    return Plan(
        source=source,
        problem=problem,
        operators=tuple(_labelled(known)),
        algorithms=tuple(a for a in algorithms if a is not None),
        backend=backend,
        backend_auto=_is_auto(data),
        auto=auto,
        notes=tuple(resolver.notes),
        fingerprint=registry.fingerprint(),
        budget=budget,
        checkpoint=checkpoint,
        landscape=landscape,
        tables=data,
        seeds=resolver.seeds,
    )


class _Resolver:
    """Looks components up and gathers what is wrong with them."""

    def __init__(self, registry: Registry, mistakes: list[Mistake], drawn: Mapping[str, int]) -> None:
        self.registry = registry
        self.mistakes = mistakes
        self.notes: list[str] = []
        self.seeds: dict[str, int] = {}
        self._drawn = drawn
        self._providers = {p.namespace: f"{p.dist} {p.version}" for p in registry.plugins if p.status == "ok"}

    def collect(self, make: Callable[[], Any], path: str = "") -> Any:
        """Return what `make` does, or None with its mistakes gathered."""
        try:
            return make()
        except ConfigError as error:
            self.mistakes += error.mistakes
        except (CurvkitError, TypeError) as error:  # TypeError: a plugin's class whose types cannot be read
            self.mistakes.append(Mistake(path, str(error)))
        return None

    def table(self, cls: type, data: Mapping[str, Any], name: str) -> Any:
        """A section that is no component, structured; its defaults where it is not there or is wrong."""
        section = data.get(name, {})
        if not isinstance(section, Mapping):
            return cls()  # said by check_sections
        return self.collect(lambda: structure(cls, section, f"$.{name}")) or cls()

    def component(self, catalog: Catalog[Any], path: str, table: dict[str, Any]) -> PlannedComponent | None:
        """Look up ``kind``, check that it can run, and structure the other keys as its options."""
        rest = dict(table)
        kind = self.collect(lambda: take(rest, "kind", str, path))
        spec = self.collect(lambda: catalog.require(kind), f"{path}.kind") if kind is not None else None
        if spec is None:
            return None
        return self._planned(spec, rest, path)

    def operator(self, path: str, table: dict[str, Any]) -> PlannedOperator | None:
        """An operator's own keys, and ``params``."""
        rest = dict(table)
        params = self.collect(lambda: take(rest, "params", tuple[str, ...], path, default=()))
        if params == () and "params" in table:
            self.mistakes.append(Mistake(f"{path}.params", "expected at least one glob, got an empty list"))
        component = self.component(self.registry.operators, path, rest)
        return None if component is None else PlannedOperator(component=component, params=params or ())

    def algorithm(self, path: str, table: dict[str, Any], operators: list[str]) -> PlannedAlgorithm | None:
        """An algorithm's own keys, and ``on``; `operators` are the names in the file, good or bad."""
        rest = dict(table)
        on = self.collect(lambda: take(rest, "on", tuple[str, ...] | None, path, default=None))
        component = self.component(self.registry.algorithms, path, rest)
        chosen = tuple(range(len(operators)))
        if on is not None:
            chosen = self._chosen(on, operators, f"{path}.on")
        return None if component is None else PlannedAlgorithm(component=component, on=chosen)

    def backend(self, table: Any, auto: Auto) -> PlannedComponent | None:
        """The backend that is named, or the one that ``auto`` takes."""
        if not isinstance(table, Mapping):
            return None  # said by check_sections
        rest = {"kind": "auto", **table}
        if rest["kind"] != "auto":
            return self.component(self.registry.backends, "$.backend", rest)
        del rest["kind"]
        selection = self.collect(
            lambda: self.registry.backends.auto(prefer=auto.prefer, allow_experimental=auto.allow_experimental),
            "$.backend.kind",
        )
        if selection is None:
            return None
        self.notes.append(selection_note("backend", selection))
        return self._planned(selection.spec, rest, "$.backend")

    def _planned(self, spec: ComponentSpec, rest: dict[str, Any], path: str) -> PlannedComponent | None:
        before = len(self.mistakes)
        self.collect(lambda: self.registry.load_factory(spec), f"{path}.kind")
        cls = self.collect(lambda: self.registry.load_config(spec), f"{path}.kind")
        if len(self.mistakes) > before:
            return None
        extra = GENERIC_KEYS[spec.kind]
        config = self.collect(lambda: structure(cls or NoOptions, rest, path, extra_keys=extra), path)
        if config is None:
            return None
        return PlannedComponent(
            spec=spec,
            config=self._seeded(config, path) if cls is not None else None,
            path=path,
            provider=self._providers.get(spec.namespace, spec.namespace),
        )

    def _seeded(self, config: Any, path: str) -> Any:
        """Draw the seed that a configuration leaves open, so that the record holds the one used."""
        fields = attrs.fields_dict(type(config))
        if "seed" not in fields or not fields["seed"].init or config.seed is not None:
            return config
        self.seeds[path] = self._drawn.get(path, secrets.randbelow(2**31))
        return attrs.evolve(config, seed=self.seeds[path])

    def _chosen(self, on: tuple[str, ...], operators: list[str], path: str) -> tuple[int, ...]:
        chosen: set[int] = set()
        for i, name in enumerate(on):
            found = [number for number, operator in enumerate(operators) if operator == _full(name)]
            if not found:
                text = f"{name!r} is no [[operator]] of this file{near_hint(_full(name), [o for o in operators if o])}"
                self.mistakes.append(Mistake(f"{path}[{i}]", text))
            chosen.update(found)
        if not on:
            self.mistakes.append(Mistake(path, "expected at least one operator, got an empty list; omit it for all"))
        return tuple(sorted(chosen))


def selection_note(what: str, selection: Any) -> str:
    """Return ``backend: core/single (skipped ddp/replicated: one process)``."""
    skipped = ", ".join(f"{name}: {reason}" for name, reason in selection.skipped)
    return f"{what}: {selection.spec.name}" + (f" (skipped {skipped})" if skipped else "")


def _full(name: Any) -> str:
    """Return the qualified name, a bare one meaning core's; empty for what is no name."""
    if not isinstance(name, str):
        return ""
    return name if "/" in name else f"core/{name}"


def _is_auto(data: Mapping[str, Any]) -> bool:
    backend = data.get("backend", {})
    return isinstance(backend, Mapping) and bool(backend.get("kind", "auto") == "auto")


def _labelled(operators: list[PlannedOperator]) -> list[PlannedOperator]:
    """Give each operator a name of its own: ``core/ggn``, ``core/ggn[fc1.*]``, ``acme/x(rank=5)``, ``core/ggn #2``."""
    bases = [o.component.name + (f"[{', '.join(o.params)}]" if o.params else "") for o in operators]
    labels: list[str] = []
    for operator, base in zip(operators, bases, strict=True):
        alike = [other for other, its in zip(operators, bases, strict=True) if its == base]
        label = base + _differences(operator, alike)
        count = sum(seen == label or seen.startswith(f"{label} #") for seen in labels)
        labels.append(f"{label} #{count + 1}" if count else label)
    return [attrs.evolve(operator, label=label) for operator, label in zip(operators, labels, strict=True)]


def _differences(operator: PlannedOperator, alike: list[PlannedOperator]) -> str:
    """Return the options in which operators that are otherwise alike differ: ``(rank=5)``."""
    configs = [plain(other.component.config) or {} for other in alike]
    own = plain(operator.component.config) or {}
    differing = [name for name in own if any(config.get(name) != own[name] for config in configs)]
    return f"({', '.join(f'{name}={own[name]}' for name in differing)})" if differing else ""
