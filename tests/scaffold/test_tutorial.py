"""The author's guide, followed to the letter: its transcript is run in an empty folder, and prints what it shows."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

from curvkit_core.scaffold import new_plugin

GUIDE = Path(__file__).parents[2] / "docs" / "plugins.md"


def transcript() -> list[tuple[str, list[str]]]:
    """(command, lines shown below it) of the guide's first indented block."""
    text = GUIDE.read_text().split("## From nothing to a row in list-plugins\n")[1].split("\n## ")[0]
    lines = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def code_blocks() -> list[str]:
    """The guide's indented blocks of Python: what stands in an author's files."""
    plain = re.sub(r"^```.*?^```$", "", GUIDE.read_text(), flags=re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"(?:^(?:    .*)?\n)+", plain, re.MULTILINE)
    return [textwrap.dedent(block).strip() for block in blocks if re.match(r"\s*(from|import|[A-Z_]+ =) ", block)]


def shown_in(shown: list[str], output: str) -> bool:
    """`...` stands for any text of its line, and alone for any lines; columns may be wider than shown."""
    pattern = ""
    for line in shown:
        if line.strip() == "...":
            pattern += r"(?:.*\n)*"
        else:
            words = [re.escape(part) for part in re.split(r"\.\.\.", line.rstrip())]
            pattern += re.sub(r"(\\ ){2,}", r" +", ".*".join(words)) + r"\n"
    printed = "".join(f"{line.rstrip()}\n" for line in output.splitlines())
    return re.fullmatch(pattern, printed) is not None


def test_the_transcript_is_what_happens(tmp_path: Path) -> None:
    """Five commands, from an empty folder to a green conformance run."""
    site = tmp_path / "site"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CURVKIT_")}
    environ = kept | {"PYTHONPATH": str(site), "CURVKIT_PLUGINS": "acme", "PYTHONDONTWRITEBYTECODE": "1"}
    folder = tmp_path / "empty"
    folder.mkdir()
    python = [sys.executable, "-m"]
    commands = transcript()
    assert [command.split()[0] for command, _ in commands] == ["curvkit", "pip", "curvkit", "curvkit", "pytest"]
    for command, shown in commands:
        program, *arguments = shlex.split(command)
        if program == "pip":  # beside this environment, not into it; nox -s scaffold installs for real
            options = ["--no-deps", "--no-build-isolation", "--target", str(site), "-q"]
            arguments = ["install", *options, arguments[-1].removesuffix("[test]")]
        module = {"curvkit": "curvkit_core"}.get(program, program)
        done = subprocess.run(
            [*python, module, *arguments],
            cwd=folder,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        # plugins that are installed here, and are not in the reader's environment
        printed = "".join(line for line in done.stdout.splitlines(keepends=True) if "  blocked  " not in line)
        assert shown_in(shown, printed), f"{command} prints\n{printed}"


def test_the_guides_fragments_are_in_the_package(tmp_path: Path) -> None:
    """What the guide shows without running it stands in a generated package, line by line, and is run there."""
    place = new_plugin("acme", "operator", tmp_path / "made")
    package = "\n".join(path.read_text() for path in sorted(place.rglob("*.py")))
    fragments = code_blocks()
    assert len(fragments) == 2
    for line in (line for block in fragments for line in block.splitlines() if line.strip()):
        assert f"{line}\n" in package, line


def test_another_listing_is_refused() -> None:
    """Negative control of the comparison."""
    assert shown_in(["a  1", "..."], "a    1\nb\n")
    assert not shown_in(["a  1"], "a  2\n")
    assert not shown_in(["a  1"], "a  1\nb\n")
