"""DARTS: its hypergradients on a real supernet, by finite differences and closed forms."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from nasfw import training
from nasfw.contracts import Problem, Recipe, SearchSpace, Supernet
from nasfw.oneshot import Search
from nasfw.strategies.darts import Darts, adam, hypergradient
from nasfw.testing import Free, ToyCells, ToySpace, ToyTask, Wrong
from nasfw.workloads import Work


@dataclass(frozen=True)
class PreciseTask(ToyTask):
    """The toy task in double precision."""

    def batches(self, split, batch_size=256, generator=None):
        for x, y in super().batches(split, batch_size, generator):
            yield x.double(), y


@dataclass(frozen=True)
class PreciseCells(ToyCells):
    def supernet(self):
        return super().supernet().double()


class Shaping(nn.Linear):
    """A layer whose weights are a transform."""

    def transforms(self):
        return [self.weight]


@dataclass(frozen=True)
class ShapedCells(PreciseCells):
    def supernet(self):
        found = super().supernet()
        found.cell.head = Shaping(found.cell.head.in_features, found.cell.head.out_features).double()
        return found


def precise(folder, recipe, kind=PreciseCells):
    """A search with momentum in its optimiser, at some mixture that is not even, in double precision."""
    torch.manual_seed(0)
    task = PreciseTask()
    problem = Problem(kind(task), task, [Wrong()], recipe, 3, Path(folder))
    search = Search(problem, Free(), Darts(clip=1e9), Work(mixed=2.0))
    search.outer = search.logits(1.0).double()
    for train, _ in search.pairs():
        search.learn(train, search.mixture)
    train, valid = next(search.pairs())
    return search, train, valid


RECIPE = Recipe(epochs=9, batch_size=16, lr=0.05, momentum=0.9, weight_decay=0.3, schedule="cosine")


def differences(search, value, step=1e-5):
    """The derivatives of ``value()`` with respect to every number in ``search.outer``, from both sides."""
    found = []
    for row in search.outer:
        slope = torch.zeros_like(row)
        for k in range(len(row)):
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    row[k] += sign * step
                sides.append(value())
                with torch.no_grad():
                    row[k] -= sign * step
            slope[k] = (sides[0] - sides[1]) / (2 * step)
        found.append(slope.detach())
    return torch.cat(found)


def after_one_step(search, train, valid):
    """The derivatives of the loss on ``valid`` after a step on ``train`` by the search's own optimiser."""
    parts = [search.supernet, search.optimiser, search.schedule]
    states = [copy.deepcopy(part.state_dict()) for part in parts]

    def value():
        search.learn(train, search.mixture)
        found = search.loss(valid, search.mixture).item()
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(copy.deepcopy(state))
        return found

    return differences(search, value)


@pytest.mark.parametrize(
    "recipe",
    [
        replace(RECIPE, momentum=0.0, weight_decay=0.0),
        replace(RECIPE, weight_decay=0.0),
        RECIPE,
    ],
    ids=["plain", "momentum", "momentum and decay"],
)
def test_the_second_order_is_the_derivative_of_the_loss_after_one_real_step(tmp_path, recipe):
    """Of the optimiser of the weights, with its momentum buffer, Nesterov's correction and decay."""
    search, train, valid = precise(tmp_path, recipe)
    exact = after_one_step(search, train, valid)
    second, first = (torch.cat(hypergradient(search, train, valid, order)) for order in ("second", "first"))
    error = (second - exact).norm()
    assert error < 1e-4 * exact.norm()
    # By far nearer than without the weights' answer, or with a step of another optimiser.
    assert (first - exact).norm() > 100 * error
    for change in ({"nesterov": False}, {"weight_decay": 0.0}, {"momentum": 0.5}):
        if any(search.optimiser.param_groups[0][k] != v for k, v in change.items()) and recipe.momentum:
            group = dict(search.optimiser.param_groups[0])
            search.optimiser.param_groups[0].update(change)
            other = torch.cat(hypergradient(search, train, valid, "second"))
            search.optimiser.param_groups[0].update(group)
            assert (other - exact).norm() > 20 * error


@pytest.mark.parametrize(
    "changes",
    [
        {"transform_lr": 0.02, "transform_momentum": 0.5, "transform_decay": 0.0},
        {"transform_lr": 0.02, "transform_momentum": 0.0},
        {"transform_warmup": 9},
    ],
    ids=["another momentum", "no momentum", "at rest"],
)
def test_the_step_of_the_second_order_is_of_transforms_as_they_are_trained(tmp_path, changes):
    """With their own rate, momentum and decay; by far nearer than with those of the weights."""
    search, train, valid = precise(tmp_path, replace(RECIPE, **changes), ShapedCells)
    exact = after_one_step(search, train, valid)
    error = (torch.cat(hypergradient(search, train, valid, "second")) - exact).norm()
    assert error < 1e-4 * exact.norm()
    weights, transforms = search.optimiser.param_groups
    for name in ("lr", "momentum", "nesterov", "weight_decay"):
        transforms[name] = weights[name]
    other = torch.cat(hypergradient(search, train, valid, "second"))
    assert (other - exact).norm() > 20 * error


