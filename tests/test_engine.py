"""The engine answers from records, keeps budgets, and measures a property of an architecture once."""

import itertools
import logging
import math
import pickle
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pytest
import torch

from nasfw import engine
from nasfw.contracts import (
    Candidate,
    Device,
    Diverged,
    Evaluate,
    Executor,
    Measured,
    Objective,
    Problem,
    Recipe,
    Record,
    Strategy,
    Trial,
    Unsupported,
    UsageError,
)
from nasfw.engine import Budget, Evaluator, Setting, finish, search
from nasfw.executors import Serial
from nasfw.objectives.cost import Latency
from nasfw.records import Records, front
from nasfw.strategies.random import RandomSearch
from nasfw.testing import Echo, ToySpace, ToyTask, Wrong

SHORT = Recipe(epochs=1, batch_size=16)


@dataclass(frozen=True)
class Noisy(Objective):
    """A property of the architecture that comes out differently every time, like latency."""

    metric = "noisy"
    asked: list[tuple[object, ...]] = field(default_factory=list)

    def measure(self, candidate: Candidate) -> float:
        self.asked.append(candidate.architecture)
        return float(len(self.asked))


@dataclass(frozen=True)
class Bad(Objective):
    """No value for architectures whose sum is above a limit."""

    limit: float = -1.0
    metric = "bad"

    def measure(self, candidate: Candidate) -> float:
        total = float(sum(float(a) for a in candidate.architecture))
        return total if total <= self.limit else math.nan


@dataclass(frozen=True)
class Board(Device):
    """Takes longer every time, and does not answer any more when it was asked so often."""

    lives: int = 10**9
    asked: list[tuple[object, ...]] = field(default_factory=list)
    metrics = ("latency",)

    @property
    def name(self) -> str:
        return "board"

    def measure(self, metric: str, candidate: Candidate) -> float:
        if len(self.asked) >= self.lives:
            raise Unsupported("board does not answer; is it switched on?")
        self.asked.append(candidate.architecture)
        value = float(len(self.asked))
        return Measured(value, low=value - 0.5, high=value + 0.5, repetitions=9, clock="a stopwatch")


GONE = "Unsupported: board does not answer; is it switched on?"


@dataclass(frozen=True)
class Evaluates(Strategy):
    """Evaluates the given trials and keeps what came back."""

    trials: tuple[Trial, ...] = ()
    found: list = field(default_factory=list)

    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        self.found.extend(evaluate(self.trials))


@dataclass(frozen=True)
class Diverges(Strategy):
    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        raise Diverged("the training loss was nan in epoch 1")


@dataclass(frozen=True)
class Backwards(Executor):
    """Starts two jobs at a time and finishes the second one first, as processes may."""

    def run(self, jobs):
        queue = iter(jobs)
        while pair := list(itertools.islice(queue, 2)):
            yield from reversed([job() for job in pair])


def problem(folder, *objectives, recipe=SHORT):
    task = ToyTask()
    return Problem(ToySpace(task), task, objectives or (Echo(),), recipe, 0, folder)


@pytest.fixture
def evaluator(tmp_path):
    """Makes evaluators that share their records unless they are in different folders."""
    stores = {}

    def make(*objectives, folder=".", budget=None, executor=None):
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        p = problem(place, *objectives)
        setting = Setting(p.space, "toy", p.task, p.objectives, "search", place, "cpu")
        if folder not in stores:
            stores[folder] = Records(place / "r.jsonl", write=True)
        return Evaluator(setting, stores[folder], executor or Serial(), budget or Budget())

    yield make
    for store in stores.values():
        store.close()


def grid():
    return [Trial(a, SHORT) for a in itertools.product((0.0, 1.0, 2.0), repeat=2)]


def endless():
    """Different trials without end."""
    return (Trial((0.0, 1.0), replace(SHORT, seed=seed)) for seed in itertools.count())


def test_records_come_in_the_order_of_the_trials(evaluator):
    evaluate = evaluator(executor=Backwards())
    assert [r.architecture for r in evaluate(grid())] == [t.architecture for t in grid()]


def test_as_completed_gives_them_as_they_are_done(evaluator):
    evaluate = evaluator(executor=Backwards())
    keys = [t.key for t in grid()[:4]]
    assert [r.key for r in evaluate.as_completed(grid()[:4])] == [keys[1], keys[0], keys[3], keys[2]]


def test_a_trial_given_twice_is_answered_twice_and_run_once(evaluator, tmp_path):
    noisy = Noisy()
    for executor in (Serial(), Backwards()):
        evaluate = evaluator(noisy, executor=executor, folder=type(executor).__name__)
        t = grid()[0]
        one, other = evaluate([t, t])
        assert one == other
        assert len(evaluate.records) == 1


