"""Products of spectra with a diagonal for every pair of channels; complex numbers are pairs of real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nasfw.spaces.transforms import precisely

# So many numbers of a diagonal at a time take little memory, and remain in a processor's cache.
_AT_ONCE = 2**19


@dataclass(frozen=True)
class Diagonal:
    """D [frequencies, 2, ci / groups, co], as what ``make`` computes of tensors.

    The ``rows`` of ``split`` stand for as many frequencies each, and D can be made for some of them;
    ``shared`` are all needed for any. ``make`` takes the first ones, then the others.
    """

    make: Callable[..., Tensor]
    rows: int
    split: tuple[Tensor, ...]
    shared: tuple[Tensor, ...] = ()

    def whole(self) -> Tensor:
        """D for all frequencies."""
        return self.make(*self.split, *self.shared)

    def times(self, x: Tensor, groups: int, numbers: int) -> Tensor:
        """``multiplied`` by D, which has so many ``numbers``.

        A large D is never there as a whole: its parts are computed again in the backward pass.
        """
        at_once = max(1, self.rows * _AT_ONCE // numbers)
        # What stands in for a tensor, or transforms functions, is to see the operations.
        seen = not isinstance(x, Tensor) or torch._C._are_functorch_transforms_active()
        if at_once >= self.rows or not torch.is_grad_enabled() or seen:
            return multiplied(x, self.whole(), groups)

        def product(x: Tensor, *tensors: Tensor) -> Tensor:
            made = multiplied(x.flatten(0, 1), self.make(*tensors), groups)
            return made.view(len(x), -1, *made.shape[1:])

        split = x.view(self.rows, -1, *x.shape[1:]), *self.split
        made: Tensor = _Sliced.apply(product, at_once, len(split), *split, *self.shared)  # type: ignore[no-untyped-call]
        return made.flatten(0, 1)


def fixed(diagonal: Tensor, rows: int) -> Diagonal:
    """One of so many frequencies that is there already."""
    return Diagonal(lambda whole: whole, rows, (diagonal,))


class _Sliced(torch.autograd.Function):
    """A function of the same rows of the first ``n`` tensors, ``at_once`` at a time, and of all others.

    Its results have as many rows.
    """

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], at_once: int, n: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.function, ctx.at_once, ctx.n = function, at_once, n
        made = None
        for s in _slices(tensors[0], at_once):
            part = function(*(t[s] for t in tensors[:n]), *tensors[n:])
            # Written into one tensor, as many small ones beside large ones leave gaps in memory.
            made = part.new_empty(len(tensors[0]), *part.shape[1:]) if made is None else made
            made[s] = part
        assert made is not None
        return made

    @staticmethod
    @precisely
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (g,), tensors, n = gradients, ctx.saved_tensors, ctx.n
        wanted = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():
            return None, None, None, *_gradients(ctx.function, tensors, wanted, g)
        made = [torch.empty_like if i < n else torch.zeros_like for i in range(len(tensors))]
        found = [make(t) if w else None for make, t, w in zip(made, tensors, wanted, strict=True)]
        for s in _slices(g, ctx.at_once):
            some = [*(t[s] for t in tensors[:n]), *tensors[n:]]
            for i, part in enumerate(_gradients(ctx.function, some, wanted, g[s])):
                whole = found[i]
                if whole is None or part is None:
                    continue
                if i < n:
                    whole[s] = part
                else:
                    whole += part
        return None, None, None, *found


def _slices(rows: Tensor, at_once: int) -> Iterator[slice]:
    return (slice(start, start + at_once) for start in range(0, len(rows), at_once))


def _gradients(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], wanted: Sequence[bool], upstream: Tensor
) -> Iterator[Tensor | None]:
    """Those of the tensors for which they are wanted, else None; differentiable where gradients are on."""
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        own = [t if further else t.detach().requires_grad_(w) for t, w in zip(tensors, wanted, strict=True)]
        some = [t for t, w in zip(own, wanted, strict=True) if w]
        found = iter(torch.autograd.grad(function(*own), some, upstream, create_graph=further))
    return (next(found) if w else None for w in wanted)


def multiplied(x: Tensor, diagonal: Tensor, groups: int) -> Tensor:
    """The product over channels [f, 2, B, co] of spectra [f, 2, B, ci] and [f, 2, ci / groups, co]."""
    f, _, samples, inputs = x.shape
    re, im = diagonal.unbind(1)
    if groups == inputs and re.shape[2] == inputs:
        left, right = x * re[:, None], x * im[:, None]
    elif groups == 1:
        flat = x.reshape(f, 2 * samples, inputs)
        left, right = ((flat @ d).view(f, 2, samples, -1) for d in (re, im))
    else:
        shared = x.reshape(f, 2 * samples, groups, -1).transpose(1, 2)
        parts = (d.reshape(f, d.shape[1], groups, -1).transpose(1, 2) for d in (re, im))
        left, right = ((shared @ d).transpose(1, 2).reshape(f, 2, samples, -1) for d in parts)
    # Taken apart in one go, as the gradient of each part alone would be as large as the whole.
    (a, b), (c, d) = left.unbind(1), right.unbind(1)
    return torch.stack([a - d, b + c], 1)
