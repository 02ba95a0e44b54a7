"""What steps the weights of a network: the recipe's optimiser and schedule, and those of its transforms.

Transforms are parameters that shape an operation, such as the matrices of XD operations (Roberts et al.
2021). They are trained beside the weights on the same batches, by an optimiser and at a rate of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from nasfw.contracts import Recipe

_WARM_UP = 0.2


def transforms(model: nn.Module) -> list[nn.Parameter]:
    """What the parts of ``model`` that have a method ``transforms`` say are transforms, each once."""
    found: dict[nn.Parameter, None] = {}
    for module in model.modules():
        # Of the class, since a part may be called so, and parts can be called too.
        if callable(getattr(type(module), "transforms", None)):
            own = list(module.transforms())  # type: ignore[operator]
            if not {id(p) for p in own} <= {id(p) for p in module.parameters()}:
                raise TypeError(f"{type(module).__name__}.transforms() must give parameters of its own")
            found |= dict.fromkeys(own)
    return list(found)


def optimizer(
    parameters: Iterable[nn.Parameter], recipe: Recipe, transforms: Iterable[Tensor] = ()
) -> Optimizer:
    """The recipe's optimiser: SGD with Nesterov momentum, Adam with L2 decay, or AdamW.

    It has one group of parameters; those that are among ``transforms``, if any, are a second one, trained as
    the recipe says of them.
    """
    chosen, apart = list(parameters), {id(t) for t in transforms}
    shaping = [p for p in chosen if id(p) in apart]
    if not shaping:
        return _of_one_kind(chosen, recipe)
    weights = [p for p in chosen if id(p) not in apart]
    return Pair(_of_one_kind(weights, recipe), _of_one_kind(shaping, _for_transforms(recipe)))


def _of_one_kind(chosen: list[nn.Parameter], recipe: Recipe) -> Optimizer:
    # As a group they may also be none: a network whose weights are frozen has transforms still.
    groups, fused = [{"params": chosen}], fusable(chosen)
    if recipe.optimizer != "sgd":
        kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
        return kind(groups, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused)
    optimiser = torch.optim.SGD(
        groups,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
        fused=fused,
    )
    if recipe.momentum > 0:
        # The fused step fails where some weights get their first gradient later than others; a velocity of
        # zero is the same start, and there is nothing left for it to make.
        for weight in chosen:
            optimiser.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimiser


def _for_transforms(recipe: Recipe) -> Recipe:
    """The recipe of the transforms: the weights', but for what is said of them."""
    lr, momentum, decay = recipe.transform_lr, recipe.transform_momentum, recipe.transform_decay
    return replace(
        recipe,
        optimizer=recipe.transform_optimizer or recipe.optimizer,
        lr=recipe.lr if lr is None else lr,
        momentum=recipe.momentum if momentum is None else momentum,
        weight_decay=recipe.weight_decay if decay is None else decay,
    )


class Pair(Optimizer):
    """Two optimisers, of one group each, that step together and are kept together: as one with two groups.

    They may be of different kinds, and one may take complex numbers, which torch cannot step in one pass,
    without the other having to.
    """

    def __init__(self, first: Optimizer, second: Optimizer) -> None:
        self.parts = first, second
        super().__init__([*first.param_groups, *second.param_groups], {})
        self.state.update({**first.state, **second.state})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of both."""
        for part, group in zip(self.parts, self.param_groups, strict=True):
            # Groups and states are the pair's, and it gets new ones where a state is loaded.
            part.param_groups, part.state = [group], self.state
            part.step()


def fusable(parameters: Iterable[Tensor]) -> bool | None:
    """What an optimiser's ``fused`` should be: True for real weights on a processor or a CUDA card.

    Then a step is one pass over the weights, 4 to 6 times as fast as torch's own choice on a processor, which
    None leaves to torch. All of torch from 2.4 on can do it in 16, 32 and 64 bits.
    """
    able = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return True if able else None


@torch.no_grad()
def clip(parameters: Iterable[Tensor], bound: float) -> None:
    """Scale all gradients by one factor such that their joint Euclidean norm is at most ``bound``.

    As ``nn.utils.clip_grad_norm_``, but on a processor nothing is written where nothing changes. A card is
    not asked, since waiting for the answer would stall it.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    factor = bound / (torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))) + 1e-6)
    # Written so that a norm that is not a number spoils all gradients, and does not pass unnoticed.
    if factor.is_cuda or not factor >= 1:
        torch._foreach_mul_(gradients, factor.clamp(max=1.0))


def factor(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate at ``step`` (from 0), as a multiple of ``recipe.lr``."""
    total = max(1, recipe.epochs * steps_per_epoch)
    if recipe.schedule == "step":
        # Strictly after the milestone, as in the DASH paper's schedules.
        epoch = step // max(1, steps_per_epoch)
        return recipe.decay ** sum(epoch > milestone for milestone in recipe.milestones)
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))
    if recipe.schedule == "onecycle":
        rise = _WARM_UP * total
        if step < rise:
            return (step + 1) / (rise + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / (total - rise))))
    return 1.0


def schedule(
    optimiser: Optimizer,
    recipe: Recipe,
    steps_per_epoch: int,
    course: Callable[[int], float] | None = None,
) -> LambdaLR:
    """The recipe's learning rate schedule, to be stepped after every optimiser step.

    ``course`` tells the rate at a step (from 0) as a multiple of the first, if not by the recipe's schedule.
    That of transforms, a second group, goes along, but is 0 in their warm-up and cool-down.
    """

    def rate(step: int) -> float:
        return factor(recipe, step, steps_per_epoch) if course is None else course(step)

    def windowed(step: int) -> float:
        return rate(step) if _trains_transforms(recipe, step // max(1, steps_per_epoch)) else 0.0

    rates: list[Callable[[int], float]] = [rate, windowed]
    return LambdaLR(optimiser, rates[: len(optimiser.param_groups)])


def _trains_transforms(recipe: Recipe, epoch: int) -> bool:
    warm, cool = recipe.transform_warmup, recipe.transform_cooldown
    # Without a cool-down they are trained in what a strategy adds to the recipe's epochs, too.
    return epoch >= warm and (cool == 0 or epoch < recipe.epochs - cool)
