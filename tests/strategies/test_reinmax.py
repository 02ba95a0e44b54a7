"""ReinMax, whose gradient is tested with the mixtures: what the strategy makes of it."""

from dataclasses import dataclass, replace

import pytest
import torch

from nasfw.contracts import Problem
from nasfw.strategies.reinmax import ReinMax
from nasfw.testing import Free, ToySpace, ToyTask, Wrong


@dataclass(frozen=True)
class Square(ToyTask):
    """The mean squared distance of the outputs from the inputs: quadratic in what an output is linear in."""

    def loss(self, output, target):
        return (output - torch.nn.functional.one_hot(target, 3)).square().mean()


@dataclass(frozen=True)
class Last(ToySpace):
    """The first decision has one option, so that the output is linear in the mixture."""

    @property
    def decisions(self):
        return {"first": (1.0,), "second": self.scales}

    @property
    def default(self):
        return (1.0, 1.0)

    def supernet(self):
        made = super().supernet()
        forward = made.forward
        made.forward = lambda x, mixture: forward(x, [torch.tensor([0.0, 1.0, 0.0]), mixture[1]])
        return made


@dataclass(frozen=True)
class Draws(Square):
    """Draws on from another seed once the search has begun."""

    seed: int = 0

    def batches(self, split, batch_size=256, generator=None):
        for batch in super().batches(split, batch_size, generator):
            torch.manual_seed(100 + self.seed)
            yield batch


def test_the_mean_gradient_over_all_draws_is_that_of_the_expected_loss(tmp_path):
    """The loss is quadratic in the path, so that it is exact: sum_k p_k L_k, differentiated in the logits.

    A search of one step, whose weights stay, leaves its gradient behind; each draw has another one.
    """
    task, found, seed = Square(), {}, 0
    recipe = replace(task.recipe, lr=0.0, batch_size=1000)
    while len(found) < 3:
        torch.manual_seed(0)
        p = Problem(
            *(Last(task, (0.0, 1.0, 3.0)), Draws(seed=seed), [Wrong()], recipe, 3),
            tmp_path / str(seed),
        )
        search = ReinMax(epochs=1, mixture_lr=1e-30, mixture_decay=0.0).train(p, Free())
        gradient = search.outer[1].grad
        found[tuple(gradient.tolist())] = gradient
        seed += 1
    (valid,) = task.batches("valid", 1000)
    with torch.no_grad():
        losses = torch.stack([search.loss(valid, [torch.ones(1), torch.eye(3)[k]]) for k in range(3)])
        shares = torch.softmax(search.outer[1], 0)
    exact = shares * (losses - shares @ losses)
    # The logits are nearly even, and so each draw is as likely as the others.
    mean = torch.stack(list(found.values())).mean(0)
    torch.testing.assert_close(mean, exact, rtol=5e-3, atol=1e-4)
    assert exact.norm() > 0.05


@pytest.mark.parametrize("scales", [(0.0, 1.0), (1.0, 0.0)])
def test_the_mixture_learns_which_option_is_useful(tmp_path, scales):
    """A layer scaled by 0 hides its input, so only the scale 1 can tell the classes apart."""
    task = ToyTask(samples=300, epochs=15)
    p = Problem(ToySpace(task, scales), task, [Wrong()], task.recipe, 3, tmp_path)
    torch.manual_seed(0)
    search = ReinMax(mixture_lr=0.05).train(p, Free())
    assert p.space.discretise(search.mixture) == (1.0, 1.0)
