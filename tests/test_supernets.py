"""What is kept of a supernet's training."""

import json
import subprocess
import sys
import time

import pytest
import torch

from nasfw import supernets
from nasfw.contracts import Supernet
from nasfw.hardware.machine import peak_memory
from nasfw.supernets import FILE, Training


class Layered(Supernet):
    """Says how its layer is computed, and takes its time."""

    said = {"conv": "32 x 32: matrix 2.1 ms"}  # noqa: RUF012

    def forward(self, x, mixture):
        time.sleep(0.01)
        return x

    def weights(self, architecture):
        return {}

    def details(self):
        return self.said


class Silent(Layered):
    details = Supernet.details


def trained(supernet, folder, steps):
    clock = supernets.started("cpu")
    for _ in range(steps):
        supernet(torch.zeros(1), [])
        clock.tick()
    supernets.ended(supernet, clock, "cpu", folder)


def test_a_training_is_kept_with_layers_time_and_memory(tmp_path):
    trained(Layered(), tmp_path, 5)
    kept = Training.read(tmp_path)
    assert kept.layers == Layered.said
    assert kept.step >= 0.01
    assert 0 < kept.memory <= peak_memory()
    assert "process" in kept.remark
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def test_a_supernet_that_says_nothing_leaves_its_time(tmp_path):
    trained(Silent(), tmp_path, 1)
    assert list(tmp_path.iterdir()) == []
    assert Training.read(tmp_path) is None
    trained(Silent(), tmp_path, 3)
    assert Training.read(tmp_path).step >= 0.01
    assert Training.read(tmp_path).layers == {}


def test_the_first_step_is_not_timed(tmp_path):
    """It holds what is prepared once: with it alone, the time per step is not known."""
    trained(Layered(), tmp_path, 1)
    assert Training.read(tmp_path).step is None


def test_what_was_done_before_a_restart_keeps_its_figures(tmp_path):
    trained(Layered(), tmp_path, 5)
    before = (tmp_path / FILE).read_text()
    trained(Layered(), tmp_path, 0)
    assert (tmp_path / FILE).read_text() == before
    trained(Layered(), tmp_path / "new", 0)
    assert Training.read(tmp_path / "new").layers == Layered.said


def test_a_system_that_does_not_tell_its_memory_is_said_to_be_one(tmp_path, monkeypatch):
    monkeypatch.setattr(supernets, "peak_memory", lambda: 0)
    trained(Layered(), tmp_path, 2)
    kept = Training.read(tmp_path)
    assert kept.memory is None
    assert "does not tell" in kept.remark


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "3",
        '{"layers": 3}',
        '{"other": 1}',
        '{"layers": {"a": 1}}',
        '{"step": "x"}',
        '{"step": NaN}',
    ],
)
def test_a_damaged_file_is_none(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    assert Training.read(tmp_path) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine")
def test_memory_on_a_card_is_that_of_the_training(tmp_path):
    torch.zeros(2**24, device="cuda")
    supernet = Layered()
    clock = supernets.started("cuda:0")
    for _ in range(2):
        supernet(torch.zeros(2**20, device="cuda"), [])
        clock.tick()
    supernets.ended(supernet, clock, "cuda:0", tmp_path)
    kept = Training.read(tmp_path)
    assert 2**22 <= kept.memory < 2**26
    assert "card" in kept.remark
    assert json.loads((tmp_path / FILE).read_text())["memory"] == kept.memory


def test_peak_memory_is_that_of_the_process_alone():
    """A small process does not inherit the peak of the one that started it."""
    weight = bytearray(400 * 2**20)
    program = (
        "from nasfw.hardware.machine import held_memory, peak_memory; print(held_memory(), peak_memory())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    held, peak = map(int, done.stdout.split())
    assert 0 < held <= peak
    if sys.platform == "linux":
        assert peak < len(weight)
