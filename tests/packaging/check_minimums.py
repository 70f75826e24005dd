"""Hold that what is installed here is the lowest version of everything that pyproject.toml declares.

Run by ``nox -s minimums`` before its tests: an environment in which a tool has brought a later version tests nothing.
"""

import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
EXTRAS = ("plot", "demo", "testing")


def lowest(requirement: Requirement) -> Version:
    """The version behind ``>=``."""
    (found,) = [Version(s.version) for s in requirement.specifier if s.operator == ">="]
    return found


def main() -> int:
    """Print a line each; 1 where one is not the lowest."""
    lines = [*PROJECT["dependencies"], *(line for name in EXTRAS for line in PROJECT["optional-dependencies"][name])]
    wrong = 0
    for requirement in map(Requirement, lines):
        here, declared = Version(metadata.version(requirement.name)), lowest(requirement)
        # >=23.2 means 23.2.0; a local part (2.6.0+cpu) says how it was built
        same = Version(here.public) == declared
        wrong += not same
        print(f"{requirement.name:<13} {declared!s:<8} {here}{'' if same else '  NOT THE LOWEST'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
