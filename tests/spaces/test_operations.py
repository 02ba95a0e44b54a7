"""The operations of cells against formulas and torch's functions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nasfw.spaces.operations import (
    LISTS,
    NONE,
    OPERATIONS,
    Halved,
    Noise,
    moved,
    named,
    operation,
    strided,
    usual,
)
from nasfw.values import UsageError


def normalised(x):
    """A batch norm's output in training, before scale and shift."""
    dims = [0, *range(2, x.dim())]
    mean, variance = x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5)


def convolutions(layer):
    return [m for m in layer.modules() if isinstance(m, nn.Conv1d | nn.Conv2d)]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (5,), (1,), (2, 1)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_stride_halves_every_axis_rounded_up(name, size, stride):
    y = operation(name, 6, stride, len(size))(torch.randn(3, 6, *size))
    assert y.shape == (3, 6, *(-(-n // stride) for n in size))


@pytest.mark.parametrize(
    ("name", "kernel", "dilation", "times"),
    [
        ("sep_conv_3x3", 3, 1, 2),
        ("sep_conv_5x5", 5, 1, 2),
        ("sep_conv_7x7", 7, 1, 2),
        ("dil_conv_3x3", 3, 2, 1),
        ("dil_conv_5x5", 5, 2, 1),
    ],
)
def test_separable_convolutions_are_depthwise_and_pointwise(name, kernel, dilation, times):
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    layer = operation(name, 4, 2, 2).double()
    weights = [c.weight for c in convolutions(layer)]
    y = x
    for i in range(times):
        deep, wide = weights[2 * i : 2 * i + 2]
        assert deep.shape == (4, 1, kernel, kernel)
        assert wide.shape == (4, 4, 1, 1)
        padding = dilation * (kernel // 2)
        y = F.conv2d(F.relu(y), deep, None, 2 if i == 0 else 1, padding, dilation, 4)
        y = normalised(F.conv2d(y, wide))
    torch.testing.assert_close(layer(x), y)


@pytest.mark.parametrize(("name", "kernel"), [("conv_1x1", 1), ("conv_3x3", 3)])
def test_convolutions_follow_a_relu(name, kernel):
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    layer = operation(name, 4, 2, 2).double()
    (conv,) = convolutions(layer)
    expected = normalised(F.conv2d(F.relu(x), conv.weight, None, 2, kernel // 2))
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(("name", "kernel"), [("conv_3x1_1x3", 3), ("conv_7x1_1x7", 7)])
def test_crossed_kernels_cover_one_axis_each(name, kernel):
    first, second = convolutions(operation(name, 4, 2, 2))
    assert (first.kernel_size, first.stride) == ((1, kernel), (1, 2))
    assert (second.kernel_size, second.stride) == ((kernel, 1), (2, 1))
    (single,) = convolutions(operation(name, 4, 2, 1))
    assert single.kernel_size == (kernel,)


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_pools_are_those_of_their_windows(kernel):
    """By brute force: the greatest value and the mean over what of the window is on the map."""
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    half = kernel // 2

    def windows(function):
        rows = [
            torch.stack([function(x[:, :, a : i + half + 1, b : j + half + 1]) for j, b in columns], -1)
            for i, a in lines
        ]
        return torch.stack(rows, -2)

    lines, columns = ([(i, max(0, i - half)) for i in range(0, n, 2)] for n in (6, 5))
    expected = normalised(windows(lambda w: w.amax((2, 3))))
    torch.testing.assert_close(operation(f"max_pool_{kernel}x{kernel}", 3, 2, 2).double()(x), expected)
    if kernel == 3:
        expected = normalised(windows(lambda w: w.mean((2, 3))))
        torch.testing.assert_close(operation("avg_pool_3x3", 3, 2, 2).double()(x), expected)


def test_a_skip_connection_is_the_identity():
    x = torch.randn(2, 3, 4)
    assert operation("skip_connect", 3, 1, 1)(x) is x


@pytest.mark.parametrize("size", [(6, 5), (4, 4), (1, 3), (7,), (2,)])
def test_halving_reads_even_positions_and_odd_ones(size):
    """Half of the channels is a product with the even positions, half with the odd ones or zeros behind."""
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    halved = Halved(3, 5, len(size)).double()
    y = halved(x)
    padded = F.pad(x, [0, 1] * len(size))
    even = strided(x, 2)
    odd = padded[(..., *[slice(1, n + 1, 2) for n in size])]
    assert y.shape == (2, 5, *(-(-n // 2) for n in size))
    if all(n % 2 == 0 for n in size):
        odd = x[(..., *[slice(1, None, 2)] * len(size))]
    first, second = (
        torch.einsum("oi,bi...->bo...", c.weight.flatten(1), part)
        for c, part in ((halved.first, even), (halved.second, odd))
    )
    torch.testing.assert_close(y, torch.cat([first, second], 1))
    assert torch.equal(strided(moved(x), 2), odd)


def test_noise_is_normal_in_training_and_its_mean_in_evaluation():
    x = torch.full((50, 4, 21, 20), 3.0)
    noise = Noise(2)
    first, second = noise(x), noise(x)
    assert first.shape == (50, 4, 11, 10)
    assert not torch.equal(first, second)
    count = first.numel()
    assert abs(float(first.mean())) < 5 / count**0.5
    assert float(first.square().mean()) == pytest.approx(1, abs=5 * (2 / count) ** 0.5)
    assert torch.equal(noise.eval()(x), torch.zeros_like(first))


def test_lists_have_the_published_operations():
    assert named("darts") == (
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    )
    assert len(named("nasnet")) == 13 + 1
    assert set(LISTS["nasnet"]) <= {NONE, *OPERATIONS}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("dart", "'dart'; did you mean 'darts'"),
        (["sep_conv_3x4"], "'sep_conv_3x4'; did you mean 'sep_conv_3x3'"),
        (["what"], "'what'; There are none, max_pool"),
        (["none"], "at least one besides none"),
        ([], "at least one besides none"),
        (["skip_connect", "skip_connect"], "none twice"),
    ],
)
def test_names_that_cannot_be_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        named(given)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["none", "skip_connect", "dil_conv_3x3", "sep_conv_3x3"], "sep_conv_3x3"),
        (["max_pool_3x3", "dil_conv_3x3"], "dil_conv_3x3"),
        (["none", "skip_connect", "max_pool_3x3"], "max_pool_3x3"),
        (["none", "skip_connect"], "skip_connect"),
    ],
)
def test_a_plain_network_prefers_convolutions(names, expected):
    assert usual(names) == expected
