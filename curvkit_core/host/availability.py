"""Whether a component can run here, in two tiers: installed metadata (cheap, no import), then its probe on demand."""

from __future__ import annotations

import importlib.metadata

from attrs import frozen

from curvkit_core.errors import UnavailableComponentError
from curvkit_core.host.references import resolve
from curvkit_core.host.specs import ComponentSpec
from curvkit_core.host.texts import one_line


@frozen
class Availability:
    """An answer, and why.

    Parameters
    ----------
    ok : bool or None
        None where only the probe could tell and it was not run.
    reason : str
        Why not, in a few words; empty where `ok` is True.
    """

    ok: bool | None
    reason: str = ""


def availability(spec: ComponentSpec, *, probe: bool = False) -> Availability:
    """Tell whether `spec` can run here.

    Parameters
    ----------
    spec : ComponentSpec
    probe : bool
        Also call the spec's probe, which may import heavy libraries.

    Returns
    -------
    Availability
        Never raises for the spec's sake: a probe that fails is an answer.
    """
    for text in spec.requires:
        lacking = _lacking(text)
        if lacking:
            return Availability(False, lacking)
    if spec.probe is None:
        return Availability(True)
    return _probed(spec) if probe else Availability(None, "probe")


def _lacking(text: str) -> str:
    """Return what stands against one requirement, or an empty string."""
    # 20 ms of start-up, for this answer only
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return f"its requirement {text!r} is not a PEP 508 string"
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return ""
    plain = f"{requirement.name}{requirement.specifier}"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{plain} is not installed"
    if not version:
        return f"{plain} is needed, the metadata of {requirement.name} give no version"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{plain} is needed, {version} is installed"
    return ""


def _probed(spec: ComponentSpec) -> Availability:
    try:
        function = resolve(spec.probe, "probe") if isinstance(spec.probe, str) else spec.probe
    except UnavailableComponentError as error:
        return Availability(False, str(error))
    assert function is not None
    try:
        answer = function()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a probe that fails is an answer
        return Availability(False, f"its probe raised {one_line(error)}")
    if not (isinstance(answer, tuple) and len(answer) == 2 and type(answer[0]) is bool and isinstance(answer[1], str)):
        return Availability(False, f"its probe returned {answer!r:.80}, expected (bool, str)")
    ok, reason = answer
    return Availability(True) if ok else Availability(False, f"{reason or 'refused'} (probe)")
