"""What tells whether a one-shot search works: how its mixture develops, and what its weights are worth.

Kept in the folder of a space as time series. Importing this does not import torch, so that a folder is read
quickly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nasfw.caches import written
from nasfw.junctions import Junction
from nasfw.values import Architecture, Measure, Option, Record

FILE = "diagnostics.json"

# A mixture of which the entropy is at least this share of the largest possible one prefers nothing.
_UNDECIDED = 0.98
# More than this share of the edges kept being skip connections is a collapse.
_SKIPPED = 0.5
# A training loss that falls to more than this share of that of the first epoch hardly fell.
_LEARNT = 0.98
# By how much the smoothed eigenvalue may grow; Zela et al. 2020, section 4.3, stop at 4 / 3.
_SHARPER = 4 / 3
_SMOOTHED, _APART = 5, 4
# Ranks of fewer architectures say nothing.
_LEAST = 4


@dataclass(frozen=True)
class Moment:
    """One epoch of a one-shot search, from 1 on; None is what is not known.

    ``loss`` is the mean training loss of the weights; ``entropy`` the mean over decisions of the mixture's
    entropy, as a share of the largest possible; ``skips`` the share of skip connections among the edges that
    the mixture prefers; ``eigenvalue`` the largest one of the validation loss's Hessian with respect to the
    mixture's logits. ``preferred`` is the architecture that the mixture
    prefers. ``discarded`` says that the search returned to an earlier state.
    """

    epoch: int
    loss: float | None = None
    entropy: float | None = None
    skips: float | None = None
    eigenvalue: float | None = None
    preferred: Architecture | None = None
    discarded: bool = False

    @classmethod
    def plain(cls, content: Mapping[str, Any]) -> Moment:
        """A moment from its fields as JSON values."""
        preferred = content["preferred"]
        return cls(**{**content, "preferred": None if preferred is None else tuple(preferred)})


@dataclass(frozen=True)
class Rating:
    """An architecture and its first objective on the validation split with the supernet's weights.

    ``drawn`` says whether it was drawn uniformly rather than proposed.
    """

    choices: Mapping[str, Option]
    value: float
    drawn: bool


@dataclass(frozen=True)
class Diagnostics:
    """The time series of a one-shot search, and the ratings that its supernet gave."""

    moments: tuple[Moment, ...] = ()
    ratings: tuple[Rating, ...] = ()
    notes: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        """Write the file in the folder of a space, all of it or nothing."""
        with written(folder / FILE) as stream:
            stream.write(json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> Diagnostics | None:
        """What ``write`` wrote; None if there is nothing that can be read."""
        try:
            content = json.loads((folder / FILE).read_text())
            return cls(
                tuple(map(Moment.plain, content["moments"])),
                tuple(Rating(**r) for r in content["ratings"]),
                tuple(map(str, content["notes"])),
            )
        except (OSError, ValueError, KeyError, TypeError):
            # They say how a search went; what it found does not depend on them.
            return None

    def series(self, name: str, kept: bool = False) -> list[tuple[int, float]]:
        """The known values of one of a moment's numbers, with their epochs; of those ``kept``, or of all."""
        pairs = [(m.epoch, getattr(m, name)) for m in self.moments if not (kept and m.discarded)]
        return [(epoch, value) for epoch, value in pairs if value is not None]


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau between ratings with a supernet's weights and values of standalone trainings."""

    tau: float
    count: int


