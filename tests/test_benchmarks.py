"""The baseline and the measuring of the benchmarks, and their command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from nasfw.benchmarks import memory, subjects, timing
from nasfw.benchmarks.findings import Check
from nasfw.benchmarks.published import PublishedConv, PublishedSupernet, published
from nasfw.benchmarks.timing import Clock, Spread, Timing
from nasfw.spaces.aggconv import AggConv
from nasfw.spaces.aggregated import AggregatedConv
from nasfw.spaces.kernels import Convolution, Layout, convolution_of

KERNELS = ((3, 1), (3, 3), (5, 1), (5, 2), (5, 15), (9, 1), (9, 7))
CASES = [
    (nn.Conv1d(2, 3, 3, padding=1), (12,)),
    (nn.Conv1d(2, 3, 3, padding=1, stride=2), (13,)),
    (nn.Conv1d(4, 4, 7, padding=3, groups=4), (11,)),
    (nn.Conv1d(2, 2, 3, padding=1, stride=2, groups=2, bias=False), (100,)),
    (nn.Conv2d(2, 3, 3, padding=1), (8, 8)),
    (nn.Conv2d(2, 3, 3, padding=1, stride=2, bias=False), (8, 7)),
    (nn.Conv2d(3, 3, 3, padding=1, groups=3), (9, 6)),
    (nn.Conv2d(3, 3, 3, padding=1, stride=2, groups=3), (9, 6)),
]


def layout_of(module: nn.Module, size: tuple[int, ...]) -> Layout:
    convolution = convolution_of(module)
    assert convolution is not None
    return Layout(convolution, tuple(dict.fromkeys([*KERNELS, convolution.own])), (size,))


@pytest.mark.parametrize(("module", "size"), CASES)
def test_the_published_layer_equals_ours(module, size):
    layout = layout_of(module, size)
    ours = AggregatedConv(layout).double()
    nn.init.normal_(ours.weight)
    theirs = published(ours)
    x = torch.randn(2, layout.convolution.inputs, *size, dtype=torch.float64)
    ours.mixture = theirs.mixture = torch.softmax(torch.randn(len(layout.kernels), dtype=torch.float64), 0)
    torch.testing.assert_close(theirs(x), ours(x), rtol=0, atol=1e-12)
    single = AggregatedConv(layout)
    single.load_state_dict(ours.state_dict())
    baseline = published(single)
    single.mixture = baseline.mixture = ours.mixture.float()
    torch.testing.assert_close(baseline(x.float()), single(x.float()), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("module", "size"), CASES)
def test_gradients_of_the_published_layer_equal_ours(module, size):
    layout = layout_of(module, size)
    ours = AggregatedConv(layout).double()
    theirs = published(ours)
    gradients = []
    x = torch.randn(2, layout.convolution.inputs, *size, dtype=torch.float64, requires_grad=True)
    p = torch.rand(len(layout.kernels), dtype=torch.float64, requires_grad=True)
    for layer in (ours, theirs):
        layer.mixture = p
        gradients.append(torch.autograd.grad(layer(x).square().sum(), [x, p]))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_one_option_of_the_published_layer_is_that_dilated_convolution():
    layer = PublishedConv(Convolution(1, 2, 3, (3, 1), padding=(1, 1)), KERNELS).double()
    x = torch.randn(2, 2, 20, dtype=torch.float64)
    for i, (k, d) in enumerate(KERNELS):
        layer.mixture = torch.eye(len(KERNELS), dtype=torch.float64)[i]
        plain = torch.nn.functional.conv1d(x, layer.weights[i], padding=(k - 1) * d // 2, dilation=d)
        torch.testing.assert_close(layer(x), plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("depthwise", [False, True])
def test_the_published_supernet_equals_ours(depthwise):
    task = subjects.Shapes((3, 8, 8), (4,), 2)
    space = AggConv(task, "wrn", depth=10, channels=2, depthwise=depthwise, preset="baby")
    torch.manual_seed(0)
    ours = space.supernet().double()
    torch.manual_seed(0)
    theirs = PublishedSupernet(space).double()
    mixture = [torch.softmax(torch.randn(len(o), dtype=torch.float64), 0) for o in space.decisions.values()]
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(theirs(x, mixture), ours(x, mixture), rtol=0, atol=1e-12)


def test_the_published_layer_refuses_kernels_without_a_centre():
    convolution = Convolution(1, 2, 2, (3, 1), padding=(1, 1))
    with pytest.raises(ValueError, match="centre"):
        PublishedConv(convolution, ((3, 1), (4, 1)))
    with pytest.raises(ValueError, match="size"):
        PublishedConv(Convolution(1, 2, 2, (3, 1)), ((3, 1),))


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 1.0, 2.5])
def test_the_slope_of_a_power_law_is_its_exponent(exponent):
    x = [1.0, 4.0, 9.0, 49.0]
    assert timing.slope(x, [3.0 * v**exponent for v in x]) == pytest.approx(exponent, abs=1e-12)


def test_a_power_law_goes_on_and_growth_is_at_least_proportional():
    known = [(1.0, 2.0), (2.0, 8.0)]
    assert timing.outlook(known, 4.0) == pytest.approx(32.0)
    assert timing.outlook(known[:1], 3.0) == pytest.approx(6.0)
    assert timing.outlook([(1.0, 2.0), (2.0, 2.0)], 4.0) == pytest.approx(4.0)
    assert timing.outlook([], 4.0) == 0.0


def test_the_spread_has_median_and_quartiles():
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0, 5)


def test_ratios_compare_rounds_with_the_same_round():
    """A round that is slow for all says nothing about the ratio."""
    assert Timing((2.0, 20.0, 2.0)).over(Timing((1.0, 10.0, 1.0))) == Spread(2.0, 2.0, 2.0, 3)


def test_passes_take_turns_and_slow_ones_are_left_out():
    now, order = [0.0], []

    def taking(name: str, seconds: float) -> timing.Pass:
        def run() -> None:
            order.append(name)
            now[0] += seconds

        return run

    passes = {"a": taking("a", 1.0), "b": taking("b", 2.0), "slow": taking("slow", 9.0)}
    timings, skipped = timing.interleaved(passes, 3, Clock("counted", lambda: now[0]), limit=5.0)
    assert timings == {"a": Timing((1.0,) * 3), "b": Timing((2.0,) * 3)}
    assert skipped == {"slow": "took 9 s a pass"}
    assert order[-6:] == ["a", "b", "b", "a", "a", "b"]


def test_a_check_is_kept_on_its_side_of_the_bound():
    value = Spread(2.0, 1.0, 3.0, 7)
    assert [Check("x", value, "at most", b, 1).kept for b in (1.9, 2.0)] == [False, True]
    assert [Check("x", value, "at least", b, 1).kept for b in (2.0, 2.1)] == [True, False]


@pytest.mark.slow
def test_the_footprint_is_of_a_process_of_its_own():
    """What the process that asks holds does not count."""
    ballast = bytearray(2_000_000_000)
    task = {"input_shape": [1, 16], "output_shape": [3], "batch": 2}
    subject = {**task, "kind": "backbone", "settings": {"backbone": "wrn1d", "channels": 2}}
    small = memory.footprint(subject, 1, "cpu")
    assert 0 <= small.net < 100_000_000
    assert small.before <= small.peak < len(ballast)


def run_benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nasfw.benchmarks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no benchmark is named"),
        (["agconv"], "no benchmark 'agconv'"),
        (["aggconv", "--only", "layer"], "no section 'layer'"),
        (["aggconv", "--threads", "0"], "threads '0' are not possible"),
        (["aggconv", "--compute", "tpu"], "compute 'tpu' is not possible"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(arguments, says):
    done = run_benchmarks(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_quick_run_writes_findings_and_figures(tmp_path: Path):
    done = run_benchmarks("aggconv", "--quick", "--only", "sweeps", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert {f["section"] for f in found["findings"]} == {"sweeps"}
    assert all(way["seconds"]["samples"] >= 7 for f in found["findings"] for way in f["ways"].values())
    assert {c["what"] for c in found["checks"]} == {
        "time of 49 kernels, times that of 4",
        "exponent of growth with the length",
    }
    for name in ("kernels.png", "length.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_an_interrupt_keeps_what_was_measured(tmp_path: Path):
    arguments = ["aggconv", "--quick", "--only", "sweeps", "--out", str(tmp_path)]
    # A test runner in the background may have been started with interrupts switched off.
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"from nasfw.benchmarks.__main__ import main; main({arguments!r})"
    )
    file = tmp_path / "results.json"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (file.exists() and json.loads(file.read_text())["findings"]):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert "stopped" in said
    assert json.loads(file.read_text())["findings"][0]["case"] == "number of kernels 1"
    assert (tmp_path / "kernels.png").exists()
