"""Proposals by brute force, and what is trained of them."""

import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from nasfw import proposals
from nasfw.contracts import Architecture, Candidate, CostTable, Objective, Problem, Recipe, SearchSpace
from nasfw.junctions import is_member
from nasfw.proposals import Judge, cautious, gains_of
from nasfw.testing import Free, Price, ToyCells, ToySpace, ToyTask, Wrong


def problem(folder=Path(), *objectives, recipe=None, space=None):
    task = ToyTask()
    space = space or ToySpace(task)
    return Problem(space, task, objectives or (Wrong(), Price()), recipe or task.recipe, 3, Path(folder))


def propose(shown, count=24):
    return proposals.propose(shown, gains_of(WEIGHTS), count)


WEIGHTS = [torch.tensor([0.1, 0.3, 0.6]), torch.tensor([0.5, 0.3, 0.2])]


def best_for(t, power):
    """The maximiser of sum(log weight) - t * price among all nine architectures."""

    def value(architecture):
        gain = sum(math.log(w[(0.0, 1.0, 2.0).index(a)]) for w, a in zip(WEIGHTS, architecture, strict=True))
        return gain - t * sum(a**power for a in architecture)

    return max(itertools.product((0.0, 1.0, 2.0), repeat=2), key=value)


def test_with_one_objective_the_preferred_architecture_is_the_proposal():
    assert propose(problem(Path(), Wrong())) == [(2.0, 0.0)]


@pytest.mark.parametrize("power", [1, 2])
def test_proposals_are_the_whole_trade_off_by_brute_force(power):
    found = propose(problem(Path(), Wrong(), Price(power)))
    expected = {best_for(t, power) for t in np.linspace(0, 5, 2001)}
    assert set(found) == expected
    assert found[0] == (2.0, 0.0)
    assert len(expected) > 1


def test_known_trade_off():
    """Scale 1 gains log 3 for 1, scale 2 another log 2 for 1: steps at t = log 3 and log 2."""
    found = propose(problem(Path(), Wrong(), Price()))
    assert found == [(2.0, 0.0), (0.0, 0.0), (1.0, 0.0)]


def test_several_costs_are_followed_one_by_one_and_together():
    found = propose(problem(Path(), Wrong(), Price(1), Price(2)))
    for power in (1, 2):
        assert {best_for(t, power) for t in np.linspace(0, 5, 2001)} <= set(found)


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_no_more_than_the_asked_proposals(limit):
    for objectives in ((Wrong(), Price()), (Wrong(), Price(1), Price(2))):
        found = propose(problem(Path(), *objectives), limit)
        assert found[0] == (2.0, 0.0)
        assert 1 <= len(found) <= limit


@dataclass(frozen=True)
class Quoted(Price):
    """A price whose quotation, if it has one, is twice of what is paid; it notes what was asked for."""

    rows: tuple[tuple[float, ...], ...] | None = ((0.0, 2.0, 4.0),) * 2
    asked: list[str] = field(default_factory=list)

    def measure(self, candidate: Candidate) -> float:
        self.asked.append("paid")
        return super().measure(candidate)

    def table(self, space, task, seed):
        self.asked.append("quoted")
        return self.rows and CostTable(self.rows, 5.0, 0.9, 0.1, 6, 6, 1.0)


def test_proposals_follow_the_objectives_table(tmp_path):
    """Twice the cost has the same maximisers; the plain one's is not measured."""
    quoted = Quoted()
    found = propose(problem(tmp_path, Wrong(), quoted))
    assert found == propose(problem(tmp_path, Wrong(), Price()))
    assert quoted.asked == ["quoted"]
    dear = Quoted(rows=((0.0, 1.0, 100.0), (0.0, 1.0, 2.0)))
    found = propose(problem(tmp_path / "dear", Wrong(), dear))
    assert found == [(2.0, 0.0), (0.0, 0.0), (1.0, 0.0)]


def test_some_that_are_cheaper_than_the_chosen_are_tried():
    """Two: halfway from the cheapest chosen to the cheapest of all, and halfway again."""
    prices = {(i,): 10.0 + i for i in range(10)}
    assert proposals._between(prices, [(9,), (8,)]) == [(4,), (2,)]
    assert proposals._between(prices, [(8,), ("unpriced",)]) == [(4,), (2,)]
    assert proposals._between({(0,): 0.0, (5,): 5.0, (9,): 9.0}, [(9,), (5,)]) == []
    assert proposals._between({(0,): 0.0, (1,): 1.0, (9,): 9.0}, [(9,), (9,)]) == [(1,)]


def test_without_something_cheaper_nothing_more_is_tried():
    prices = {(i,): float(i) for i in range(10)}
    assert proposals._between(prices, [(9,), (0,)]) == []
    assert proposals._between(prices, [(9,)]) == []
    assert proposals._between(prices, [("unpriced",), ("neither",)]) == []


def test_inherited_networks_compute_what_the_supernet_computes(tmp_path):
    p = problem(tmp_path)
    supernet = p.space.supernet().eval()
    candidate = Judge(p, supernet).candidate((1.0, 2.0))
    x, _ = next(iter(p.task.batches("valid")))
    one_hot = [torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])]
    torch.testing.assert_close(candidate.model(x), supernet(x, one_hot))
    assert candidate.split == "valid"


