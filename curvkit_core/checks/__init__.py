"""Preflight: what is shown wrong is refused before it is used, what cannot be told is said."""

from curvkit_core.checks.finding import Finding, PreflightError, PreflightWarning
from curvkit_core.checks.preflight import preflight

__all__ = ["Finding", "PreflightError", "PreflightWarning", "preflight"]
