"""Something odd about a plugin that does not stop it. Imported where one is made: most starts make none."""

from __future__ import annotations

from attrs import frozen

STAGES = ("discover", "filter", "import", "handshake", "register", "validate", "commit")


@frozen(kw_only=True)
class Finding:
    """Something odd that does not stop a plugin.

    Parameters
    ----------
    stage : str
        Where it was seen, one of `STAGES`.
    code : str
        Stable, for machines: ``"second-copy"``, ``"heavy-import"``, ``"unknown-tag"``, ``"no-hookimpl"``, ...
    text : str
        One line, as the listing shows it.
    detail : str
        What ``doctor`` shows instead, with the places.
    mend : str
        What to do.
    """

    stage: str
    code: str
    text: str
    detail: str = ""
    mend: str = ""
