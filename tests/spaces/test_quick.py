"""Quick layers against torch's own."""

import copy

import pytest
import torch
from torch import nn

from nasfw.spaces import normalisation
from nasfw.spaces.operations import OPERATIONS, operation
from nasfw.spaces.quick import quicken

LAYERS = [name for name in OPERATIONS if name != "noise"]


@pytest.fixture(autouse=True)
def _however_small(monkeypatch):
    monkeypatch.setattr(normalisation, "LEAST", 0)


def outcome(module, x):
    """Value, gradients and running statistics."""
    x = x.clone().requires_grad_()
    y = module(x)
    direction = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    gradients = torch.autograd.grad(y, [x, *module.parameters()], direction)
    return [y, *gradients, *module.buffers()]


def pair(layer, dtype):
    """A layer and an equal quick one, both inside of something."""
    ordinary = nn.Sequential(layer).to(dtype)
    quick = copy.deepcopy(ordinary)
    quicken(quick)
    return ordinary, quick


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(7,), (2,), (1,), (5, 6), (8, 3), (2, 2), (1, 1)])
@pytest.mark.parametrize("name", LAYERS)
def test_operations_and_their_gradients_are_as_torchs_own(name, size, stride):
    ordinary, quick = pair(operation(name, 3, stride, len(size)), torch.float64)
    x = torch.randn(4, 3, *size, dtype=torch.float64)
    for found, expected in zip(outcome(quick, x), outcome(ordinary, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["sep_conv_5x5", "dil_conv_5x5", "avg_pool_3x3"])
def test_single_precision_is_kept(name):
    """Against double precision, quick gradients are as near as torch's own to a factor of 4."""
    ordinary, quick = pair(operation(name, 8, 1, 2), torch.float32)
    x = 0.5 + torch.randn(4, 8, 24, 24)
    exact = outcome(copy.deepcopy(ordinary).double(), x.double())
    for mine, own, true in zip(outcome(quick, x), outcome(ordinary, x), exact, strict=True):
        error, usual = ((v - true).abs().max() for v in (mine, own))
        assert error <= 4 * usual + 1e-5 * true.abs().max()


def test_layers_of_another_kind_stay():
    others = [
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, padding=0, groups=4, bias=False),
        nn.Conv2d(4, 4, 1, stride=2, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False, padding_mode="circular"),
        nn.AvgPool2d(3, 1, 1),
        nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
        nn.MaxPool1d(2, return_indices=True),
    ]
    network = nn.Sequential(*others)
    kinds = [type(layer) for layer in network]
    quicken(network)
    assert [type(layer) for layer in network] == kinds


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_maxima_that_round_up_are_torchs(dims, stride):
    pool = (nn.MaxPool1d if dims == 1 else nn.MaxPool2d)(2, stride, ceil_mode=True)
    ordinary, quick = pair(pool, torch.float64)
    x = torch.randn(2, 3, *[5] * dims, dtype=torch.float64)
    assert torch.equal(ordinary(x), quick(x))


@pytest.mark.parametrize("name", ["max_pool_3x3", "avg_pool_3x3", "sep_conv_3x3"])
def test_channels_beside_each_other_are_torchs_own_matter(name):
    """Equal to the last digit, since it is the same."""
    ordinary, quick = pair(operation(name, 4, 1, 2), torch.float32)
    x = torch.randn(2, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    assert torch.equal(quick(x), ordinary(x))


def test_weights_without_gradient_get_none():
    layer = operation("dil_conv_3x3", 3, 1, 2)
    quicken(layer)
    layer[1].weight.requires_grad_(False)
    layer(torch.randn(2, 3, 4, 4)).sum().backward()
    assert layer[1].weight.grad is None
    assert layer[2].weight.grad is not None
