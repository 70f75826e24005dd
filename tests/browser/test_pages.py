"""The report opened in headless Chromium: whole, quiet, and readable on a phone. `nox -s browser` runs these.

The page forbids scripts, so a page beside it measures it in a frame of a phone's width, and writes what it saw into its
own document, which Chromium prints.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from curvkit_core.cli.main import main
from curvkit_core.host.registry import configure_default

pytestmark = pytest.mark.browser

WIDTH = 390  # CSS pixels of a phone
SMALLEST = 9.0  # CSS pixels of letters that can still be read
DIGITS = """\
schema = 1
[problem]
kind = "core/digits-mlp"
hidden = [8]
epochs = 5
examples = 200
[[operator]]
kind = "core/hessian"
[[operator]]
kind = "core/ggn"
"""
TRANSFORMER = """\
schema = 1
[problem]
kind = "core/python"
factory = "tiny_transformer:build"
[[operator]]
kind = "core/hessian"
"""
COMMON = """\
[[algorithm]]
kind = "core/eigsh"
k = 4
seed = 0
[[algorithm]]
kind = "core/trace"
num_matvecs = 24
seed = 0
[[algorithm]]
kind = "core/spectral-density"
num_probes = 2
steps = 15
seed = 0
[sweep]
by = "layer"
num_probes = 3
steps = 15
seed = 0
[landscape]
points = 9
"""
MODEL = """\
import torch
from curvkit_core import CrossEntropyLoss, Problem


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(11, 8)
        layer = lambda: torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.blocks = torch.nn.ModuleDict({"<img src=x onerror=alert(1)>": layer(), "second": layer()})
        self.head = torch.nn.Linear(8, 11)

    def forward(self, tokens):
        hidden = self.embed(tokens)
        for block in self.blocks.values():
            hidden = block(hidden)
        return self.head(hidden[:, -1])


def build():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, tokens = Tiny(), torch.randint(11, (24, 5))
    problem = Problem(model, [(tokens, tokens[:, 0])], CrossEntropyLoss())
    problem.description = "a tiny transformer, <script>document.title='run'</script> & co"
    return problem
