"""What is said to the system about threads, before torch is imported."""

import os

import pytest

from nasfw.hardware.machine import share_politely

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in NAMES:
        # Set first, so that what is set later is taken back as well.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_threads_spin_briefly_and_then_sleep():
    share_politely()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    # Between the library's "at once" and its "for as long as it takes".
    assert 0 < int(os.environ["GOMP_SPINCOUNT"]) < 300_000


@pytest.mark.parametrize("name", NAMES)
def test_what_the_user_decided_stays(monkeypatch, name):
    monkeypatch.setenv(name, "7")
    share_politely()
    assert {n: os.environ[n] for n in NAMES if n in os.environ} == {name: "7"}
