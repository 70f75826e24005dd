"""Results on disk: what is loaded is what was saved, and nothing that is loaded runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve, fields, frozen
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from curvkit_core import load_result, save_result
from curvkit_core.results import StoredResult
from curvkit_core.results.encode import decode, encode
from curvkit_core.results.store import json_text
from curvkit_core.results.types import DensityResult, EigenResult, ResultInfo, TraceResult


@frozen(kw_only=True, eq=False)
class Sketch:
    """A third party's result."""

    value: Tensor
    name: str
    nested: tuple[Any, ...] = ()
    table: dict[str, Any] | None = None
    _private: float = 0.0


def info(**changes: Any) -> ResultInfo:
    return ResultInfo(
        **{
            "operator": "core/ggn",
            "algorithm": "core/eigsh",
            "options": {"k": 2, "tol": 1e-4, "on": ("a",)},
            "num_matvecs": 9,
            "seconds": 0.25,
            "dtype": "float32",
            "device": "cpu",
            "n": 3,
            "parameter_names": ("w", "b"),
            "versions": {"torch": "2"},
            **changes,
        }
    )


RESULTS = {
    "eigen": EigenResult(
        eigenvalues=torch.tensor([2.5, -1 / 3], dtype=torch.float64),
        eigenvectors=torch.randn(2, 3),
        residuals=torch.tensor([1e-300, math.inf], dtype=torch.float64),
        converged=torch.tensor([True, False]),
        num_matvecs=9,
        seed=0,
        info=info(),
    ),
    "trace": TraceResult(
        estimate=math.nan,
        stderr=-0.0,
        bias_bound=None,
        num_matvecs=3,
        method="hutch++",
        seed=2**62,
        samples=torch.empty(0, dtype=torch.float64),
        info=info(units=13.0, converged=True, findings=("a\nb",)),
    ),
    "density": DensityResult(
        grid=torch.linspace(0, 1, 300, dtype=torch.float64),
        density=torch.rand(300, dtype=torch.float64),
        stderr=torch.rand(300, dtype=torch.float64),
        nodes=torch.rand(2, 4, dtype=torch.float64),
        weights=torch.rand(2, 4, dtype=torch.float64),
        sigma=0.1,
        num_matvecs=8,
        seed=0,
    ),
}

CHANGED = {
    "eigen": torch.tensor([2.5, -0.333], dtype=torch.float64),
    "trace": 0.001,
    "density": 1.001 * torch.linspace(0, 1, 300, dtype=torch.float64),
}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return (
            isinstance(b, Tensor)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and torch.equal(
                a.nan_to_num(7.0) if a.is_floating_point() else a, b.nan_to_num(7.0) if b.is_floating_point() else b
            )
        )
    if hasattr(type(a), "__attrs_attrs__"):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(type(a)))
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, float):
        return type(b) is float and ((math.isnan(a) and math.isnan(b)) or repr(a) == repr(b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("name", RESULTS)
def test_result_comes_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    """Every field, dtype, NaN, -0.0 and infinity; a changed field is noticed."""
    result = RESULTS[name]
    loaded = load_result(save_result(result, tmp_path / "r"))
    assert same(result, loaded)
    first = fields(type(result))[0].name
    assert not same(evolve(result, **{first: CHANGED[name]}), loaded)


def test_loaded_tensors_lie_as_torch_lays_its_own(tmp_path: Path) -> None:
    """On 64 bytes: a dot product of the same numbers on another address rounds otherwise. A file's do not lie so."""
    from safetensors.torch import load_file

    found, mapped = [], []
    for size in range(1, 9):  # each number of bytes moves those after it
        result = evolve(RESULTS["eigen"], eigenvectors=torch.randn(2, 100 + size))
        path = save_result(result, tmp_path / str(size))
        found.append(load_result(path).eigenvectors.data_ptr() % 64)
        tensors = load_file(path / "result.safetensors")
        mapped.append(tensors["result.eigenvectors"].data_ptr() % 64)
    assert set(found) == {0}
    assert set(mapped) != {0}


def test_json_can_be_read_by_people(tmp_path: Path) -> None:
    """Short vectors stand in the JSON, in full precision, on one line; large ones by shape; strict JSON."""
    save_result(RESULTS["eigen"], tmp_path / "r")
    text = (tmp_path / "r" / "result.json").read_text()
    document = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert document["schema"] == 1
    result = document["result"]
    assert result["$type"] == "EigenResult"
    assert result["eigenvalues"] == [2.5, -1 / 3]
    assert result["converged"] == [True, False]
    assert '"eigenvalues": [2.5, -0.3333333333333333],' in text
    assert result["residuals"] == [1e-300, {"$float": "inf"}]
    assert result["eigenvectors"] == {"$tensor": "result.eigenvectors", "shape": [2, 3], "dtype": "float32"}
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"result.json", "result.safetensors"}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner).map(tuple) | st.dictionaries(st.text().filter(lambda k: k[:1] != "$"), inner),
        max_leaves=10,
    )
)
def test_plain_values_come_back(value: Any) -> None:
    """decode(json(encode(x))) = x for whatever options hold, NaN and strange keys included."""
    tensors: dict[str, Tensor] = {}
    assert same(value, decode(json.loads(json_text(encode(value, "x", tensors))), "x", tensors, {}))


