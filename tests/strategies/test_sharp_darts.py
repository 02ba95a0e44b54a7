"""SharpDARTS: cosine power annealing and Max-W by their formulas."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nasfw.contracts import Problem
from nasfw.strategies.darts import Darts
from nasfw.strategies.sharp_darts import SharpDarts, cosine_power, max_w
from nasfw.testing import Free, ToyCells, ToySpace, ToyTask, Wrong


@pytest.mark.parametrize("power", [1.0, 2.0, 10.0, 100.0])
def test_the_annealing_falls_from_one_to_zero(power):
    values = [cosine_power(k / 50, power) for k in range(51)]
    assert values[0] == 1.0
    assert values[-1] == pytest.approx(0.0, abs=1e-15)
    assert values == sorted(values, reverse=True)


def test_with_a_power_of_one_it_is_the_cosine():
    """And its limit: (p^c - 1) / (p - 1) tends to c."""
    for done in (0.0, 0.25, 0.5, 0.9, 1.0):
        cosine = (1 + math.cos(math.pi * done)) / 2
        assert cosine_power(done, 1.0) == cosine
        assert cosine_power(done, 1.0 + 1e-7) == pytest.approx(cosine, abs=1e-6)


def test_it_is_its_formula_at_the_half_and_falls_faster_for_larger_powers():
    """Where the cosine is 1 / 2: (sqrt(p) - 1) / (p - 1) = 1 / (sqrt(p) + 1)."""
    for power in (2.0, 10.0, 100.0):
        assert cosine_power(0.5, power) == pytest.approx(1 / (math.sqrt(power) + 1), rel=1e-12)


def problem(folder, space=None, task=None, **recipe):
    task = task or ToyTask()
    recipe = replace(task.recipe, **recipe)
    return Problem(space or ToyCells(task), task, [Wrong()], recipe, 3, Path(folder))


def trained(strategy, p, evaluate=None):
    torch.manual_seed(0)
    return strategy.train(p, evaluate or Free())


class Halts(Free):
    """Ends the search after its second epoch."""

    def spend(self, passes):
        super().spend(passes)
        return len(self.passes) < 2


def test_the_weights_learning_rate_is_annealed_so(tmp_path):
    """After two of five epochs of two steps each, four tenths are done."""
    search = trained(SharpDarts(epochs=5, power=7.0), problem(tmp_path, lr=0.3), Halts())
    assert search.rate == pytest.approx(0.3 * cosine_power(0.4, 7.0), rel=1e-12)


def test_the_strongest_option_counts_with_one():
    """And the others with what they have less than it."""
    found = max_w(torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([0.7, 1.0, 0.8], dtype=torch.float64))


def test_the_maximum_passes_no_gradient_on():
    """The gradient of 1 - max(w) + w is that of w: the maximum's own would take away the sum of all."""
    logits = torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    slope = torch.linspace(-1, 2, 5, dtype=torch.float64)
    (found,) = torch.autograd.grad(max_w(torch.softmax(logits, 0)) @ slope, logits)
    (plain,) = torch.autograd.grad(torch.softmax(logits, 0) @ slope, logits)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-15)
    shares = torch.softmax(logits, 0)
    (other,) = torch.autograd.grad((1 - shares.max() + shares) @ slope, logits)
    assert (other - plain).norm() > 0.1


@pytest.mark.parametrize("mixed", [True, False])
def test_the_supernet_sees_the_raised_weights_and_shares_are_read_off(tmp_path, mixed):
    search = trained(SharpDarts(epochs=1), problem(tmp_path, ToyCells(ToyTask(), mixed=mixed)))
    for weights, shares, logits in zip(search.mixture, search.preferences, search.outer, strict=True):
        first = len(weights) - len(logits)
        share = torch.softmax(logits.detach(), 0)
        torch.testing.assert_close(shares[first:], share)
        torch.testing.assert_close(weights[first:], 1 - share.max() + share)
        assert weights[:first].tolist() == shares[:first].tolist() == [0.0] * first


def test_edges_are_chosen_by_their_shares_on_the_way_as_at_the_end(tmp_path):
    """The raised weight of every edge's strongest option is 1, which would keep the first edges of a node."""
    search = trained(SharpDarts(epochs=2, mixture_lr=1e-9), problem(tmp_path))
    with torch.no_grad():
        for i, row in enumerate(search.outer):
            row.zero_()[1] = float(i)
    preferred = search.problem.space.discretise(search.preferences)
    assert preferred[2:5] == ("none", "skip", "skip")
    search.epoch = 1
    search._observe(1, None)
    assert search.history.moments[-1].preferred == preferred
    assert search.history.moments[-1].entropy < 0.99


def test_without_both_it_is_darts(tmp_path):
    """To the last bit, with the recipe's cosine."""
    space = ToySpace(ToyTask())
    one = trained(SharpDarts(epochs=4, power=1.0, max_w=False), problem(tmp_path / "sharp", space))
    other = trained(Darts(epochs=4), problem(tmp_path / "darts", space, schedule="cosine"))
    pairs = zip([*one.outer, *one.weights], [*other.outer, *other.weights], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_mixture_learns_which_option_is_useful(tmp_path):
    """A layer scaled by 0 hides its input, so only the scale 1 can tell the classes apart."""
    task = ToyTask(samples=300, epochs=15)
    p = problem(tmp_path, ToySpace(task, (0.0, 1.0)), task)
    search = trained(SharpDarts(mixture_lr=0.02), p)
    assert p.space.discretise(search.preferences) == (1.0, 1.0)
