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


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_the_one_pass_step_is_the_textbooks_on_many_tensors(decay):
    """Nesterov's SGD and AdamW by their formulas in float64, in every order that memory can have."""
    shapes = [(7,), (3, 4), (5, 2, 3, 3), (64, 33)]
    lr, mu, b1, b2, eps = 0.1, 0.9, 0.9, 0.999, 1e-8
    for name in ("sgd", "adamw"):
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(s, dtype=torch.float64)) for s in shapes]
        weights[1] = nn.Parameter(torch.randn(4, 3, dtype=torch.float64).t())
        weights[2] = nn.Parameter(weights[2].detach().contiguous(memory_format=torch.channels_last))
        expected = [w.detach().clone() for w in weights]
        first, second = ([torch.zeros_like(w) for w in expected] for _ in range(2))
        optimiser = training.optimizer(
            weights, Recipe(optimizer=name, lr=lr, momentum=mu, weight_decay=decay)
        )
        assert optimiser.defaults["fused"]
        for t in range(1, 5):
            gradients = [torch.randn_like(w) for w in expected]
            for w, g in zip(weights, gradients, strict=True):
                w.grad = g.clone()
            optimiser.step()
            for w, g, v, s in zip(expected, gradients, first, second, strict=True):
                if name == "sgd":
                    g = g + decay * w
                    v.copy_(mu * v + g)
                    w -= lr * (g + mu * v)
                else:
                    v.copy_(b1 * v + (1 - b1) * g)
                    s.copy_(b2 * s + (1 - b2) * g**2)
                    w.mul_(1 - lr * decay)
                    w -= lr * (v / (1 - b1**t)) / ((s / (1 - b2**t)).sqrt() + eps)
        for w, e in zip(weights, expected, strict=True):
            torch.testing.assert_close(w.detach(), e, rtol=1e-12, atol=1e-13)


def test_a_weight_may_get_its_first_gradient_late():
    """As if it were alone and its training began then."""
    early, late, alone = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(3))
    both, single = training.optimizer([early, late], BIG), training.optimizer([alone], BIG)
    early.grad = torch.ones_like(early)
    both.step()
    assert torch.equal(late, torch.ones_like(late))
    late.grad, alone.grad = torch.full_like(late, 2.0), torch.full_like(late, 2.0)
    both.step()
    single.step()
    assert torch.equal(late, alone)


def test_complex_weights_are_left_to_torch():
    for recipe in (BIG, Recipe(optimizer="adamw")):
        weight = nn.Parameter(torch.ones(2, dtype=torch.complex128))
        optimiser = training.optimizer([weight], recipe)
        weight.grad = torch.ones_like(weight)
        optimiser.step()
        assert weight.real[0] < 1
    assert training.fusable([torch.ones(1), torch.ones(1, dtype=torch.float64)]) is True
    assert training.fusable([torch.ones(1, device="meta")]) is None


@pytest.mark.parametrize("bound", [0.1, 3.0, 1e9])
def test_clip_scales_by_the_joint_norm_of_all_gradients(bound):
    weights = [nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in (3, 100, 1)]
    torch.manual_seed(0)
    for w in weights[:2]:
        w.grad = torch.randn_like(w)
    before = torch.cat([w.grad for w in weights[:2]])
    training.clip(weights, bound)
    found = torch.cat([w.grad for w in weights[:2]])
    norm = math.sqrt(sum(v * v for v in before.tolist()))
    torch.testing.assert_close(found, before * min(1.0, bound / (norm + 1e-6)), rtol=1e-12, atol=1e-15)
    assert weights[2].grad is None


def test_clip_shows_a_gradient_that_is_not_a_number():
    weights = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    weights[0].grad, weights[1].grad = torch.ones(2), torch.tensor([1.0, math.nan])
    training.clip(weights, 1.0)
    assert all(w.grad.isnan().all() for w in weights)
    training.clip([nn.Parameter(torch.zeros(2))], 1.0)


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
