"""What a plugin declares: frozen records of names and strings, so that listing them imports nothing heavy.

A kind with no fields of its own is a plain subclass: attrs would compile the same methods again, a millisecond
of every start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from attrs import field, frozen

__all__ = [
    "AlgorithmSpec",
    "BackendSpec",
    "ComponentSpec",
    "KernelSpec",
    "LossAdapterSpec",
    "OperatorSpec",
    "PluginInfo",
    "ProblemSpec",
]

STABILITIES = ("stable", "provisional", "experimental")


def _strings(what: str, value: Iterable[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        msg = f"{what}={value!r} is a bare string: expected a list of strings. Write {what}=[{value!r}]."
        raise TypeError(msg)
    strings = tuple(value)
    for item in strings:
        if not isinstance(item, str):
            msg = f"{what} holds {item!r}, a {type(item).__name__}: expected strings only."
            raise TypeError(msg)
    return strings


def _requires(value: Iterable[str]) -> tuple[str, ...]:
    return _strings("requires", value)


def _matches(value: Iterable[str]) -> tuple[str, ...]:
    return _strings("matches", value)


def _devices(value: Iterable[str]) -> tuple[str, ...]:
    return _strings("devices", value)


def _dtypes(value: Iterable[str]) -> tuple[str, ...]:
    return _strings("dtypes", value)


def _tags(value: Iterable[str]) -> frozenset[str]:
    return frozenset(_strings("tags", value))


def _expect(what: str, value: object, good: bool, expected: str) -> None:
    if not good:
        msg = f"{what}={value!r} is a {type(value).__name__}: expected {expected}."
        raise TypeError(msg)


@frozen(kw_only=True)
class PluginInfo:
    """What a plugin says of itself; its namespace is the name of its entry point.

    Parameters
    ----------
    api : str
        The least plugin API that it needs, as ``"1.0"``: accepted where the major is equal and the minor not
        above the host's.
    summary : str
        One line for people.
    url : str
        Where its documentation or source is.
    """

    api: str
    summary: str = ""
    url: str = ""

    def __attrs_post_init__(self) -> None:
        for what in ("api", "summary", "url"):
            value = getattr(self, what)
            _expect(f"PluginInfo.{what}", value, isinstance(value, str), "a str")


@frozen(kw_only=True)
class ComponentSpec:
    """What all kinds of component have in common; plugins use the subclasses.

    Parameters
    ----------
    name : str
        ``"namespace/stem"``, both of ``[a-z0-9-]``; the namespace is the plugin's own.
    summary : str
        One line of at most 80 characters.
    factory : str or callable
        ``"pkg.module:attr"``, imported on first use. A callable only under ``local/``.
    config : str, type or None
        The frozen attrs class of its options, or ``"pkg.module:Class"``, imported on first use; its module
        must not import torch. None where the component has no options.
    tags : iterable of str
        Words of `curvkit_core.host.tags`, or the plugin's own as ``"namespace/word"``.
    priority : int or None
        ``auto`` takes the highest; None is never taken by ``auto``.
    requires : iterable of str
        PEP 508 requirements, answered from installed metadata without an import; extras are not followed.
    probe : str, callable or None
        ``"pkg.module:fn"``, a function of no argument giving ``(ok, reason)``; called only when asked for.
    stability : str
        ``"stable"``, ``"provisional"`` or ``"experimental"``; ``auto`` leaves out the last unless allowed.

    Attributes
    ----------
    kind, plural : str
        What errors call it, ``"loss adapter"`` and ``"loss adapters"``; a class's, not an instance's.
    hook : str
        The hook that offers it.
    """

    kind: ClassVar[str] = "component"
    plural: ClassVar[str] = "components"
    hook: ClassVar[str] = ""

    name: str
    summary: str
    factory: str | Callable[..., Any]
    config: str | type | None = None
    tags: frozenset[str] = field(default=frozenset(), converter=_tags)
    priority: int | None = None
    requires: tuple[str, ...] = field(default=(), converter=_requires)
    probe: str | Callable[[], tuple[bool, str]] | None = None
    stability: str = "stable"

    def __attrs_post_init__(self) -> None:
        _expect("name", self.name, isinstance(self.name, str), "a str")
        _expect("summary", self.summary, isinstance(self.summary, str), "a str")
        text_or_call = isinstance(self.factory, str) or callable(self.factory)
        _expect("factory", self.factory, text_or_call, "'pkg.module:attr' or a callable")
        text_or_class = self.config is None or isinstance(self.config, (str, type))
        _expect("config", self.config, text_or_class, "'pkg.module:Class', a class or None")
        number = self.priority is None or type(self.priority) is int
        _expect("priority", self.priority, number, "an int or None")
        text_or_call = self.probe is None or isinstance(self.probe, str) or callable(self.probe)
        _expect("probe", self.probe, text_or_call, "'pkg.module:fn', a callable or None")
        if self.stability not in STABILITIES:
            msg = f"stability={self.stability!r} is unknown: expected one of {', '.join(STABILITIES)}."
            raise ValueError(msg)

    @property
    def namespace(self) -> str:
        """The part of the name before the slash."""
        return self.name.partition("/")[0]

    @property
    def stem(self) -> str:
        """The part of the name after the slash."""
        return self.name.partition("/")[2]


class OperatorSpec(ComponentSpec):
    """A curvature operator: ``build(problem, config) -> CurvatureOperator``; ``build(problem)`` without config."""

    __slots__ = ()
    kind: ClassVar[str] = "operator"
    plural: ClassVar[str] = "operators"
    hook: ClassVar[str] = "curvkit_operators"


class AlgorithmSpec(ComponentSpec):
    """An algorithm: the factory is the frozen attrs class itself, which is its own configuration."""

    __slots__ = ()
    kind: ClassVar[str] = "algorithm"
    plural: ClassVar[str] = "algorithms"
    hook: ClassVar[str] = "curvkit_algorithms"

    def __attrs_post_init__(self) -> None:
        ComponentSpec.__attrs_post_init__(self)
        if self.config is not None:
            msg = f"config={self.config!r} of algorithm {self.name!r} must stay None: its class is its config."
            raise ValueError(msg)


@frozen(kw_only=True)
class LossAdapterSpec(ComponentSpec):
    """A loss adapter: a class of the loss protocol, built as ``factory(config)`` or ``factory()``.

    Parameters
    ----------
    matches : iterable of str
        Globs for the class names along a model's MRO, as ``"*ForCausalLM"``; no import is needed to test them.
    """

    kind: ClassVar[str] = "loss adapter"
    plural: ClassVar[str] = "loss adapters"
    hook: ClassVar[str] = "curvkit_loss_adapters"

    matches: tuple[str, ...] = field(default=(), converter=_matches)


class BackendSpec(ComponentSpec):
    """Where ranks and shards meet: a frozen object, built as ``factory(config)`` or ``factory()``."""

    __slots__ = ()
    kind: ClassVar[str] = "backend"
    plural: ClassVar[str] = "backends"
    hook: ClassVar[str] = "curvkit_backends"


@frozen(kw_only=True)
class KernelSpec(ComponentSpec):
    """One implementation of one of core's kernel operations; the factory is the callable itself.

    Parameters
    ----------
    op : str
        The operation, as ``"ce_hvp"``; its Protocol is in ``curvkit_core.kernels``.
    devices, dtypes : iterable of str
        What it takes, as ``("cuda",)`` and ``("float32", "bfloat16")``; ``"*"`` is anything.
    tolerance : float or None
        Relative error it promises against core's reference; None for rounding of the accumulation only.
    """

    kind: ClassVar[str] = "kernel"
    plural: ClassVar[str] = "kernels"
    hook: ClassVar[str] = "curvkit_kernels"

    op: str
    devices: tuple[str, ...] = field(default=("*",), converter=_devices)
    dtypes: tuple[str, ...] = field(default=("*",), converter=_dtypes)
    tolerance: float | None = None

    def __attrs_post_init__(self) -> None:
        ComponentSpec.__attrs_post_init__(self)
        _expect("op", self.op, isinstance(self.op, str), "a str")
        number = self.tolerance is None or type(self.tolerance) in (int, float)
        _expect("tolerance", self.tolerance, number, "a float or None")


class ProblemSpec(ComponentSpec):
    """A problem (model, data and loss): ``build(config) -> Problem``, without `config` ``build()``."""

    __slots__ = ()
    kind: ClassVar[str] = "problem"
    plural: ClassVar[str] = "problems"
    hook: ClassVar[str] = "curvkit_problems"
