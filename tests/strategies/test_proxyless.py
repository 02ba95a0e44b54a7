"""ProxylessNAS: gradients of binary gates, steps on two options, and costs that count."""

import math
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path

import pytest
import torch

from nasfw.contracts import Candidate, CostTable, Objective, Problem
from nasfw.oneshot import Search
from nasfw.strategies.proxyless import Proxyless, expected_costs, gate_gradient, rebalance, two
from nasfw.testing import Free, Price, ToyCells, ToySpace, ToyTask, Wrong
from nasfw.testing.toys import _CellSupernet
from nasfw.workloads import Work

LOGITS = torch.tensor([0.3, -1.0, 2.0, 0.0, 0.7], dtype=torch.float64)


def problem(folder, *objectives, space=None, task=None, **recipe):
    task = task or ToyTask()
    return Problem(
        *(space or ToyCells(task), task, objectives or (Wrong(),), replace(task.recipe, **recipe), 3),
        Path(folder),
    )


def trained(strategy, p, evaluate=None):
    torch.manual_seed(0)
    return strategy.train(p, evaluate or Free())


@pytest.mark.parametrize("pair", list(permutations(range(5), 2))[:10])
def test_the_gradient_of_two_gates_is_its_formula_and_sums_to_zero(pair):
    """p_i sum_j g_j (delta_ij - p_j) with p normalised over the two; nothing for all others."""
    gates = torch.tensor([0.5, -2.0, 1.0, 3.0, 0.1], dtype=torch.float64)
    found = gate_gradient(LOGITS, gates, torch.tensor(pair))
    p = {i: math.exp(LOGITS[i]) / sum(math.exp(LOGITS[j]) for j in pair) for i in pair}
    for i in range(5):
        expected = sum(p[i] * float(gates[j]) * ((i == j) - p[j]) for j in pair) if i in pair else 0.0
        assert float(found[i]) == pytest.approx(expected, abs=1e-14)
    assert float(found.sum()) == pytest.approx(0.0, abs=1e-14)
    assert found.abs().max() > 0


def test_it_is_the_gradient_of_the_expected_gates():
    """Of sum_j p_j g_j; over all options, too, if all are drawn."""
    gates = torch.tensor([0.5, -2.0, 1.0, 3.0, 0.1], dtype=torch.float64)
    logits = LOGITS.clone().requires_grad_()
    (exact,) = torch.autograd.grad(torch.softmax(logits, 0) @ gates, logits)
    torch.testing.assert_close(gate_gradient(LOGITS, gates, torch.arange(5)), exact, rtol=1e-12, atol=1e-14)


def test_a_step_of_two_logits_leaves_the_other_probabilities_unchanged():
    """And the ratio of the two is the new one."""
    pair, logits = torch.tensor([3, 1]), LOGITS.clone()
    logits[pair] += torch.tensor([0.7, -1.3], dtype=torch.float64)
    ratio = torch.softmax(logits[pair], 0)
    rebalance(logits, LOGITS, pair)
    before, after = torch.softmax(LOGITS, 0), torch.softmax(logits, 0)
    others = [0, 2, 4]
    torch.testing.assert_close(after[others], before[others], rtol=1e-12, atol=1e-15)
    assert logits[others].tolist() == LOGITS[others].tolist()
    torch.testing.assert_close(torch.softmax(logits[pair], 0), ratio, rtol=1e-12, atol=1e-15)


def test_two_different_options_are_drawn_by_their_probabilities():
    """The first one with p_i, and then the second one of the others: p_i p_j / (1 - p_i)."""
    logits, n = LOGITS[:3], 6000
    p = torch.softmax(logits, 0).tolist()
    torch.manual_seed(0)
    drawn = [tuple(two(logits).tolist()) for _ in range(n)]
    expected = {(i, j): n * p[i] * p[j] / (1 - p[i]) for i, j in permutations(range(3), 2)}
    assert set(drawn) == set(expected)
    statistic = sum((drawn.count(pair) - e) ** 2 / e for pair, e in expected.items())
    assert statistic <= 5 + 4 * math.sqrt(10)
    assert two(torch.zeros(1)).tolist() == [0]


