"""Junctions against the list of all their members."""

import itertools
import math

import numpy as np
import pytest

from nasfw.junctions import Junction, best, is_member, mutate, sample, size

NODE = {
    "a": ("none", "x"),
    "b": ("none", "x", "y"),
    "c": ("x", "none", "y", "z"),
    "free": (1, 2, 3),
}
# Decisions and junctions: none, edges of different numbers of options, all kept, two nodes, no choice at all.
CASES = {
    "free": ({"p": (1, 2, 3), "q": (False, True)}, []),
    "node": (NODE, [Junction((0, 1, 2), 2, "none")]),
    "one kept": (NODE, [Junction((0, 1, 2), 1, "none")]),
    "all kept": (NODE, [Junction((0, 1, 2), 3, "none")]),
    "any": (NODE, [Junction((0, 1, 2), 3)]),
    "two nodes": (
        {**{f"u{i}": ("none", "x", "y") for i in range(3)}, **{f"v{i}": ("none", "x") for i in range(3)}},
        [Junction((0, 1, 2), 2, "none"), Junction((3, 4, 5), 2, "none")],
    ),
    "absent elsewhere": (
        {"a": ("x", "none", "y"), "b": ("x", "y", "none"), "c": ("none", "x", "y"), "d": ("y", "x", "none")},
        [Junction((0, 1), 1, "none"), Junction((2, 3), 1, "none")],
    ),
    "alone": ({"a": ("none", "x"), "b": ("none", "x")}, [Junction((0, 1), 2, "none")]),
}
every_case = pytest.mark.parametrize(("decisions", "junctions"), CASES.values(), ids=list(CASES))


def members(decisions, junctions):
    """By definition: of each junction's edges that may be absent, as many are present as it keeps."""
    return [
        architecture
        for architecture in itertools.product(*decisions.values())
        if all(
            sum(architecture[i] != j.absent for i in j.decisions) == j.keep
            for j in junctions
            if j.absent is not None
        )
    ]


def chi_square_bound(freedom):
    """Four standard deviations above its mean."""
    return freedom + 4 * math.sqrt(2 * freedom)


@every_case
def test_the_size_is_the_number_of_members(decisions, junctions):
    assert size(decisions, junctions) == len(members(decisions, junctions))


def test_the_size_of_the_darts_space_is_its_formula():
    """Per kind of cell, node n of 4 takes 2 of n + 1 edges with 7 options each; there are two kinds."""
    decisions, junctions = darts_space()
    assert size(decisions, junctions) == math.prod(math.comb(n, 2) * 7**2 for n in (2, 3, 4, 5)) ** 2


@every_case
def test_members_are_what_keeps_as_many_edges_as_it_must(decisions, junctions):
    known = set(members(decisions, junctions))
    for architecture in itertools.product(*decisions.values()):
        assert is_member(junctions, architecture) == (architecture in known)


@every_case
def test_samples_are_uniform_over_the_members(decisions, junctions):
    """Also where edges have different numbers of options, so that some pairs of edges have more members."""
    known = members(decisions, junctions)
    rng, each = np.random.default_rng(0), 100
    drawn = [sample(decisions, junctions, rng) for _ in range(each * len(known))]
    counts = np.array([drawn.count(m) for m in known])
    assert counts.sum() == len(drawn)
    assert ((counts - each) ** 2 / each).sum() <= chi_square_bound(len(known) - 1)


@every_case
def test_mutation_reaches_every_member_from_every_other(decisions, junctions):
    """The graph of mutants is connected, and mutants of it lead back: all are reached from any start."""
    known, rng = members(decisions, junctions), np.random.default_rng(0)
    next_to = {m: {mutate(decisions, junctions, m, rng) for _ in range(150)} for m in known}
    assert set().union(*next_to.values()) <= set(known)
    for start in (known[0], known[-1]):
        reached, edge = {start}, [start]
        while edge:
            edge = [m for m in set().union(*(next_to[e] for e in edge)) if m not in reached]
            reached.update(edge)
        assert reached == set(known)


@every_case
def test_a_mutant_changes_one_option_or_moves_one_edge(decisions, junctions):
    rng = np.random.default_rng(1)
    absent = {i: j.absent for j in junctions if j.absent is not None for i in j.decisions}
    parents = members(decisions, junctions)
    for parent in parents:
        mutant = mutate(decisions, junctions, parent, rng)
        changed = [i for i, (a, b) in enumerate(zip(parent, mutant, strict=True)) if a != b]
        if len(parents) == 1:
            assert changed == []
        elif len(changed) == 2:
            gone, come = sorted(changed, key=lambda i: mutant[i] != absent[i])
            assert mutant[gone] == absent[gone]
            assert parent[come] == absent[come]
            assert any({gone, come} <= set(j.decisions) for j in junctions)
            # It takes its option along where it can.
            assert mutant[come] == parent[gone] or parent[gone] not in list(decisions.values())[come]
        else:
            (i,) = changed
            assert i not in absent or absent[i] not in (parent[i], mutant[i])


