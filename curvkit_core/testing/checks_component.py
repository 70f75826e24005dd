"""What every component keeps, whatever its kind: its names resolve, its options are plain, and listing it is light."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from typing import Any

import attrs

from curvkit_core.config import describe, plain, structure
from curvkit_core.host.availability import availability
from curvkit_core.host.heavy import HEAVY
from curvkit_core.host.kinds import KIND_BY_NAME
from curvkit_core.host.references import resolve
from curvkit_core.host.specs import AlgorithmSpec
from curvkit_core.host.tags import unknown_tags
from curvkit_core.host.validate import spec_errors
from curvkit_core.testing.check import Record, check
from curvkit_core.testing.subject import Subject

__all__ = ["CHECKS", "imports_light"]

_BANNED = """
import importlib.abc, json, sys, time
path, names, banned = (json.loads(word) for word in sys.argv[1:4])
sys.path[:] = path
class Ban(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in banned:
            raise ImportError(f"imports {name}")
import curvkit_core
sys.meta_path.insert(0, Ban())
import importlib
start = time.process_time()
for name in names:
    importlib.import_module(name)
print(json.dumps(time.process_time() - start))
"""


@functools.cache
def imports_light(modules: tuple[str, ...]) -> float:
    """Import modules in a child process where torch and its like cannot be; the CPU seconds that took.

    Raises
    ------
    AssertionError
        If the import fails there; the text says what it wanted.
    """
    child = [json.dumps(sys.path), json.dumps(modules), json.dumps(sorted(HEAVY))]
    done = subprocess.run(
        [sys.executable, "-c", _BANNED, *child], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it failed without a word"]
        msg = f"{', '.join(modules)} cannot be imported without what is heavy: {last[0]}"
        raise AssertionError(msg)
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


def _has_options(spec: Any) -> bool:
    return isinstance(spec, AlgorithmSpec) or spec.config is not None


@check("component", executes=False)
def names(subject: Subject, record: Record) -> None:
    """Name, summary and references are well-formed: namespace/stem of [a-z0-9-], one line of at most 80 characters."""
    spec = subject.spec
    errors = spec_errors(spec, KIND_BY_NAME[spec.kind], spec.namespace)
    record.true(not errors, "; ".join(errors))
    record.true(spec.summary.strip(), "the summary is empty")


@check("component", executes=False)
def tags(subject: Subject, record: Record) -> None:
    """Every tag is known for the kind, or begins with the plugin's namespace."""
    odd = unknown_tags(subject.spec, subject.spec.namespace)
    record.true(not odd, "; ".join(odd))


@check("component", executes=False)
def requirements(subject: Subject, record: Record) -> None:
    """`requires` are PEP 508 requirements, answered from metadata; the probe, if any, answers (bool, str)."""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in subject.spec.requires:
        try:
            Requirement(text)
        except InvalidRequirement:
            record.true(False, f"requires={text!r} is not a PEP 508 requirement")
    answer = availability(subject.spec, probe=True)
    wrong = answer.ok is False and answer.reason.startswith(("its probe raised", "its probe returned", "probe "))
    record.true(not wrong, answer.reason)
    record.true(answer.ok or answer.reason.strip(), "the probe says no, and not why")


@check("component")
def resolves(subject: Subject, record: Record) -> None:
    """Factory and config are there under their names, and the factory can be called."""
    record.true(callable(subject.factory), "its factory cannot be called")
    _ = subject.config_class


@check("component", concerns=_has_options)
def config(subject: Subject, record: Record) -> None:
    """Its options are a frozen, hashable attrs class; plain values from a run file give it and come from it again."""
    cls = subject.config_class
    assert cls is not None
    made = subject.config
    record.true(hash(made) == hash(subject.configured({})), "two equal configurations have different hashes")
    settable = [field for field in attrs.fields(cls) if field.init]
    if settable:
        try:
            setattr(made, settable[0].name, getattr(made, settable[0].name))
        except attrs.exceptions.FrozenError:
            pass
        else:
            record.true(False, f"{cls.__name__} is not frozen: write @attrs.frozen")
    told = plain(made)
    again: Any = structure(cls, {f.alias or f.name: told[f.name] for f in settable}, source=subject.name)
    record.true(again == made, f"{told} gives {plain(again)}")


@check("component", concerns=_has_options)
def options_are_documented(subject: Subject, record: Record) -> None:
    """Every option has a line in its class's numpydoc section, which `curvkit explain` shows."""
    cls = subject.config_class
    assert cls is not None
    bare = [field.name for field in describe(cls).fields if not field.doc]
    record.true(not bare, f"no words on {', '.join(bare)} in the docstring of {cls.__name__}")


@check("component", concerns=lambda spec: isinstance(spec.config, str))
def config_is_light(subject: Subject, record: Record) -> None:
    """The module of its options imports neither torch nor anything heavy: `curvkit config check` reads it."""
    named = subject.spec.config
    _ = resolve(named, "its config")
    record.note("CPU seconds", imports_light((named.partition(":")[0],)))


CHECKS = (names, tags, requirements, resolves, config, options_are_documented, config_is_light)
