"""Run by `nox -s wheels` on a folder of sdists and wheels: five of each, typed, licensed, with nothing else in them.

`python tests/packaging/check_wheels.py FOLDER`.
"""

import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

NAMES = ("curvkit_core", "curvkit_hf", "curvkit_tlens", "curvkit_triton", "curvkit_ddp")
FOREIGN = ("tests", "tests_with_triton", "examples", "benchmarks", "docs", "plugins", "noxfile.py", ".github")


def check_wheel(path: Path, name: str) -> str:
    """One package and its metadata; what is wrong is said by name."""
    with zipfile.ZipFile(path) as wheel:
        files = wheel.namelist()
        (metadata,) = [file for file in files if file.endswith(".dist-info/METADATA")]
        fields = message_from_string(wheel.read(metadata).decode())
    top = {file.split("/")[0] for file in files if ".dist-info/" not in file}
    assert top == {name}, f"{path.name} holds {top}: expected {name} alone"
    assert f"{name}/py.typed" in files, f"{path.name} has no py.typed"
    assert any(file.endswith("licenses/LICENSE") for file in files), f"{path.name} has no licence"
    stray = [file for file in files if "__pycache__" in file or file.split("/")[-1].startswith("test_")]
    # what `curvkit new-plugin` writes has tests, which are not this package's
    stray = [file for file in stray if "/scaffold/templates/" not in file]
    assert not stray, f"{path.name} holds {stray[:3]}"
    assert fields["License-Expression"] == "MIT", f"{path.name}: licence {fields['License-Expression']}"
    assert fields["Requires-Python"] == ">=3.11", f"{path.name}: Python {fields['Requires-Python']}"
    return str(fields["Version"])


def check_sdist(path: Path) -> None:
    """No tests, examples or other distributions in it; the build's own files are."""
    with tarfile.open(path) as sdist:
        names = [name.split("/", 1)[1] for name in sdist.getnames() if "/" in name]
    top = {name.split("/")[0] for name in names}
    assert {"pyproject.toml", "LICENSE", "README.md", "PKG-INFO"} <= top, f"{path.name} lacks {top}"
    assert not top.intersection(FOREIGN), f"{path.name} holds {top.intersection(FOREIGN)}"


def main(folder: Path) -> None:
    """Check all of them, and that they have one version."""
    versions = set()
    for name in NAMES:
        (wheel,) = folder.glob(f"{name}-*.whl")
        (sdist,) = folder.glob(f"{name}-*.tar.gz")
        versions.add(check_wheel(wheel, name))
        check_sdist(sdist)
        print(f"{wheel.name}: {wheel.stat().st_size // 1024} KiB, {sdist.name}: {sdist.stat().st_size // 1024} KiB")
    assert len(versions) == 1, f"the distributions have the versions {versions}: expected one"
    assert len(list(folder.iterdir())) == 2 * len(NAMES), "the folder holds something else"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
