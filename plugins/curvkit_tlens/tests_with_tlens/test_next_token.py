"""The next token's loss on a bridge: the same matrices as the plain model's, by another path, at a head in chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from curvkit_core import (
    CallableLoss,
    EmpiricalFisherOperator,
    FisherOperator,
    GGNOperator,
    HessianOperator,
    Problem,
    eigsh,
)
from curvkit_hf import CausalLMLoss
from curvkit_tlens import NextTokenLoss
from curvkit_tlens.attention_mode import eager_attention

F64 = torch.float64
#: Of an eigenvalue, relative: rounding in float64 where all is float64; Llama's norms go through float32.
TOLERANCE = {"gpt2": 1e-10, "llama": 1e-6}


def logits_ggn_eigenvalues(model: nn.Module, tokens: Tensor) -> Tensor:
    """The eigenvalues of J^T H J / N from J's rows one by one: those of R^T J J^T R, H = R R^T a block a target."""
    logits = model(tokens).logits[:, :-1].flatten(0, 1)
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = [torch.autograd.grad(z, parameters, retain_graph=True, allow_unused=True) for z in logits.flatten()]
    J = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    p = torch.softmax(logits.detach(), 1)
    values, vectors = torch.linalg.eigh(torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
    R = torch.block_diag(*(vectors * values.clamp(min=0.0).sqrt()[:, None, :]))
    return torch.linalg.eigvalsh(R.mT @ (J @ J.mT) @ R / len(logits)).flip(0)


def plain_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """torch's own cross-entropy; transformers' loss would go through float32."""
    return functional.cross_entropy(model(tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def top(operator: Any, k: int = 4) -> Tensor:
    return eigsh(operator, k=k, tol=1e-9, seed=0).eigenvalues


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_eigenvalues_are_those_of_the_plain_model(kind: str, boot: Any, plain: Any, tokens: Tensor) -> None:
    """GGN from J's rows, Hessian of the model's own loss, and both through curvkit_hf; head in chunks or logits."""
    model, reference = boot(kind), plain(kind)
    batches = [tokens[:2], tokens[2:]]
    problem = Problem(model, batches, NextTokenLoss())
    own = CallableLoss(plain_loss, num_units=lambda b: len(b) * (b.shape[1] - 1))
    ggn, hessian = top(GGNOperator(problem)), top(HessianOperator(problem))
    expected = logits_ggn_eigenvalues(reference, tokens)[:4]
    torch.testing.assert_close(ggn, expected, rtol=TOLERANCE[kind], atol=0.0)
    plain_hessian = top(HessianOperator(Problem(reference, batches, own)))
    torch.testing.assert_close(hessian, plain_hessian, rtol=TOLERANCE[kind], atol=0.0)
    through_hf = Problem(reference, [{"input_ids": b, "labels": b} for b in batches], CausalLMLoss())
    torch.testing.assert_close(ggn, top(GGNOperator(through_hf)), rtol=TOLERANCE[kind], atol=0.0)
    torch.testing.assert_close(hessian, top(HessianOperator(through_hf)), rtol=TOLERANCE[kind], atol=0.0)
    held = Problem(model, batches, NextTokenLoss(chunked=False))
    torch.testing.assert_close(ggn, top(GGNOperator(held)), rtol=TOLERANCE[kind], atol=0.0)
    assert problem.loss.head is not None
    assert held.loss.head is None
    assert not bool(torch.isclose(ggn, expected * (1 + 1e-3), rtol=TOLERANCE[kind], atol=0.0).any())


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("operator", [HessianOperator, GGNOperator, FisherOperator, EmpiricalFisherOperator])
def test_products_from_the_chunked_head_are_those_from_logits(
    kind: str, operator: Any, boot: Any, tokens: Tensor
) -> None:
    """Every operator, with label smoothing, padding and labels of one's own; a chunk holds two rows."""
    model = boot(kind)
    mask = torch.ones_like(tokens)
    # on the left a row's first positions see nothing, and transformers' Llama gives NaN in float64: on the right there
    mask[0, 4:], mask[1, slice(2) if kind == "gpt2" else slice(4, 6)] = 0, 0
    labels = torch.where(tokens % 5 == 0, -100, tokens)
    batches = [{"input_ids": tokens, "attention_mask": mask}, {"input_ids": tokens, "labels": labels}]
    options = {"chunk_bytes": 2 * 30 * 8 * 4} | ({"label_smoothing": 0.1} if operator is HessianOperator else {})
    chunked = Problem(model, batches, NextTokenLoss(**options))
    held = Problem(model, batches, NextTokenLoss(chunked=False, **options))
    v = chunked.space.random("gaussian", 0, 0, 1)[0]
    found, expected = operator(chunked) @ v, operator(held) @ v
    assert (found - expected).norm() <= 1e-11 * expected.norm()  # sums in another order, some 1e4 terms
    assert chunked.num_units == held.num_units == (15 - 2 - 2) + int((labels[:, 1:] != -100).sum())


def test_the_loss_is_the_models_own(boot: Any, tokens: Tensor) -> None:
    """TransformerLens's return_type="loss", with and without a mask; and what is held is hidden states, not logits."""
    model = boot("gpt2")
    mask = torch.ones_like(tokens)
    mask[0, 4:] = 0
    for batch in (tokens, {"tokens": tokens, "attention_mask": mask}):
        problem = Problem(model, [batch], NextTokenLoss())
        y = problem.loss.outputs(model, batch)
        with torch.no_grad():
            own = model(tokens, return_type="loss", **({"attention_mask": mask} if isinstance(batch, dict) else {}))
            mean = problem.loss.loss_sum(y, batch) / problem.loss.num_units(batch)
        assert abs(float(mean - own)) <= 1e-13 * float(own)
        assert [tuple(t.shape) for t in y][:2] == [(3, 6, 8), (30, 8)]


def test_padding_changes_nothing(boot: Any, tokens: Tensor) -> None:
    """Rows padded on the right, and what stands in the padding, against each row cut to its length."""
    model = boot("gpt2")
    mask = torch.ones_like(tokens)
    mask[0, 4:], mask[1, 3:] = 0, 0
    alone = Problem(model, [tokens[:1, :4], tokens[1:2, :3], tokens[2:]], NextTokenLoss())
    v = alone.space.random("gaussian", 0, 0, 1)[0]
    for filler in (0, 7):
        padded = {"input_ids": torch.where(mask.bool(), tokens, filler), "attention_mask": mask}
        for operator in (HessianOperator, GGNOperator):
            found, expected = operator(Problem(model, [padded], NextTokenLoss())) @ v, operator(alone) @ v
            assert (found - expected).norm() <= 1e-11 * expected.norm()


def test_softcapped_and_scaled_heads_are_found(native: Any) -> None:
    """Gemma 2's cap, as a TransformerLens configuration has it: the product at the head is that of the logits."""
    tokens = torch.randint(0, 7, (2, 5), generator=torch.Generator().manual_seed(0))
    model = native(output_logits_soft_cap=0.7)
    problem = Problem(model, [tokens], NextTokenLoss())
    held = Problem(model, [tokens], NextTokenLoss(chunked=False))
    assert (problem.loss.softcap, problem.loss.logit_scale) == (0.7, 1.0)
    v = problem.space.random("gaussian", 0, 0, 1)[0]
    for operator in (HessianOperator, GGNOperator):
        found, expected = operator(problem) @ v, operator(held) @ v
        assert (found - expected).norm() <= 1e-11 * expected.norm()
    assert not problem.history.findings


def test_a_head_that_is_more_than_w_u_is_left_alone_and_a_note_says_so(boot: Any, tokens: Tensor) -> None:
    """Logits that a module changes after W_U: held as they are, and right; the reason is in the record."""
    model = boot("gpt2")

    class Squared(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.weight, self.bias = inner, inner.weight, None

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) ** 2

    model.unembed._modules["_original_component"] = Squared(model.unembed.original_component)
    problem = Problem(model, [tokens], NextTokenLoss())
    assert problem.loss.head is None
    (note,) = problem.history.findings
    assert "tlens/next-token holds logits: W_U and b_U give logits that differ from the model's by" in note
    with torch.no_grad():
        y, rows = problem.loss.outputs(model, tokens), tokens[:, 1:].flatten()
        expected = functional.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), rows, reduction="sum")
        torch.testing.assert_close(problem.loss.loss_sum(y, tokens), expected, rtol=1e-13, atol=0.0)


def test_models_whose_positions_see_later_ones_are_refused(boot: Any, tokens: Tensor) -> None:
    model = boot("gpt2")
    model.adapter.supports_causal_loss = False  # as the adapters of BERT and its kin say
    with pytest.raises(TypeError, match="the TransformerBridge is of GPT2LMHeadModel, whose positions see later"):
        GGNOperator(Problem(model, [tokens], NextTokenLoss())).to_dense()


def test_compatibility_mode_and_folded_weights(boot: Any, tokens: Tensor) -> None:
    """After folding the model is another function of other parameters: chunked and from logits they agree there."""
    model = boot("gpt2")
    before = model(tokens)
    model.enable_compatibility_mode(disable_warnings=True)
    # the same predictions: folding moves logits by a constant a position
    found, expected = (functional.log_softmax(z, -1) for z in (model(tokens), before))
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-5)
    problem = Problem(model, [tokens], NextTokenLoss())
    held = Problem(model, [tokens], NextTokenLoss(chunked=False))
    v = problem.space.random("gaussian", 0, 0, 1)[0]
    for operator in (HessianOperator, GGNOperator):
        found, expected = operator(problem) @ v, operator(held) @ v
        assert (found - expected).norm() <= 1e-11 * expected.norm()
    assert problem.loss.head is not None


def test_attention_of_configurations_within_one_another_is_put_back() -> None:
    """Setting the outer one's sets those it holds: each has its own again, the eager ones among them too."""
    outer = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.BertConfig(num_hidden_layers=1), transformers.GPT2Config(n_layer=1)
    )
    model, encoder, decoder = (nn.Module() for _ in range(3))
    model.encoder, model.decoder = encoder, decoder
    model.config, encoder.config, decoder.config = outer, outer.encoder, outer.decoder
    chosen = ["flex_attention", "sdpa", "flash_attention_2"]
    configs = [outer, outer.encoder, outer.decoder]
    for config, kind in zip(configs, chosen, strict=True):
        config._attn_implementation = kind
    with pytest.raises(RuntimeError, match="on purpose"), eager_attention(model):
        assert [config._attn_implementation for config in configs] == ["eager"] * 3
        raise RuntimeError("on purpose")
    assert [config._attn_implementation for config in configs] == chosen
