"""What is found from metadata alone, and which copy of a distribution is taken."""

import importlib.metadata
import sys
import zipfile

import pytest
from fixtures.fake_dists import GROUP, operators, plugin_source

from curvkit_core import load_registry
from curvkit_core.host.discover import find_plugins
from curvkit_core.host.full_walk import full_walk


def only():
    """The one plugin there is."""
    (found,) = find_plugins()
    return found


def test_nothing_is_imported(dists):
    """Discovery reads metadata; a module that would fail is not touched."""
    dists.add("fake-boom", "boom", "raise AssertionError")
    assert (only().namespace, only().dist, only().version) == ("boom", "fake-boom", "1.0")
    assert "fake_boom" not in sys.modules


def test_order_is_by_name_whatever_the_path_says(dists):
    """Namespace first, then distribution."""
    for dist, namespace in (("zz", "a"), ("mm", "c"), ("aa", "b")):
        dists.plugin(namespace, dist=dist)
    assert [c.namespace for c in find_plugins()] == ["a", "b", "c"]


def test_stale_copy_that_comes_first_does_not_hide_the_plugin(dists, tmp_path):
    """The older metadata declare nothing; `entry_points` of importlib would see no plugin at all."""
    dists.plugin("hf", dist="fake-hf", version="0.2")
    stale = tmp_path / "src" / "fake_hf.egg-info"
    stale.mkdir(parents=True)
    (stale / "PKG-INFO").write_text("Name: fake-hf\nVersion: 0.1\n")
    sys.path.insert(0, str(stale.parent))
    assert not importlib.metadata.entry_points(group=GROUP)
    found = only()
    assert (found.version, [f.code for f in found.findings]) == ("0.2", ["second-copy"])
    record = load_registry().plugin("hf")
    assert record is not None
    assert record.findings[0].text == "a second copy, 0.1, is on sys.path"
    assert record.findings[0].detail.endswith(f"0.1 at {stale.parent} (stale .egg-info)")


def test_first_copy_that_declares_a_plugin_is_used(dists, tmp_path):
    """As importlib does; the other is a finding."""
    dists.plugin("hf", dist="fake-hf", version="0.2")
    other = tmp_path / "other" / "fake_hf-0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Name: fake-hf\nVersion: 0.1\n")
    (other / "entry_points.txt").write_text(f"[{GROUP}]\nhf = fake_hf\n")
    sys.path.append(str(other.parent))
    assert (only().version, only().findings[0].detail.split("(")[1][:4]) == ("0.2", "used")
    sys.path.insert(0, str(other.parent))
    assert only().version == "0.1"


def test_equal_copy_is_no_finding(dists, tmp_path):
    """An editable install leaves the same metadata twice; one version, one declaration: nobody is misled."""
    info = dists.plugin("hf", dist="fake-hf")
    twin = tmp_path / "src" / "fake_hf.egg-info"
    twin.mkdir(parents=True)
    (twin / "PKG-INFO").write_text((info / "METADATA").read_text())
    (twin / "entry_points.txt").write_text((info / "entry_points.txt").read_text())
    sys.path.append(str(twin.parent))
    assert only().findings == ()
    (twin / "PKG-INFO").write_text("Name: fake-hf\nVersion: 1.0.1\n")
    assert [f.code for f in only().findings] == ["second-copy"]


def test_same_folder_twice_on_the_path_is_one_copy(dists, tmp_path):
    """Through a link, as lib64 -> lib."""
    dists.plugin("hf")
    link = tmp_path / "lib64"
    link.symlink_to(dists.folder, target_is_directory=True)
    sys.path.append(str(link))
    assert only().findings == ()


def test_empty_metadata_folder_does_not_hide_the_plugin(dists, tmp_path):
    """An uninstall that was cut short leaves a dist-info without METADATA; doctor names it."""
    dists.plugin("hf", dist="fake-hf")
    empty = tmp_path / "early" / "fake_hf-0.9.dist-info"
    empty.mkdir(parents=True)
    sys.path.insert(0, str(empty.parent))
    assert (only().dist, only().version) == ("fake-hf", "1.0")
    codes = [f.code for f in full_walk(["fake-hf"]).findings["fake-hf"]]
    assert codes == ["empty-metadata"]


def test_full_walk_finds_a_copy_whose_folder_is_named_otherwise(dists, tmp_path):
    """The listing goes by folder names; doctor reads headers."""
    dists.plugin("hf", dist="fake-hf")
    other = tmp_path / "odd" / "renamed-0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Name: Fake_HF\nVersion: 0.1\n")
    sys.path.append(str(other.parent))
    assert only().findings == ()
    (finding,) = full_walk(["fake-hf"]).findings["fake-hf"]
    assert finding.text == "a second copy, 0.1, is on sys.path"


def test_full_walk_reports_core_metadata_of_another_version(dists):
    """Core works with stale metadata, and says so."""
    dists.add("curvkit-core", version="0.0.1")
    (finding,) = full_walk([]).findings["curvkit-core"]
    assert finding.code == "core-metadata"
    assert "says 0.0.1, the code in use is" in finding.text


