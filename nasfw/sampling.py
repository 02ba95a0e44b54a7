"""Drawing architectures without repetition."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nasfw.contracts import Architecture, SearchSpace


def distinct(space: SearchSpace, rng: np.random.Generator, count: int) -> Iterator[Architecture]:
    """At most ``count`` different architectures, drawn uniformly; fewer if the space is smaller."""
    seen: set[Architecture] = set()
    while len(seen) < min(count, space.size):
        architecture = space.sample(rng)
        if architecture not in seen:
            seen.add(architecture)
            yield architecture
