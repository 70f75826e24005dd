r"""The cross-entropy of each next token, for TransformerLens models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from attrs import evolve, field, frozen
from torch import Tensor, nn

from curvkit_core.losses import TokenCrossEntropy
from curvkit_core.losses.protocol import Outputs
from curvkit_tlens.attention_mode import eager_attention
from curvkit_tlens.config import NextTokenConfig
from curvkit_tlens.head import Head, find_head
from curvkit_tlens.token_batch import TokenBatch, read_batch

__all__ = ["NextTokenLoss", "build"]


@frozen(eq=False, kw_only=True)
class NextTokenLoss(TokenCrossEntropy):
    r"""The mean loss of the next tokens, :math:`-\frac1N\sum_{n,t}\log p(x_{n,t+1} \mid x_{n,\le t})`.

    It is what ``TransformerBridge`` and ``HookedTransformer`` give for ``return_type="loss"``. A batch is a tensor of
    tokens (N, T), or a mapping with ``input_ids`` (or ``tokens``) and, where wanted, ``attention_mask`` and ``labels``,
    which are aligned with the tokens and shifted here. The model runs as it is: with its hooks, in compatibility mode
    or not, with folded weights or not.

    A problem shows it the model first. Where W_U and b_U applied to what enters the unembedding give the model's own
    logits, the loss is computed from those in chunks of rows, and logits are never held; else, and as long as hooks sit
    on the unembedding, from the logits. Either way it is the same number and the same curvature.

    Parameters
    ----------
    ignore_index : int
        Labels that do not count.
    label_smoothing : float, 0 to 1
        Share of the target's mass that is spread over all tokens.
    chunked : bool
        False: always from the logits.
    softcap, logit_scale
        Of the head, found with it.
    chunk_bytes : int
        Bound on the (rows, V) tensors of a chunk, together.
    head : Head or None
        Found by the problem.
    kernels : Kernels
        Set by the problem.

    Notes
    -----
    A unit is a pair of neighbouring tokens that both count: with an attention mask neither padding nor what is
    predicted from it does.
    """

    chunked: bool = True
    head: Head | None = field(default=None, repr=False)

    def outputs(self, model: nn.Module, batch: Any) -> Outputs:
        """Logits (N, T, V); or what enters the unembedding (N, T, D), W_U^T (V, D) and, where there is a bias, b_U."""
        read = read_batch(batch)
        if self.head is None or self.head.is_hooked(model):
            return (_logits(model, read),)
        return self.head.outputs(model, lambda: _logits(model, read))

    def targets(self, batch: Any) -> Tensor:
        """The next token at every position, `ignore_index` at the last and beside padding: (N, T)."""
        return read_batch(batch).next_tokens(self.ignore_index)

    def bind(self, model: nn.Module, batch: Any) -> tuple[Self, tuple[str, ...]]:
        """The same loss with the model's head, if its logits were seen to be the model's own; else a note says why."""
        if not getattr(getattr(model, "adapter", None), "supports_causal_loss", True):
            msg = (
                f"the {type(model).__name__} is of {model.cfg.architecture}, whose positions see later ones: the next "
                "token's loss says nothing there. Use curvkit_core.CallableLoss with the loss it was trained for."
            )
            raise TypeError(msg)
        if not self.chunked:
            return evolve(self, head=None), ()
        read = read_batch(batch)
        found = find_head(model, lambda: _logits(model, read))
        if isinstance(found, str):
            return evolve(self, head=None), (f"tlens/next-token holds logits: {found}",)
        return evolve(self, head=found, softcap=found.softcap, logit_scale=found.logit_scale), ()

    @contextmanager
    def second_order(self, model: nn.Module) -> Iterator[None]:
        """Attention that has second derivatives; as it was afterwards."""
        with eager_attention(model):
            yield


def build(config: NextTokenConfig) -> NextTokenLoss:
    """Make the loss of a run file."""
    return NextTokenLoss(
        chunked=config.chunked, label_smoothing=config.label_smoothing, ignore_index=config.ignore_index
    )


def _logits(model: nn.Module, read: TokenBatch) -> Tensor:
    mask = {} if read.attention_mask is None else {"attention_mask": read.attention_mask}
    logits = model(read.tokens, return_type="logits", **mask)
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        got = f"of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        msg = f"{type(model).__name__} gave logits {got}: expected a tensor (N, T, V), as causal models give."
        raise TypeError(msg)
    return logits
