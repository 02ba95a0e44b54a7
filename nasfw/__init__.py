"""Neural architecture search: from a task to a Pareto front of trained networks."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "nasfw.api": ["load", "run", "show"],
    "nasfw.choosing": ["Choice", "pick"],
    "nasfw.contracts": [
        "Candidate",
        "Device",
        "Evaluate",
        "Executor",
        "Mixture",
        "Objective",
        "Problem",
        "SearchSpace",
        "Strategy",
        "Supernet",
        "Task",
        "Trial",
    ],
    "nasfw.plugins": ["Registry", "hookimpl"],
    "nasfw.results": ["Network", "Result"],
    "nasfw.tasks.arrays": ["ArraysTask"],
    "nasfw.tasks.dataset": ["DatasetTask"],
    "nasfw.values": [
        "Architecture",
        "CostTable",
        "Diverged",
        "Measured",
        "Option",
        "Recipe",
        "Record",
        "Unsupported",
        "UsageError",
        "Workload",
    ],
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``nasfw --help`` does not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'nasfw' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
