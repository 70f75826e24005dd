"""What curvkit asks of every algorithm, one test a law."""

from curvkit_core.testing import parametrize_with_checks


@parametrize_with_checks(plugin="krylov")
def test_conformance(check):
    """Each law holds."""
    check()
