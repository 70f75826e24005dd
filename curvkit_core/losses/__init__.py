"""Loss adapters: the network hands over a tuple, the loss owns its curvature."""

from curvkit_core.lazy import lazy_names

_WHERE = {
    "BCEWithLogitsLoss": "curvkit_core.losses.bce",
    "BindsToModel": "curvkit_core.losses.protocol",
    "CallableLoss": "curvkit_core.losses.callable_loss",
    "ComputesUnitLosses": "curvkit_core.losses.protocol",
    "CrossEntropyLoss": "curvkit_core.losses.cross_entropy",
    "GivesGGN": "curvkit_core.losses.protocol",
    "LinearCrossEntropyLoss": "curvkit_core.losses.linear_cross_entropy",
    "LossAdapter": "curvkit_core.losses.protocol",
    "MSELoss": "curvkit_core.losses.mse",
    "PreparesSecondOrder": "curvkit_core.losses.protocol",
    "SamplesTargets": "curvkit_core.losses.protocol",
    "Uniforms": "curvkit_core.losses.protocol",
    "TokenCrossEntropy": "curvkit_core.losses.token_cross_entropy",
    "UnitGradients": "curvkit_core.losses.unit_gradients",
    "UsesKernels": "curvkit_core.losses.protocol",
    "as_loss_adapter": "curvkit_core.losses.from_torch",
    "build_bce_with_logits": "curvkit_core.losses.build",
    "build_cross_entropy": "curvkit_core.losses.build",
    "build_linear_cross_entropy": "curvkit_core.losses.build",
    "build_mse": "curvkit_core.losses.build",
}
__all__ = list(_WHERE)
__getattr__, __dir__ = lazy_names(__name__, _WHERE)
