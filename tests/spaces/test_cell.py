"""Spaces of cells: decisions, built networks, and what the final phase adds."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nasfw.flops import count_layers, count_parameters, forward_flops
from nasfw.junctions import is_member
from nasfw.spaces.cell import Darts
from nasfw.spaces.cells import Chain, DropPath, Edge, Edges, edges
from nasfw.spaces.nasbench201 import NasBench201
from nasfw.spaces.robust import S1, S2, S3, S4, S5
from nasfw.values import UsageError

SIZES = [(8, 8), (7, 5), (5,), (1, 1), (2,)]


def small(space, task, **settings):
    return space(task, layers=3, channels=4, **settings)


def members_of(space, count=3):
    rng = np.random.default_rng(0)
    return [space.sample(rng) for _ in range(count)]


def test_decisions_are_named_in_the_published_order(task):
    """Node by node, edges by the states that they leave; first the normal cell."""
    space = Darts(task())
    names = list(space.decisions)
    assert names[:6] == [f"normal {e}" for e in ("2<-0", "2<-1", "3<-0", "3<-1", "3<-2", "4<-0")]
    assert names[14:16] == ["reduce 2<-0", "reduce 2<-1"]
    assert len(names) == 28
    assert {len(options) for options in space.decisions.values()} == {8}


def test_the_sizes_are_the_published_ones(task):
    """Of DARTS 7^8 options and 1 x 3 x 6 x 10 pairs of edges for each cell; S1 to S4 have 2^8."""
    pairs = 1 * 3 * 6 * 10
    assert Darts(task()).size == (7**8 * pairs) ** 2
    for space in (S1, S2, S3, S4):
        assert space(task()).size == (2**8 * pairs) ** 2
    assert S5(task()).size == 81


def test_the_toy_space_has_81_different_members(task):
    space = S5(task())
    every = list(itertools.product(*space.decisions.values()))
    assert len(every) == len(set(every)) == 81
    assert all(is_member(space.junctions, architecture) for architecture in every)
    assert [j.absent for j in space.junctions] == [None, None]
    three = ["max_pool_3x3", "sep_conv_3x3", "skip_connect"]
    assert [sorted(options) for options in space.decisions.values()] == [three] * 4
    model = space.build(every[-1])
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 3)


def test_members_have_two_edges_for_every_node_and_none_is_absent_twice(task):
    """Eight edges in a cell, from two states into each node, also where both have to be kept."""
    space = Darts(task())
    uniform = [[1.0] * 8] * 28
    weakened = [[9.0] + [1.0] * 7] * 28
    chosen = [*members_of(space, 20), space.default, space.discretise(uniform), space.discretise(weakened)]
    for architecture in chosen:
        present = [name for name, o in zip(space.decisions, architecture, strict=True) if o != "none"]
        for kind, node in itertools.product(("normal", "reduce"), range(2, 6)):
            sources = [n for n in present if n.startswith(f"{kind} {node}<-")]
            assert len(set(sources)) == 2
        assert len(present) == 16


@pytest.mark.parametrize(
    ("space", "mixed"), [(Darts, True), (S1, False), (S2, False), (S3, True), (S4, False)]
)
def test_absent_edges_have_weight_only_where_that_is_published(space, mixed, task):
    made = space(task())
    assert {(j.absent, j.mixed, j.keep) for j in made.junctions} == {("none", mixed, 2)}
    assert all(options[0] == "none" for options in made.decisions.values())


def test_the_first_robust_space_has_the_published_table(task):
    decisions = S1(task()).decisions
    assert set(decisions["normal 2<-0"]) == {"none", "skip_connect", "dil_conv_3x3"}
    assert set(decisions["normal 4<-0"]) == {"none", "max_pool_3x3", "skip_connect"}
    assert set(decisions["normal 5<-4"]) == {"none", "dil_conv_3x3", "dil_conv_5x5"}
    assert set(decisions["reduce 4<-1"]) == {"none", "max_pool_3x3", "sep_conv_3x3"}
    assert set(decisions["reduce 5<-4"]) == {"none", "skip_connect", "dil_conv_5x5"}
    with pytest.raises(UsageError, match="cells of 4 nodes, not of 3"):
        S1(task(), nodes=3)


def test_the_default_takes_separable_convolutions_from_the_inputs(task):
    space = Darts(task())
    for name, option in zip(space.decisions, space.default, strict=True):
        assert option == ("sep_conv_3x3" if name[-1] in "01" else "none")
    assert S5(task()).default == ("sep_conv_3x3",) * 4


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("space", [Darts, S1, S4, S5])
def test_networks_fit_any_map(space, size, dense, task):
    """Also those that are no members: of every option on all edges, and of none."""
    outputs = (2, *size) if dense else (3,)
    made = small(space, task((2, *size), outputs))
    x = torch.randn(3, 2, *size)
    every = [tuple(o[min(j, len(o) - 1)] for o in made.decisions.values()) for j in range(8)]
    for architecture in dict.fromkeys((made.default, *members_of(made), *every)):
        assert made.build(architecture).eval()(x).shape == (3, *outputs)


@pytest.mark.parametrize("outputs", [(3,), (2, 9, 9)])
def test_two_cells_halve_the_map_and_double_the_channels(outputs, task):
    """For dense prediction they only do the latter."""
    space = Darts(task((1, 9, 9), outputs), layers=6, channels=4)
    model = space.build(space.default).eval()
    sizes = []
    for cell in model.cells:
        cell.register_forward_hook(lambda _, x, y: sizes.append(tuple(y.shape[1:])))
    model(torch.zeros(1, 1, 9, 9))
    sides = [9, 9, 5, 5, 3, 3] if len(outputs) == 1 else [9] * 6
    channels = [16, 16, 32, 32, 64, 64]
    assert sizes == [(c, n, n) for c, n in zip(channels, sides, strict=True)]


def test_a_cell_reads_the_two_before_it():
    class Sum(nn.Module):
        def forward(self, older, newer):
            return older + newer

    x = torch.ones(1)
    chain = Chain([Sum() for _ in range(5)])
    # Fibonacci's numbers from 1, 1 on.
    assert chain(x).item() == 13


def test_a_node_is_the_sum_over_its_edges_and_zero_without():
    class Times(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, x):
            return self.factor * x

    inner = Edges({Edge(2, 0): Times(2), Edge(2, 1): Times(3), Edge(4, 2): Times(10)}, 2, 3, 1)
    a, b = torch.randn(2, 1, 2, 3, 3)
    nodes = inner([a, b])
    torch.testing.assert_close(nodes[0], 2 * a + 3 * b)
    assert torch.equal(nodes[1], torch.zeros(1, 2, 3, 3))
    torch.testing.assert_close(nodes[2], 20 * a + 30 * b)
    assert Edges({}, 2, 1, 2)([a, b])[0].shape == (1, 2, 2, 2)


def test_all_edges_lead_forward():
    found = edges(2, 4)
    assert len(found) == 14
    assert all(e.source < e.node for e in found)


def test_decisions_have_modules_in_all_cells_of_their_kind(task):
    space = Darts(task(), layers=8, channels=2)
    model = space.build(tuple(options[-1] for options in space.decisions.values()))
    assert space.modules("reduce 4<-2") == ["cells.2.edges.4_2", "cells.5.edges.4_2"]
    assert len(space.modules("normal 2<-0")) == 6
    paths = [path for name in space.decisions for path in space.modules(name)]
    assert len(paths) == len(set(paths)) == 8 * 14
    for path in paths:
        model.get_submodule(path)


def test_the_final_phase_has_larger_networks_with_the_same_decisions(task):
    space = Darts(task(), partial_channels=4)
    final = space.enlarged()
    assert (final.layers, final.channels, final.partial_channels) == (20, 36, 1)
    assert final.enlarged() == final
    plain = Darts(task(), final_layers=None, final_channels=None).enlarged()
    assert (plain.layers, plain.channels) == (8, 16)


def test_a_smaller_space_has_less_work(task):
    space = Darts(task((1, 8, 8), (3,)))
    sizes = [space.reduced(flops) for flops in (1e12, 3e7, 2e7, 0)]
    assert sizes[0] == space
    pairs = [(s.layers, s.channels) for s in sizes]
    assert pairs == sorted(pairs, reverse=True)
    assert pairs[-1] == (3, 4)
    model = sizes[2].build(space.default)
    assert forward_flops(model, (1, 8, 8)) + 1e5 * count_layers(model) <= 2e7
    chosen = Darts(task(), layers=7)
    assert chosen.reduced(0) == chosen


@pytest.mark.parametrize("share", [2, 3, 8])
@pytest.mark.parametrize("make", [Darts, NasBench201])
def test_a_smaller_space_has_channels_that_can_be_divided(task, make, share):
    """Down to the smallest of such."""
    space = make(task((1, 32, 32), (3,)), channels=24, partial_channels=share)
    assert space.reduced(0) == space
    usual = type(space).channels
    if usual % share == 0:
        reduced = make(task((1, 32, 32), (3,)), partial_channels=share).reduced(0)
        assert reduced.channels < usual
        assert reduced.channels % share == 0


def test_the_toy_space_is_never_enlarged_by_being_reduced(task):
    assert S5(task((1, 8, 8), (3,))).reduced(1e12) == S5(task((1, 8, 8), (3,)))


@pytest.mark.parametrize("settings", [{"channels": 6, "partial_channels": 4}, {"partial_channels": 3}])
def test_channels_that_cannot_be_divided_are_refused(settings, task):
    with pytest.raises(UsageError, match="cannot be divided"):
        Darts(task(), **settings)


def test_unknown_operations_are_refused(task):
    with pytest.raises(UsageError, match="did you mean 'sep_conv_3x3'"):
        Darts(task(), operations=("sep_conv3x3",))


def test_inputs_of_other_shapes_are_refused(task):
    for inputs in ((3,), (1, 2, 3, 4)):
        space = Darts(task(inputs, (3,)))
        with pytest.raises(UsageError, match=r"a space of cells is for"):
            space.build(space.default)


# What the final phase adds.


@pytest.mark.parametrize("size", [(32, 32), (33, 40), (8, 8), (7, 5), (1, 1), (256,), (5,)])
def test_the_second_head_fits_any_map(size, task):
    space = replace(small(Darts, task((1, *size), (7,))), final=True)
    model = space.build(space.default).eval()
    path, head, weight = model.auxiliary()
    kept = []
    model.get_submodule(path).register_forward_hook(lambda _, x, y: kept.append(y))
    model(torch.randn(2, 1, *size))
    assert head(kept[0]).shape == (2, 7)
    assert weight == 0.4
    assert path == "cells.2"


def test_the_second_head_is_the_published_one_on_eight_by_eight(task):
    """Pooled to 2 x 2, then convolutions of 128 and 768 channels."""
    space = Darts(task((3, 32, 32), (10,))).enlarged()
    model = space.build(space.default)
    path, head, _ = model.auxiliary()
    assert path == "cells.13"
    expected = 576 * 128 + 2 * 128 + 128 * 768 * 4 + 2 * 768 + 768 * 10 + 10
    assert count_parameters(head) == expected
    assert head[1](torch.zeros(1, 576, 8, 8)).shape[2:] == (2, 2)


def test_the_second_head_is_no_part_of_the_network(task):
    space = small(Darts, task())
    plain, final = (s.build(s.default) for s in (space, replace(space, final=True)))
    assert plain.auxiliary() is None
    assert final.auxiliary() is not None
    assert plain.state_dict().keys() == final.state_dict().keys()
    dense = small(Darts, task((1, 8, 8), (1, 8, 8)), final=True)
    assert dense.build(dense.default).auxiliary() is None
    without = replace(space, final=True, auxiliary=0.0)
    assert without.build(space.default).auxiliary() is None


def test_drop_path_keeps_the_mean(task):
    """Each sample is dropped or divided by the probability to be kept."""
    drop = DropPath(0.4)
    x = torch.ones(20_000, 2, 1)
    assert drop(x) is x
    drop.progress(0.5)
    y = drop(x)
    assert set(y.unique().tolist()) == {0.0, 1.25}
    assert torch.equal(y[:, 0], y[:, 1])
    assert float(y[:, 0].mean()) == pytest.approx(1, abs=5 * (0.25 / len(x)) ** 0.5)
    assert drop.eval()(x) is x


def test_drop_path_meets_all_edges_but_identities(task):
    space = small(Darts, task(), final=True)
    chosen = dict.fromkeys(space.decisions, "none") | {
        "normal 2<-0": "skip_connect",
        "normal 2<-1": "max_pool_3x3",
        "reduce 2<-0": "skip_connect",
        "reduce 3<-2": "skip_connect",
    }
    model = space.build(tuple(chosen.values()))
    assert [cell.edges.dropped for cell in model.cells] == [["2_1"], ["2_0"], ["2_0"]]
    assert sum(isinstance(m, DropPath) for m in model.modules()) == 3
    assert not any(
        isinstance(m, DropPath) for m in replace(space, final=False).build(space.default).modules()
    )


def test_progress_reaches_every_cell_and_none_in_evaluation(task):
    space = small(Darts, task(), final=True, drop_path=0.9)
    model = space.build(space.default)
    x = torch.randn(8, 1, 8, 8)
    for module in model.modules():
        if hasattr(module, "progress"):
            module.progress(1.0)
    first, second = model(x), model(x)
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(model(x), model(x))
