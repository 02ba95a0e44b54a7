from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nasfw.mixtures import gumbel_softmax, one_hot, uniform
from nasfw.spaces.aggconv import AggConv
from nasfw.spaces.aggregated import AggregatedConv
from nasfw.spaces.choice import Choice
from nasfw.spaces.kernels import Convolution, Layout
from nasfw.spaces.partly import PartlyAggregatedConv
from nasfw.spaces.speed import Way, expected, fastest
from nasfw.spaces.transforms import smooth
from nasfw.testing.contracts import SpaceContract
from nasfw.values import Unsupported, UsageError

pytestmark = pytest.mark.usefixtures("own")


class LeNet(nn.Module):
    """A user's network: valid padding, an even kernel, a stride, groups, a part that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 5)
        self.conv2 = nn.Conv2d(4, 8, 4, stride=2, padding=1, groups=2, bias=False)
        self.wide = nn.Conv2d(8, 8, (1, 3))
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.unused = nn.Conv2d(1, 1, 3)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x):
        x = torch.tanh(self.conv1(x))
        x = torch.tanh(self.wide(self.conv2(x)))
        return self.head(torch.tanh(self.squeeze(x))).mean((2, 3))


class Odd(nn.Module):
    """Convolutions that must be left alone, beside one that is searched."""

    def __init__(self) -> None:
        super().__init__()
        self.searched = nn.Conv1d(1, 2, 3, padding=1)
        self.twice = nn.Conv1d(2, 2, 3, padding=1)
        self.again = self.twice
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 2, 3, padding=1))
        self.shortcut = nn.Conv1d(2, 2, 3, padding=1)
        self.blind = nn.Conv1d(2, 3, 1, padding=300, stride=999)

    def forward(self, x):
        x = self.again(self.twice(self.searched(x)))
        return self.blind(self.shortcut(self.normed(x))).mean(2)


class Pyramid(nn.Module):
    """Calls one convolution on maps of two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(x).mean(2) + self.conv(x[..., ::3]).mean(2)


def outputs_equal(space, architecture, supernet):
    """The one-hot mixture and the standalone network with its weights, on the same input."""
    x = torch.randn(2, *space.task.input_shape)
    model = space.build(architecture)
    model.load_state_dict(supernet.weights(architecture))
    with torch.no_grad():
        alone = model.eval()(x)
        mixed = supernet.eval()(x, one_hot(space.decisions, architecture))
    torch.testing.assert_close(mixed, alone, rtol=1e-5, atol=1e-5)


SPACES = [
    ("wrn", (1, 8, 8), (3,)),
    ("wrn", (2, 5, 7), (2, 5, 7)),
    ("wrn", (1, 1, 1), (3,)),
    ("wrn", (1, 3, 3), (3,)),
    ("wrn1d", (2, 33), (3,)),
    ("wrn1d", (1, 5), (2, 5)),
    ("tcn", (2, 16), (3,)),
    ("own:LeNet", (1, 12, 10), (3,)),
    ("own:Inner", (2, 9), (3,)),
    ("own:Odd", (1, 9), (3,)),
    ("own:Pyramid", (1, 20), (3,)),
]


@pytest.mark.parametrize(("backbone", "inputs", "outputs"), SPACES)
@pytest.mark.parametrize("depthwise", [False, True])
def test_one_hot_mixture_is_the_standalone_network(task, backbone, inputs, outputs, depthwise):
    """T1 and T13, for the plain backbone and for random architectures, with trained statistics."""
    space = AggConv(task(inputs, outputs), backbone=backbone, depthwise=depthwise)
    supernet = space.supernet()
    if min(inputs[1:]) > 1:
        supernet(torch.randn(8, *inputs), uniform(space.decisions))
    rng = np.random.default_rng(0)
    for architecture in [space.default, *(space.sample(rng) for _ in range(3))]:
        outputs_equal(space, architecture, supernet)


@pytest.mark.parametrize("mode", ["results", "weights", "fourier", "auto"])
def test_modes_agree_on_the_whole_network(task, mode):
    space = AggConv(task((1, 6, 6), (3,)), mode=mode)
    reference = replace(space, mode="results").supernet().eval()
    supernet = space.supernet().eval()
    supernet.load_state_dict(reference.state_dict())
    x, mixture = torch.randn(2, 1, 6, 6), gumbel_softmax([torch.zeros(16)] * 13)
    torch.testing.assert_close(supernet(x, mixture), reference(x, mixture), rtol=1e-4, atol=1e-5)


