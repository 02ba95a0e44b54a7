"""What is timed: passes of single layers, and training steps of networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasfw.benchmarks.published import PublishedSupernet, published
from nasfw.benchmarks.timing import Pass
from nasfw.contracts import Recipe, Split, Task
from nasfw.spaces.aggconv import AggConv
from nasfw.spaces.aggregated import AggregatedConv
from nasfw.spaces.kernels import Convolution, Kernel, Layout, Size
from nasfw.spaces.speed import Mode

MODES: tuple[Mode, ...] = get_args(Mode)
PLAIN, PUBLISHED, LOW = "plain", "published", "auto, low memory"
WAYS = (PLAIN, *MODES, LOW, PUBLISHED)


@dataclass(frozen=True)
class Shapes(Task):
    """A task that is nothing but shapes: random inputs and classes, drawn anew for every run over them."""

    input_shape: tuple[int, ...] = (3, 32, 32)
    output_shape: tuple[int, ...] = (10,)
    batch: int = 64

    @property
    def recipe(self) -> Recipe:
        return Recipe(batch_size=self.batch)

    def size(self, split: Split) -> int:
        return self.batch

    def batches(
        self, split: Split, batch_size: int = 256, generator: torch.Generator | None = None
    ) -> Iterable[tuple[Tensor, Tensor]]:
        x = torch.randn(self.batch, *self.input_shape, generator=generator)
        yield x, torch.randint(self.output_shape[0], (self.batch,), generator=generator)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target)

    def error(self, outputs: Tensor, targets: Tensor) -> float:
        return float((outputs.argmax(1) != targets).double().mean())


def layout(
    channels: int, size: Size, sizes: Iterable[int], dilations: Sequence[int], depthwise: bool = False
) -> Layout:
    """A searched convolution of size 3 on maps of ``size``, with all pairs of kernel sizes and dilations."""
    kernels: tuple[Kernel, ...] = tuple((k, d) for k in sizes for d in dilations)
    groups = channels if depthwise else 1
    convolution = Convolution(len(size), channels, channels, (3, 1), padding=(1, 1), groups=groups)
    return Layout(convolution, kernels, (size,))


def make_layer(way: str, layout: Layout) -> nn.Module:
    """A layer for the convolution of ``layout``, ``way`` one of ``WAYS``.

    ``PLAIN`` is what a backbone has instead: the own kernel alone, all channels mixed.
    """
    c = layout.convolution
    if way == PLAIN:
        return (nn.Conv1d if c.dims == 1 else nn.Conv2d)(c.inputs, c.outputs, c.own[0], padding=c.padding[0])
    if way == LOW:
        return AggregatedConv(layout, "auto", "low")
    if way == PUBLISHED:
        return published(AggregatedConv(layout))
    return AggregatedConv(layout, cast(Mode, way))


def layer_pass(layer: nn.Module, layout: Layout, batch: int, compute: str = "cpu") -> Pass:
    """Forward and backward of a layer: gradients of the input, the weights and any mixture."""
    c, size = layout.convolution, layout.sizes[0]
    generator = torch.Generator().manual_seed(0)
    layer = layer.to(compute)
    x = torch.randn(batch, c.inputs, *size, generator=generator).to(compute).requires_grad_()
    positions = map(c.positions, size)
    upstream = torch.randn(batch, c.outputs, *positions, generator=generator).to(compute)
    p = torch.softmax(torch.randn(len(layout.kernels), generator=generator), 0).to(compute).requires_grad_()
    mixed = hasattr(layer, "mixture")
    wanted = [x, *layer.parameters(), *([p] if mixed else [])]

    def run() -> None:
        if mixed:
            layer.mixture = p
        torch.autograd.grad(layer(x), wanted, upstream)

    return run


def space(task: Task, backbone: str, low: bool = False, **settings: Any) -> AggConv:
    """The search space on a backbone, its supernet with little memory if ``low``."""
    return AggConv(task, backbone, memory="low" if low else "default", **settings)


def backbone_step(space: AggConv, compute: str = "cpu") -> Pass:
    """A training step of the plain backbone."""
    network = space.build(space.default)
    return step(space.task, network, list(network.parameters()), network, compute)


def supernet_step(space: AggConv, as_published: bool = False, compute: str = "cpu") -> Pass:
    """A training step of the supernet and of the logits of its mixture."""
    supernet: nn.Module = PublishedSupernet(space) if as_published else space.supernet()
    logits = [torch.zeros(len(o), device=compute, requires_grad=True) for o in space.decisions.values()]

    def forward(x: Tensor) -> Tensor:
        return supernet(x, [torch.softmax(a, 0) for a in logits])  # type: ignore[no-any-return]

    return step(space.task, supernet, [*supernet.to(compute).parameters(), *logits], forward, compute)


def step(
    task: Task,
    network: nn.Module,
    parameters: list[Tensor],
    forward: Callable[[Tensor], Tensor],
    compute: str,
) -> Pass:
    """Forward, loss, backward, and stochastic gradient descent with momentum, always on the same batch."""
    network.to(compute).train()
    x, target = (t.to(compute) for t in next(iter(task.batches("train", generator=torch.Generator()))))
    optimiser = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)

    def run() -> None:
        optimiser.zero_grad()
        task.loss(forward(x), target).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return run
