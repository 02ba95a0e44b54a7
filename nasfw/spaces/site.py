"""Convolutions that other operations may replace: on one to three axes, zeros or the other side beyond."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from nasfw.spaces.spectral import Frame
from nasfw.spaces.waves import LONGEST, Axis, divided, grid

Size = tuple[int, ...]
CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}


@dataclass(frozen=True)
class Site:
    """A convolution on maps of one ``size``: channels, and kernel, stride, dilation, padding of every axis.

    ``padding`` has the positions before and after each axis; they are zero, or periodic if ``circular``.
    """

    size: Size
    inputs: int
    outputs: int
    kernel: Size
    stride: Size
    dilation: Size
    padding: tuple[tuple[int, int], ...]
    groups: int = 1
    biased: bool = True
    circular: bool = False

    @property
    def dims(self) -> int:
        """Number of axes."""
        return len(self.size)

    @property
    def results(self) -> Size:
        """Size of the output."""
        axes = zip(self.size, self.kernel, self.stride, self.dilation, self.padding, strict=True)
        return tuple((n + sum(p) - d * (k - 1) - 1) // s + 1 for n, k, s, d, p in axes)

    @property
    def axes(self) -> list[Axis]:
        """What is read on each axis."""
        return [
            Axis(n, m, s, tuple(j * d - p for j in range(k)), self.circular)
            for n, m, k, s, d, (p, _) in zip(
                *(self.size, self.results, self.kernel, self.stride, self.dilation, self.padding), strict=True
            )
        ]

    @property
    def centred(self) -> bool:
        """Whether output o is that of the kernel's middle at o times the stride, for all of the input."""
        strided = tuple(-(-n // s) for n, s in zip(self.size, self.stride, strict=True))
        spans = zip(self.kernel, self.dilation, self.padding, strict=True)
        return self.results == strided and all((k - 1) * d // 2 == p for k, d, (p, _) in spans)

    def frame(self, longest: int = LONGEST) -> Frame:
        """The transforms of the axes, as they are cheapest; a series of more points in two stages."""
        grids, indices = [], []
        for i, axis in enumerate(reversed(self.axes)):
            most = longest if self.dims == 1 else axis.length + 1
            index = None
            if not divided(axis, most):
                axis, index = axis.unrolled
            grids.append(grid(axis, i == 0, None, most))
            indices.append(None if index is None else tuple(index))
        return Frame(tuple(grids), tuple(indices))

    def periodic(self, modes: int | None) -> Frame:
        """The Fourier transforms of the axes, of the lowest ``modes`` frequencies of each or of all."""
        axes = [Axis(a.size, a.results, a.stride, (0,), True) for a in reversed(self.axes)]
        grids = tuple(grid(axis, i == 0, modes, axis.length + 1) for i, axis in enumerate(axes))
        return Frame(grids, (None,) * self.dims)


def site_of(module: nn.Module, size: Size) -> Site | None:
    """The description of an ordinary convolution of maps of ``size``; None if it is of another sort.

    Ordinary are ``nn.Conv1d``, ``nn.Conv2d`` and ``nn.Conv3d`` with zero or circular padding.
    """
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return None
    # Subclasses compute something else, and say so by being subclasses.
    if type(module) not in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        return None
    if module.padding_mode not in ("zeros", "circular"):
        return None
    totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    if module.padding == "same":
        padding = tuple((t // 2, t - t // 2) for t in totals)
    elif module.padding == "valid":
        padding = tuple((0, 0) for _ in totals)
    else:
        padding = tuple((int(p), int(p)) for p in module.padding)
    return Site(
        size=size,
        inputs=module.in_channels,
        outputs=module.out_channels,
        kernel=tuple(module.kernel_size),
        stride=tuple(module.stride),
        dilation=tuple(module.dilation),
        padding=padding,
        groups=module.groups,
        biased=module.bias is not None,
        circular=module.padding_mode == "circular",
    )
