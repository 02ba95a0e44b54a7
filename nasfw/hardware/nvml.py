"""The meters of NVIDIA graphics cards, as the library NVML reads them."""

from __future__ import annotations

import atexit
import importlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import ModuleType
from typing import Self

from nasfw.hardware.meters import Meter
from nasfw.values import Unsupported


def gpu_meter(card: int | str) -> Meter:
    """The meter of an NVIDIA card: its energy counter, else its power reading summed over time.

    ``card`` is NVML's index, which knows nothing of CUDA_VISIBLE_DEVICES and of CUDA's order, or a UUID.
    """
    found = _Card(card)
    reasons = []
    for kind in (NvmlCounter, NvmlPower):
        try:
            return kind(found)
        except Unsupported as error:
            reasons.append(str(error))
    raise Unsupported("; ".join(dict.fromkeys(reasons)))


class NvmlCounter(Meter):
    """The energy counter of an NVIDIA card (Volta and later)."""

    source = "counter"
    resolution = 1e-3
    settle = 0.25

    def __init__(self, card: _Card) -> None:
        self.name = f"{card.name}, NVML energy counter"
        self._card = card
        self.joules()

    def joules(self) -> float:
        return self._card.read("TotalEnergyConsumption") / 1000


class NvmlPower(Meter):
    """The power reading of an NVIDIA card, summed over time by the trapezoidal rule in a thread."""

    source = "power"
    interval = 1e-3
    resolution = 1e-3 * interval
    # Most cards since Ampere give the mean of the last second.
    settle = 1.0

    def __init__(self, card: _Card) -> None:
        self.name = f"{card.name}, NVML power reading"
        self._card = card
        self._total = 0.0
        self._failure: Exception | None = None
        self._stop = threading.Event()
        self._watts()

    def joules(self) -> float:
        if self._failure is not None:
            raise self._failure
        return self._total

    def __enter__(self) -> Self:
        self._failure = None
        self._stop.clear()
        self._thread = threading.Thread(target=self._sum, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sum(self) -> None:
        try:
            share, past, before = 0.0, self._watts(), time.perf_counter()
            # At even distances, samples could keep step with inferences and always meet the same moment.
            while not self._stop.wait((0.5 + share) * self.interval):
                share = (share + 0.618) % 1
                watts, now = self._watts(), time.perf_counter()
                self._total += (past + watts) / 2 * (now - before)
                past, before = watts, now
        except Exception as error:
            self._failure = error

    def _watts(self) -> float:
        return self._card.read("PowerUsage") / 1000


class _Card:
    """An NVIDIA card as NVML's library shows it; every failure of the library is Unsupported."""

    def __init__(self, card: int | str) -> None:
        nvml = self._nvml = _nvml()
        self.name = f"NVIDIA card {card}"
        with _explained(self.name, nvml):
            if isinstance(card, str):
                self._handle = nvml.nvmlDeviceGetHandleByUUID(card)
            else:
                count = nvml.nvmlDeviceGetCount()
                if not 0 <= card < count:
                    raise Unsupported(f"there is no {self.name}: NVML shows {count}, counted from 0")
                self._handle = nvml.nvmlDeviceGetHandleByIndex(card)
            self.name = nvml.nvmlDeviceGetName(self._handle)

    def read(self, quantity: str) -> int:
        with _explained(f"{self.name}: {quantity}", self._nvml):
            value: int = getattr(self._nvml, f"nvmlDeviceGet{quantity}")(self._handle)
        return value


def driver() -> str | None:
    """The version of the driver, if NVML is there to tell."""
    try:
        nvml = _nvml()
        with _explained("NVML", nvml):
            return str(nvml.nvmlSystemGetDriverVersion())
    except Unsupported:
        return None


@cache
def _nvml() -> ModuleType:
    """The library's module, initialised until the process ends."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as error:
        raise Unsupported(
            'a graphics card\'s energy is read by the package nvidia-ml-py: pip install "nasfw[gpu]"'
        ) from error
    with _explained("NVML", nvml):
        nvml.nvmlInit()

    @atexit.register
    def shut_down() -> None:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()

    return nvml


@contextmanager
def _explained(subject: str, nvml: ModuleType) -> Iterator[None]:
    """Turn the library's errors into Unsupported with a remedy."""
    try:
        yield
    except nvml.NVMLError as error:
        kind = type(error).__name__.removeprefix("NVMLError_")
        remedy = _REMEDIES.get(kind, "see what nvidia-smi says")
        raise Unsupported(f"{subject}: {error}; {remedy}") from error


_REMEDIES = {
    "LibraryNotFound": "install the NVIDIA driver, and start a container with its graphics cards",
    "DriverNotLoaded": "load the NVIDIA driver and see that nvidia-smi works",
    "LibRmVersionMismatch": "the driver was replaced while loaded: restart the machine",
    "NoPermission": "join the group that owns /dev/nvidia*, or run as root",
    "NotSupported": "this card does not tell (virtual cards and parts of a card never do): take another",
    "FunctionNotFound": "update the NVIDIA driver",
    "NotFound": "nvidia-smi -L lists the cards",
    "GpuIsLost": "the card has dropped off the bus: restart the machine",
}