def test_a_budget_of_trials_ends_an_endless_generator(evaluator, tmp_path):
    for count in (0, 1, 3):
        one, other = (evaluator(budget=Budget(trials=count), folder=f"{count}{x}") for x in "ab")
        assert len(one(endless())) == count
        assert len(list(other.as_completed(endless()))) == count


def test_a_budget_of_seconds_ends_an_endless_generator(evaluator):
    budget = Budget(seconds=0.05)
    found = evaluator(budget=budget)(endless())
    assert 1 <= len(found) == budget.drawn
    assert not budget.left()


def test_a_search_out_of_time_still_evaluates_one_network(evaluator):
    """A supernet that used all the time would else leave nothing."""
    evaluate = evaluator(budget=Budget(seconds=0.0))
    assert not evaluate.spend(1.0)
    assert len(evaluate(endless())) == 1
    assert evaluate(endless()) == []


def test_no_more_is_drawn_than_is_run(evaluator):
    """The one that meets the closed budget is drawn in vain; an executor draws nothing ahead."""
    drawn = []
    trials = (drawn.append(t) or t for t in endless())
    evaluator(budget=Budget(trials=3))(trials)
    assert len(drawn) == 4


def test_passes_count_trials_and_what_the_strategy_reports(evaluator):
    budget = Budget()
    evaluate = evaluator(budget=budget)
    evaluate([Trial((0.0, 0.0), Recipe(epochs=4, fraction=0.25)), Trial((0.0, 1.0), Recipe(epochs=2))])
    assert evaluate.spend(1.5)
    assert budget.passes == pytest.approx(1.0 + 2.0 + 1.5, abs=1e-12)


def test_known_trials_are_answered_from_the_records_and_count_as_before(evaluator, tmp_path):
    noisy = Noisy()
    first, second = Budget(trials=4), Budget(trials=4)
    one = list(evaluator(noisy, budget=first).as_completed(grid()))
    asked = len(noisy.asked)
    two = list(evaluator(noisy, budget=second).as_completed(grid()))
    assert one == two
    assert len(noisy.asked) == asked == 4
    assert len(evaluator().records) == 4
    assert (first.drawn, first.passes) == (second.drawn, second.passes)


def test_a_resumed_search_goes_on_behind_the_known_trials(tmp_path):
    path = tmp_path / "r.jsonl"
    with Records(path, write=True) as records:
        search(problem(tmp_path), "toy", RandomSearch(8), records, Serial(), Budget())
    whole = path.read_bytes().splitlines(keepends=True)
    for kept in (0, 3, 8):
        path.write_bytes(b"".join(whole[:kept]))
        with Records(path, write=True) as records:
            search(problem(tmp_path), "toy", RandomSearch(8), records, Serial(), Budget())
            assert [r.key for r in records] == [Record.from_json(line).key for line in whole]


@pytest.mark.parametrize("executor", [Serial(), Backwards()])
def test_a_property_of_the_architecture_is_measured_once_and_copied(evaluator, tmp_path, executor):
    """Else four recipes of one architecture look like four points of a noisy latency."""
    noisy = Noisy()
    evaluate = evaluator(Wrong(), noisy, executor=executor)
    trials = [Trial((1.0, 2.0), replace(SHORT, lr=lr)) for lr in (0.1, 0.2, 0.3, 0.4)]
    found = evaluate([*trials, Trial((2.0, 1.0), SHORT)])
    assert len({r.values["noisy"] for r in found[:4]}) == 1
    assert found[4].values["noisy"] != found[0].values["noisy"]
    assert [r.values for r in evaluate.records] == [r.values for r in Records(tmp_path / "r.jsonl")]
    if isinstance(executor, Serial):
        assert noisy.asked == [(1.0, 2.0), (2.0, 1.0)]


def test_a_resumed_search_copies_what_was_measured_before(evaluator, tmp_path):
    noisy = Noisy()
    evaluator(Wrong(), noisy)(grid()[:1])
    again = evaluator(Wrong(), noisy)
    _, later = again([grid()[0], Trial(grid()[0].architecture, replace(SHORT, lr=0.3))])
    assert later.values["noisy"] == 1.0
    assert len(noisy.asked) == 1


def test_a_trained_value_is_measured_for_every_trial(evaluator):
    evaluate = evaluator(Wrong())
    found = evaluate([Trial((1.0, 2.0), replace(SHORT, seed=seed)) for seed in range(6)])
    assert len({r.values["error"] for r in found}) > 1


