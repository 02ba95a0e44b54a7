"""The trade-off against brute force over all architectures."""

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nasfw.contracts import (
    Architecture,
    Candidate,
    CostTable,
    Junction,
    Objective,
    Option,
    Problem,
    Recipe,
    SearchSpace,
    Task,
)
from nasfw.testing import ToyTask
from nasfw.tradeoff import option_costs, supported, walk


def everything(gains, costs):
    """(architecture, total gain, total cost) of all architectures."""
    for choice in itertools.product(*(range(len(g)) for g in gains)):
        yield (
            choice,
            sum(float(g[j]) for g, j in zip(gains, choice, strict=True)),
            sum(float(c[j]) for c, j in zip(costs, choice, strict=True)),
        )


def breakpoints(points):
    """Every t at which the value of two architectures is equal, so that nothing changes in between."""
    slopes = {(g - h) / (c - d) for (_, g, c), (_, h, d) in itertools.combinations(points, 2) if c != d}
    return sorted(t for t in slopes if t > 0)


def random_problem(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, size=rng.integers(1, 4))
    return [rng.normal(size=n) for n in sizes], [rng.normal(size=n) for n in sizes]


@pytest.mark.parametrize("seed", range(25))
def test_it_is_the_set_of_all_maximisers(seed):
    """Between two breakpoints random numbers have one maximiser; beyond the last, it is the cheapest."""
    gains, costs = random_problem(seed)
    points = list(everything(gains, costs))
    corners = [0.0, *breakpoints(points)]
    between = [(a + b) / 2 for a, b in itertools.pairwise(corners)] + [corners[-1] + 1]
    maximisers = {max(points, key=lambda p, t=t: p[1] - t * p[2])[0] for t in between}
    assert set(supported(gains, costs)) == maximisers


