"""The space of NAS-Bench-201 against its published tables and strings."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from nasfw.flops import count_parameters, forward_flops
from nasfw.mixtures import one_hot
from nasfw.spaces.nasbench201 import (
    OPERATIONS,
    NasBench201,
    Residual,
    architecture_of,
    index_of,
    parse,
    text,
)
from nasfw.values import UsageError

TABLE = Path(__file__).parents[2].parent / "shared" / "data" / "nas_tables" / "nb201_accuracy.npz"
# The first of the published tables, and the best one on CIFAR-10.
FIRST = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"


@pytest.fixture(scope="module")
def table():
    if not TABLE.exists():
        pytest.skip(f"{TABLE} is not here")
    with np.load(TABLE) as content:
        return dict(content)


def test_the_size_is_15625(task):
    assert NasBench201(task()).size == 15625


def test_all_indices_and_strings_round_trip():
    seen = set()
    for i in range(15625):
        architecture = architecture_of(i)
        assert index_of(architecture) == i
        assert parse(text(architecture)) == architecture
        seen.add(architecture)
    assert len(seen) == 15625


def test_the_order_is_the_published_one(table):
    names = [str(name) for name in table["op_names"]]
    assert tuple(names) == OPERATIONS
    for i, row in enumerate(table["ops"]):
        assert architecture_of(i) == tuple(names[k] for k in row)


def test_the_first_string_is_the_published_one():
    assert text(architecture_of(0)) == FIRST


@pytest.mark.parametrize("index", [0, 1, 2, 3, 13714])
def test_sizes_are_the_published_ones(index, table, task):
    """Parameters of the network for CIFAR-10, and multiply-adds, of which the table also counts biases."""
    model = NasBench201(task((3, 32, 32), (10,))).build(architecture_of(index))
    assert count_parameters(model) == round(1e6 * float(table["params_M"][index, 0]))
    operations = forward_flops(model, (3, 32, 32)) / 2
    assert operations == pytest.approx(1e6 * float(table["flops_M"][index, 0]), abs=20)


def test_the_default_is_a_residual_block(task):
    """The two convolutions one after the other, plus the input."""
    space = NasBench201(task(), cells=1, channels=4)
    cell = space.build(space.default).cells[0]
    x = torch.randn(2, 4, 5, 5)
    expected = x + cell.edges["2_1"](cell.edges["1_0"](x))
    torch.testing.assert_close(cell(x), expected)


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (5,), (1,), (1, 2)])
@pytest.mark.parametrize("dense", [False, True])
def test_networks_fit_any_map(task, size, dense):
    outputs = (2, *size) if dense else (3,)
    space = NasBench201(task((2, *size), outputs), cells=1, channels=4)
    rng = np.random.default_rng(0)
    nothing = ("none",) * 6
    x = torch.randn(3, 2, *size)
    for architecture in (space.default, nothing, *(space.sample(rng) for _ in range(3))):
        assert space.build(architecture).eval()(x).shape == (3, *outputs)
    for supernet in (space.supernet(), space.partial(2).supernet()):
        assert supernet.eval()(x, one_hot(space.decisions, space.default)).shape == (3, *outputs)


def test_residual_blocks_halve_the_map_rounded_up():
    assert Residual(4, 8, 2, 2)(torch.randn(2, 4, 7, 6)).shape == (2, 8, 4, 3)


def test_decisions_have_modules_in_all_fifteen_cells(task):
    space = NasBench201(task(), channels=4)
    model = space.build(space.default)
    paths = space.modules("2<-1")
    assert len(paths) == 15
    assert all(model.get_submodule(path) is not None for path in paths)
    assert "cells.5.edges.2_1" not in paths


def test_all_edges_are_kept(task):
    """So "none" is an operation like the others."""
    space = NasBench201(task())
    assert [j.decisions for j in space.junctions] == [(0,), (1, 2), (3, 4, 5)]
    assert not any(j.selects for j in space.junctions)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "none",
        "|none~0|+|none~0|none~1|",
        "|none~0|+|none~1|none~0|+|none~0|none~1|none~2|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|conv~2|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|+",
        "none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
    ],
)
def test_other_strings_are_refused(given):
    with pytest.raises(UsageError, match="is no architecture of NAS-Bench-201"):
        parse(given)


def test_a_smaller_space_has_fewer_operations(task):
    space = NasBench201(task((1, 8, 8), (3,)))
    sizes = [space.reduced(flops) for flops in (1e9, 1e7, 1e6, 0)]
    assert sizes[0] == space
    pairs = [(s.cells, s.channels) for s in sizes]
    assert pairs == sorted(pairs, reverse=True)
    assert pairs[-1] == (1, 4)
    chosen = NasBench201(task(), cells=4)
    assert chosen.reduced(0) == chosen


def test_operations_are_in_the_published_order(task):
    combinations = itertools.product(OPERATIONS, repeat=6)
    assert next(combinations) == ("none",) * 6
    assert set(NasBench201(task()).decisions.values()) == {OPERATIONS}


@pytest.mark.parametrize("size", [(8, 8), (7,)])
def test_the_space_writes_and_reads_the_published_strings(size, task):
    space = NasBench201(task((1, *size)))
    rng = np.random.default_rng(0)
    for architecture in (space.default, *(space.sample(rng) for _ in range(20))):
        assert space.text(architecture) == text(architecture)
        assert space.parse(space.text(architecture)) == architecture
    assert space.parse(FIRST) == architecture_of(0)


def test_the_space_reads_decisions_as_well(task):
    space = NasBench201(task())
    written = ", ".join(
        f"{name}={option}" for name, option in zip(space.decisions, OPERATIONS[:1] * 6, strict=True)
    )
    assert space.parse(written) == ("none",) * 6
    with pytest.raises(UsageError, match="'1<-0' cannot be conv; possible there: none, skip_connect"):
        space.parse("1<-0=conv")
    with pytest.raises(UsageError, match="'conv' is no architecture of NAS-Bench-201; one is"):
        space.parse("conv")
