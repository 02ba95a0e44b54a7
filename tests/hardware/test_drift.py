"""Times that are made of networks' own times and of drifts, which must be told apart."""

import numpy as np
import pytest

from nasfw.hardware.drift import adjust

EXACT = 1e-9


def turns(own, drift, rounds, size, seed=0):
    """Members and seconds of groups of ``size`` networks; ``drift(group, level)`` is a factor's logarithm."""
    rng = np.random.default_rng(seed)
    members, seconds, count = [], [], 0
    for _ in range(rounds):
        for part in np.array_split(rng.permutation(len(own) - 2), -(-(len(own) - 2) // size)):
            members.append([0, 1, *(part + 2)])
            seconds.append(
                [float(np.exp(np.log(own[i]) + drift(count, np.log(own[i])))) for i in members[-1]]
            )
            count += 1
    return members, seconds


def relative(adjusted):
    """Seconds of the networks, in units of what each is compared with."""
    return np.exp(adjusted.levels[2:] - adjusted.scale(adjusted.levels[:2]))


@pytest.mark.parametrize(("networks", "size"), [(1, 1), (2, 2), (7, 3), (20, 8)])
def test_what_slows_down_a_whole_group_cancels(networks, size):
    rng = np.random.default_rng(networks)
    own = np.exp(rng.uniform(-6, -2, networks + 2))
    own[1] = 3 * own[0]
    factors = rng.normal(0, 1.0, 1000)
    adjusted = adjust(*turns(own, lambda group, _: factors[group], 9, size))
    share = np.clip(np.log(own[2:] / own[0]) / np.log(3), 0, 1)
    assert adjusted.shares[2:] == pytest.approx(share, abs=EXACT)
    assert relative(adjusted) == pytest.approx(own[2:] / own[0] ** (1 - share) / own[1] ** share, rel=EXACT)
    # All that is left of a network's times is one and the same.
    assert adjusted.times.shape == (networks, 9)
    assert np.ptp(adjusted.times, axis=1) == pytest.approx(0, abs=EXACT)


def test_one_network_is_compared_with_the_weighted_mean_of_both_canaries():
    """Closed form: the median over rounds of t / (s^(1-w) l^w)."""
    rng = np.random.default_rng(0)
    times = np.array([1e-3, 9e-3, 3e-3]) * np.exp(rng.normal(0, 0.3, (15, 3)))
    adjusted = adjust([[0, 1, 2]] * 15, times.tolist())
    w = adjusted.shares[2]
    assert 0 < w < 1
    assert adjusted.shares[:2].tolist() == [0, 1]
    ratios = times[:, 2] / times[:, 0] ** (1 - w) / times[:, 1] ** w
    free = adjusted.times[0] - adjusted.scale(adjusted.levels[:2])[0]
    assert free == pytest.approx(np.log(ratios), abs=1e-9)
    assert relative(adjusted) == pytest.approx(np.median(ratios), rel=1e-9)


def test_networks_help_to_tell_how_slow_their_group_was():
    """Beside loud canaries, networks in changing groups of five compare far better than by canaries alone."""
    own = np.geomspace(1e-3, 2e-3, 22)
    drifts = np.random.default_rng(0).normal(0, 0.5, 1000)
    errors = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        members, seconds = turns(own, lambda group, _: drifts[group], 20, 5, seed)
        loud = [
            [t * float(np.exp(rng.normal(0, 0.2 if i < 2 else 0.002))) for i, t in zip(*run, strict=True)]
            for run in zip(members, seconds, strict=True)
        ]
        ratios = {i: [] for i in range(2, 22)}
        for group, row in zip(members, loud, strict=True):
            for i, t in zip(group[2:], row[2:], strict=True):
                ratios[i].append(np.log(t) - np.mean(np.log(row[:2])))
        alone = np.array([np.median(r) for r in ratios.values()])
        levels = adjust(members, loud).levels[2:]
        errors.append([np.std(found - np.log(own[2:])) for found in (levels, alone)])
    ours, canaries_alone = np.mean(errors, axis=0)
    assert ours < 0.1 * canaries_alone


@pytest.mark.parametrize("size", [3, 10])
def test_small_and_large_networks_may_be_slowed_down_differently(size):
    """By a factor that grows with the logarithm of a network's time between those of the canaries."""
    own = np.array([1e-3, 8e-3, *np.geomspace(1e-3, 8e-3, 10)])
    rng = np.random.default_rng(1)
    both = rng.normal(0, 0.3, (1000, 2))

    def drift(group, level):
        share = (level - np.log(1e-3)) / np.log(8)
        return both[group] @ (1 - share, share)

    adjusted = adjust(*turns(own, drift, 60, size))
    assert np.median(np.abs(relative(adjusted) - 1)) < 0.03
    assert relative(adjusted) == pytest.approx(np.ones(10), rel=0.1)


def test_a_run_that_goes_wrong_does_not_spoil_its_group():
    own = np.geomspace(1e-3, 4e-3, 8)
    members, seconds = turns(own, lambda *_: 0.0, 11, 6)
    for row in seconds[::2]:
        row[3] *= 50
    adjusted = adjust(members, seconds)
    assert adjusted.levels == pytest.approx(np.log(own), abs=EXACT)
