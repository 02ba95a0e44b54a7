"""How large a space's backbone is, in words, and smaller ones for runs that may take minutes only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, replace
from typing import Any, ClassVar, Protocol, TypeVar

from torch import nn

from nasfw.contracts import Task
from nasfw.flops import forward_flops
from nasfw.spaces.exported import called

# What to try, by falling cost: layers and channels of the first block.
_SMALLER: Mapping[str, tuple[tuple[int | None, int], ...]] = {
    "wrn": ((10, 16), (10, 12), (10, 8), (10, 6), (10, 4)),
    "wrn1d": ((None, 12), (None, 8), (None, 6), (None, 4)),
    "tcn": ((None, 24), (None, 16), (None, 12), (None, 8)),
    "pde": ((None, 24), (None, 16), (None, 12), (None, 8), (3, 8)),
}


class Sized(Protocol):
    """A space, a dataclass, of networks on a backbone whose size its user may choose."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def task(self) -> Task: ...
    @property
    def width(self) -> int: ...
    @property
    def depth(self) -> int | None: ...
    @property
    def channels(self) -> int | str | None: ...


Space = TypeVar("Space", bound=Sized)


def described(space: Sized, backbone: str) -> str:
    """The backbone and its size, in words."""
    chosen = {"depth": space.depth, "channels": space.channels, "width": space.width}
    sizes = [f"{n} {v}" for n, v in chosen.items() if v is not None and (n, v) != ("width", 1)]
    return ", ".join([f"backbone {called(backbone)}", *sizes])


def reduced(space: Space, backbone: str, network: Callable[[Space], nn.Module], flops: float) -> Space:
    """The space with fewer layers and channels of its built-in backbone, if these are the defaults.

    The first whose plain ``network`` takes at most ``flops``, or the smallest there is; the space itself
    where there is none.
    """
    if (space.width, space.depth, space.channels) != (1, None, None):
        return space
    found = space
    for depth, channels in _SMALLER.get(backbone, ()):
        if forward_flops(network(found), space.task.input_shape) <= flops:
            break
        found = replace(space, depth=depth, channels=channels)
    return found
