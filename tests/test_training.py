"""Schedules by their formulas, and training that a kill cannot change."""

import copy
import logging
import math

import pytest
import torch
from torch import nn

from nasfw import training
from nasfw.contracts import Diverged, Recipe
from nasfw.testing import ToyTask

BIG = Recipe(epochs=4, batch_size=8, lr=0.05)


def network(dropout=0.5):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))


def factors(recipe, steps=5, count=None):
    return [training.factor(recipe, s, steps) for s in range(count or recipe.epochs * steps)]


def test_constant_stays():
    assert set(factors(Recipe(schedule="constant", epochs=3))) == {1.0}


def test_cosine_goes_from_one_to_zero():
    found = factors(Recipe(schedule="cosine", epochs=4), count=21)
    assert found == pytest.approx([(1 + math.cos(math.pi * s / 20)) / 2 for s in range(21)], abs=1e-15)
    assert found[0] == 1.0
    assert found[10] == pytest.approx(0.5, abs=1e-15)
    assert found[20] == pytest.approx(0.0, abs=1e-15)


def test_step_decays_strictly_after_each_milestone():
    """In epochs 0 to 2 nothing happened yet, although epoch 2 is a milestone."""
    recipe = Recipe(schedule="step", milestones=(2, 4), decay=0.2, epochs=7)
    by_epoch = [1.0, 1.0, 1.0, 0.2, 0.2, 0.04, 0.04]
    assert factors(recipe) == pytest.approx([f for f in by_epoch for _ in range(5)], abs=1e-15)


def test_onecycle_rises_for_a_fifth_and_falls_as_a_cosine():
    found = factors(Recipe(schedule="onecycle", epochs=10), steps=10, count=101)
    rise, fall = found[:20], found[20:]
    assert rise == pytest.approx([(s + 1) / 21 for s in range(20)], abs=1e-15)
    assert fall == pytest.approx([(1 + math.cos(math.pi * s / 80)) / 2 for s in range(81)], abs=1e-15)


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "onecycle"])
@pytest.mark.parametrize(("epochs", "steps"), [(0, 0), (1, 1), (1, 7), (40, 3)])
def test_factors_are_between_zero_and_one_and_beyond_the_end_too(schedule, epochs, steps):
    recipe = Recipe(schedule=schedule, epochs=epochs, milestones=(0, 5))
    found = factors(recipe, steps, count=epochs * steps + 10)
    assert all(0.0 <= f <= 1.0 for f in found)


def test_the_schedule_drives_the_optimiser():
    weight = nn.Parameter(torch.zeros(1))
    recipe = Recipe(schedule="cosine", epochs=2, lr=0.3)
    optimiser = training.optimizer([weight], recipe)
    rates = training.schedule(optimiser, recipe, 3)
    seen = []
    for _ in range(6):
        seen.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        rates.step()
    assert seen == pytest.approx([0.3 * f for f in factors(recipe, 3)], abs=1e-15)


def test_sgd_is_nesterov_with_weight_decay():
    """g = c + wd w; v = mu v + g; w -= lr (g + mu v) (Sutskever et al. 2013, as torch writes it)."""
    lr, mu, wd = 0.1, 0.9, 0.01
    w = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimiser = training.optimizer([w], Recipe(lr=lr, momentum=mu, weight_decay=wd))
    expected, v = 2.0, 0.0
    for c in (1.0, -0.5, 2.0):
        w.grad = torch.tensor([c], dtype=torch.float64)
        optimiser.step()
        g = c + wd * expected
        v = mu * v + g
        expected -= lr * (g + mu * v)
        assert w.item() == pytest.approx(expected, abs=1e-12)