@dataclass
class History:
    """The moments and notes so far, as a part of a checkpoint; ``gradients`` were for eigenvalues."""

    moments: list[Moment] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gradients: int = 0

    def discard(self, after: int) -> None:
        """Mark the moments after the epoch ``after``: the search returned to the state that it had then."""
        self.moments = [replace(m, discarded=m.discarded or m.epoch > after) for m in self.moments]

    def state_dict(self) -> dict[str, Any]:
        """As plain values."""
        moments = [asdict(m) for m in self.moments]
        return {"moments": moments, "notes": list(self.notes), "gradients": self.gradients}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave."""
        self.moments = [Moment.plain(m) for m in state_dict["moments"]]
        self.notes = list(state_dict["notes"])
        self.gradients = state_dict["gradients"]


def entropy(weights: Iterable[Sequence[float]]) -> float | None:
    """Mean over decisions of -sum p log p / log n of the weights p of n options; None without a choice."""
    shares = []
    for row in weights:
        p = np.asarray(row, dtype=np.float64)
        if len(p) < 2 or not p.sum() > 0:
            continue
        p = p / p.sum()
        shares.append(float(-(p[p > 0] * np.log(p[p > 0])).sum() / math.log(len(p))))
    return float(np.mean(shares)) if shares else None


def skip_share(
    architecture: Architecture, junctions: Sequence[Junction], skips: frozenset[Option]
) -> float | None:
    """Share of skip connections among the edges that are kept; None if the space has no skip connections."""
    if not skips:
        return None
    absent = {i: j.absent for j in junctions if j.selects for i in j.decisions}
    kept = [o for i, o in enumerate(architecture) if i not in absent or o != absent[i]]
    return sum(o in skips for o in kept) / max(1, len(kept))


def agreement(
    ratings: Iterable[Rating], records: Iterable[Record], measure: Measure, drawn: bool = True
) -> Agreement | None:
    """How far the ``ratings`` rank as the standalone trainings in ``records`` do; None with fewer than 4.

    Of the architectures that were ``drawn`` uniformly, or of all: a ranking of proposals alone is about
    architectures that the ratings chose.
    """
    pairs = [(r.value, v) for r, v in matched(ratings, records, measure) if r.drawn or not drawn]
    if len(pairs) < _LEAST:
        return None
    one, other = np.array(pairs).T
    tau = kendall_tau(one, other)
    return None if math.isnan(tau) else Agreement(tau, len(pairs))


def matched(
    ratings: Iterable[Rating], records: Iterable[Record], measure: Measure
) -> list[tuple[Rating, float]]:
    """Each rated architecture that was trained standalone, once, with its value in the first such record."""
    trained: dict[tuple[tuple[str, Option], ...], float] = {}
    for record in records:
        if record.error is None and not record.inherited and measure.name in record.values:
            trained.setdefault(_key(record.choices), record.values[measure.name])
    rated = {_key(r.choices): r for r in ratings}
    return [(rating, trained[key]) for key, rating in rated.items() if key in trained]


def kendall_tau(one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray) -> float:
    """Kendall's rank correlation tau-b (with ties); nan if all values of one side are equal."""
    # Only here, since it takes a second to import.
    from scipy.stats import kendalltau

    return float(kendalltau(one, other).statistic)


def alarms(found: Diagnostics, agreed: Agreement | None = None) -> list[str]:
    """Why the outcome of a one-shot search may be worth little; nothing if no reason is known."""
    reasons = []
    skips = found.series("skips", kept=True)
    if skips and skips[-1][1] > _SKIPPED:
        reasons.append(
            f"skip connections take {100 * skips[-1][1]:.0f} % of the edges: the search collapsed, as "
            "differentiable searches do that train for long"
        )
    losses = [value for _, value in found.series("loss", kept=True)]
    if len(losses) > 1 and losses[-1] > _LEARNT * losses[0]:
        reasons.append(
            f"the supernet hardly learnt: its training loss went from {losses[0]:.3g} to "
            f"{losses[-1]:.3g}; train it for longer, or with another learning rate"
        )
    growth = sharpening([value for _, value in found.series("eigenvalue", kept=True)])
    if growth is not None and growth > _SHARPER:
        reasons.append(
            f"the validation loss became {growth:.2f} times as sharp in the mixture as it had been shortly "
            "before: its largest eigenvalue grew, and what is read off such a mixture is often bad"
        )
    mixed = found.series("entropy", kept=True)
    if mixed and mixed[-1][1] >= _UNDECIDED:
        reasons.append(
            f"the mixture hardly prefers anything (entropy {mixed[-1][1]:.3f} of 1): train the supernet for "
            "longer, or with a larger strategy.mixture_lr"
        )
    if agreed is not None and agreed.tau <= 0:
        reasons.append(
            f"the supernet's weights rank {agreed.count} architectures no better than chance (Kendall's tau "
            f"{agreed.tau:.2f})"
        )
    return reasons


def sharpening(eigenvalues: Sequence[float]) -> float | None:
    """By how much the smoothed ``eigenvalues`` grew over four computations, and stayed; None if unknown.

    Smoothed is the mean of the last five; what it fell to later does not count as growth.
    """
    if len(eigenvalues) < _SMOOTHED + _APART:
        return None
    smooth = np.convolve(eigenvalues, np.full(_SMOOTHED, 1 / _SMOOTHED), mode="valid")
    # Of a loss that is flat, or curves down, nothing is a multiple.
    lasting = np.minimum.accumulate(smooth[::-1])[::-1]
    pairs = zip(smooth[:-_APART].tolist(), lasting[_APART:].tolist(), strict=True)
    return max((now / then for then, now in pairs if then > 0), default=None)


def _key(choices: Mapping[str, Option]) -> tuple[tuple[str, Option], ...]:
    return tuple(choices.items())