def test_unknown_class_is_a_read_only_mapping(tmp_path: Path) -> None:
    """A plugin's result loads without its plugin; with types= it is its class again; saved again it stays the same."""
    sketch = Sketch(
        value=torch.arange(4, dtype=torch.bfloat16).reshape(2, 2),
        name="a",
        nested=(1, (2.0, torch.tensor(3))),
        table={"k": None, "t": torch.tensor([], dtype=torch.int64)},
        private=0.5,
    )
    save_result(sketch, tmp_path / "r")
    stored = load_result(tmp_path / "r")
    assert isinstance(stored, StoredResult)
    assert stored.type_name == f"{__name__}:Sketch"
    assert stored["value"].dtype == torch.bfloat16
    with pytest.raises(TypeError):
        stored["name"] = "b"
    assert same(load_result(tmp_path / "r", types=[Sketch]), sketch)
    save_result(stored, tmp_path / "again")
    assert same(load_result(tmp_path / "again", types=[Sketch]), sketch)
    assert (tmp_path / "again" / "result.json").read_bytes() == (tmp_path / "r" / "result.json").read_bytes()


def test_fields_of_another_version_are_a_mapping(tmp_path: Path) -> None:
    """A field that the class does not know, or lacks, is not dropped or made up; None is not made up."""
    for gone, kind in (("info", TraceResult), ("bias_bound", StoredResult), ("estimate", StoredResult)):
        path = save_result(RESULTS["trace"], tmp_path / gone) / "result.json"
        document = json.loads(path.read_text())
        del document["result"][gone]
        path.write_text(json.dumps(document))
        assert type(load_result(tmp_path / gone)) is kind
        assert gone != "info" or load_result(tmp_path / gone).info is None
    save_result(RESULTS["trace"], tmp_path / "r")
    path = tmp_path / "r" / "result.json"
    document = json.loads(path.read_text())
    document["result"]["later"] = 3
    path.write_text(json.dumps(document))
    loaded = load_result(tmp_path / "r")
    assert isinstance(loaded, StoredResult)
    assert loaded["later"] == 3
    assert isinstance(loaded["info"], ResultInfo)


def test_loading_imports_and_calls_nothing_that_the_folder_names(tmp_path: Path) -> None:
    """A folder that names a module of code to run gets a mapping; the code does not run."""
    save_result(Sketch(value=torch.zeros(1), name="a"), tmp_path / "r")
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    path = tmp_path / "r" / "result.json"
    path.write_text(path.read_text().replace(f"{__name__}:Sketch", "evil:Sketch"))
    assert load_result(tmp_path / "r").type_name == "evil:Sketch"
    path.write_text(path.read_text().replace("evil:Sketch", "os:system"))
    assert load_result(tmp_path / "r")["name"] == "a"


