"""What can be started from a template: for each kind the component's name, and the file each template becomes."""

from __future__ import annotations

from attrs import frozen

__all__ = ["KINDS", "Template"]

#: Of every package.
COMMON = {
    "package/pyproject.toml": "pyproject.toml",
    "package/README.md": "README.md",
    "package/LICENSE": "LICENSE",
    "package/noxfile.py": "noxfile.py",
    "package/gitignore": ".gitignore",
    "package/ci.yml": ".github/workflows/ci.yml",
    "package/init.py": "src/$package/__init__.py",
    "package/test_conformance.py": "tests/test_conformance.py",
}


@frozen(kw_only=True)
class Template:
    """One kind of component.

    Parameters
    ----------
    noun : str
        What it is called in text.
    stem : str
        The component's name after the namespace.
    module, cls : str
        The module that holds it, and the class's name or stem of names.
    parts : tuple of str
        Its templates beside those of every package.
    """

    noun: str
    stem: str
    module: str
    cls: str
    parts: tuple[str, ...]

    def files(self, kind: str) -> dict[str, str]:
        """Template -> the file that it becomes."""
        places = {
            "plugin.py": "src/$package/_plugin.py",
            "config.py": "src/$package/config.py",
            "cases.py": "src/$package/cases.py",
            "component.py": "src/$package/$module.py",
            "test_component.py": "tests/test_$module.py",
        }
        return COMMON | {f"{kind}/{part}": places[part] for part in self.parts}


_BASE = ("plugin.py", "component.py", "test_component.py")
KINDS = {
    "operator": Template(
        noun="operator",
        stem="scaled-ggn",
        module="scaled_ggn",
        cls="ScaledGGN",
        parts=(*_BASE, "config.py", "cases.py"),
    ),
    "algorithm": Template(
        noun="algorithm",
        stem="power-method",
        module="power_method",
        cls="PowerMethod",
        parts=_BASE,
    ),
    "loss-adapter": Template(
        noun="loss adapter",
        stem="pseudo-huber",
        module="pseudo_huber",
        cls="PseudoHuber",
        parts=(*_BASE, "config.py", "cases.py"),
    ),
    "backend": Template(
        noun="backend",
        stem="one-process",
        module="one_process",
        cls="OneProcessBackend",
        parts=_BASE,
    ),
    "kernel": Template(
        noun="kernel",
        stem="ce-hvp",
        module="ce_hvp",
        cls="CeHvp",
        parts=_BASE,
    ),
    "problem": Template(
        noun="problem",
        stem="sine",
        module="sine",
        cls="Sine",
        parts=(*_BASE, "config.py"),
    ),
}
