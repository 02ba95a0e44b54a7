"""Where the taps of a convolution read, and how kernels of any size and dilation take its place.

A convolution with kernel size k, dilation d and stride s computes, on every axis,

    y[o] = sum_j w[j] x[o s + shift + offset_j],    offset_j = j d - floor((k - 1) d / 2),

with x zero outside the map. All options of a searched convolution share s and ``shift``, those of the
convolution that they replace, so they are aligned and their outputs have one shape. Only offsets that can
touch the map matter: the others multiply zeros.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

Kernel = tuple[int, int]
Size = tuple[int, ...]


@dataclass(frozen=True)
class Convolution:
    """A searched convolution, whatever its kernel: channels, alignment, and its ``own`` (size, dilation).

    ``padding`` is what its own kernel needs before and after the map; ``inputs`` and ``outputs`` count
    channels.
    """

    dims: int
    inputs: int
    outputs: int
    own: Kernel
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    biased: bool = True

    @property
    def apart(self) -> bool:
        """Whether every result comes from one of several channels alone."""
        return 1 < self.groups == self.inputs

    @property
    def shift(self) -> int:
        """Where output 0 reads with offset 0."""
        k, d = self.own
        return (k - 1) * d // 2 - self.padding[0]

    def positions(self, n: int) -> int:
        """Length of the output on an axis of length ``n``."""
        k, d = self.own
        return (n + sum(self.padding) - (k - 1) * d - 1) // self.stride + 1


def offsets(kernel: Kernel) -> list[int]:
    """Where the taps of (size, dilation) read, from the aligned position, on one axis."""
    k, d = kernel
    return [j * d - (k - 1) * d // 2 for j in range(k)]


def convolution_of(module: nn.Module) -> Convolution | None:
    """The description of an ordinary convolution; None if it is of a sort that is not searched.

    Searched are exactly ``nn.Conv1d`` and ``nn.Conv2d`` with the same kernel size, stride, dilation and
    padding on both axes and zeros as padding.
    """
    # Subclasses compute something else, and say so by being subclasses.
    if not isinstance(module, nn.Conv1d | nn.Conv2d) or type(module) not in (nn.Conv1d, nn.Conv2d):
        return None
    k, d, s = module.kernel_size[0], module.dilation[0], module.stride[0]
    if module.padding == "same":
        total = (k - 1) * d
        paddings: Sequence[tuple[int, int]] = [(total // 2, total - total // 2)]
    elif module.padding == "valid":
        paddings = [(0, 0)]
    else:
        paddings = [(int(p), int(p)) for p in module.padding]
    settings = {*zip(module.kernel_size, module.dilation, module.stride, strict=True)}
    if len(settings) > 1 or len(set(paddings)) > 1 or module.padding_mode != "zeros":
        return None
    return Convolution(
        dims=len(module.kernel_size),
        inputs=module.in_channels,
        outputs=module.out_channels,
        own=(k, d),
        stride=s,
        padding=paddings[0],
        groups=module.groups,
        biased=module.bias is not None,
    )


@dataclass(frozen=True)
class Block:
    """The taps of one option that can touch the map: on each axis ``counts`` taps from number ``first`` on.

    ``start`` is the offset of that first tap; the taps are ``rows`` of the layer's weight, last axis fastest.
    """

    kernel: Kernel
    rows: slice
    first: Size
    counts: Size
    start: Size


@dataclass(frozen=True)
class Comb:
    """Taps of several options, given by their ``rows``, that one dilated kernel of shape ``counts`` holds.

    ``start`` is the offset of its first tap, and ``cells`` says which of its taps each row adds to.
    """

    dilation: int
    start: Size
    counts: Size
    rows: tuple[int, ...]
    cells: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The taps of all ``kernels`` of a convolution that can touch maps of the given ``sizes``."""

    convolution: Convolution
    kernels: tuple[Kernel, ...]
    sizes: tuple[Size, ...]

    @cached_property
    def blocks(self) -> list[Block]:
        """The taps by option; a block is empty if none of its option's taps touches the map."""
        c = self.convolution
        reach = [
            (
                min(-(c.positions(n) - 1) * c.stride - c.shift for n in axis),
                max(n - 1 - c.shift for n in axis),
            )
            for axis in zip(*self.sizes, strict=True)
        ]
        blocks, row = [], 0
        for kernel in self.kernels:
            places = offsets(kernel)
            alive = [[j for j, t in enumerate(places) if low <= t <= high] for low, high in reach]
            counts = tuple(len(a) for a in alive)
            first = tuple(a[0] if a else 0 for a in alive)
            rows = slice(row, row := row + math.prod(counts))
            blocks.append(Block(kernel, rows, first, counts, tuple(places[j] for j in first)))
        return blocks

    @property
    def pairs(self) -> int:
        """Number of pairs of an output and an input channel that are connected."""
        return self.convolution.outputs * self.convolution.inputs // self.convolution.groups

    @cached_property
    def taps(self) -> tuple[Size, ...]:
        """The offsets of every row."""
        boxes = (
            itertools.product(
                *(range(s, s + n * b.kernel[1], b.kernel[1]) for s, n in zip(b.start, b.counts, strict=True))
            )
            for b in self.blocks
        )
        return tuple(itertools.chain.from_iterable(boxes))

    @cached_property
    def union(self) -> tuple[Size, ...]:
        """The distinct offsets, in order."""
        return tuple(sorted(set(self.taps)))

    @cached_property
    def combs(self) -> list[Comb]:
        """All taps, joined by dilation (and by the remainder of their offsets)."""
        members: dict[tuple[int, Size], list[int]] = {}
        for block in self.blocks:
            if block.rows.stop > block.rows.start:
                d = block.kernel[1]
                comb = members.setdefault((d, tuple(s % d for s in block.start)), [])
                comb.extend(range(block.rows.start, block.rows.stop))
        combs = []
        for (d, _), rows in members.items():
            axes = list(zip(*(self.taps[row] for row in rows), strict=True))
            start = tuple(map(min, axes))
            counts = tuple((max(axis) - low) // d + 1 for axis, low in zip(axes, start, strict=True))
            cells = [
                sum(
                    (t - low) // d * math.prod(counts[i + 1 :])
                    for i, (t, low) in enumerate(zip(self.taps[row], start, strict=True))
                )
                for row in rows
            ]
            combs.append(Comb(d, start, counts, tuple(rows), tuple(cells)))
        return combs

    @cached_property
    def low(self) -> Size:
        """The smallest offset on each axis."""
        return tuple(min(axis) for axis in zip(*self.taps, strict=True))

    @cached_property
    def extent(self) -> Size:
        """Length, on each axis, of the dense kernel that holds all taps."""
        return tuple(
            max(axis) - low + 1 for axis, low in zip(zip(*self.taps, strict=True), self.low, strict=True)
        )

    def transform(self, size: Size) -> Size:
        """The shortest transform lengths that keep circular products of maps of ``size`` free of aliasing."""
        c = self.convolution
        lengths = []
        for n, low, span in zip(size, self.low, self.extent, strict=True):
            first = low + c.shift
            last = (c.positions(n) - 1) * c.stride + first + span - 1
            # Every position that is read and lies outside the map must fall onto a zero of the padded map.
            lengths.append(max(n, n - first, last + 1, (c.positions(n) - 1) * c.stride + 1))
        return tuple(lengths)

    def box(self, option: int) -> Block:
        """The taps of an option's standalone convolution: all of the own kernel, else those of its block."""
        block = self.blocks[option]
        if block.kernel != self.convolution.own and 0 not in block.counts:
            return block
        k, dims = block.kernel[0], len(block.counts)
        start = offsets(block.kernel)[0]
        return Block(block.kernel, block.rows, (0,) * dims, (k,) * dims, (start,) * dims)

    def padding(self, option: int) -> list[tuple[int, int]]:
        """Zeros before and after each axis that align an option's box with the own kernel; negative crops."""
        c, box = self.convolution, self.box(option)
        own = (c.own[0] - 1) * c.own[1]
        pads = []
        for start, count in zip(box.start, box.counts, strict=True):
            before = -(c.shift + start)
            pads.append((before, sum(c.padding) - own + (count - 1) * box.kernel[1] - before))
        return pads

    def is_plain(self, option: int) -> bool:
        """Whether the standalone convolution needs no more than symmetric padding."""
        return all(before == after >= 0 for before, after in self.padding(option))


def standalone(layout: Layout, option: int) -> nn.Module:
    """The ordinary convolution of an option, without the taps that can only meet zeros.

    It reads and writes what the own one does. Where no symmetric padding does that, it is an
    ``nn.Sequential`` of padding (or cropping) and convolution.
    """
    c, box, pads = layout.convolution, layout.box(option), layout.padding(option)
    plain = layout.is_plain(option)
    conv = (nn.Conv1d if c.dims == 1 else nn.Conv2d)(
        c.inputs,
        c.outputs,
        box.counts,  # type: ignore[arg-type]
        stride=c.stride,
        padding=tuple(before for before, _ in pads) if plain else 0,  # type: ignore[arg-type]
        dilation=box.kernel[1],
        groups=c.groups,
        bias=c.biased,
    )
    if plain:
        return conv
    sides = tuple(side for pad in reversed(pads) for side in pad)
    return nn.Sequential((nn.ZeroPad1d if c.dims == 1 else nn.ZeroPad2d)(sides), conv)  # type: ignore[arg-type]