def test_equal_records_collapse_on_the_front(evaluator):
    evaluate = evaluator()
    found = evaluate([Trial((2.0, 2.0), replace(SHORT, seed=seed)) for seed in range(3)])
    assert front(found, [Echo().reading]) == found[:1]


def test_a_failed_trial_is_recorded_and_warned_and_the_search_goes_on(tmp_path, caplog):
    with caplog.at_level(logging.INFO), Records(tmp_path / "r.jsonl", write=True) as records:
        p = problem(tmp_path, Bad(limit=2.0))
        search(p, "toy", Evaluates(tuple(grid())), records, Serial(), Budget())
        assert len(records.select("search")) == 6
        assert [r.error for r in records if r.error] == ["objective bad gave nan"] * 3
    levels = [r.levelno for r in caplog.records if " trial " in r.message]
    assert sorted(levels) == [logging.INFO] * 6 + [logging.WARNING] * 3


def test_if_every_trial_fails_the_first_reason_is_given(tmp_path):
    with (
        Records(tmp_path / "r.jsonl", write=True) as records,
        pytest.raises(UsageError, match=r"no trial of the search in toy succeeded.*objective bad gave nan"),
    ):
        search(problem(tmp_path, Bad()), "toy", RandomSearch(3), records, Serial(), Budget())
    assert len(Records(tmp_path / "r.jsonl")) == 3


@pytest.mark.parametrize("executor", [Serial(), Backwards()])
@pytest.mark.parametrize("objectives", [(), (Wrong(),)])
def test_a_device_that_is_gone_fails_the_trials_that_it_did_not_measure(
    tmp_path, caplog, executor, objectives
):
    path = tmp_path / "r.jsonl"
    with Records(path, write=True) as records:
        p = problem(tmp_path, *objectives, Latency(Board(lives=4)))
        search(p, "toy", Evaluates(tuple(grid())), records, executor, Budget())
    found = list(Records(path))
    assert len(found) == 9
    assert sorted(r.values["latency@board"] for r in found if not r.error) == [1.0, 2.0, 3.0, 4.0]
    assert [r.error for r in found if r.error] == [GONE] * 5
    assert all(r.values == r.measured == {} for r in found if r.error)
    assert [r.message.partition(" failed: ")[2] for r in caplog.records] == [GONE] * 5


def test_of_an_architecture_that_was_measured_other_trainings_need_no_device(tmp_path):
    trials = [Trial(a, replace(SHORT, seed=seed)) for seed in (0, 1) for a in ((1.0, 1.0), (2.0, 2.0))]
    with Records(tmp_path / "r.jsonl", write=True) as records:
        p = problem(tmp_path, Wrong(), Latency(Board(lives=1)))
        search(p, "toy", Evaluates(tuple(trials)), records, Serial(), Budget())
        assert [r.error for r in records] == [None, GONE, None, GONE]


def test_a_device_that_is_gone_from_the_start_is_said_in_one_sentence(tmp_path):
    p = problem(tmp_path, Latency(Board(lives=0)))
    with Records(tmp_path / "r.jsonl", write=True) as records, pytest.raises(UsageError) as caught:
        search(p, "toy", RandomSearch(3), records, Serial(), Budget())
    assert str(caught.value) == f"no trial of the search in toy succeeded; the first one: {GONE}"


@pytest.mark.parametrize("executor", [Serial(), Backwards()])
def test_how_a_property_was_measured_is_copied_with_it(evaluator, tmp_path, executor):
    """Also for a training that was under way when another one measured it, and into the file."""
    latency = Latency(Board())
    evaluate = evaluator(Wrong(), latency, executor=executor)
    found = evaluate([Trial((1.0, 2.0), replace(SHORT, lr=lr)) for lr in (0.1, 0.2, 0.3, 0.4)])
    kept = list(Records(tmp_path / "r.jsonl"))
    first, *others = (r.value("latency@board") for r in (*found, *kept))
    assert isinstance(first, Measured)
    assert first.repetitions == 9
    assert (first.low, first.high) == (first - 0.5, first + 0.5)
    for other in others:
        assert other == first
        assert other.details == first.details
    assert [r.measured for r in kept] == [r.measured for r in evaluate.records]
    assert all("error" not in r.measured for r in kept)


def test_a_resumed_search_copies_how_it_was_measured_before(evaluator):
    board = Board()
    evaluator(Wrong(), Latency(board))(grid()[:1])
    again = evaluator(Wrong(), Latency(board))
    before, later = again([grid()[0], Trial(grid()[0].architecture, replace(SHORT, lr=0.3))])
    assert len(board.asked) == 1
    assert later.measured == before.measured
    assert later.value("latency@board").clock == "a stopwatch"