def test_decisions_of_wrn_are_the_papers(task):
    decisions = AggConv(task((1, 8, 8), (3,))).decisions
    assert list(decisions)[:3] == ["stem", "blocks.0.conv1", "blocks.0.conv2"]
    assert len(decisions) == 13
    assert list(decisions["stem"]) == [f"k{k}d{d}" for k in (3, 5, 7, 9) for d in (1, 3, 7, 15)]


def test_decisions_of_wrn1d_hold_the_own_kernel_too(task):
    decisions = AggConv(task((1, 64), (3,))).decisions
    assert len(decisions) == 9
    paper = [f"k{k}d{d}" for k in (3, 7, 11, 15, 19) for d in (1, 3, 7, 15)]
    assert list(decisions["blocks.0.conv1"]) == paper
    assert list(decisions["blocks.0.conv2"]) == [*paper, "k5d1"]


def test_kernel_sizes_and_dilations_are_taken_once_each(task):
    space = AggConv(task((1, 8, 8), (3,)), kernel_sizes=(1, 3, 3), dilations=(2, 1, 2))
    assert list(space.decisions["stem"]) == ["k1d1", "k3d2", "k3d1"]


def test_baby_preset(task):
    space = AggConv(task((1, 8, 8), (3,)), preset="baby")
    assert list(space.decisions["stem"]) == ["k3d1", "k3d2", "k5d1", "k5d2"]


def test_searched_are_ordinary_convolutions_that_are_used(task):
    space = AggConv(task((1, 12, 10), (3,)), backbone="own:LeNet")
    assert list(space.decisions) == ["conv1", "conv2", "squeeze"]
    assert space.default == ("k5d1", "k4d1", "k1d1")


def test_convolutions_that_cannot_be_replaced_are_left_alone(task):
    assert list(AggConv(task((1, 9), (3,)), backbone="own:Odd").decisions) == ["searched"]


def test_built_convolutions_have_the_chosen_kernels_and_the_outputs_shape(task):
    space = AggConv(task((1, 40, 40), (3,)), kernel_sizes=(3, 9), dilations=(1, 2))
    model = space.build(("k9d2",) * 13)
    assert model.stem.kernel_size == (9, 9)
    assert model.stem.dilation == (2, 2)
    assert model.blocks[2].conv2.stride == (2, 2)
    assert model(torch.randn(2, 1, 40, 40)).shape == (2, 3)


def test_taps_that_only_meet_padding_are_not_built(task):
    """On 8 x 8 pixels a 9 x 9 kernel of dilation 15 has one tap that ever meets a pixel."""
    space = AggConv(task((1, 8, 8), (3,)))
    assert space.build(("k9d15",) * 13).stem.kernel_size == (1, 1)
    assert space.build(("k9d3",) * 13).stem.kernel_size == (5, 5)


def test_enlarged_is_wider_with_the_same_decisions(task):
    space = AggConv(task((1, 8, 8), (3,)), final_width=2)
    large = space.enlarged()
    assert large.decisions == space.decisions
    assert large.build(large.default).stem.out_channels == 16
    assert large.build(large.default).blocks[0].conv1.out_channels == 32
    assert large.enlarged() == large


def test_backbone_without_width_is_not_enlarged(task):
    space = AggConv(task((1, 8), (3,)))
    assert space.enlarged() is space


def test_the_papers_channels_leave_other_backbones_alone(task):
    narrow = AggConv(task((1, 32), (3,)), channels="paper")
    assert narrow.build(narrow.default).blocks[0].conv1.out_channels == 4
    maps = AggConv(task((1, 8, 8), (3,)), channels="paper")
    assert maps.build(maps.default).stem.out_channels == 16


def test_depthwise_supernet_is_smaller_and_its_networks_are_dense(task):
    space = AggConv(task((1, 8, 8), (3,)), depthwise=True)
    small, large = space.supernet(), replace(space, depthwise=False).supernet()
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in large.parameters()) / 4
    assert space.build(space.default).blocks[0].conv1.groups == 1


