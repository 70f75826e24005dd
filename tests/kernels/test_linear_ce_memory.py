"""Memory by the peak of a child's resident set: nothing of the logits' size, at a vocabulary where it would show."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from curvkit_core.kernels.linear_ce_options import CHUNK_BYTES

CLASSES, WIDTH, ROWS = 151_936, 64, 512
WEIGHT_BYTES = 4 * CLASSES * WIDTH  # 39 MB
LOGIT_BYTES = 4 * CLASSES * ROWS  # 311 MB
SLACK = 16 << 20  # hidden states, a heap's own overhead, code that is loaded meanwhile

PROGRAM = """
import json, pathlib, sys, torch
from torch.func import grad, jvp, vjp
from torch.nn import functional
from curvkit_core.kernels import linear_ce, linear_ce_ggn

def resident(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))

def plain_loss(h, W, t):
    return functional.cross_entropy(h @ W.mT, t, reduction="sum")

def plain_ggn(h, W, t, dh, dW):
    z, u = jvp(lambda h, W: h @ W.mT, (h, W), (dh, dW))
    Hu = jvp(grad(lambda z: functional.cross_entropy(z, t, reduction="sum")), (z,), (u,))[1]
    return Hu @ W, Hu.mT @ h

def ggn(h, W, t, dh, dW):
    return linear_ce_ggn(h, W, None, t, dh, dW, None)[:2]

def hessian(loss):
    def product(h, W, t, dh, dW):
        h, W = h.requires_grad_(), W.requires_grad_()
        slopes = torch.autograd.grad(loss(h, W, t), (h, W), create_graph=True)
        return torch.autograd.grad(slopes, (h, W), (dh, dW))
    return product

def loss(h, W, t):
    return linear_ce(h, W, None, t)

WAYS = {"ggn": ggn, "plain ggn": plain_ggn, "hessian": hessian(loss), "plain hessian": hessian(plain_loss)}

def inputs(classes, width, rows):
    torch.manual_seed(0)
    h, W = torch.randn(rows, width), 0.1 * torch.randn(classes, width)
    return h, W, torch.randint(classes, (rows,)), torch.randn_like(h), torch.randn_like(W)

torch.set_num_threads(1)
way = WAYS[sys.argv[1]]
way(*inputs(101, 8, 16))  # the libraries' own buffers
given = inputs(*map(int, sys.argv[2:]))
pathlib.Path("/proc/self/clear_refs").write_text("5")
base = resident("VmRSS")
product = way(*given)
print(json.dumps({"peak": resident("VmHWM") - base, "norms": [float(t.double().norm()) for t in product]}))
"""


@cache
def measured(way: str) -> dict:
    """Peak above the inputs, and the norms of the product's parts."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, way, str(CLASSES), str(WIDTH), str(ROWS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the high-water mark is read as Linux has it")
@pytest.mark.parametrize(
    ("way", "weights"),
    [
        ("ggn", 1),  # the product's part in the weight
        ("hessian", 3),  # that, the gradient's, and a copy that autograd makes of one
    ],
)
def test_peak_is_a_chunk_and_tensors_of_the_weights_size(way: str, weights: int) -> None:
    """At 151,936 classes and 4 x 128 rows; the same product with the logits there, the negative control, is above."""
    bound = CHUNK_BYTES + weights * WEIGHT_BYTES + SLACK
    assert bound < LOGIT_BYTES
    assert measured(way)["peak"] <= bound
    assert measured(f"plain {way}")["peak"] > 2 * LOGIT_BYTES
    for ours, plain in zip(measured(way)["norms"], measured(f"plain {way}")["norms"], strict=True):
        assert abs(ours - plain) <= 1e-4 * plain  # float32
