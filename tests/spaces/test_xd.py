from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nasfw.contracts import Recipe
from nasfw.flops import forward_flops
from nasfw.mixtures import one_hot, uniform
from nasfw.optimisers import transforms
from nasfw.spaces.xd import XD
from nasfw.spaces.xd_layers import FourierConv, XDConv
from nasfw.testing.contracts import SpaceContract
from nasfw.training import fit
from nasfw.values import Unsupported, UsageError

# Torch announces that it will copy, which is not what is tested.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.usefixtures("own"),
]

OPTIONS = ("k3d2", "pool3", "skip", "zero", "permuted", "fourier2", "xd")


class Many(nn.Module):
    """Valid, even, strided, grouped, circular and dilated convolutions, and a part that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 4)
        self.conv2 = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2, bias=False)
        self.body = nn.Sequential(
            nn.Conv2d(8, 8, (3, 5), padding="same", padding_mode="circular"),
            nn.BatchNorm2d(8),
            nn.Tanh(),
            nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
        )
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.unused = nn.Conv2d(1, 1, 3)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x):
        x = self.body(self.conv2(torch.tanh(self.conv1(x))))
        return self.head(torch.tanh(self.squeeze(x))).mean((2, 3))


class Own(nn.Conv1d):
    """Computes something else, as far as anyone knows."""


class Spared(nn.Module):
    """Convolutions that must be left alone, beside one that is searched."""

    def __init__(self) -> None:
        super().__init__()
        self.searched = nn.Conv1d(1, 2, 3, padding=1)
        self.twice = nn.Conv1d(2, 2, 3, padding=1)
        self.again = self.twice
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 2, 3, padding=1))
        self.own = Own(2, 2, 3, padding=1)
        self.turned = nn.Conv1d(2, 2, 3, padding=1, padding_mode="reflect")
        self.shortcut = nn.Conv1d(2, 2, 3, padding=1)
        self.lift = nn.Sequential(nn.Conv1d(2, 2, 3, padding=1))
        self.sizes = nn.Conv1d(2, 2, 3, padding=1)
        self.downsample = nn.Conv1d(2, 2, 3, padding=1)
        self.head = nn.Conv1d(2, 3, 1)

    def forward(self, x):
        x = self.again(self.twice(self.searched(x)))
        x = self.lift(self.turned(self.own(self.normed(x))))
        x = self.downsample(self.shortcut(x))
        return self.head(self.sizes(x)).mean(2) + self.head(self.sizes(x[..., ::2])).mean(2)


class One(nn.Module):
    """One convolution of as many channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x):
        return self.conv(x)


SMALL = [
    ("own:Many", {}, (1, 13, 12), (3,)),
    ("own:One", {}, (2, 6, 5), (2, 6, 5)),
    ("own:Inner", {}, (2, 9), (3,)),
    ("own:Spared", {}, (1, 9), (3,)),
    ("pde", {"depth": 2, "channels": 4}, (1, 20), (1, 20)),
    ("pde", {"depth": 1, "channels": 3}, (1, 5, 4, 6), (2,)),
    ("wrn", {"depth": 10, "channels": 4}, (1, 8, 8), (3,)),
    ("wrn1d", {"channels": 4}, (2, 33), (3,)),
]
every_backbone = pytest.mark.parametrize(("backbone", "sizes", "inputs", "outputs"), SMALL)


@every_backbone
def test_one_hot_mixture_is_the_standalone_network(task, backbone, sizes, inputs, outputs):
    """For random architectures, with other weights and statistics than at first."""
    space = XD(task(inputs, outputs), backbone, OPTIONS, **sizes)
    supernet = space.supernet()
    supernet(torch.randn(8, *inputs), uniform(space.decisions))
    with torch.no_grad():
        for p in supernet.parameters():
            p.add_(0.1 * torch.randn_like(p))
    supernet.eval()
    x, rng = torch.randn(3, *inputs), np.random.default_rng(0)
    for architecture in [space.default, space.universal, *(space.sample(rng) for _ in range(4))]:
        model = space.build(architecture)
        model.load_state_dict(supernet.weights(architecture))
        with torch.no_grad():
            alone = model.eval()(x)
            mixed = supernet(x, one_hot(space.decisions, architecture))
        torch.testing.assert_close(mixed, alone, rtol=1e-5, atol=1e-5)