def test_the_second_order_takes_a_step_of_adam_for_one_of_sgd_of_transforms_alone(tmp_path):
    """The weights keep their momentum in it."""
    recipe = replace(RECIPE, transform_optimizer="adam", transform_lr=0.02)
    search, train, valid = precise(tmp_path, recipe, ShapedCells)
    found = torch.cat(hypergradient(search, train, valid, "second"))
    former, head = search.optimiser, search.supernet.cell.head.weight
    recipe = replace(recipe, transform_optimizer="sgd", transform_momentum=0.0)
    search.optimiser = training.optimizer(search.weights, recipe, [head])
    for old, new in zip(former.param_groups, search.optimiser.param_groups, strict=True):
        new["lr"] = old["lr"]
    for weight in former.param_groups[0]["params"]:
        search.optimiser.state[weight] = former.state[weight]
    exact = after_one_step(search, train, valid)
    assert (found - exact).norm() < 1e-4 * exact.norm()


def test_the_first_order_is_the_partial_derivative(tmp_path):
    search, train, valid = precise(tmp_path, RECIPE)
    with search.statistics_kept():
        exact = differences(search, lambda: search.loss(valid, search.mixture).item())
    found = torch.cat(hypergradient(search, train, valid, "first"))
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("order", ["first", "second", "implicit"])
def test_a_hypergradient_leaves_everything_but_itself_alone(tmp_path, order):
    """Weights, batch statistics, momentum and logits stay, and no weight is left with a gradient."""
    search, train, valid = precise(tmp_path, RECIPE)
    search.optimiser.zero_grad()
    parts = [search.supernet, search.optimiser, search.outer]
    before = [copy.deepcopy(part.state_dict()) for part in parts]
    hypergradient(search, train, valid, order)
    for part, state in zip(parts, before, strict=True):
        assert_same(part.state_dict(), state)
    assert all(p.grad is None for p in (*search.weights, *search.outer))


def test_the_second_order_needs_no_copy_of_the_supernet(tmp_path, monkeypatch):
    """All four losses are its own, with the weights of elsewhere, and no module can be copied."""

    def refused(module, protocol):
        raise AssertionError(f"{type(module).__name__} is copied")

    search, train, valid = precise(tmp_path, RECIPE)
    places, computed = [w.data_ptr() for w in search.weights], []
    search.supernet.register_forward_hook(
        lambda module, x, output: computed.append(module is search.supernet)
    )
    monkeypatch.setattr(nn.Module, "__reduce_ex__", refused)
    hypergradient(search, train, valid, "second")
    assert computed == [True] * 4
    assert [w.data_ptr() for w in search.supernet.parameters()] == places


