"""Load one plugin: import, handshake, register, validate; a failure is a record and never the host's end.

`pluggy`'s own loader is not used: it imports everything, has no isolation, and loses a second distribution of
the same name in silence. Each plugin gets a manager of its own, so that no plugin's error aborts another's
hooks.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable
from types import FunctionType, ModuleType

import pluggy
from attrs import evolve

from curvkit_core.host import hookspecs
from curvkit_core.host.discover import OUR_MAJOR, Candidate
from curvkit_core.host.filters import BLOCK_VARIABLE
from curvkit_core.host.heavy import heavy_loaded, newly_loaded
from curvkit_core.host.hookspecs import PROJECT, PluginContext
from curvkit_core.host.kinds import KINDS, OBSERVER_HOOKS, Kind
from curvkit_core.host.records import PluginRecord
from curvkit_core.host.specs import ComponentSpec, PluginInfo
from curvkit_core.host.tags import unknown_tags
from curvkit_core.host.texts import one_line
from curvkit_core.host.validate import duplicate_errors, spec_errors
from curvkit_core.version import PLUGIN_API, __version__

_HOOKS = ModuleType(hookspecs.__name__)  # the hooks alone: pluggy inspects every name it is given, for each plugin
vars(_HOOKS).update((name, hook) for name, hook in vars(hookspecs).items() if name.startswith("curvkit_"))


class _RefusedError(Exception):
    """The plugin is out, for a reason of ours rather than an exception of its own."""

    def __init__(self, *errors: str, hint: str = "", status: str = "broken") -> None:
        super().__init__(errors[0])
        self.errors = errors
        self.hint = hint
        self.status = status


class _Attempt:
    """Where loading one plugin has got to; becomes its record, whatever happens."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.stage = "discover"
        self.api = ""
        self.import_ms: float | None = None
        self.findings = list(candidate.findings)

    def record(self) -> PluginRecord:
        """What is known so far; a plugin that has come through all stages is ok."""
        c = self.candidate
        return PluginRecord(
            namespace=c.namespace,
            dist=c.dist,
            version=c.version,
            path=c.path,
            api=self.api,
            import_ms=self.import_ms,
            findings=tuple(self.findings),
        )

    def find(self, code: str, text: str, detail: str = "", mend: str = "") -> None:
        from curvkit_core.host.finding import Finding

        self.findings.append(Finding(stage=self.stage, code=code, text=text, detail=detail, mend=mend))


def load_plugin(candidate: Candidate, module: object | None = None) -> PluginRecord:
    """Take one plugin through all stages; commit is the caller's.

    Parameters
    ----------
    candidate : Candidate
        What was found.
    module : object or None
        The plugin itself, where it needs no import (core's own, and tests').

    Returns
    -------
    PluginRecord
        Always: ``Exception`` and ``SystemExit`` end up in it, ``KeyboardInterrupt`` passes through.
    """
    attempt = _Attempt(candidate)
    try:
        _check_discovered(attempt)
        plugin = _import(attempt) if module is None else module
        manager = pluggy.PluginManager(PROJECT)
        _handshake(attempt, manager, plugin)
        _register(attempt, manager, plugin)
        specs = _validate(attempt, _collect(attempt, manager))
    except _RefusedError as refusal:
        extra = f" (and {len(refusal.errors) - 1} more)" if len(refusal.errors) > 1 else ""
        return evolve(
            attempt.record(),
            status=refusal.status,
            stage=attempt.stage,
            reason=refusal.errors[0] + extra,
            details=refusal.errors if extra else (),
            hint=refusal.hint or _hint(attempt),
        )
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is this plugin's alone
        return evolve(
            attempt.record(),
            status="broken",
            stage=attempt.stage,
            reason=one_line(error),
            hint=_hint(attempt, error),
            exception=error,
        )
    observes = any(getattr(manager.hook, hook).get_hookimpls() for hook in OBSERVER_HOOKS)
    return evolve(attempt.record(), specs=specs, observes=observes, hooks=manager.hook)


def _check_discovered(attempt: _Attempt) -> None:
    c = attempt.candidate
    if c.problem:
        raise _RefusedError(c.problem, hint=c.hint)
    if c.major != OUR_MAJOR:
        attempt.stage = "handshake"  # the group's name is the first half of it; nothing was imported
        attempt.api = f"{c.major}.x"
        _speaks(attempt, upgrade_core=not c.major.isdigit() or int(c.major) > int(OUR_MAJOR))


def _import(attempt: _Attempt) -> object:
    attempt.stage = "import"
    entry_point = attempt.candidate.entry_point
    assert entry_point is not None, "a candidate without an entry point has a problem"
    before, start = heavy_loaded(), time.perf_counter()
    try:
        found: object = importlib.import_module(entry_point.module)
        for attr in entry_point.attr.split(".") if entry_point.attr else ():
            found = getattr(found, attr)
        return found
    finally:
        attempt.import_ms = 1e3 * (time.perf_counter() - start)
        fresh = newly_loaded(before)
        if fresh:
            c, names = attempt.candidate, ", ".join(fresh)
            attempt.find(
                "heavy-import",
                f"loads {names} at start, {attempt.import_ms / 1e3:.1f} s",
                f"heavy import at load: {names}",
                f"move it behind the factory string (author: {c.dist} {c.version})",
            )


