"""The benchmarks of the aggregated convolution, in sections: sweeps, layers, networks, memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from nasfw.benchmarks import layers, networks
from nasfw.benchmarks.bench import Bench, Scale
from nasfw.benchmarks.findings import Report
from nasfw.benchmarks.memory import WHAT
from nasfw.benchmarks.timing import using
from nasfw.hardware.machine import compute_name, environment

SECTIONS: Mapping[str, Callable[[Bench], None]] = {
    "sweeps": layers.sweeps,
    "layers": layers.layers,
    "networks": networks.networks,
    "memory": networks.peaks,
}


def header(scale: Scale, threads: Sequence[int], compute: str, depthwise: bool) -> dict[str, Any]:
    """Under which conditions a report is made, as JSON values."""
    return {
        "benchmark": "aggconv",
        "machine": compute_name(compute, max(threads)),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        "threads": list(threads),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "depthwise": depthwise,
        "memory_means": WHAT,
        "scale": asdict(scale),
        "environment": environment(),
    }


def fill(
    report: Report,
    sections: Sequence[str],
    scale: Scale,
    threads: Sequence[int],
    compute: str,
    depthwise: bool,
) -> None:
    """Measure the ``sections`` with every number of threads, and write the report as it grows."""
    torch.manual_seed(0)
    report.save()
    for i, count in enumerate(threads):
        bench = Bench(scale, report, count, compute, depthwise)
        for name in sections:
            # Memory hardly depends on the number of threads.
            if i == 0 or name != "memory":
                with using(count):
                    SECTIONS[name](bench)
