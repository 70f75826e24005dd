"""The version of the package and of the plugin API it speaks; read by the build."""

from __future__ import annotations

__version__ = "0.1.0"
PLUGIN_API = "1.0"
