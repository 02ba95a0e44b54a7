"""Search the convolutions of a network of your own, on arrays of your own, and use what was found."""

import numpy as np
import torch
from torch import nn

import nasfw


def network(in_shape, out_shape):
    """An ordinary classifier of signals; its convolutions are what is searched."""
    return nn.Sequential(
        nn.Conv1d(in_shape[0], 12, 5, padding=2),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Conv1d(12, 12, 5, padding=2),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(12, out_shape[0]),
    )


def signals(count=240, length=64):
    """Two kinds of oscillation in noise."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, count)
    waves = np.sin(np.arange(length) * (0.3 + 0.1 * y[:, None]) + rng.uniform(0, 6, (count, 1)))
    return (waves + 0.5 * rng.normal(size=(count, length)))[:, None], y


if __name__ == "__main__":
    x, y = signals()
    task = nasfw.ArraysTask(x, y)
    space = {"aggconv": {"backbone": f"{__name__}:network", "kernel_sizes": [3, 7, 11], "dilations": [1, 2]}}
    result = nasfw.run(task=task, spaces=space, effort=0.02, final={"seeds": 1}, folder="runs/signals")
    for place, option in result.pick.choices.items():
        print(f"{place}: {option}")
    model = nasfw.load("runs/signals", task=task)
    with torch.no_grad():
        said = model(task.prepare(x[:5])).argmax(1)
    print("predicted", said.tolist(), "of", y[:5].tolist())
