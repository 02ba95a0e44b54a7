"""Times of networks that ran in turns, freed from what slowed all of them down.

The logarithm of the k-th time is modelled as that of the network itself plus the drift of the group of runs
that it belongs to, t_k = a_i(k) + d_k. The drift of a run is the median of the residuals t - a of the *other*
runs of its group, of which two are the small and the large canary. What disturbs small networks is not what
disturbs large ones: neighbours slow down arithmetic in one case, what surrounds it in the other. So there are
two medians, in which run j counts with 1 - w_j and with w_j, and run k takes (1 - w_k) of the one and w_k of
the other, where w = (a - a_small) / (a_large - a_small), within 0 and 1.

A network measured alone is thereby compared with the weighted geometric mean of both canaries,
small^(1 - w) large^w; many that are measured together are each other's canaries as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nasfw.hardware.statistics import weighted_median

Array = NDArray[np.float64]

# Levels and drifts are computed from each other so often; with more of it, measurements repeat no better.
_PASSES = 3
# Less than this apart (in logarithms), the canaries are of one size.
_APART = 1e-3
# What a run of the wrong size counts in a median that nothing else counts in.
_FAINT = 1e-12

SMALL, LARGE = 0, 1


@dataclass(frozen=True)
class Adjusted:
    """Logarithms of seconds: ``levels`` [2 + networks], the canaries' first; ``shares`` [2 + networks], how
    far each is from the small canary to the large one; and ``times`` [networks, rounds], which are free from
    drift and have the networks' levels as medians.
    """

    levels: Array
    shares: Array
    times: Array

    def scale(self, canaries: Sequence[float] | Array) -> Array:
        """What each network [networks] would show of ``canaries``, a value of each of the two."""
        share = self.shares[2:]
        mean: Array = (1 - share) * canaries[SMALL] + share * canaries[LARGE]
        return mean


def adjust(members: Sequence[Sequence[int]], seconds: Sequence[Sequence[float]]) -> Adjusted:
    """Levels and drift-free times of runs; each group begins with the two canaries, 0 and 1.

    ``members`` says which network each of ``seconds`` is of, group by group; networks count from 2, and each
    occurs once a round.
    """
    slots = max(len(group) for group in members)
    who = np.full((len(members), slots), -1)
    times = np.zeros(who.shape)
    for row, (group, values) in enumerate(zip(members, seconds, strict=True)):
        who[row, : len(group)] = group
        times[row, : len(group)] = np.log(values)
    present = who >= 0
    # Runs of each network in the order in which they were made; the canaries have more of them.
    runs = [np.nonzero(who == i) for i in range(int(who.max()) + 1)]
    levels = np.array([np.median((times - times[:, :1])[where]) for where in runs]) + np.median(times[:, 0])
    # Each run by the others of its group, not by itself.
    others = ~np.eye(slots, dtype=bool) & present[:, None, :]
    for _ in range(_PASSES):
        shares = np.clip((levels - levels[SMALL]) / max(levels[LARGE] - levels[SMALL], _APART), 0.0, 1.0)
        share = np.where(present, shares[who], 0.0)
        residuals = np.broadcast_to((times - levels[who])[:, None, :], others.shape)
        as_small, as_large = (
            weighted_median(residuals, others * (counts + _FAINT)[:, None, :])
            for counts in (1 - share, share)
        )
        free = times - (1 - share) * as_small - share * as_large
        used = levels[:2]
        levels = np.array([np.median(free[where]) for where in runs])
    # The times are relative to these: a network that is measured alone is compared with nothing but canaries.
    levels[:2] = used
    return Adjusted(levels, shares, np.array([free[where] for where in runs[2:]]))
