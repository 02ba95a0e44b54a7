"""The cells are numbered as the benchmark's authors did."""

import numpy as np
import pytest
from nasfw_nasbench201.cells import COUNT, EDGES, OPERATIONS, architectures, index_of, indices, is_constant

import nasfw
from nasfw.testing import ToySpace, ToyTask


def test_the_order_is_that_of_the_published_table(real, ops):
    with np.load(real("nb201_accuracy.npz"), allow_pickle=False) as table:
        assert table["op_names"].tolist() == list(OPERATIONS)
        np.testing.assert_array_equal(table["ops"], ops)


def test_the_first_one_is_that_of_the_benchmarks_documentation():
    """|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"""
    assert architectures()[0] == (
        *("avg_pool_3x3", "nor_conv_1x1", "skip_connect"),
        *("nor_conv_1x1", "skip_connect", "skip_connect"),
    )


def test_every_architecture_has_one_index():
    assert len(set(architectures())) == COUNT == 15625
    assert [indices()[a] for a in architectures()] == list(range(COUNT))


def test_they_are_the_architectures_of_the_space(space):
    assert tuple(space.decisions) == EDGES
    assert all(tuple(options) == OPERATIONS for options in space.decisions.values())
    assert space.size == COUNT
    assert index_of(nasfw.Candidate(space, space.task, space.default)) == indices()[space.default]


def test_other_spaces_are_refused():
    task = ToyTask()
    with pytest.raises(nasfw.Unsupported, match="none of ToySpace; use spaces=nasbench201"):
        index_of(nasfw.Candidate(ToySpace(task), task, (0.0, 1.0)))


def reached(architecture):
    """Whether state 3 can be reached from state 0, state by state."""
    states = {0}
    for edge, option in sorted(zip(EDGES, architecture, strict=True)):
        node, source = map(int, edge.split("<-"))
        if option != "none" and source in states:
            states.add(node)
    return 3 in states


def test_constants_are_the_cells_without_a_path():
    assert all(is_constant(a) != reached(a) for a in architectures())
    assert sum(map(is_constant, architectures())) == 341