@pytest.mark.parametrize("value", [torch.randn(3, 3).T, torch.randn(4)[::2], torch.randn(2).conj().requires_grad_()])
def test_tensor_in_any_layout_comes_back(tmp_path: Path, value: Tensor) -> None:
    """Views, strides and graphs are stored by value."""
    loaded = load_result(save_result(Sketch(value=value, name="a"), tmp_path / "r"), types=[Sketch])
    assert torch.equal(loaded.value, value)
    assert not loaded.value.requires_grad


def test_shared_memory_is_stored_twice(tmp_path: Path) -> None:
    """safetensors refuses tensors that share memory; two views of one are two values."""
    base = torch.arange(4.0)
    loaded = load_result(save_result(Sketch(value=base, name="a", nested=(base[1:],)), tmp_path / "r"), types=[Sketch])
    assert torch.equal(loaded.nested[0], base[1:])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (object(), r"result.value holds a builtins.object, which cannot be stored"),
        ({1, 2}, r"result.value holds a builtins.set"),
        (torch.zeros(2).to_sparse(), r"result.value has layout torch.sparse_coo"),
        ({1: 2}, r"result.value has the key 1: expected str"),
        ({"$type": "x"}, r"result.value has the key '\$type'"),
    ],
)
def test_what_cannot_be_stored_is_named_and_writes_nothing(tmp_path: Path, value: Any, text: str) -> None:
    """Nothing is pickled; the field is named."""
    sketch = Sketch(value=value, name="a")
    with pytest.raises(TypeError, match=text):
        save_result(sketch, tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_clashing_names_of_tensors_are_refused(tmp_path: Path) -> None:
    """Keys with dots could give two tensors one name."""
    value = {"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1)}
    with pytest.raises(ValueError, match="two tensors are called 'result.value.a.b'"):
        save_result(Sketch(value=value, name="a"), tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_saving_never_overwrites(tmp_path: Path) -> None:
    """A second result in one folder is refused, and no result is no result."""
    save_result(RESULTS["trace"], tmp_path / "r")
    with pytest.raises(FileExistsError, match="is not empty"):
        save_result(RESULTS["eigen"], tmp_path / "r")
    assert isinstance(load_result(tmp_path / "r"), TraceResult)
    with pytest.raises(TypeError, match="takes a result"):
        save_result({"a": 1}, tmp_path / "s")


def test_damaged_folder_is_named(tmp_path: Path) -> None:
    """Each file missing, cut short, of another schema or of another result is one error that says so."""
    with pytest.raises(FileNotFoundError, match="result.json is not there"):
        load_result(tmp_path)
    folder = save_result(RESULTS["eigen"], tmp_path / "r")
    good_json, good_tensors = ((folder / name).read_bytes() for name in ("result.json", "result.safetensors"))
    damage = [
        ("result.json", good_json[:50], "is not JSON"),
        ("result.json", good_json.replace(b'"schema": 1', b'"schema": 3'), "has schema 3: expected 1 or 2"),
        ("result.json", b"[]", "has schema None"),
        ("result.json", b'{"schema": 1, "runs": []}', "holds a whole run"),
        ("result.json", b'{"schema": 1}', "holds no result"),
        ("result.safetensors", good_tensors[:-5], "is damaged"),
        ("result.safetensors", b"", "is damaged"),
    ]
    for name, content, text in damage:
        (folder / "result.json").write_bytes(good_json)
        (folder / "result.safetensors").write_bytes(good_tensors)
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=text):
            load_result(folder)
    other = save_result(RESULTS["trace"], tmp_path / "s")
    (folder / "result.safetensors").write_bytes((other / "result.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"tensor 'result.eigenvectors' is missing"):
        load_result(folder)
