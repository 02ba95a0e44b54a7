"""GDAS: one path at a time, with exact gradients of the options that were not drawn."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from nasfw import mixtures
from nasfw.contracts import Problem
from nasfw.strategies.gdas import Gdas, by_samples
from nasfw.testing import Free, ToyCells, ToySpace, ToyTask, Wrong


@dataclass(frozen=True)
class PreciseTask(ToyTask):
    """The toy task in double precision, all of a split at once."""

    def batches(self, split, batch_size=256, generator=None):
        for x, y in super().batches(split, 1000, None):
            yield x.double(), y


@dataclass(frozen=True)
class PreciseCells(ToyCells):
    def supernet(self):
        return super().supernet().double()


def problem(folder, space=None, task=None, **recipe):
    task = task or ToyTask()
    return Problem(space or ToyCells(task), task, [Wrong()], replace(task.recipe, **recipe), 3, Path(folder))


def trained(strategy, p):
    torch.manual_seed(0)
    return strategy.train(p, Free())


SLOPES = torch.tensor([0.5, -1.0, 2.0, 0.25], dtype=torch.float64)


@pytest.mark.parametrize("mixed", [True, False])
def test_an_option_that_was_not_drawn_gets_the_gradient_of_its_output(tmp_path, mixed):
    """The gradient of a logit that opens its gate is the loss's derivative in that gate, by differences.

    Released code takes the outputs of all options that were not drawn for ones. Here each gate passes a
    tenth of its gradient to its own logit alone, so that they can be told apart.
    """
    task = PreciseTask()
    p = problem(tmp_path, PreciseCells(task, mixed), task, lr=0.0, weight_decay=0.0)
    drawn = []

    def draw(logits, done):
        rows = []
        for a in logits:
            gate = torch.zeros(len(a), dtype=torch.float64)
            gate[int(torch.randint(len(a), (1,)))] = 1.0
            rows.append(gate + 0.1 * (a - a.detach()))
        drawn.append([row.detach() for row in rows])
        return rows

    torch.manual_seed(0)
    search = by_samples(p, Free(), Gdas(epochs=1), draw, 1e-30, 0.0)
    path, (valid,) = drawn[0], task.batches("valid")

    def loss(i, k, change):
        moved = [row.clone() for row in path]
        moved[i][k] += change
        with torch.no_grad(), search.statistics_kept():
            return search.loss(valid, [row.requires_grad_(False) for row in search.full(moved)]).item()

    for i, row in enumerate(search.outer):
        slope = [(loss(i, k, 1e-5) - loss(i, k, -1e-5)) / 2e-5 for k in range(len(row))]
        torch.testing.assert_close(
            row.grad.double(), 0.1 * torch.tensor(slope).double(), rtol=1e-4, atol=1e-7
        )
        if i < 5:
            assert sum(abs(s) > 1e-6 for s in slope) == (3 if len(row) > 2 else 2)


@pytest.mark.parametrize(("epochs", "temperature"), [(1, 3.0), (2, 0.5), (5, 0.5)])
def test_the_logits_get_the_gradient_of_the_soft_sample(tmp_path, epochs, temperature):
    """What a draw's gates get goes through the softmax of the same noise at the temperature of the epoch.

    That is the hot one in the first epoch, and the cold one in the last.
    """
    p = problem(tmp_path, lr=0.0, batch_size=1000)
    states = []

    @dataclass(frozen=True)
    class Noted(ToyTask):
        """Notes the state of the random numbers when a batch to validate with is drawn."""

        def batches(self, split, batch_size=256, generator=None):
            for batch in super().batches(split, batch_size, generator):
                if split == "valid":
                    states.append(torch.get_rng_state())
                yield batch

    p = replace(p, task=Noted(), space=ToyCells(Noted()))
    search = trained(Gdas(epochs=epochs, hot=3.0, cold=0.5, mixture_lr=1e-30), p)
    gradients = [row.grad.clone() for row in search.outer]
    torch.set_rng_state(states[epochs - 1])
    path = search.full(mixtures.hard_gumbel(list(search.outer), temperature))
    search.epoch = epochs - 1
    valid = next(search.valid_batches())
    for found, expected in zip(gradients, search.gradients(search.loss(valid, path)), strict=True):
        torch.testing.assert_close(found, expected)
    assert sum(float(g.norm()) for g in gradients) > 1e-3


def test_the_temperature_falls_linearly_over_the_epochs(tmp_path):
    shares = []

    def draw(logits, done):
        shares.append(done)
        return mixtures.hard_gumbel(logits, 1.0)

    by_samples(problem(tmp_path, batch_size=1000), Free(), Gdas(epochs=5), draw, 1e-3, 0.0)
    assert shares == [done for done in (0.0, 0.25, 0.5, 0.75, 1.0) for _ in "mw"]


def test_a_step_of_the_weights_trains_the_options_of_one_path_alone(tmp_path):
    """Another path than that of the mixture's step before it; the stem and the head are in every one."""
    drawn = []

    def draw(logits, done):
        rows = mixtures.hard_gumbel(logits, 1.0)
        drawn.append([row.detach() for row in rows])
        return rows

    p = problem(tmp_path, batch_size=1000, momentum=0.0, weight_decay=0.1)
    torch.manual_seed(0)
    before = dict(p.space.supernet().named_parameters())
    torch.manual_seed(0)
    search = by_samples(p, Free(), Gdas(epochs=1), draw, 1e-3, 0.0)
    (_, path), options = drawn, list(p.space.decisions.values())
    chosen = {f"edges.{i}.{options[i][int(path[i].argmax())]}." for i in range(5)}
    for name, weight in search.supernet.named_parameters():
        used = any(c in name for c in chosen) if "edges." in name else True
        assert torch.equal(weight, before[name]) != used


@pytest.mark.parametrize("scales", [(0.0, 1.0), (1.0, 0.0)])
def test_the_mixture_learns_which_option_is_useful(tmp_path, scales):
    """A layer scaled by 0 hides its input, so only the scale 1 can tell the classes apart."""
    task = ToyTask(samples=300, epochs=15)
    p = problem(tmp_path, ToySpace(task, scales), task)
    search = trained(Gdas(mixture_lr=0.05), p)
    assert p.space.discretise(search.mixture) == (1.0, 1.0)