def test_mixture_gets_gradients_and_is_forgotten(task):
    space = AggConv(task((1, 8, 8), (3,)), preset="baby")
    supernet = space.supernet()
    logits = [torch.zeros(4, requires_grad=True) for _ in space.decisions]
    supernet(torch.randn(4, 1, 8, 8), gumbel_softmax(logits)).square().sum().backward()
    assert all(a.grad is not None and a.grad.abs().sum() > 0 for a in logits)
    assert all(layer.mixture is None for layer in supernet.layers)


def test_fields_are_the_released_penalties(task):
    """With the factor 1e-5 their norm is 1.87e-3 for maps, 4.4e-3 for series, 2.6e-3 for dense maps."""
    for inputs, outputs, norm in (
        ((1, 8, 8), (3,), 1.87e-3),
        ((1, 16), (3,), 4.4e-3),
        ((1, 8, 8), (1, 8, 8), 2.6e-3),
    ):
        space = AggConv(task(inputs, outputs))
        fields = space.supernet().fields()
        assert [len(f) for f in fields] == [len(o) for o in space.decisions.values()]
        paper = min(fields, key=len)
        assert 1e-5 * float(paper.norm()) == pytest.approx(norm, rel=0.02)


def test_weights_are_copies(task):
    space = AggConv(task((1, 4, 4), (3,)), preset="baby")
    supernet = space.supernet()
    kept = supernet.weights(space.default)
    before = {k: v.clone() for k, v in kept.items()}
    with torch.no_grad():
        for p in supernet.parameters():
            p.add_(1)
    assert all(torch.equal(kept[k], before[k]) for k in before)


@pytest.mark.parametrize("architecture", [("k3d1",) * 12, ("k3d1",) * 14, ("k4d1",) * 13, ("skip",) * 13])
def test_architecture_of_another_space_is_refused(task, architecture):
    space = AggConv(task((1, 8, 8), (3,)))
    with pytest.raises(ValueError):  # noqa: PT011 - the message is the sequence's own
        space.build(architecture)
    with pytest.raises(ValueError):  # noqa: PT011
        space.supernet().weights(architecture)


@pytest.mark.parametrize("mixture", [[], [torch.ones(4)] * 12, [torch.ones(3)] * 13])
def test_mixture_of_another_space_is_refused(task, mixture):
    supernet = AggConv(task((1, 8, 8), (3,)), preset="baby").supernet()
    with pytest.raises(ValueError, match="one vector for each decision"):
        supernet(torch.zeros(1, 1, 8, 8), mixture)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_sizes": (0,)}, "zero or even kernel size is not possible: 0"),
        ({"kernel_sizes": (3, 4)}, "zero or even kernel size is not possible: 4"),
        ({"kernel_sizes": (-3,)}, "not possible: -3"),
        ({"kernel_sizes": ()}, "at least one number"),
        ({"dilations": (0,)}, "dilation below 1 is not possible: 0"),
    ],
)
def test_impossible_settings_are_refused_at_once(task, settings, message):
    with pytest.raises(UsageError, match=message):
        AggConv(task(), **settings)


def test_smooth_lengths():
    """The first even 5-smooth numbers, by factorising."""
    assert [smooth(n) for n in (1, 3, 7, 11, 13, 21, 62, 92, 127)] == [2, 4, 8, 12, 16, 24, 64, 96, 128]


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("size", [(4, 4), (8, 8), (32, 32)])
def test_choice_is_the_expected_fastest_and_never_changes(batch, size):
    kernels = ((3, 1), (9, 15))
    layout = Layout(Convolution(2, 16, 16, (3, 1), 1, (1, 1)), kernels, (size,))
    way = fastest(layout, "auto", batch, size)
    assert all(expected(layout, way, batch, size) <= expected(layout, w, batch, size) for w in Way)
    assert fastest(layout, "auto", batch, size) is way


def test_cost_is_more_than_one_step_and_less_for_depthwise(task):
    space = AggConv(task((1, 8, 8), (3,)))
    assert space.supernet().cost > 1
    assert replace(space, depthwise=True).supernet().cost < space.supernet().cost


class TestAggConvForMaps(SpaceContract):
    @pytest.fixture
    def task(self, task):
        return task((1, 6, 6), (3,))

    @pytest.fixture
    def space(self, task):
        return AggConv(task, preset="baby")


