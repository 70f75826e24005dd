"""Check what a plugin offers; one error and the whole plugin is out."""

from __future__ import annotations

from curvkit_core.host.discover import RESERVED, is_plain_name
from curvkit_core.host.kinds import Kind
from curvkit_core.host.references import is_reference
from curvkit_core.host.specs import ComponentSpec

SUMMARY_LIMIT = 80


def spec_errors(item: object, kind: Kind, namespace: str) -> list[str]:
    """Return what is wrong with one item that a hook gave, a sentence each.

    Parameters
    ----------
    item : object
        What the hook yielded.
    kind : Kind
        The hook's kind.
    namespace : str
        The plugin's; ``local`` may use callables.
    """
    if not isinstance(item, kind):
        return [f"{kind.hook} gave {_shown(item)}, expected {kind.__name__}"]
    errors = [*_name_errors(item, namespace)]
    if len(item.summary) > SUMMARY_LIMIT or "\n" in item.summary:
        errors.append(
            f"{item.name}: its summary has {len(item.summary)} characters in "
            f"{item.summary.count(chr(10)) + 1} line(s), expected one line of at most {SUMMARY_LIMIT}"
        )
    for what in ("factory", "probe", "config"):
        value = getattr(item, what)
        if isinstance(value, str):
            if not is_reference(value):
                errors.append(f"{item.name}: {what}={value!r} is malformed, expected 'pkg.module:attr'")
        elif what != "config" and value is not None and namespace != "local":
            expected = "expected 'pkg.module:attr'"
            errors.append(f"{item.name}: {what} is a callable, allowed under local/ only; {expected}")
    return errors


def duplicate_errors(specs: list[ComponentSpec]) -> list[str]:
    """Return a sentence for each name that one kind has twice."""
    seen: set[tuple[str, str]] = set()
    errors = []
    for spec in specs:
        if (spec.kind, spec.name) in seen:
            errors.append(f"the {spec.kind} {spec.name} is given twice")
        seen.add((spec.kind, spec.name))
    return errors


def _name_errors(spec: ComponentSpec, namespace: str) -> list[str]:
    if not (is_plain_name(spec.namespace) and is_plain_name(spec.stem)):
        return [f"the name {spec.name!r} is malformed: expected {namespace}/NAME, both of [a-z0-9-]"]
    if spec.namespace != namespace:
        reserved = ", which is reserved" if spec.namespace in RESERVED else ""
        where = f"the namespace {spec.namespace!r}{reserved}"
        return [f"the name {spec.name!r} is in {where}; expected {namespace}/..."]
    return []


def _shown(item: object) -> str:
    return f"an item of type {type(item).__name__}" if not isinstance(item, str) else f"the str {item!r}"
