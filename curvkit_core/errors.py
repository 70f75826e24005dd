"""Errors a caller may want to catch; everything else is a ``ValueError`` or a ``TypeError``."""

from __future__ import annotations

__all__ = [
    "AmbiguousComponentError",
    "CurvkitError",
    "PluginError",
    "RankError",
    "RegistryError",
    "UnavailableComponentError",
    "UnknownComponentError",
]


class CurvkitError(Exception):
    """Base of curvkit's own errors; the command line prints its text and ends with code 2."""


class RegistryError(CurvkitError):
    """A component could not be found, chosen or loaded."""


class UnknownComponentError(RegistryError, LookupError):
    """No plugin that is installed here has a component of this name."""


class UnavailableComponentError(RegistryError):
    """The component is known, or its plugin is installed, but it cannot be used here; the text says why."""


class AmbiguousComponentError(RegistryError):
    """Several components fit and nothing but chance would decide between them."""


class RankError(CurvkitError):
    """Another rank failed, did not come, or was started otherwise than this one; the text says "rank N"."""


class PluginError(CurvkitError):
    """A plugin failed to load; raised only in strict mode (``CURVKIT_STRICT_PLUGINS=1``)."""
