"""Quick batch norms against torch's own."""

import copy

import pytest
import torch
from torch import nn

from nasfw.spaces import normalisation
from nasfw.spaces.normalisation import QuickBatchNorm1d, QuickBatchNorm2d, _Normalised, quicken, restore

SHAPES = [(4, 3, 50), (1, 2, 7), (5, 4, 6, 7), (2, 1, 1, 3), (3, 2, 1)]


@pytest.fixture(autouse=True)
def _however_small(monkeypatch):
    monkeypatch.setattr(normalisation, "LEAST", 0)


def pair(shape, dtype=torch.float64, **settings):
    """An ordinary batch norm and an equal quick one."""
    ordinary = (nn.BatchNorm1d if len(shape) == 3 else nn.BatchNorm2d)(shape[1], **settings).to(dtype)
    if ordinary.affine:
        nn.init.normal_(ordinary.weight)
        nn.init.normal_(ordinary.bias)
    quick = copy.deepcopy(ordinary)
    quicken(quick)
    return ordinary, quick


def outcome(module, x):
    """Value, gradients and running statistics."""
    x = x.clone().requires_grad_()
    y = module(x)
    direction = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    gradients = torch.autograd.grad(y, [x, *module.parameters()], direction)
    return [y, *gradients, *module.buffers()]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("settings", [{}, {"affine": False}, {"momentum": 0.5, "eps": 1e-3}])
def test_everything_is_as_in_torchs_own(shape, dtype, tolerance, settings):
    ordinary, quick = pair(shape, dtype, **settings)
    for _ in range(2):
        x = 3 + 2 * torch.randn(shape, dtype=dtype)
        for found, expected in zip(outcome(quick, x), outcome(ordinary, x), strict=True):
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=10 * tolerance)
    assert quick.state_dict().keys() == ordinary.state_dict().keys()


@pytest.mark.parametrize("mean", [0.0, 1.9, 2.1, 1e3])
def test_single_precision_is_kept_however_far_from_zero_values_are(mean):
    ordinary, quick = pair((8, 3, 500), torch.float32)
    x = mean + torch.randn(8, 3, 500)
    exact = copy.deepcopy(ordinary).double()(x.double())
    assert (quick(x) - exact).abs().max() <= 2 * (ordinary(x) - exact).abs().max() + 1e-5


def test_first_and_second_derivatives_are_those_of_finite_differences():
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    _, quick = pair((3, 2, 4))
    weights = [p.detach().clone().requires_grad_() for p in quick.parameters()]

    def normalised(x, weight, bias):
        mean, variance = x.detach().mean((0, 2)), x.detach().var((0, 2), correction=0)
        return _Normalised.apply(x, weight, bias, mean, variance, quick.eps)

    assert torch.autograd.gradcheck(normalised, (x, *weights))
    assert torch.autograd.gradgradcheck(normalised, (x, *weights))


@pytest.mark.parametrize("change", ["eval", "vectors", "channels last", "cumulative", "small"])
def test_elsewhere_torchs_own_is_taken(change, monkeypatch):
    """Equal to the last digit, since it is the same."""
    monkeypatch.setattr(normalisation, "LEAST", 301 if change == "small" else 0)
    ordinary, quick = pair((4, 3, 5, 5), torch.float32, momentum=None if change == "cumulative" else 0.1)
    x = torch.randn(4, 3, 5, 5)
    if change == "eval":
        ordinary.eval()
        quick.eval()
    if change == "channels last":
        x = x.contiguous(memory_format=torch.channels_last)
    if change == "vectors":
        ordinary, quick = pair((4, 3, 1), torch.float32)
        x = torch.randn(4, 3)
    assert torch.equal(quick(x), ordinary(x))


@pytest.mark.parametrize("least", [0, 1000])
@pytest.mark.parametrize("training", [True, False])
def test_a_factor_multiplies_the_norm(least, training, monkeypatch):
    """And its gradient is the sum of the gradient times the norm."""
    monkeypatch.setattr(normalisation, "LEAST", least)
    ordinary, quick = (module.train(training) for module in pair((4, 3, 5, 5), affine=False))
    x, g = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    factor = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    expected, found = ordinary(x), quick.scaled(x, factor)
    torch.testing.assert_close(found, 0.3 * expected)
    found.backward(g)
    torch.testing.assert_close(factor.grad, (g * expected).sum())


def test_a_single_value_is_refused_as_by_torch():
    _, quick = pair((1, 2, 1))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        quick(torch.randn(1, 2, 1, dtype=torch.float64))


def test_maps_of_another_kind_are_refused_as_by_torch():
    _, quick = pair((1, 2, 1))
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        quick(torch.randn(2, 2, 3, 3, dtype=torch.float64))


def test_constant_maps_give_the_bias():
    _, quick = pair((2, 3, 4))
    torch.testing.assert_close(quick(torch.zeros(2, 3, 4).double())[0, :, 0], quick.bias)


def test_quick_ones_can_be_taken_back():
    class Own(nn.BatchNorm1d):
        pass

    network = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.BatchNorm2d(2)), nn.ReLU(), Own(2))
    before = [type(m) for m in network.modules()]
    quicken(network)
    quick = [type(m) for m in network.modules()]
    assert (quick[1], quick[3], quick[4:]) == (QuickBatchNorm1d, QuickBatchNorm2d, [nn.ReLU, Own])
    restore(network)
    assert [type(m) for m in network.modules()] == before