def test_adamw_steps_by_the_sign_first_and_decays_the_weight_itself():
    w = nn.Parameter(torch.tensor([2.0, -3.0], dtype=torch.float64))
    optimiser = training.optimizer([w], Recipe(optimizer="adamw", lr=0.1, weight_decay=0.5))
    w.grad = torch.tensor([7.0, -0.2], dtype=torch.float64)
    optimiser.step()
    expected = torch.tensor([2.0 * 0.95 - 0.1, -3.0 * 0.95 + 0.1], dtype=torch.float64)
    torch.testing.assert_close(w.detach(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_without_momentum_is_possible(momentum):
    training.optimizer([nn.Parameter(torch.zeros(1))], Recipe(momentum=momentum))


@pytest.mark.parametrize(
    ("fraction", "batch", "expected"),
    [(1.0, 8, 13), (0.2, 8, 3), (0.5, 8, 7), (0.0, 8, 1), (0.99, 8, 13), (0.5, 1000, 1), (0.2, 100, 1)],
)
def test_an_epoch_uses_floor_of_the_share_plus_one_batches(fraction, batch, expected):
    """100 training samples; 13 batches of 8."""
    task = ToyTask(samples=300)
    recipe = Recipe(batch_size=batch, fraction=fraction)
    assert training.steps_per_epoch(task, "train", recipe) == expected
    generator = torch.Generator().manual_seed(0)
    assert len(list(training.batches(task, "train", recipe, generator, "cpu"))) == expected


class Killed(BaseException):
    """Stands for a process that ends at this moment."""


class DyingTask(ToyTask):
    """Kills the training at a given batch."""

    def batches(self, split, batch_size=256, generator=None):
        for pair in super().batches(split, batch_size, generator):
            countdown[0] -= 1
            if countdown[0] < 0:
                raise Killed
            yield pair


countdown = [0]


def train(recipe, checkpoint=None, die_after=None):
    """State of a network trained by ``recipe`` and the random number drawn afterwards."""
    countdown[0] = 10**9 if die_after is None else die_after
    model = network()
    torch.manual_seed(recipe.seed)
    training.fit(model, DyingTask(), recipe, checkpoint=checkpoint)
    return [*model.state_dict().values(), torch.rand(2)]


def assert_equal(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "onecycle"])
def test_a_killed_training_ends_with_the_same_weights(tmp_path, optimizer, schedule):
    """Four batches make an epoch; dropout and data order draw from two streams."""
    recipe = Recipe(
        epochs=4, batch_size=8, lr=0.01, optimizer=optimizer, schedule=schedule, milestones=(1,), clip=0.5
    )
    undisturbed = train(recipe)
    path = tmp_path / "c.pt"
    for die_after in (0, 3, 4, 9, 2):
        with pytest.raises(Killed):
            train(recipe, path, die_after)
    assert_equal(train(recipe, path), undisturbed)


def test_a_checkpoint_changes_nothing_and_a_finished_training_is_not_repeated(tmp_path):
    path = tmp_path / "folder" / "c.pt"
    undisturbed = train(BIG)
    assert_equal(train(BIG, path), undisturbed)
    assert_equal(train(BIG, path, die_after=0), undisturbed)
    assert [p.name for p in path.parent.iterdir()] == ["c.pt"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_checkpoint_is_said_and_training_starts_over(tmp_path, caplog, share):
    path = tmp_path / "c.pt"
    undisturbed = train(BIG)
    with pytest.raises(Killed):
        train(BIG, path, die_after=9)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with caplog.at_level(logging.WARNING):
        again = train(BIG, path)
    assert "starts over" in caplog.text
    assert_equal(again, undisturbed)


@pytest.mark.parametrize("garbage", [b"no checkpoint", b"\x00" * 4096, b"PK\x03\x04" + b"x" * 64])
def test_so_does_a_checkpoint_of_garbage(tmp_path, caplog, garbage):
    path = tmp_path / "c.pt"
    path.write_bytes(garbage)
    assert_equal(train(BIG, path), train(BIG))
    assert "starts over" in caplog.text


@pytest.mark.parametrize("count", [1, 19, 20, 21, 39, 40, 100, 119])
def test_at_most_twenty_checkpoints_and_one_at_the_end(tmp_path, count):
    path = tmp_path / "c.pt"
    written, former = [], None
    for epoch, _ in training.epochs(count, {}, torch.Generator(), path):
        stamp = path.stat().st_mtime_ns if path.exists() else None
        written += [epoch] if stamp != former else []
        former = stamp
    assert len(written) + 1 <= 20
    assert torch.load(path, weights_only=True)["epochs"] == count
    assert list(training.epochs(count, {}, torch.Generator(), path)) == []


def test_training_lowers_the_loss_to_a_known_optimum():
    """The classes are linear in the features, so a linear network with a large step finds them all."""
    task = ToyTask(samples=300)
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    training.fit(model, task, Recipe(epochs=60, batch_size=16, lr=0.5, weight_decay=0.0), "full")
    (x, y), *_ = task.batches("train")
    assert task.error(model(x), y) <= 0.02


@pytest.mark.parametrize("layer", [nn.Dropout, nn.Dropout1d, nn.Dropout2d])
def test_the_recipe_sets_the_rate_of_dropout(layer):
    for rate, expected in ((0.25, 0.25), (0.0, 0.0), (None, 0.5)):
        model = nn.Sequential(nn.Linear(4, 3), layer(0.5))
        training.fit(model, ToyTask(), Recipe(epochs=0, dropout=rate))
        assert model[1].p == expected


def test_no_epochs_leave_the_weights_alone():
    model = network()
    before = copy.deepcopy(model.state_dict())
    training.fit(model, ToyTask(), Recipe(epochs=0))
    assert_equal(model.state_dict().values(), before.values())


def test_a_network_without_weights_needs_no_training():
    training.fit(nn.Flatten(), ToyTask(), Recipe(epochs=3))


def test_frozen_weights_stay():
    model = network()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    training.fit(model, ToyTask(), BIG)
    assert torch.equal(model[0].weight, before)


def test_clip_bounds_each_step():
    """Without momentum one step moves the weights by at most lr times the bound."""
    model = network(dropout=0.0)
    before = nn.utils.parameters_to_vector(model.parameters()).detach()
    recipe = Recipe(
        epochs=1, batch_size=10**6, lr=1.0, momentum=0.0, weight_decay=0.0, schedule="constant", clip=1e-3
    )
    training.fit(model, ToyTask(), recipe)
    moved = nn.utils.parameters_to_vector(model.parameters()).detach() - before
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_a_loss_that_is_not_finite_is_found_at_the_end_of_its_epoch():
    with pytest.raises(Diverged, match="loss was nan in epoch 1"):
        training.fit(network(), ToyTask(), Recipe(epochs=50, batch_size=4, lr=1e30, schedule="constant"))


def test_mean_loss_of_an_epoch():
    assert training.finite_mean(torch.tensor(6.0), 4, 0) == 1.5
    assert training.finite_mean(torch.tensor(0.0), 0, 0) == 0.0
    for bad in (math.inf, math.nan):
        with pytest.raises(Diverged, match="epoch 3"):
            training.finite_mean(torch.tensor(bad), 4, 2)


def test_the_seed_of_the_recipe_orders_the_data():
    orders = [
        [x for x, _ in training.batches(ToyTask(), "train", BIG, torch.Generator().manual_seed(s), "cpu")]
        for s in (0, 0, 1)
    ]
    assert_equal(orders[0], orders[1])
    assert not all(torch.equal(a, b) for a, b in zip(orders[0], orders[2], strict=True))
