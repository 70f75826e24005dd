"""Program: several ranks of one program on this machine, forked, so that torch is imported once.

    python start_ranks.py PROGRAM SIZE FOLDER [ARGUMENT ...]

`PROGRAM` is a module beside this one with a function ``rank(folder, *arguments)``. Each rank's output goes into
``FOLDER/rank-N.log``. Prints a JSON line: each rank's exit code, negative for a signal, and the seconds until it ended.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import time
import traceback
from pathlib import Path


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_rank(module: object, rank: int, folder: Path, arguments: list[str]) -> None:
    """In a child: run the program as this rank, and end."""
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
    log = os.open(folder / f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        module.rank(folder, *arguments)
        code = 0
    except BaseException:  # noqa: BLE001 - its text is the rank's last word
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Start the ranks and wait for them."""
    name, size, folder, *arguments = sys.argv[1:]
    module = importlib.import_module(name)
    os.environ.update(WORLD_SIZE=size, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    begun = time.monotonic()
    children = {}
    for rank in range(int(size)):
        child = os.fork()
        if child == 0:
            run_rank(module, rank, Path(folder), arguments)
        children[child] = rank
    codes: dict[int, int] = {}
    seconds: dict[int, float] = {}
    while children:
        child, status = os.wait()
        rank = children.pop(child)
        codes[rank] = os.waitstatus_to_exitcode(status)
        seconds[rank] = time.monotonic() - begun
    print(json.dumps({"codes": [codes[r] for r in sorted(codes)], "seconds": [seconds[r] for r in sorted(seconds)]}))


if __name__ == "__main__":
    main()
