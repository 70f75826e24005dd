"""Estimates by random probes: trace, diagonal, Frobenius norm, each with its standard error."""
