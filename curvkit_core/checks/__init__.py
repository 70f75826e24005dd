"""Preflight: what is shown wrong is refused before it is used, what cannot be told is said.

Every code is explained in docs/preflight.md.
"""

from curvkit_core.checks.finding import CODES, Finding, PreflightError, PreflightWarning
from curvkit_core.checks.watch import Watch, begin

__all__ = ["CODES", "Finding", "PreflightError", "PreflightWarning", "Watch", "begin"]
