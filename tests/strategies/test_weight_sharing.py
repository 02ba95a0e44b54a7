"""Random search with weight sharing: single paths, and the best of all that is rated."""

from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from nasfw import workloads
from nasfw.contracts import Problem
from nasfw.oneshot import Search
from nasfw.sampling import distinct
from nasfw.strategies.weight_sharing import WeightSharing, path, worth
from nasfw.testing import Free, ToyCells, ToySpace, ToyTask, Wrong
from nasfw.workloads import Work


def problem(folder, space=None, task=None, seed=3, **recipe):
    task = task or ToyTask(samples=144)
    return Problem(
        space or ToyCells(task), task, [Wrong()], replace(task.recipe, **recipe), seed, Path(folder)
    )


def trained(strategy, p, evaluate=None):
    torch.manual_seed(0)
    return strategy.train(p, evaluate or Free())


def options_of(space, architectures):
    """The parts of the supernet's names that belong to the options of ``architectures``."""
    return {f"edges.{i}.{a[i]}." for a in architectures for i in range(5)}


@pytest.mark.parametrize("batch_size", [1000, 24])
def test_a_step_touches_only_the_options_of_the_path_that_was_drawn(tmp_path, batch_size):
    """Uniformly, one path for each batch: all other weights and statistics stay to the last bit."""
    p = problem(tmp_path, batch_size=batch_size)
    torch.manual_seed(0)
    before = p.space.supernet().state_dict()
    search = trained(WeightSharing(epochs=1), p)
    rng = np.random.default_rng([p.seed, 0])
    drawn = [p.space.sample(rng) for _ in range(search.steps)]
    assert search.steps == (1 if batch_size == 1000 else 2)
    used = options_of(p.space, drawn)
    for name, value in search.supernet.state_dict().items():
        touched = "edges." not in name or any(o in name for o in used)
        assert torch.equal(value, before[name]) != touched, name
    assert sum("edges." in name and any(o in name for o in used) for name in before) > 0


def test_an_option_that_was_not_drawn_has_no_gradient(tmp_path):
    p = problem(tmp_path)
    search = Search(p, Free(), WeightSharing(), Work(paths=1.0))
    architecture = ("bent", "linear", "none", "skip", "linear", 2.0)
    search.learn(next(search.batches()), path(search, architecture))
    used = options_of(p.space, [architecture])
    for name, weight in search.supernet.named_parameters():
        assert (weight.grad is not None) == ("edges." not in name or any(o in name for o in used))


def rounds_of(p, rounds, samples):
    """What is drawn in each round."""
    rng = np.random.default_rng([p.seed, 2])
    return [list(distinct(p.space, rng, samples)) for _ in range(rounds)]


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_result_is_the_best_of_all_rounds(tmp_path, seed):
    """Not that of the first one, which released code returns."""
    p = problem(tmp_path, seed=seed)
    strategy = WeightSharing(epochs=2, rounds=4, samples=4, top=2)
    search = trained(strategy, p)
    ranked, _ = strategy.select(search)
    values = {a: search.judged(path(search, a)) for drawn in rounds_of(p, 4, 4) for a in drawn}
    assert values[ranked[0]] == min(values.values())
    assert ranked == sorted(ranked, key=values.get)


def test_the_first_round_is_not_always_the_best(tmp_path):
    """So that the test above can tell: in most of its searches it is another one."""
    found = []
    for seed in range(4):
        p = problem(tmp_path / str(seed), seed=seed)
        search = trained(WeightSharing(epochs=2), p)
        best = [min(search.judged(path(search, a)) for a in drawn) for drawn in rounds_of(p, 4, 4)]
        found.append(best[0] == min(best))
    assert found.count(False) >= 2


@dataclass(frozen=True)
class Counted(ToyTask):
    """Notes how many outputs each error was computed from."""

    samples: int = 144
    rated: list[int] = field(default_factory=list, compare=False)

    def error(self, outputs, targets):
        self.rated.append(len(outputs))
        return super().error(outputs, targets)


def test_so_many_architectures_are_rated(tmp_path):
    """Each once on some batches, and the best of every round once on the whole validation split."""
    task = Counted()
    p = problem(tmp_path, task=task)
    strategy = WeightSharing(epochs=1, rounds=3, samples=200, batches=2, top=10)
    search, free = trained(strategy, p), Free()
    search.evaluate = free
    ranked, _ = strategy.select(search)
    rounds = rounds_of(p, 3, 200)
    rough = {a for drawn in rounds for a in drawn}
    assert all(len(set(drawn)) == 200 for drawn in rounds)
    assert task.rated.count(2 * 16) == len(rough) < 3 * 200
    assert task.rated.count(48) == len(ranked) == len(set(ranked)) <= 3 * 10
    assert len(task.rated) == len(rough) + len(ranked)
    # Forward only, which is a third of a step.
    assert sum(free.passes) == pytest.approx((len(rough) * 32 + len(ranked) * 48) / (3 * 48))