def test_a_property_that_was_not_measured_has_no_details(evaluator):
    found = evaluator(Wrong(), Noisy())([Trial((1.0, 2.0), replace(SHORT, lr=lr)) for lr in (0.1, 0.2)])
    assert [r.measured for r in found] == [{}, {}]
    assert not isinstance(found[1].value("noisy"), Measured)


def test_a_search_without_trials_is_an_error(tmp_path):
    with (
        Records(tmp_path / "r.jsonl", write=True) as records,
        pytest.raises(UsageError, match="evaluated none"),
    ):
        search(problem(tmp_path), "toy", Evaluates(), records, Serial(), Budget())


def test_a_strategy_that_diverges_is_said_in_one_sentence(tmp_path):
    with (
        Records(tmp_path / "r.jsonl", write=True) as records,
        pytest.raises(UsageError, match=r"toy diverged: the training loss was nan.*recipe\.lr"),
    ):
        search(problem(tmp_path), "toy", Diverges(), records, Serial(), Budget())


@dataclass(frozen=True)
class Listens(Strategy):
    """Draws from torch's stream before and after its trials."""

    drawn: list = field(default_factory=list)

    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        self.drawn.append(torch.rand(2))
        evaluate([Trial((1.0, 1.0), replace(problem.recipe, seed=9))])
        self.drawn.append(torch.rand(2))


def test_the_seed_decides_the_strategys_stream_and_trials_do_not_touch_it(tmp_path):
    with Records(tmp_path / "r.jsonl", write=True) as records:
        p = replace(problem(tmp_path, Wrong()), seed=4)
        strategy = Listens()
        torch.manual_seed(11)
        search(p, "toy", strategy, records, Serial(), Budget())
        outside = torch.rand(2)
    torch.manual_seed(4)
    assert torch.equal(torch.stack(strategy.drawn), torch.rand(4).reshape(2, 2))
    torch.manual_seed(11)
    assert torch.equal(outside, torch.rand(2))


def test_checkpoints_last_as_long_as_their_training(evaluator, tmp_path):
    evaluate = evaluator(Wrong())
    evaluate(grid())
    assert list((tmp_path / "checkpoints").iterdir()) == []


@dataclass(frozen=True)
class Grown(ToySpace):
    """Its final networks have other scales, which the objective sees."""

    def enlarged(self) -> ToySpace:
        return Grown(self.task, tuple(10 * s for s in self.scales))


def test_the_final_phase_trains_the_enlarged_networks_on_the_test(tmp_path):
    p = replace(problem(tmp_path, Wrong(), Echo()), space=Grown(ToyTask(), (1.0, 2.0)))
    trials = [Trial((10.0, 20.0), SHORT), Trial((20.0, 20.0), SHORT)]
    with Records(tmp_path / "r.jsonl", write=True) as records:
        found = finish(p, "toy", trials, records, Serial())
        again = finish(p, "toy", trials, records, Serial())
    assert found == again
    assert [r.phase for r in found] == ["final", "final"]
    assert [r.values["echo"] for r in found] == [30.0, 40.0]
    for r in found:
        assert engine.network_file(tmp_path, r.key).exists()


def test_search_and_final_records_of_one_trial_are_two(tmp_path):
    p = problem(tmp_path)
    with Records(tmp_path / "r.jsonl", write=True) as records:
        search(p, "toy", Evaluates((grid()[0],)), records, Serial(), Budget())
        finish(p, "toy", [grid()[0]], records, Serial())
        assert [(r.phase, r.key) for r in records] == [("search", grid()[0].key), ("final", grid()[0].key)]


def test_jobs_can_be_sent_to_another_process(evaluator):
    seen = []

    @dataclass(frozen=True)
    class Copies(Executor):
        def run(self, jobs):
            for job in jobs:
                assert isinstance(job, partial)
                seen.append(pickle.loads(pickle.dumps(job)))
                yield seen[-1]()

    weights = ToySpace(ToyTask()).build((1.0, 2.0)).state_dict()
    evaluate = evaluator(Wrong(), executor=Copies())
    found = evaluate([*grid()[:2], Trial((1.0, 2.0), SHORT, weights)])
    assert [r.key for r in found] == [t.key for t in (*grid()[:2], Trial((1.0, 2.0), SHORT, weights))]


def test_random_search_finds_the_known_best_of_a_small_space(tmp_path):
    with Records(tmp_path / "r.jsonl", write=True) as records:
        search(problem(tmp_path), "toy", RandomSearch(9), records, Serial(), Budget())
        best = front(records.select("search"), [Echo().reading])
    assert [r.architecture for r in best] == [(2.0, 2.0)]
    assert np.isclose(best[0].values["echo"], 4.0)
