"""The kinds of component, in the order in which they are listed; the class of its specs says what a kind is called."""

from __future__ import annotations

from curvkit_core.host.specs import (
    AlgorithmSpec,
    BackendSpec,
    ComponentSpec,
    KernelSpec,
    LossAdapterSpec,
    OperatorSpec,
    ProblemSpec,
)

Kind = type[ComponentSpec]
KINDS: tuple[Kind, ...] = (OperatorSpec, AlgorithmSpec, LossAdapterSpec, BackendSpec, KernelSpec, ProblemSpec)
KIND_BY_NAME = {spec.kind: spec for spec in KINDS}
OBSERVER_HOOKS = ("curvkit_run_started", "curvkit_run_finished")
