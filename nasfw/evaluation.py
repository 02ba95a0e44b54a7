"""How methods are compared with random search, with each other over tasks, and over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Verdict = Literal["beat", "tied", "did not beat"]


@dataclass(frozen=True)
class Comparison:
    """Ours against theirs; a positive difference is in our favour, in the objective's unit.

    ``difference`` is that of the medians over the seeds. Paired by seed, ``lowest`` and ``highest`` are the
    extreme differences, and ``wins``, ``ties`` and ``losses`` count the seeds. The verdict is "beat" if the
    difference is positive and more seeds are won than lost, "tied" if it is zero, otherwise "did not beat".
    """

    difference: float
    lowest: float
    highest: float
    wins: int
    ties: int
    losses: int

    @property
    def seeds(self) -> int:
        """Number of pairs."""
        return self.wins + self.ties + self.losses

    @property
    def verdict(self) -> Verdict:
        """What may be said about it."""
        if self.difference > 0 and self.wins > self.losses:
            return "beat"
        return "did not beat" if self.difference else "tied"

    def __str__(self) -> str:
        if self.seeds == 1:
            return f"{self.verdict} ({self.difference:+.4g}, one seed)"
        return (
            f"{self.verdict} (median {self.difference:+.4g}, {self.lowest:+.4g} to {self.highest:+.4g} over "
            f"{self.seeds} seeds: {self.wins} won, {self.ties} tied, {self.losses} lost)"
        )


def compare(ours: Sequence[float], theirs: Sequence[float], maximise: bool) -> Comparison:
    """How ``ours`` stands against ``theirs``: one value per seed, in the same order of seeds.

    ValueError if the lengths differ, there are no values, or one is not finite.
    """
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) == 0:
        raise ValueError(f"one value per seed on both sides is needed, not {a.size} and {b.size}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("values to compare must be finite")
    gain = a - b if maximise else b - a
    wins, losses = int((gain > 0).sum()), int((gain < 0).sum())
    return Comparison(
        difference=float(np.median(a) - np.median(b)) * (1.0 if maximise else -1.0),
        lowest=float(gain.min()),
        highest=float(gain.max()),
        wins=wins,
        ties=len(gain) - wins - losses,
        losses=losses,
    )


def relative_improvement(score: float, random_scores: Sequence[float]) -> float:
    """By how many per cent ``score`` exceeds the mean of random architectures trained identically.

    100 (a - r) / r for scores where higher is better, such as accuracies (Yang, Esperança and Carlucci 2020).
    ValueError unless the mean r is positive.
    """
    values = np.asarray(random_scores, dtype=np.float64)
    mean = float(values.mean()) if values.size else 0.0
    if not 0.0 < mean < np.inf:
        raise ValueError("the mean of the random scores must be positive and finite")
    return 100.0 * (score - mean) / mean


def performance_profile(errors: ArrayLike, taus: ArrayLike) -> Floats:
    """Share of the tasks on which each method comes within ``taus`` times the smallest error of any method.

    ``errors``: methods x tasks, not negative; ``taus``: factors >= 1; the result: methods x taus (Dolan and
    Moré 2002). Where the smallest error is zero, only methods without error are within any factor, so that a
    profile need not reach 1. ValueError if a value is not finite or out of range.
    """
    values, factors = _errors(errors), np.asarray(taus, dtype=np.float64)
    if factors.ndim != 1 or not (factors >= 1).all():
        raise ValueError("taus must be a vector of factors of at least 1")
    # Errors printed as 0.010 and 0.011 stand in the ratio 1.1, whatever the last bit says.
    slack = 1 + 1e-12
    shares: Floats = np.mean(_ratios(values)[:, None, :] <= factors[:, None] * slack, axis=2)
    return shares


def geometric_mean_ratio(errors: ArrayLike) -> Floats:
    """Geometric mean over tasks of each method's error divided by the smallest error of any method.

    ``errors``: methods x tasks, not negative; the result: one value >= 1 per method. A task's zero minimum
    counts as ratio 1 for methods without error and makes the mean of the others infinite. ValueError if an
    error is negative or not finite.
    """
    means: Floats = np.exp(np.mean(np.log(_ratios(_errors(errors))), axis=1))
    return means


def _errors(errors: ArrayLike) -> Floats:
    values = np.asarray(errors, dtype=np.float64)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"errors must be methods x tasks, not of shape {values.shape}")
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError("errors must be finite and not negative")
    return values


def _ratios(errors: Floats) -> Floats:
    """errors / smallest error of the task, with 0 / 0 = 1."""
    least = np.broadcast_to(errors.min(axis=0), errors.shape)
    result: Floats = np.where(errors > 0, np.inf, 1.0)
    np.divide(errors, least, out=result, where=least > 0)
    return result
