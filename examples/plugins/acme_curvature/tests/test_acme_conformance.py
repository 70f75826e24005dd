"""What curvkit asks of every operator and algorithm, one test a law."""

from curvkit_core.testing import parametrize_with_checks


@parametrize_with_checks(plugin="acme")
def test_conformance(check):
    """Passes, or fails as expected with the reason."""
    check()