def test_half_of_the_changes_at_a_node_move_an_edge():
    """Of (x, y, none) with a free decision: each of three decisions a third, of the edges' half are moves."""
    decisions = {**{f"e{i}": ("none", "x", "y") for i in range(3)}, "free": (1, 2)}
    rng, n = np.random.default_rng(0), 6000
    found = [
        mutate(decisions, [Junction((0, 1, 2), 2, "none")], ("x", "y", "none", 1), rng) for _ in range(n)
    ]
    expected = {
        ("x", "y", "none", 2): 1 / 3,
        ("y", "y", "none", 1): 1 / 6,
        ("x", "x", "none", 1): 1 / 6,
        ("none", "y", "x", 1): 1 / 6,
        ("x", "none", "y", 1): 1 / 6,
    }
    assert set(found) == set(expected)
    statistic = sum((found.count(a) - n * p) ** 2 / (n * p) for a, p in expected.items())
    assert statistic <= chi_square_bound(len(expected) - 1)


@pytest.mark.parametrize("seed", range(8))
@every_case
def test_the_best_has_the_largest_sum_of_scores(decisions, junctions, seed):
    """By brute force, where absent edges count nothing whatever their own score is."""
    rng = np.random.default_rng(seed)
    scores = [rng.normal(size=len(options)).tolist() for options in decisions.values()]
    absent = {i: j.absent for j in junctions if j.absent is not None for i in j.decisions}

    def total(architecture):
        rows = zip(decisions.values(), scores, architecture, strict=True)
        return sum(
            row[options.index(o)]
            for i, (options, row, o) in enumerate(rows)
            if i not in absent or o != absent[i]
        )

    assert best(decisions, junctions, scores) == max(members(decisions, junctions), key=total)


def darts_space():
    """Two kinds of cells: 14 edges each into 4 nodes, of which two are kept, 8 options with "none" first."""
    names = ("none", "max", "avg", "skip", "sep3", "sep5", "dil3", "dil5")
    decisions, junctions = {}, []
    for kind in ("normal", "reduce"):
        for node in range(2, 6):
            start = len(decisions)
            decisions |= {f"{kind} {node}<-{source}": names for source in range(node)}
            junctions.append(Junction(tuple(range(start, start + node)), 2, "none"))
    return decisions, junctions


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_genotype_of_darts(seed):
    """Eight edges per cell, two different ones into each node, and none absent, though "none" is strongest.

    Per node those are kept whose strongest option but "none" has the largest weight (section 2.4).
    """
    decisions, junctions = darts_space()
    logits = np.random.default_rng(seed).normal(size=(28, 8))
    logits[:, 0] += 3
    weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = best(decisions, junctions, weights.tolist())
    assert [sum(o != "none" for o in found[k : k + 14]) for k in (0, 14)] == [8, 8]
    for junction in junctions:
        strength = {i: max(weights[i][1:]) for i in junction.decisions}
        kept = sorted(strength, key=strength.get)[-2:]
        assert {i for i in junction.decisions if found[i] != "none"} == set(kept)
        for i in kept:
            assert found[i] == decisions["normal 2<-0"][1 + int(np.argmax(weights[i][1:]))]


def test_each_edge_has_the_absent_option_where_its_own_list_has_it():
    """As in S1, whose lists differ from edge to edge; no edge is kept for "none", its strongest."""
    decisions = {
        "2<-0": ("none", "max", "skip"),
        "2<-1": ("sep3", "none", "dil3"),
        "2<-2": ("skip", "dil5", "none"),
    }
    scores = [[9.0, 1.0, 2.0], [3.0, 9.0, 1.0], [4.0, 2.0, 9.0]]
    junctions = [Junction((0, 1, 2), 2, "none")]
    assert best(decisions, junctions, scores) == ("none", "sep3", "skip")


def test_the_first_ones_among_equals_are_the_best():
    decisions, junctions = CASES["two nodes"]
    scores = [[0.5] * len(options) for options in decisions.values()]
    assert best(decisions, junctions, scores) == ("x", "x", "none", "x", "x", "none")


def test_edges_that_are_left_out_need_a_name():
    nameless = [Junction((0, 1), 1)]
    decisions = {"a": (1, 2), "b": (1, 2)}
    with pytest.raises(ValueError, match="absent edges are called"):
        best(decisions, nameless, [[1.0, 2.0]] * 2)
    with pytest.raises(ValueError, match="absent edges are called"):
        sample(decisions, nameless, np.random.default_rng(0))