def test_unreadable_entry_points_stop_nobody(dists):
    """Not UTF-8: the plugin beside it is found, doctor names the folder."""
    info = dists.add("rotten")
    (info / "entry_points.txt").write_bytes(b"\xff\xfe[curv")
    dists.plugin("hf")
    assert only().namespace == "hf"
    (text,) = full_walk([]).unreadable
    assert str(info) in text


def test_malformed_entry_points_are_a_broken_row(dists):
    """A line without `=`: importlib raises, the listing shows."""
    dists.add("fake-odd", entry_points=f"[{GROUP}]\nno equals sign\n")
    dists.plugin("hf")
    odd, hf = [p for p in load_registry().plugins if p.namespace != "core"]
    assert (odd.namespace, odd.status, odd.stage, hf.status) == ("fake-odd", "broken", "discover", "ok")
    assert odd.reason.startswith("its entry_points.txt cannot be read: ")


def test_plugin_in_a_zip_file_is_found(dists, tmp_path):
    """No folder to look into, so through importlib."""
    archive = tmp_path / "plugins.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped.py", plugin_source(operators("zip/one")))
        file.writestr("zipped-1.0.dist-info/METADATA", "Name: zipped\nVersion: 1.0\n")
        file.writestr("zipped-1.0.dist-info/entry_points.txt", f"[{GROUP}]\nzip = zipped\n")
    sys.path.append(str(archive))
    dists.modules.append("zipped")
    assert "zip/one" in load_registry().operators


@pytest.mark.parametrize(
    ("namespace", "value", "text"),
    [
        ("core", "m", r"the namespace 'core' is reserved"),
        ("local", "m", r"the namespace 'local' is reserved"),
        ("My_Plugin", "m", r"the namespace 'My_Plugin' is malformed: expected \[a-z0-9-\]\+"),
        ("acme", "./m.py", r"the entry point's value './m.py' is malformed"),
    ],
)
def test_bad_entry_point_is_broken_at_discover(dists, namespace, value, text):
    """Without an import."""
    dists.add("fake-bad", namespace, "raise AssertionError", value=value)
    (record,) = load_registry().plugins[1:]
    assert (record.status, record.stage, record.exception) == ("broken", "discover", None)
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(record.reason)


def test_one_namespace_twice_in_one_distribution_is_broken(dists):
    """Neither the first nor the last wins."""
    dists.add("fake-two", entry_points=f"[{GROUP}]\nacme = one\nacme = two\n")
    (record,) = load_registry().plugins[1:]
    assert record.reason == "fake-two declares 'acme' twice: one and two"


def test_several_namespaces_of_one_distribution_are_several_plugins(dists):
    """A distribution may bring two."""
    dists.plugin("one", operators("one/x"), dist="fake-both")
    (dists.folder / "second.py").write_text(plugin_source(operators("two/x")))
    dists.modules.append("second")
    info = dists.folder / "fake_both-1.0.dist-info"
    (info / "entry_points.txt").write_text(f"[{GROUP}]\none = fake_both\ntwo = second\n")
    assert [p.namespace for p in load_registry().plugins if p.status == "ok"] == ["core", "one", "two"]


def test_plugin_for_two_majors_is_taken_with_ours(dists):
    """v1 and v2 declared side by side: this host loads v1 and lists one row."""
    source = plugin_source(operators("acme/x"))
    dists.add(
        "fake-acme", source=source, entry_points=f"[{GROUP}]\nacme = fake_acme\n[curvkit.plugins.v2]\nacme = absent\n"
    )
    (record,) = load_registry().plugins[1:]
    assert (record.status, record.api) == ("ok", "1.0")


def test_older_major_says_upgrade_the_plugin(dists):
    """Which side to upgrade depends on which is behind."""
    dists.add("fake-old", "old", "raise AssertionError", group="curvkit.plugins.v0")
    (record,) = load_registry().plugins[1:]
    assert record.reason == "needs plugin API 0.x, this curvkit-core speaks 1.0; upgrade fake-old"


def test_given_entry_points_replace_what_is_installed(dists):
    """For tests of plugin authors: no metadata needed."""
    dists.plugin("installed")
    (dists.folder / "given.py").write_text(plugin_source(operators("given/x")))
    dists.modules.append("given")
    point = importlib.metadata.EntryPoint(name="given", value="given", group=GROUP)
    (record,) = load_registry(entry_points=[point]).plugins[1:]
    assert (record.namespace, record.dist, record.status) == ("given", "(no distribution)", "ok")


def test_distribution_of_another_finder_is_found(dists, monkeypatch):
    """A frozen program, say, whose metadata lie in no folder."""

    class Frozen(importlib.metadata.Distribution):
        def read_text(self, filename):
            texts = {"METADATA": "Name: in-memory\nVersion: 3.1\n", "entry_points.txt": f"[{GROUP}]\nmem = in_memory\n"}
            return texts.get(filename)

        def locate_file(self, path):
            return path

    class Finder:
        @staticmethod
        def find_distributions(context):
            return [Frozen()]

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert (only().namespace, only().dist, only().version) == ("mem", "in-memory", "3.1")


def test_folder_without_metadata_and_missing_folder_are_no_error(dists, tmp_path):
    """``sys.path`` holds what it likes."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("not a zip file")
    sys.path += [str(tmp_path / "empty"), str(tmp_path / "absent"), str(tmp_path / "file.txt"), ""]
    dists.plugin("hf")
    assert only().namespace == "hf"
