"""The Jacobian's Gram matrix against the dense Jacobian, in float64."""

import pytest
import torch

from acme_curvature import JacobianGramOperator
from curvkit_core import CallableLoss, CrossEntropyLoss, Problem

EPS = torch.finfo(torch.float64).eps


@pytest.fixture
def model():
    """24 parameters: 2 inputs, 4 hidden, 3 outputs, no bias in the head."""
    generator = torch.Generator().manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3, bias=False)).double()
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return net


@pytest.fixture
def data():
    """7 examples in one batch."""
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(7, 2, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(3, (7,), generator=generator)


def dense_jacobian(model, inputs):
    """Shape (units, outputs, n), by torch.func: another path than the operator's."""
    names = [name for name, _ in model.named_parameters()]

    def outputs(*values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (inputs,))

    parts = torch.func.jacrev(outputs, argnums=tuple(range(len(names))))(*model.parameters())
    return torch.cat([part.reshape(len(inputs), 3, -1) for part in parts], dim=2).detach()


def dense_gram(jacobian):
    """J^T J / N."""
    flat = jacobian.reshape(-1, jacobian.shape[-1])
    return flat.mT @ flat / len(jacobian)


@pytest.mark.parametrize("output", [None, 0, 2])
def test_jacobian_gram_equals_the_dense_one(model, data, output):
    """J^T J / N, with all outputs or one."""
    jacobian = dense_jacobian(model, data[0])
    truth = dense_gram(jacobian if output is None else jacobian[:, [output]])
    found = JacobianGramOperator(Problem(model, [data], CrossEntropyLoss()), output=output).to_dense()
    tol = 100 * EPS * truth.abs().max()  # 21-term sums of products of 3 factors
    assert (found - truth).abs().max() <= tol
    assert (1.001 * found - truth).abs().max() > tol


def test_jacobian_gram_has_the_spectrum_of_the_kernel(model, data):
    """The nonzero eigenvalues of J^T J / N are those of the tangent kernel J J^T / N."""
    jacobian = dense_jacobian(model, data[0]).reshape(21, -1)
    kernel = torch.linalg.eigvalsh(jacobian @ jacobian.mT / 7)
    found = torch.linalg.eigvalsh(JacobianGramOperator(Problem(model, [data], CrossEntropyLoss())).to_dense())
    shared = min(len(kernel), len(found))
    tol = 100 * EPS * kernel.max()
    assert (found.flip(0)[:shared] - kernel.flip(0)[:shared]).abs().max() <= tol


@pytest.mark.parametrize("sizes", [(4, 3), (1,) * 7])
def test_jacobian_gram_does_not_depend_on_the_cut(model, data, sizes):
    """The same under any cut of the data into batches."""
    whole = JacobianGramOperator(Problem(model, [data], CrossEntropyLoss())).to_dense()
    batches = list(zip(data[0].split(sizes), data[1].split(sizes), strict=True))
    cut = JacobianGramOperator(Problem(model, batches, CrossEntropyLoss())).to_dense()
    assert (cut - whole).abs().max() <= 1e-12 * whole.abs().max()


def test_jacobian_gram_refuses_an_output_that_is_not_there(model, data):
    """Named with its value, the range and the mend."""
    operator = JacobianGramOperator(Problem(model, [data], CrossEntropyLoss()), output=3)
    with pytest.raises(ValueError, match=r"output=3 is out of range: the network has 3 outputs"):
        operator @ torch.ones(operator.n, dtype=torch.float64)


def test_jacobian_gram_refuses_a_loss_without_outputs(model, data):
    """Named, with the mend."""
    problem = Problem(model, [data], CallableLoss(lambda model, batch: model(batch[0]).square().mean()))
    with pytest.raises(TypeError, match=r"CallableLoss does not tell the network's outputs"):
        JacobianGramOperator(problem)
