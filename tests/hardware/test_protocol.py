"""The protocol in a world whose time passes only while networks run, as fast as is said."""

import contextlib
import time
from itertools import chain, repeat

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasfw.hardware import protocol
from nasfw.hardware.machine import conditions
from nasfw.hardware.protocol import EventClock, Plan, ThreadClock, WallClock, calibrate, measure

# Times from here on are taken run by run; shorter ones are taken several at once.
SMALL, LARGE = 4e-3, 32e-3
# The runs that tell how long one takes, if all take as long.
WARM = 3
EXACT = 1e-9


class World:
    """Stands for the module ``time``; everything takes ``factor`` times its seconds."""

    def __init__(self):
        self.now, self.factor, self.slept, self.runs = 100.0, 1.0, 0.0, 0

    def thread_time(self):
        return self.now

    perf_counter = thread_time

    def sleep(self, seconds):
        self.slept += seconds

    def network(self, seconds, factors=()):
        """A run of so many seconds; after the warm-up, times one of ``factors`` after the other."""
        each = chain(repeat(1.0, WARM), factors, repeat(1.0))

        def run():
            self.now += seconds * self.factor * next(each)
            self.runs += 1

        return run

    def drifting(self, seconds, factors):
        """A run that sets the world's factor: the small canary, which begins every round."""
        each = chain(repeat(1.0, WARM), factors, repeat(1.0))

        def run():
            self.factor = next(each)
            self.now += seconds * self.factor

        return run


@pytest.fixture
def world(monkeypatch):
    world = World()
    monkeypatch.setattr(protocol, "time", world)
    return world


def noise(count, seed, spread=0.1):
    return np.exp(np.random.default_rng(seed).normal(0, spread, count)).tolist()


def rounds(count, **settings):
    """Exactly so many."""
    return Plan(**{"width": -1.0, "least": count, "most": count, "bound": 1e9, **settings})


@pytest.mark.parametrize("seed", range(3))
def test_whatever_slows_down_everything_cancels(world, seed):
    """Values are the times on the undisturbed device, where the canaries take their reference times."""
    times = [1e-2, 2.5e-3, 8e-2]
    small = world.drifting(SMALL, noise(40, seed, 1.0))
    runs = [world.network(t) for t in times]
    undisturbed = (SMALL / 3, LARGE / 3)
    found = measure(runs, (small, world.network(LARGE)), undisturbed, ThreadClock(), rounds(9))
    assert found == pytest.approx([t / 3 for t in times], rel=EXACT)
    for value in found:
        assert (value.low, value.high) == pytest.approx((value, value), rel=EXACT)
        assert (value.repetitions, value.outliers, value.clock) == (9, 0, ThreadClock.name)


@pytest.mark.parametrize(
    ("position", "expected"), [(-0.5, 0), (0, 0), (0.25, 0.25), (0.5, 0.5), (1, 1), (1.5, 1)]
)
def test_a_network_is_compared_with_canaries_of_its_size(world, position, expected):
    """A canary that is slowed down alone counts as much as its weight w: t / (s^(1-w) l^w) is what stays."""
    slower = (2.0, 3.0)
    reference = (SMALL / slower[0], LARGE / slower[1])
    t = SMALL * (LARGE / SMALL) ** position
    canaries = world.network(SMALL), world.network(LARGE)
    (value,) = measure([world.network(t)], canaries, reference, ThreadClock(), rounds(8))
    drift = slower[0] ** (1 - expected) * slower[1] ** expected
    assert value == pytest.approx(t / drift, rel=EXACT)
    assert value.drift == pytest.approx(drift, rel=EXACT)


def test_canaries_of_one_size_count_as_one(world):
    canaries = world.network(SMALL), world.network(SMALL)
    (value,) = measure([world.network(1e-2)], canaries, (SMALL / 2, SMALL / 2), ThreadClock(), rounds(8))
    assert value == pytest.approx(5e-3, rel=EXACT)


def test_drift_is_how_much_slower_the_canaries_were(world):
    factors = noise(9, 3)
    canaries = world.drifting(SMALL, factors), world.network(LARGE)
    (value,) = measure([world.network(1e-2)], canaries, (SMALL, LARGE), ThreadClock(), rounds(9))
    assert value.drift == pytest.approx(np.median(factors), rel=EXACT)


def test_outliers_are_counted_and_do_not_count(world):
    """4 of 11 rounds take at least half as long again; 1.4 times is no outlier."""
    factors = [1, 5, 1, 1.4, 1.6, 1, 30, 1, 1, 1.51, 1]
    canaries = world.network(SMALL), world.network(LARGE)
    (value,) = measure([world.network(1e-2, factors)], canaries, (SMALL, LARGE), ThreadClock(), rounds(11))
    assert value == pytest.approx(1e-2, rel=EXACT)
    assert value.outliers == 4


