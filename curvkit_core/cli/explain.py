"""``curvkit explain NAME``: the fields, types, defaults and docs of a component or a section, as TOML to paste."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from curvkit_core.config import FieldDescription
    from curvkit_core.host.registry import Registry
    from curvkit_core.host.specs import ComponentSpec

HEADERS = {"operator": "[[operator]]", "algorithm": "[[algorithm]]", "problem": "[problem]", "backend": "[backend]"}
GENERIC = {
    "operator": "params = [...]  globs of parameter names; left out: all of the problem's",
    "algorithm": "on = [...]  operators of the file it runs on; left out: all",
}
SLICES = "core/loss-slice"  # what reports call the results of [landscape]
WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "name",
        metavar="NAME",
        help="a component, as list-plugins --components shows it: core/eigsh; or a run file's section: budget",
    )


def main(args: argparse.Namespace) -> int:
    """Print what a component is and takes."""
    from curvkit_core.host.registry import default_registry

    registry = default_registry()
    section = None if registry.find(args.name) else _section(args.name.strip("[]"))
    if section is not None:
        print(section)
        return 0
    blocks = [_explained(spec, registry) for spec in _found(args.name, registry)]
    print("\n\n".join(blocks))
    return 0


def _found(name: str, registry: Registry) -> tuple[ComponentSpec, ...]:
    specs = registry.find(name)
    if specs:
        return specs
    from curvkit_core.errors import RegistryError, UnknownComponentError
    from curvkit_core.host.kinds import KINDS
    from curvkit_core.host.near_names import did_you_mean

    names = [n for kind in KINDS for n in registry.catalog(kind.kind).names()]
    full = name if "/" in name else f"core/{name}"
    near = did_you_mean(full, names)
    if "/" in name:
        try:
            registry.operators.get(name)  # a plugin that is absent, broken or blocked: the host knows why
        except RegistryError as error:
            if not isinstance(error, UnknownComponentError) or ("no plugin" in str(error) and not near):
                raise
    msg = f"component {name!r} is unknown{near or '.'} All of them: curvkit list-plugins --components"
    raise UnknownComponentError(msg)


def _section(name: str) -> str | None:
    """What a run file's own section takes; None where there is no such."""
    from curvkit_core.config import component_toml, describe
    from curvkit_core.runs.sections import Auto, Budget, CheckpointOptions, Landscape

    classes = {"landscape": Landscape, "budget": Budget, "checkpoint": CheckpointOptions, "auto": Auto}
    name = "landscape" if name == SLICES else name
    if name not in classes:
        return None
    description = describe(classes[name])
    lines = [f"[{name}]  section of a run file", "", *_wrapped(description.summary, "  ")]
    lines += ["", "options", *_fields(description.fields)]
    lines += ["", "to paste", "", component_toml(f"[{name}]", None, description.fields).rstrip()]
    return "\n".join(lines)


def _explained(spec: ComponentSpec, registry: Registry) -> str:
    from curvkit_core.config import component_toml, describe

    answer = registry.availability(spec, probe=True)
    lines = [f"{spec.name}  {spec.kind}: {spec.summary}"]
    facts = {
        "provided by": _provider(spec, registry),
        "tags": ", ".join(sorted(spec.tags)),
        "stability": spec.stability if spec.stability != "stable" else "",
        "requires": ", ".join(spec.requires),
        "available": "yes" if answer.ok else f"no: {answer.reason}",
    }
    lines += [f"  {name:<12} {value}" for name, value in facts.items() if value]
    cls = registry.load_config(spec)
    description = describe(cls) if cls is not None else None
    if description is not None and description.summary:
        lines += ["", *_wrapped(description.summary, "  ")]
    if description is not None and description.fields:
        lines += ["", "options", *_fields(description.fields)]
    if spec.kind in GENERIC:
        lines += ["", f"every {spec.kind} takes, too", f"  {GENERIC[spec.kind]}"]
    if spec.kind in HEADERS:
        fields = description.fields if description is not None else ()
        lines += ["", "to paste", "", component_toml(HEADERS[spec.kind], spec.name, fields).rstrip()]
    return "\n".join(lines)


def _fields(fields: tuple[FieldDescription, ...], indent: str = "  ") -> list[str]:
    from curvkit_core.config import plain, toml_value

    lines = []
    for field in fields:
        default = "required" if field.required else "unset by default"
        if field.default is not None:
            default = f"default {toml_value(plain(field.default))}"
        lines += [f"{indent}{field.name} : {field.type}; {default}"]
        lines += _wrapped(field.doc, f"{indent}    ") if field.doc else []
        lines += _fields(field.fields, f"{indent}    ")
    return lines


def _provider(spec: ComponentSpec, registry: Registry) -> str:
    record = registry.plugin(spec.namespace)
    return f"{record.dist} {record.version}" if record is not None else "this session"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)
