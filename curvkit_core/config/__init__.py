"""Strict configuration: TOML to attrs classes, exactly, or every mistake with its path."""

from curvkit_core.config.converter import default_converter, make_converter, structure
from curvkit_core.config.describe import ClassDescription, FieldDescription, component_toml, describe
from curvkit_core.config.errors import ConfigError, Mistake
from curvkit_core.config.overrides import apply_settings, parse_setting
from curvkit_core.config.plain import plain
from curvkit_core.config.toml_read import read_toml
from curvkit_core.config.toml_write import to_toml, toml_value

__all__ = [
    "ClassDescription",
    "ConfigError",
    "FieldDescription",
    "Mistake",
    "apply_settings",
    "component_toml",
    "default_converter",
    "describe",
    "make_converter",
    "parse_setting",
    "plain",
    "read_toml",
    "structure",
    "to_toml",
    "toml_value",
]
