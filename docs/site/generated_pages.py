"""The pages that are made when the site is built: a reference from the docstrings, and one page a plugin hook.

A MkDocs hook: ``on_files`` adds the pages, ``on_nav`` is not needed, since ``on_config`` lists them.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import curvkit_core
from curvkit_core.host import hookspecs

__all__ = ["HOOKS", "REFERENCE", "on_config", "on_files"]

#: Page -> the heading, and the modules of curvkit_core whose public names it shows.
REFERENCE = {
    "problem": ("Problem, data, parameters", ("problem",)),
    "losses": ("Losses", ("losses",)),
    "operators": ("Operators", ("operators",)),
    "algorithms": ("Algorithms", ("algorithms",)),
    "results": ("Results", ("results",)),
    "landscape": ("Slices of the loss", ("landscape",)),
    "tracking": ("Tracking a training", ("tracking",)),
    "plugins": ("Plugins and registry", ("host.hookspecs", "host.specs", "host.registry", "errors")),
}

#: Name -> hook specification.
HOOKS: dict[str, Callable[..., Any]] = {
    name: hook for name, hook in vars(hookspecs).items() if name.startswith("curvkit_") and callable(hook)
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages into the navigation."""
    assert config.nav is not None
    config.nav.append({"Hooks": [{name: f"hooks/{name}.md"} for name in HOOKS]})
    config.nav.append({"Reference": [{title: f"reference/{page}.md"} for page, (title, _) in REFERENCE.items()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Write them."""
    for name, hook in HOOKS.items():
        files.append(File.generated(config, f"hooks/{name}.md", content=hook_page(name, hook)))
    for page, (title, homes) in REFERENCE.items():
        files.append(File.generated(config, f"reference/{page}.md", content=reference_page(title, homes)))
    return files


def reference_page(title: str, homes: tuple[str, ...]) -> str:
    """The public names of these homes, each from its docstring."""
    lines = [f"# {title}", ""]
    for name in curvkit_core.__all__:
        thing = getattr(curvkit_core, name)
        defined = getattr(thing, "__module__", "") or ""
        if defined.startswith(tuple(f"curvkit_core.{home}" for home in homes)):
            lines.append(f"::: {defined}.{name}\n")
    return "\n".join(lines)


def hook_page(name: str, hook: Callable[..., Any]) -> str:
    """A hook's docstring, which is reStructuredText, as Markdown: its code blocks are plugins that run."""
    text = inspect.getdoc(hook) or ""
    signature = str(inspect.signature(hook)).replace("'", "")  # annotations are strings there
    lines, body = [f"# {name}", "", f"`{name}{signature}`", ""], text.split("\n")
    at = 0
    while at < len(body):
        line = body[at]
        if line.strip() == ".. code-block:: python" or line.rstrip().endswith("::"):
            at += 1
            block: list[str] = []
            while at < len(body) and (not body[at].strip() or body[at].startswith("    ")):
                block.append(body[at])
                at += 1
            language = "python" if "code-block" in line else "toml"
            if language == "toml":
                lines.append(line.rstrip()[:-1])
            lines += ["", f"```{language}", textwrap.dedent("\n".join(block)).strip(), "```", ""]
            continue
        underlined = at + 1 < len(body) and body[at + 1] and set(body[at + 1]) == {"-"}
        lines.append(f"## {line}" if underlined else line.replace("``", "`"))
        at += 2 if underlined else 1
    return "\n".join(lines) + "\n"
