"""DARTS-PT on supernets whose loss is a known function of the mixture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nasfw import training
from nasfw.contracts import Junction, Option, Problem, SearchSpace, Supernet
from nasfw.oneshot import Search
from nasfw.strategies.darts_pt import DartsPt, _Decided
from nasfw.testing import Free, ToyCells, ToyTask, Wrong
from nasfw.workloads import Work

EDGE = ("none", "x", "y", "z")


@dataclass(frozen=True)
class Debt(ToyTask):
    """How much the network's output is below a hundred."""

    blunt: bool = False

    def loss(self, output, target):
        return 100 - output.mean()

    def error(self, outputs, targets):
        return 0.5 if self.blunt else float(100 - outputs.mean())


class _Ledger(Supernet):
    """The sum of what the options are worth; of the ``rivals`` only the edge that is worth most counts."""

    def __init__(self, space):
        super().__init__()
        self.values, self.rivals = space.values, space.rivals
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x, mixture):
        worth = [row @ torch.tensor(v) for row, v in zip(mixture, self.values, strict=True)]
        total = sum(w for i, w in enumerate(worth) if i not in self.rivals)
        if self.rivals:
            total = total + torch.stack([worth[i] for i in self.rivals]).max()
        return total.expand(len(x), 1) + 0 * self.unused

    def weights(self, architecture):
        return {"unused": self.unused.detach().clone()}


class _Alone(nn.Module):
    def __init__(self, worth):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.worth = worth

    def forward(self, x):
        return torch.full((len(x), 1), self.worth) + 0 * self.unused


@dataclass(frozen=True)
class Ledger(SearchSpace):
    """Two nodes that keep two edges of three and one of two, and a decision on its own."""

    values: tuple[tuple[float, ...], ...]
    keep: tuple[int, int] = (2, 1)
    rivals: tuple[int, ...] = ()
    skips = frozenset()

    @property
    def decisions(self) -> Mapping[str, Sequence[Option]]:
        return {**{f"edge{i}": EDGE for i in range(5)}, "free": (1, 2)}

    @property
    def junctions(self):
        return [Junction((0, 1, 2), self.keep[0], "none"), Junction((3, 4), self.keep[1], "none")]

    @property
    def default(self):
        edges = [*["x"] * self.keep[0], *["none"] * (3 - self.keep[0]), *["x"] * self.keep[1]]
        return (*edges, *["none"] * (5 - len(edges)), 1)

    def build(self, architecture):
        worth = [
            v[list(o).index(a)]
            for v, o, a in zip(self.values, self.decisions.values(), architecture, strict=True)
        ]
        return _Alone(float(sum(worth)))

    def supernet(self):
        return _Ledger(self)


def drawn_values(seed):
    """Absent edges are worth most of all, which must not count."""
    rng = np.random.default_rng(seed)
    edges = [(9.0, *rng.uniform(0.1, 5.0, 3).tolist()) for _ in range(5)]
    return (*edges, tuple(rng.uniform(0.1, 5.0, 2).tolist()))


def problem(folder, space, task=None, **recipe):
    task = task or Debt()
    return Problem(space, task, [Wrong()], replace(task.recipe, **recipe), 3, Path(folder))


def trained(strategy, p, evaluate=None):
    torch.manual_seed(0)
    return strategy.train(p, evaluate or Free())