"""
MEASURE = """\
<!DOCTYPE html><meta charset="utf-8"><style>body{margin:0}iframe{border:0;width:%dpx;height:900px}</style>
<iframe id="f" src="%s"></iframe><script>
document.getElementById("f").addEventListener("load", function () {
  const d = this.contentDocument, w = this.contentWindow, seen = {};
  seen.title = d.title;
  seen.width = d.documentElement.scrollWidth;
  seen.scripts = d.scripts.length;
  seen.loaded = w.performance.getEntriesByType("resource").map(e => e.name);
  seen.figures = [...d.querySelectorAll("figure")].map(f => f.querySelector("figcaption").textContent);
  seen.drawings = [...d.querySelectorAll("svg")].map(s => {
    const box = s.getBoundingClientRect();
    const drawn = s.querySelectorAll("path,circle,rect").length;
    return [box.width, box.height, drawn, 11 * box.width / s.viewBox.baseVal.width];
  });
  seen.letters = Math.min(...[...d.querySelectorAll("p,td,th,li,pre,figcaption,.key")].map(
    e => parseFloat(w.getComputedStyle(e).fontSize)));
  seen.images = d.images.length;
  seen.numbers = Math.max(...[...d.querySelectorAll("tbody tr")].map(r => r.cells[1].getBoundingClientRect().left));
  seen.rows = d.querySelectorAll("table tbody tr").length;
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = JSON.stringify(seen);
  document.body.appendChild(out);
});
</script>
"""


def browser() -> str:
    """Chromium's path, from $CHROMIUM or the usual names."""
    names = [os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"]
    found = next((path for path in map(shutil.which, filter(None, names)) if path), None)
    assert found, "no Chromium: apt-get install -y --no-install-recommends chromium, or set CHROMIUM to its path"
    return found


def opened(page: Path, *options: str) -> tuple[str, str]:
    """The document as Chromium has it in the end, and what it wrote to its console."""
    command = [
        browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--allow-file-access-from-files", "--enable-logging=stderr", "--virtual-time-budget=4000", *options,
        page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return done.stdout, "\n".join(said)


def measured(page: Path) -> dict[str, Any]:
    frame = page.with_name("measure.html")
    frame.write_text(MEASURE % (WIDTH, page.name))
    text, said = opened(frame, "--dump-dom", "--window-size=1000,1000")
    assert said == ""
    found = re.search(r'<pre id="seen">(.*?)</pre>', text, re.DOTALL)
    assert found, text
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    return seen


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The reports of the digits and of a tiny transformer whose layers have dangerous names."""
    folder = tmp_path_factory.mktemp("reports")
    before = Path.cwd()
    os.chdir(folder)
    try:
        Path("tiny_transformer.py").write_text(MODEL)
        for name, text in (("digits", DIGITS), ("transformer", TRANSFORMER)):
            Path(f"{name}.toml").write_text(text + COMMON)
            assert main(["--no-plugins", "run", f"{name}.toml", "--no-plots", "--out", name]) == 0
    finally:
        os.chdir(before)
        configure_default()
    return {name: folder / name / "report.html" for name in ("digits", "transformer")}


@pytest.mark.parametrize(("name", "operators"), [("digits", 2), ("transformer", 1)])
def test_report_is_whole_quiet_and_readable_on_a_phone(reports: dict[str, Path], name: str, operators: int) -> None:
    """No console message, nothing loaded, no sideways scrolling at 390 px, every figure drawn, letters of 9 px."""
    _, said = opened(reports[name], "--dump-dom")
    assert said == ""
    seen = measured(reports[name])
    assert seen["width"] <= WIDTH
    assert seen["scripts"] == seen["images"] == 0
    assert seen["loaded"] == []
    for part in ("Eigenvalues of", "Residuals of", "over the products", "Convergence of the trace",
                 "Spectral density of", "logarithmic", "Largest eigenvalue of each group", "Trace of each group",
                 "Frobenius norms of the blocks", "Loss along eigenvector 1", "Loss along eigenvector 2"):  # fmt: skip
        assert sum(part in title for title in seen["figures"]) >= operators, part
    assert len(seen["drawings"]) == 11 * operators
    for width, height, drawn, letters in seen["drawings"]:
        assert 250 <= width <= WIDTH
        assert height >= 150
        assert drawn >= 2  # the axes, and something between them
        assert letters >= SMALLEST
    assert seen["letters"] >= SMALLEST
    assert seen["rows"] >= 8
    assert seen["numbers"] <= WIDTH - 100  # the names of groups leave room for numbers


def test_names_are_shown_and_not_run(reports: dict[str, Path]) -> None:
    """A module named as an image with a handler, a description with a script: text, both of them."""
    text = reports["transformer"].read_text()
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "<img" not in text
    assert "<script" not in text
    assert measured(reports["transformer"])["title"] == "Curvature of core/python"


def test_a_page_that_is_too_wide_or_speaks_is_seen(reports: dict[str, Path]) -> None:
    """Negative control: the same report with a wide element and a script."""
    page = reports["digits"].with_name("worse.html")
    text = reports["digits"].read_text().replace("<main>", '<main><div style="width:700px">wide</div>')
    page.write_text(re.sub(r'<meta http-equiv="Content.*?>', "", text) + "<script>console.error('loud')</script>")
    _, said = opened(page, "--dump-dom")
    assert "loud" in said
    frame = page.with_name("measure.html")
    frame.write_text(MEASURE % (WIDTH, page.name))
    found = re.search(r'<pre id="seen">(.*?)</pre>', opened(frame, "--dump-dom")[0], re.DOTALL)
    assert found
    assert json.loads(html.unescape(found[1]))["width"] > WIDTH
