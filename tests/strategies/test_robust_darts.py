"""RobustDARTS: when it returns, to what, and that it is really there again."""

import copy
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nasfw import training
from nasfw.contracts import Problem, UsageError
from nasfw.oneshot import Search
from nasfw.strategies.darts import Darts, adam
from nasfw.strategies.robust_darts import RobustDarts, _Watch, returns_to
from nasfw.testing import Free, ToySpace, ToyTask, Wrong


def returned_epoch(values, factor=1.3):
    """When a search with an eigenvalue every second epoch returns first, and to which epoch."""
    for count in range(1, len(values) + 1):
        back = returns_to(values[:count], factor)
        if back is not None:
            return 2 * count, 2 * back
    return None


def by_the_paper(values, factor=1.3):
    """Of the eigenvalues at epochs 2, 4, ...: the mean of five belongs to the epoch four before the last.

    It is compared with the mean eight epochs earlier once that belongs to epoch 10 or a later one, which is
    then returned to: 12 epochs before the last.
    """
    means = {e - 4: np.mean(values[e // 2 - 5 : e // 2]) for e in range(10, 2 * len(values) + 1, 2)}
    for e in range(22, 2 * len(values) + 1, 2):
        if means[e - 4] > factor * means[e - 12]:
            return e, e - 12
    return None


def test_an_eigenvalue_that_doubles_after_epoch_20_stops_at_24_and_returns_to_12():
    """In epoch 22 one of five is 2, which makes 1.2; in epoch 24 two are, which makes 1.4 > 1.3."""
    assert returned_epoch([1.0] * 10 + [2.0] * 15) == (24, 12)


@pytest.mark.parametrize("value", [5.0, 1e-9, 0.0, -1.0])
def test_a_constant_eigenvalue_never_stops(value):
    assert returned_epoch([value] * 100) is None


def test_an_eigenvalue_that_falls_or_was_never_positive_does_not_stop():
    assert returned_epoch(np.linspace(10, 1, 50).tolist()) is None
    assert returned_epoch(np.linspace(-10, -1, 50).tolist()) is None
    assert returned_epoch(np.linspace(-1, -10, 50).tolist()) is None
    assert returned_epoch([math.nan] * 50) is None


@pytest.mark.parametrize(
    ("per_computation", "stops"), [(1.3**0.25 * 1.001, True), (1.3**0.25 * 0.999, False)]
)
def test_steady_growth_stops_at_the_first_comparison_or_never(per_computation, stops):
    """Means four computations apart have the ratio of growth to the power of four."""
    values = [per_computation**k for k in range(25)]
    assert returned_epoch(values) == ((22, 10) if stops else None)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_rule_of_the_paper(seed):
    rng = np.random.default_rng(seed)
    values = np.exp(np.cumsum(rng.normal(0, 0.2, 25))).tolist()
    assert returned_epoch(values) == by_the_paper(values)


def problem(folder, space=None, **recipe):
    task = ToyTask()
    space = space or ToySpace(task)
    return Problem(space, task, [Wrong()], replace(task.recipe, **recipe), 3, Path(folder))


def trained(strategy, p, evaluate=None):
    torch.manual_seed(0)
    return strategy.train(p, evaluate or Free())


# Any eigenvalue above nearly nothing is too large a growth.
SOON = {"factor": 1e-9, "interval": 1}


@dataclass(frozen=True)
class Normed(ToySpace):
    """With a batch norm in front, so that there are statistics to return to."""

    def supernet(self):
        made = super().supernet()
        made.network.inner = nn.Sequential(nn.BatchNorm1d(4), made.network.inner)
        return made


def looked_at(folder, strategy, values):
    """A search looked at in every epoch, with the states that it was looked at in, and these ``values``.

    The last value of ``values`` stays to be found out.
    """
    torch.manual_seed(0)
    p = problem(folder, Normed(ToyTask()), lr=0.05, batch_size=1000, schedule="constant")
    search = Darts(epochs=1).train(p, Free())
    optimiser, watch = adam(search, 0.05, 1e-3), _Watch()
    parts = {
        "supernet": search.supernet,
        "outer": search.outer,
        "optimizer": search.optimiser,
        "schedule": search.schedule,
        "mixture optimizer": optimiser,
    }
    states = []
    for epoch, value in enumerate(values):
        search.epoch = epoch
        for train, valid in search.pairs():
            search.descend(optimiser, search.gradients(search.loss(valid, search.relax(list(search.outer)))))
            search.learn(train, search.mixture)
        watch.epoch += 1
        states.append(copy.deepcopy({n: p.state_dict() for n, p in parts.items()}))
        states[-1] |= {"generator": search.generator.get_state(), "torch": torch.get_rng_state()}
        strategy._look(search, watch, parts, 1)
        if epoch < len(values) - 1:
            watch.values[-1] = value
    now = {n: p.state_dict() for n, p in parts.items()}
    now |= {"generator": search.generator.get_state(), "torch": torch.get_rng_state()}
    return search, watch, states, now


@pytest.mark.parametrize("mode", ["adapt", "stop"])
def test_it_goes_back_to_the_whole_state_of_then(tmp_path, mode):
    """Weights, statistics, mixture, optimisers, schedule and random numbers; all but the weight decay."""
    strategy = RobustDarts(mode=mode, factor=1.3, interval=1, decay_factor=10.0)
    search, watch, states, now = looked_at(tmp_path, strategy, [1e-9] * 11)
    then = states[4]
    decay = search.recipe.weight_decay
    assert now["optimizer"]["param_groups"][0]["weight_decay"] == (10 * decay if mode == "adapt" else decay)
    now["optimizer"]["param_groups"][0]["weight_decay"] = decay
    assert_same(now, then)
    for other in (states[3], states[5], states[10]):
        assert not same(now["supernet"], other["supernet"])
        assert not same(now["mixture optimizer"], other["mixture optimizer"])
    assert (watch.epoch, watch.returned, watch.ended) == (5, 1, mode == "stop")
    assert watch.values == [1e-9] * 5


def test_a_calm_search_stays_where_it_is(tmp_path):
    strategy = RobustDarts(mode="adapt", factor=1.3, interval=1)
    _, watch, states, now = looked_at(tmp_path, strategy, [1e9] * 11)
    assert_same({**now, "torch": None}, {**states[-1], "torch": None})
    assert (watch.epoch, watch.returned, watch.ended) == (11, 0, False)


def assert_same(one, other):
    assert same(one, other)


def same(one, other):
    """Whether nested states have equal numbers."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[n], other[n]) for n in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other


def test_it_stops_with_the_state_that_the_earlier_mean_belongs_to(tmp_path):
    """With an eigenvalue in every epoch, it ends after the eleventh with what it was after the fifth."""
    p = problem(tmp_path)
    search = trained(RobustDarts(mode="stop", epochs=20, **SOON), p)
    kept = torch.load(tmp_path / "checkpoints" / "sharpness-5.pt", weights_only=True)
    assert kept["epochs"] == 5
    assert_same(dict(search.supernet.state_dict()), dict(kept["parts"]["supernet"]))
    assert_same(dict(search.outer.state_dict()), dict(kept["parts"]["outer"]))
    last = torch.load(tmp_path / "checkpoints" / "supernet.pt", weights_only=True)["parts"]
    assert {int(row["step"]) for row in last["mixture optimizer"]["state"].values()} == {5 * search.steps}
    assert last["schedule"]["last_epoch"] == 5 * search.steps
    assert_same(last["optimizer"], kept["parts"]["optimizer"])
    assert [m.epoch for m in search.history.moments] == list(range(1, 12))
    (note,) = search.history.notes
    assert "by epoch 11: the search ended with the state of epoch 5" in note
    # What is proposed first is what the mixture preferred then.
    assert search.history.moments[-1].preferred == search.history.moments[4].preferred


@pytest.mark.parametrize("rollbacks", [0, 1, 2])
def test_it_adapts_so_often_and_then_trains_to_the_end(tmp_path, rollbacks):
    """Each time the weight decay is ten times as large, and all epochs are trained in the end."""
    p, free = problem(tmp_path, weight_decay=1e-3), Free()
    search = trained(RobustDarts(mode="adapt", epochs=13, rollbacks=rollbacks, **SOON), p, free)
    (group,) = search.optimiser.param_groups
    assert group["weight_decay"] == pytest.approx(1e-3 * 10**rollbacks, rel=1e-12)
    assert len(search.history.notes) == rollbacks
    # Eleven epochs lead to the first return to the fifth, and six more to each other one.
    epochs = 13 + 6 * rollbacks
    assert [m.epoch for m in search.history.moments] == list(range(1, epochs + 1))
    assert search.schedule.last_epoch == 13 * search.steps
    # A step of weights and mixture are two gradients, and every eigenvalue takes some.
    looks = search.history.gradients / search.steps
    assert sum(free.passes) == pytest.approx(2 * epochs + looks, rel=1e-12)
    assert looks >= epochs * 2 * 4 / search.steps
    # Every state is kept: none is written over that a search which goes on may need.
    assert len(list((tmp_path / "checkpoints").glob("sharpness-*.pt"))) == epochs


def test_returning_takes_the_learning_rate_back_as_well(tmp_path):
    strategy = RobustDarts(mode="stop", epochs=30, **SOON)
    search = trained(strategy, problem(tmp_path, lr=0.2, schedule="cosine"))
    assert search.rate == pytest.approx(0.2 * training.factor(search.recipe, 5 * search.steps, search.steps))


def test_a_large_factor_changes_nothing_against_darts(tmp_path):
    """To the last bit: looking at the eigenvalue draws no random numbers."""
    one = trained(RobustDarts(epochs=12, factor=1e9, interval=1), problem(tmp_path / "robust"))
    other = trained(Darts(epochs=12), problem(tmp_path / "darts"))
    pairs = zip([*one.outer, *one.weights], [*other.outer, *other.weights], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert one.history.notes == []
    assert all(m.eigenvalue is not None for m in one.history.moments)


def counted(monkeypatch):
    """How many losses supernets are asked for."""
    calls, plain = [], Search.loss

    def loss(self, batch, mixture):
        calls.append(1)
        return plain(self, batch, mixture)

    monkeypatch.setattr(Search, "loss", loss)
    return calls


def test_all_gradients_are_charged(tmp_path, monkeypatch):
    """Those of the eigenvalues, too."""
    calls, p, free = counted(monkeypatch), problem(tmp_path, batch_size=16), Free()
    search = trained(RobustDarts(epochs=12, factor=1e9, interval=1), p, free)
    # The weights' own gradients are computed by ``learn``, one for each step of the mixture.
    steps = 12 * search.steps
    assert sum(free.passes) == pytest.approx((steps + len(calls)) / search.steps, rel=1e-12)
    assert len(calls) > 3 * steps


@pytest.mark.parametrize(("epochs", "parts"), [(8, 2), (3, 6), (16, 1), (50, 1)])
def test_a_short_search_divides_its_epochs_to_have_enough_eigenvalues(tmp_path, epochs, parts):
    """As many batches as otherwise, or one more in each part; it can return to an earlier state."""
    p = problem(tmp_path, ToySpace(ToyTask(samples=600)), batch_size=16)
    p = replace(p, task=p.space.task)
    search = trained(RobustDarts(epochs=epochs, factor=1e-9), p)
    recipe = search.recipe
    assert (recipe.epochs, recipe.fraction) == (epochs * parts, 1 / parts)
    whole = training.steps_per_epoch(p.task, "train", p.recipe)
    assert epochs * whole <= recipe.epochs * search.steps <= (epochs + 1) * whole + recipe.epochs
    assert len(search.history.notes) == 1


def test_what_could_decide_nothing_is_refused(tmp_path):
    p = problem(tmp_path)
    with pytest.raises(UsageError, match=r"interval=2 computes 10 eigenvalues in 20 epochs.* has 11"):
        RobustDarts(epochs=20, interval=2).check(p)
    RobustDarts(epochs=22, interval=2).check(p)
    with pytest.raises(UsageError, match="multiplies the recipe's weight_decay, which is 0"):
        RobustDarts(mode="adapt").check(problem(tmp_path, weight_decay=0.0))
    RobustDarts(mode="stop").check(problem(tmp_path, weight_decay=0.0))


def test_so_few_steps_that_nothing_can_be_decided_are_warned_of(tmp_path, caplog):
    trained(RobustDarts(epochs=2), problem(tmp_path, batch_size=16))
    assert "computes 4 eigenvalues in so few steps, and decides nothing before it has 11" in caplog.text


@pytest.mark.parametrize(("epochs", "interval", "expected"), [(5, None, 5), (50, None, 25), (7, 3, 2)])
def test_there_are_twenty_five_eigenvalues_over_a_long_search(tmp_path, epochs, interval, expected):
    strategy = RobustDarts(epochs=epochs, interval=interval, factor=1e9, fraction=0.01)
    search = trained(strategy, problem(tmp_path, batch_size=32))
    found = [m.epoch for m in search.history.moments if m.eigenvalue is not None]
    every = epochs // expected
    assert found == list(range(every, epochs + 1, every))


class Stops(Free):
    """Ends the search after so many epochs."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def spend(self, passes):
        super().spend(passes)
        return len(self.passes) < self.epochs


@pytest.mark.parametrize("mode", ["stop", "adapt"])
def test_a_search_that_goes_on_knows_what_it_knew(tmp_path, mode):
    """Before and after it returned, and when there is nothing left to do but to propose."""
    strategy = RobustDarts(mode=mode, epochs=13, rollbacks=2, **SOON)
    whole, free = problem(tmp_path / "whole"), Free()
    expected = trained(strategy, whole, free)
    parts = problem(tmp_path / "parts")
    for epochs in (6, 7, 2, 100):
        trained(strategy, parts, Stops(epochs))
    again = Free()
    found = trained(strategy, parts, again)
    pairs = zip([*expected.outer, *expected.weights], [*found.outer, *found.weights], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert found.history == expected.history
    assert len(found.history.notes) == (1 if mode == "stop" else 2)
    assert same(found.optimiser.state_dict(), expected.optimiser.state_dict())
    assert sum(again.passes) == sum(free.passes)
