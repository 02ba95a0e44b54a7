"""GAEA: mirror descent stays on the simplex, by its closed form."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from nasfw.contracts import Problem
from nasfw.strategies.gaea import Gaea
from nasfw.testing import Free, ToyCells, ToySpace, ToyTask, Wrong

FLOOR = 1e-5


def simplex(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(torch.randn(n, generator=generator, dtype=torch.float64), 0)


def moved(row, gradient, **parameters):
    row = row.clone()
    Gaea(**parameters).descend([row], [gradient])
    return row


@pytest.mark.parametrize("rate", [0.01, 0.1, 2.0])
@pytest.mark.parametrize("n", [2, 5])
def test_a_step_is_the_softmax_of_the_log_minus_the_gradient(rate, n):
    """p exp(-rate g), normalised."""
    row = simplex(n)
    gradient = torch.randn(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = moved(row, gradient, mixture_lr=rate)
    torch.testing.assert_close(found, torch.softmax(row.log() - rate * gradient, 0), rtol=1e-12, atol=1e-15)
    products = row * torch.exp(-rate * gradient)
    torch.testing.assert_close(found, products / products.sum(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("gradient", [-3.0, 0.0, 1e6])
def test_a_gradient_that_is_constant_over_a_row_changes_nothing(gradient):
    row = simplex(4)
    found = moved(row, torch.full_like(row, gradient))
    torch.testing.assert_close(found, row, rtol=1e-9, atol=0)


@pytest.mark.parametrize("size", [0.1, 10.0, 1e6])
def test_rows_stay_on_the_simplex_and_above_the_floor(size):
    """Whatever the gradients are; released code has the floor after the sum is 1, which makes it more."""
    generator = torch.Generator().manual_seed(0)
    row, strategy = simplex(6), Gaea()
    for _ in range(50):
        gradient = size * torch.randn(6, generator=generator, dtype=torch.float64)
        strategy.descend([row], [gradient])
        assert float(row.sum()) == pytest.approx(1.0, abs=1e-15)
        assert float(row.min()) >= FLOOR / (1 + 6 * FLOOR)


def test_what_was_given_up_comes_back():
    """At the floor an option is 1e-5; a gradient of -1 at rate 0.1 makes it exp(0.1) times as much."""
    row = moved(torch.tensor([0.5, 0.5], dtype=torch.float64), torch.tensor([1e9, 0.0]).double())
    assert row.tolist() == pytest.approx([FLOOR / (1 + FLOOR), 1 / (1 + FLOOR)], rel=1e-9)
    again = moved(row, torch.tensor([-1.0, 0.0]).double())
    assert float(again[0] / again[1]) == pytest.approx(math.exp(0.1) * FLOOR, rel=1e-9)


def test_an_adaptive_step_does_not_depend_on_the_size_of_the_gradient():
    """It is that of the gradient over its largest entry; no gradient, no step."""
    row, gradient = simplex(4), torch.tensor([0.5, -2.0, 1.0, 0.0], dtype=torch.float64)
    expected = moved(row, gradient / 2.0)
    for factor in (1e-6, 1.0, 1e6):
        found = moved(row, factor * gradient, adaptive=True)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
    still = moved(row, torch.zeros_like(row), adaptive=True)
    torch.testing.assert_close(still, row, rtol=1e-12, atol=0)


def test_rows_share_the_adaptive_step():
    """A row that the loss hardly depends on hardly moves."""
    rows = [simplex(3), simplex(3)]
    gradients = [torch.tensor([1.0, 0.0, -4.0]).double(), 1e-9 * torch.tensor([1.0, 0.0, -1.0]).double()]
    expected = [moved(row, g / 4.0) for row, g in zip(rows, gradients, strict=True)]
    found = [row.clone() for row in rows]
    Gaea(adaptive=True).descend(found, gradients)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found[1], rows[1], rtol=1e-8, atol=0)


def test_the_entropy_is_a_penalty_of_the_loss():
    """The step with it is the step of the gradient of g.p + weight * sum p log(p n); it evens out."""
    row, gradient = simplex(5), torch.linspace(-1, 1, 5, dtype=torch.float64)
    p = row.clone().requires_grad_()
    (whole,) = torch.autograd.grad(gradient @ p + 0.3 * (p * (5 * p).log()).sum(), p)
    torch.testing.assert_close(moved(row, gradient, entropy=0.3), moved(row, whole), rtol=1e-12, atol=1e-15)
    evener = moved(row, torch.zeros_like(row), entropy=0.3)
    assert float(-(evener * evener.log()).sum()) > float(-(row * row.log()).sum())


def problem(folder, task=None, space=None, **recipe):
    task = task or ToyTask()
    recipe = replace(task.recipe, **recipe)
    return Problem(space or ToyCells(task), task, [Wrong()], recipe, 3, Path(folder))


def trained(strategy, p):
    torch.manual_seed(0)
    return strategy.train(p, Free())


def test_the_mixture_starts_even_and_is_its_own_parameter(tmp_path):
    search = trained(
        Gaea(epochs=1, mixture_lr=1e-9), problem(tmp_path, space=ToyCells(ToyTask(), mixed=False))
    )
    for row, size in zip(search.outer, [3] * 5 + [2], strict=True):
        torch.testing.assert_close(row.detach(), torch.full((size,), 1 / size))
    for row, weights in zip(search.outer, search.mixture, strict=True):
        torch.testing.assert_close(weights[len(weights) - len(row) :], row.detach())


@pytest.mark.parametrize(
    "strategy", [Gaea(epochs=6, mixture_lr=3.0, edges=True), Gaea(epochs=6, mixture_lr=3.0)]
)
def test_after_a_training_all_rows_sum_to_one(tmp_path, strategy):
    """Those of options, and of edges at each node, so that a node's mixture does as well."""
    search = trained(strategy, problem(tmp_path))
    assert len(search.outer) == (8 if strategy.edges else 6)
    for row in search.outer:
        assert float(row.detach().sum()) == pytest.approx(1.0, abs=1e-6)
        assert float(row.detach().std()) > 1e-3
    totals = [float(row.sum()) for row in search.mixture]
    nodes = (sum(totals[:2]), sum(totals[2:5])) if strategy.edges else totals
    assert list(nodes) == pytest.approx([1.0] * len(nodes), abs=1e-6)


@dataclass(frozen=True)
class Liar(ToyTask):
    """The labels to validate with are those of another class, if it lies."""

    lies: bool = True

    def _data(self, split):
        x, y = super()._data(split)
        return x, (y + 1) % 3 if self.lies and split == "valid" else y


def test_a_single_level_search_does_not_look_at_the_validation_split(tmp_path):
    """With two levels, other labels there lead to another mixture."""
    for single in (True, False):
        found = []
        for lies in (True, False):
            strategy = Gaea(epochs=2, single_level=single)
            p = problem(tmp_path / f"{single}{lies}", Liar(lies=lies))
            found.append(trained(strategy, p).mixture)
        same = all(torch.equal(a, b) for a, b in zip(*found, strict=True))
        assert same == single


@pytest.mark.parametrize("scales", [(0.0, 1.0), (1.0, 0.0)])
def test_the_mixture_learns_which_option_is_useful(tmp_path, scales):
    """A layer scaled by 0 hides its input, so only the scale 1 can tell the classes apart."""
    task = ToyTask(samples=300, epochs=15)
    p = problem(tmp_path, task, ToySpace(task, scales))
    search = trained(Gaea(), p)
    assert p.space.discretise(search.mixture) == (1.0, 1.0)
    assert all(float(row.max()) > 0.7 for row in search.mixture)
