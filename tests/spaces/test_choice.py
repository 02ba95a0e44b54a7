"""The fastest way is found, kept, and found again without a measurement."""

import json
import logging
import subprocess
import sys
import time
from functools import partial

import pytest
import torch

from nasfw import caches
from nasfw.spaces import choice, race
from nasfw.spaces.choice import Choice, Timing
from nasfw.spaces.kernels import Convolution, Layout
from nasfw.spaces.speed import Way

LAYOUT = Layout(Convolution(2, 2, 3, own=(3, 1), padding=(1, 1)), ((3, 1), (3, 2)), ((8, 8),))
WEIGHT = torch.zeros(len(LAYOUT.taps), 3, 2)
RESULTS, WEIGHTS, MATRIX = Way.RESULTS, Way.WEIGHTS, Way.MATRIX
EQUAL = dict.fromkeys((RESULTS, WEIGHTS, MATRIX), 1.0)


@pytest.fixture(autouse=True)
def ways_folder(tmp_path, monkeypatch):
    """An empty cache, as a new process finds it."""
    monkeypatch.setenv("NASFW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "_known", {})
    caches.warn_once.cache_clear()
    return tmp_path / "cache" / "ways"


def new_process(monkeypatch):
    monkeypatch.setattr(choice, "_known", {})


def joined(x, weight, mixture, bias):
    return x.sum() + weight.sum() + mixture.sum() + bias.sum()


def matmuls(count, x, weight, mixture, bias):
    """As slow as ``count`` products of matrices."""
    y = torch.ones(192, 192) * joined(x, weight, mixture, bias)
    for _ in range(count):
        y = y @ torch.eye(192)
    return y


def pausing(seconds, x, weight, mixture, bias, calls=None):
    if calls is not None:
        calls.append(seconds)
    begin = time.thread_time()
    # Busy, since time in which a thread sleeps is not its own.
    while time.thread_time() < begin + seconds:
        pass
    return joined(x, weight, mixture, bias)


def untouchable(x, weight, mixture, bias):
    raise AssertionError("this was not to be measured")


def too_large(x, weight, mixture, bias):
    raise torch.OutOfMemoryError("out of memory")


def measured(ways, expected=EQUAL, batch=4, weight=WEIGHT, variant=""):
    return choice.measured(LAYOUT, batch, (8, 8), ways, expected, weight, variant)


THREE = {RESULTS: partial(matmuls, 10), WEIGHTS: partial(matmuls, 2), MATRIX: partial(matmuls, 5)}
NONE = dict.fromkeys(THREE, untouchable)


def test_the_way_with_the_least_work_wins_and_the_file_says_so(ways_folder):
    found = measured(THREE)
    assert found.way is WEIGHTS
    (file,) = ways_folder.iterdir()
    whole = json.loads(file.read_text())
    content, key = whole["content"], whole["key"]
    assert content["way"] == "weights"
    assert content["times"].keys() == {"results", "weights", "matrix"}
    assert content["times"]["weights"]["minimum"] <= content["times"]["weights"]["median"]
    assert key["batch"] == 4
    assert key["convolution"]["inputs"] == 2
    assert key["torch"] == torch.__version__


def test_what_is_known_is_not_measured_again(monkeypatch):
    found = measured(THREE)
    assert measured(NONE) is found
    new_process(monkeypatch)
    assert measured(NONE) == found


def test_a_given_cache_that_cannot_be_written_decides(ways_folder, monkeypatch, caplog):
    measured(THREE)
    (file,) = ways_folder.iterdir()
    content = json.loads(file.read_text())
    # Whatever the clock would say here.
    file.write_text(json.dumps({**content, "content": {**content["content"], "way": "results"}}))
    file.chmod(0o444)
    ways_folder.chmod(0o555)
    new_process(monkeypatch)
    try:
        assert measured(NONE).way is RESULTS
    finally:
        ways_folder.chmod(0o755)
    assert caplog.text == ""


def test_short_batches_share_the_measurement_of_their_power_of_two(ways_folder):
    found = measured(THREE, batch=4)
    assert measured(NONE, batch=5) is found
    assert measured(NONE, batch=7) is found
    assert len(list(ways_folder.iterdir())) == 1


@pytest.mark.parametrize("change", [{"batch": 9}, {"weight": WEIGHT.double()}, {"variant": "low"}])
def test_other_shapes_dtypes_and_variants_are_measured_for_themselves(ways_folder, change):
    measured(THREE)
    measured(THREE, **change)
    assert len(list(ways_folder.iterdir())) == 2


def test_other_kernels_of_ours_and_numbers_of_threads_are_measured_anew(ways_folder, monkeypatch):
    measured(THREE)
    monkeypatch.setattr(choice, "REVISION", choice.REVISION + 1)
    measured(THREE)
    assert len(list(ways_folder.iterdir())) == 2
    former = torch.get_num_threads()
    torch.set_num_threads(former + 1)
    try:
        measured(THREE)
    finally:
        torch.set_num_threads(former)
    assert len(list(ways_folder.iterdir())) == 3


def test_one_way_alone_is_not_measured(ways_folder):
    found = measured({MATRIX: untouchable})
    assert (found.way, found.times) == (MATRIX, {})
    assert not ways_folder.exists()


def test_ways_that_the_model_expects_to_be_hopeless_are_left_out():
    found = measured({**THREE, MATRIX: untouchable}, {RESULTS: 1.0, WEIGHTS: 5.9, MATRIX: 6.1})
    assert found.way is WEIGHTS
    assert found.times.keys() == {RESULTS, WEIGHTS}
    only = measured(NONE, {RESULTS: 1.0, WEIGHTS: 6.5, MATRIX: 7.0}, batch=64)
    assert only.way is RESULTS


@pytest.mark.parametrize("damage", ["", "{", "[]", "3", '{"key": {}}', "\udcff", "other", "way", "times"])
def test_a_damaged_file_is_measured_anew_and_said(ways_folder, monkeypatch, caplog, damage):
    measured(THREE)
    (file,) = ways_folder.iterdir()
    content = json.loads(file.read_text())
    damaged = {
        "other": {**content, "key": {**content["key"], "batch": 99}},
        "way": {**content, "content": {**content["content"], "way": "magic"}},
        "times": {**content, "content": {**content["content"], "times": {"weights": 3.0}}},
    }
    text = json.dumps(damaged[damage]) if damage in damaged else damage
    file.write_bytes(text.encode(errors="surrogateescape"))
    for _ in range(2):
        new_process(monkeypatch)
        assert measured(THREE).way is WEIGHTS
    assert caplog.text.count("is damaged and is made anew") == 1
    assert json.loads(file.read_text())["key"] == content["key"]


def test_a_cache_that_cannot_be_written_is_said_once(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NASFW_CACHE", str(tmp_path / "file" / "cache"))
    found = measured(THREE)
    assert measured(THREE, batch=16).way is WEIGHTS
    assert caplog.text.count("the cache cannot be used") == 1
    assert measured(NONE) is found


SCRIPT = """
import torch
from nasfw.spaces import choice
from nasfw.spaces.kernels import Convolution, Layout
from nasfw.spaces.speed import Way

torch.set_num_threads(1)
layout = Layout(Convolution(2, 2, 3, own=(3, 1), padding=(1, 1)), ((3, 1), (3, 2)), ((8, 8),))
ways = dict.fromkeys((Way.RESULTS, Way.WEIGHTS, Way.MATRIX), lambda *t: sum(part.sum() for part in t))
weight = torch.zeros(len(layout.taps), 3, 2)
print(choice.measured(layout, 4, (8, 8), ways, dict.fromkeys(ways, 1.0), weight).way.value)
"""


def test_two_processes_at_once_leave_one_whole_file(ways_folder):
    """Whoever writes last decides for those that come later."""
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    ways = [process.communicate()[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    (file,) = ways_folder.iterdir()
    found = measured(NONE).way.value
    assert found == json.loads(file.read_text())["content"]["way"]
    assert found in ways


def test_random_streams_gradients_and_modes_stay_as_they_are():
    weight = torch.nn.Parameter(WEIGHT.clone())
    stream = torch.get_rng_state()
    with torch.no_grad(), torch.autocast("cpu"):
        measured(THREE, weight=weight)
        assert not torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu")
    with torch.inference_mode():
        measured(THREE, weight=weight, batch=16)
    assert torch.equal(torch.get_rng_state(), stream)
    assert weight.grad is None


def test_the_ways_get_what_they_get_in_training():
    """Random inputs of the shapes, with gradients, in their own precision even under autocast."""
    seen = []

    def looking(x, weight, mixture, bias):
        seen.append([(t.shape, t.requires_grad, t.dtype) for t in (x, weight, mixture, bias)])
        seen.append((weight.flatten(1) @ weight.flatten(1).t()).dtype)
        torch.testing.assert_close(mixture.sum(), torch.ones(()))
        return joined(x, weight, mixture, bias)

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        measured({MATRIX: looking, WEIGHTS: looking}, batch=3)
    shapes, product = seen[:2]
    sizes = [(2, 2, 8, 8), WEIGHT.shape, (2,), (3,)]
    assert shapes == [(torch.Size(s), True, torch.float32) for s in sizes]
    assert product == torch.float32


def test_a_way_that_needs_too_much_memory_is_left_out_but_not_for_all_time(ways_folder):
    found = measured({**THREE, WEIGHTS: too_large})
    assert found.way is MATRIX
    assert WEIGHTS not in found.times
    assert not ways_folder.exists()


def test_memory_that_ends_in_a_later_round_is_no_end_of_the_run():
    calls = []

    def fades(x, weight, mixture, bias):
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return pausing(1e-3, x, weight, mixture, bias)

    found = measured({RESULTS: fades, WEIGHTS: partial(pausing, 1.4e-3)})
    assert found.way is WEIGHTS
    assert found.times.keys() == {WEIGHTS}


def test_where_nothing_fits_the_models_favourite_is_taken():
    found = measured(dict.fromkeys(THREE, too_large), {RESULTS: 3.0, WEIGHTS: 2.0, MATRIX: 1.0})
    assert (found.way, found.times) == (MATRIX, {})


def test_errors_of_a_way_surface():
    def wrong(x, weight, mixture, bias):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        measured({**THREE, MATRIX: wrong})


def test_what_falls_behind_at_first_is_not_tried_again():
    calls = []
    ways = {RESULTS: partial(pausing, 5e-2, calls=calls), WEIGHTS: partial(pausing, 2e-3)}
    found = measured(ways)
    assert found.way is WEIGHTS
    assert len(calls) == 2
    assert found.times[RESULTS].rounds == 1


def test_rounds_are_at_least_three_and_end_when_one_is_clearly_ahead():
    found = measured({RESULTS: partial(pausing, 2e-2), WEIGHTS: partial(pausing, 3e-2)})
    assert found.way is RESULTS
    assert 3 <= found.times[RESULTS].rounds <= race._MOST_ROUNDS
    assert found.times[RESULTS].minimum == pytest.approx(2e-2, rel=0.5)


def test_what_others_do_on_the_machine_is_not_counted():
    """Of one thread, the time in which it waits for a core is none of its own."""

    def kept_waiting(x, weight, mixture, bias):
        time.sleep(0.05)
        return pausing(1e-3, x, weight, mixture, bias)

    found = measured({RESULTS: kept_waiting, WEIGHTS: partial(pausing, 1e-2)})
    assert found.way is RESULTS
    assert found.times[RESULTS].minimum < 0.05


def test_a_long_tie_takes_three_rounds():
    slow = partial(pausing, 0.11)
    found = measured({RESULTS: slow, WEIGHTS: slow})
    assert {t.rounds for t in found.times.values()} == {3}


def times(**minima):
    return {Way(name): Timing(t, t, 3) for name, t in minima.items()}


def test_ties_go_to_the_first_of_the_ways():
    tied = times(results=1.02, weights=1.0, matrix=1.04)
    assert choice._fastest((MATRIX, RESULTS, WEIGHTS), tied, MATRIX) is RESULTS
    assert choice._fastest((WEIGHTS, RESULTS, MATRIX), tied, MATRIX) is WEIGHTS


def test_a_choice_in_words(caplog):
    found = Choice(MATRIX, "here", times(results=0.005, weights=0.00302, matrix=0.0021))
    assert str(found) == "here: matrix 2.1 ms; weights 3.02 ms, results 5 ms"
    assert str(Choice(MATRIX, "here")) == "here: matrix"
    with caplog.at_level(logging.INFO):
        said = str(measured(THREE))
    assert said in caplog.messages
    assert said.startswith("2 -> 3 channels, 8 x 8, batch 4, 2 kernels: weights ")


def test_a_choice_survives_a_checkpoint(tmp_path):
    """What a training goes on with is what it began with: plain values, exact to the last digit."""
    found = measured(THREE)
    torch.save(found.plain(), tmp_path / "state.pt")
    assert Choice.read(torch.load(tmp_path / "state.pt", weights_only=True)) == found
