"""How to install the first-party plugins: a small static table, since what is not installed cannot say so itself."""

from __future__ import annotations

FIRST_PARTY = {
    "ddp": "curvkit-ddp",
    "hf": "curvkit-hf",
    "tlens": "curvkit-tlens",
    "triton": "curvkit-triton",
}


def install_hint(namespace: str) -> str:
    """Return the command that installs a first-party namespace, or an empty string.

    Examples
    --------
    >>> install_hint("hf")
    'pip install "curvkit-core[hf]"'
    >>> install_hint("acme")
    ''
    """
    for extra, dist in FIRST_PARTY.items():
        if namespace in (extra, dist):
            return f'pip install "curvkit-core[{extra}]"'
    return ""