def assert_same(one, other):
    """Equal numbers in nested states."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, Mapping):
        assert list(one) == list(other)
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


@dataclass(frozen=True)
class Line(ToyTask):
    """Numbers to be fitted by least squares, other ones for validation."""

    def batches(self, split, batch_size=256, generator=None):
        generator = torch.Generator().manual_seed(["train", "valid"].index(split))
        x = torch.randn(32, 4, generator=generator, dtype=torch.float64)
        yield x, torch.randn(32, 3, generator=generator, dtype=torch.float64)

    def loss(self, output, target):
        return (output - target).square().mean()


class _Ridge(Supernet):
    """Linear in its weights W; each number of x is scaled by what the mixture makes of its options."""

    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))

    def features(self, x, mixture):
        scales = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
        scaled = x * torch.stack([row @ scales for row in mixture])
        # Fewer sums than numbers, so that no W makes up for their scales.
        return torch.stack([scaled[:, 0] + scaled[:, 1], scaled[:, 2] + scaled[:, 3]], 1)

    def forward(self, x, mixture):
        return self.features(x, mixture) @ self.W

    def weights(self, architecture):
        return {}


@dataclass(frozen=True)
class Ridge(SearchSpace):
    @property
    def decisions(self) -> Mapping[str, Sequence[float]]:
        return {f"feature{i}": (0.5, 1.0, 2.0) for i in range(4)}

    @property
    def default(self):
        return (1.0,) * 4

    def build(self, architecture):
        return nn.Identity()

    def supernet(self):
        return _Ridge()


def ridge(folder, decay):
    """A search at the minimum of its training loss with decay, and the exact gradient through the minimum."""
    torch.manual_seed(0)
    task = Line()
    recipe = Recipe(epochs=2, batch_size=32, lr=0.5, weight_decay=decay)
    problem = Problem(Ridge(), task, [Wrong()], recipe, 0, Path(folder))
    search = Search(problem, Free(), Darts(), Work(mixed=2.0))
    search.outer = search.logits(1.0).double()
    (train,), (valid,) = task.batches("train"), task.batches("valid")

    def minimum(outer):
        """Of |F W - y|^2 / n + decay / 2 |W|^2 over W, as a function of the logits."""
        F = search.supernet.features(train[0], search.relax(outer))
        n = train[1].numel()
        return torch.linalg.solve(2 * F.T @ F / n + decay * torch.eye(2).double(), 2 * F.T @ train[1] / n)

    outer = [a.detach().requires_grad_() for a in search.outer]
    with torch.no_grad():
        search.supernet.W.copy_(minimum(outer))
    answer = search.supernet.features(valid[0], search.relax(outer)) @ minimum(outer)
    exact = torch.autograd.grad(task.loss(answer, valid[1]), outer)
    return search, train, valid, torch.cat(exact)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_implicit_gradient_is_exact_at_the_minimum(tmp_path, decay):
    """Conjugate gradients take as many steps as there are weights; the decay belongs to the minimum."""
    search, train, valid, exact = ridge(tmp_path, decay)
    found = torch.cat(hypergradient(search, train, valid, "implicit", "cg", steps=6))
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-9)
    first = torch.cat(hypergradient(search, train, valid, "first"))
    assert (first - exact).norm() > 0.1 * exact.norm()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_more_unrolled_steps_come_nearer_to_the_implicit_gradient(tmp_path, decay):
    """A Neumann series of k terms is k steps of descent; the first one alone is what "second" takes."""
    search, train, valid, exact = ridge(tmp_path, decay)
    errors = [
        float((torch.cat(hypergradient(search, train, valid, "implicit", "neumann", k)) - exact).norm())
        for k in (0, 5, 50, 300)
    ]
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 1e-6 * exact.norm()
    search.optimiser.param_groups[0].update(momentum=0.0, nesterov=False)
    second = torch.cat(hypergradient(search, train, valid, "second"))
    none = torch.cat(hypergradient(search, train, valid, "implicit", "neumann", 0))
    torch.testing.assert_close(second, none, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("order", ["first", "second", "implicit"])
def test_the_mixture_learns_which_option_is_useful(tmp_path, order):
    """A layer scaled by 0 hides its input, so only the scale 1 can tell the classes apart."""
    task = ToyTask(samples=300, epochs=15)
    problem = Problem(ToySpace(task, (0.0, 1.0)), task, [Wrong()], task.recipe, 3, tmp_path)
    torch.manual_seed(3)
    search = Darts(order=order, mixture_lr=0.02, solver_steps=2).train(problem, Free())
    assert problem.space.discretise(search.mixture) == (1.0, 1.0)
    assert all(row[1] > 0.55 for row in search.mixture)


def test_the_mixtures_optimiser_is_that_of_the_paper(tmp_path):
    search, *_ = precise(tmp_path, RECIPE)
    (group,) = adam(search, 3e-4, 1e-3).param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (3e-4, (0.5, 0.999), 1e-3)


def test_a_step_of_the_mixture_comes_before_each_step_of_the_weights(tmp_path):
    """On the weights as they are: after a single step of both it is the first hypergradient that is left."""
    task = ToyTask()
    recipe = replace(task.recipe, batch_size=1000, lr=1.0)
    problem = Problem(ToyCells(task), task, [Wrong()], recipe, 3, tmp_path)
    torch.manual_seed(1)
    search = Darts(epochs=1, mixture_lr=1e-9).train(problem, Free())
    torch.manual_seed(1)
    start = Search(problem, Free(), Darts(epochs=1), Work(mixed=2.0))
    start.outer = start.logits()
    gradients = hypergradient(start, *next(start.pairs()))
    for row, gradient in zip(search.outer, gradients, strict=True):
        torch.testing.assert_close(row.grad, gradient, rtol=1e-5, atol=1e-7)
    assert sum(float(g.norm()) for g in gradients) > 1e-3


def test_the_work_counts_gradients():
    """Two of each step; an unrolled one has three more, and each product with the Hessian is two."""
    found = {
        order: Darts(order=order, solver_steps=3)._work.mixed for order in ("first", "second", "implicit")
    }
    assert found == {"first": 2.0, "second": 5.0, "implicit": 2.0 + 2 * 3 + 2}
