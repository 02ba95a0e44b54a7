"""What one-shot strategies share: the training of a supernet, and how it ends in trained architectures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nasfw import bilevel, diagnostics, mixtures, supernets, training
from nasfw.contracts import (
    Architecture,
    Evaluate,
    Mixture,
    Problem,
    SearchSpace,
    Supernet,
    Trial,
    Unsupported,
)
from nasfw.diagnostics import Diagnostics, History, Moment, Rating
from nasfw.proposals import Judge, choose, gains_of
from nasfw.sampling import distinct
from nasfw.tradeoff import Array
from nasfw.workloads import DRAWN, Settings, Work, recipe_of

log = logging.getLogger("nasfw")

Batch = tuple[Tensor, Any]
Relax = Callable[[Sequence[Tensor]], Mixture]

# How many of the architectures that the mixture preferred on its way are ranked beside the last one.
_TRAIL = 6
# What torch's batch norms call it that they keep running statistics.
_TRACKS = "track_running_stats"


def check(problem: Problem) -> Supernet:
    """The space's supernet; Unsupported if it offers none, or if the quality is looked up in a table.

    A table knows what trainings gave, and nothing of the weights that a supernet shares.
    """
    quality = problem.objectives[0]
    if quality.looked_up:
        raise Unsupported(
            f"a one-shot strategy rates networks with the supernet's weights, but {quality.name} is looked "
            "up; random, evolution, asha and given work with tables"
        )
    return problem.space.supernet()


class Search:
    """A one-shot search under way: the supernet, its optimiser, and ``outer``, what shapes the mixture.

    ``relax`` turns ``outer`` into a mixture, and ``shares``, if given, into what is read off in its place. A
    strategy goes through ``epochs`` and, in each, through ``batches`` or ``pairs``, changes ``outer`` as it
    sees fit, calls ``learn`` for the weights, and ``finish`` at the end. Everything is kept in a checkpoint,
    so that a search that was killed goes on.
    """

    def __init__(
        self,
        problem: Problem,
        evaluate: Evaluate,
        settings: Settings,
        work: Work,
        space: SearchSpace | None = None,
    ) -> None:
        self.problem, self.evaluate, self.settings, self.work = problem, evaluate, settings, work
        self.task, self.compute = problem.task, problem.compute
        self.recipe = recipe_of(problem, settings)
        self.supernet = (space or problem.space).supernet().to(self.compute)
        self.clock = supernets.started(self.compute)
        self.names = [name for name, _ in self.supernet.named_parameters()]
        self.weights = list(self.supernet.parameters())
        self.steps = training.steps_per_epoch(self.task, "train", self.recipe)
        self.optimiser = training.optimizer(self.weights, self.recipe, training.transforms(self.supernet))
        self.schedule = training.schedule(self.optimiser, self.recipe, self.steps)
        self.mixed = mixtures.mixed(problem.space.decisions, problem.space.junctions)
        self.outer = nn.ParameterList()
        self.relax: Relax = self.softmax
        self.shares: Relax | None = None
        self.history = History()
        self.epoch, self.total, self.seen, self._looked = 0, torch.zeros(()), 0, 0
        self.generator = torch.Generator().manual_seed(self.recipe.seed)

    def logits(self, scale: float = 1e-3) -> nn.ParameterList:
        """Logits for all options that may be mixed, drawn from N(0, scale^2)."""
        rows = [scale * torch.randn(len(kept)) for kept in self.mixed]
        return nn.ParameterList(row.to(self.compute) for row in rows)

    def full(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Weights of the options that may be mixed as a mixture of all options."""
        return mixtures.embedded(rows, self.mixed, self.problem.space.decisions)

    @property
    def rate(self) -> float:
        """The current learning rate of the weights, but for transforms."""
        return float(self.optimiser.param_groups[0]["lr"])

    def softmax(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """The mixture of logits, by a softmax for each decision."""
        return self.full(mixtures.softmax(rows))

    @property
    def mixture(self) -> list[Tensor]:
        """The current mixture, without gradient."""
        with torch.no_grad():
            return [w.detach() for w in self.relax(list(self.outer))]

    @property
    def preferences(self) -> list[Tensor]:
        """What the preferred architecture is read off, and its costs are weighed against."""
        with torch.no_grad():
            return [w.detach() for w in (self.shares or self.relax)(list(self.outer))]

    def epochs(
        self, parts: Mapping[str, training.Stateful] | None = None, count: int | None = None
    ) -> Iterator[int]:
        """The epochs still to do, from 0 on; ends early where the budget does.

        ``parts`` are kept in the checkpoint with the search's own. Diverged if the training loss of an epoch
        is not finite.
        """
        kept: dict[str, training.Stateful] = {
            "supernet": self.supernet,
            "optimizer": self.optimiser,
            "schedule": self.schedule,
            "outer": self.outer,
            "history": self.history,
            **(parts or {}),
        }
        count = self.recipe.epochs if count is None else count
        checkpoint = self.problem.folder / "checkpoints" / "supernet.pt"
        charged = 0
        for epoch, bar in training.epochs(count, kept, self.generator, checkpoint, "supernet training"):
            if epoch > charged:
                # Epochs done before a restart count as well.
                self.spend(epoch - charged)
            self.supernet.train()
            self.epoch, self.total, self.seen = epoch, torch.zeros((), device=self.compute), 0
            yield epoch
            loss = training.finite_mean(self.total, self.seen, epoch) if self.seen else None
            bar.advance(**({} if loss is None else {"loss": loss}))
            self._observe(epoch, loss)
            charged = epoch + 1
            if not self.spend(1):
                log.warning("the budget ended the supernet's training after epoch %d", epoch + 1)
                return
        self.spend(count - charged)
        # What comes draws as it would have done without a restart.
        self.epoch = count

    def spend(self, epochs: float) -> bool:
        """Charge the budget with so many epochs, and with eigenvalues since; False once it is used up."""
        # Those before a restart as well.
        gradients, self._looked = self.history.gradients - self._looked, self.history.gradients
        looks = gradients / self.steps * self.supernet.cost
        return self.evaluate.spend(self.recipe.fraction * (epochs * self.work.cost(self.supernet) + looks))

    def batches(self) -> Iterator[Batch]:
        """The training batches of an epoch, shuffled."""
        return training.batches(self.task, "train", self.recipe, self.generator, self.compute)

    def pairs(self) -> Iterator[tuple[Batch, Batch]]:
        """For every training batch of an epoch one of the validation split, which is shuffled as well."""
        return zip(self.batches(), self.valid_batches(), strict=False)

    def valid_batches(self) -> Iterator[Batch]:
        """Shuffled batches of the validation split without end, another order for every epoch."""
        # A stream of its own for each epoch needs no place in a checkpoint.
        generator = torch.Generator().manual_seed(_mix(self.recipe.seed, self.epoch))
        whole = replace(self.recipe, fraction=1.0)
        while True:
            yield from training.batches(self.task, "valid", whole, generator, self.compute)

    def rng(self) -> np.random.Generator:
        """Random numbers for the current epoch."""
        return np.random.default_rng([self.recipe.seed, self.epoch])

    def loss(self, batch: Batch, mixture: Mixture) -> Tensor:
        """The task's loss on a batch under a mixture."""
        return self.task.loss(self.supernet(batch[0], mixture), batch[1])

    def criterion(self, batch: Batch) -> bilevel.Loss:
        """The loss on a batch as a function of the supernet's weights and of ``outer``."""

        def loss(weights: Sequence[Tensor], outer: Sequence[Tensor]) -> Tensor:
            state = dict(zip(self.names, weights, strict=True))
            output = torch.func.functional_call(self.supernet, state, (batch[0], self.relax(outer)))
            return self.task.loss(output, batch[1])

        return loss

    @contextmanager
    def statistics_kept(self) -> Iterator[None]:
        """In here no batch changes the supernet's running statistics."""
        tracking: list[Any] = [m for m in self.supernet.modules() if getattr(m, _TRACKS, False)]
        for module in tracking:
            setattr(module, _TRACKS, False)
        try:
            yield
        finally:
            for module in tracking:
                setattr(module, _TRACKS, True)

    def learn(self, batch: Batch, mixture: Mixture, extra: Callable[[Tensor], Tensor] | None = None) -> None:
        """One step of the supernet's weights; ``extra`` adds to the loss, given the output."""
        output = self.supernet(batch[0], mixture)
        loss = self.task.loss(output, batch[1])
        whole = loss if extra is None else loss + extra(output)
        self.optimiser.zero_grad()
        whole.backward()  # type: ignore[no-untyped-call]
        training.clip(self.weights, self.settings.clip)
        self.optimiser.step()
        self.schedule.step()
        self.noted(loss)

    def noted(self, loss: Tensor) -> None:
        """Count a step with its training loss."""
        self.total += loss.detach()
        self.seen += 1
        self.clock.tick()

    def sharpness(self) -> float:
        """The largest eigenvalue of the Hessian, with respect to ``outer``, of a validation batch's loss.

        It is noted in the history of the current epoch, and its gradients for the budget. The loss is without
        the weight decay of the logits, which would add that constant to every eigenvalue.
        """
        batch = next(self.valid_batches())

        def loss(outer: Sequence[Tensor]) -> Tensor:
            self.history.gradients += 1
            return self.loss(batch, self.relax(outer))

        with self.statistics_kept():
            found = bilevel.dominant_eigenvalue(loss, [a.detach() for a in self.outer])
        self.history.moments.append(Moment(self.epoch + 1, eigenvalue=found))
        return found

    @torch.no_grad()
    def judged(self, mixture: Mixture, batches: Iterable[Batch] | None = None) -> tuple[float, float]:
        """Error and loss of a mixture on the whole validation split, or on ``batches`` alone.

        With the statistics of each batch.
        """
        outputs, targets, losses = [], [], []
        with self.statistics_kept():
            for x, y in _joined(self.task.batches("valid")) if batches is None else batches:
                outputs.append(self.supernet(x.to(self.compute), mixture).cpu())
                targets.append(y.cpu())
                losses.append(float(self.task.loss(outputs[-1], targets[-1])) * len(x))
        output, target = torch.cat(outputs), torch.cat(targets)
        return float(self.task.error(output, target)), sum(losses) / len(output)

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """The gradient of ``loss`` with respect to ``outer``; zeros where it does not depend on it."""
        return list(torch.autograd.grad(loss, list(self.outer), materialize_grads=True))

    def descend(self, optimiser: torch.optim.Optimizer, gradients: Sequence[Tensor]) -> None:
        """One step of ``outer`` by an optimiser of it."""
        for parameter, gradient in zip(self.outer, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()

    def _observe(self, epoch: int, loss: float | None) -> None:
        moments, every = self.history.moments, self.settings.eigenvalue
        noted = bool(moments) and moments[-1].epoch == epoch + 1
        if not noted and every and len(self.outer) and (epoch + 1) % every == 0:
            self.sharpness()
            noted = True
        moment = replace(moments.pop() if noted else Moment(epoch + 1), loss=loss)
        if len(self.outer):
            rows = self.preferences
            preferred = self.problem.space.discretise(rows)
            moment = replace(
                moment,
                entropy=diagnostics.entropy(self._options(rows)),
                skips=self.skips(preferred),
                preferred=preferred,
            )
        moments.append(moment)
        self._report().write(self.problem.folder)

    def _options(self, rows: Sequence[Tensor]) -> Iterator[list[float]]:
        """The weights of the options that may be mixed."""
        for row, kept in zip(rows, self.mixed, strict=True):
            weights = row.tolist()
            yield [weights[k] for k in kept]

    def skips(self, architecture: Architecture) -> float | None:
        """Share of skip connections among the edges of ``architecture``; None if the space has none."""
        space = self.problem.space
        return diagnostics.skip_share(architecture, space.junctions, space.skips)

    def _report(self, ratings: Sequence[Rating] = ()) -> Diagnostics:
        return Diagnostics(tuple(self.history.moments), tuple(ratings), tuple(self.history.notes))

    def trail(self) -> list[Architecture]:
        """The architectures that the mixture preferred last on its way, the latest first."""
        moments = [m for m in reversed(self.history.moments) if not m.discarded]
        return list(dict.fromkeys(m.preferred for m in moments if m.preferred is not None))[:_TRAIL]

    def propose(
        self, gains: Sequence[Array] | None = None, found: Sequence[Architecture] = ()
    ) -> list[Architecture]:
        """The architectures to train from scratch, and the end of the supernet's part of the search.

        ``gains`` say how much each option is worth, by default the logarithm of its weight; ``found`` are
        architectures worth ranking, the preferred one first, by default those on the mixture's way.
        """
        supernets.ended(self.supernet, self.clock, self.compute, self.problem.folder)
        space, settings = self.problem.space, self.settings
        gains = gains_of(self.preferences) if gains is None else gains
        first = list(found) or [space.discretise([g.tolist() for g in gains]), *self.trail()]
        log.info("the mixture prefers %s", space.text(first[0]))
        judge = Judge(self.problem, self.supernet)
        chosen = choose(judge, self.evaluate, gains, settings.proposals, settings.candidates, first)
        report = self._report(self._ratings(judge, chosen))
        report.write(self.problem.folder)
        for reason in diagnostics.alarms(report):
            log.warning("%s", reason)
        return chosen

    def finish(self, gains: Sequence[Array] | None = None, found: Sequence[Architecture] = ()) -> None:
        """Train what ``propose`` gives from scratch."""
        self.evaluate([Trial(a, self.problem.recipe) for a in self.propose(gains, found)])

    def _ratings(self, judge: Judge, chosen: Sequence[Architecture]) -> list[Rating]:
        """What the supernet's weights say of the chosen ones, and of the first that random search draws."""
        problem, quality = self.problem, self.problem.objectives[0]
        if quality.fixed:
            return []
        drawn = list(distinct(problem.space, np.random.default_rng(problem.seed), DRAWN))
        rated = list(dict.fromkeys([*drawn, *chosen]))
        fresh = [a for a in rated if quality.name not in judge.known.get(a, {})]
        values = judge.rate(rated, [quality], "rating with inherited weights")
        names = list(problem.space.decisions)
        found = [
            Rating(dict(zip(names, a, strict=True)), float(v[quality.name]), a in drawn) for a, v in values
        ]
        self.evaluate.spend(len(fresh) * judge.passes)
        return found


def _joined(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, the last one together with the one before it if it has but one sample.

    A single sample has no statistics of its own.
    """
    held: Batch | None = None
    for x, y in batches:
        if held is not None and len(x) == 1:
            held = torch.cat([held[0], x]), torch.cat([held[1], y])
            continue
        if held is not None:
            yield held
        held = x, y
    if held is not None:
        yield held


def _mix(seed: int, epoch: int) -> int:
    """One seed of two numbers."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
