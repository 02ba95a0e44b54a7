"""Training by the textbook, which a kill cannot change."""

import copy
import logging
import math
from dataclasses import replace
from itertools import pairwise

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


def train(recipe, checkpoint=None, die_after=None, model=None):
    """State of a network trained by ``recipe`` and the random number drawn afterwards."""
    countdown[0] = 10**9 if die_after is None else die_after
    model = network() if model is None else model
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


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adam"])
def test_training_is_the_textbooks_loop_to_the_last_bit(optimizer):
    """What is said of transforms changes nothing in a network that has none."""
    recipe = Recipe(epochs=3, batch_size=8, lr=0.01, optimizer=optimizer, clip=0.5)
    found = train(replace(recipe, transform_optimizer="adam", transform_lr=9.0, transform_warmup=1))
    model, task = network(), ToyTask()
    options = {"lr": 0.01, "weight_decay": 5e-4, "fused": True}
    if optimizer == "sgd":
        optimiser = torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, **options)
    else:
        kind = torch.optim.Adam if optimizer == "adam" else torch.optim.AdamW
        optimiser = kind(model.parameters(), **options)
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: 0.5 * (1 + math.cos(math.pi * s / 12)))
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    model.train()
    for _ in range(recipe.epochs):
        for x, y in task.batches("train", 8, generator):
            optimiser.zero_grad()
            task.loss(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimiser.step()
            rates.step()
    assert_equal(found, [*model.state_dict().values(), torch.rand(2)])


class Filter(nn.Module):
    """A product with a transform, noted at the start of every epoch; complex ones show their real part."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 2.0, 8).to(dtype))
        self.seen = []

    def transforms(self):
        return [self.scale]

    def progress(self, share):
        self.seen.append(self.scale.detach().clone())

    def forward(self, x):
        return (x * self.scale).real


def filtered(dtype=torch.float32):
    model = network()
    model[2] = Filter(dtype)
    return model


SHAPED = Recipe(
    epochs=6,
    batch_size=8,
    lr=0.05,
    clip=0.5,
    transform_lr=0.01,
    transform_decay=0.1,
    transform_warmup=2,
    transform_cooldown=1,
)


@pytest.mark.parametrize("kind", [None, "sgd", "adam", "adamw"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_transforms_rest_to_the_last_bit_in_warm_up_and_cool_down_and_move_between(optimizer, kind):
    model = filtered()
    before = model[4].weight.detach().clone()
    training.fit(model, ToyTask(), replace(SHAPED, optimizer=optimizer, transform_optimizer=kind))
    seen = [*model[2].seen, model[2].scale.detach()]
    moved = [not torch.equal(a, b) for a, b in pairwise(seen)]
    assert moved == [False, False, True, True, True, False]
    assert not torch.equal(model[4].weight, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("kind", [None, "adam"])
def test_a_killed_training_of_transforms_ends_with_the_same_weights(tmp_path, kind, dtype):
    recipe, path = replace(SHAPED, transform_optimizer=kind), tmp_path / "c.pt"
    undisturbed = train(recipe, model=filtered(dtype))
    for die_after in (5, 4, 9, 3):
        with pytest.raises(Killed):
            train(recipe, path, die_after, filtered(dtype))
    assert_equal(train(recipe, path, model=filtered(dtype)), undisturbed)


def test_transforms_and_weights_share_the_bound_of_the_gradient():
    """Without momentum, both together move by lr times the bound."""
    model = filtered(torch.complex64)
    before = [p.detach().clone() for p in model.parameters()]
    recipe = replace(BIG, epochs=1, batch_size=10**6, lr=1.0, momentum=0.0, weight_decay=0.0, clip=1e-3)
    training.fit(model, ToyTask(), recipe)
    moved = [float((p - b).detach().norm()) for p, b in zip(model.parameters(), before, strict=True)]
    assert math.hypot(*moved) == pytest.approx(1e-3, rel=1e-2)


class Maps(ToyTask):
    """Three classes of maps of 16 x 16 pixels, told apart by the mean of the quarters, in float64."""

    channels = 1

    @property
    def input_shape(self):
        return (self.channels, 16, 16)

    def _data(self, split):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(24, *self.input_shape, generator=generator, dtype=torch.float64)
        return x, x[:, 0].unflatten(1, (2, 8)).mean((2, 3)).argmax(1)


class Coloured(Maps):
    channels = 3


def convolutions(channels, end):
    torch.manual_seed(2)
    conv1, conv2 = nn.Conv2d(channels, 4, 3, padding=1), nn.Conv2d(4, 3, 3, stride=16, padding=1)
    return nn.Sequential(conv1, nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), conv2, end).double()


@pytest.mark.parametrize("task", [Maps(), Coloured()])
def test_the_order_in_memory_changes_no_value(task):
    x, y = task._data("train")
    arranged = training.channels_last(x)
    assert torch.equal(arranged, x)
    model = convolutions(task.channels, nn.Flatten())
    assert training.prefers_channels_last(model, task, x, y)
    assert model[0](arranged).stride()[1] == 1
    assert model[0](x).stride()[1] != 1
    torch.testing.assert_close(model.eval()(arranged), model(x), rtol=1e-12, atol=1e-13)


def test_trying_the_order_leaves_no_trace():
    task = Coloured()
    x, y = task._data("train")
    model = convolutions(3, nn.Flatten())
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    training.prefers_channels_last(model, task, x, y)
    assert_equal(model.state_dict().values(), before.values())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_network_that_views_is_trained_in_the_ordinary_order():
    class Ending(nn.Module):
        def forward(self, x):
            return x.view(x.shape[0], -1)[:, :3]

    task = Coloured()
    x, y = task._data("train")
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Ending()).double()
    assert not training.prefers_channels_last(model, task, x, y)
    training.fit(model, task, BIG)


def test_small_maps_and_series_keep_the_ordinary_order():
    task = Maps()
    for x in (torch.zeros(2, 3, 15, 15), torch.zeros(2, 3, 999), torch.zeros(2, 3)):
        assert not training.prefers_channels_last(nn.Flatten(), task, x, None)


def test_training_on_maps_is_the_textbooks_and_leaves_ordinary_tensors():
    """One step on everything: w - lr (1 + mu) gradient, for the first step of Nesterov's SGD."""
    task = Coloured()
    recipe = Recipe(epochs=1, batch_size=100, lr=0.1, momentum=0.9, weight_decay=0.0, schedule="constant")
    model = convolutions(3, nn.Flatten())
    model[3].p = 0.0
    expected = copy.deepcopy(model)
    x, y = task._data("train")
    task.loss(expected(x), y).backward()
    training.fit(model, task, recipe)
    for w, e in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(w, e - 0.1 * 1.9 * e.grad, rtol=1e-9, atol=1e-11)
        assert w.is_contiguous()
