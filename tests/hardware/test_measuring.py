"""What is measured, what is taken from the cache, and what happens where there is none.

Most networks here only let time pass, so that their values are known exactly.
"""

import contextlib
import errno
import json
import logging
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from nasfw import caches
from nasfw.contracts import Candidate
from nasfw.hardware import canary, measuring, protocol
from nasfw.hardware.measuring import Subject, measure, of_candidate, of_file
from nasfw.hardware.session import Runtime, Session, to_onnx
from nasfw.testing import ToySpace, ToyTask
from nasfw.values import Measured, Unsupported

pytest.importorskip("onnxruntime")

SMALL, LARGE = 4e-3, 32e-3
RUNTIME = Runtime()
EXACT = 1e-9


class World:
    """Stands for the module ``time``; time passes only while networks run."""

    def __init__(self):
        self.now = 0.0
        self.measured = []

    def thread_time(self):
        return self.now

    perf_counter = thread_time

    def sleep(self, seconds):
        pass

    def network(self, seconds):
        def run():
            self.now += seconds

        return run

    def subject(self, key, seconds, size=1, family=None, remark=""):
        def opened():
            run = self.network(seconds)
            return Session(RUNTIME, b"", SimpleNamespace(run=lambda names, inputs: run()), {}, remark)

        return Subject(key, size, opened, family)


@pytest.fixture(scope="module")
def session_cache(cache):
    """Where the reference networks' times are kept for all tests."""
    return caches.folder()


