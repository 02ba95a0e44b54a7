"""NAS-Bench-201 for nasfw: networks of the space ``nasbench201`` are looked up in tables, not trained."""

from __future__ import annotations

import nasfw

_PLUGINS = (
    ("task", "nasbench201", "task:NasBench201", "a data set of NAS-Bench-201, without its images"),
    ("objective", "nasbench201-accuracy", "objectives:Accuracy", "the accuracy that a table has"),
    ("objective", "nasbench201-parameters", "objectives:Parameters", "the parameters that a table has"),
    ("objective", "nasbench201-flops", "objectives:Flops", "the operations that a table has"),
    ("device", "nasbench201", "devices:Platform", "a device on which all networks were measured"),
)


@nasfw.hookimpl
def nasfw_register(registry: nasfw.Registry) -> None:
    for kind, name, reference, summary in _PLUGINS:
        registry.add_lazy(kind, name, f"{__name__}.{reference}", summary)