@every_backbone
@pytest.mark.parametrize("kind", ["blocks", "butterflies"])
def test_universal_starts_as_the_default_with_its_weights(task, backbone, sizes, inputs, outputs, kind):
    space = XD(task(inputs, outputs), backbone, transforms=kind, extras=kind == "blocks", **sizes)
    torch.manual_seed(1)
    plain = space.build(space.default).eval()
    torch.manual_seed(1)
    network = space.build(space.universal).eval()
    assert set(space.default) == {"conv"}
    assert set(space.universal) == {"xd"}
    state = network.state_dict()
    # Operations store their kernels in a form of their own.
    state |= {f"{name}.weight": network.get_submodule(name).kernel() for name in space.decisions}
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6)
    x = torch.randn(2, *inputs)
    with torch.no_grad():
        torch.testing.assert_close(network(x), plain(x), rtol=1e-4, atol=1e-4)


def test_universal_takes_the_first_xd_operation_and_needs_one(task):
    space = XD(task((1, 8), (3,)), options=("skip", "xd3", "xd"))
    assert set(space.universal) == {"xd3"}
    with pytest.raises(Unsupported, match="without an option xd"):
        _ = XD(task((1, 8), (3,)), options=("skip",)).universal


def test_decisions_offer_each_convolution_what_fits_it(task):
    decisions = XD(task((1, 16, 16), (3,)), options=OPTIONS).decisions
    assert len(decisions) == 13
    assert list(decisions)[:3] == ["stem", "blocks.0.conv1", "blocks.0.conv2"]
    whole = ["conv", *OPTIONS]
    assert decisions["stem"] == [o for o in whole if o not in ("pool3", "skip")]
    assert decisions["blocks.0.conv1"] == whole
    assert decisions["blocks.2.conv2"] == [o for o in whole if o != "permuted"]


def test_by_default_there_are_kernels_a_pool_permutations_fourier_layers_and_xd(task):
    (options,) = XD(task((2, 40, 5), (2, 40, 5)), "own:One").decisions.values()
    assert options == [
        *("conv", "k1d1", "k5d1", "k7d1", "k3d2", "pool3", "skip", "zero", "permuted"),
        *("fourier4", "fourier8", "fourier16", "fourier", "xd"),
    ]


def test_the_backbone_follows_the_number_of_axes(task):
    for inputs, name in (((1, 8), "wrn1d"), ((1, 8, 8), "wrn")):
        assert XD(task(inputs, (3,))).description == f"backbone {name}"
    assert XD(task((1, 4, 4, 4), (3,))).description.startswith("backbone pde, ")
    described = XD(task((1, 8, 8), (3,)), depth=10, channels=4, width=2).description
    assert described == "backbone wrn, depth 10, channels 4, width 2"
    # Its kernels are 3 x 3 already, and 8 pixels have no 20 frequencies.
    described = XD(task((1, 8, 8), (3,)), options=("k3d1", "k5d1", "fourier20", "xd")).description
    assert described == "backbone wrn, options without effect: k3d1 fourier20"


def test_built_layers_are_the_chosen_operations(task):
    space = XD(task((1, 20), (1, 20)), "pde", ("fourier4", "xd2", "k3d1"), circular=False, channels=4)
    network = space.build(("fourier4", "xd2", "k3d1", "conv"))
    convs = [block.conv for block in network.blocks]
    assert [type(c) for c in convs] == [FourierConv, XDConv, nn.Conv1d, nn.Conv1d]
    assert [c.kernel_size for c in convs[2:]] == [(3,), (17,)]
    assert {c.padding_mode for c in convs[2:]} == {"zeros"}
    assert not convs[1].site.circular
    assert convs[1].site.kernel == (17,)
    whole = XD(space.task, "pde", circular=True, channels=4)
    assert all(site.circular for site in whole.sites.values())


def test_convolutions_of_a_users_backbone_are_searched_if_they_are_used(task):
    decisions = XD(task((1, 13, 12), (3,)), "own:Many").decisions
    assert list(decisions) == ["conv1", "conv2", "body.0", "body.3", "squeeze"]
    assert decisions["conv1"] == ["conv", "xd"]


