"""The meters of processors: RAPL, as Linux shows it."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Self

from nasfw.hardware.meters import Meter
from nasfw.values import Unsupported

POWERCAP = Path("/sys/class/powercap")


def cpu_meter(root: Path = POWERCAP) -> Meter:
    """The meter of all processor packages and their memory: RAPL, as Linux shows it below ``root``."""
    if sys.platform != "linux":
        raise Unsupported(f"a processor's energy is read on Linux only, not on {sys.platform}")
    return Rapl(root)


class Rapl(Meter):
    """The energy counters of all processor packages, and of memory where it is counted apart."""

    source = "counter"
    # The unit of most processors: 2^-14 J, and less for memory.
    resolution = 2**-14
    settle = 0.05

    def __init__(self, root: Path = POWERCAP) -> None:
        self._domains = [_Domain(folder) for folder in _domain_folders(root)]
        self.name = f"{' + '.join(domain.name for domain in self._domains)}, RAPL"

    def joules(self) -> float:
        return sum(domain.joules() for domain in self._domains)

    def __enter__(self) -> Self:
        for domain in self._domains:
            domain.begin()
        return self


def _domain_folders(root: Path) -> list[Path]:
    """Folders of the packages and of memory; cores are part of a package, and packages of psys."""
    folders = sorted(root.glob("intel-rapl:*"))
    if not folders:
        raise Unsupported(
            f"no {root}/intel-rapl:*: this machine shows no energy counters (RAPL), as most virtual "
            "machines and containers; on other machines try: sudo modprobe intel_rapl_msr"
        )
    wanted = {r"intel-rapl:\d+": "package", r"intel-rapl:\d+:\d+": "dram"}
    found = [
        folder
        for folder in folders
        for pattern, name in wanted.items()
        if re.fullmatch(pattern, folder.name) and _line(folder / "name").startswith(name)
    ]
    if not found:
        raise Unsupported(
            f"{root} holds no processor package's counter, only {', '.join(f.name for f in folders)}"
        )
    return found


class _Domain:
    """One energy counter of a powercap tree, made endless across its wraparounds."""

    def __init__(self, folder: Path) -> None:
        self.name = _line(folder / "name")
        self._file = folder / "energy_uj"
        self._range = _number(folder / "max_energy_range_uj")
        self._total = 0
        self.begin()

    def begin(self) -> None:
        """Forget the time since the last reading, in which the counter may have wrapped more than once."""
        self._past, self._seen = _number(self._file), time.perf_counter()

    def joules(self) -> float:
        value, now = _number(self._file), time.perf_counter()
        if (now - self._seen) * 1e9 > self._range:
            raise Unsupported(
                f"{self.name}: unread for {now - self._seen:.0f} s, its counter may have wrapped twice"
            )
        self._total += value - self._past + (self._range if value < self._past else 0)
        self._past, self._seen = value, now
        return self._total / 1e6


def _number(file: Path) -> int:
    text = _line(file)
    try:
        return int(text)
    except ValueError as error:
        raise Unsupported(f"{file} holds {text!r}, not a number") from error


def _line(file: Path) -> str:
    try:
        return file.read_text().strip()
    except PermissionError as error:
        raise Unsupported(
            f"only root may read {file}: run as root, or until the next start of the machine: "
            f"sudo chmod o+r {POWERCAP}/intel-rapl:*/energy_uj"
        ) from error
    except OSError as error:
        raise Unsupported(
            f"{file}: {error.strerror}; the energy counter is gone, or a container hides it"
        ) from error
