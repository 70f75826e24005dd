"""The parameters that a problem differentiates, as one vector: canonical names, offsets, flat and back."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from curvkit_core.backends import Segment
from curvkit_core.problem.selection import ReadsModel, Selector, as_selector

__all__ = ["Entry", "ParameterSpace", "canonical_name"]

_PARAMETRIZED = re.compile(r"parametrizations\.([^.]+)\.original(\d*)")
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_original_component"})


def canonical_name(name: str) -> str:
    """Strip what wrappers add: a leading ``module.``, ``_orig_mod.``; ``parametrizations.w.original`` becomes ``w``.

    ``module.`` goes only from the front, where DistributedDataParallel puts it: inside, it may be the user's own name.
    """
    kept = [part for part in name.split(".") if part not in _WRAPPERS]
    while len(kept) > 1 and kept[0] == "module":
        kept = kept[1:]
    return _PARAMETRIZED.sub(lambda m: m[1] + (f".original{m[2]}" if m[2] else ""), ".".join(kept))


@frozen(kw_only=True, eq=False)
class Entry:
    """One selected parameter and its place in the vectors.

    `aliases` are its canonical names, the first of them its own: a tied parameter has several and counts once.
    `raw_names` are the same in the model's own spelling. `elements` are the places in the flattened parameter, rising,
    of those that were selected; None: all. `part` is what of it lies on this rank, where a backend has sharded it, and
    `start` its first element's place in the flattened parameter.
    """

    parameter: nn.Parameter
    aliases: tuple[str, ...]
    raw_names: tuple[str, ...]
    offset: int
    elements: Tensor | None = None
    part: Tensor | None = None
    start: int = 0

    @property
    def name(self) -> str:
        """Canonical name."""
        return self.aliases[0]

    @property
    def value(self) -> Tensor:
        """What is differentiated with respect to: the parameter itself, or this rank's part of it."""
        return self.parameter if self.part is None else self.part

    @property
    def numel(self) -> int:
        """Elements that were selected, on this rank."""
        return self.value.numel() if self.elements is None else len(self.elements)

    @property
    def place(self) -> slice:
        """Its elements in a vector."""
        return slice(self.offset, self.offset + self.numel)

    def taken(self, tensor: Tensor) -> Tensor:
        """The selected elements of a tensor shaped like the whole parameter: (numel,)."""
        flat = tensor.reshape(-1)
        if self.part is not None:
            return flat[self.start : self.start + self.numel]
        return flat if self.elements is None else flat[self.elements.to(flat.device)]

    def spread(self, rows: Tensor) -> Tensor:
        """The selected elements (..., numel) in a tensor shaped like `value` (..., *shape), zero elsewhere."""
        shape = (*rows.shape[:-1], *self.value.shape)
        if self.elements is None:
            return rows.reshape(shape)
        whole = rows.new_zeros((*rows.shape[:-1], self.parameter.numel()))
        whole[..., self.elements.to(rows.device)] = rows
        return whole.view(shape)


