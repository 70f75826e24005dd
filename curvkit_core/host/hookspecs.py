"""The hooks of curvkit. Each docstring holds a whole plugin, and a test runs it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pluggy
from attrs import frozen

from curvkit_core.host.specs import (
    AlgorithmSpec,
    BackendSpec,
    KernelSpec,
    LossAdapterSpec,
    OperatorSpec,
    PluginInfo,
    ProblemSpec,
)

PROJECT = "curvkit"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@frozen(kw_only=True)
class PluginContext:
    """What a registration hook is told; it may grow fields, a hook never gets a second argument.

    Parameters
    ----------
    namespace : str
        The name of the plugin's entry point, which its components' names begin with.
    api : str
        The plugin API that the host speaks.
    core_version : str
        The version of curvkit-core.
    """

    namespace: str
    api: str
    core_version: str


@hookspec
def curvkit_plugin_info() -> PluginInfo:  # type: ignore[empty-body]
    """Say which plugin API is needed; the one hook that every plugin must have.

    It is called first. A plugin whose API the host does not speak is listed as incompatible and asked
    nothing else.

    Examples
    --------
    The entry point in ``pyproject.toml`` gives the namespace and aims at a light module::

        [project.entry-points."curvkit.plugins.v1"]
        acme = "acme_curvature._plugin"

    and ``acme_curvature/_plugin.py`` is

    .. code-block:: python

        from curvkit_core import PluginInfo, hookimpl


        @hookimpl
        def curvkit_plugin_info():
            return PluginInfo(api="1.0", summary="Curvature of the Acme kind")
    """


@hookspec
def curvkit_operators(ctx: PluginContext) -> Iterable[OperatorSpec]:  # type: ignore[empty-body]
    """Offer curvature operators, ``build(problem, config) -> CurvatureOperator``.

    Examples
    --------
    .. code-block:: python

        from curvkit_core import OperatorSpec, PluginInfo, hookimpl


        @hookimpl
        def curvkit_plugin_info():
            return PluginInfo(api="1.0")


        @hookimpl
        def curvkit_operators(ctx):
            yield OperatorSpec(
                name="acme/gauss-newton",
                summary="Gauss-Newton with the Acme damping",
                factory="acme_curvature.gauss_newton:build",
                config="acme_curvature.config:GaussNewtonConfig",
                tags=["symmetric", "psd"],
            )
    """


@hookspec
def curvkit_algorithms(ctx: PluginContext) -> Iterable[AlgorithmSpec]:  # type: ignore[empty-body]
    """Offer algorithms: the factory is the frozen attrs class with ``init``, ``ask``, ``tell`` and ``result``.

    Examples
    --------
    .. code-block:: python

        from curvkit_core import AlgorithmSpec, PluginInfo, hookimpl


        @hookimpl
        def curvkit_plugin_info():
            return PluginInfo(api="1.0")


        @hookimpl
        def curvkit_algorithms(ctx):
            return [
                AlgorithmSpec(
                    name="acme/rayleigh",
                    summary="Rayleigh quotient of a random direction",
                    factory="acme_curvature.rayleigh:Rayleigh",
                    tags=["stochastic"],
                )
            ]
    """


@hookspec
def curvkit_loss_adapters(ctx: PluginContext) -> Iterable[LossAdapterSpec]:  # type: ignore[empty-body]
    """Offer loss adapters, built as ``factory(config)``, or ``factory()`` where there is no config.

    `matches` lists the class names of the models that it fits; it is tested without an import.

    Examples
    --------
    .. code-block:: python

        from curvkit_core import LossAdapterSpec, PluginInfo, hookimpl


        @hookimpl
        def curvkit_plugin_info():
            return PluginInfo(api="1.0")


        @hookimpl
        def curvkit_loss_adapters(ctx):
            yield LossAdapterSpec(
                name="acme/huber",
                summary="Huber loss, a unit being an example",
                factory="acme_curvature.huber:HuberLoss",
                matches=["Acme*Regressor"],
                tags=["regression", "convex"],
            )
    """


@hookspec
def curvkit_backends(ctx: PluginContext) -> Iterable[BackendSpec]:  # type: ignore[empty-body]
    """Offer backends: how ranks reduce sums, cut batches and hold vectors.

    Examples
    --------
    .. code-block:: python

        from curvkit_core import BackendSpec, PluginInfo, hookimpl


        @hookimpl
        def curvkit_plugin_info():
            return PluginInfo(api="1.0")


        @hookimpl
        def curvkit_backends(ctx):
            yield BackendSpec(
                name="acme/mpi",
                summary="Replicated ranks over MPI",
                factory="acme_curvature.mpi:MPIBackend",
                requires=["mpi4py>=3"],
                probe="acme_curvature.mpi_probe:is_launched",
                priority=10,
                tags=["replicated"],
            )
    """


@hookspec
def curvkit_kernels(ctx: PluginContext) -> Iterable[KernelSpec]:  # type: ignore[empty-body]
    """Offer implementations of core's kernel operations; the reference in core is oracle and fallback.

    Examples
    --------
    .. code-block:: python

        from curvkit_core import KernelSpec, PluginInfo, hookimpl


        @hookimpl
        def curvkit_plugin_info():
            return PluginInfo(api="1.0")


        @hookimpl
        def curvkit_kernels(ctx):
            yield KernelSpec(
                name="acme/ce-hvp",
                summary="Cross-entropy Hessian product in one pass",
                factory="acme_curvature.ce_hvp:ce_hvp",
                op="ce_hvp",
                devices=["cuda"],
                dtypes=["float32", "bfloat16"],
                tolerance=1e-6,
                priority=10,
            )
    """


@hookspec
def curvkit_problems(ctx: PluginContext) -> Iterable[ProblemSpec]:  # type: ignore[empty-body]
    """Offer problems, ``build(config) -> Problem``: a model, its data and its loss, ready to differentiate.

    Examples
    --------
    .. code-block:: python

        from curvkit_core import PluginInfo, ProblemSpec, hookimpl


        @hookimpl
        def curvkit_plugin_info():
            return PluginInfo(api="1.0")


        @hookimpl
        def curvkit_problems(ctx):
            yield ProblemSpec(
                name="acme/pendulum",
                summary="A small network that imitates a pendulum",
                factory="acme_curvature.pendulum:build",
                config="acme_curvature.config:PendulumConfig",
                requires=["scipy>=1.10"],
                tags=["demo"],
            )
    """


@hookspec
def curvkit_run_started(run: Any) -> None:
    """Watch runs: called before the first product. An error here is logged and changes nothing.

    Examples
    --------
    .. code-block:: python

        from curvkit_core import PluginInfo, hookimpl

        seen = []


        @hookimpl
        def curvkit_plugin_info():
            return PluginInfo(api="1.0")


        @hookimpl
        def curvkit_run_started(run):
            seen.append(run)
    """


@hookspec
def curvkit_run_finished(run: Any) -> None:
    """Watch runs: called after the results are on disk. An error here is logged and changes nothing.

    Of a run on shards the vectors in its results have shapes and no elements (device ``"meta"``): each result's
    ``parts`` says where they are.

    Examples
    --------
    .. code-block:: python

        from curvkit_core import PluginInfo, hookimpl

        seen = []


        @hookimpl
        def curvkit_plugin_info():
            return PluginInfo(api="1.0")


        @hookimpl
        def curvkit_run_finished(run):
            seen.append(run)
    """
