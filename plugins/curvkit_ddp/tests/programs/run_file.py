"""`curvkit run` as one of several ranks; rank 1 may be given something else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from curvkit_core.cli.main import main


def rank(folder: Path, file: str, different: str, *arguments: str) -> None:
    """Run it, and end with its exit code."""
    os.chdir(folder)
    more = list(arguments)
    if os.environ["RANK"] == "1" and different == "plugins":
        os.environ["CURVKIT_BLOCK_PLUGINS"] = "triton"
    if os.environ["RANK"] == "1" and different == "settings":
        more += ["--set", "algorithm.0.k=3"]
    code = main(["run", file, "--no-plots", *more])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
