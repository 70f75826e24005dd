"""`curvkit explain`: what a component takes, and TOML that runs as it stands."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

import attrs
import pytest

from curvkit_core.cli.main import main
from curvkit_core.config import structure
from curvkit_core.host.registry import Registry, configure_default, load_registry

CORE = load_registry(entry_points=[], environ={})
COMPONENTS = [
    spec.name
    for catalog in (CORE.operators, CORE.algorithms, CORE.problems, CORE.backends, CORE.kernels, CORE.loss_adapters)
    for spec in catalog
]


@pytest.fixture(autouse=True)
def default_registry_as_it_was() -> Iterator[None]:
    """The command line configures it."""
    yield
    configure_default()


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_of_core_is_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every field has its type, default and doc; the block to paste gives exactly the defaults."""
    assert main(["--no-plugins", "explain", name]) == 0
    text = capsys.readouterr().out
    (spec,) = CORE.find(name)
    assert text.startswith(f"{name}  {spec.kind}: {spec.summary}\n")
    assert "provided by  curvkit-core" in text
    cls = CORE.load_config(spec)
    for field in attrs.fields(cls) if cls is not None else ():
        assert f"\n  {field.name} : " in text
        line, doc = text.split(f"\n  {field.name} : ")[1].splitlines()[:2]
        assert line.endswith("; required") == (field.default is attrs.NOTHING)
        assert doc.startswith("      ")
    if "to paste" in text:
        check_block(text.split("to paste\n\n")[1], cls, name)


def check_block(block: str, cls: type | None, name: str) -> None:
    data = tomllib.loads(block)
    (table,) = data.values()
    table = table[0] if isinstance(table, list) else table
    assert table.pop("kind") == name
    if cls is None:
        assert table == {}
    elif all(field.default is not attrs.NOTHING for field in attrs.fields(cls)):
        assert structure(cls, table) == cls()


def test_bare_name_means_core(capsys: pytest.CaptureFixture[str]) -> None:
    """`eigsh` is core/eigsh, whose block has its options."""
    assert main(["--no-plugins", "explain", "eigsh"]) == 0
    text = capsys.readouterr().out
    assert '[[algorithm]]\nkind = "core/eigsh"\nk = ' in text
    assert "  on = [...]  operators of the file it runs on" in text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("core/eigs", "component 'core/eigs' is unknown; did you mean 'core/eigsh'?"),
        ("zzzzz", "component 'zzzzz' is unknown. All of them: curvkit list-plugins --components"),
        ("nobody/x", "no plugin provides 'nobody'"),
        ("hf/causal-lm", "'hf"),
    ],
)
def test_unknown_component_is_one_message(name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, a near name or where to look, no traceback."""
    assert main(["--no-plugins", "explain", name]) == 2
    shown = capsys.readouterr()
    assert text in shown.err
    assert shown.out == ""


def test_component_that_cannot_run_here_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its options are shown all the same."""
    from curvkit_core.host.availability import Availability

    monkeypatch.setattr(Registry, "availability", lambda *_, **__: Availability(False, "no GPU"))
    assert main(["--no-plugins", "explain", "core/trace"]) == 0
    text = capsys.readouterr().out
    assert "available    no: no GPU" in text
    assert 'kind = "core/trace"' in text


@pytest.mark.parametrize("name", ["landscape", "[budget]", "checkpoint", "auto", "core/loss-slice"])
def test_sections_of_a_run_file_are_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every key with its type and doc; the block to paste is the section, with its defaults."""
    from curvkit_core.runs.sections import Auto, Budget, CheckpointOptions, Landscape

    assert main(["--no-plugins", "explain", name]) == 0
    text = capsys.readouterr().out
    section = "landscape" if name == "core/loss-slice" else name.strip("[]")
    cls = {"landscape": Landscape, "budget": Budget, "checkpoint": CheckpointOptions, "auto": Auto}[section]
    assert text.startswith(f"[{section}]  section of a run file\n")
    for field in attrs.fields(cls):
        assert f"\n  {field.name} : " in text
    pasted = tomllib.loads(text.partition("to paste\n")[2])
    assert list(pasted) == [section]
    assert structure(cls, pasted[section], "$") == cls()