@st.composite
def tied_problems(draw):
    """Small whole numbers, where equal gains, costs and slopes abound."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    number = st.integers(0, 3)
    both = [
        [np.array(draw(st.lists(number, min_size=n, max_size=n)), dtype=float) for n in sizes] for _ in "gc"
    ]
    return both[0], both[1]


@given(tied_problems())
def test_with_ties_every_t_has_a_maximiser_and_nothing_else_is_there(problem):
    gains, costs = problem
    points = list(everything(gains, costs))
    totals = {choice: (g, c) for choice, g, c in points}
    found = [totals[choice] for choice in supported(gains, costs)]
    assert len(set(found)) == len(found)
    corners = [0.0, *breakpoints(points)]
    tested = [*corners, *((a + b) / 2 for a, b in itertools.pairwise(corners)), corners[-1] + 1]
    ever = set()
    for t in tested:
        best = max(g - t * c for _, g, c in points)
        ever |= {i for i, (g, c) in enumerate(found) if g - t * c >= best - 1e-9}
        assert max(g - t * c for g, c in found) == pytest.approx(best, abs=1e-9)
    assert ever == set(range(len(found)))


@given(tied_problems())
def test_gain_and_cost_both_rise_along_the_way(problem):
    gains, costs = problem
    totals = {choice: (g, c) for choice, g, c in everything(gains, costs)}
    walk = [totals[choice] for choice in supported(gains, costs)]
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(walk))
    assert walk[-1][0] == max(g for g, _ in totals.values())
    assert walk[0][1] == min(c for _, c in totals.values())


def test_one_option_is_no_decision():
    gain = [np.array([0.5]), np.array([0.0, 1.0]), np.array([-3.0])]
    cost = [np.array([7.0]), np.array([1.0, 2.0]), np.array([0.0])]
    assert supported(gain, cost) == [(0, 0, 0), (0, 1, 0)]


def test_among_equal_costs_the_largest_gain_wins_and_then_the_first():
    assert supported([np.array([1.0, 3.0, 2.0, 3.0])], [np.zeros(4)]) == [(1,)]


def test_an_option_below_the_line_of_two_others_is_never_best():
    assert supported([np.array([0.0, 1.0, 4.0])], [np.array([0.0, 1.0, 2.0])]) == [(0,), (2,)]
    assert supported([np.array([0.0, 2.0, 4.0])], [np.array([0.0, 1.0, 2.0])]) == [(0,), (2,)]
    assert supported([np.array([0.0, 3.0, 4.0])], [np.array([0.0, 1.0, 2.0])]) == [(0,), (1,), (2,)]


def test_no_decisions_have_one_architecture():
    assert supported([], []) == [()]


PRICES = ((1.0, 4.0, 2.5), (0.0, -8.0), (3.0,))


@dataclass(frozen=True)
class Shop(SearchSpace):
    """Builds nothing."""

    @property
    def decisions(self) -> Mapping[str, Sequence[Option]]:
        return {"a": ("x", "y", "z"), "b": (False, True), "c": (1,)}

    @property
    def default(self) -> Architecture:
        return ("z", False, 1)

    def build(self, architecture: Architecture) -> nn.Module:
        return nn.Identity()


@dataclass(frozen=True)
class Bill(Objective):
    """The sum of what the options cost: additive, so one exchange tells everything."""

    maximise = False
    metric = "bill"

    def measure(self, candidate: Candidate) -> float:
        options = candidate.space.decisions.values()
        chosen = zip(PRICES, options, candidate.architecture, strict=True)
        return sum(prices[list(o).index(a)] for prices, o, a in chosen)


@dataclass(frozen=True)
class Savings(Bill):
    metric = "savings"
    maximise = True


@pytest.mark.parametrize(("objective", "sign"), [(Bill(), 1.0), (Savings(), -1.0)])
def test_costs_of_options_are_exact_where_the_objective_is_additive(objective, sign):
    space, task = Shop(), ToyTask()
    problem = Problem(space, task, [objective], Recipe(), 0, Path())
    table = option_costs(problem, objective)
    for row, prices, options, plain in zip(
        table, PRICES, space.decisions.values(), space.default, strict=True
    ):
        start = prices[list(options).index(plain)]
        np.testing.assert_array_equal(row, [sign * (p - start) for p in prices])


TABLE = CostTable(PRICES, 10.0, 0.9, 0.05, 6, 6, 1.5)


@dataclass(frozen=True)
class Listed(Objective):
    """Has a table, and remembers what it was asked; it is never measured."""

    metric = "listed"
    label: str = "a"
    offered: CostTable | None = TABLE
    asked: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"listed@{self.label}"

    def measure(self, candidate: Candidate) -> float:
        raise AssertionError("it has a table")

    def table(self, space: SearchSpace, task: Task, seed: int) -> CostTable | None:
        self.asked.append(seed)
        return self.offered


@dataclass(frozen=True)
class Praised(Listed):
    metric = "praised"
    maximise = True


def shopping(folder: Path, objective: Objective) -> Problem:
    return Problem(Shop(), ToyTask(), [objective], Recipe(), 3, folder / "shop")


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "shop").glob("*"))


@pytest.mark.parametrize(("objective", "sign"), [(Listed(), 1.0), (Praised(), -1.0)])
def test_costs_of_options_are_the_objectives_table_where_it_has_one(tmp_path, objective, sign):
    found = option_costs(shopping(tmp_path, objective), objective)
    assert [row.tolist() for row in found] == [[sign * p for p in prices] for prices in PRICES]
    assert objective.asked == [3]


def test_a_table_is_kept_for_a_search_that_goes_on(tmp_path):
    """Measured anew, it might lead to other proposals."""
    objective = Listed()
    first = option_costs(shopping(tmp_path, objective), objective)
    (file,) = kept(tmp_path)
    assert file.match("costs-*.json")
    content = json.loads(file.read_text())
    assert content["objective"] == "listed@a"
    assert CostTable.read(content["table"]) == TABLE
    other = Listed(offered=CostTable(((9.0,) * 3, (9.0,) * 2, (9.0,)), 0.0, 0.0, 0.0, 0, 0, 0.0))
    again = option_costs(shopping(tmp_path, other), other)
    assert other.asked == []
    assert [a.tolist() for a in again] == [f.tolist() for f in first]


def test_every_objective_has_a_table_of_its_own(tmp_path):
    one, other = Listed("a"), Listed("b/c: d")
    for objective in (one, other, one, other):
        option_costs(shopping(tmp_path, objective), objective)
    assert one.asked == other.asked == [3]
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize(
    "content", ["", "{", "null", "[]", "{}", '{"table": null}', '{"table": {"costs": 3}}', "\udcff"]
)
def test_a_damaged_table_is_made_again(tmp_path, content):
    objective = Listed()
    expected = option_costs(shopping(tmp_path, objective), objective)
    (file,) = kept(tmp_path)
    file.write_bytes(content.encode(errors="surrogateescape"))
    found = option_costs(shopping(tmp_path, objective), objective)
    assert objective.asked == [3, 3]
    assert [f.tolist() for f in found] == [e.tolist() for e in expected]
    assert CostTable.read(json.loads(file.read_text())["table"]) == TABLE


def test_an_objective_without_a_table_is_measured_and_nothing_is_kept(tmp_path):
    @dataclass(frozen=True)
    class Unlisted(Bill):
        asked: list[int] = field(default_factory=list)

        def table(self, space: SearchSpace, task: Task, seed: int) -> None:
            self.asked.append(seed)

    objective = Unlisted()
    found = option_costs(shopping(tmp_path, objective), objective)
    assert objective.asked == [3]
    assert found[0].tolist() == [-1.5, 1.5, 0.0]
    assert kept(tmp_path) == []


def test_how_good_a_table_is_is_said(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        option_costs(shopping(tmp_path, Listed()), Listed())
    assert "listed@a as a sum over layers: rank correlation 0.900, error 5.0 % on 6 networks" in caplog.text


def test_a_table_survives_its_plain_form():
    read = CostTable.read(json.loads(json.dumps(asdict(TABLE))))
    assert read == TABLE
    assert read.predict((1, 0, 0)) == 10.0 + 4.0 + 0.0 + 3.0


def test_known_front_of_an_additive_objective_is_recovered():
    """Two decisions of two options: only the exchange of slope 2, then that of slope 1."""
    gains = [np.array([0.0, 2.0]), np.array([0.0, 3.0])]
    costs = [np.array([0.0, 1.0]), np.array([0.0, 3.0])]
    assert supported(gains, costs) == [(0, 0), (1, 0), (1, 1)]


@dataclass(frozen=True)
class Nodes(SearchSpace):
    """Two edges of three kept into a node, with two or three options beside "none", and a free decision."""

    kept: int = 2
    selects: bool = True

    @property
    def decisions(self) -> Mapping[str, Sequence[Option]]:
        return {"a": ("none", "x", "y"), "b": ("x", "none", "y", "z"), "c": ("none", "x", "y"), "d": (1, 2)}

    @property
    def junctions(self) -> Sequence[Junction]:
        return [Junction((0, 1, 2), self.kept, "none")] if self.selects else []

    @property
    def default(self) -> Architecture:
        return ("x", "x", "none", 1)

    def build(self, architecture: Architecture) -> nn.Module:
        return nn.Identity()


def kept_edges(space, gains, costs):
    """(architecture, total gain, total cost) of all members, where an absent edge counts nothing."""
    for architecture in itertools.product(*space.decisions.values()):
        if architecture[:3].count("none") == 3 - space.kept:
            places = [
                (i, list(options).index(o))
                for i, (options, o) in enumerate(zip(space.decisions.values(), architecture, strict=True))
                if o != "none"
            ]
            yield (
                architecture,
                sum(float(gains[i][k]) for i, k in places),
                sum(float(costs[i][k]) for i, k in places),
            )


def drawn_rows(space, rng, whole=False):
    sizes = [len(options) for options in space.decisions.values()]
    return [rng.integers(0, 3, n).astype(float) if whole else rng.normal(size=n) for n in sizes]


@pytest.mark.parametrize("kept", [1, 2, 3])
@pytest.mark.parametrize("seed", range(12))
def test_a_walk_over_junctions_is_the_set_of_all_maximisers(kept, seed):
    """Of gain - t cost between any two breakpoints, with negative gains and costs too; cheapest first."""
    rng, space = np.random.default_rng([seed, kept]), Nodes(kept)
    gains, costs = drawn_rows(space, rng), drawn_rows(space, rng)
    points = list(kept_edges(space, gains, costs))
    corners = [0.0, *breakpoints(points)]
    between = [(a + b) / 2 for a, b in itertools.pairwise(corners)] + [corners[-1] + 1]
    maximisers = [max(points, key=lambda p, t=t: p[1] - t * p[2])[0] for t in reversed(between)]
    assert walk(space, gains, costs) == list(dict.fromkeys(maximisers))


@pytest.mark.parametrize("seed", range(20))
def test_a_walk_over_junctions_with_ties_has_a_maximiser_for_every_t(seed):
    """In small whole numbers, where equal gains, costs and slopes abound."""
    rng, space = np.random.default_rng(seed), Nodes()
    gains, costs = drawn_rows(space, rng, whole=True), drawn_rows(space, rng, whole=True)
    points = list(kept_edges(space, gains, costs))
    totals = {a: (g, c) for a, g, c in points}
    found = [totals[a] for a in walk(space, gains, costs)]
    assert len(set(found)) == len(found)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(found))
    for t in [0.0, *breakpoints(points), 100.0]:
        assert max(g - t * c for g, c in found) == pytest.approx(
            max(g - t * c for _, g, c in points), abs=1e-9
        )
    assert found[0][1] == min(c for _, c in totals.values())
    assert found[-1][0] == max(g for g, _ in totals.values())


@pytest.mark.parametrize("seed", [0, 1, 3])
@pytest.mark.parametrize(("gain", "cost"), [(1.0, 1e-9), (1.0, 1e9), (1e-6, 1.0), (1e4, 1e-6)])
def test_a_walk_does_not_depend_on_units(gain, cost, seed):
    """A latency in seconds leads to the same architectures as one in nanoseconds."""
    rng, space = np.random.default_rng(seed), Nodes()
    gains, costs = drawn_rows(space, rng), drawn_rows(space, rng)
    expected = walk(space, gains, costs)
    assert walk(space, [gain * g for g in gains], [cost * c for c in costs]) == expected
    assert len(expected) > 2


@pytest.mark.parametrize("seed", range(5))
def test_a_walk_without_junctions_is_what_is_supported(seed):
    rng, space = np.random.default_rng(seed), Nodes(selects=False)
    gains, costs = drawn_rows(space, rng), drawn_rows(space, rng)
    options = list(space.decisions.values())
    expected = [
        tuple(o[k] for o, k in zip(options, choice, strict=True)) for choice in supported(gains, costs)
    ]
    assert walk(space, gains, costs) == expected
