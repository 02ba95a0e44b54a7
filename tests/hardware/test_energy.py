"""Joules per inference against meters whose power is known."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from nasfw.hardware import rapl
from nasfw.hardware.energy import Rapl, cpu_meter, per_inference
from nasfw.values import Unsupported

# Measures an inference on the stub's card; prints the Energy, the joules that each inference truly added,
# or why there is none, and the threads that are left.
CARD = """
import ctypes, json, sys, threading, time
from nasfw.hardware import energy

card, seconds, settings = json.loads(sys.argv[1])
stub = ctypes.CDLL("libnvidia-ml.so.1")
stub.card_worked.restype = ctypes.c_double
truth = []

def run():
    before = stub.card_worked()
    stub.card_work(1)
    time.sleep(seconds)
    stub.card_work(0)
    truth.append(stub.card_worked() - before)

said = {}
try:
    said |= vars(energy.per_inference(run, energy.gpu_meter(card), **settings))
except Exception as error:
    said["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(said | {"truth": truth, "threads": threading.active_count()}))
"""

QUICK = {"idle_seconds": 0.2, "seconds": 0.6}


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The folder of the stub's library."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to build the stub of NVML with")
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("nvml_stub.c")
    command = [
        "gcc",
        "-O2",
        "-shared",
        "-fPIC",
        "-o",
        folder / "libnvidia-ml.so.1",
        source,
        "-lm",
        "-lpthread",
    ]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def measure(library):
    """What CARD prints for each case: its arguments and the stub's variables; a few run at a time."""

    def measured(case):
        case = {"card": 0, "inference": 0.004, "idle": 70, "busy": 250} | case
        arguments = [case.pop("card"), case.pop("inference"), QUICK]
        done = subprocess.run(
            [sys.executable, "-c", CARD, json.dumps(arguments)],
            env=os.environ
            | {f"CARD_{name.upper()}": str(value) for name, value in case.items()}
            | {"LD_LIBRARY_PATH": str(library)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stderr == ""
        said = json.loads(done.stdout)
        assert said["threads"] == 1
        return said

    with ThreadPoolExecutor(4) as pool:
        yield lambda *cases: list(pool.map(measured, cases))


@pytest.mark.parametrize(("error", "expected"), [("0", "550.00.1"), ("9", "None")])
def test_the_driver_tells_its_version(library, error, expected):
    """Or nothing, where NVML cannot be initialised (9: the driver is not loaded)."""
    done = subprocess.run(
        [sys.executable, "-c", "from nasfw.hardware import nvml; print(nvml.driver())"],
        env=os.environ | {"LD_LIBRARY_PATH": str(library), "CARD_INIT": error},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == expected


def truth(energy):
    """The median over the blocks of the joules that each inference truly added."""
    joules = energy["truth"][-energy["repetitions"] :]
    return float(np.median(np.reshape(joules, (energy["blocks"], -1)).mean(axis=1)))


def check(energy, tolerance=0.02):
    print(
        f"{energy['joules'] / truth(energy) - 1:+.2%} of {truth(energy):.4g} J",
        energy["blocks"],
        energy["seconds"],
    )
    assert energy["joules"] == pytest.approx(truth(energy), rel=tolerance)
    assert energy["low"] <= energy["joules"] <= energy["high"]
    assert energy["blocks"] >= 3


def test_the_counter_gives_the_joules_that_inferences_added(measure):
    for energy in measure(
        {"shape": "ramp", "period": 0.005, "update": 0.06},
        {"shape": "square", "period": 0.003, "update": 0.02, "card": "GPU-known"},
        {"shape": "constant", "update": 0.02, "card": 1},
        # Updated often within an inference.
        {"shape": "ramp", "period": 0.3, "update": 0.05, "inference": 0.25},
    ):
        check(energy)
        assert energy["idle"] == pytest.approx(70, rel=0.02)
        assert (energy["meter"], energy["source"]) == ("NVIDIA Stub, NVML energy counter", "counter")


@pytest.mark.slow
def test_without_a_counter_power_is_summed_over_time(measure):
    common = {"energy": 3, "inference": 0.04}
    for energy in measure(
        {"shape": "constant"} | common,
        {"shape": "square", "period": 0.03} | common,
        # What it reads is the mean of the last 0.05 s.
        {"shape": "ramp", "period": 0.05, "mean": 0.05} | common,
    ):
        check(energy)
        assert (energy["meter"], energy["source"]) == ("NVIDIA Stub, NVML power reading", "power")


def test_what_cannot_be_told_from_idle_is_refused(measure):
    refusal = "Unsupported: NVIDIA Stub, NVML energy counter: too little energy to be told from idle"
    for said in measure({"busy": 0}, {"busy": 0.3}, {"busy": -30}):
        assert said["error"].startswith(refusal)
        assert "try a larger batch" in said["error"]


def test_a_card_that_cannot_be_metered_says_why_and_what_helps(measure):
    expected = [
        ({"card": 2}, ["no NVIDIA card 2", "NVML shows 2, counted from 0"]),
        ({"card": -1}, ["no NVIDIA card -1"]),
        ({"card": "GPU-other"}, ["NVIDIA card GPU-other", "nvidia-smi -L lists the cards"]),
        ({"init": 9}, ["Driver Not Loaded", "load the NVIDIA driver"]),
        ({"init": 18}, ["mismatch", "restart the machine"]),
        ({"energy": 4, "power": 4}, ["Insufficient Permissions", "join the group that owns /dev/nvidia*"]),
        ({"energy": 3, "power": 3}, ["Energy", "Power", "Not Supported", "take another"]),
    ]
    for said, (_, words) in zip(measure(*(case for case, _ in expected)), expected, strict=True):
        assert said["error"].startswith("Unsupported: ")
        assert [word for word in words if word not in said["error"]] == [], said["error"]


@pytest.mark.parametrize("energy", [0, 3])
def test_a_card_that_is_lost_half_way_ends_the_measurement(measure, energy):
    idle, working = measure(
        {"energy": energy, "reads": 20, "lost": 15},
        {"energy": energy, "works": 80, "lost": 999},
    )
    assert re.match("Unsupported: NVIDIA Stub: .* GPU is lost; the card has dropped", idle["error"])
    assert re.match("Unsupported: NVIDIA Stub: .* Unknown Error", working["error"])
    assert len(idle["truth"]) == 1
    assert len(working["truth"]) >= 80


def test_a_failing_inference_surfaces_and_leaves_no_thread(measure):
    for said in measure({"inference": "long"}, {"inference": "long", "energy": 3}):
        assert said["error"].startswith("TypeError")


METER = """
import sys
from nasfw.hardware.energy import gpu_meter
from nasfw.values import Unsupported

if sys.argv[1:]:
    sys.modules["pynvml"] = None
try:
    gpu_meter(0)
except Unsupported as error:
    print(error)
"""


def refusal(folder, *arguments):
    command = [sys.executable, "-c", METER, *arguments]
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_without_the_package_the_extra_is_named(tmp_path):
    assert 'nvidia-ml-py: pip install "nasfw[gpu]"' in refusal(tmp_path, "without")


def test_without_the_library_the_driver_is_asked_for(tmp_path):
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    # Found before any true one, and no library.
    (tmp_path / "libnvidia-ml.so.1").touch()
    said = refusal(tmp_path)
    assert "NVML Shared Library Not Found" in said
    assert "install the NVIDIA driver" in said


RANGE = 262_143_328_850


class Powercap:
    """A powercap tree whose counters advance every millisecond, near their end at first.

    They are written when they are about to be read: a thread that did it would be late on a busy machine.
    """

    # Name, watts at rest and how many more at work; those counted are packages and memory.
    DOMAINS: ClassVar = {
        "intel-rapl:0": ("package-0", 20, 35),
        "intel-rapl:0:0": ("core", 15, 30),
        "intel-rapl:0:1": ("dram", 2, 5),
        "intel-rapl:1": ("package-1", 18, 10),
        "intel-rapl:2": ("psys", 60, 80),
        "intel-rapl-mmio:0": ("package-0", 20, 35),
    }
    IDLE, BUSY = 40, 50

    def __init__(self, root):
        self.root = root
        self.begun = time.perf_counter()
        self.worked, self.since = 0.0, None
        for folder, (name, _, _) in self.DOMAINS.items():
            (root / folder).mkdir()
            (root / folder / "name").write_text(f"{name}\n")
            (root / folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
        self.files = [os.open(root / folder / "energy_uj", os.O_RDWR | os.O_CREAT) for folder in self.DOMAINS]
        self.write()

    def write(self):
        now = self.begun + math.floor(1e3 * (time.perf_counter() - self.begun)) / 1e3
        worked = self.worked + (max(0.0, now - self.since) if self.since else 0)
        for file, (_, idle, busy) in zip(self.files, self.DOMAINS.values(), strict=True):
            joules = idle * (now - self.begun) + busy * worked
            os.pwrite(file, b"%020d\n" % (int(RANGE - 8e6 + 1e6 * joules) % RANGE), 0)

    def work(self, seconds):
        """Joules that the work added."""
        self.since = begun = time.perf_counter()
        time.sleep(seconds)
        taken = time.perf_counter() - begun
        self.worked, self.since = self.worked + taken, None
        return self.BUSY * taken

    def shown(self, folder):
        return int((self.root / folder / "energy_uj").read_text())


@pytest.fixture
def powercap(tmp_path, monkeypatch):
    tree = Powercap(tmp_path)
    number = rapl._number

    def current(file):
        if file.name == "energy_uj":
            tree.write()
        return number(file)

    monkeypatch.setattr(rapl, "_number", current)
    yield tree
    for file in tree.files:
        os.close(file)


def test_a_processors_counter_gives_the_joules_that_inferences_added(powercap):
    begun, joules = powercap.shown("intel-rapl:0"), []
    energy = per_inference(lambda: joules.append(powercap.work(0.005)), cpu_meter(powercap.root), **QUICK)
    # It went through a wraparound.
    assert powercap.shown("intel-rapl:0") < begun
    check(vars(energy) | {"truth": joules})
    assert energy.idle == pytest.approx(Powercap.IDLE, rel=0.02)
    assert (energy.meter, energy.source) == ("package-0 + dram + package-1, RAPL", "counter")


def test_what_runs_on_after_its_start_is_waited_for(powercap):
    started, joules = [], []

    def finish():
        joules.extend(powercap.work(0.005) for _ in started)
        started.clear()

    energy = per_inference(lambda: started.append(1), cpu_meter(powercap.root), synchronise=finish, **QUICK)
    check(vars(energy) | {"truth": joules})


def test_a_slow_first_inference_does_not_shorten_the_blocks(powercap):
    times = iter([0.4])
    energy = per_inference(lambda: powercap.work(next(times, 0.005)), cpu_meter(powercap.root), **QUICK)
    assert energy.repetitions >= 8 * energy.blocks


def test_blocks_end_early_only_if_their_interval_is_narrow(powercap):
    meter = cpu_meter(powercap.root)
    assert per_inference(lambda: powercap.work(0.005), meter, width=100.0, **QUICK).blocks == 3
    assert per_inference(lambda: powercap.work(0.005), meter, width=0.0, **QUICK).blocks > 3


def test_a_counter_that_vanishes_half_way_ends_the_measurement(powercap):
    runs = []

    def run():
        runs.append(powercap.work(0.005))
        if len(runs) == 15:
            (powercap.root / "intel-rapl:0:1/energy_uj").unlink()

    with pytest.raises(Unsupported, match=r"intel-rapl:0:1/energy_uj: No such file.*is gone"):
        per_inference(run, cpu_meter(powercap.root), width=0.0, **QUICK)
    assert len(runs) >= 15


@pytest.fixture
def still(tmp_path):
    """A powercap tree that does not advance."""
    for file in Powercap(tmp_path).files:
        os.close(file)
    return tmp_path


def test_packages_and_memory_count_once_across_a_wraparound(still):
    def show(**values):
        for name, value in values.items():
            (still / name.replace("_", ":").replace("intel", "intel-rapl") / "energy_uj").write_text(
                f"{value}\n"
            )

    show(intel_0=RANGE - 5, intel_0_1=1000, intel_1=0)
    with Rapl(still) as meter:
        # Cores are part of their package, which is part of the system.
        show(intel_0=7, intel_0_1=1300, intel_1=4000, intel_0_0=50_000, intel_2=60_000)
        assert meter.joules() == pytest.approx((12 + 300 + 4000) / 1e6)
        show(intel_0=RANGE - 1)
        assert meter.joules() == pytest.approx((5 + RANGE - 1 + 300 + 4000) / 1e6)
        show(intel_0=0, intel_1=3999)
        assert meter.joules() == pytest.approx((5 + RANGE + 300 + RANGE + 3999) / 1e6)


def test_a_counter_that_stands_still_is_refused(still, monkeypatch):
    monkeypatch.setattr("nasfw.hardware.energy._PATIENCE", 0.05)
    with pytest.raises(Unsupported, match="stands still"):
        per_inference(lambda: None, cpu_meter(still), **QUICK)


def test_a_counter_left_unread_may_have_wrapped_twice(still):
    # At 1 kW, 1 J lasts a millisecond.
    (still / "intel-rapl:0/max_energy_range_uj").write_text("1000000")
    meter = Rapl(still)
    time.sleep(0.01)
    with pytest.raises(Unsupported, match=r"package-0: unread for .* wrapped twice"):
        meter.joules()
    with meter:
        assert meter.joules() == 0


def test_only_linux_shows_a_processors_energy(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(Unsupported, match="on Linux only, not on darwin"):
        cpu_meter()


def test_a_machine_without_counters_says_so(tmp_path):
    for root in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(Unsupported, match=rf"no {root}/.* virtual machines and containers.*modprobe"):
            cpu_meter(root)


def test_a_machine_that_counts_no_package_says_what_it_counts(tmp_path):
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0/name").write_text("psys\n")
    with pytest.raises(Unsupported, match="no processor package's counter, only intel-rapl:0"):
        cpu_meter(tmp_path)


def test_a_broken_counter_is_named(still):
    (still / "intel-rapl:1/energy_uj").write_text("much")
    with pytest.raises(Unsupported, match=r"intel-rapl:1/energy_uj holds 'much', not a number"):
        cpu_meter(still)
    (still / "intel-rapl:1/energy_uj").unlink()
    with pytest.raises(Unsupported, match=r"intel-rapl:1/energy_uj: No such file"):
        cpu_meter(still)


@contextmanager
def ordinary_user():
    """The rights of a user that is not root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_counter_for_root_only_says_what_root_can_do():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        for file in Powercap(root).files:
            os.close(file)
        (root / "intel-rapl:0/energy_uj").chmod(0o400 if os.geteuid() == 0 else 0)
        with (
            ordinary_user(),
            pytest.raises(Unsupported, match=r"only root may read .*: sudo chmod o\+r /sys/class"),
        ):
            cpu_meter(root)
