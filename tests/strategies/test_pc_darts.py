"""PC-DARTS: without its two ideas it is DARTS; edge weights sum to 1 at every node."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from nasfw.contracts import Problem, UsageError
from nasfw.spaces.robust import S5
from nasfw.strategies.darts import Darts
from nasfw.strategies.pc_darts import PcDarts
from nasfw.testing import Free, ToyCells, ToySpace, ToyTask, Wrong


def problem(folder, space=None, **recipe):
    task = ToyTask()
    return Problem(space or ToyCells(task), task, [Wrong()], replace(task.recipe, **recipe), 3, Path(folder))


def trained(strategy, p, evaluate=None):
    torch.manual_seed(0)
    return strategy.train(p, evaluate or Free())


def test_with_all_channels_and_no_edges_to_weigh_it_is_darts(tmp_path):
    """To the last bit: weights, mixture and moments."""
    space = ToySpace(ToyTask())
    one = trained(PcDarts(epochs=4, share=1, warmup=0.0, mixture_lr=0.01), problem(tmp_path / "pc", space))
    other = trained(Darts(epochs=4, mixture_lr=0.01), problem(tmp_path / "darts", space))
    pairs = zip([*one.outer, *one.weights], [*other.outer, *other.weights], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert one.history == other.history


def outer_of(search, seed=0):
    """The logits of options and of edges, filled with random numbers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for row in search.outer:
            row.copy_(torch.randn(len(row), generator=generator))
    return list(search.outer)[:6], list(search.outer)[6:]


@pytest.mark.parametrize("mixed", [True, False])
def test_an_option_counts_with_its_share_times_its_edges_share(tmp_path, mixed):
    """The mixture by the formula softmax(alpha)_o softmax(beta)_e; at each node it sums to 1."""
    search = trained(PcDarts(epochs=1, share=1), problem(tmp_path, ToyCells(ToyTask(), mixed=mixed)))
    assert [len(row) for row in search.outer] == [4 if mixed else 3] * 5 + [2, 2, 3]
    alphas, betas = outer_of(search)
    mixture = search.mixture
    edges = torch.cat([torch.softmax(betas[0], 0), torch.softmax(betas[1], 0), torch.ones(1)])
    for row, alpha, edge in zip(mixture, alphas, edges, strict=True):
        torch.testing.assert_close(row[len(row) - len(alpha) :], edge * torch.softmax(alpha, 0))
    totals = torch.stack([row.sum() for row in mixture])
    torch.testing.assert_close(totals[:2].sum(), torch.tensor(1.0))
    torch.testing.assert_close(totals[2:5].sum(), torch.tensor(1.0))
    torch.testing.assert_close(totals[5], torch.tensor(1.0))


def test_where_one_edge_has_all_the_weight_it_has_the_mixture_of_darts(tmp_path):
    search = trained(PcDarts(epochs=1, share=1), problem(tmp_path))
    alphas, betas = outer_of(search)
    with torch.no_grad():
        for beta in betas:
            beta[1] = 1000.0
    for i, (row, alpha) in enumerate(zip(search.mixture, alphas, strict=True)):
        expected = torch.softmax(alpha.detach(), 0) if i in (1, 3, 5) else torch.zeros(4)
        torch.testing.assert_close(row, expected)


def test_edges_are_chosen_by_the_product_of_both_shares(tmp_path):
    """The edge with the stronger option, but nearly no weight of its own, is left out."""
    search = trained(PcDarts(epochs=1, share=1), problem(tmp_path))
    alphas, betas = outer_of(search)
    with torch.no_grad():
        alphas[2].copy_(torch.tensor([0.0, 0.0, 0.0, 5.0]))
        betas[1].copy_(torch.tensor([-6.0, 0.0, 0.0]))
    preferred = search.problem.space.discretise(search.preferences)
    assert preferred[2] == "none"
    assert "none" not in (preferred[3], preferred[4])


def test_edges_learn_too(tmp_path):
    search = trained(PcDarts(epochs=1, warmup=0.0, mixture_lr=0.1), problem(tmp_path))
    for beta in list(search.outer)[6:]:
        assert float(beta.detach().abs().max()) > 0.05


class Stops(Free):
    """Ends the search after so many epochs."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def spend(self, passes):
        super().spend(passes)
        return len(self.passes) < self.epochs


def test_the_mixture_waits_for_the_first_weights(tmp_path):
    """With a warm-up of a half, it is in the third of four epochs that it moves first."""
    strategy, starts = PcDarts(epochs=4, warmup=0.5, mixture_lr=0.1), []
    for count in (1, 2, 3):
        search = trained(strategy, problem(tmp_path / str(count)), Stops(count))
        starts.append([row.detach().clone() for row in search.outer])
    assert all(torch.equal(a, b) for a, b in zip(starts[0], starts[1], strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(starts[1], starts[2], strict=True))


def test_the_supernet_mixes_a_part_of_the_channels(tmp_path):
    search = trained(PcDarts(epochs=1, share=4), problem(tmp_path))
    assert search.supernet.space.share == 4
    assert search.problem.space.share == 1


def test_a_space_without_partial_channels_says_so(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        trained(PcDarts(epochs=1), problem(tmp_path / "a", ToySpace(ToyTask())))
        assert "ToySpace has no partial channels: all are mixed" in caplog.text
        caplog.clear()
        trained(PcDarts(epochs=1, share=1), problem(tmp_path / "b", ToySpace(ToyTask())))
        trained(PcDarts(epochs=1), problem(tmp_path / "c"))
    assert "partial channels" not in caplog.text


@dataclass(frozen=True)
class Wide(ToyTask):
    """Labels that only the third of four features tells."""

    def _data(self, split):
        x, _ = super()._data(split)
        return x, (x[:, 2] > 0).long()


def test_the_mixture_learns_not_to_leave_edges_out(tmp_path):
    """All input comes through the edges, so weight on absent ones is lost."""
    task = Wide(samples=300, epochs=15)
    p = Problem(ToyCells(task), task, [Wrong()], task.recipe, 3, tmp_path)
    search = trained(PcDarts(share=1, warmup=0.2, mixture_lr=0.05), p)
    with torch.no_grad():
        shares = [torch.softmax(row, 0) for row in list(search.outer)[:2]]
    assert sum(float(row[0]) for row in shares) / 2 < 0.2


def test_channels_that_cannot_be_divided_are_said_with_the_share(tmp_path):
    p = problem(tmp_path, S5(ToyTask(), channels=8))
    with pytest.raises(
        UsageError, match=r"share=3: 8 channels cannot .* into 3 equal parts; choose another share"
    ):
        PcDarts(share=3).check(p)
