"""`curvkit list-plugins`: the table, the components, JSON, exit codes."""

import json
import re

import pytest
from fixtures.fake_dists import INFO, operators

from curvkit_core.cli.list_plugins import table
from curvkit_core.cli.main import main

CORE = "5 operators, 18 algorithms, 4 losses, 1 backend, 2 kernels, 2 problems"
KERNEL = """
@hookimpl
def curvkit_kernels(ctx):
    yield KernelSpec(name="acme/fast", summary="Fast", factory="a:b", op="ce_hvp", requires=["curvfix-absent>=3"])
    yield KernelSpec(
        name="acme/gpu", summary="Gpu", factory="a:b", op="ce_hvp", probe="acme_probe:probe", tags=["compiled"]
    )
"""


@pytest.fixture
def sample(dists, tmp_path):
    """The listing of the documentation, plugin for plugin."""
    dists.add("acme-curvature", "acme", "import acme_core", version="0.4.2")
    dists.plugin("ddp", dist="curvkit-ddp", version="0.1.0")
    dists.plugin("hf", operators("hf/x", "hf/y"), dist="curvkit-hf", version="0.1.0")
    dists.plugin("old", dist="foo-curv", version="0.2", info=INFO.replace("1.0", "2.0"))
    dists.plugin("slow", "import transformers\n" + operators("slow/x"), dist="slowpoke", version="1.1")
    (dists.folder / "transformers.py").write_text("import time; time.sleep(0.06)")
    dists.modules.append("transformers")
    stale = dists.folder / "curvkit_hf-0.0.9.dist-info"
    stale.mkdir()
    (stale / "METADATA").write_text("Name: curvkit-hf\nVersion: 0.0.9\n")
    return dists


def lines(capsys):
    """What was printed, a line an item; nothing on stderr."""
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def test_sample_of_the_documentation(sample, monkeypatch, capsys):
    """Core first, then by name; the reason where one is broken, incompatible or blocked; findings; the counts."""
    monkeypatch.delitem(__import__("sys").modules, "transformers", raising=False)
    monkeypatch.setenv("CURVKIT_BLOCK_PLUGINS", "ddp")
    assert main(["list-plugins"]) == 0
    assert lines(capsys) == [
        "NAME  DIST            VERSION  API  STATUS        PROVIDES",
        f"core  curvkit-core    0.1.0    1.0  ok            {CORE}",
        "acme  acme-curvature  0.4.2    -    broken        - import: ModuleNotFoundError: No module named 'acme_core'",
        "ddp   curvkit-ddp     0.1.0    -    blocked       - (CURVKIT_BLOCK_PLUGINS)",
        "hf    curvkit-hf      0.1.0    1.0  ok            "
        "2 operators (discover: a second copy, 0.0.9, is on sys.path)",
        "old   foo-curv        0.2      2.0  incompatible  "
        "- handshake: needs plugin API 2.0, this curvkit-core speaks 1.0; upgrade curvkit-core",
        "slow  slowpoke        1.1      1.0  ok            1 operator (import: loads transformers at start, 0.1 s)",
        "1 broken, 1 incompatible, 2 findings. Details: curvkit doctor",
    ]


def test_nothing_wrong_has_no_last_line(dists, capsys):
    """Header and core."""
    assert main(["list-plugins"]) == 0
    assert len(lines(capsys)) == 2


