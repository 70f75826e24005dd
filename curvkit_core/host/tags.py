"""The words a spec may carry as tags, a set per kind; they choose the conformance checks and help a search.

A plugin's own tags carry its namespace, as ``"acme/noisy"``; any other word is reported as a finding.
"""

from __future__ import annotations

from curvkit_core.host.specs import ComponentSpec

KNOWN_TAGS = {
    "operator": frozenset(
        {
            "symmetric",
            "psd",
            "stochastic",
            "exact",
            "approximate",
            "needs-units",
            "activations",
        }
    ),
    "algorithm": frozenset(
        {
            "eigenvalues",
            "singular-values",
            "trace",
            "diagonal",
            "norm",
            "spectral-density",
            "solve",
            "logdet",
            "matrix-function",
            "factorization",
            "stochastic",
            "symmetric-only",
            "psd-only",
        }
    ),
    "loss adapter": frozenset(
        {
            "classification",
            "regression",
            "language-model",
            "likelihood",
            "convex",
            "units",
            "sampling",
            "chunked-head",
        }
    ),
    "backend": frozenset({"single", "replicated", "sharded"}),
    "kernel": frozenset({"reference", "compiled", "repeatable", "approximate"}),
    "problem": frozenset(
        {
            "demo",
            "user-code",
            "training",
            "downloads",
            "classification",
            "regression",
            "language-model",
        }
    ),
}


def unknown_tags(spec: ComponentSpec, namespace: str) -> list[str]:
    """Return a sentence for each tag of `spec` that is neither known for its kind nor the plugin's own."""
    known = KNOWN_TAGS[spec.kind]
    odd = sorted(tag for tag in spec.tags if tag not in known and not tag.startswith(f"{namespace}/"))
    if not odd:
        return []
    from curvkit_core.host.near_names import did_you_mean

    return [f"{spec.name} has the unknown tag {tag!r}{did_you_mean(tag, known)}" for tag in odd]
