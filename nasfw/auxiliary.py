"""What a network asks of its training alone: a second head, and to be told how far the training is.

Both leave no trace in the trained network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Auxiliary(nn.Module):
    """A head that reads the output of a part of a network, or nothing; its loss counts with a weight."""

    def __init__(self, head: nn.Module | None = None, weight: float = 0.0) -> None:
        super().__init__()
        self.head, self.weight = head, weight
        self.seen: Tensor | None = None

    def see(self, part: nn.Module, inputs: Any, output: Tensor) -> None:
        """A forward hook for the part whose output the head reads."""
        self.seen = output

    def outputs(self) -> Iterator[tuple[Tensor, float]]:
        """What the head makes of what it saw last, and the weight of its loss; nothing without a head."""
        if self.head is not None and self.seen is not None:
            # What stays would keep its graph alive.
            seen, self.seen = self.seen, None
            yield self.head(seen), self.weight


@contextmanager
def beside(model: nn.Module, compute: str) -> Iterator[Auxiliary]:
    """The head that ``model`` asks for by its method ``auxiliary``, reading along while this lasts."""
    asked = getattr(model, "auxiliary", None)
    found = asked() if callable(asked) else None
    if found is None:
        yield Auxiliary()
        return
    path, head, weight = found
    auxiliary = Auxiliary(head.to(compute), weight)
    hook = model.get_submodule(path).register_forward_hook(auxiliary.see)
    try:
        yield auxiliary
    finally:
        hook.remove()


def tell_progress(model: nn.Module, share: float) -> None:
    """Tell the parts of ``model`` that have a method ``progress`` which share of the training is done."""
    for module in model.modules():
        if callable(progress := getattr(module, "progress", None)):
            progress(share)
