"""What curvkit asks of every operator, one test a law; what a prior cannot keep is in `laplace_precision.cases`."""

from curvkit_core.testing import parametrize_with_checks


@parametrize_with_checks(plugin="laplace")
def test_conformance(check):
    """Passes, or fails as expected with the reason."""
    check()
