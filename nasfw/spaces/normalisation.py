"""Batch normalisation whose statistics take two vectorised sums.

On a processor, torch's own reads every number twice, one after the other, and that takes four times as long
as all the rest of its forward pass. With S and Q the sums of the values and of their squares over n
positions, the mean is S / n and the variance Q / n - mean^2. The difference magnifies rounding where values
are far from zero against their spread; of such values torch's own is taken.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# With fewer values in all, what a call costs by itself decides: then torch's own is faster.
LEAST = 200_000
# The mean's square is at most so many variances: rounding is magnified by one more.
_FARTHEST = 4.0


class QuickBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A batch norm that is computed as the module's docstring says, where that is possible."""

    def forward(self, x: Tensor) -> Tensor:
        normalised = self._normalised(x, self.weight)
        return super().forward(x) if normalised is None else normalised

    def scaled(self, x: Tensor, factor: Tensor) -> Tensor:
        """The norm, which has no weight of its own, times a scalar: quick ones take it for their weight."""
        normalised = self._normalised(x, factor.expand(x.shape[1]))
        return super().forward(x) * factor if normalised is None else normalised

    def _normalised(self, x: Tensor, weight: Tensor | None) -> Tensor | None:
        """The quick norm with this weight; None where it is not possible."""
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        if self.momentum is None or not self.training or not is_plain(x):
            return None
        if x.numel() < max(LEAST, 2 * x.shape[1]):
            return None
        count = x.numel() // x.shape[1]
        mean, variance = _statistics(x, count)
        if not bool((mean.square() <= _FARTHEST * variance).all()):
            return None
        self._follow(mean, variance * (count / (count - 1)), self.momentum)
        return _Normalised.apply(x, weight, self.bias, mean, variance, self.eps)  # type: ignore[no-any-return, no-untyped-call]

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, momentum: float) -> None:
        """Let the running statistics follow, as torch does."""
        if not self.track_running_stats:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
        for running, now in ((self.running_mean, mean), (self.running_var, variance)):
            if running is not None:
                running.lerp_(now.to(running.dtype), momentum)


class QuickBatchNorm1d(QuickBatchNorm, nn.BatchNorm1d):
    """For series."""


class QuickBatchNorm2d(QuickBatchNorm, nn.BatchNorm2d):
    """For images."""


_QUICK: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: QuickBatchNorm1d,
    nn.BatchNorm2d: QuickBatchNorm2d,
}
_ORDINARY = {quick: ordinary for ordinary, quick in _QUICK.items()}


def quicken(network: nn.Module) -> None:
    """Let all ordinary batch norms of the network be quick ones; they stay what they are otherwise."""
    _turn(network, _QUICK)


def restore(network: nn.Module) -> None:
    """Take ``quicken`` back."""
    _turn(network, _ORDINARY)


def _turn(network: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> None:
    for module in network.modules():
        # Both classes have the same state: parameters, hooks and names stay.
        module.__class__ = classes.get(type(module), type(module))


def is_plain(x: Tensor) -> bool:
    """Whether quick layers are quicker: maps of full precision on a processor, in the ordinary order."""
    if x.dim() < 3 or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    return x.is_contiguous() and x.dtype in (torch.float32, torch.float64)


@torch.no_grad()
def _statistics(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of the channels, in double precision from the sums over each map on."""
    maps = x.flatten(2)
    mean = maps.sum(2).double().sum(0) / count
    squares = torch.linalg.vector_norm(maps, dim=2).double().square().sum(0) / count
    return mean, (squares - mean.square()).clamp_(min=0)


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean.to(x.dtype), (variance + eps).rsqrt().to(x.dtype))
        ctx.eps = eps
        return F.batch_norm(x, mean.to(x.dtype), variance.to(x.dtype), weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, deviation = ctx.saved_tensors
        wanted = [
            need and t is not None for need, t in zip(ctx.needs_input_grad, (x, weight, weight), strict=False)
        ]
        found = torch.ops.aten.native_batch_norm_backward(
            gradients[0].contiguous(), x, weight, None, None, mean, deviation, True, ctx.eps, wanted
        )
        return (*found, None, None, None)
