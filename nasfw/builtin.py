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
        "navier_stokes": "nasfw.tasks.navier_stokes:NavierStokes",
    },
    "space": {
        "aggconv": "nasfw.spaces.aggconv:AggConv",
        "darts": "nasfw.spaces.cell:Darts",
        "nasbench201": "nasfw.spaces.nasbench201:NasBench201",
        "s1": "nasfw.spaces.robust:S1",
        "s2": "nasfw.spaces.robust:S2",
        "s3": "nasfw.spaces.robust:S3",
        "s4": "nasfw.spaces.robust:S4",
        "s5": "nasfw.spaces.robust:S5",
        "xd": "nasfw.spaces.xd:XD",
    },
    "strategy": {
        "asha": "nasfw.strategies.asha:Asha",
        "darts": "nasfw.strategies.darts:Darts",
        "darts_pt": "nasfw.strategies.darts_pt:DartsPt",
        "dash": "nasfw.strategies.dash:Dash",
        "evolution": "nasfw.strategies.evolution:Evolution",
        "gaea": "nasfw.strategies.gaea:Gaea",
        "gdas": "nasfw.strategies.gdas:Gdas",
        "given": "nasfw.strategies.given:Given",
        "pc_darts": "nasfw.strategies.pc_darts:PcDarts",
        "proxyless": "nasfw.strategies.proxyless:Proxyless",
        "random": "nasfw.strategies.random:RandomSearch",
        "reinmax": "nasfw.strategies.reinmax:ReinMax",
        "robust_darts": "nasfw.strategies.robust_darts:RobustDarts",
        "sd_darts": "nasfw.strategies.sd_darts:SdDarts",
        "sharp_darts": "nasfw.strategies.sharp_darts:SharpDarts",
        "weight_sharing": "nasfw.strategies.weight_sharing:WeightSharing",
        "xd": "nasfw.strategies.xd:XD",
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
