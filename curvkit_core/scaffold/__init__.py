"""A new plugin package from templates: what ``curvkit new-plugin`` writes."""

from curvkit_core.scaffold.kinds import KINDS
from curvkit_core.scaffold.write import ScaffoldError, new_plugin

__all__ = ["KINDS", "ScaffoldError", "new_plugin"]
