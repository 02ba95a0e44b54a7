"""ASHA promotes the best 1 / eta of each rung, as synchronous successive halving does once all is known."""

import heapq

import numpy as np
import pytest

from nasfw.contracts import Problem, Recipe, UsageError
from nasfw.engine import Budget
from nasfw.sampling import distinct
from nasfw.strategies.asha import Asha
from nasfw.testing import Echo, ToySpace, ToyTask


def drawn(space, count, seed=0):
    """The architectures that are started, in their order."""
    return list(distinct(space, np.random.default_rng(seed), count))


def luck(architecture, epochs):
    """Any number, the same for every length of training: a ranking without noise."""
    return float(np.random.default_rng(architecture).random())


def noisy(architecture, epochs):
    """Another ranking in each rung."""
    return float(np.random.default_rng((*architecture, epochs)).random())


def rungs(records):
    """Architectures by epochs, in the order in which they were done."""
    found = {}
    for record in records:
        found.setdefault(record.recipe.epochs, []).append(record.architecture)
    return found


def halving(architectures, value, epochs, eta):
    """Synchronous successive halving: the members of each rung."""
    members = {}
    for e in epochs:
        members[e] = architectures
        ordered = sorted(architectures, key=lambda a: -value(a, e))
        architectures = ordered[: len(architectures) // eta]
    return members


@pytest.mark.parametrize("eta", [2, 3, 4])
@pytest.mark.parametrize("value", [luck, noisy])
def test_with_all_results_in_the_survivors_are_those_of_successive_halving(
    find, known, numbers, rounds, eta, value
):
    """So many workers that a rung is complete before anybody asks for a promotion."""
    found = rungs(find(Asha(70, eta), [known(value)], epochs=eta**3, executor=rounds(70)))
    expected = halving(drawn(numbers(), 70), value, [eta**k for k in range(4)], eta)
    assert {e: set(m) for e, m in found.items()} == {e: set(m) for e, m in expected.items()}


@pytest.mark.parametrize(("count", "eta"), [(64, 4), (50, 3), (33, 2)])
def test_one_worker_promotes_exactly_the_top_if_the_best_come_first(find, known, numbers, count, eta):
    """Then nobody that was among the best 1 / eta is ever driven out: each rung has 1 / eta of the last."""
    order = {a: i for i, a in enumerate(drawn(numbers(), count))}
    found = rungs(find(Asha(count, eta), [known(lambda a, epochs: -order[a])], epochs=eta**2))
    assert [len(m) for m in found.values()] == [count, count // eta, count // eta // eta]
    for members in found.values():
        assert members == list(order)[: len(members)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [1, 4, 30])
@pytest.mark.parametrize("value", [luck, noisy])
def test_whoever_is_promoted_was_among_the_best_and_all_who_are_in_the_end_were(
    find, known, workers, count, seed, value
):
    """Replayed from the records: their order is that in which workers were done."""
    eta, done = 3, {}
    records = find(Asha(60, eta), [known(value)], epochs=27, seed=seed, executor=workers(count, seed))
    lower = dict(zip([3, 9, 27], [1, 3, 9], strict=True))
    for record in records:
        epochs = record.recipe.epochs
        if epochs in lower:
            results = done[lower[epochs]]
            # Drawn at some time before it was done, when it was among the best of those done before.
            start = results.index(record.architecture)
            assert any(
                record.architecture in best(results[:n], value, lower[epochs], eta)
                for n in range(start + 1, len(results) + 1)
            )
        done.setdefault(epochs, []).append(record.architecture)
    for higher, epochs in lower.items():
        assert set(best(done[epochs], value, epochs, eta)) <= set(done[higher]) <= set(done[epochs])


def best(architectures, value, epochs, eta):
    return sorted(architectures, key=lambda a: -value(a, epochs))[: len(architectures) // eta]


def test_promotions_that_a_complete_rung_would_not_make_are_few(find, known):
    """About the square root of the number of results, in any order (Li et al. 2020, section 3.2)."""
    for seed in range(4):
        found = rungs(find(Asha(200, 4), [known(luck)], epochs=4, seed=seed, folder=f"run{seed}"))
        assert 50 <= len(found[4]) <= 50 + 2 * 200**0.5


@pytest.mark.parametrize(
    ("strategy", "epochs", "expected"),
    [
        (Asha(), 64, [1, 4, 16, 64]),
        (Asha(), 20, [1, 4, 20]),
        (Asha(eta=2, min_epochs=3), 24, [3, 6, 12, 24]),
        (Asha(eta=2, min_epochs=3, stop_rate=2), 24, [12, 24]),
        (Asha(eta=8, min_epochs=12, max_epochs=200), 20, [12, 200]),
    ],
)
def test_rungs_are_eta_times_longer_up_to_the_longest(strategy, epochs, expected):
    assert strategy.epochs(Recipe(epochs=epochs)) == expected


@pytest.mark.parametrize(
    ("strategy", "epochs", "message"),
    [
        (Asha(), 3, r"= 4 epochs for two rungs, but the recipe's epochs are 3"),
        (Asha(max_epochs=7, min_epochs=2), 20, r"= 8 epochs for two rungs, but max_epochs is 7"),
        (Asha(stop_rate=1), 15, r"= 16 epochs"),
    ],
)
def test_a_single_rung_is_refused(tmp_path, strategy, epochs, message):
    task = ToyTask()
    problem = Problem(ToySpace(task), task, [Echo()], Recipe(epochs=epochs), 0, tmp_path)
    with pytest.raises(UsageError, match=message):
        strategy.check(problem)


def test_only_the_epochs_of_the_recipe_differ(find, known):
    found = find(Asha(16), [known(luck)], epochs=16)
    assert {r.recipe for r in found} == {Recipe(epochs=e) for e in (1, 4, 16)}


def test_higher_rungs_come_first(find, known):
    """With one worker, whoever can be promoted is promoted before anybody is started or promoted below."""
    found = [r.recipe.epochs for r in find(Asha(16, 4), [known(lambda a, epochs: 1.0)], epochs=16)]
    assert found == [1, 1, 1, 1, 4] * 3 + [1, 1, 1, 1, 4, 16]


def test_failed_trainings_count_and_are_not_promoted(find, known):
    """Three of four fail: the fourth is the best quarter."""

    def one(architecture, epochs):
        return luck(architecture, epochs) if sum(architecture) % 4 == 0 else None

    found = rungs(find(Asha(80, 4), [known(one)], epochs=4))
    fit = [a for a in found[1] if sum(a) % 4 == 0]
    assert set(best(found[1], lambda a, epochs: one(a, epochs) or -1, 1, 4)) & set(fit) <= set(found[4])
    assert set(found[4]) <= set(fit)
    assert 0 < len(found[4]) < 40


def test_several_objectives_promote_a_front(find, known, numbers, rounds):
    """Of a line on which nobody dominates another and the rest far behind, the line is promoted."""
    space, count = numbers(3), 40
    started = drawn(space, count)
    line = {a: i for i, a in enumerate(started[::4])}
    objectives = [
        known(lambda a, epochs: line.get(a, -9), "one"),
        known(lambda a, epochs: -line.get(a, 99), "other"),
    ]
    found = rungs(find(Asha(count, 4), objectives, space=space, epochs=16, executor=rounds(count)))
    assert set(found[4]) == set(line)
    # Both ends are on every front.
    assert set(found[16]) == {started[0], started[36]}


@pytest.mark.parametrize("count", [1, 3, 8])
def test_workers_are_busy_as_long_as_there_is_somebody_to_start(find, known, workers, count):
    executor = workers(count)
    records = find(Asha(100, 4), [known(luck)], epochs=16, executor=executor)
    assert executor.busy[: 100 - count] == [count] * (100 - count)
    assert len(executor.busy) == len(records)


def lognormal(rng):
    return rng.lognormal()


def pareto(rng):
    """Of infinite variance."""
    return 1 + rng.pareto(2.0)


@pytest.mark.parametrize("draw", [lognormal, pareto])
def test_workers_idle_less_than_in_synchronous_halving_where_durations_have_heavy_tails(
    find, known, numbers, clocked, draw
):
    """On a simulated clock: nobody waits for a rung's slowest training. In the mean over seeds."""
    strategy, recipe, workers = Asha(256, 2), Recipe(epochs=8), 8
    idle, expected = [], []
    for seed in range(5):

        def seconds(architecture, epochs, seed=seed):
            return epochs * draw(np.random.default_rng((*architecture, epochs, seed)))

        executor = clocked(workers, seconds)
        find(strategy, [known(luck)], epochs=8, seed=seed, executor=executor, folder=f"run{seed}")
        idle.append(executor.idle)
        members = halving(drawn(numbers(), 256, seed), luck, strategy.epochs(recipe), 2)
        expected.append(idle_in_halving(members, seconds, workers))
    assert np.mean(idle) < 0.8 * np.mean(expected)


def idle_in_halving(members, seconds, workers):
    """The share in which workers do nothing if a rung begins when the one before is complete."""
    work, now = 0.0, 0.0
    for epochs, architectures in members.items():
        free = [now] * workers
        for architecture in architectures:
            taken = seconds(architecture, epochs)
            work += taken
            heapq.heapreplace(free, free[0] + taken)
        now = max(free)
    return 1 - work / (workers * now)


def test_a_run_that_was_killed_ends_with_the_same_records(find, known):
    whole = [r.key for r in find(Asha(40), [known(noisy)], folder="whole")]
    for trials in (7, 33):
        part = find(Asha(40), [known(noisy)], budget=Budget(trials=trials), folder="part")
        assert len(part) == trials
    assert [r.key for r in find(Asha(40), [known(noisy)], folder="part")] == whole


def test_no_budget_starts_no_trial_twice(find, known, workers):
    """The budget ends while others still run."""
    records = find(Asha(40), [known(luck)], budget=Budget(trials=10), executor=workers(4))
    assert len(records) == 10


@pytest.mark.parametrize(
    ("strategy", "trials", "passes"),
    [(Asha(64), 64 + 16 + 4 + 1, 64 + 16 * 4 + 4 * 16 + 64), (Asha(10, 2, 32), 15, 10 * 32 + 5 * 64)],
)
def test_workload_is_that_of_complete_rungs(tmp_path, numbers, strategy, trials, passes):
    task = ToyTask()
    problem = Problem(numbers(), task, [Echo()], Recipe(epochs=64), 0, tmp_path)
    work = strategy.workload(problem)
    assert (work.trials, work.passes) == (trials, passes)


def test_a_space_that_is_smaller_than_the_trials_is_started_once(find, toy_task):
    found = rungs(find(Asha(100, 3), [Echo()], space=ToySpace(toy_task), epochs=9))
    assert len(set(found[1])) == len(found[1]) == 9
    assert found[9] == [(2.0, 2.0)]


def test_the_planted_optimum_is_promoted_to_the_top_with_fewer_epochs(find, known, numbers):
    """Random search trains as many for 64 epochs each; here most are trained for one."""
    space = numbers(2)
    records = find(Asha(100), [known(lambda a, epochs: sum(a))], space=space, epochs=64)
    assert (9, 9) in rungs(records)[64]
    assert sum(r.recipe.epochs for r in records) < 100 * 64 / 10
