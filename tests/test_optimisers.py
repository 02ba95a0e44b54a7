"""Optimisers and schedules by their formulas, of weights and of transforms beside them."""

import copy
import io
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from nasfw import optimisers
from nasfw.contracts import Recipe

BIG = Recipe(epochs=4, batch_size=8, lr=0.05)


def factors(recipe, steps=5, count=None):
    return [optimisers.factor(recipe, s, steps) for s in range(count or recipe.epochs * steps)]


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
    optimiser = optimisers.optimizer([weight], recipe)
    rates = optimisers.schedule(optimiser, recipe, 3)
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
    optimiser = optimisers.optimizer([w], Recipe(lr=lr, momentum=mu, weight_decay=wd))
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
    optimiser = optimisers.optimizer([w], Recipe(optimizer="adamw", lr=0.1, weight_decay=0.5))
    w.grad = torch.tensor([7.0, -0.2], dtype=torch.float64)
    optimiser.step()
    expected = torch.tensor([2.0 * 0.95 - 0.1, -3.0 * 0.95 + 0.1], dtype=torch.float64)
    torch.testing.assert_close(w.detach(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_without_momentum_is_possible(momentum):
    optimisers.optimizer([nn.Parameter(torch.zeros(1))], Recipe(momentum=momentum))


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
        optimiser = optimisers.optimizer(
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
    both, single = optimisers.optimizer([early, late], BIG), optimisers.optimizer([alone], BIG)
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
        optimiser = optimisers.optimizer([weight], recipe)
        weight.grad = torch.ones_like(weight)
        optimiser.step()
        assert weight.real[0] < 1
    assert optimisers.fusable([torch.ones(1), torch.ones(1, dtype=torch.float64)]) is True
    assert optimisers.fusable([torch.ones(1, device="meta")]) is None


@pytest.mark.parametrize("bound", [0.1, 3.0, 1e9])
def test_clip_scales_by_the_joint_norm_of_all_gradients(bound):
    weights = [nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in (3, 100, 1)]
    torch.manual_seed(0)
    for w in weights[:2]:
        w.grad = torch.randn_like(w)
    before = torch.cat([w.grad for w in weights[:2]])
    optimisers.clip(weights, bound)
    found = torch.cat([w.grad for w in weights[:2]])
    norm = math.sqrt(sum(v * v for v in before.tolist()))
    torch.testing.assert_close(found, before * min(1.0, bound / (norm + 1e-6)), rtol=1e-12, atol=1e-15)
    assert weights[2].grad is None


def test_clip_shows_a_gradient_that_is_not_a_number():
    weights = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    weights[0].grad, weights[1].grad = torch.ones(2), torch.tensor([1.0, math.nan])
    optimisers.clip(weights, 1.0)
    assert all(w.grad.isnan().all() for w in weights)
    optimisers.clip([nn.Parameter(torch.zeros(2))], 1.0)


# Transforms.

LAYOUTS = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.complex128], ids=["real transforms", "complex transforms"]
)
KINDS = ["sgd", "adamw", "adam"]


class Filter(nn.Module):
    """A product with a transform, of which the real part is seen, and a bias."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=dtype))
        self.bias = nn.Parameter(torch.tensor([0.25, 0.5, -1.0], dtype=torch.float64))

    def transforms(self):
        return iter([self.scale])

    def forward(self, x):
        return (x * self.scale).real + self.bias


def plain(name, parameters, lr, momentum, decay):
    """What torch has for an optimiser of the recipe, as its manual says."""
    if name == "sgd":
        return torch.optim.SGD(parameters, lr, momentum, nesterov=momentum > 0, weight_decay=decay)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name](parameters, lr, weight_decay=decay)


def descend(model, optimiser, rates=None, steps=5, seed=0):
    """Some steps on the same gradients for the same ``seed``, and what the parameters are then."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)
        optimiser.step()
        if rates is not None:
            rates.step()
    return [p.detach().clone() for p in model.parameters()]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_transforms_are_what_the_parts_say_each_once():
    first, second = Filter(), Filter()
    second.scale = first.scale
    model = nn.Sequential(nn.Linear(3, 3), first, nn.Sequential(second, Filter()))
    assert [id(p) for p in optimisers.transforms(model)] == [id(first.scale), id(model[2][1].scale)]
    assert optimisers.transforms(nn.Linear(3, 3)) == []


def test_a_part_that_is_called_transforms_is_not_asked():
    model = nn.Linear(3, 3)
    model.transforms = nn.Sequential(nn.Linear(3, 3))
    assert optimisers.transforms(model) == []


@pytest.mark.parametrize("given", [[torch.zeros(3)], [nn.Parameter(torch.zeros(3))], ["scale"]])
def test_what_is_no_parameter_of_the_part_is_refused(given):
    class Wrong(Filter):
        def transforms(self):
            return given

    with pytest.raises(TypeError, match=r"Wrong.transforms\(\) must give parameters of its own"):
        optimisers.transforms(nn.Sequential(Wrong()))


def test_without_transforms_there_is_one_optimiser_of_torchs_with_one_group():
    model = Filter()
    for recipe in (BIG, Recipe(optimizer="adam", transform_optimizer="sgd", transform_warmup=1)):
        optimiser = optimisers.optimizer(model.parameters(), recipe)
        assert type(optimiser) is {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[recipe.optimizer]
        (group,) = optimiser.param_groups
        assert len(optimisers.schedule(optimiser, recipe, 3).lr_lambdas) == 1
        assert group["lr"] == recipe.lr


def test_adam_decays_by_the_gradient():
    """g = c + wd w; the first step is the sign of g, whatever its size."""
    w = nn.Parameter(torch.tensor([2.0, -3.0], dtype=torch.float64))
    optimiser = optimisers.optimizer([w], Recipe(optimizer="adam", lr=0.1, weight_decay=0.5))
    w.grad = torch.tensor([-0.9, 1.6], dtype=torch.float64)
    optimiser.step()
    expected = torch.tensor([2.0 - 0.1, -3.0 - 0.1], dtype=torch.float64)
    torch.testing.assert_close(w.detach(), expected, rtol=0, atol=1e-7)


@LAYOUTS
def test_a_step_of_sgd_has_each_groups_rate_and_decay(dtype):
    """p - lr (g + decay p)."""
    model = Filter(dtype)
    recipe = Recipe(lr=0.1, momentum=0.0, weight_decay=0.02, transform_lr=0.003, transform_decay=0.5)
    before = copy.deepcopy(model)
    optimiser = optimisers.optimizer(model.parameters(), recipe, optimisers.transforms(model))
    descend(model, optimiser, steps=1)
    for name, lr, decay in (("scale", 0.003, 0.5), ("bias", 0.1, 0.02)):
        p, g = getattr(before, name), getattr(model, name).grad
        torch.testing.assert_close(getattr(model, name), p - lr * (g + decay * p), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_said_of_transforms_is_as_for_the_weights(kind):
    model = Filter()
    recipe = Recipe(optimizer=kind, lr=0.03, momentum=0.7, weight_decay=0.2)
    optimiser = optimisers.optimizer(model.parameters(), recipe, optimisers.transforms(model))
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimiser.param_groups]
    assert groups[0] == groups[1]
    found = descend(model, optimiser)
    model = Filter()
    assert equal(found, descend(model, optimisers.optimizer(model.parameters(), recipe)))


@LAYOUTS
@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_two_groups_step_as_two_optimisers_would(first, second, dtype):
    recipe = Recipe(
        epochs=2,
        optimizer=first,
        lr=0.1,
        momentum=0.9,
        weight_decay=0.02,
        transform_optimizer=second,
        transform_lr=0.003,
        transform_momentum=0.5,
        transform_decay=0.3,
    )
    model, other = Filter(dtype), Filter(dtype)
    optimiser = optimisers.optimizer(model.parameters(), recipe, optimisers.transforms(model))
    found = descend(model, optimiser, optimisers.schedule(optimiser, recipe, 3))
    generator = torch.Generator().manual_seed(0)
    apart = plain(first, [other.bias], 0.1, 0.9, 0.02), plain(second, [other.scale], 0.003, 0.5, 0.3)
    for step in range(5):
        for p in other.parameters():
            p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)
        for o, lr in zip(apart, (0.1, 0.003), strict=True):
            o.param_groups[0]["lr"] = lr * optimisers.factor(recipe, step, 3)
            o.step()
    for a, b in zip(found, other.parameters(), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-13, atol=1e-15)


def test_complex_transforms_do_not_slow_the_weights_down():
    model = Filter(torch.complex128)
    optimiser = optimisers.optimizer(model.parameters(), BIG, optimisers.transforms(model))
    assert [group["fused"] for group in optimiser.param_groups] == [True, None]


@LAYOUTS
@pytest.mark.parametrize("second", [None, "adam"])
def test_a_state_that_was_written_and_read_goes_on_alike(second, dtype):
    recipe = Recipe(epochs=3, transform_optimizer=second, transform_lr=0.003, transform_warmup=1)

    def made():
        model = Filter(dtype)
        optimiser = optimisers.optimizer(model.parameters(), recipe, optimisers.transforms(model))
        return [model, optimiser, optimisers.schedule(optimiser, recipe, 2)]

    one, other, file = made(), made(), io.BytesIO()
    descend(*one, steps=3)
    torch.save([part.state_dict() for part in one], file)
    file.seek(0)
    # As into a process that has done other things.
    descend(*other, steps=1, seed=9)
    for part, state in zip(other, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert equal(descend(*one, seed=1), descend(*other, seed=1))
    assert [g["lr"] for g in one[1].param_groups] == [g["lr"] for g in other[1].param_groups]


def test_a_network_whose_weights_are_frozen_still_learns_its_transforms():
    model = Filter()
    recipe = replace(BIG, transform_lr=0.5)
    optimiser = optimisers.optimizer([model.scale], recipe, optimisers.transforms(model))
    before = copy.deepcopy(model)
    descend(model, optimiser, optimisers.schedule(optimiser, recipe, 2), steps=1)
    assert torch.equal(model.bias, before.bias)
    assert not torch.equal(model.scale, before.scale)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.05 * optimisers.factor(recipe, 1, 2))


def rates(recipe, steps, count, course=None):
    """The rates of weights and of transforms, step by step."""
    model = Filter()
    optimiser = optimisers.optimizer(model.parameters(), recipe, optimisers.transforms(model))
    schedule = optimisers.schedule(optimiser, recipe, steps, course)
    found = []
    for _ in range(count):
        found.append([group["lr"] for group in optimiser.param_groups])
        descend(model, optimiser, schedule, steps=1)
    return [list(row) for row in zip(*found, strict=True)]


@pytest.mark.parametrize("name", ["constant", "step", "cosine", "onecycle"])
def test_the_rate_of_transforms_follows_the_schedule_between_warm_up_and_cool_down(name):
    recipe = Recipe(epochs=6, lr=0.1, schedule=name, milestones=(2,), transform_lr=0.004)
    recipe = replace(recipe, transform_warmup=2, transform_cooldown=1)
    weights, transforms = rates(recipe, 5, 30)
    expected = factors(recipe)
    assert weights == pytest.approx([0.1 * f for f in expected], abs=1e-15)
    assert transforms[:10] == [0.0] * 10
    assert transforms[10:25] == pytest.approx([0.004 * f for f in expected[10:25]], abs=1e-15)
    assert transforms[25:] == [0.0] * 5


@pytest.mark.parametrize(("warm", "cool"), [(3, 0), (0, 3), (2, 1), (2, 2), (9, 9)])
def test_windows_that_are_all_epochs_keep_the_transforms_as_they_are(warm, cool):
    recipe = replace(BIG, epochs=3, transform_warmup=warm, transform_cooldown=cool)
    weights, transforms = rates(recipe, 2, 6)
    assert transforms == [0.0] * 6
    assert all(rate > 0 for rate in weights)


def test_another_course_has_the_windows_too():
    """After the recipe's epochs, transforms are trained on unless they were cooled down."""
    recipe = Recipe(epochs=3, lr=0.5, transform_warmup=1)
    for cool, end in ((0, [0.5 / 3, 0.5 / 4]), (1, [0.0, 0.0])):
        cooled = replace(recipe, transform_cooldown=cool)
        weights, transforms = rates(cooled, 1, 4, lambda step: 1 / (step + 1))
        assert weights == pytest.approx([0.5, 0.5 / 2, 0.5 / 3, 0.5 / 4])
        assert transforms == pytest.approx([0.0, 0.5 / 2, *end])


@pytest.mark.parametrize("bound", [0.1, 1e9])
def test_clip_counts_the_gradients_of_complex_transforms_with_the_others(bound):
    """A complex number is two real ones."""
    model = Filter(torch.complex128)
    descend(model, torch.optim.SGD(model.parameters(), 0.0), steps=1)
    before = [p.grad.clone() for p in model.parameters()]
    norm = math.sqrt(sum(float((g.abs() ** 2).sum()) for g in before))
    optimisers.clip(model.parameters(), bound)
    for p, g in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.grad, g * min(1.0, bound / (norm + 1e-6)), rtol=1e-12, atol=1e-15)
