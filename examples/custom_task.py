"""A task of one's own: its shapes, its batches, its loss and its metric."""

from dataclasses import dataclass

import torch

import nasfw


@dataclass(frozen=True)
class Parity(nasfw.Task):
    input_shape = (1, 16)
    output_shape = (2,)

    def size(self, split):
        return 256 if split == "full" else 128

    def batches(self, split, batch_size=256, generator=None):
        source = torch.Generator().manual_seed({"test": 2, "valid": 1}.get(split, 0))
        x = torch.randn(self.size(split), 1, 16, generator=source)
        order = torch.arange(len(x)) if generator is None else torch.randperm(len(x), generator=generator)
        for part in order.split(batch_size):
            yield x[part], (x[part, 0, :2] > 0).sum(1) % 2

    def loss(self, output, target):
        return torch.nn.functional.cross_entropy(output, target)

    def error(self, outputs, targets):
        return float((outputs.argmax(1) != targets).double().mean())


brief = {"strategy": {"random": {"trials": 2}}, "effort": 0.02, "final": {"seeds": 1}}
# Accuracy and latency on this machine, as nothing else is asked for.
result = nasfw.run(task=Parity(), folder="runs/parity", **brief)
print(result)
