"""Seeded splits that keep the classes' shares and never cut a group in two."""

from __future__ import annotations

import numpy as np

from nasfw.tasks.metrics import Kind
from nasfw.tasks.reading import Array
from nasfw.values import UsageError


def strata(y: Array, kind: Kind) -> Array:
    """Number of the stratum of every sample: its class, its rarest label, or 0 for all."""
    if kind == "classification":
        return y.astype(np.int64)
    if kind == "multilabel":
        frequency = y.sum(axis=0, dtype=np.float64)
        rarest = np.where(y.astype(bool), frequency, np.inf).argmin(axis=1)
        result: Array = np.where(y.astype(bool).any(axis=1), rarest + 1, 0)
        return result
    return np.zeros(len(y), np.int64)


def split(
    rows: Array, strata: Array, fraction: float, rng: np.random.Generator, groups: Array | None, name: str
) -> tuple[Array, Array]:
    """``rows`` in two sorted parts, the second with about ``fraction`` of them; ``name`` is that part's name.

    Each stratum keeps its share up to rounding, one with a single member stays in the first part. With
    ``groups`` (for all samples, as ``strata``) every group is in one part, shares are approached, and no
    stratum is in the second part alone. UsageError where there are too few samples or groups.
    """
    if groups is None:
        held = _draw(strata[rows], fraction, rng)
    else:
        held = _draw_groups(strata[rows], fraction, rng, groups[rows], name)
    if not held.any() or (~held).sum() < 2:
        raise UsageError(
            f"{len(rows)} samples are too few to split off a {name} part of {fraction:g}; give more, "
            f"or give x_{name} and y_{name}"
        )
    return rows[~held], rows[held]


def _draw(strata: Array, fraction: float, rng: np.random.Generator) -> Array:
    """Which samples are held out: largest remainders share out the total, then chance within each stratum."""
    _, member, counts = np.unique(strata, return_inverse=True, return_counts=True)
    exact = counts * fraction
    take = np.floor(exact).astype(int)
    missing = max(1, round(len(strata) * fraction)) - take.sum()
    # Strata are asked in order of their remainders; each gives one more as long as one stays behind.
    willing = [c for c in np.argsort(take - exact, kind="stable") if take[c] + 1 < counts[c]]
    take[willing[: max(0, missing)]] += 1
    held = np.zeros(len(strata), bool)
    for c, number in enumerate(take):
        held[rng.permutation(np.flatnonzero(member == c))[:number]] = True
    return held


def _draw_groups(strata: Array, fraction: float, rng: np.random.Generator, groups: Array, name: str) -> Array:
    """Groups, in random order, are held out if that brings the strata's shares closer to ``fraction``."""
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise UsageError(
            f"one group is left ({names[0].item()!r}), where splitting off a {name} part needs two or more; "
            f"give more groups, or give x_{name} and y_{name}"
        )
    _, member, totals = np.unique(strata, return_inverse=True, return_counts=True)
    shares = np.zeros((len(names), len(totals)))
    np.add.at(shares, (group, member), 1.0)
    shares /= totals
    gap = np.full(len(totals), fraction)
    chosen = np.zeros(len(names), bool)
    # Weighting by size lets common strata decide, the square keeps rare ones from going all to one side.
    weight = np.sqrt(totals)
    order = rng.permutation(len(names))
    for g in order:
        after = gap - shares[g]
        if (weight * after**2).sum() < (weight * gap**2).sum():
            gap, chosen[g] = after, True
    if not chosen.any():
        chosen[min(order, key=lambda g: float((weight * (gap - shares[g]) ** 2).sum()))] = True
    # A stratum that would be held out whole goes back, with all groups that it is in.
    for c in np.flatnonzero(shares[~chosen].sum(axis=0) == 0):
        chosen[shares[:, c] > 0] = False
    if not chosen.any():
        raise UsageError(
            f"no {name} part can be split off along the groups, for some class would be in no other; "
            f"give x_{name} and y_{name}"
        )
    result: Array = chosen[group]
    return result
