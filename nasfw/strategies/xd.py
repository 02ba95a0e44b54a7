"""XD (Roberts et al. 2021): train operations themselves, then fold each into the nearest that has a name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from nasfw import progress, training
from nasfw.contracts import (
    Architecture,
    Evaluate,
    Mixture,
    Option,
    Problem,
    Recipe,
    Strategy,
    Supernet,
    Trial,
    Unsupported,
    Workload,
)
from nasfw.flops import forward_flops
from nasfw.folding import Fold, Foldable, Replacement, Report, harmless, name_of
from nasfw.proposals import Judge, choose, rating_passes
from nasfw.strategies.parameters import Epochs, Fraction, Proposals
from nasfw.tradeoff import Array
from nasfw.workloads import recipe_of

# Validation samples that the loss of a replacement is computed on.
_SAMPLES = 512
# The learning rate of further training, in the recipe's.
_GENTLE = 0.1


@dataclass(frozen=True)
class XD(Strategy):
    """Trains the network of XD operations, folds them, and trains what that proposes further.

    1. The space's universal architecture is trained once on the training split, weights and transforms
       together (single level, from the warm start, as published); how the transforms are trained says the
       recipe.
    2. Folding: for each layer and each option the nearest operation of that name is computed, with its
       distance, and the validation loss with it in the layer's place, all others staying.
    3. Proposed are the universal architecture; those in which more and more layers are folded, in the order
       of what that adds to the loss; that of the smallest operations which add nothing, layer by layer; the
       plain backbone; and with several objectives those along the
       trade-off between that loss and the options' costs. They are ranked with the trained network's weights.
    4. At most ``candidates`` of them are trained further, from these weights, for ``tuning`` of the recipe's
       epochs, at rates that fall from a tenth of the recipe's. The final phase trains the best from scratch.
    """

    epochs: Epochs = None
    fraction: Fraction = None
    tuning: Annotated[
        float, Field(ge=0, le=1, description="training of candidates from inherited weights; share of epochs")
    ] = 0.25
    proposals: Proposals = 24
    candidates: Annotated[int, Field(ge=1, description="architectures trained further")] = 6

    def check(self, problem: Problem) -> None:
        self._foldable(problem, problem.space.build(problem.space.universal))
        if problem.objectives[0].fixed or problem.objectives[0].looked_up:
            raise Unsupported("xd trains operations, and needs an objective that depends on trained weights")

    def workload(self, problem: Problem) -> Workload:
        count = min(self.candidates, problem.space.size)
        options = sum(len(options) for options in problem.space.decisions.values())
        # Besides the proposals, those that ``found`` gives: a layer more is folded in each.
        ranked = self.proposals + len(problem.space.decisions) + 2
        rated = min(ranked, problem.space.size) * rating_passes(problem)
        scanned = options * training.forward_passes(problem.task, self._scanned(problem))
        tuned = count * self._tuning(problem).passes
        first = recipe_of(problem, self).passes * self._cost(problem)
        return Workload(count, first + scanned + rated + tuned)

    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        trained = self.train(problem, evaluate)
        folded = Folded(trained, problem, self._folds(problem, trained))
        report, gains = self.replaced(problem, evaluate, folded)
        report.write(problem.folder)
        judge = Judge(problem, folded)
        found = self.found(problem, report)
        chosen = choose(judge, evaluate, gains, self.proposals, self.candidates, found)
        recipe = self._tuning(problem)
        evaluate([Trial(a, recipe, _state(judge, a)) for a in chosen])

    def train(self, problem: Problem, evaluate: Evaluate) -> nn.Module:
        """The network of the universal architecture, trained."""
        model, recipe = problem.space.build(problem.space.universal), recipe_of(problem, self)
        checkpoint = problem.folder / "checkpoints" / "universal.pt"
        training.fit(model, problem.task, recipe, "train", problem.compute, checkpoint, "training operations")
        evaluate.spend(recipe.passes * self._cost(problem))
        return model.eval()

    def replaced(self, problem: Problem, evaluate: Evaluate, folded: Folded) -> tuple[Report, list[Array]]:
        """What each replacement costs, and what each option is worth: minus what it adds to the loss."""
        space = problem.space
        base = space.universal
        whole = self._loss(problem, folded.trained)
        replacements: dict[str, list[Replacement]] = {}
        gains = [np.full(len(options), -np.inf) for options in space.decisions.values()]
        options = sum(len(folds) for folds in folded.folds.values())
        with progress.track("folding operations", options) as bar:
            for i, (name, known) in enumerate(space.decisions.items()):
                rows = []
                gains[i][list(known).index(base[i])] = 0.0
                for option, fold in folded.folds[name].items():
                    loss = self._loss(problem, folded.network((*base[:i], option, *base[i + 1 :])))
                    count = sum(w.numel() for w in fold.weights.values())
                    rows.append(Replacement(option, fold.distance, loss, count))
                    gains[i][list(known).index(option)] = min(0.0, whole - loss)
                    bar.advance()
                replacements[name] = sorted(rows, key=lambda r: (r.distance, r.loss))
        evaluate.spend(options * training.forward_passes(problem.task, self._scanned(problem)))
        return Report(whole, replacements), [_finite(g) for g in gains]

    def found(self, problem: Problem, report: Report) -> list[Architecture]:
        """The universal architecture, those with more and more layers folded, and that of what does no harm.

        Layers are folded in the order of what that adds to the loss.
        """
        space = problem.space
        order = []
        for i, name in enumerate(space.decisions):
            rows = report.replacements[name]
            if rows:
                # What has a name becomes it; of what has none, the replacement that does least harm is taken.
                best = name_of(rows) or min(rows, key=lambda r: r.loss)
                order.append((best.loss, i, best.option))
        current = list(space.universal)
        found = [tuple(current)]
        for _, i, option in sorted(order, key=lambda o: o[:2]):
            current[i] = option
            found.append(tuple(current))
        small = [harmless(report.replacements[name], report.loss) for name in space.decisions]
        pairs = zip(small, space.universal, strict=True)
        found.append(tuple(own if least is None else least.option for least, own in pairs))
        return list(dict.fromkeys(found))

    def _loss(self, problem: Problem, model: nn.Module) -> float:
        total, seen = 0.0, 0
        with torch.no_grad():
            for x, y in problem.task.batches("valid"):
                output = model(x.to(problem.compute))
                target = y.to(problem.compute) if isinstance(y, Tensor) else y
                total += float(problem.task.loss(output, target)) * len(x)
                seen += len(x)
                if seen >= _SAMPLES:
                    break
        mean = total / max(1, seen)
        # Replacements may well overflow; that is as bad as can be, and no failure.
        return mean if math.isfinite(mean) else float(np.finfo(np.float32).max)

    def _folds(self, problem: Problem, model: nn.Module) -> dict[str, Mapping[Option, Fold]]:
        found = {}
        decisions = problem.space.decisions.items()
        for (name, options), own in zip(decisions, problem.space.universal, strict=True):
            layer = model.get_submodule(name)
            assert isinstance(layer, Foldable)
            found[name] = layer.folded([o for o in options if o != own])
        return found

    def _foldable(self, problem: Problem, model: nn.Module) -> None:
        for name in problem.space.decisions:
            if not isinstance(model.get_submodule(name), Foldable):
                kind = type(model.get_submodule(name)).__name__
                raise Unsupported(f"{kind} at {name} does not say which operations it is near to")

    def _tuning(self, problem: Problem) -> Recipe:
        # At the full rate, weights that are trained already would lose more than so few epochs give back.
        given = problem.recipe
        transforms = None if given.transform_lr is None else _GENTLE * given.transform_lr
        return replace(
            given,
            epochs=round(self.tuning * given.epochs),
            lr=_GENTLE * given.lr,
            schedule="cosine",
            transform_lr=transforms,
            transform_warmup=0,
            transform_cooldown=0,
        )

    def _scanned(self, problem: Problem) -> int:
        return min(_SAMPLES, problem.task.size("valid"))

    def _cost(self, problem: Problem) -> float:
        """A step of the universal network in those of the plain backbone, by their operations."""
        space, shape = problem.space, problem.task.input_shape
        universal, plain = (forward_flops(space.build(a), shape) for a in (space.universal, space.default))
        return universal / max(1, plain)


class Folded(Supernet):
    """A trained network of learned operations as the supernet of what they can be folded into."""

    def __init__(
        self, trained: nn.Module, problem: Problem, folds: Mapping[str, Mapping[Option, Fold]]
    ) -> None:
        super().__init__()
        self.trained, self.folds = trained, folds
        self._space = problem.space

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """There is no mixture of operations; Unsupported."""
        raise Unsupported("folded operations have no mixture")

    def weights(self, architecture: Architecture) -> Mapping[str, Tensor]:
        """The trained network's state, with the nearest operation's where a layer is folded.

        Unsupported for an option that a layer does not know the nearest operation of.
        """
        state = {name: value.detach().clone() for name, value in self.trained.state_dict().items()}
        decisions = zip(self._space.decisions, architecture, self._space.universal, strict=True)
        for name, option, own in decisions:
            if option == own:
                continue
            if option not in self.folds[name]:
                raise Unsupported(f"what {name} would be as {option!r} is not known")
            state = {key: value for key, value in state.items() if not key.startswith(f"{name}.")}
            state |= {f"{name}.{key}": value for key, value in self.folds[name][option].weights.items()}
        return state

    def network(self, architecture: Architecture) -> nn.Module:
        """The network of an architecture with these weights, in evaluation mode."""
        device = next(self.trained.parameters()).device
        model = self._space.build(architecture)
        model.load_state_dict(self.weights(architecture))
        return model.to(device).eval()


def _state(judge: Judge, architecture: Architecture) -> Mapping[str, Tensor]:
    """The weights with which an architecture was ranked, its batch statistics included."""
    # Computed again for the few that are trained, with the same result, rather than kept for all rated ones.
    return judge.candidate(architecture).model.state_dict()


def _finite(row: Array) -> Array:
    """What is not known is worth less than all that is."""
    known = row[np.isfinite(row)]
    return np.where(np.isfinite(row), row, 2 * float(known.min(initial=0.0)) - 1.0)
