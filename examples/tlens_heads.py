"""Which attention heads does the loss depend on most sharply? A map of curvature, a head a cell.

A two-layer, attention-only network learns to continue sequences that repeat themselves, which takes a head that looks
back in the first layer and one that copies in the second. The script draws the trace of each head's Gauss-Newton
matrix, over W_Q, W_K, W_V and W_O of that head alone, and beside it how the loss grows when the head is taken away::

    python examples/tlens_heads.py --out heads.png

`build` is also the problem of examples/tlens_heads.toml. Needs curvkit-tlens with transformer-lens 4, and matplotlib.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from pathlib import Path

import torch
from torch import Tensor

from curvkit_core import GGNOperator, Problem, trace
from curvkit_core.results.atomic import write_bytes
from curvkit_tlens import NextTokenLoss, ablated, interventions, match_components

LAYERS, HEADS, VOCABULARY, HALF = 2, 4, 24, 10


def repeated(rows: int, seed: int) -> Tensor:
    """Rows of HALF random tokens, twice each."""
    half = torch.randint(VOCABULARY, (rows, HALF), generator=torch.Generator().manual_seed(seed))
    return torch.cat([half, half], dim=1)


def build(steps: int = 600, seed: int = 0) -> Problem:
    """Train the network, half a minute on one core, and give the loss of the repeated half's tokens as a problem."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources import native

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = native.boot(
            TransformerBridgeConfig(
                n_layers=LAYERS, n_heads=HEADS, d_model=32, d_head=8, n_ctx=2 * HALF, d_vocab=VOCABULARY,
                act_fn="gelu", attn_only=True, seed=seed,
            )
        )  # fmt: skip
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for step in range(steps):
            optimizer.zero_grad()
            tokens = repeated(64, seed=1 + step)
            logits = model(tokens)[:, HALF - 1 : -1]
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, HALF:].flatten()).backward()
            optimizer.step()
    tokens = repeated(32, seed=0)
    labels = tokens.clone()
    labels[:, :HALF] = -100  # nothing can be known of the first half
    problem = Problem(model.eval(), [{"tokens": tokens, "labels": labels}], NextTokenLoss())
    problem.description = (
        f"{LAYERS} layers of {HEADS} heads, {steps} steps on repeated sequences: loss {risk(problem):.3f}"
    )
    return problem


def risk(problem: Problem) -> float:
    """The mean loss of the problem's data."""
    with torch.no_grad():
        sums = [float(problem.loss.loss_sum(problem.loss.outputs(problem.model, b), b)) for b in problem.batches]
    return sum(sums) / problem.num_units


def curvature_map(problem: Problem, num_matvecs: int = 40) -> Tensor:
    """The trace of each head's Gauss-Newton matrix, (layers, heads)."""
    found = torch.empty(LAYERS, HEADS)
    for layer in range(LAYERS):
        for head in range(HEADS):
            part = problem.restrict(match_components(f"blocks.{layer}.attn", heads=[head]))
            found[layer, head] = trace(GGNOperator(part), num_matvecs=num_matvecs, seed=0).estimate
    return found


def ablation_map(problem: Problem) -> Tensor:
    """How much the loss grows without each head, (layers, heads)."""
    found = torch.empty(LAYERS, HEADS)
    for layer in range(LAYERS):
        for head in range(HEADS):
            with interventions(problem.model, [(f"blocks.{layer}.attn.hook_z", ablated(head=head))]):
                found[layer, head] = risk(problem)
    return found - risk(problem)


def draw(maps: dict[str, Tensor], out: Path) -> None:
    """A heat map each, its numbers in its cells."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(maps), 2.9), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    for axes, (title, values) in zip(figure.subplots(1, len(maps)), maps.items(), strict=True):
        shown = axes.imshow(values, cmap="Blues", vmin=0.0, aspect="auto")
        for layer in range(LAYERS):
            for head in range(HEADS):
                value = float(values[layer, head])
                dark = value > 0.6 * float(values.max())
                axes.text(head, layer, f"{value:.2g}", ha="center", va="center", color="white" if dark else "black")
        axes.set_title(title, fontsize=10)
        axes.set_xticks(range(HEADS))
        axes.set_yticks(range(LAYERS))
        axes.set_xlabel("head")
        axes.set_ylabel("layer")
        figure.colorbar(shown, ax=axes)
    image = io.BytesIO()
    figure.savefig(image, format=out.suffix[1:] or "png")
    write_bytes(out, image.getvalue())  # whole or not at all


def main() -> None:
    """Train, measure, draw, and print the numbers."""
    parser = argparse.ArgumentParser(description="A map of curvature, an attention head a cell.")
    parser.add_argument("--out", type=Path, default=Path("tlens_heads.png"))
    parser.add_argument("--steps", type=int, default=600, help="of training")
    options = parser.parse_args()
    with contextlib.suppress(RuntimeError):
        torch.set_num_threads(1)  # the network is small
    problem = build(options.steps)
    print(problem.description)
    maps = {
        "trace of the Gauss-Newton matrix": curvature_map(problem),
        "loss without the head, minus loss": ablation_map(problem),
    }
    for title, values in maps.items():
        print(title)
        for layer, row in enumerate(values.tolist()):
            print(f"  layer {layer}  " + "  ".join(f"{value:9.4g}" for value in row))
    draw(maps, options.out)
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
