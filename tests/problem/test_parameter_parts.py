"""Part of a parameter, by a mask: the submatrix of the whole at its elements, for every operator and strategy."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, F64, TiedMLP, relative, tied_mlp
from torch import Tensor, nn

from curvkit_core import EmpiricalFisherOperator, GGNOperator, HessianOperator, Problem, block_diagonal, eigsh
from curvkit_core.problem import ParameterSpace, ReadsModel

TOLERANCE = 1e4 * torch.finfo(F64).eps  # as in test_dense_match


def halves(name: str, parameter: nn.Parameter) -> bool | Tensor:
    """Every other row of the weights, whole biases, nothing of the norm."""
    if name.startswith("norm"):
        return False
    if parameter.ndim == 1:
        return True
    mask = torch.zeros_like(parameter, dtype=torch.bool)
    mask[::2] = True
    return mask


def places(problem: Problem, part: ParameterSpace) -> list[int]:
    """Where the part's elements are in the vectors of the whole."""
    start = {e.name: e.offset for e in problem.parameters}
    elements = {e.name: range(e.parameter.numel()) if e.elements is None else e.elements.tolist() for e in part}
    return [start[name] + i for name, rows in elements.items() for i in rows]


@pytest.mark.parametrize("name", ["tied-mlp", "tiny-transformer"])
@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator, EmpiricalFisherOperator])
def test_products_are_those_of_the_submatrix(name: str, kind: type) -> None:
    problem = CASES[name]().problem((5, 3, 5) if name == "tied-mlp" else None)
    whole = kind(problem).to_dense()
    part = problem.restrict(halves)
    chosen = places(problem, part.parameters)
    assert 0 < part.parameters.n == len(chosen) < problem.parameters.n
    expected = whole[chosen][:, chosen]
    for options in ({"cache": "keep"}, {"strategy": "reverse", "cache": "rebuild"}, {"strategy": "lean"}):
        assert relative(kind(part, **options).to_dense(), expected) <= TOLERANCE
    shifted = [i + 1 for i in chosen[:-1]] + chosen[-1:]
    assert relative(kind(part).to_dense(), whole[shifted][:, shifted]) > TOLERANCE


def test_finite_differences_and_the_checks_move_the_part_alone() -> None:
    """A fresh problem's first products pass the preflight, and opt-in differences agree to their own error."""
    case = tied_mlp()
    problem = case.problem(params=halves)
    v = torch.ones(problem.parameters.n, dtype=F64)
    exact = HessianOperator(problem) @ v
    differences = HessianOperator(problem, strategy="finite-difference") @ v
    assert relative(differences, exact) <= 1e-5  # central differences in float64: (eps)^(2/3) and the third derivative
    assert eigsh(HessianOperator(problem), k=1, seed=0).eigenvectors.shape == (1, problem.parameters.n)


def test_vectors_go_to_named_tensors_with_zeros_elsewhere_and_back() -> None:
    space = ParameterSpace(TiedMLP().double(), halves)
    v = torch.randn(2, space.n, dtype=F64)
    named = space.to_named(v)
    assert {name: t.shape[1:] for name, t in named.items()} == {e.name: e.parameter.shape for e in space}
    assert not named["first.weight"][:, 1::2].any()
    assert bool(named["first.weight"][:, ::2].all())
    assert torch.equal(space.from_named({name: t[1] for name, t in named.items()}), v[1])


def test_a_mask_of_all_or_nothing_is_the_whole_or_none() -> None:
    model = nn.Linear(2, 3)
    everything = ParameterSpace(model, lambda name, p: torch.ones_like(p, dtype=torch.bool))
    assert [e.elements for e in everything] == [None, None]
    assert ParameterSpace(model, lambda name, p: torch.full_like(p, name == "bias", dtype=torch.bool)).names == (
        "bias",
    )
    with pytest.raises(ValueError, match="selects none of the model's 2 parameters"):
        ParameterSpace(model, lambda name, p: torch.zeros_like(p, dtype=torch.bool))


def test_tied_parameters_are_selected_under_any_of_their_names() -> None:
    """Masks under two names are united; a name that is selected whole is the whole."""
    model = TiedMLP()

    def rows(name: str, parameter: nn.Parameter) -> bool | Tensor:
        mask = torch.zeros_like(parameter, dtype=torch.bool)
        mask[0 if name.startswith("middle") else 1] = True
        return mask if name in ("middle.weight", "again.weight") else False

    (entry,) = ParameterSpace(model, rows)
    assert entry.elements.tolist() == [0, 1, 2, 3, 4, 5]
    (entry,) = ParameterSpace(model, lambda name, p: name == "again.weight" or rows(name, p))
    assert entry.elements is None


def test_selectors_that_read_the_model_are_shown_it() -> None:
    class Last:
        def for_model(self, model: nn.Module) -> object:
            chosen = list(model.parameters())[-1]
            return lambda name, p: p is chosen

    assert isinstance(Last(), ReadsModel)
    problem = tied_mlp().problem()
    assert problem.restrict(Last()).parameters.names == ("last.bias",)
    assert tied_mlp().problem(params=Last()).parameters.names == ("last.bias",)
    assert block_diagonal(problem, [Last(), "first"]).n == 3 + 15


def test_wrong_masks_are_refused_with_the_mend() -> None:
    with pytest.raises(ValueError, match=r"gave a mask of dtype torch.float32 and shape \(3, 2\) for 'weight': expect"):
        ParameterSpace(nn.Linear(2, 3), lambda name, p: torch.ones_like(p))
    with pytest.raises(ValueError, match=r"shape \(3,\) for 'weight': expected torch.bool and \(3, 2\)"):
        ParameterSpace(nn.Linear(2, 3), lambda name, p: torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="block 0 holds part of 'first.weight', 8 of its elements: expected whole"):
        block_diagonal(tied_mlp().problem(), [halves])