def test_a_mixtures_step_changes_two_options_of_each_decision(tmp_path):
    """The others keep their logits and their probabilities, which a step of both would change."""
    p = problem(tmp_path, batch_size=1000)
    search = trained(Proxyless(epochs=1, warmup=0.0, mixture_lr=0.1), p)
    before = _before(tmp_path / "still", p)
    for now, then in zip(search.outer, before, strict=True):
        shares = [torch.softmax(row.detach(), 0) for row in (now, then)]
        same = [k for k in range(len(now)) if now[k] == then[k]]
        assert len(same) == len(now) - 2
        torch.testing.assert_close(shares[0][same], shares[1][same], rtol=1e-5, atol=1e-7)
        assert float((shares[0] - shares[1]).abs().max()) > 1e-3
        assert now.grad[same].tolist() == [0.0] * len(same)
        assert float(now.grad.sum()) == pytest.approx(0.0, abs=1e-7)


def _before(folder, p):
    """The logits that such a search begins with."""
    search = trained(Proxyless(epochs=1, warmup=0.99), replace(p, folder=folder))
    return [row.detach() for row in search.outer]


@dataclass(frozen=True)
class Indifferent(ToyTask):
    """A quality that no option changes."""

    def loss(self, output, target):
        return 0 * output.sum() + 1.0


@dataclass(frozen=True)
class Gain(Objective):
    """The larger the numbers of an architecture, the better."""

    metric = "gain"
    maximise = True

    def measure(self, candidate: Candidate) -> float:
        return float(sum(float(a) for a in candidate.architecture))


@pytest.mark.parametrize(("objective", "preferred"), [(Price(), 0), (Gain(), 2)])
def test_where_the_quality_does_not_care_costly_options_lose(tmp_path, objective, preferred):
    """The expected cost has a gradient: its options come to be ordered by what they cost."""
    task = Indifferent(epochs=20)
    p = problem(tmp_path, Wrong(), objective, space=ToySpace(task), task=task)
    search = trained(Proxyless(warmup=0.0, interval=1, mixture_lr=0.1), p)
    for row in search.mixture:
        ordered = row.tolist() if preferred == 0 else row.tolist()[::-1]
        assert ordered == sorted(ordered, reverse=True)
        assert ordered[0] > 0.6
    free = trained(
        Proxyless(warmup=0.0, interval=1, mixture_lr=0.1, cost_weight=0.0),
        replace(p, folder=tmp_path / "free"),
    )
    for row in free.mixture:
        torch.testing.assert_close(row, torch.full((3,), 1 / 3), rtol=0, atol=1e-3)


@dataclass(frozen=True)
class Listed(Price):
    """Has a table of what its options cost; it is not measured."""

    rows: tuple[tuple[float, ...], ...] = ((1.0, 5.0, 3.0), (0.0, 2.0, 4.0))
    asked: list[int] = field(default_factory=list)

    def measure(self, candidate: Candidate) -> float:
        raise AssertionError("it has a table")

    def table(self, space, task, seed):
        self.asked.append(seed)
        return CostTable(self.rows, 5.0, 0.9, 0.1, 6, 6, 1.0)


def search_of(folder, *objectives, space=None):
    p = problem(folder, Wrong(), *objectives, space=space or ToySpace(ToyTask()))
    return Search(p, Free(), Proxyless(), Work(mixed=1.0))


def test_options_cost_what_the_objectives_table_says(tmp_path):
    """In shares of the range of the whole space's cost: here 4 of the first decision and 4 of the second."""
    listed = Listed()
    found = expected_costs(search_of(tmp_path, listed), 2.0)
    for row, prices in zip(found, Listed.rows, strict=True):
        torch.testing.assert_close(row, 2.0 * torch.tensor(prices) / 8)
    assert listed.asked == [3]


