"""Mutated run files: never a traceback, never a hang; one error that names the file, or a plan."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from curvkit_core import Registry
from curvkit_core.config import ConfigError
from curvkit_core.runs import make_plan, read_run_file

SEED_FILE = """\
schema = 1
[problem]
kind = "core/digits-mlp"
hidden = [32, 16]
activation = "tanh"
epochs = 2
dtype = "float64"
[[operator]]
kind = "core/hessian"
[[operator]]
kind = "core/ggn"
params = ["0.*", "2.weight"]
[[algorithm]]
kind = "core/eigsh"
k = 3
tol = 1e-6
which = "LA"
on = ["core/ggn"]
[[algorithm]]
kind = "core/trace"
num_matvecs = 30
[sweep]
by = ["0.*", "2.*"]
[landscape]
directions = 2
[backend]
kind = "auto"
[auto]
prefer = ["core/ce-hvp"]
[budget]
seconds = 10
[checkpoint]
products = 5
"""
# what replaces a value: of every type TOML has, out of every range
VALUES = (
    "0", "-1", "1", "9999999999999999999999", "1e400", "nan", "inf", "-0.0", "true", "false", '""', '"core/eigsh"',
    '"core/nope"', '"../../etc/passwd"', '"\\u0000"', "'''\n'''", "[]", "[[]]", "{}", "{a = 1}", "[1, 'a']",
    "1979-05-27", "07:32:00", "0x10", '"$.algorithm[0]"', '"' + "x" * 5000 + '"', "[" * 200 + "]" * 200,
)  # fmt: skip
NOISE = ("\x00", "\ufeff", "=", "[", "]]", '"', "\n", "#", "\\", "é", "\u202e", "{", ",", "[[operator]]", "kind")


def mutated(draw: random.Random) -> bytes:
    """The file with one to four changes: of a value, a key, a line, some bytes."""
    lines = SEED_FILE.splitlines()
    for _ in range(draw.randint(1, 4)):
        if not lines:
            break
        at = draw.randrange(len(lines))
        kind = draw.randrange(7)
        key, equals, _ = lines[at].partition(" = ")
        if kind == 0 and equals:
            lines[at] = f"{key} = {draw.choice(VALUES)}"
        elif kind == 1:
            del lines[at]
        elif kind == 2:
            lines.insert(at, draw.choice(lines))
        elif kind == 3:
            place = draw.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + draw.choice(NOISE) + lines[at][place:]
        elif kind == 4 and equals:
            lines[at] = f"{draw.choice(('kk', 'kind', 'params', 'on', 'seed', key.upper()))} = {draw.choice(VALUES)}"
        elif kind == 5:
            other = draw.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        else:
            lines = lines[: at + 1]
    data = bytearray("\n".join(lines).encode("utf-8", "surrogatepass"))
    if data and draw.random() < 0.1:
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data)


def hold(registry: Registry, folder: Path, count: int, seed: int) -> tuple[int, int]:
    """Read and plan `count` mutated files; how many were plans and how many were refused."""
    draw = random.Random(seed)
    path = folder / "mutated.toml"
    plans = refused = 0
    for number in range(count):
        data = mutated(draw)
        path.write_bytes(data)
        begun = time.perf_counter()
        said = ""
        try:
            make_plan(read_run_file(path), registry, source=str(path))
            plans += 1
        except ConfigError as error:
            refused += 1
            said = str(error)
        except Exception as error:
            raise AssertionError(f"file {number}: {type(error).__name__}: {error}\n{data!r}") from error
        assert not said or "mutated.toml" in said, data
        assert len(said) < 20_000, data
        assert time.perf_counter() - begun < 20.0, data
    return plans, refused


def test_three_hundred_mutated_files(registry: Registry, tmp_path: Path) -> None:
    """Some are still plans, most are refused, none is a traceback."""
    plans, refused = hold(registry, tmp_path, 300, seed=0)
    assert plans >= 10
    assert refused >= 150


@pytest.mark.slow
def test_ten_thousand_mutated_files(registry: Registry, tmp_path: Path) -> None:
    plans, refused = hold(registry, tmp_path, 10_000, seed=1)
    assert plans + refused == 10_000
