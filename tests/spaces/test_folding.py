"""Projections of XD operations onto named ones, against brute force on their whole matrices."""

import math

import pytest
import torch

from nasfw.folding import Replacement, name_of
from nasfw.optimisers import optimizer, schedule, transforms
from nasfw.spaces.folding import Folding
from nasfw.spaces.named import operation, own, possible
from nasfw.spaces.site import CONVOLUTIONS, site_of
from nasfw.spaces.xd_layers import XDConv
from nasfw.values import Recipe

OPTIONS = ("k1d1", "k3d2", "k5d1", "pool3", "skip", "zero", "permuted", "fourier", "fourier2", "fourier1")
FURTHER = ("permuted", "fourier2", "fourier4", "fourier")
SITES = {
    "series, zeros": ((9,), False, 1, 1),
    "series, circular": ((8,), True, 1, 1),
    "two points, circular": ((2,), True, 1, 1),
    "series, stride": ((7,), False, 2, 1),
    "map, circular": ((6, 5), True, 1, 1),
    "map, zeros": ((6, 7), False, 1, 1),
    "map, depthwise": ((5, 4), False, 1, 4),
    "volume": ((3, 4, 5), True, 1, 1),
    "two stages": ((300,), True, 1, 1),
}


@pytest.fixture(autouse=True)
def double():
    """Everything in double precision."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def site(size, circular, stride, groups, kernel=3, channels=4):
    mode = "circular" if circular else "zeros"
    make = CONVOLUTIONS[len(size)]
    conv = make(channels, channels, kernel, stride, kernel // 2, groups=groups, padding_mode=mode)
    return site_of(conv, size)


@torch.no_grad()
def matrix(layer, size, channels=4):
    """What a layer does without its bias, as a matrix [outputs, inputs]."""
    units = torch.eye(channels * math.prod(size)).view(-1, channels, *size)
    return (layer(units) - layer(torch.zeros(1, channels, *size))).flatten(1).T


def disturbed(where, **settings):
    layer = XDConv(where, **settings)
    for p in layer.transforms():
        p.data += 0.1 * torch.randn_like(p)
    return layer


@pytest.mark.parametrize("settings", [{}, {"depth": 2}, {"kind": "butterflies"}], ids=str)
@pytest.mark.parametrize("name", SITES)
def test_distances_are_those_of_whole_matrices(name, settings):
    where = site(*SITES[name])
    layer = disturbed(where, extras=True, **settings)
    folding, whole = Folding(layer), matrix(layer, where.size)
    torch.testing.assert_close(folding.square, float(whole.square().sum()), rtol=1e-10, atol=0)
    for option in possible(where, OPTIONS):
        fold = folding.to(option)
        if fold is None:
            assert option.startswith("fourier")
            assert where.stride[0] > 1
            continue
        nearest = operation(where, option)
        nearest.load_state_dict(fold.weights)
        distance = float((whole - matrix(nearest, where.size)).norm() / whole.norm())
        assert fold.distance == pytest.approx(distance, abs=1e-9), option


@pytest.mark.parametrize("name", ["series, zeros", "map, circular", "map, depthwise", "volume"])
def test_no_operation_of_that_name_is_nearer(name):
    """The rest is orthogonal to every change of the weights: the least-squares condition."""
    where = site(*SITES[name])
    layer = disturbed(where)
    whole = matrix(layer, where.size)
    for option, fold in layer.folded(possible(where, OPTIONS)).items():
        nearest = operation(where, option)
        nearest.load_state_dict(fold.weights)
        rest = whole - matrix(nearest, where.size)
        for parameter_name, parameter in nearest.named_parameters():
            if parameter_name.endswith("bias"):
                continue
            for _ in range(3):
                change = torch.randn_like(parameter)
                parameter.data += change
                moved = matrix(nearest, where.size) - (whole - rest)
                parameter.data -= change
                assert abs(float((rest * moved).sum())) < 1e-9 * float(whole.square().sum()), option


# Of two points, two of the three taps are one.
@pytest.mark.parametrize("name", [name for name in SITES if name != "two points, circular"])
def test_what_starts_as_a_convolution_is_that_convolution(name):
    where = site(*SITES[name])
    layer = XDConv(where)
    layer.bias.data.normal_()
    fold = layer.folded(["conv"])["conv"]
    assert fold.distance < 1e-6
    torch.testing.assert_close(fold.weights["weight"], layer.kernel(), rtol=0, atol=1e-12)
    torch.testing.assert_close(fold.weights["bias"], layer.bias.detach())


def test_a_map_of_another_size_than_a_power_of_two_is_folded_through_unrolled_axes():
    where = site((11,), True, 1, 1)
    assert XDConv(where, kind="butterflies").folded(["conv"])["conv"].distance < 1e-6


def learnt(target, where, epochs=20, samples=512):
    """The XD operation after training on what ``target`` makes of random maps."""
    torch.set_default_dtype(torch.float32)
    layer = XDConv(where)
    layer.start(own(where))
    target = target.float()
    x = torch.randn(samples, where.inputs, *where.size)
    with torch.no_grad():
        y = target(x)
        y /= y.std()
    recipe = Recipe(epochs=epochs, optimizer="adamw", lr=0.01, weight_decay=0.01, schedule="onecycle")
    optimiser = optimizer(layer.parameters(), recipe, transforms(layer))
    rates = schedule(optimiser, recipe, samples // 32)
    for _ in range(epochs):
        for batch in torch.randperm(samples).view(-1, 32):
            loss = (layer(x[batch]) - y[batch]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rates.step()
    return layer


@pytest.mark.slow
@pytest.mark.parametrize("truth", ["conv", "k3d2", "permuted", "fourier2", "pool3", "skip"])
def test_an_operation_that_learnt_a_named_one_is_folded_to_it(truth):
    where = site((16,) if truth == "fourier2" else (8, 8), True, 1, 1, channels=2)
    target = operation(where, truth)
    if truth == "fourier2":
        target.weight.data.normal_()
    options = possible(where, ("k1d1", "k5d1", "k7d1", "k3d2", "pool3", "skip", "zero", *FURTHER))
    # Other transforms than Fourier's take longer to learn.
    folds = learnt(target, where, 60 if truth == "permuted" else 20).folded(options)
    weights = {option: sum(w.numel() for w in fold.weights.values()) for option, fold in folds.items()}
    rows = [Replacement(option, fold.distance, 0.0, weights[option]) for option, fold in folds.items()]
    named = name_of(rows)
    assert named is not None, rows
    assert named.option == truth, rows


def test_a_name_is_that_of_fewest_weights_among_the_nearest():
    rows = [
        Replacement("fourier", 0.01, 0.5, 1000),
        Replacement("conv", 0.02, 0.5, 90),
        Replacement("k5d1", 0.015, 0.5, 250),
        Replacement("k1d1", 0.2, 0.4, 10),
    ]
    assert name_of(rows).option == "conv"
    assert name_of([Replacement("conv", 0.51, 0.1, 90)]) is None
    assert name_of([]) is None
