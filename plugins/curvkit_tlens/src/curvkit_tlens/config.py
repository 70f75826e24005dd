"""Configuration of this plugin's components in run files; imports no torch."""

from __future__ import annotations

from typing import Any

from attrs import Attribute, field, frozen, validators

from curvkit_core.operators.config import EngineConfig

__all__ = ["BridgeConfig", "ComponentConfig", "HookPointConfig", "NextTokenConfig"]

_KINDS = ("hessian", "ggn", "fisher", "empirical-fisher")


@frozen(kw_only=True)
class NextTokenConfig:
    """Cross-entropy of each next token.

    Parameters
    ----------
    chunked : bool
        Compute the loss from hidden states and W_U, in chunks, where that was seen to equal the model's own logits.
    label_smoothing : float, 0 to 1
        Share of the target's mass that is spread over all tokens.
    ignore_index : int
        Labels that do not count.
    """

    chunked: bool = True
    label_smoothing: float = field(default=0.0, validator=[validators.ge(0.0), validators.le(1.0)])
    ignore_index: int = -100


@frozen(kw_only=True)
class HookPointConfig:
    """The curvature in the activation at a hook point.

    Parameters
    ----------
    hook : str
        The hook point, as "blocks.5.hook_resid_post".
    of : {"hessian", "ggn", "fisher", "empirical-fisher"}
        Which curvature.
    position : int, or none
        One position of every example; negative ones count from the end.
    head : int, or none
        One head, where the activation has an axis of them.
    directions : str, or none
        A safetensors file with a tensor (m, features): the m x m matrix along these directions.
    num_samples : int, at least 1
        Targets drawn for each unit, by "fisher".
    seed : int, at least 0
        Of the draws.
    """

    hook: str
    of: str = field(default="hessian", validator=validators.in_(_KINDS))
    position: int | None = None
    head: int | None = None
    directions: str | None = None
    num_samples: int = field(default=1, validator=validators.ge(1))
    seed: int = field(default=0, validator=validators.ge(0))


@frozen(kw_only=True)
class ComponentConfig(EngineConfig):
    """The curvature in the parameters of components, or of some heads of them.

    Parameters
    ----------
    components : list of str
        TransformerLens's names or globs of them: "blocks.3.attn", "W_Q", "mlp", "embed".
    heads : list of int, or none
        Only these heads' parts of the attention's parameters.
    of : {"hessian", "ggn", "fisher", "empirical-fisher"}
        Which curvature.
    num_samples : int, at least 1
        Targets drawn for each unit, by "fisher".
    seed : int, at least 0
        Of the draws.
    """

    components: tuple[str, ...] = field(validator=validators.min_len(1))
    heads: tuple[int, ...] | None = None
    of: str = field(default="ggn", validator=validators.in_(_KINDS))
    num_samples: int = field(default=1, validator=validators.ge(1))
    seed: int = field(default=0, validator=validators.ge(0))


def _one_source(instance: BridgeConfig, attribute: Attribute[Any], value: object) -> None:
    if (instance.model is None) == (not instance.native):
        given = "both" if instance.native else "neither"
        msg = f"model and native: {given} is given. Expected one: model = 'a folder or hub id', or a table native."
        raise ValueError(msg)


@frozen(kw_only=True)
class BridgeConfig:
    """A TransformerLens model on text, by the cross-entropy of each next token.

    Parameters
    ----------
    model : str, or none
        A local folder of a transformers model with its tokenizer, or a hub id.
    native : table
        Instead of `model`: a network of TransformerLens's own with random weights, by the fields of its configuration
        (n_layers, d_model, n_ctx, d_head, n_heads, d_vocab, act_fn, ...). It reads bytes where d_vocab is 256 or more.
    text : str
        A text file, a .jsonl file, or a folder of them.
    text_field : str
        Of a .jsonl line, where the text is.
    sequence_length : int, at least 2
        Tokens of a sequence: the text is cut into whole ones, end to end.
    sequences : int, or none
        How many at most, from the front.
    batch_size : int, at least 1
        Sequences in a batch: cost, not meaning.
    dtype : {"float32", "float64", "bfloat16"}
        Of the weights.
    device : str
        As torch spells it.
    components : list of str
        Names or globs of components; none: all parameters.
    heads : list of int, or none
        Only these heads' parts of the attention's parameters.
    compatibility_mode : bool
        Fold the layer norms and centre the weights, as HookedTransformer does.
    seed : int, at least 0
        Of a native network's weights.
    weighting : {"unit", "batch-mean"}
        How the data are averaged.
    """

    model: str | None = None
    native: dict[str, Any] = field(factory=dict, hash=False, validator=_one_source)  # a table has no hash
    text: str
    text_field: str = "text"
    sequence_length: int = field(default=128, validator=validators.ge(2))
    sequences: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    batch_size: int = field(default=8, validator=validators.ge(1))
    dtype: str = field(default="float32", validator=validators.in_(("float32", "float64", "bfloat16")))
    device: str = "cpu"
    components: tuple[str, ...] = ()
    heads: tuple[int, ...] | None = None
    compatibility_mode: bool = False
    seed: int = field(default=0, validator=validators.ge(0))
    weighting: str = field(default="unit", validator=validators.in_(("unit", "batch-mean")))
