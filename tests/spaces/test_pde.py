from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nasfw.spaces.backbones import BACKBONES
from nasfw.spaces.pde import pde
from nasfw.values import UsageError

SIZES = [(1,), (5,), (20,), (9, 8), (1, 7), (5, 4, 6), (2, 1, 3)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("circular", [False, True])
def test_it_gives_the_output_shape(size, dense, circular):
    outputs = (2, *size) if dense else (2,)
    model = pde((3, *size), outputs, channels=4, depth=2, circular=circular).eval()
    assert model(torch.randn(2, 3, *size)).shape == (2, *outputs)


@pytest.mark.parametrize(
    ("size", "channels", "kernel"), [((64,), 64, 17), ((32, 32), 32, 13), ((8, 8, 8), 20, 9)]
)
def test_layers_are_the_published_ones(size, channels, kernel):
    with torch.device("meta"):
        model = pde((1, *size), (1, *size))
    assert len(model.blocks) == 4
    for block in model.blocks:
        assert block.conv.kernel_size == (kernel,) * len(size)
        assert block.conv.padding == (kernel // 2,) * len(size)
        assert block.conv.padding_mode == "circular"
        assert block.conv.in_channels == block.conv.out_channels == channels
        assert block.shortcut.kernel_size == (1,) * len(size)
    assert [block.active for block in model.blocks] == [True, True, True, False]
    assert model.lift.in_channels == 1 + len(size)
    assert model.head[0].out_channels == 128


def test_on_small_maps_taps_meet_no_position_thrice():
    model = pde((1, 5, 7, 3), (1,), channels=2)
    assert {block.conv.kernel_size for block in model.blocks} == {(9, 9, 7)}


def test_width_channels_depth_and_border_can_be_chosen():
    model = pde((1, 9), (1, 9), width=3, channels=2, depth=2, circular=False)
    assert [block.conv.out_channels for block in model.blocks] == [6, 6]
    assert {block.conv.padding_mode for block in model.blocks} == {"zeros"}


@pytest.mark.parametrize("size", [(9,), (5, 4), (2, 3, 4)])
def test_it_is_lift_blocks_and_projection(size):
    """By the definition, layer after layer; the coordinates of position p of n are p / n."""
    model = pde((2, *size), (3, *size), channels=4, depth=2).eval()
    x = torch.randn(2, 2, *size)
    expected = list(x.unbind(1))
    for axis, n in enumerate(size):
        places = torch.arange(n).view(-1, *[1] * (len(size) - 1 - axis)) / n
        expected.append(places.expand(2, *size))
    y = model.lift(torch.stack(expected, 1))
    first, last = model.blocks
    y = F.relu(first.norm(first.conv(y) + first.shortcut(y)))
    y = last.norm(last.conv(y) + last.shortcut(y))
    expected = model.head[2](F.relu(model.head[0](y)))
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)


def test_an_output_without_positions_is_the_mean_over_them():
    dense = pde((1, 6, 5), (3, 6, 5), channels=4, depth=1).eval()
    vector = pde((1, 6, 5), (3,), channels=4, depth=1).eval()
    vector.load_state_dict(dense.state_dict())
    x = torch.randn(2, 1, 6, 5)
    torch.testing.assert_close(vector(x), dense(x).mean((2, 3)), rtol=1e-5, atol=1e-6)


def test_without_coordinates_a_circular_network_commutes_with_shifts():
    model = pde((1, 12), (1, 12), channels=4).eval()
    nn.init.zeros_(model.coordinates)
    x = torch.randn(2, 1, 12)
    torch.testing.assert_close(model(x.roll(5, 2)), model(x).roll(5, 2), rtol=1e-5, atol=1e-5)


def test_coordinates_are_no_part_of_the_state():
    assert "coordinates" not in pde((1, 8), (1, 8)).state_dict()
    assert BACKBONES["pde"] is pde


@pytest.mark.parametrize(
    ("inputs", "outputs", "settings", "message"),
    [
        ((3,), (2,), {}, r"not \(3,\) into \(2,\)"),
        ((1, 2, 3, 4, 5), (2,), {}, "one to three axes"),
        ((1, 8), (2, 4), {}, r"not \(1, 8\) into \(2, 4\)"),
        ((1, 8), (2, 8), {"width": 0}, "must be at least 1"),
        ((1, 8), (2, 8), {"depth": 0}, "must be at least 1"),
        ((1, 8), (2, 8), {"channels": 0}, "must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(inputs, outputs, settings, message):
    with pytest.raises(UsageError, match=message):
        pde(inputs, outputs, **settings)