class ParameterSpace:
    """The selected parameters of a model in the order of ``model.named_parameters()``, tied ones once.

    Parameters
    ----------
    model : torch.nn.Module
        Its parameters are referred to, never copied or written.
    params : None, str, iterable of str, or callable
        None: all that require grad. Globs or a function of (name, parameter) may name frozen ones as well. A function
        may also give a mask, a bool tensor of the parameter's shape: the vectors hold the elements where it is True, in
        C order, and nothing is differentiated with respect to the others.
    cut : callable or None
        ``cut(name, parameter)`` -> this rank's part and where it starts, on a backend that shards parameters.

    Attributes
    ----------
    n : int
        Length of the vectors, over all shards.
    n_local : int
        Their length on this rank.

    Raises
    ------
    ValueError
        If the model has no parameters, or none fits; near names are listed. If a mask has another dtype or shape, or
        is for a sharded parameter.
    """

    def __init__(
        self,
        model: nn.Module,
        params: str | Iterable[str] | Selector | ReadsModel | None = None,
        *,
        cut: Callable[[str, nn.Parameter], tuple[Tensor, int]] | None = None,
    ) -> None:
        self.model = model
        self._cut = cut
        selector = as_selector(params, model)
        names: dict[nn.Parameter, list[str]] = {}
        for raw, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(parameter, []).append(raw)
        if not names:
            msg = f"{type(model).__name__} has no parameters: there is nothing to differentiate with respect to."
            raise ValueError(msg)
        entries: list[Entry] = []
        offset = 0
        for parameter, raw_names in names.items():
            aliases = tuple(canonical_name(raw) for raw in raw_names)
            _check_values(aliases[0], parameter)
            chosen = _chosen(selector, aliases, parameter)
            if not isinstance(chosen, bool):
                _check_kind(aliases[0], parameter)
                entry = Entry(
                    parameter=parameter, aliases=aliases, raw_names=tuple(raw_names), offset=offset, elements=chosen
                )
                entry = self._on_this_rank(entry)
                entries.append(entry)
                offset += entry.numel
        self.entries = tuple(entries)
        self.n_local = offset
        self.n = offset if cut is None else sum(e.parameter.numel() for e in entries)
        if not entries:
            raise ValueError(_no_match(selector, names))
        wide = reduce(torch.promote_types, (e.parameter.dtype for e in entries), torch.float32)
        self.dtype = wide
        self.device = entries[0].parameter.device
        self.segments = tuple(
            Segment(name=e.name, numel=e.numel, start=e.start, row=e.parameter.shape[1:].numel()) for e in entries
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical names in the vectors' order."""
        return tuple(e.name for e in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __repr__(self) -> str:
        return f"ParameterSpace({len(self)} parameters, n={self.n:,})"

    def follow(self) -> None:
        """Look the parameters up again by name: ``load_state_dict(assign=True)`` and assignments make new objects.

        Raises
        ------
        ValueError
            If a name has gone, has another shape, or if names that were tied are so no more.
        """
        found = dict(self.model.named_parameters(remove_duplicate=False))
        self.entries = tuple(self._on_this_rank(e) for e in self.entries)
        if all(found.get(raw) is e.parameter for e in self.entries for raw in e.raw_names):
            return
        entries = []
        for e in self.entries:
            now = {id(found[raw]): found[raw] for raw in e.raw_names if raw in found}
            parameter = next(iter(now.values()), None)
            if len(now) != 1 or parameter is None or parameter.shape != e.parameter.shape:
                msg = (
                    f"parameter {e.name!r} of {type(self.model).__name__} has gone, changed its shape or is tied "
                    f"otherwise than when the problem was built (names: {', '.join(e.aliases)}). Build a new Problem."
                )
                raise ValueError(msg)
            entries.append(self._on_this_rank(evolve(e, parameter=parameter)))
        self.entries = tuple(entries)

    def _on_this_rank(self, entry: Entry) -> Entry:
        if self._cut is None:
            return entry
        if entry.elements is not None:
            msg = (
                f"params= selects {len(entry.elements)} elements of {entry.name!r}, which is sharded over ranks: "
                "expected whole parameters there. Select by name, or use one process or the replicated backend."
            )
            raise ValueError(msg)
        part, start = self._cut(entry.name, entry.parameter)
        return evolve(entry, part=part, start=start)

    def to_named(self, vector: Tensor) -> dict[str, Tensor]:
        """Cut a vector (n,), or rows (k, n), into ``{name: tensor shaped like the parameter}`` (views; (k, *shape)).

        Where only part of a parameter was selected, the tensor is zero elsewhere, and a copy. Of a sharded vector each
        rank gives the tensors' rows that it holds.
        """
        if vector.ndim not in (1, 2) or vector.shape[-1] != self.n_local:
            msg = f"vector has shape {tuple(vector.shape)}: expected ({self.n_local},) or (k, {self.n_local})."
            raise ValueError(msg)
        return {e.name: e.spread(vector[..., e.place]) for e in self.entries}

    def from_named(self, named: Mapping[str, Tensor]) -> Tensor:
        """Lay named tensors, each shaped like its parameter, into one vector (n,): the inverse of `to_named`.

        Every selected parameter must be there, under its name or one of its tied names; whole, also where a rank keeps
        its part of them only.
        """
        known = {alias for e in self.entries for alias in e.aliases}
        unknown = [name for name in named if name not in known]
        if unknown:
            msg = f"{unknown[0]!r} is no selected parameter.{_near(unknown[0], sorted(known))}"
            raise ValueError(msg)
        out = torch.empty(self.n_local, dtype=self.dtype, device=self.device)
        for e in self.entries:
            value = next((named[alias] for alias in e.aliases if alias in named), None)
            if value is None or value.shape != e.parameter.shape:
                got = "is missing" if value is None else f"has shape {tuple(value.shape)}"
                msg = f"{e.name!r} {got}: expected shape {tuple(e.parameter.shape)}."
                raise ValueError(msg)
            out[e.place] = e.taken(value.detach()).to(out)
        return out

    def flatten(self, tensors: Iterable[Tensor | None]) -> Tensor:
        """Lay one tensor a parameter into a vector (n,) of the space's dtype; None counts as zeros."""
        return self.flatten_rows([tensors])[0]

    def flatten_rows(self, rows: Sequence[Iterable[Tensor | None]], *, out: Tensor | None = None) -> Tensor:
        """Lay one tensor a parameter into each row of (k, n), of `out` where it is given; None counts as zeros."""
        if out is None:
            out = torch.empty((len(rows), self.n_local), dtype=self.dtype, device=self.device)
        for row, tensors in zip(out, rows, strict=True):
            for entry, tensor in zip(self.entries, tensors, strict=True):
                if tensor is None:
                    row[entry.place] = 0.0
                elif entry.elements is None:
                    row[entry.place].view(tensor.shape).copy_(tensor)
                else:
                    row[entry.place].copy_(entry.taken(tensor))
        return out

    def unflatten(self, vector: Tensor) -> tuple[Tensor, ...]:
        """Cut a vector (n,) into one tensor a parameter, in the parameter's own shape, dtype and device."""
        return tuple(e.spread(vector[e.place]).to(e.value) for e in self.entries)

    def unflatten_rows(self, V: Tensor) -> tuple[Tensor, ...]:
        """Cut rows (k, n) into one tensor a parameter, (k, *its shape), in the parameter's own dtype and device."""
        return tuple(e.spread(V[:, e.place]).to(e.value) for e in self.entries)


def _chosen(selector: Selector, aliases: tuple[str, ...], parameter: nn.Parameter) -> Tensor | bool | None:
    """None: the whole parameter; False: nothing of it; else the places of the elements, on the CPU.

    A tied parameter is selected where it is under any of its names.
    """
    mask = None
    for alias in aliases:
        answer = selector(alias, parameter)
        if not isinstance(answer, Tensor):
            if answer:
                return None
        elif answer.dtype != torch.bool or answer.shape != parameter.shape:
            msg = (
                f"params={selector!r} gave a mask of dtype {answer.dtype} and shape {tuple(answer.shape)} for "
                f"{alias!r}: expected torch.bool and {tuple(parameter.shape)}, the parameter's shape."
            )
            raise ValueError(msg)
        else:
            mask = answer if mask is None else mask | answer
    if mask is None or not mask.any():
        return False
    return None if mask.all() else mask.reshape(-1).nonzero()[:, 0].cpu()


def _no_match(selector: Selector, names: Mapping[nn.Parameter, list[str]]) -> str:
    known = sorted({canonical_name(raw) for raws in names.values() for raw in raws})
    if selector is as_selector(None):
        return (
            f"none of the model's {len(known)} parameters requires grad. "
            "Set requires_grad, or name the parameters in params=: frozen ones may be named."
        )
    patterns = getattr(selector, "patterns", ())
    near = _near(patterns[0] if patterns else "", known)
    return f"params={selector!r} selects none of the model's {len(known)} parameters.{near}"


def _near(wanted: str, known: list[str]) -> str:
    near = difflib.get_close_matches(wanted.replace("*", ""), known, n=3, cutoff=0.5)
    first = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
    return (f" Near names: {', '.join(near)}." if near else "") + f" The model has: {first}."


def _check_values(name: str, parameter: nn.Parameter) -> None:
    """Of every parameter, chosen or not: the model computes with it."""
    if isinstance(parameter, nn.UninitializedParameter):
        msg = f"parameter {name!r} is not initialised. Run the model once on a batch before building the problem."
        raise ValueError(msg)
    if parameter.is_inference():
        msg = (
            f"parameter {name!r} was made under torch.inference_mode(), which autograd cannot use. Make or load the "
            "model outside of it."
        )
        raise ValueError(msg)


def _check_kind(name: str, parameter: nn.Parameter) -> None:
    if not parameter.is_floating_point():
        problem, mend = f"has dtype {parameter.dtype}", "Select floating-point parameters with params=."
    elif parameter.device.type == "meta":
        problem, mend = "is on the meta device", "Load the model's values first."
    else:
        return
    msg = f"parameter {name!r} {problem}: its curvature cannot be computed. {mend}"
    raise ValueError(msg)
