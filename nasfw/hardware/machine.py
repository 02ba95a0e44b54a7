"""The name and size of the machine that a run uses."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from nasfw.values import digest

_PACKAGES = ("nasfw", "torch", "numpy", "scipy", "scikit-learn", "onnx", "onnxruntime")


@functools.cache
def processor() -> str:
    """The processor's name as its maker prints it, or the best that the system tells."""
    for line in cpuinfo().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return " ".join(value.split())
    if sys.platform == "darwin":
        return _output(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.machine()
    return platform.processor() or platform.machine()


@functools.cache
def cpuinfo() -> str:
    """What Linux tells of its processors; nothing elsewhere."""
    return _read("/proc/cpuinfo")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_politely() -> None:
    """Let waiting threads sleep soon; call before torch is imported. Does nothing if the user decided.

    OpenMP threads wait by spinning. If another process wants a core, a training step whose threads spin for
    each other can take a hundred times longer than on one thread; but if they sleep at once, waking them
    takes a third of a small step. So they spin for some microseconds first, where the library (GNU's, of
    torch for Linux) has a setting for that, and sleep at once elsewhere.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="10000")


def compute_name(compute: str, threads: int) -> str:
    """The real name of where training runs: the processor with the threads in use, or the graphics card."""
    if compute.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(compute)
    return f"{processor()}, {threads} of {cores()} cores"


@functools.cache
def variant() -> str:
    """Eight digits that tell apart processors of one name, where Linux shows their model and features."""
    wanted = ("cpu family", "model", "stepping", "cache size", "flags")
    lines = dict.fromkeys(line for line in cpuinfo().splitlines() if line.partition(":")[0].strip() in wanted)
    return digest(list(lines))[:8]


def system() -> str:
    """Operating system and architecture."""
    return f"{platform.system()} {platform.machine()}"


def environment() -> dict[str, Any]:
    """What a reader needs to judge a run: versions, processor, and the state of the git checkout."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": cores(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "git": {
            "commit": _output(["git", "rev-parse", "HEAD"]),
            "changes": len(_output(["git", "status", "--porcelain"]).splitlines()),
        },
    }


def conditions() -> dict[str, Any]:
    """What may disturb a measurement now, as far as the system tells: load, governor, temperature in °C."""
    found: dict[str, Any] = {}
    if hasattr(os, "getloadavg"):
        found["load"] = round(os.getloadavg()[0], 2)
    governor = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor:
        found["governor"] = governor
    zones = [_read(str(zone)) for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*/temp"))]
    degrees = [int(text) / 1000 for text in zones if text.lstrip("-").isdigit()]
    if degrees:
        found["temperature"] = max(degrees)
    return found


def _read(file: str) -> str:
    """The text of a file; nothing if it cannot be read."""
    try:
        return Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def peak_memory() -> int:
    """Most bytes of memory that this process has held so far; 0 where the system does not say."""
    if peak := _status("VmHWM:"):
        return peak
    try:
        import resource
    except ImportError:
        return 0
    # Elsewhere than on Linux: there this figure begins with that of the parent process.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def held_memory() -> int:
    """Bytes of memory that this process holds now; its peak where the system says no more."""
    return _status("VmRSS:") or peak_memory()


def _status(name: str) -> int:
    """Bytes that Linux states on the line ``name`` of the process's status; 0 if there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
