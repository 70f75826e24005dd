"""`auto`: capability, availability, priority; ties are errors and what was passed over is told."""

import pytest
from fixtures.fake_dists import INFO

from curvkit_core import load_registry
from curvkit_core.errors import AmbiguousComponentError, UnavailableComponentError

PROBES = """
import sys
calls = []
def yes(): calls.append("yes"); return True, ""
def no(): calls.append("no"); return False, "no CUDA device"
def bare_no(): return False, ""
def raises(): raise RuntimeError("driver")
def exits(): sys.exit(1)
def wrong(): return True
"""


@pytest.fixture
def kernels(dists):
    """Load a registry whose plugins offer kernels: {namespace: keyword arguments of the spec}."""
    (dists.folder / "probes.py").write_text(PROBES)
    dists.modules.append("probes")

    def load(**plugins):
        for namespace, fields in plugins.items():
            extra = "".join(f", {k}={v!r}" for k, v in {"op": "ce_hvp", **fields}.items())
            dists.plugin(
                namespace,
                "@hookimpl\ndef curvkit_kernels(ctx):\n"
                f"    yield KernelSpec(name='{namespace}/ce-hvp', summary='', factory='a:b'{extra})\n",
            )
        return OneOp(load_registry().kernels)

    return load


class OneOp:
    """The catalog of kernels as a run asks it: for one operation."""

    def __init__(self, catalog):
        self.catalog = catalog

    def auto(self, *, where=lambda spec: (True, ""), **options):
        return self.catalog.auto(where=lambda s: where(s) if s.op == "ce_hvp" else (False, ""), **options)

    def __getattr__(self, name):
        return getattr(self.catalog, name)


def test_highest_priority_wins(kernels):
    """Core's reference has 0."""
    chosen = kernels(acme={"priority": 10}, triton={"priority": 20}).auto()
    assert (chosen.spec.name, chosen.skipped) == ("triton/ce-hvp", ())


def test_negative_priority_is_below_core(kernels):
    """A priority is a number like any other."""
    assert kernels(acme={"priority": -1}).auto().spec.name == "core/ce-hvp"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"probe": "probes:no"}, "no CUDA device (probe)"),
        ({"probe": "probes:bare_no"}, "refused (probe)"),
        ({"probe": "probes:raises"}, "its probe raised RuntimeError: driver"),
        ({"probe": "probes:exits"}, "its probe raised SystemExit: 1"),
        ({"probe": "probes:wrong"}, "its probe returned True, expected (bool, str)"),
        ({"probe": "probes:absent"}, "probe 'probes:absent': probes was imported, it has no attribute 'absent'"),
        ({"requires": ["curvfix-absent>=3"]}, "curvfix-absent>=3 is not installed"),
        ({"stability": "experimental"}, "experimental"),
    ],
)
def test_what_cannot_run_is_skipped_with_its_reason(kernels, fields, reason):
    """And core's reference is taken."""
    chosen = kernels(triton={"priority": 20, **fields}).auto()
    assert (chosen.spec.name, chosen.skipped) == ("core/ce-hvp", (("triton/ce-hvp", reason),))
    assert chosen.describe("kernel ce_hvp") == f"kernel ce_hvp: core/ce-hvp (skipped triton/ce-hvp: {reason})"


def test_probe_that_says_yes(kernels):
    """Run once per registry, whoever asks."""
    catalog = kernels(triton={"priority": 20, "probe": "probes:yes"})
    assert (
        catalog.auto().spec.name == catalog.auto().spec.name == catalog.require("triton/ce-hvp").name == "triton/ce-hvp"
    )
    assert __import__("probes").calls == ["yes"]


def test_without_priority_never(kernels):
    """Not even if preferred, and then that is told."""
    catalog = kernels(acme={})
    assert (catalog.auto().spec.name, catalog.auto().skipped) == ("core/ce-hvp", ())
    assert catalog.auto(prefer=["acme/ce-hvp"]).skipped == (
        ("acme/ce-hvp", "it has no priority, so auto never takes it"),
    )


