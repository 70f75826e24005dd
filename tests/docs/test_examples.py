"""Every fenced block of the README and of docs/ is run: Python, console listings and TOML."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from attrs import frozen

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md")])
FIRST_PARTY = "hf,tlens,triton,ddp"


@frozen(kw_only=True)
class Block:
    """A fenced block: where it stands, its language, its text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def blocks(language: str) -> list[Block]:
    """Every fenced block of this language, page by page."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            if match[1] == language:
                line = text.count("\n", 0, match.start()) + 1
                found.append(Block(page=page, line=line, language=language, text=match[2]))
    return found


def pages_with(language: str) -> list[Path]:
    """The pages that have such blocks."""
    return sorted({block.page for block in blocks(language)})


@pytest.mark.parametrize("page", pages_with("python"), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_blocks_run(page):
    """The blocks of a page run one after another, as a reader would paste them."""
    names = {"__name__": f"docs_{page.stem}"}
    for block in blocks("python"):
        if block.page == page:
            source = "\n" * block.line + block.text  # so that a traceback has the page's line
            exec(compile(source, str(page), "exec"), names)


def commands(block: Block) -> list[tuple[str, list[str]]]:
    """(command, lines shown below it) of a console block."""
    found = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


@cache
def output_of(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a `curvkit` command in `folder`, with the first-party plugins alone and no terminal."""
    program, *arguments = shlex.split(command)
    assert program == "curvkit", f"{command!r}: a console block shows curvkit commands"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CURVKIT_")}
    return subprocess.run(
        [sys.executable, "-m", "curvkit_core", *arguments],
        cwd=folder,
        env=kept | {"CURVKIT_PLUGINS": FIRST_PARTY, "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the examples and nothing else, as the repository's root has them."""
    place = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "examples", place / "examples")
    return place


def matches(shown: list[str], output: str) -> bool:
    """Whether the output is as shown: a line `...` stands for any lines, `...` in a line for any text of that line."""
    pattern = ""
    for line in shown:
        if line.strip() == "...":
            pattern += r"(?:.*\n)*"
        else:
            pattern += ".*".join(re.escape(part) for part in line.rstrip().split("...")) + r"\n"
    printed = "".join(f"{line.rstrip()}\n" for line in output.strip("\n").splitlines())
    return re.fullmatch(pattern, printed) is not None


@pytest.mark.parametrize("block", blocks("console"), ids=str)
def test_console_blocks_run_and_show_what_is_shown(block, folder):
    """Each command exits with 0, or with 2 where the page shows an error, and prints what stands below it."""
    for command, shown in commands(block):
        done = output_of(command, folder)
        expected = 2 if any(re.search(r": \d+ errors?$", line) for line in shown[:1]) else 0
        assert done.returncode == expected, f"{command}\n{done.stdout}{done.stderr}"
        if shown:
            assert matches(shown, done.stdout + (done.stderr if expected else "")), (
                f"{command} prints\n{done.stdout}{done.stderr}"
            )


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_toml_blocks_are_right(block, tmp_path):
    """Each is TOML; a whole run file passes `curvkit config check`."""
    data = tomllib.loads(block.text)
    if "schema" in data:
        file = tmp_path / "run.toml"
        file.write_text(block.text)
        done = output_of(f"curvkit config check {shlex.quote(str(file))}", tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_pages_have_examples():
    """Control: the collector finds blocks, so that no page goes unread."""
    assert len(blocks("python")) >= 8
    assert len(blocks("console")) >= 4
    assert len(blocks("toml")) >= 3


def test_other_fenced_blocks_are_shell_set_up_only():
    """No other language goes unchecked: `sh` sets up, `py` is other tools' code, which `nox -s migration` runs."""
    for page in PAGES:
        languages = set(re.findall(r"^```(\w+)$", page.read_text(), re.MULTILINE))
        others = {"py"} if page.name == "migration.md" else set()
        assert languages <= {"python", "console", "toml", "sh", *others}, page
    # the README's two commands, and the quickstart's
    assert [block.text.count("\n") for block in blocks("sh")] == [1, 1, 1]


def scripts_shown(text: str) -> list[tuple[str, list[str]]]:
    """(script, its options) of each indented line that runs a script of the repository."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = re.findall(r"^    python (\S+\.py)(.*)$", joined, re.MULTILINE)
    return [(script, re.findall(r"--[a-z-]+", rest)) for script, rest in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_scripts_and_sessions_that_a_page_names_exist(page):
    """What takes minutes is not run here: the script is there and knows its options, the session is the noxfile's."""
    text = page.read_text()
    for script, options in scripts_shown(text):
        source = (ROOT / script).read_text()
        assert set(options) <= set(re.findall(r"\"(--[a-z-]+)\"", source)), script
    sessions = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
    named = set(re.findall(r"nox -s \"?([a-z_0-9]+)", text))
    assert named <= sessions


def test_the_pages_name_scripts():
    """Control: scripts and their options are found, also over the end of a line."""
    found = [shown for page in PAGES for shown in scripts_shown(page.read_text())]
    assert len(found) >= 10
    assert any("--cells" in options and "--preflight" in options for _, options in found)


def test_a_wrong_listing_is_refused():
    """Negative control of the comparison."""
    assert matches(["a  1", "..."], "a  1\nb\nc\n")
    assert matches(["a  ...", "...", "c"], "a  1\nb\nc\n")
    assert not matches(["a  ..."], "a  1\nb\n")
    assert not matches(["a  2", "..."], "a  1\nb\nc\n")
    assert not matches(["a  1"], "a  1\nb\n")
