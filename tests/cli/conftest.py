"""The tests of the plugin commands see no distribution but those they add."""

from fixtures.fake_dists import dists

__all__ = ["dists"]