def test_experimental_if_allowed(kernels):
    """Only then."""
    catalog = kernels(acme={"priority": 5, "stability": "experimental"})
    assert catalog.auto(allow_experimental=True).spec.name == "acme/ce-hvp"


def test_tie_is_an_error(kernels):
    """The alphabet does not decide."""
    catalog = kernels(triton={"priority": 20}, acme={"priority": 20})
    with pytest.raises(
        AmbiguousComponentError,
        match=r"^auto: acme/ce-hvp and triton/ce-hvp tie at priority 20. mend: name one in the run file",
    ):
        catalog.auto()


def test_tie_is_mended_by_prefer(kernels):
    """The first preferred that can run; names of other kinds are passed by."""
    catalog = kernels(triton={"priority": 20}, acme={"priority": 20}, slow={"priority": 1})
    assert catalog.auto(prefer=["ddp/replicated", "triton/ce-hvp", "acme/ce-hvp"]).spec.name == "triton/ce-hvp"
    assert catalog.auto(prefer=["slow/ce-hvp"]).spec.name == "slow/ce-hvp"


def test_preferred_that_cannot_run_is_skipped(kernels):
    """A preference is no order."""
    chosen = kernels(triton={"priority": 20, "probe": "probes:no"}).auto(prefer=["triton/ce-hvp"])
    assert (chosen.spec.name, chosen.skipped) == ("core/ce-hvp", (("triton/ce-hvp", "no CUDA device (probe)"),))


def test_capability_comes_first(kernels):
    """What the caller cannot use is not probed; an empty reason is not recorded."""
    catalog = kernels(triton={"priority": 20, "probe": "probes:raises"}, other={"priority": 30, "op": "linear_ce"})

    def where(spec):
        if spec.op != "ce_hvp":
            return False, ""
        return (False, "float64 is not among its dtypes") if spec.name.startswith("triton") else (True, "")

    chosen = catalog.auto(where=where)
    assert (chosen.spec.name, chosen.skipped) == (
        "core/ce-hvp",
        (("triton/ce-hvp", "float64 is not among its dtypes"),),
    )


def test_nothing_left_is_an_error_with_all_reasons(kernels):
    """Never a substitute of another kind."""
    catalog = kernels(triton={"priority": 20, "probe": "probes:no"})
    with pytest.raises(
        UnavailableComponentError,
        match=r"auto: no kernel can run here \(core/ce-hvp: not wanted; triton/ce-hvp: no CUDA device \(probe\)\)",
    ):
        catalog.auto(where=lambda spec: (spec.namespace != "core", "not wanted"))


def test_plugin_that_failed_to_load_is_told(kernels, dists):
    """What it would have offered nobody knows; that a slower one may be taken for it is said."""
    dists.add("fake-triton", "triton", "raise ImportError('no driver')")
    dists.plugin("old", info=INFO.replace("1.0", "3.0"))
    assert [name for name, _ in kernels().auto().skipped] == ["old/*", "triton/*"]
    assert dict(kernels().auto().skipped)["triton/*"] == "its plugin failed at import: ImportError: no driver"


def test_own_availability(kernels):
    """A caller's answer stands in for the probes; `None` is no yes."""
    from curvkit_core.host import Availability

    catalog = kernels(acme={"priority": 10})
    chosen = catalog.auto(available=lambda s: Availability(True if s.namespace == "core" else None))
    assert chosen.skipped == (("acme/ce-hvp", "not known to run here"),)


def test_explicit_choice_is_never_substituted(kernels):
    """`require` raises where `auto` would go on."""
    catalog = kernels(triton={"priority": 20, "probe": "probes:no"})
    with pytest.raises(UnavailableComponentError) as caught:
        catalog.require("triton/ce-hvp")
    assert str(caught.value) == (
        "kernel 'triton/ce-hvp' cannot run here: no CUDA device (probe). It was named explicitly, so nothing is "
        'substituted; use kind = "auto" or core/ce-hvp'
    )
    assert catalog.require("ce-hvp").name == "core/ce-hvp"
