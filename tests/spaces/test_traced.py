"""What the spaces of the convolutions of any network have in common."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from nasfw.flops import forward_flops
from nasfw.spaces.aggconv import AggConv
from nasfw.spaces.backbones import tcn, wrn, wrn1d
from nasfw.spaces.pde import pde
from nasfw.spaces.xd import XD
from nasfw.values import UsageError

pytestmark = pytest.mark.usefixtures("own")
every_space = pytest.mark.parametrize("make", [AggConv, XD])


def without_convolution():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def wrong_output():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())


def cannot_run():
    return nn.Sequential(nn.Conv2d(7, 2, 3), nn.Flatten())


@pytest.mark.parametrize(
    ("make", "factory", "inputs"),
    [
        *(
            (make, *case)
            for make in (AggConv, XD)
            for case in ((wrn, (1, 8, 8)), (wrn1d, (1, 8)), (tcn, (1, 8)))
        ),
        (XD, pde, (1, 12)),
    ],
)
def test_default_is_the_plain_backbone(task, make, factory, inputs):
    space = make(task(inputs, (3,)), backbone=factory.__name__)
    torch.manual_seed(1)
    built = space.build(space.default).eval()
    torch.manual_seed(1)
    # Maps of which classes are predicted end at their borders.
    plain = factory(inputs, (3,), **({"circular": False} if factory is pde else {})).eval()
    assert list(built.state_dict()) == list(plain.state_dict())
    x = torch.randn(2, *inputs)
    assert torch.equal(built(x), plain(x))


@pytest.mark.parametrize(("make", "settings", "channels"), [(AggConv, {}, 16), (XD, {"final_width": 3}, 12)])
def test_width_of_a_users_backbone_is_enlarged(task, make, settings, channels):
    space = make(task((2, 9), (3,)), "own:Inner", **settings)
    assert space.enlarged().build(space.default).conv.out_channels == channels


@pytest.mark.parametrize(
    ("make", "inputs", "outputs", "name"),
    [
        (AggConv, (1, 8, 8), (3,), "wrn"),
        (AggConv, (1, 32), (3,), "wrn1d"),
        (AggConv, (1, 32), (3,), "tcn"),
        (XD, (1, 8, 8), (3,), "wrn"),
        (XD, (1, 32), (3,), "wrn1d"),
        (XD, (1, 32), (1, 32), "pde"),
    ],
)
def test_reduced_fits_the_limit_or_is_the_smallest(task, make, inputs, outputs, name):
    space = make(task(inputs, outputs), backbone=name)

    def cost(s):
        return forward_flops(s.build(s.default), inputs)

    assert space.reduced(cost(space)) is space
    half = space.reduced(cost(space) / 2)
    assert cost(half) <= cost(space) / 2
    smallest = space.reduced(0.0)
    assert 0 < cost(smallest) < cost(half)
    assert smallest.reduced(0.0) == smallest


@every_space
def test_a_size_that_was_asked_for_is_not_reduced(task, make):
    for settings in ({"width": 2}, {"depth": 22}, {"channels": 24}):
        space = make(task((1, 8, 8), (3,)), "wrn", **settings)
        assert space.reduced(0.0) is space
    own = make(task((2, 9), (3,)), "own:Inner")
    assert own.reduced(0.0) is own


@every_space
def test_looking_at_the_decisions_leaves_the_random_stream_alone(task, make):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert make(task()).decisions
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("make", "inputs", "settings"), [(AggConv, (1, 8, 8), {"preset": "baby"}), (XD, (1, 8), {})]
)
def test_space_survives_pickling(task, make, inputs, settings):
    space = make(task(inputs, (3,)), **settings)
    assert space.decisions
    copied = pickle.loads(pickle.dumps(space))
    assert copied == space
    assert copied.decisions == space.decisions


@every_space
@pytest.mark.parametrize("name", ["width", "final_width", "channels"])
def test_sizes_that_no_network_has_are_refused_at_once(task, make, name):
    with pytest.raises(UsageError, match=f"{name} 0"):
        make(task(), **{name: 0})


@every_space
@pytest.mark.parametrize(
    ("settings", "inputs", "message"),
    [
        ({"backbone": "wnr"}, (1, 8, 8), "did you mean 'wrn'"),
        ({"backbone": "wrn1d"}, (1, 8, 8), "is for series"),
        ({}, (1, 2, 3, 4, 5), "no built-in backbone"),
        ({}, (5,), "no built-in backbone"),
        ({"width": 2}, (1, 8), "has no parameter width"),
        ({"depth": 16}, (1, 8), "has no parameter depth"),
        ({"backbone": "own:without_convolution"}, (1, 8, 8), "no convolution to search"),
        ({"backbone": "own:wrong_output"}, (1, 8, 8), r"gives an output of shape \(72,\)"),
        ({"backbone": "own:cannot_run"}, (1, 8, 8), "cannot process an input of shape"),
    ],
)
def test_backbones_that_do_not_fit_are_explained(task, make, settings, inputs, message):
    with pytest.raises(UsageError, match=message):
        _ = make(task(inputs, (3,)), **settings).decisions


def test_volumes_are_for_the_space_of_operations_alone(task):
    assert XD(task((1, 2, 3, 4), (3,))).decisions
    with pytest.raises(UsageError, match="no built-in backbone"):
        _ = AggConv(task((1, 2, 3, 4), (3,))).decisions
