"""What is known of each plugin after loading, healthy or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy
from attrs import field, frozen

from curvkit_core.host.specs import ComponentSpec

if TYPE_CHECKING:
    from curvkit_core.host.finding import Finding

STATUSES = ("ok", "broken", "incompatible", "blocked")


@frozen(kw_only=True)
class PluginRecord:
    """One row of the listing.

    Parameters
    ----------
    namespace : str
        The entry point's name; components' names begin with it.
    dist, version : str
        The distribution that declares it.
    status : str
        One of `STATUSES`.
    stage : str
        The stage it ended in; ``"commit"`` where it is ok (`finding.STAGES` has them all).
    api : str
        The plugin API it asks for; empty where that was not learned.
    reason : str
        Why it is not ok, in one line.
    details : tuple of str
        All that is wrong, where that is more than one line.
    hint : str
        How to mend it.
    path : str
        The folder in which its distribution lies.
    import_ms : float or None
        Wall time of its module's import, in this process.
    findings : tuple of Finding
    exception : BaseException or None
        What was raised, with its traceback.
    specs : tuple of ComponentSpec
        What it provides; empty unless it is ok.
    observes : bool
        Whether it watches runs.
    hooks : HookRelay or None
        Its own hooks, for the observers; None unless it is ok.
    """

    namespace: str
    dist: str
    version: str
    status: str = "ok"
    stage: str = "commit"
    api: str = ""
    reason: str = ""
    details: tuple[str, ...] = ()
    hint: str = ""
    path: str = ""
    import_ms: float | None = None
    findings: tuple[Finding, ...] = ()
    exception: BaseException | None = field(default=None, eq=False, repr=False)
    specs: tuple[ComponentSpec, ...] = field(default=(), repr=False)
    observes: bool = False
    hooks: pluggy.HookRelay | None = field(default=None, eq=False, repr=False)

    @property
    def label(self) -> str:
        """``'acme' (acme-curvature 0.4.2)``, as errors name a plugin."""
        return f"{self.namespace!r} ({self.dist} {self.version})"