def test_the_interval_holds_the_median_and_shrinks(world):
    widths = []
    for count in (10, 40, 160, 640):
        run = world.network(1e-2, noise(count, count))
        canaries = world.network(SMALL), world.network(LARGE)
        plan = rounds(count, seconds=1e9)
        (value,) = measure([run], canaries, (SMALL, LARGE), ThreadClock(), plan)
        assert value.low < value < value.high
        assert value == pytest.approx(1e-2 * np.median(noise(count, count)), rel=EXACT)
        widths.append(value.high - value.low)
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_beyond_the_bound_it_is_repeated_and_then_said(world, factor):
    """Either way; the value is corrected for the drift all the same."""
    run = world.network(1e-2)
    canaries = world.network(SMALL), world.network(LARGE)
    reference = (SMALL / factor, LARGE / factor)
    (value,) = measure([run], canaries, reference, ThreadClock(), rounds(7, bound=1.6, attempts=4))
    assert value.remark.startswith("unsure")
    assert f"{factor:.2f} times" in value.remark
    assert value.drift == pytest.approx(factor, rel=EXACT)
    assert value == pytest.approx(1e-2 / factor, rel=EXACT)
    assert world.runs == 3 * (WARM + 4 * 7)
    assert world.slept > 0


def test_a_calm_repetition_counts_and_only_that(world):
    factors = [2.0] * 7 + [1.1] * 7
    canaries = world.drifting(SMALL, factors), world.network(LARGE)
    run = world.network(1e-2, [1.0] * 7 + [3.0] * 7)
    (value,) = measure([run], canaries, (SMALL, LARGE), ThreadClock(), rounds(7, bound=1.6))
    assert value.remark == ""
    assert value.drift == pytest.approx(1.1, rel=EXACT)
    assert value == pytest.approx(3e-2, rel=EXACT)
    assert value.repetitions == 7


def made(world, plan, run):
    """Rounds that were made of a run with noise."""
    canaries = world.network(SMALL), world.network(LARGE)
    (value,) = measure([run], canaries, (SMALL, LARGE), ThreadClock(), plan)
    return value.repetitions


def test_rounds_end_by_number_time_or_width(world):
    loud = noise(400, 0)
    slow, fast = 1.0, 5e-3
    # However little time there is, and however wide the interval.
    assert made(world, Plan(seconds=0, least=9), world.network(slow, loud)) == 9
    # Unless the wall clock says that it takes far too long.
    assert made(world, Plan(seconds=0, least=9), world.network(10 * slow, loud)) == 3
    # However much time there is.
    assert made(world, Plan(seconds=1e9, width=0, most=31), world.network(slow, loud)) == 31
    assert made(world, Plan(seconds=1e9, width=0, most=3), world.network(slow, loud)) == 3
    # The first time that it is looked at.
    assert made(world, Plan(seconds=1e9), world.network(slow)) == 8
    # All networks of a round together take the time that there is for one network.
    each = SMALL + LARGE + fast
    enough = Plan(seconds=20.5 * each, width=0)
    assert made(world, enough, world.network(fast, [1.0, 1.01] * 200)) == 21


def test_a_wide_interval_takes_more_rounds(world):
    """They end at the first multiple of 8 at which the interval is narrow enough."""
    run = world.network(1e-2, noise(400, 1))
    canaries = world.network(SMALL), world.network(LARGE)
    plan = Plan(seconds=1e9, width=0.05)
    (value,) = measure([run], canaries, (SMALL, LARGE), ThreadClock(), plan)
    width = (value.high - value.low) / value
    assert 8 < value.repetitions < plan.most
    assert value.repetitions % 8 == 0
    assert width <= 0.05
    (before,) = measure(
        [world.network(1e-2, noise(400, 1))],
        canaries,
        (SMALL, LARGE),
        ThreadClock(),
        Plan(seconds=1e9, width=0.05, most=value.repetitions - 8),
    )
    assert (before.high - before.low) / before > 0.05


def test_of_five_times_by_the_wall_clock_the_least_counts(world):
    factors = [3, 2, 1.5, 7, 1] * 2 + [9, 1.25, 4, 2, 3] * 7
    canaries = world.network(SMALL), world.network(LARGE)
    (value,) = measure([world.network(1e-2, factors)], canaries, (SMALL, LARGE), WallClock(), rounds(9))
    assert value == pytest.approx(1.25e-2, rel=EXACT)
    assert (value.repetitions, value.low) == (9 * 5, pytest.approx(1e-2, rel=EXACT))


def test_short_runs_are_taken_together_until_they_take_a_millisecond(world):
    canaries = world.network(SMALL), world.network(LARGE)
    times = [4e-5, 3e-4, 2e-3, 1e-6, 1e-9]
    runs = [world.network(t) for t in times]
    found = measure(runs, canaries, (SMALL, LARGE), ThreadClock(), rounds(10))
    assert found == pytest.approx(times, rel=1e-4)
    assert [v.repetitions for v in found] == [250, 30, 10, 1000, 1000]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(2e-3, 1.0), max_size=40), st.floats(2e-3, 0.5))