@pytest.mark.parametrize("blunt", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_it_keeps_what_costs_most_to_leave_out_and_removes_the_edges_that_are_missed_least(
    tmp_path, seed, blunt
):
    """All options weigh the same, so that it is the architecture that is worth most, by its definition.

    Equal errors are decided by the loss.
    """
    values = drawn_values(seed)
    space = Ledger(values)
    search, decided = trained(
        DartsPt(epochs=1, tune_epochs=0, mixture="blank"), problem(tmp_path, space, Debt(blunt=blunt))
    )
    tops = [int(np.argmax(v[1:])) + 1 for v in values[:5]]
    worth = [values[i][k] for i, k in enumerate(tops)]
    out = {int(np.argmin(worth[:3])), 3 + int(np.argmin(worth[3:]))}
    expected = ["none" if i in out else EDGE[k] for i, k in enumerate(tops)]
    assert space.discretise(search.mixture) == (*expected, 1 + int(np.argmax(values[5])))
    assert set(decided.removed) == out
    assert decided.kept == {**dict(enumerate(tops)), 5: int(np.argmax(values[5]))}


def asked(folder, space, logits, task=None):
    """A search with such logits, before any decision."""
    p = problem(folder, space, task)
    search, decided = Search(p, Free(), DartsPt(epochs=1), Work(mixed=1.0)), _Decided()
    search.outer = nn.ParameterList(torch.tensor(row) for row in logits)
    search.relax = lambda outer: decided.applied(search.softmax(outer))
    return search, decided


def test_the_other_options_keep_their_weights(tmp_path):
    """Of weight times worth 0.8, 0.2 and 0.3 the first is missed most.

    Of the others' mean, if their weights were normalised, it would be the last; of the worths as well.
    """
    values = ((0.0, 1.0, 2.0, 3.0),) * 5 + ((1.0, 1.0),)
    shares = torch.tensor([1e-9, 0.8, 0.1, 0.1])
    logits = [shares.log().tolist()] * 5 + [[0.0, 0.0]]
    search, decided = asked(tmp_path, Ledger(values), logits)
    decided.option(search, 0)
    assert decided.kept == {0: 1}
    assert search.mixture[0].tolist() == [0.0, 1.0, 0.0, 0.0]
    torch.testing.assert_close(search.mixture[1], shares, rtol=1e-4, atol=1e-6)


def test_edges_are_removed_one_by_one(tmp_path):
    """Of two edges that do for each other neither is missed; once one is gone, the other is missed most."""
    values = (
        ((0.0, 5.0, 0.0, 0.0),) * 2 + ((0.0, 3.0, 0.0, 0.0),) + ((0.0, 1.0, 0.0, 0.0),) * 2 + ((1.0, 1.0),)
    )
    space = Ledger(values, keep=(1, 2), rivals=(0, 1))
    search, decided = asked(tmp_path, space, [[0.0] * 4] * 5 + [[0.0, 0.0]])
    decided.kept = dict.fromkeys(range(5), 1) | {5: 0}
    decided.edges(search, 0)
    assert decided.removed == [0, 2]
    assert [float(row.sum()) for row in search.mixture[:3]] == [0.0, 1.0, 0.0]
    assert decided.judged == 3 + 2
    decided.edges(search, 1)
    assert decided.removed == [0, 2]


def test_an_options_gain_is_how_much_the_error_grows_without_it(tmp_path):
    """Against the option that is missed least; by a share of its worth, as all weigh the same."""
    values = drawn_values(0)
    search, decided = trained(
        DartsPt(epochs=1, tune_epochs=0, mixture="blank"), problem(tmp_path, Ledger(values))
    )
    for i, gain in enumerate(decided.gains(search.problem)):
        share = 1 / len(values[i])
        known = values[i][1:] if i < 5 else values[i]
        expected = [share * (v - min(known)) for v in known]
        np.testing.assert_allclose(gain[-len(known) :], expected, atol=1e-4)
        assert gain[: -len(known)].tolist() == [0.0] * (len(gain) - len(known))


def test_an_error_of_zero_is_an_error_like_others(tmp_path):
    decided = _Decided(worth={0: [None, 0.0, 0.2, 0.1], 5: [0.3, 0.0]})
    gains = decided.gains(problem(tmp_path, Ledger(drawn_values(0))))
    assert gains[0].tolist() == [0.0, 0.0, 0.2, 0.1]
    assert gains[5].tolist() == [0.3, 0.0]
    assert gains[1].tolist() == [0.0] * 4


def test_judging_is_charged_as_passes_forward_over_the_validation_split(tmp_path):
    """Three options of five edges, two of a decision; then edges of three and of two."""
    free, p = Free(), problem(tmp_path, Ledger(drawn_values(0)), Debt(samples=99))
    _, decided = trained(DartsPt(epochs=2, tune_epochs=0, mixture="blank"), p, free)
    assert decided.judged == 5 * 3 + 2 + 3 + 2
    assert free.passes[-1] == pytest.approx(22 / 3)
    again = Free()
    trained(DartsPt(epochs=2, tune_epochs=0, mixture="blank"), p, again)
    assert sum(again.passes) == pytest.approx(sum(free.passes))


@dataclass(frozen=True)
class TwoKinds(Ledger):
    """The edges of DARTS: fourteen in each of two kinds of cells, into nodes of two to five."""

    values: tuple[tuple[float, ...], ...] = ()

    @property
    def decisions(self):
        return {f"edge{i}": EDGE for i in range(28)}

    @property
    def junctions(self):
        made, start = [], 0
        for n in (2, 3, 4, 5, 2, 3, 4, 5):
            made.append(Junction(tuple(range(start, start + n)), 2, "none"))
            start += n
        return made


def test_the_space_of_darts_is_decided_in_fourteen_and_three_rounds(tmp_path):
    """Each of two edges and of two nodes; the nodes of two edges have none to lose."""
    rounds = list(DartsPt()._rounds(problem(tmp_path, TwoKinds())))
    assert [kind for kind, _ in rounds] == ["options"] * 14 + ["edges"] * 3
    assert {len(items) for _, items in rounds} == {2}
    assert sorted(i for kind, items in rounds if kind == "options" for i in items) == list(range(28))
    assert sorted(i for kind, items in rounds if kind == "edges" for i in items) == [1, 2, 3, 5, 6, 7]
    assert rounds == list(DartsPt()._rounds(problem(tmp_path, TwoKinds())))
    other = Problem(TwoKinds(), Debt(), [], Debt().recipe, 4, tmp_path)
    assert rounds != list(DartsPt()._rounds(other))


def test_tuning_begins_with_a_tenth_of_the_learning_rate(tmp_path):
    """In each round anew; before, it is the recipe's."""
    p = problem(tmp_path, ToyCells(Debt()), lr=0.2, schedule="onecycle", batch_size=16)
    strategy = DartsPt(epochs=3, tune_epochs=2)
    search = Search(p, Free(), strategy, Work(mixed=1.0))
    rates = strategy._annealing(search)
    found = []
    for _ in range(7 * search.steps):
        found.append(search.rate)
        search.optimiser.step()
        rates.step()
    main, tuning = 3 * search.steps, 2 * search.steps
    recipe = search.recipe
    assert found[:main] == [0.2 * training.factor(recipe, k, search.steps) for k in range(main)]
    cosine = [0.02 * (1 + math.cos(math.pi * k / tuning)) / 2 for k in range(tuning)]
    assert found[main:] == pytest.approx(cosine * 2, rel=1e-12)


@pytest.mark.parametrize(("tune", "trained_epochs"), [(0, 2), (1, 2 + 6), (3, 2 + 18)])
def test_the_supernet_is_tuned_between_two_rounds(tmp_path, tune, trained_epochs):
    """Six decisions and one node that loses an edge make seven rounds; the announced work is charged."""
    p, free = problem(tmp_path, ToyCells(ToyTask()), ToyTask()), Free()
    strategy = DartsPt(epochs=2, tune_epochs=tune)
    search, decided = trained(strategy, p, free)
    # A mixture of toy cells costs 2.
    assert sum(free.passes) == pytest.approx(2 * strategy.workload(p).supernet_passes, rel=1e-12)
    assert sum(free.passes[:-1]) == 4.0 * trained_epochs
    assert search.schedule.last_epoch == trained_epochs * search.steps
    assert (len(decided.kept), len(decided.removed)) == (6, 1)
    assert all(float(row.sum()) in (0.0, 1.0) for row in search.mixture)


def test_a_blank_mixture_stays_even_until_it_is_decided(tmp_path):
    search, _ = trained(
        DartsPt(epochs=2, tune_epochs=1, mixture="blank"), problem(tmp_path, ToyCells(ToyTask()), ToyTask())
    )
    assert all(float(row.detach().abs().max()) == 0.0 for row in search.outer)
    assert search.history.moments[1].entropy == pytest.approx(1.0, abs=1e-6)
    assert search.history.moments[-1].entropy == 0.0


def test_the_mixture_of_darts_learns_before_and_between(tmp_path):
    search, _ = trained(DartsPt(epochs=2, tune_epochs=1), problem(tmp_path, ToyCells(ToyTask()), ToyTask()))
    assert all(float(row.detach().abs().max()) > 1e-4 for row in search.outer)