@pytest.fixture(autouse=True)
def empty(monkeypatch, tmp_path):
    """An empty cache, as a new process finds it."""
    monkeypatch.setenv("NASFW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measuring, "_sessions", type(measuring._sessions)())
    monkeypatch.setattr(measuring, "_last", [])
    caches.warn_once.cache_clear()
    return tmp_path / "cache" / "measurements"


def counted(monkeypatch, calls):
    """Note how many networks are measured at a time."""
    measured = protocol.measure

    def measure(runs, *others):
        calls.append(len(runs))
        return measured(runs, *others)

    monkeypatch.setattr(protocol, "measure", measure)


@pytest.fixture
def world(monkeypatch):
    """A world in which the reference networks' times are known."""
    world = World()
    monkeypatch.setattr(protocol, "time", world)
    monkeypatch.setattr(canary, "pair", lambda runtime: (world.network(SMALL), world.network(LARGE)))
    monkeypatch.setattr(canary, "reference", lambda *_: (SMALL, LARGE))
    counted(monkeypatch, world.measured)
    return world


def same(one, other):
    return one == other and one.details == other.details


def test_values_are_the_networks_times_in_their_order(world):
    times = [3e-2, 1e-2, 5e-3, 2e-2]
    found = measure("latency", [world.subject(str(t), t) for t in times], RUNTIME)
    assert found == pytest.approx(times, rel=EXACT)
    assert all(isinstance(v, Measured) and v.clock == protocol.ThreadClock.name for v in found)
    assert world.measured == [4]


def test_no_networks_have_no_values(world):
    assert measure("latency", [], RUNTIME) == []
    assert world.measured == []


def test_what_was_measured_is_not_again(world):
    """With all details, and only what is missing."""
    a, b = world.subject("a", 1e-2), world.subject("b", 2e-2)
    (first,) = measure("latency", [a], RUNTIME)
    again, other = measure("latency", [a, b], RUNTIME)
    assert same(first, again)
    assert other == pytest.approx(2e-2, rel=EXACT)
    assert measure("latency", [b, a], RUNTIME) == [other, first]
    assert world.measured == [1, 1]


def test_on_request_it_is_measured_anew_and_kept(world):
    a = world.subject("a", 1e-2)
    measure("latency", [a], RUNTIME)
    faster = world.subject("a", 5e-3)
    measuring._sessions.clear()
    (value,) = measure("latency", [faster], RUNTIME, reuse=False)
    assert value == pytest.approx(5e-3, rel=EXACT)
    assert same(measure("latency", [a], RUNTIME)[0], value)
    assert world.measured == [1, 1]


def test_equal_graphs_are_measured_once(world):
    a, b = world.subject("a", 1e-2), world.subject("b", 2e-2)
    found = measure("latency", [a, b, replace(a, size=7), a, b], RUNTIME)
    assert found == pytest.approx([1e-2, 2e-2, 1e-2, 1e-2, 2e-2], rel=EXACT)
    assert world.measured == [2]


SETTINGS = [{"threads": 2}, {"batch": 2}, {"precision": "int8"}, {"dynamic": True}]


@pytest.mark.parametrize("change", SETTINGS)
def test_other_settings_have_other_values(world, empty, change):
    runtime = replace(RUNTIME, **change)
    assert measuring.fingerprint(runtime) != measuring.fingerprint(RUNTIME)
    for used in (RUNTIME, runtime, RUNTIME, runtime):
        measure("latency", [world.subject("a", 1e-2)], used)
    assert world.measured == [1, 1]
    assert len(list(empty.iterdir())) == 2


def test_other_numbers_of_rounds_and_ways_of_measuring_have_other_values(world, monkeypatch):
    a = world.subject("a", 1e-2)
    (value,) = measure("latency", [a], RUNTIME, rounds=3)
    assert value.repetitions == 3
    assert measure("latency", [a], RUNTIME)[0].repetitions > 3
    monkeypatch.setattr(measuring, "REVISION", measuring.REVISION + 1)
    measure("latency", [a], RUNTIME)
    assert world.measured == [1, 1, 1]


def test_fingerprints_are_json_values():
    found = measuring.fingerprint(RUNTIME)
    assert json.loads(json.dumps(found)) == found
    assert found["runtime"].startswith("onnxruntime ")


def damaged(content):
    def with_content(changes):
        return json.dumps(content | {"content": content["content"] | changes})

    yield from ["", "{", "[]", "null", "\udcff", json.dumps({**content, "key": {}}), json.dumps({"key": 1})]
    yield from [json.dumps({**content, "content": c}) for c in (None, [], {}, 5, "fast")]
    yield from [with_content({"value": v}) for v in (0.0, -1.0, "fast", None, float("nan"), float("inf"))]


def test_a_damaged_entry_is_said_and_measured_anew(world, empty, caplog):
    a = world.subject("a", 1e-2)
    (value,) = measure("latency", [a], RUNTIME)
    (file,) = empty.iterdir()
    whole = json.loads(file.read_text())
    texts = list(damaged(whole))
    for text in texts:
        caplog.clear()
        caches.warn_once.cache_clear()
        file.write_bytes(text.encode(errors="surrogateescape"))
        assert measure("latency", [a], RUNTIME) == pytest.approx([value], rel=EXACT), text
        assert measure("latency", [a], RUNTIME) == pytest.approx([value], rel=EXACT), text
        assert caplog.text.count("is damaged and is made anew") == 1, text
        assert json.loads(file.read_text())["key"] == whole["key"]
    assert len(world.measured) == 1 + len(texts)


@contextlib.contextmanager
def no_space(path):
    raise OSError(errno.ENOSPC, "No space left on device", str(path))
    yield


def test_a_full_disk_is_said_once_and_values_come_all_the_same(world, monkeypatch, caplog):
    monkeypatch.setattr(caches, "written", no_space)
    for t in (1e-2, 2e-2):
        assert measure("latency", [world.subject(str(t), t)], RUNTIME) == pytest.approx([t], rel=EXACT)
    assert caplog.text.count("the cache cannot be used") == 1
    assert "No space left on device" in caplog.text


def test_no_folder_is_said_once_and_values_come_all_the_same(world, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NASFW_CACHE", str(tmp_path / "file" / "cache"))
    for t in (1e-2, 2e-2):
        assert measure("latency", [world.subject(str(t), t)], RUNTIME) == pytest.approx([t], rel=EXACT)
    assert caplog.text.count("the cache cannot be used") == 1


def test_what_is_unsure_is_not_kept(world, empty, monkeypatch):
    monkeypatch.setattr(canary, "reference", lambda *_: (SMALL / 2, LARGE / 2))
    a = world.subject("a", 1e-2)
    (value,) = measure("latency", [a], RUNTIME)
    assert value.remark.startswith("unsure")
    assert value == pytest.approx(5e-3, rel=EXACT)
    assert not empty.exists()
    monkeypatch.setattr(canary, "reference", lambda *_: (SMALL, LARGE))
    (value,) = measure("latency", [a], RUNTIME)
    assert (value.remark, world.measured) == ("", [1, 1])


@pytest.mark.parametrize(("rounds", "times"), [(None, 1.0), (5, 1.25)])
def test_a_reference_that_was_disturbed_is_taken_again_unless_the_scale_does_not_matter(
    world, monkeypatch, rounds, times
):
    """The canaries now take 0.8 times what was their undisturbed time; a few rounds only compare."""
    old = SMALL / 0.8, LARGE / 0.8
    monkeypatch.setattr(canary, "reference", lambda *_, anew=False: (SMALL, LARGE) if anew else old)
    (value,) = measure("latency", [world.subject("a", 1e-2)], RUNTIME, rounds)
    assert value == pytest.approx(1e-2 * times, rel=EXACT)


def test_rough_values_on_a_scale_of_their_own_are_not_kept(world, monkeypatch):
    """Else a later measurement would compare them with others."""
    a, b = world.subject("a", 1e-2), world.subject("b", 1e-2)
    monkeypatch.setattr(canary, "reference", lambda *_, anew=False: (SMALL / 0.8, LARGE / 0.8))
    assert measure("latency", [a], RUNTIME, 5) == pytest.approx([1.25e-2], rel=EXACT)
    monkeypatch.setattr(canary, "reference", lambda *_, anew=False: (SMALL, LARGE))
    assert measure("latency", [a, b], RUNTIME, 5) == pytest.approx([1e-2, 1e-2], rel=EXACT)
    assert world.measured == [1, 2]


def test_remarks_of_networks_come_along(world, monkeypatch):
    a = world.subject("a", 1e-2, remark="outputs differ")
    assert measure("latency", [a], RUNTIME)[0].remark == "outputs differ"
    monkeypatch.setattr(canary, "reference", lambda *_: (SMALL / 2, LARGE / 2))
    (value,) = measure("latency", [a], RUNTIME, reuse=False)
    assert value.remark.startswith("unsure")
    assert value.remark.endswith("; outputs differ")


@pytest.mark.parametrize(
    ("limit", "value", "expected"), [("_AT_ONCE", 2, [2, 2, 1]), ("_BYTES", 25, [2, 1, 1, 1])]
)
def test_networks_that_do_not_fit_together_are_measured_in_portions(
    world, monkeypatch, limit, value, expected
):
    """Of 10, 10, 20, 30 and 10 bytes."""
    monkeypatch.setattr(measuring, limit, value)
    times, sizes = [1e-2, 5e-2, 2e-2, 4e-2, 3e-2], [10, 10, 20, 30, 10]
    subjects = [world.subject(str(t), t, size) for t, size in zip(times, sizes, strict=True)]
    assert measure("latency", subjects, RUNTIME) == pytest.approx(times, rel=EXACT)
    assert world.measured == expected


def test_only_the_last_few_networks_stay_open(world):
    subjects = [world.subject(str(i), 1e-2) for i in range(10)]
    measure("latency", subjects, RUNTIME)
    assert [key for key, _ in measuring._sessions] == ["6", "7", "8", "9"]


@pytest.mark.parametrize("slower", [1.0, 1.25, 0.8])
def test_values_are_in_units_of_the_familys_known_times(world, slower):
    """If those are so many times larger, then so are the values, whatever other canaries take."""
    pair = world.subject("plain", 2e-2), world.subject("other", 1e-2)
    for subject, t in zip(pair, (2e-2, 1e-2), strict=True):
        key = measuring._key("latency", subject, RUNTIME, measuring.THOROUGH)
        caches.remember("measurements", key, {"value": slower * t})
    times = [1e-2, 1.5e-2, 5e-3, 4e-2]
    subjects = [world.subject(str(t), t, family=lambda: pair) for t in times]
    found = measure("latency", subjects, RUNTIME)
    assert found == pytest.approx([slower * t for t in times], rel=EXACT)
    assert [v.drift for v in found] == pytest.approx([1 / slower] * 4, rel=EXACT)
    assert world.measured == [4]


@pytest.mark.parametrize("turned", [False, True])
def test_of_the_family_the_faster_one_is_the_small_canary(world, turned):
    """By known times of 1.2 and 0.9 times what they take now, the slower one's counts as its weight says."""
    known = {"fast": (1e-2, 1.2), "slow": (4e-2, 0.9)}
    pair = [world.subject(key, t) for key, (t, _) in known.items()][:: -1 if turned else 1]
    for subject in pair:
        t, factor = known[subject.key]
        key = measuring._key("latency", subject, RUNTIME, measuring.THOROUGH)
        caches.remember("measurements", key, {"value": factor * t})
    subjects = [world.subject(str(t), t, family=lambda: tuple(pair)) for t in (5e-3, 2e-2, 8e-2)]
    found = measure("latency", subjects, RUNTIME)
    assert found == pytest.approx([5e-3 * 1.2, 2e-2 * (1.2 * 0.9) ** 0.5, 8e-2 * 0.9], rel=EXACT)


def test_the_familys_own_times_are_measured_first_and_once(world):
    pair = world.subject("plain", 2e-2), world.subject("other", 1e-2)
    a, b = (world.subject(key, 1.5e-2, family=lambda: pair) for key in "ab")
    for subject in (a, b):
        assert measure("latency", [subject], RUNTIME) == pytest.approx([1.5e-2], rel=EXACT)
    assert world.measured == [2, 1, 1]
    again = measure("latency", pair, RUNTIME, measuring.THOROUGH)
    assert again == pytest.approx([2e-2, 1e-2], rel=EXACT)
    assert world.measured == [2, 1, 1]


def test_a_family_of_one_network_serves_too(world):
    """An arbitrary network may happen to be the plain one."""
    pair = world.subject("plain", 2e-2), world.subject("plain", 2e-2)
    a = world.subject("a", 3e-2, family=lambda: pair)
    assert measure("latency", [a], RUNTIME) == pytest.approx([3e-2], rel=EXACT)


HOLDER = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_that_is_never_released_does_not_block(world, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(measuring, "_PATIENCE", 0.1)
    (tmp_path / "cache").mkdir()
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "cache" / "measuring.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with caplog.at_level(logging.INFO, "nasfw"):
            found = measure("latency", [world.subject("a", 1e-2)], RUNTIME)
        holder.stdin.close()
    assert found == pytest.approx([1e-2], rel=EXACT)
    assert "measuring without a lock" in caplog.text
    assert holder.returncode == 0


def test_one_process_measures_at_a_time(world, tmp_path):
    """A network that is measured now sees the lock taken."""
    taken = []

    def look(names, inputs):
        code = "import sys\nfrom filelock import FileLock\nFileLock(sys.argv[1], timeout=0).acquire()"
        if not taken:
            lock = str(tmp_path / "cache" / "measuring.lock")
            done = subprocess.run([sys.executable, "-c", code, lock], capture_output=True, text=True)
            taken.append("Timeout" in done.stderr)
        world.now += 1e-2

    session = Session(RUNTIME, b"", SimpleNamespace(run=look), {})
    measure("latency", [Subject("a", 1, lambda: session)], RUNTIME)
    assert taken == [True]


@pytest.mark.parametrize("threads", [1, 2])
def test_several_threads_are_timed_by_the_wall(threads):
    clock = {1: protocol.ThreadClock, 2: protocol.WallClock}[threads]
    assert type(measuring.clock(Runtime(threads=threads))) is clock


class Meter:
    """Five watts, and a hundredth of a joule for every inference."""

    name, source, resolution, settle = "meter 1", "counter", 1e-9, 0.0

    def __init__(self):
        self.inferences = 0

    def joules(self):
        return 5 * time.perf_counter() + self.inferences / 100

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return


def test_energy_is_what_inferences_add_to_idle_power(monkeypatch):
    meter = Meter()

    def run(names, inputs):
        time.sleep(1e-3)
        meter.inferences += 1

    monkeypatch.setattr(measuring, "meter", lambda runtime: meter)
    session = Session(RUNTIME, b"", SimpleNamespace(run=run), {}, "outputs differ")
    (value,) = measure("energy", [Subject("a", 1, lambda: session)], RUNTIME)
    assert value == pytest.approx(0.01, rel=0.05)
    assert value.low <= value <= value.high
    assert 1 < value.repetitions < meter.inferences
    assert value.clock == "meter 1, counter"
    assert value.remark == "5 W of idle power subtracted; outputs differ"
    assert same(measure("energy", [Subject("a", 1, lambda: session)], RUNTIME)[0], value)


def test_a_real_network_takes_its_real_seconds(session_cache, monkeypatch):
    """As this thread's clock tells, apart from what slows down this machine at the moment."""
    monkeypatch.setenv("NASFW_CACHE", str(session_cache))
    layers = nn.Sequential(*(nn.Conv2d(16, 16, 5, padding=2) for _ in range(3))).eval()
    subject = of_file(to_onnx(layers, (16, 24, 24)).SerializeToString(), RUNTIME)
    (value,) = measure("latency", [subject], RUNTIME, rounds=20, reuse=False)
    run = subject.open().bound()
    times = []
    for _ in range(50):
        start = time.thread_time()
        run()
        times.append(time.thread_time() - start)
    assert 0.25 < value / np.median(times) < 4
    assert value.low <= value <= value.high


@pytest.fixture
def toy():
    """Makes candidates of one space."""
    task = ToyTask()
    space = ToySpace(task)
    return lambda *architecture: Candidate(space, task, architecture)


def test_candidates_share_their_family_and_their_graphs(world, toy, monkeypatch):
    """Other weights, other objects: the same network. The family is the plain backbone and another one."""
    built = count()
    build = ToySpace.build
    monkeypatch.setattr(ToySpace, "build", lambda *given: (next(built), build(*given))[1])
    monkeypatch.setattr(Session, "bound", lambda session: world.network(1e-2))
    first = measure("latency", [of_candidate(toy(1.0, 2.0), RUNTIME)], RUNTIME)
    again = measure("latency", [of_candidate(toy(1.0, 2.0), RUNTIME)], RUNTIME)
    assert same(first[0], again[0])
    # Two candidates and the two of their family.
    assert next(built) == 4
    assert world.measured[-1] == 1
    assert len(world.measured) == 2


def test_another_task_has_another_family(toy):
    """Even if its space is called the same."""
    family = of_candidate(toy(1.0, 2.0), RUNTIME).family()
    assert of_candidate(toy(2.0, 2.0), RUNTIME).family() is family
    task = ToyTask()
    other = Candidate(ToySpace(task), task, (1.0, 2.0))
    assert of_candidate(other, RUNTIME).family() is not family
    assert of_candidate(toy(2.0, 2.0), replace(RUNTIME, batch=2)).family() is not family


def test_eight_bits_are_calibrated_with_training_inputs(toy):
    """And their difference from torch is told."""
    runtime = Runtime(precision="int8")
    session = of_candidate(toy(1.0, 2.0), runtime).open()
    assert "in int8, whose outputs differ from torch's by" in session.remark


def test_a_network_that_computes_something_else_is_not_measured(toy):
    candidate = toy(1.0, 2.0)
    wrong = to_onnx(toy(1.0, 2.0).model, (4,)).SerializeToString()
    with pytest.raises(Unsupported, match="it would measure another network"):
        measuring._opened(wrong, candidate, RUNTIME)
