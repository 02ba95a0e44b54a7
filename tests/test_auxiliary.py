"""The second head of a network, and what its parts are told, in a training."""

import dataclasses

import pytest
import torch
from torch import nn

from nasfw import training
from nasfw.contracts import Recipe
from nasfw.testing import ToyTask


class Told(nn.Module):
    """A network with a second head that reads its first layer, and a part that notes what it is told."""

    def __init__(self, weight):
        super().__init__()
        self.first, self.second, self.weight = nn.Linear(4, 5), nn.Linear(5, 3), weight
        self.told = []

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))

    def auxiliary(self):
        return "first", nn.Linear(5, 3), self.weight

    def progress(self, share):
        self.told.append(share)


def test_a_network_is_told_how_far_its_training_is(toy_task):
    model = Told(0.0)
    training.fit(model, toy_task, dataclasses.replace(toy_task.recipe, epochs=4))
    assert model.told == [0.0, 0.25, 0.5, 0.75]


def test_an_auxiliary_head_adds_its_weighted_loss(toy_task):
    """One step of gradient descent goes down loss(network) + w loss(head), and the head is gone after it."""
    recipe = Recipe(epochs=1, batch_size=toy_task.size("train"), lr=0.5, momentum=0.0, weight_decay=0.0)
    torch.manual_seed(0)
    model = Told(0.7)
    torch.manual_seed(1)
    head = nn.Linear(5, 3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    x, y = next(iter(toy_task.batches("train", recipe.batch_size)))
    loss = toy_task.loss(model(x), y) + 0.7 * toy_task.loss(head(model.first(x)), y)
    gradients = dict(zip(before, torch.autograd.grad(loss, list(model.parameters())), strict=True))
    torch.manual_seed(1)
    training.fit(model, toy_task, recipe)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] - 0.5 * gradients[name], rtol=1e-4, atol=1e-6)
    assert set(model.state_dict()) == set(before)


class Killed(BaseException):
    """Stands for a process that ends at this moment."""


class DyingTask(ToyTask):
    """Kills the training at its third epoch."""

    epochs_left = 2

    def batches(self, split, batch_size=256, generator=None):
        if not type(self).epochs_left:
            raise Killed
        type(self).epochs_left -= 1
        yield from super().batches(split, batch_size, generator)


def test_an_auxiliary_head_goes_on_after_a_kill(tmp_path):
    def train(task, checkpoint):
        torch.manual_seed(0)
        model = Told(0.5)
        training.fit(model, task, Recipe(epochs=4, batch_size=8, lr=0.05), checkpoint=checkpoint)
        return model.state_dict()

    whole = train(ToyTask(), tmp_path / "whole.pt")
    with pytest.raises(Killed):
        train(DyingTask(), tmp_path / "killed.pt")
    again = train(ToyTask(), tmp_path / "killed.pt")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