@pytest.mark.parametrize(
    ("flags", "environ", "code"),
    [
        ([], {}, 0),
        (["--strict"], {}, 1),
        (["--strict", "--block-plugins", "acme"], {}, 1),
        (["--strict", "--block-plugins", "acme,old"], {}, 0),
        (["--strict", "--plugins", "hf,slow"], {}, 0),
        (["--strict", "--no-plugins"], {}, 0),
        (["--strict"], {"CURVKIT_PLUGINS": "hf"}, 0),
        (["--strict"], {"CURVKIT_PLUGINS": "acme"}, 1),
    ],
)
def test_strict_is_about_broken_and_incompatible(sample, monkeypatch, flags, environ, code, capsys):
    """Findings and blocked plugins are no failure."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert main(["list-plugins", *flags]) == code


@pytest.mark.parametrize("arguments", [["--no-plugins", "list-plugins"], ["list-plugins", "--no-plugins"]])
def test_global_flags_stand_before_or_after(sample, capsys, arguments):
    """And are named in the row."""
    assert main(arguments) == 0
    assert lines(capsys)[2].endswith("- (--no-plugins)")


@pytest.mark.parametrize("arguments", [["--plugins", "hf", "list-plugins"], ["list-plugins", "--plugins=hf"]])
def test_plugins_flag_beats_the_environment(sample, monkeypatch, capsys, arguments):
    """Over both variables, for what it names."""
    monkeypatch.setenv("CURVKIT_PLUGINS", "acme")
    monkeypatch.setenv("CURVKIT_BLOCK_PLUGINS", "hf")
    assert main(arguments) == 0
    status = {line.split()[0]: line.split()[4] for line in lines(capsys)[1:6]}
    assert (status["hf"], status["acme"]) == ("ok", "blocked")


def test_wrong_name_warns_on_stderr(sample, capsys):
    """With the near one; the listing stays as it is."""
    assert main(["list-plugins", "--plugins", "hff"]) == 0
    assert capsys.readouterr().err == "warning: --plugins names 'hff', which is not installed; did you mean 'hf'?\n"


def test_components_from_metadata_and_with_probes(dists, capsys):
    """`? (probe)` until --probe runs them."""
    dists.plugin("acme", KERNEL)
    (dists.folder / "acme_probe.py").write_text("def probe(): print('noise'); return False, 'no CUDA device'")
    dists.modules.append("acme_probe")
    assert main(["list-plugins", "--components"]) == 0
    out = [re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    assert out[0] == ["NAME", "KIND", "AVAILABLE", "TAGS", "SUMMARY"]
    assert len(out) == 1 + 32 + 2
    assert out[-2] == ["acme/fast", "kernel", "no: curvfix-absent>=3 is not installed", "-", "Fast"]
    assert out[-1] == ["acme/gpu", "kernel", "? (probe)", "compiled", "Gpu"]
    assert ["core/hessian", "operator", "yes", "exact,symmetric", "Hessian of the loss over all data"] in out
    assert main(["list-plugins", "--components", "--probe"]) == 0
    captured = capsys.readouterr()
    assert re.split(r" {2,}", captured.out.splitlines()[-1])[2] == "no: no CUDA device (probe)"
    assert captured.err == "noise\n"


def test_json_has_the_schema_of_the_documentation(sample, monkeypatch, capsys):
    """And nothing else is on stdout."""
    monkeypatch.delitem(__import__("sys").modules, "transformers", raising=False)
    assert main(["list-plugins", "--json", "--block-plugins", "ddp"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert (listing["schema"], listing["core"], listing["api"]) == (1, "0.1.0", "1.0")
    rows = {row["name"]: row for row in listing["plugins"]}
    assert list(rows) == ["core", "acme", "ddp", "hf", "old", "slow"]
    for row in rows.values():
        assert list(row) == [
            "name", "dist", "version", "api", "status", "stage", "reason", "path", "import_ms", "findings",
            "components",
        ]  # fmt: skip
    assert (rows["acme"]["status"], rows["acme"]["stage"], rows["acme"]["api"]) == ("broken", "import", None)
    assert rows["acme"]["reason"] == "ModuleNotFoundError: No module named 'acme_core'"
    assert (rows["ddp"]["stage"], rows["ddp"]["reason"], rows["ddp"]["import_ms"]) == (
        "filter",
        "--block-plugins",
        None,
    )
    assert rows["hf"]["findings"] == [
        {
            "stage": "discover",
            "code": "second-copy",
            "text": "a second copy, 0.0.9, is on sys.path",
            "mend": "delete the second",
        }
    ]
    assert rows["slow"]["import_ms"] >= 60
    assert rows["hf"]["path"] == str(sample.folder)
    assert rows["hf"]["components"][0] == {
        "name": "hf/x", "kind": "operator", "summary": "one", "available": True, "reason": None, "tags": [],
        "priority": None, "stability": "stable", "requires": [],
    }  # fmt: skip


def test_table_is_ascii_whatever_a_plugin_says(dists, capsys):
    """Escapes instead of letters that a terminal may lack, and of those that would move its cursor."""
    dists.add("fake-odd", "odd", "raise ValueError('\\u00e9\\x1b[2J')")
    assert main(["list-plugins"]) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert "ValueError: \\xe9\\x1b[2J" in out


def test_table_has_columns_as_wide_as_their_cells():
    """Two spaces between, none at the end."""
    assert table([("A", "BB"), ("ccc", "d")]) == ["A    BB", "ccc  d"]


def test_observing_plugin_provides_that(dists, capsys):
    """A plugin without components is not nothing."""
    dists.plugin("watch", "@hookimpl\ndef curvkit_run_started(run): pass\n")
    assert main(["list-plugins"]) == 0
    assert lines(capsys)[2].endswith("ok      observes runs")
