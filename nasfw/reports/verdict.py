"""Whether a search beat its yardsticks, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from nasfw.display import format_value
from nasfw.networks import Network
from nasfw.reports.words import difference, label
from nasfw.results import Result
from nasfw.values import Measure

# A cost that is at most this share of the plain backbone's.
_WORTH_SAYING = 0.95


def verdict(result: Result) -> str:
    """One sentence: whether the search beat the plain backbone and equal-budget random search."""
    first = result.summary.measures[0]
    parts = []
    if result.pick is not None and result.plain is not None:
        if is_plain(result):
            parts.append("did not beat the plain backbone, which it chose unchanged")
        else:
            parts.append(_against(result, result.plain, "the plain backbone", first))
    if result.random is not None:
        parts.append(_against(result, result.random, "equal-budget random search", first))
    said = [f"The search {', and it '.join(p for p in parts if p)}."] if any(parts) else []
    return " ".join([*said, *_bargains(result)])


def is_plain(result: Result) -> bool:
    """Whether the search chose the plain backbone unchanged."""
    pick, plain = result.pick, result.plain
    return pick is not None and plain is not None and pick.architecture == plain.architecture


def _bargains(result: Result) -> Iterator[str]:
    """For each cost, the network that saves most of it and is no worse than the plain backbone."""
    plain, (first, *costs) = result.plain, result.summary.measures
    if plain is None:
        return
    sign = 1.0 if first.maximise else -1.0
    good = [n for n in result.front if sign * n.median[first.name] >= sign * plain.median[first.name]]
    for measure in costs:
        if measure.maximise or not good or plain.median[measure.name] <= 0:
            continue
        best = min(good, key=lambda n: n.median[measure.name])
        share = best.median[measure.name] / plain.median[measure.name]
        if share < _WORTH_SAYING:
            ours, theirs = (format_value(n.median[first.name], first.unit, first.name) for n in (best, plain))
            yield (
                f"Network {best.name} needs {share:.2f} times the {label(measure, result)} of the plain "
                f"backbone and is no worse ({label(first, result)} {ours} against {theirs})."
            )


def _against(result: Result, other: Network, name: str, measure: Measure) -> str:
    comparison = result.against(other)
    if comparison is None or result.pick is None:
        return ""
    seeds = sorted(set(result.pick.seeds) & set(other.seeds))
    ours, theirs = (_per_seed(n, seeds, measure) for n in (result.pick, other))
    plural = f"seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}"
    figures = f"({label(measure, result)} {ours} against {theirs} with {plural})"
    amount = difference(abs(comparison.difference), measure)
    doubt = _doubt(result, result.pick, other, measure)
    if len(seeds) > 1:
        amount += " in the median"
        figures = f"{figures[:-1]}, {comparison.wins} of {len(seeds)} better)"
    if comparison.verdict == "beat":
        return f"beat {name} by {amount}{doubt} {figures}"
    if comparison.verdict == "tied":
        return f"did not beat {name}: they are equal{' in the median' if len(seeds) > 1 else ''} {figures}"
    behind = (
        f"it is {amount} behind{doubt}" if comparison.difference < 0 else "it was not better with most seeds"
    )
    return f"did not beat {name}: {behind} {figures}"


def _doubt(result: Result, one: Network, other: Network, measure: Measure) -> str:
    """That the samples are too few for the difference, if they are: for shares of samples that are wrong."""
    split = "test" if result.phase == "final" else "valid"
    count, shares = result.summary.samples.get(split), [n.median[measure.name] for n in (one, other)]
    if not count or result.summary.metric != "error" or measure.name not in ("accuracy", "error"):
        return ""
    # Two standard deviations of the difference of two such shares that were independent.
    p = min(1.0, max(0.0, sum(shares) / 2))
    if abs(shares[0] - shares[1]) > 2 * math.sqrt(2 * p * (1 - p) / count):
        return ""
    return f", which {count} {'test' if split == 'test' else 'validation'} samples cannot tell from chance"


def _per_seed(network: Network, seeds: Sequence[int], measure: Measure) -> str:
    values = dict(zip(network.seeds, network.values[measure.name], strict=True))
    texts = [format_value(values[s], measure.unit, measure.name) for s in seeds]
    # One percent sign is enough.
    return " / ".join(t.removesuffix(" %") for t in texts) + (" %" if texts[0].endswith(" %") else "")