def test_the_best_of_a_round_are_those_with_the_best_first_ratings(tmp_path):
    p = problem(tmp_path)
    strategy = WeightSharing(epochs=2, rounds=1, samples=50, batches=1, top=5)
    search = trained(strategy, p)
    batches = list(islice(search.valid_batches(), 1))
    ratings = {a: search.judged(path(search, a), batches) for a in rounds_of(p, 1, 50)[0]}
    ranked, _ = strategy.select(search)
    assert set(ranked) == set(sorted(ratings, key=ratings.get)[:5])


def test_no_batch_is_rated_on_twice(tmp_path):
    """A validation split of three batches has not ten."""
    task = Counted()
    p = problem(tmp_path, task=task)
    strategy = WeightSharing(epochs=1, rounds=1, samples=4, batches=10, top=1)
    strategy.select(trained(strategy, p))
    assert task.rated == [48] * 5


def test_ratings_leave_the_supernet_as_it_is(tmp_path):
    """Its batch statistics, too."""
    search = trained(WeightSharing(epochs=1), problem(tmp_path))
    before = {name: value.clone() for name, value in search.supernet.state_dict().items()}
    WeightSharing(samples=5, batches=1, top=2).select(search)
    assert all(torch.equal(value, before[name]) for name, value in search.supernet.state_dict().items())


def test_a_small_space_is_rated_whole(tmp_path):
    p = problem(tmp_path, ToySpace(ToyTask()))
    strategy = WeightSharing(epochs=1, rounds=2)
    ranked, gains = strategy.select(trained(strategy, p))
    assert len(ranked) == p.space.size == 9
    assert [len(row) for row in gains] == [3, 3]


@pytest.mark.parametrize(("epochs", "rounds"), [(1, 1), (9_999, 1), (10_000, 2)])
def test_there_is_a_round_for_every_ten_thousand_steps(tmp_path, epochs, rounds):
    """At least one; here an epoch has two steps, and nothing is trained."""
    task = Counted()
    p = problem(tmp_path, task=task, batch_size=24)
    search = Search(p, Free(), WeightSharing(epochs=epochs), Work(paths=1.0))
    WeightSharing(epochs=epochs, samples=3, top=1, batches=1).select(search)
    assert task.rated.count(24) == len({a for drawn in rounds_of(p, rounds, 3) for a in drawn}) == 3 * rounds


def test_an_options_worth_is_the_mean_rating_of_the_samples_that_have_it(tmp_path):
    """With the sign of a gain; of all samples where none has it."""
    p = problem(tmp_path, ToySpace(ToyTask()))
    search = Search(p, Free(), WeightSharing(), Work(paths=1.0))
    ratings = {(0.0, 0.0): (0.5, 9.0), (0.0, 2.0): (0.25, 9.0), (1.0, 0.0): (0.75, 9.0)}
    first, second = worth(search, ratings)
    assert first.tolist() == pytest.approx([-0.375, -0.75, -0.5], abs=1e-12)
    assert second.tolist() == pytest.approx([-0.625, -0.5, -0.25], abs=1e-12)


def test_sharing_weights_finds_a_useful_architecture(tmp_path):
    """A layer scaled by 0 hides its input, so only the scales 1 and 2 can tell the classes apart."""
    task = ToyTask(samples=600, epochs=8)
    p = problem(tmp_path, ToySpace(task), task)
    strategy = WeightSharing()
    ranked, _ = strategy.select(trained(strategy, p))
    assert 0.0 not in ranked[0]
    assert all(0.0 in a for a in ranked[-5:])


@pytest.mark.parametrize("rounds", [1, 3])
def test_rating_is_announced_as_it_is_charged(tmp_path, rounds):
    """At most, since an architecture that is drawn again is not rated again."""
    p, free = problem(tmp_path), Free()
    strategy = WeightSharing(epochs=2, rounds=rounds, samples=10, batches=2, top=3)
    search = trained(strategy, p, free)
    before = len(free.passes)
    strategy.select(search)
    charged = sum(free.passes[before:])
    rest = workloads.workload(p, strategy, Work(paths=1.0)).passes
    announced = strategy.workload(p).passes - rest
    assert charged == pytest.approx(announced) if rounds == 1 else charged < announced * (1 + 1e-9)
    assert charged > 0.8 * announced
