"""What specs accept and refuse when they are made."""

import attrs
import pytest

from curvkit_core import AlgorithmSpec, BackendSpec, KernelSpec, LossAdapterSpec, OperatorSpec, PluginInfo, ProblemSpec
from curvkit_core.host.kinds import KIND_BY_NAME, KINDS

PLAIN = {"name": "a/b", "summary": "one", "factory": "pkg.module:attr"}
CLASSES = [OperatorSpec, AlgorithmSpec, LossAdapterSpec, BackendSpec, KernelSpec, ProblemSpec]


def make(cls, **fields):
    """A spec of any kind."""
    return cls(**{**PLAIN, **({"op": "ce_hvp"} if cls is KernelSpec else {}), **fields})


@pytest.mark.parametrize("cls", CLASSES)
def test_spec_is_frozen_hashable_and_compared_with_its_kind(cls):
    """Equal fields of equal kind are equal; another kind is not."""
    spec = make(cls, tags=["x"], requires=["torch>=2"])
    assert spec == make(cls, tags=["x"], requires=["torch>=2"])
    assert hash(spec) == hash(make(cls, tags=["x"], requires=["torch>=2"]))
    assert spec != make(cls, tags=["y"], requires=["torch>=2"])
    assert all(spec != make(other, tags=["x"], requires=["torch>=2"]) for other in CLASSES if other is not cls)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        spec.name = "a/c"
    assert repr(spec).startswith(f"{cls.__name__}(name='a/b'")
    assert (spec.namespace, spec.stem) == ("a", "b")


@pytest.mark.parametrize("cls", CLASSES)
def test_spec_has_no_place_for_other_attributes(cls):
    """A plain subclass keeps the slots."""
    with pytest.raises((attrs.exceptions.FrozenInstanceError, AttributeError)):
        make(cls).unknown = 1
    assert not hasattr(make(cls), "__dict__")


def test_kinds_are_the_six_of_the_contract():
    """Names as errors say them, in the order of the listing."""
    assert [kind.kind for kind in KINDS] == ["operator", "algorithm", "loss adapter", "backend", "kernel", "problem"]
    assert list(KIND_BY_NAME.values()) == CLASSES


@pytest.mark.parametrize(
    ("cls", "fields", "error", "text"),
    [
        (OperatorSpec, {"tags": "psd"}, TypeError, r"tags='psd' is a bare string.*tags=\['psd'\]"),
        (OperatorSpec, {"requires": "torch"}, TypeError, r"requires='torch' is a bare string"),
        (OperatorSpec, {"requires": [1]}, TypeError, r"requires holds 1, a int: expected strings only"),
        (LossAdapterSpec, {"matches": "*LM"}, TypeError, r"matches='\*LM' is a bare string"),
        (KernelSpec, {"devices": "cuda"}, TypeError, r"devices='cuda' is a bare string"),
        (KernelSpec, {"dtypes": "float32"}, TypeError, r"dtypes='float32' is a bare string"),
        (KernelSpec, {"tolerance": "1e-3"}, TypeError, r"tolerance='1e-3' is a str: expected a float or None"),
        (KernelSpec, {"op": None}, TypeError, r"op=None is a NoneType: expected a str"),
        (OperatorSpec, {"name": 3}, TypeError, r"name=3 is a int: expected a str"),
        (OperatorSpec, {"factory": None}, TypeError, r"factory=None is a NoneType: expected 'pkg.module:attr'"),
        (OperatorSpec, {"config": 3}, TypeError, r"config=3 is a int: expected 'pkg.module:Class'"),
        (OperatorSpec, {"probe": 3}, TypeError, r"probe=3 is a int: expected 'pkg.module:fn'"),
        (BackendSpec, {"priority": 1.5}, TypeError, r"priority=1.5 is a float: expected an int or None"),
        (BackendSpec, {"priority": True}, TypeError, r"priority=True is a bool: expected an int or None"),
        (BackendSpec, {"stability": "beta"}, ValueError, r"stability='beta' is unknown: expected one of stable, prov"),
        (AlgorithmSpec, {"config": "a.b:C"}, ValueError, r"config='a.b:C' of algorithm 'a/b' must stay None"),
        (AlgorithmSpec, {"priority": "1"}, TypeError, r"priority='1' is a str"),
        (KernelSpec, {"summary": None}, TypeError, r"summary=None is a NoneType"),
    ],
)
def test_wrong_field_is_refused_by_name(cls, fields, error, text):
    """The field, its value, what was expected."""
    with pytest.raises(error, match=text):
        make(cls, **fields)


def test_plugin_info_needs_a_string():
    """A float would turn 1.10 into 1.1."""
    with pytest.raises(TypeError, match=r"PluginInfo.api=1.0 is a float: expected a str"):
        PluginInfo(api=1.0)


def test_iterables_become_tuples_and_sets():
    """Generators are consumed once."""
    spec = make(LossAdapterSpec, matches=(m for m in ["A*", "B"]), tags=("x" for _ in range(2)))
    assert (spec.matches, spec.tags) == (("A*", "B"), frozenset({"x"}))