class TestAggConvForSeries(SpaceContract):
    @pytest.fixture
    def task(self, task):
        return task((2, 16), (3,))

    @pytest.fixture
    def space(self, task):
        return AggConv(task)


def test_a_supernet_goes_on_with_the_ways_it_began_with(task, tmp_path):
    """Whatever the clock says of them by then."""
    space = AggConv(task((1, 12, 12)), depth=10, channels=4)
    mixture = [torch.full((len(p.options),), 1 / len(p.options)) for p in space.places]
    first, second = space.supernet(), space.supernet()
    x = torch.randn(2, 1, 12, 12)
    first(x, mixture)
    assert list(first.details()) == [p.name for p in space.places]
    for layer in first.layers:
        (size,) = layer.choices
        layer.choices[size] = Choice(Way.RESULTS, "the slowest", {})
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(second(x, mixture), first(x, mixture))
    assert set(second.details().values()) == {"the slowest: results"}


def test_a_single_path_is_the_mixture_of_one_kernel(task):
    """With and without a gradient for the mixture, output and gradients are the same."""
    space = AggConv(task((3, 8, 8), (4,)), kernel_sizes=(3, 5), dilations=(1, 3))
    torch.manual_seed(0)
    supernet = space.supernet().double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for architecture in (space.default, space.sample(np.random.default_rng(0))):
        found = []
        for learned in (False, True):
            mixture = [p.double().requires_grad_(learned) for p in one_hot(space.decisions, architecture)]
            supernet.zero_grad()
            output = supernet(x, mixture)
            output.square().sum().backward()
            found.append([output, *(p.grad for p in supernet.parameters() if p.grad is not None)])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_a_kernel_that_reads_nothing_but_padding_gives_the_bias_alone(task):
    """A dilation that steps over the whole map leaves the central tap; an even one with a shift has none."""
    layout = Layout(Convolution(1, 1, 1, (2, 1), padding=(0, 0)), ((2, 1), (2, 9)), ((4,),))
    layer = AggregatedConv(layout)
    nn.init.constant_(layer.bias, 0.5)
    x = torch.ones(1, 1, 4)
    for option in range(2):
        layer.mixture, layer.path = torch.eye(2)[option], None
        whole = layer(x)
        layer.path = option
        torch.testing.assert_close(layer(x), whole)


@pytest.mark.parametrize("share", [2, 4])
def test_partial_channels_mix_the_first_and_convolve_the_others(task, share):
    """One-hot at the layer's own kernel, that is the plain convolution of all channels."""
    c = Convolution(2, 8, 4, (3, 1), stride=2, padding=(1, 1))
    layout = Layout(c, ((3, 1), (5, 1), (3, 3)), ((7, 7),))
    layer = PartlyAggregatedConv(layout, share, "auto", "default")
    plain = nn.Conv2d(8, 4, 3, stride=2, padding=1)
    with torch.no_grad():
        layer.mixed.weight.normal_()
        plain.weight.copy_(torch.cat([layer.mixed.kernel(0), layer.rest.weight], 1))
        plain.bias.copy_(layer.mixed.bias)
    x = torch.randn(3, 8, 7, 7)
    layer.mixed.mixture = torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-4, atol=1e-5)
    layer.mixed.mixture = torch.tensor([0.2, 0.3, 0.5])
    changed = x.clone()
    changed[:, 8 // share :] = 0
    torch.testing.assert_close(
        layer(x) - layer(changed), layer.rest(x[:, 8 // share :]), rtol=1e-4, atol=1e-5
    )


def test_a_partial_supernet_is_cheaper_and_has_no_standalone_weights(task):
    space = AggConv(task((3, 32, 32), (10,)))
    partial = space.partial(4)
    assert dict(partial.decisions) == dict(space.decisions)
    assert partial.supernet().cost < space.supernet().cost
    with pytest.raises(Unsupported, match="partial channels"):
        partial.supernet().weights(space.default)
    assert space.partial(1) == space


def test_a_single_path_costs_more_than_a_network_and_less_than_a_mixture(task):
    supernet = AggConv(task((3, 32, 32), (10,))).supernet()
    assert 1 < supernet.path_cost < supernet.cost / 1.5
