"""Which plugins may load: allow and block lists of namespaces or distribution names, applied before any import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from curvkit_core.host.copies import normalized
from curvkit_core.host.discover import RESERVED, Candidate

ALLOW_VARIABLE = "CURVKIT_PLUGINS"
BLOCK_VARIABLE = "CURVKIT_BLOCK_PLUGINS"


def split_names(text: str) -> tuple[str, ...]:
    """Return the names in a list such as ``"hf, acme-curvature"``.

    Examples
    --------
    >>> split_names(" hf, acme-curvature ")
    ('hf', 'acme-curvature')
    """
    return tuple(text.replace(",", " ").split())


class Filters:
    """An allow list and a block list, with where each came from.

    Parameters
    ----------
    allow : tuple of str or None
        None lets all in, an empty one none but core.
    block : tuple of str
    allow_from, block_from : str
        As the listing names them, ``"CURVKIT_PLUGINS"``.
    insisted : tuple of str
        Named by the caller's own allow list: the environment's block list does not hold for them.
    """

    def __init__(
        self,
        *,
        allow: tuple[str, ...] | None = None,
        block: tuple[str, ...] = (),
        allow_from: str = ALLOW_VARIABLE,
        block_from: str = BLOCK_VARIABLE,
        insisted: tuple[str, ...] = (),
    ) -> None:
        self.allow = allow
        self.block = block
        self.allow_from = allow_from
        self.block_from = block_from
        self.insisted = insisted

    def refusal(self, candidate: Candidate) -> str:
        """Return why a candidate may not load, in a few words, or an empty string."""
        if _names(self.block, candidate) and not _names(self.insisted, candidate):
            return self.block_from
        if self.allow is not None and not _names(self.allow, candidate):
            return self.allow_from if not self.allow else f"not in {self.allow_from}"
        return ""

    def warnings(self, candidates: Sequence[Candidate]) -> list[str]:
        """Return a sentence for each name that matches nothing, and for each that cannot be blocked."""
        known = {c.namespace for c in candidates} | {c.dist for c in candidates}
        plain = {normalized(name) for name in known}
        texts = []
        for source, names in ((self.allow_from, self.allow or ()), (self.block_from, self.block)):
            for name in names:
                if normalized(name) in plain:
                    continue
                if name not in (*RESERVED, "curvkit-core"):
                    texts.append(f"{source} names {name!r}, which is not installed{_hint(name, known)}")
                elif source == self.block_from:
                    texts.append(f"{source} names {name!r}, which cannot be blocked")
        return texts


def _hint(name: str, known: Iterable[str]) -> str:
    from curvkit_core.host.install_hints import install_hint
    from curvkit_core.host.near_names import did_you_mean

    command = install_hint(name)
    return f". mend: {command}" if command else did_you_mean(name, known)


def make_filters(
    allow: Iterable[str] | None,
    block: Iterable[str] | None,
    environ: Mapping[str, str],
    *,
    allow_from: str = "allow=",
    block_from: str = "block=",
) -> Filters:
    """Merge the caller's lists with the environment's; the caller's win, each over its own variable."""
    for what, names in (("allow", allow), ("block", block)):
        if isinstance(names, str):
            msg = f"{what}={names!r} is a bare string: expected a list of names. Write {what}=[{names!r}]."
            raise TypeError(msg)
    insisted: tuple[str, ...] = ()
    chosen: tuple[str, ...] | None
    if allow is not None:
        chosen = tuple(allow)
        insisted = chosen if block is None else ()
    else:
        text = environ.get(ALLOW_VARIABLE)
        chosen, allow_from = None if text is None else split_names(text), ALLOW_VARIABLE
    if block is not None:
        blocked = tuple(block)
    else:
        blocked, block_from = split_names(environ.get(BLOCK_VARIABLE, "")), BLOCK_VARIABLE
    return Filters(allow=chosen, block=blocked, allow_from=allow_from, block_from=block_from, insisted=insisted)


def _names(names: Iterable[str], candidate: Candidate) -> bool:
    own = (normalized(candidate.namespace), normalized(candidate.dist))
    return any(normalized(name) in own for name in names)
