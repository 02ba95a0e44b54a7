"""Targets as networks see them, and the loss that trains on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nasfw.tasks.metrics import METRICS, Kind, usual_metric
from nasfw.tasks.permutation import bit_reversed, restored
from nasfw.tasks.reading import Array, portions, standardised


@dataclass(frozen=True)
class Code:
    """Targets as networks see them, and back.

    Regression targets are standardised, per value or channel, by the mean and deviation of the training
    split; so are the network's outputs. ``error`` undoes that: its result is in the data's own units. Dense
    targets, and the outputs, have their positions in bit-reversed order if ``permuted``.
    """

    kind: Kind
    metric: str
    output_shape: tuple[int, ...]
    mean: Tensor
    std: Tensor
    positive_weight: Tensor
    norm: float
    permuted: bool = False

    def encode(self, y: Array) -> Array:
        """``y``, in standard form and with class numbers, in compact storage for ``batch``."""
        if self.kind.endswith("regression"):
            return standardised(y, self.mean.numpy(), self.std.numpy(), self.permuted)
        return bit_reversed(y, len(self.output_shape) - 1) if self.permuted else y

    def batch(self, stored: Tensor) -> Tensor:
        """Class numbers as int64, everything else as float32."""
        return stored.long() if self.kind.endswith("classification") else stored.float()

    def decode(self, values: Tensor) -> Tensor:
        """Outputs or targets in the data's own units, float64; logits and labels as they are.

        Positions are in the data's own order.
        """
        values = values.detach().cpu()
        if self.permuted:
            values = restored(values, len(self.output_shape) - 1)
        return values.double() * self.std + self.mean if self.kind.endswith("regression") else values

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy; binary cross-entropy; or for regression the squared error of standardised values.

        Where the metric is relative_l2, the mean of ||output - target|| / ||target|| in the data's units,
        with norms of targets taken as at least a hundredth of their root mean square. Where the metric is F1,
        positives weigh sqrt(negatives / positives), between 1 and 10: the threshold that is best for F1 lies
        below one half (Lipton et al. 2014), and outputs are judged at one half.
        """
        if self.kind.endswith("classification"):
            return F.cross_entropy(output, target)
        if not self.kind.endswith("regression"):
            weight = self.positive_weight.to(output)
            return F.binary_cross_entropy_with_logits(output, target, pos_weight=weight)
        if self.metric != "relative_l2":
            return F.mse_loss(output, target)
        std, mean = self.std.to(output), self.mean.to(output)
        misses = ((output - target) * std).flatten(1).norm(dim=1)
        norms = (target * std + mean).flatten(1).norm(dim=1)
        ratios: Tensor = misses / norms.clamp_min(0.01 * self.norm)
        return ratios.mean()

    def error(self, outputs: Tensor, targets: Tensor) -> float:
        """The metric, in the data's own units."""
        return METRICS[self.metric](self.decode(outputs), self.decode(targets), self.kind)


def code(
    kind: Kind,
    metric: str,
    y: Array,
    train: Array,
    classes: int,
    standardise: bool = True,
    permuted: bool = False,
) -> Code:
    """The code of the targets ``y`` in standard form, with statistics over the samples ``train`` only."""
    metric = usual_metric(metric, kind)
    shape = y.shape[1:]
    if kind.endswith("classification"):
        shape = (classes, *shape)
    mean, std, norm, weight = np.zeros(1), np.ones(1), 1.0, np.ones(1)
    if kind.endswith("regression"):
        found_mean, found_std = scale(portions(y, train))
        norm = float(np.sqrt(np.mean(found_std**2 + found_mean**2) * np.prod(shape)))
        if standardise:
            mean, std = found_mean, found_std
    elif metric == "f1" and not kind.endswith("classification"):
        share, _ = moments(portions(y, train))
        weight = np.sqrt((1 - share) / np.maximum(share, 1e-9)).clip(1.0, 10.0)
    column = (-1, *[1] * (len(shape) - 1))
    mean_, std_, weight_ = (torch.from_numpy(np.reshape(v, column)) for v in (mean, std, weight))
    return Code(kind, metric, shape, mean_, std_, weight_, norm, permuted and kind.startswith("dense"))


def moments(parts: Iterable[Array]) -> tuple[Array, Array]:
    """Mean and standard deviation of each channel over samples and positions of [n, channels, ...] arrays.

    In double precision; parts are merged by the pairwise update of Chan et al. 1979.
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for part in parts:
        values = np.moveaxis(part, 1, 0).reshape(part.shape[1], -1).astype(np.float64)
        more, centre = values.shape[1], values.mean(axis=1)
        spread = np.square(values - centre[:, None]).sum(axis=1)
        shift, total = centre - mean, count + more
        mean = mean + shift * (more / total)
        squares = squares + spread + shift**2 * (count * more / total)
        count = total
    return mean, np.sqrt(squares / max(count, 1))


def scale(parts: Iterable[Array]) -> tuple[Array, Array]:
    """``moments``, with deviation 1 for channels that are constant."""
    mean, std = moments(parts)
    # Rounding may leave a constant channel a deviation of some units in the last place.
    return mean, np.where(std <= 1e-12 * np.abs(mean), 1.0, std)