def test_results_keep_their_order_however_they_are_grouped(times, small):
    """Up to 24 share a canary, fewer if they are slow."""
    world = World()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "time", world)
        canaries = world.drifting(small, noise(10_000, 1)), world.network(2 * small)
        runs = [world.network(t) for t in times]
        found = measure(runs, canaries, (small, 2 * small), ThreadClock(), rounds(7))
    assert found == pytest.approx(times, rel=EXACT)


def test_warming_up_ends_when_times_have_settled(world):
    """A run that is slow at first is measured at its last speed."""
    cold = iter([50, 9, 4, 2, 1.5])

    def run():
        world.now += 1e-3 * next(cold, 1.0)

    canaries = world.network(SMALL), world.network(LARGE)
    (value,) = measure([run], canaries, (SMALL, LARGE), ThreadClock(), rounds(7))
    assert value == pytest.approx(1e-3, rel=EXACT)


class Restless(World):
    """Has another factor after every pause."""

    def __init__(self, factors):
        super().__init__()
        self.factors = chain(factors, repeat(1.0))

    def sleep(self, seconds):
        super().sleep(seconds)
        self.factor = next(self.factors)


@pytest.mark.parametrize("clock", [ThreadClock(), WallClock()])
def test_the_undisturbed_time_is_found_if_a_fifth_of_the_bursts_is_calm(monkeypatch, clock):
    factors = np.random.default_rng(0).permutation([1.0] * 6 + [1.3] * 12 + [2.0] * 12).tolist()
    world = Restless(factors)
    monkeypatch.setattr(protocol, "time", world)
    found = calibrate((world.network(SMALL), world.network(LARGE)), clock)
    assert found == pytest.approx((SMALL, LARGE), rel=EXACT)
    assert world.slept == pytest.approx(30 * 0.1)


class Sleepy(World):
    """The first run after a pause takes ten times its time."""

    def sleep(self, seconds):
        self.factor = 10.0

    def network(self, seconds, factors=()):
        usual = super().network(seconds, factors)

        def run():
            usual()
            self.factor = 1.0

        return run


def test_the_first_run_after_a_pause_does_not_count(monkeypatch):
    world = Sleepy()
    monkeypatch.setattr(protocol, "time", world)
    found = calibrate((world.network(SMALL), world.network(LARGE)), ThreadClock())
    assert found == pytest.approx((SMALL, LARGE), rel=EXACT)


def test_the_threads_clock_gives_seconds():
    """Of a loop that notes its own time, so that no load matters, but a thousand would."""
    noted = []

    def busy():
        start = time.thread_time_ns()
        total = 0
        while time.thread_time_ns() - start < 20_000_000:
            total += sum(range(1000))
        noted.append((time.thread_time_ns() - start) / 1e9)

    found = ThreadClock().seconds(busy)
    assert noted[0] <= found <= 1.5 * noted[0]


def test_the_threads_clock_does_not_count_sleep_and_the_wall_clock_does():
    assert ThreadClock().seconds(lambda: time.sleep(0.1)) < 0.05
    assert WallClock().seconds(lambda: time.sleep(0.1)) >= 0.1


def test_a_measurement_by_the_real_clock_is_in_seconds():
    """A loop that notes its own time, compared with such loops: a network of 4 ms takes 4 ms."""

    def loop(milliseconds):
        def busy():
            end = time.thread_time_ns() + milliseconds * 1_000_000
            while time.thread_time_ns() < end:
                pass

        return busy

    found = measure([loop(4)], (loop(2), loop(8)), (2e-3, 8e-3), ThreadClock(), Plan(seconds=0))
    assert found == pytest.approx([4e-3], rel=0.5)
    assert calibrate((loop(2), loop(8)), ThreadClock(), 3, 0) == pytest.approx((2e-3, 8e-3), rel=0.5)


def test_events_give_milliseconds_and_the_clock_seconds(monkeypatch):
    """Both events are recorded around the run, and the second is waited for before they are read."""
    done = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            done.append((self, "recorded"))

        def synchronize(self):
            done.append((self, "awaited"))

        def elapsed_time(self, end):
            assert done == [(self, "recorded"), "run", (end, "recorded"), (end, "awaited")]
            return 2.5

    @contextlib.contextmanager
    def device(index):
        assert index == 3
        yield

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", device)
    assert EventClock(3).seconds(lambda: done.append("run")) == 2.5e-3


def test_conditions_come_along(world):
    canaries = world.network(SMALL), world.network(LARGE)
    (value,) = measure([world.network(1e-2)], canaries, (SMALL, LARGE), ThreadClock())
    assert value.details["conditions"].keys() == conditions().keys()