def _handshake(attempt: _Attempt, manager: pluggy.PluginManager, plugin: object) -> None:
    """Ask for the API before the hooks' arguments are checked: another API's may have another shape."""
    attempt.stage = "handshake"
    manager.register(plugin, name=attempt.candidate.namespace)  # there are no specifications yet
    hook = getattr(manager.hook, "curvkit_plugin_info", None)
    answers = [] if hook is None else hook()
    if len(answers) != 1:
        unmarked = "curvkit_plugin_info" in _unmarked_hooks(plugin)
        how = "it is not marked @hookimpl" if unmarked else f"{len(answers)} answers, expected 1"
        msg = f"no curvkit_plugin_info ({how})"
        hint = f"the author must write @hookimpl def curvkit_plugin_info(): return PluginInfo(api={PLUGIN_API!r})"
        raise _RefusedError(msg, hint=hint)
    info = answers[0]
    if not isinstance(info, PluginInfo):
        msg = f"curvkit_plugin_info returned an item of type {type(info).__name__}, expected PluginInfo"
        raise _RefusedError(msg)
    attempt.api = info.api
    theirs, ours = _numbers(info.api), _numbers(PLUGIN_API)
    if len(theirs) != 2:
        msg = f"the plugin API {info.api!r} is malformed: expected MAJOR.MINOR, as {PLUGIN_API!r}"
        raise _RefusedError(msg)
    if theirs[0] != ours[0] or theirs[1] > ours[1]:
        _speaks(attempt, upgrade_core=theirs > ours)


def _numbers(api: str) -> tuple[int, ...]:
    parts = api.split(".")
    return tuple(map(int, parts)) if api.isascii() and all(part.isdigit() for part in parts) else ()


def _speaks(attempt: _Attempt, *, upgrade_core: bool) -> None:
    hint = f"upgrade {'curvkit-core' if upgrade_core else attempt.candidate.dist}"
    msg = f"needs plugin API {attempt.api}, this curvkit-core speaks {PLUGIN_API}; {hint}"
    raise _RefusedError(msg, hint=hint, status="incompatible")


def _register(attempt: _Attempt, manager: pluggy.PluginManager, plugin: object) -> None:
    attempt.stage = "register"
    manager.add_hookspecs(_HOOKS)  # checks the arguments of each hook
    known = [name for name in vars(_HOOKS) if name.startswith("curvkit_")]
    pending = [
        caller.name
        for caller in manager.get_hookcallers(plugin) or ()
        if not caller.has_spec() and not all(impl.optionalhook for impl in caller.get_hookimpls())
    ]
    if pending:
        from curvkit_core.host.near_names import did_you_mean

        errors = [f"unknown hook {name!r}{did_you_mean(name, known)}" for name in sorted(pending)]
        raise _RefusedError(*errors)
    for name in _unmarked_hooks(plugin):
        attempt.find(
            "no-hookimpl",
            f"{name} is not marked @hookimpl and is ignored",
            mend=f"write @hookimpl above it (author: {attempt.candidate.dist} {attempt.candidate.version})",
        )


def _unmarked_hooks(plugin: object) -> list[str]:
    """Return the functions named like a hook that pluggy will pass by, for want of ``@hookimpl``."""
    hooks = {kind.hook for kind in KINDS} | {*OBSERVER_HOOKS, "curvkit_plugin_info"}
    own = getattr(plugin, "__dict__", {})
    plain = [name for name in sorted(hooks) if isinstance(own.get(name), FunctionType)]
    return [name for name in plain if not hasattr(own[name], f"{PROJECT}_impl")]


def _collect(attempt: _Attempt, manager: pluggy.PluginManager) -> list[tuple[Kind, object]]:
    """Call every registration hook; the one place where pluggy's untyped relay is touched."""
    ctx = PluginContext(namespace=attempt.candidate.namespace, api=PLUGIN_API, core_version=__version__)
    items: list[tuple[Kind, object]] = []
    for kind in KINDS:
        for answer in getattr(manager.hook, kind.hook)(ctx=ctx):
            if isinstance(answer, (str, bytes)) or not isinstance(answer, Iterable):
                msg = f"{kind.hook} returned an item of type {type(answer).__name__}, expected an iterable of "
                raise _RefusedError(msg + kind.__name__)
            items.extend((kind, item) for item in answer)  # a generator raises here, inside the try
    return items


def _validate(attempt: _Attempt, items: list[tuple[Kind, object]]) -> tuple[ComponentSpec, ...]:
    attempt.stage = "validate"
    namespace = attempt.candidate.namespace
    errors = [error for kind, item in items for error in spec_errors(item, kind, namespace)]
    specs = [item for _, item in items if isinstance(item, ComponentSpec)]
    errors += duplicate_errors(specs)
    if errors:
        raise _RefusedError(*errors)
    for spec in specs:
        for text in unknown_tags(spec, namespace):
            attempt.find("unknown-tag", text, mend=f"use a known tag, or {namespace}/WORD for one of your own")
    return tuple(specs)


def _hint(attempt: _Attempt, error: BaseException | None = None) -> str:
    """Return what to do about a plugin that failed for a reason of its own."""
    c = attempt.candidate
    block = f"{BLOCK_VARIABLE}={c.namespace}"
    if isinstance(error, ModuleNotFoundError):
        top = c.entry_point.module.partition(".")[0] if c.entry_point is not None else ""
        if error.name and error.name.partition(".")[0] == top:
            return f"reinstall {c.dist} {c.version}, its own module is missing, or block it: {block}"
        return f"install what {c.dist} {c.version} needs, or block it: {block}"
    return f"tell the author of {c.dist} {c.version}; until then block it: {block}"
