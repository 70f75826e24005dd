"""Parameters by component and head, as ``params`` of a Problem."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable

from attrs import frozen
from torch import Tensor, nn

from curvkit_tlens.named_components import NamedComponent, component_names, named_components

__all__ = ["ComponentSelector", "match_components"]


def match_components(*components: str, heads: Iterable[int] | None = None) -> ComponentSelector:
    """Select parameters by TransformerLens's names, for ``Problem(params=...)`` and ``problem.restrict(...)``.

    Parameters
    ----------
    *components : str
        Names or globs, each of a whole name or of successive parts of one: ``"blocks.3.attn"``, ``"blocks.*.mlp"``,
        ``"W_Q"``, ``"attn.W_O"``, ``"embed"``, ``"unembed"``, ``"ln1"``. The same on both model classes.
    heads : iterable of int or None
        Only these heads' parts of W_Q, W_K, W_V, W_O and of b_Q, b_K, b_V; whatever has no heads is left out. Where
        heads share keys and values, those of the groups that they read.

    Returns
    -------
    ComponentSelector
        A parameter that is tied, as W_E and W_U are in GPT-2, is selected under either name and counts once.

    Raises
    ------
    TypeError
        If there is no name, or one is no string.
    ValueError
        On use, where nothing fits a name or a head is out of range: with near names and what they are in the model.

    Examples
    --------
    .. code-block:: python

        problem = Problem(model, batches, NextTokenLoss(), params=match_components("blocks.3.attn", heads=[0, 5]))
        mlps = problem.restrict(match_components("mlp"))
    """
    if not components or not all(isinstance(c, str) and c for c in components):
        msg = f"match_components{components!r}: expected one or more names such as 'blocks.3.attn' or 'W_Q'."
        raise TypeError(msg)
    chosen = None if heads is None else tuple(heads)
    if chosen is not None and (not chosen or not all(type(head) is int for head in chosen)):
        msg = f"heads={list(chosen)!r}: expected one or more integers, or None for all of them."
        raise TypeError(msg)
    return ComponentSelector(patterns=components, heads=chosen)


@frozen(kw_only=True)
class ComponentSelector:
    """What :func:`match_components` gives: it reads the model that the problem is of.

    Parameters
    ----------
    patterns : tuple of str
    heads : tuple of int or None
    """

    patterns: tuple[str, ...]
    heads: tuple[int, ...] | None = None

    def for_model(self, model: nn.Module) -> Chosen:
        """What it selects in this model."""
        if not hasattr(model, "cfg"):
            msg = f"{type(model).__name__} has no cfg: match_components is for TransformerLens models. Use match_names."
            raise TypeError(msg)
        components = named_components(model)
        found: dict[int, bool | Tensor] = {}
        for pattern in self.patterns:
            fitting = [c for c in components if _fits(c.name, pattern)]
            if not fitting:
                raise ValueError(self._no_match(model, pattern))
            if self.heads is not None:
                fitting = self._with_heads(model, fitting, pattern)
            for component in fitting:
                found[id(component.parameter)] = True if self.heads is None else component.mask(self.heads)
        return Chosen(selector=self, found=found)

    def _with_heads(self, model: nn.Module, fitting: list[NamedComponent], pattern: str) -> list[NamedComponent]:
        assert self.heads is not None
        count = int(model.cfg.n_heads)  # type: ignore[union-attr, arg-type]
        if outside := [head for head in self.heads if not 0 <= head < count]:
            msg = f"heads={list(self.heads)}: {outside[0]} is no head: the model has {count}, 0 to {count - 1}."
            raise ValueError(msg)
        having = [c for c in fitting if c.num_heads]
        if not having:
            seen = ", ".join(c.name for c in fitting[:3])
            msg = f"heads={list(self.heads)}: nothing that fits {pattern!r} has heads ({seen}). Name 'attn' or 'W_Q'."
            raise ValueError(msg)
        return having

    def _no_match(self, model: nn.Module, pattern: str) -> str:
        mapping = component_names(model)
        bare = pattern.replace("*", "")
        pool = [*mapping, *dict.fromkeys(name.rpartition(".")[0] for name in mapping)]
        near = difflib.get_close_matches(bare, pool, n=3, cutoff=0.5)
        hint = f" Near names: {', '.join(near)}." if near else ""
        close = [name for name in mapping if near and f"{name}.".startswith(f"{near[0]}.")] or list(mapping)
        shown = "; ".join(f"{name} = {mapping[name]}" for name in close[:8])
        return (
            f"match_components: nothing in the {type(model).__name__} fits {pattern!r}.{hint} Names there, and what "
            f"they are in a Problem: {shown}; ... (curvkit_tlens.component_names(model) has all {len(mapping)})."
        )


@frozen(kw_only=True, eq=False)
class Chosen:
    """What was selected in a model: ``(name, parameter)`` -> whether, or a mask for some heads.

    Parameters
    ----------
    selector : ComponentSelector
    found : dict
        By the parameter's id.
    """

    selector: ComponentSelector
    found: dict[int, bool | Tensor]

    @property
    def patterns(self) -> tuple[str, ...]:
        """The names as they were given, for messages."""
        return self.selector.patterns

    def __call__(self, name: str, parameter: nn.Parameter) -> bool | Tensor:
        return self.found.get(id(parameter), False)


def _fits(name: str, pattern: str) -> bool:
    """Whether the pattern fits the name, or successive parts of it."""
    return any(
        fnmatch.fnmatchcase(f".{name}.", f"{before}.{pattern}.{after}") for before in ("", "*") for after in ("", "*")
    )
