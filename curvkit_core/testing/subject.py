"""What is being checked: a spec with its registry and its case, and how the kit builds the component."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs

from curvkit_core.config import structure
from curvkit_core.host.records import PluginRecord
from curvkit_core.host.specs import AlgorithmSpec, ComponentSpec, KernelSpec
from curvkit_core.testing.case import Case
from curvkit_core.testing.check import SkippedError

if TYPE_CHECKING:
    from torch import nn

    from curvkit_core.host.registry import Registry

__all__ = ["Subject"]


class Subject:
    """A component or a whole plugin, with what is needed to try it.

    Parameters
    ----------
    target : ComponentSpec or PluginRecord
    registry : Registry
        Loads factories and answers what can run here.
    case : Case or None
        None: the kit's own problems and default options.
    """

    def __init__(self, target: ComponentSpec | PluginRecord, registry: Registry, case: Case | None = None) -> None:
        self.target = target
        self.registry = registry
        self.has_case = case is not None
        self.case = case if case is not None else Case(component=self.name)

    @property
    def name(self) -> str:
        """The component's name, or the plugin's namespace."""
        return self.target.namespace if isinstance(self.target, PluginRecord) else self.target.name

    @property
    def spec(self) -> Any:
        """The spec; a plugin has none."""
        assert isinstance(self.target, ComponentSpec), f"{self.name} is no component"
        return self.target

    @property
    def plugin(self) -> PluginRecord | None:
        """The plugin that is checked, or that the component belongs to; None under ``local/``."""
        if isinstance(self.target, PluginRecord):
            return self.target
        return next((p for p in self.registry.plugins if p.namespace == self.target.namespace), None)

    def tagged(self, *tags: str) -> bool:
        """Whether the spec has one of these tags."""
        return bool(self.spec.tags.intersection(tags))

    def why_not(self) -> str:
        """Why the component cannot run here; empty where it can."""
        if isinstance(self.target, PluginRecord) or self.case.assume_available:
            return ""
        answer = self.registry.availability(self.target, probe=True)
        return "" if answer.ok else f"it cannot run here: {answer.reason}"

    @cached_property
    def factory(self) -> Any:
        """What the spec's factory names."""
        return self.registry.load_factory(self.spec)

    @cached_property
    def config_class(self) -> type | None:
        """The class of its options, None where it has none."""
        return self.registry.load_config(self.spec)

    @cached_property
    def config(self) -> Any:
        """Its configuration with the case's options, None where it has none.

        Raises
        ------
        SkippedError
            If an option has no default and the case does not give it.
        """
        return self.configured({})

    def configured(self, options: dict[str, Any]) -> Any:
        """Its configuration with the case's options and these."""
        cls = self.config_class
        if cls is None:
            return None
        given = {**self.case.options, **options}
        needed = [
            f.alias or f.name
            for f in attrs.fields(cls)
            if f.init and f.default is attrs.NOTHING and (f.alias or f.name) not in given
        ]
        if needed:
            msg = f"its option {needed[0]!r} has no default: hand in Case(component={self.name!r}, options=...)"
            raise SkippedError(msg)
        if "seed" not in given and "seed" in attrs.fields_dict(cls):
            given["seed"] = 0  # None would draw one: what is checked here must repeat
        return structure(cls, given, source=f"the options of {self.name}")

    def build(self, *arguments: Any, **options: Any) -> Any:
        """Make the component as a run does: from `arguments`, and its configuration if it has one."""
        config = self.configured(options)
        if isinstance(self.spec, AlgorithmSpec):
            return config
        if isinstance(self.spec, KernelSpec):
            return self.factory
        return self.factory(*arguments) if config is None else self.factory(*arguments, config)

    def prepared(self, model: nn.Module) -> nn.Module:
        """The model as the case prepares it."""
        return model if self.case.prepare is None else self.case.prepare(model)

    def has_option(self, name: str) -> bool:
        """Whether its configuration has this field."""
        return self.config_class is not None and name in attrs.fields_dict(self.config_class)
