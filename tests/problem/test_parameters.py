"""Which parameters, under which names, and in which place of the vectors."""

from __future__ import annotations

import pytest
import torch
from cases import TiedMLP, TinyTransformer
from torch import nn
from torch.nn.utils import parametrizations

from curvkit_core import match_names, match_regex
from curvkit_core.problem import ParameterSpace
from curvkit_core.problem.parameters import canonical_name


def names(model: nn.Module, params: object = None) -> tuple[str, ...]:
    return ParameterSpace(model, params).names


def test_names_are_canonical_under_any_wrapper() -> None:
    """DistributedDataParallel's, torch.compile's and parametrisations' additions go; a user's own `module` stays."""
    assert canonical_name("module.layer.weight") == "layer.weight"
    assert canonical_name("module._orig_mod.module.layer.weight") == "layer.weight"
    assert canonical_name("layer.parametrizations.weight.original") == "layer.weight"
    assert canonical_name("layer.parametrizations.weight.original0") == "layer.weight.original0"
    assert canonical_name("encoder.module.weight") == "encoder.module.weight"
    assert canonical_name("module") == "module"
    plain = names(TiedMLP())
    assert names(nn.ModuleDict({"module": TiedMLP()})) == plain
    assert names(parametrizations.weight_norm(nn.Linear(2, 2))) == ("bias", "weight.original0", "weight.original1")


def test_tied_parameters_count_once_and_answer_to_each_name() -> None:
    space = ParameterSpace(TiedMLP())
    assert "middle.weight" in space.names
    assert "again.weight" not in space.names
    assert names(TiedMLP(), "again.weight") == ("middle.weight",)
    assert space.n == sum(p.numel() for p in TiedMLP().parameters())


def test_selection_by_glob_module_regex_and_function() -> None:
    model = TinyTransformer()
    assert names(model, "norm.*") == names(model, "norm") == ("norm.weight", "norm.bias")
    assert names(model, ["position", "mix.*"]) == ("position", "mix.weight")
    assert names(model, match_names("*.bias")) == ("norm.bias", "unused_head.bias")
    assert names(model, match_regex(r"^(qkv|mix)\.")) == ("qkv.weight", "mix.weight")
    assert names(model, lambda name, p: p.ndim == 1) == ("norm.weight", "norm.bias", "unused_head.bias")


def test_frozen_parameters_are_selected_only_by_name() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    assert names(model) == ("bias",)
    assert names(model, "weight") == ("weight",)
    model.bias.requires_grad_(False)
    with pytest.raises(ValueError, match="none of the model's 2 parameters requires grad. Set requires_grad, or name"):
        names(model)


def test_no_match_lists_near_names() -> None:
    with pytest.raises(ValueError, match=r"match_names\('nrom.weight'\) selects none .* Near names: norm.weight"):
        names(TinyTransformer(), "nrom.weight")
    with pytest.raises(ValueError, match="ReLU has no parameters"):
        names(nn.ReLU())
    with pytest.raises(TypeError, match="expected one or more patterns"):
        match_names()


def test_parameters_that_cannot_be_differentiated_are_named() -> None:
    model = nn.Linear(2, 2)
    model.register_parameter("codes", nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False))
    with pytest.raises(ValueError, match="parameter 'codes' has dtype torch.int8"):
        names(model, "codes")
    with pytest.raises(ValueError, match="parameter 'weight' is on the meta device"):
        names(nn.Linear(2, 2, device="meta"))
    with pytest.raises(ValueError, match="parameter 'weight' is not initialised"):
        names(nn.LazyLinear(2))
    with pytest.raises(ValueError, match="parameter '0.weight' is not initialised. Run the model once on a batch"):
        names(nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 2)), "1")  # the model computes with it all the same
    with torch.inference_mode():
        made = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"parameter 'weight' was made under torch.inference_mode\(\), which autograd"):
        names(made)


def test_vectors_go_to_named_tensors_and_back() -> None:
    """from_named is the inverse of to_named; rows keep their axis."""
    space = ParameterSpace(TiedMLP().double())
    v = torch.randn(space.n, dtype=torch.float64)
    named = space.to_named(v)
    assert {name: t.shape for name, t in named.items()} == {e.name: e.parameter.shape for e in space}
    assert torch.equal(space.from_named(named), v)
    rows = space.to_named(torch.stack([v, -v]))
    assert torch.equal(rows["middle.weight"][1], -named["middle.weight"])
    named["again.weight"] = named.pop("middle.weight")
    assert torch.equal(space.from_named(named), v)


def test_wrong_named_tensors_are_named() -> None:
    space = ParameterSpace(nn.Linear(2, 3))
    good = space.to_named(torch.ones(space.n))
    with pytest.raises(ValueError, match="'weigth' is no selected parameter. Near names: weight"):
        space.from_named({**good, "weigth": good["weight"]})
    with pytest.raises(ValueError, match="'bias' is missing: expected shape"):
        space.from_named({"weight": good["weight"]})
    with pytest.raises(ValueError, match=r"'bias' has shape \(2,\): expected shape \(3,\)"):
        space.from_named({"weight": good["weight"], "bias": torch.ones(2)})
    with pytest.raises(ValueError, match=r"vector has shape \(4,\): expected \(9,\)"):
        space.to_named(torch.ones(4))


def test_vectors_are_at_least_float32_and_as_wide_as_the_widest() -> None:
    assert ParameterSpace(nn.Linear(2, 2).bfloat16()).dtype == torch.float32
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    assert ParameterSpace(mixed).dtype == torch.float64