def test_batch_statistics_are_those_of_the_training_split(tmp_path):
    """With one whole batch they are its mean and variance."""

    @dataclass(frozen=True)
    class Normed(ToySpace):
        def build(self, architecture: Architecture) -> torch.nn.Module:
            return torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))

    @dataclass(frozen=True)
    class Stale:
        def weights(self, architecture):
            return torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3)).state_dict()

    task = ToyTask()
    p = problem(tmp_path, space=Normed(task), recipe=Recipe(epochs=1, batch_size=1000))
    model = Judge(p, Stale()).candidate((1.0, 1.0)).model
    (x, _), *_ = task.batches("train")
    torch.testing.assert_close(model[0].running_mean, x.mean(0))
    torch.testing.assert_close(model[0].running_var, x.var(0))
    assert not model.training


def test_cautious_changes_what_the_mixture_prefers_most(tmp_path):
    """Of four decisions the second is surest, then the last, the third; the first keeps its own option."""
    space = Four(ToyTask())
    weights = [torch.tensor(w) for w in ([0.6, 0.4], [0.1, 0.9], [0.4, 0.6], [0.2, 0.8])]
    shown = Problem(space, space.task, [], space.task.recipe, 0, tmp_path)
    assert cautious(shown, gains_of(weights)) == [(0.0, 1.0, 0.0, 0.0), (0.0, 1.0, 0.0, 1.0)]
    weights[2] = torch.tensor([0.6, 0.4])
    assert cautious(shown, gains_of(weights)) == [(0.0, 1.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)]


def test_cautious_keeps_the_plain_network_that_is_preferred(tmp_path):
    space = Four(ToyTask())
    shown = Problem(space, space.task, [], space.task.recipe, 0, tmp_path)
    assert set(cautious(shown, gains_of([torch.tensor([0.7, 0.3])] * 4))) == {space.default}


@dataclass(frozen=True)
class Four(SearchSpace):
    """Four decisions between 0 and 1; the plain network is all zeros."""

    task: ToyTask

    @property
    def decisions(self):
        return dict.fromkeys("abcd", (0.0, 1.0))

    @property
    def default(self):
        return (0.0,) * 4

    def build(self, architecture):
        return torch.nn.Identity()


def cells(folder, *objectives, share=1):
    task = ToyTask()
    space = ToyCells(task, share=share)
    return Problem(space, task, objectives, task.recipe, 3, Path(folder))


@dataclass(frozen=True)
class Weights(Objective):
    """How many weights the network has."""

    metric = "weights"

    def measure(self, candidate: Candidate) -> float:
        return float(sum(p.numel() for p in candidate.model.parameters()))


def test_costs_are_those_of_the_standalone_network_where_the_supernet_stands_in(tmp_path):
    """With partial channels a supernet has no weights for standalone networks."""
    p = cells(tmp_path, Wrong(), Weights(), share=2)
    architectures = [
        ("skip", "skip", "skip", "skip", "none", 1.0),
        ("bent", "linear", "none", "bent", "bent", 2.0),
    ]
    found = dict(Judge(p, p.space.supernet()).rate(architectures, p.objectives, "rating"))
    for architecture in architectures:
        expected = sum(w.numel() for w in p.space.build(architecture).parameters())
        assert found[architecture]["weights"] == expected
    assert len({values["weights"] for values in found.values()}) == 2


@dataclass(frozen=True)
class Listed(Objective):
    """One architecture is right, and all others are half wrong."""

    best: Architecture = ()
    trained = True
    metric = "error"

    def measure(self, candidate: Candidate) -> float:
        return 0.0 if candidate.architecture == self.best else 0.5


@pytest.mark.parametrize("candidates", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("priced", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_best_of_what_was_found_on_the_way_is_trained(tmp_path, candidates, priced, seed):
    """Whatever else there is to try; and what the mixture prefers at last is, if there is a second place."""
    rng, drawn = np.random.default_rng(seed), cells(tmp_path).space
    last, *others, best = [drawn.sample(rng) for _ in range(5)]
    p = cells(tmp_path / "run", Listed(best), *([Weights()] if priced else []))
    gains = [rng.normal(size=len(options)) for options in p.space.decisions.values()]
    judge = Judge(p, p.space.supernet())
    found = proposals.choose(judge, Free(), gains, 24, candidates, [last, *others, best])
    assert best in found
    assert candidates == 1 or found[0] == last
    assert len(found) == len(set(found)) == candidates
    assert candidates < 3 or p.space.default in found


def test_neighbours_are_those_that_gain_most_by_brute_force(tmp_path):
    """Of the architectures that differ in one decision, the first by the sum of gains; not itself."""
    p = problem(tmp_path, Wrong())
    gains = gains_of(WEIGHTS)
    around = [a for a in itertools.product((0.0, 1.0, 2.0), repeat=2) if (a[0] == 2.0) != (a[1] == 0.0)]

    def worth(a):
        return sum(g[(0.0, 1.0, 2.0).index(x)] for g, x in zip(gains, a, strict=True))

    expected = sorted(around, key=worth, reverse=True)
    assert proposals.near(p, gains, (2.0, 0.0), 24) == expected
    assert proposals.near(p, gains, (2.0, 0.0), 3) == expected[:3]


@pytest.mark.parametrize("seed", range(3))
def test_with_one_objective_the_neighbours_of_the_preferred_one_are_tried(tmp_path, seed):
    """Where one of them is the best, it is trained; and there are as many candidates as were asked for."""
    rng, space = np.random.default_rng(seed), cells(tmp_path).space
    gains = [rng.normal(size=len(options)) for options in space.decisions.values()]
    preferred = space.discretise([g.tolist() for g in gains])
    best = proposals.near(cells(tmp_path), gains, preferred, 24)[10]
    p = cells(tmp_path, Listed(best))
    found = proposals.choose(Judge(p, space.supernet()), Free(), gains, 24, 6, [preferred])
    assert found[0] == preferred
    assert best in found
    assert len(set(found)) == 6
    assert all(is_member(space.junctions, a) for a in found)