def test_convolutions_that_cannot_be_replaced_are_left_alone(task):
    """Of several names, of other kinds or borders, with spared names, or met with maps of two sizes."""
    space = XD(task((1, 9), (3,)), "own:Spared")
    assert list(space.decisions) == ["searched"]
    network = space.build(("xd",))
    assert [n for n, m in network.named_modules() if isinstance(m, XDConv)] == ["searched"]
    assert network.again is network.twice


def test_a_mixture_is_the_weighted_sum_of_all_operations(task):
    space = XD(task((2, 6, 5), (2, 6, 5)), "own:One", OPTIONS)
    supernet = space.supernet()
    (layer,) = supernet.layers
    x, p = torch.randn(3, 2, 6, 5), torch.tensor([0.5, -1.0, 2.0, 0.0, 0.25, 1.5, 0.75, 1.0])
    with torch.no_grad():
        expected = sum(weight * part(x) for weight, part in zip(p, layer.operations, strict=True))
        torch.testing.assert_close(supernet(x, [p]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "sizes", "inputs", "outputs"),
    [SMALL[1], SMALL[2], ("pde", {"depth": 2, "channels": 2}, (1, 5), (1,))],
)
def test_weights_of_the_mixture_have_their_gradients(task, backbone, sizes, inputs, outputs):
    """By finite differences, also for options whose weight is zero."""
    space = XD(task(inputs, outputs), backbone, OPTIONS, **sizes)
    supernet = space.supernet().double().eval()
    x = torch.randn(2, *inputs, dtype=torch.float64)
    mixture = [torch.rand(len(o), dtype=torch.float64) for o in space.decisions.values()]
    for row in mixture:
        row[::2] = 0
    plain = supernet(x, mixture)
    found = [row.clone().requires_grad_() for row in mixture]
    torch.testing.assert_close(supernet(x, found), plain, rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradcheck(lambda *rows: supernet(x, rows), found)


def test_operations_without_weight_are_not_computed(task):
    space = XD(task((2, 6, 5), (2, 6, 5)), "own:One", OPTIONS)
    supernet = space.supernet()
    (layer,) = supernet.layers
    for i, option in enumerate(space.decisions["conv"]):
        supernet.zero_grad()
        supernet(torch.randn(2, 2, 6, 5), one_hot(space.decisions, (option,))).square().sum().backward()
        learned = [any(p.grad is not None for p in o.parameters()) for o in layer.operations]
        assert learned == [j == i for j in range(len(learned))]


def test_a_mixture_is_forgotten_and_the_supernet_can_be_copied(task):
    space = XD(task((2, 6, 5), (2, 6, 5)), "own:One", OPTIONS)
    supernet = space.supernet()
    x, mixture = torch.randn(2, 2, 6, 5), [torch.ones(8, requires_grad=True)[: len(space.decisions["conv"])]]
    expected = supernet(x, mixture)
    assert all(layer.mixture is None for layer in supernet.layers)
    assert torch.equal(copy.deepcopy(supernet)(x, mixture), expected)
    for wrong in ([], [torch.ones(2)], [*mixture, *mixture]):
        with pytest.raises(ValueError, match="one vector for each decision"):
            supernet(x, wrong)


def test_xd_operations_of_the_supernet_start_as_its_convolutions(task):
    space = XD(task((1, 20), (3,)), channels=4, options=("xd", "permuted"))
    supernet = space.supernet().eval()
    x = torch.randn(2, 1, 20)
    with torch.no_grad():
        plain, other = (supernet(x, one_hot(space.decisions, a)) for a in (space.default, space.universal))
    torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-5)


def test_standalone_weights_are_copies(task):
    space = XD(task((1, 9), (3,)), "own:Spared", OPTIONS)
    supernet = space.supernet()
    kept = supernet.weights(space.default)
    before = {k: v.clone() for k, v in kept.items()}
    with torch.no_grad():
        for p in supernet.parameters():
            p.add_(1)
    assert all(torch.equal(kept[k], before[k]) for k in before)


