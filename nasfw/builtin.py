"""Registers what ships with nasfw, through the hook that everybody uses.

The classes are imported when they are first needed, so that a misspelt name is found out at once.
"""

from __future__ import annotations

from nasfw.plugins import Registry, hookimpl

SHIPPED = {
    "task": {
        "arrays": "nasfw.tasks.arrays:ArraysTask",
        "burgers": "nasfw.tasks.burgers:Burgers",
        "darcy": "nasfw.tasks.darcy:Darcy",
        "digits": "nasfw.tasks.digits:Digits",
    },
    "space": {"aggconv": "nasfw.spaces.aggconv:AggConv"},
    "strategy": {
        "dash": "nasfw.strategies.dash:Dash",
        "random": "nasfw.strategies.random:RandomSearch",
    },
    "objective": {
        "accuracy": "nasfw.objectives.quality:Accuracy",
        "energy": "nasfw.objectives.cost:Energy",
        "error": "nasfw.objectives.quality:Error",
        "flops": "nasfw.objectives.size:Flops",
        "latency": "nasfw.objectives.cost:Latency",
        "memory": "nasfw.objectives.cost:Memory",
        "parameters": "nasfw.objectives.size:Parameters",
    },
    "device": {
        "cuda": "nasfw.hardware.cuda:Cuda",
        "host": "nasfw.hardware.host:Host",
        "remote": "nasfw.hardware.remote:Remote",
        "table": "nasfw.hardware.table:Table",
    },
    "executor": {
        "processes": "nasfw.executors:Processes",
        "serial": "nasfw.executors:Serial",
    },
}


@hookimpl
def nasfw_register(registry: Registry) -> None:
    """Register every plugin that ships."""
    for kind, plugins in SHIPPED.items():
        for name, reference in plugins.items():
            registry.add_lazy(kind, name, reference)