def test_costs_of_several_objectives_are_added_and_those_to_maximise_subtracted(tmp_path):
    """Each in shares of its own range: of the sum of two numbers up to 2 it is 4, of that of squares 8."""
    found = expected_costs(search_of(tmp_path, Price(1), Price(2), Gain()), 1.0)
    for row in found:
        expected = [(a / 4) + (a**2 / 8) - (a / 4) for a in (0.0, 1.0, 2.0)]
        torch.testing.assert_close(row - row[0], torch.tensor(expected))
    assert expected_costs(search_of(tmp_path), 1.0)[0].tolist() == [0.0] * 3


@dataclass(frozen=True)
class Edges(Objective):
    """What the options of an edge cost, by their places."""

    metric = "edges"

    def measure(self, candidate: Candidate) -> float:
        raise AssertionError("it has a table")

    def table(self, space, task, seed):
        return CostTable(((7.0, 1.0, 2.0, 3.0),) * 5 + ((0.0, 4.0),), 0.0, 1.0, 0.0, 0, 0, 0.0)


def test_options_that_are_not_mixed_have_no_price(tmp_path):
    search = search_of(tmp_path, Edges(), space=ToyCells(ToyTask(), mixed=False))
    found = expected_costs(search, 1.0)
    assert [len(row) for row in found] == [3] * 5 + [2]
    torch.testing.assert_close(found[0], torch.tensor([1.0, 2.0, 3.0]) / (5 * 6 + 4))


class Stops(Free):
    """Ends the search after so many epochs."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def spend(self, passes):
        super().spend(passes)
        return len(self.passes) < self.epochs


def test_the_mixture_waits_for_the_first_weights(tmp_path):
    strategy, starts = Proxyless(epochs=4, warmup=0.5, mixture_lr=0.1), []
    for count in (1, 2, 3):
        search = trained(strategy, problem(tmp_path / str(count)), Stops(count))
        starts.append([row.detach().clone() for row in search.outer])
    assert all(torch.equal(a, b) for a, b in zip(starts[0], starts[1], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(starts[1], starts[2], strict=True))


@pytest.mark.parametrize(("interval", "steps"), [(1, 12), (2, 6), (4, 4), (100, 2)])
def test_the_mixture_learns_in_every_so_many_steps(tmp_path, interval, steps):
    """Six steps in each of two epochs."""
    p = problem(tmp_path, task=ToyTask(samples=288))
    trained(Proxyless(epochs=2, warmup=0.0, interval=interval), p)
    content = torch.load(tmp_path / "checkpoints" / "supernet.pt", weights_only=True)
    state = content["parts"]["mixture optimizer"]["state"]
    assert {int(row["step"]) for row in state.values()} == {steps}


@pytest.mark.parametrize("scales", [(0.0, 1.0), (1.0, 0.0)])
def test_the_mixture_learns_which_option_is_useful(tmp_path, scales):
    """A layer scaled by 0 hides its input, so only the scale 1 can tell the classes apart."""
    task = ToyTask(samples=300, epochs=15)
    p = problem(tmp_path, space=ToySpace(task, scales), task=task)
    search = trained(Proxyless(mixture_lr=0.1, interval=1), p)
    assert p.space.discretise(search.mixture) == (1.0, 1.0)


def test_only_two_options_of_an_edge_are_computed(tmp_path, monkeypatch):
    """And they are those whose logits move."""
    task = ToyTask()
    asked, plain = [], _CellSupernet.only

    def only(supernet, options):
        asked.append([list(pair) for pair in options])
        return plain(supernet, options)

    monkeypatch.setattr(_CellSupernet, "only", only)
    p = problem(tmp_path, space=ToyCells(task, mixed=False), batch_size=1000)
    search = trained(Proxyless(epochs=1, warmup=0.0), p)
    (options,) = asked
    for row, kept, pair in zip(search.outer, search.mixed, options, strict=True):
        assert {kept[k] for k in row.grad.nonzero().flatten().tolist()} <= set(pair) <= set(kept)
        assert len(set(pair)) == 2