def test_a_supernet_says_what_it_costs(task):
    """About as many operations as all of its options, in units of a network of an average option each."""
    space = XD(task((2, 6, 5), (2, 6, 5)), "own:One", OPTIONS)
    supernet = space.supernet()
    (layer,) = supernet.layers
    costs = [forward_flops(o, (2, 6, 5)) for o in layer.operations]
    assert supernet.cost == pytest.approx(sum(costs) / np.mean(costs), rel=1e-3)
    assert supernet.path_cost == 1
    fewer = replace(space, options=OPTIONS[:3]).supernet()
    assert 1 < fewer.cost < supernet.cost


@every_backbone
def test_all_that_shapes_an_operation_is_a_transform(task, backbone, sizes, inputs, outputs):
    """And nothing else: the default has none."""
    space = XD(task(inputs, outputs), backbone, extras=True, **sizes)
    assert transforms(space.build(space.default)) == []
    network = space.build(space.universal)
    found = {id(t) for t in transforms(network)}
    shaping = ("learned.", "gate", "spectral_bias")
    named = {n for n, p in network.named_parameters() if id(p) in found}
    assert named == {n for n, _ in network.named_parameters() if any(word in n for word in shaping)}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_transforms_stay_at_a_rate_of_zero_and_move_at_another(task, optimizer):
    """Bit for bit, while the weights learn; and the other way round."""
    space = XD(task((1, 12), (1, 12)), "pde", ("xd",), depth=2, channels=2, extras=True)
    for rates, moving in (
        ({"lr": 0.01, "transform_lr": 0.0}, False),
        ({"lr": 0.0, "transform_lr": 0.01}, True),
    ):
        network = space.build(space.universal)
        before = {n: p.detach().clone() for n, p in network.named_parameters()}
        shaping = {id(t) for t in transforms(network)}
        recipe = Recipe(epochs=2, batch_size=2, optimizer=optimizer, weight_decay=0.1, **rates)
        fit(network, space.task, recipe)
        changed = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
        assert changed == {n for n, p in network.named_parameters() if (id(p) in shaping) == moving}


def test_enlarged_is_wider_with_the_same_decisions(task):
    """Of the options, those that fit at both widths: where one has other channels, nothing is passed on."""
    space = XD(task((1, 8, 8), (3,)), final_width=2, depth=10)
    large = space.enlarged()
    assert large.decisions == space.decisions
    assert "skip" not in space.decisions["blocks.0.conv1"]
    assert "skip" in space.decisions["blocks.0.conv2"]
    skipping = tuple("skip" if "skip" in o else "conv" for o in space.decisions.values())
    assert large.build(skipping).eval()(torch.randn(2, 1, 8, 8)).shape == (2, 3)
    assert len(list(space.supernet().layers)[1].operations) == len(space.decisions["blocks.0.conv1"])
    assert large.build(large.default).blocks[0].conv1.out_channels == 32
    assert large.build(large.universal).blocks[0].conv1.site.outputs == 32
    assert large.enlarged() == large
    plain = XD(task((1, 8), (3,)), "wrn1d")
    assert plain.enlarged() is plain


@pytest.mark.parametrize("architecture", [(), ("conv",) * 2, ("k7d9",), ("xd2",)])
def test_architecture_of_another_space_is_refused(task, architecture):
    space = XD(task((2, 6, 5), (2, 6, 5)), "own:One")
    with pytest.raises(ValueError):  # noqa: PT011 - the message is the sequence's own
        space.build(architecture)
    with pytest.raises(ValueError):  # noqa: PT011
        space.supernet().weights(architecture)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options": ("xd", "k4d1")}, "no operation is called 'k4d1'"),
        ({"depth": 0}, "depth 0"),
    ],
)
def test_impossible_settings_are_refused_at_once(task, settings, message):
    with pytest.raises(UsageError, match=message):
        XD(task(), **settings)


class TestXDForMaps(SpaceContract):
    @pytest.fixture
    def task(self, task):
        return task((1, 6, 6), (3,))

    @pytest.fixture
    def space(self, task):
        return XD(task, "pde", ("k3d1", "skip", "fourier2", "xd"), "butterflies", True, depth=2, channels=3)


class TestXDForVolumes(SpaceContract):
    @pytest.fixture
    def task(self, task):
        return task((1, 5, 4, 6), (2, 5, 4, 6))

    @pytest.fixture
    def space(self, task):
        return XD(task, depth=2, channels=3, circular=False)
