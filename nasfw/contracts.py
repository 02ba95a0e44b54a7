"""The six contracts that plugins fulfil, and the values that travel between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from nasfw import junctions, notation
from nasfw.junctions import Junction
from nasfw.values import (
    Architecture,
    CostTable,
    Diverged,
    Measure,
    Measured,
    Option,
    Phase,
    Recipe,
    Record,
    Split,
    Unsupported,
    UsageError,
    Workload,
    digest,
)

__all__ = [
    "Architecture",
    "Candidate",
    "CostTable",
    "Device",
    "Diverged",
    "Evaluate",
    "Executor",
    "Job",
    "Junction",
    "Measure",
    "Measured",
    "Mixture",
    "Objective",
    "Option",
    "Phase",
    "Problem",
    "Recipe",
    "Record",
    "SearchSpace",
    "Split",
    "Strategy",
    "Supernet",
    "Task",
    "Trial",
    "Unsupported",
    "UsageError",
    "Workload",
]

Mixture = Sequence[Tensor]
Job = Callable[[], Record]


class Task(ABC):
    """Data, loss and published metric. ``metric`` names what ``error`` returns, lower is better."""

    metric: str = "error"

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: (channels, length), (channels, height, width) or with depth before height."""

    @property
    @abstractmethod
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one network output: (classes,), or (channels, *spatial) for dense prediction."""

    @property
    def recipe(self) -> Recipe:
        """How networks for this task are trained unless the user says otherwise."""
        return Recipe()

    @abstractmethod
    def size(self, split: Split) -> int:
        """Number of samples in ``split``; "full" is train and valid together."""

    @abstractmethod
    def batches(
        self, split: Split, batch_size: int = 256, generator: torch.Generator | None = None
    ) -> Iterable[tuple[Tensor, Any]]:
        """Batches (x, y) of ``split`` on the CPU: in order, or shuffled by ``generator`` if one is given."""

    @abstractmethod
    def loss(self, output: Tensor, target: Any) -> Tensor:
        """The scalar that training minimises, a mean over the batch."""

    @abstractmethod
    def error(self, outputs: Tensor, targets: Tensor) -> float:
        """The published metric on a WHOLE split, lower is better."""


class Supernet(nn.Module, ABC):
    """One network that holds every architecture of a space.

    ``cost`` is the time of one training step in steps of an average architecture of the space, ``path_cost``
    that of a step under the mixture of one architecture, and ``drawn_cost`` under a one-hot mixture that has
    an option also on the edges that architectures leave out (None: as ``path_cost``); the engine needs them
    to give random search the same budget.
    """

    cost: float = 1.0
    path_cost: float = 1.0
    drawn_cost: float | None = None

    @abstractmethod
    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Output under ``mixture``; one-hot weights give the standalone network's output.

        A decision's weights, which usually sum to 1, multiply what its options compute wherever it is used.
        The weights of the options may be left without gradient where the mixture has a zero; the mixture's
        own gradient is exact for every option, if it needs one.
        """

    @abstractmethod
    def weights(self, architecture: Architecture) -> Mapping[str, Tensor]:
        """State that ``build(architecture)`` loads to compute what the one-hot mixture computes."""

    def only(self, options: Sequence[Sequence[int]]) -> AbstractContextManager[None]:
        """In here, of each decision only these options matter: others have weight zero and no gradient.

        A supernet that computes options one by one can save the others; by default none is saved.
        """
        return nullcontext()

    def fields(self) -> Sequence[Tensor]:
        """Receptive field of every option in samples per axis, decision by decision, for penalties on it."""
        raise Unsupported(f"{type(self).__name__} does not know the receptive fields of its options")

    def details(self) -> Mapping[str, str]:
        """How each layer is computed on this machine, in words for the run's report; nothing by default."""
        return {}


class SearchSpace(ABC):
    """A set of networks, described by decisions among JSON scalars.

    Decisions are independent but for ``junctions``. ``skips`` are the options that pass their input on
    unchanged, if there are any: a search that takes nearly nothing else has collapsed.
    """

    skips: ClassVar[frozenset[Option]] = frozenset()

    @property
    @abstractmethod
    def decisions(self) -> Mapping[str, Sequence[Option]]:
        """What there is to decide, in order: name -> options."""

    @property
    def junctions(self) -> Sequence[Junction]:
        """Which decisions are edges into one node, and how many of these are kept; none by default."""
        return ()

    @property
    @abstractmethod
    def default(self) -> Architecture:
        """The plain backbone: the yardstick of every run."""

    @abstractmethod
    def build(self, architecture: Architecture) -> nn.Module:
        """The standalone network, with fresh weights drawn from torch's global generator."""

    @property
    def universal(self) -> Architecture:
        """The architecture of operations that can become all others, and say which one is the nearest.

        Unsupported by default; see ``nasfw.folding``.
        """
        raise Unsupported(
            f"space {type(self).__name__} has no operations that can become all others; those of space xd can"
        )

    def enlarged(self) -> SearchSpace:
        """The space whose networks the final phase trains; same decisions. This space by default."""
        return self

    def reduced(self, flops: float) -> SearchSpace:
        """The space in a size whose plain backbone needs about ``flops`` per input. This one by default.

        Used where a run may only take minutes; a space that cannot be smaller stays as it is.
        """
        return self

    def partial(self, share: int) -> SearchSpace:
        """The space whose supernet sends 1 / ``share`` of the channels through its mixtures (PC-DARTS).

        The others bypass them. This space by default.
        """
        return self

    def modules(self, decision: str) -> Sequence[str]:
        """Paths, in a built network, of the modules that a decision decides: the one of its name by default.

        An option without modules has none of these.
        """
        return (decision,)

    def supernet(self) -> Supernet:
        """The network that holds them all; Unsupported if the space offers none."""
        raise Unsupported(f"space {type(self).__name__} offers no supernet, which one-shot strategies need")

    @property
    def size(self) -> int:
        """Number of architectures."""
        return junctions.size(self.decisions, self.junctions)

    def sample(self, rng: np.random.Generator) -> Architecture:
        """An architecture drawn uniformly."""
        return junctions.sample(self.decisions, self.junctions, rng)

    def mutate(self, architecture: Architecture, rng: np.random.Generator) -> Architecture:
        """``architecture`` with one decision changed to another option, or one edge moved, uniformly."""
        return junctions.mutate(self.decisions, self.junctions, architecture, rng)

    def discretise(self, scores: Sequence[Sequence[float]] | Mixture) -> Architecture:
        """The architecture of the largest sum of scores: weights, logits or gains, decision by decision."""
        rows = [s.detach().tolist() if isinstance(s, Tensor) else s for s in scores]
        return junctions.best(self.decisions, self.junctions, rows)

    def text(self, architecture: Architecture) -> str:
        """The architecture as its field writes it; by default, and for any space, "name=option, ..."."""
        return notation.text(dict(zip(self.decisions, architecture, strict=True)))

    def own_text(self, architecture: Architecture) -> str | None:
        """``text``, where the space has a notation of its own."""
        if type(self).text is SearchSpace.text:
            return None
        text = self.text(architecture)
        return None if text == SearchSpace.text(self, architecture) else text

    def parse(self, text: str) -> Architecture:
        """The architecture that ``text`` writes so; UsageError if it is none of these decisions."""
        return notation.parse(self.decisions, text)


@dataclass
class Candidate:
    """What an objective is shown: an architecture on a task, trained if ``weights`` are given.

    ``recipe`` says how it is or would be trained, where that is known.
    """

    space: SearchSpace
    task: Task
    architecture: Architecture
    split: Split = "valid"
    weights: Mapping[str, Tensor] | None = None
    compute: str = "cpu"
    recipe: Recipe | None = None

    @cached_property
    def model(self) -> nn.Module:
        """The network in evaluation mode on ``compute``, built on first use."""
        model = self.space.build(self.architecture)
        if self.weights is not None:
            model.load_state_dict(self.weights)
        return model.to(self.compute).eval()

    @cached_property
    def predictions(self) -> tuple[Tensor, Tensor]:
        """Outputs and targets on the whole of ``split``, on the CPU."""
        outputs, targets = [], []
        with torch.no_grad():
            for x, y in self.task.batches(self.split):
                outputs.append(self.model(x.to(self.compute)).cpu())
                targets.append(y)
        return torch.cat(outputs), torch.cat(targets)


class Device(ABC):
    """Something that measures: a processor, a board, a table of measurements. ``metrics`` are its powers."""

    metrics: ClassVar[Sequence[str]] = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the real thing, as its maker calls it."""

    @abstractmethod
    def measure(self, metric: str, candidate: Candidate) -> float:
        """``metric`` of the candidate in SI units (seconds, joules, bytes); Unsupported says why not.

        Preferably a ``Measured``, which has the spread of the value and how it was obtained.
        """

    def measure_all(
        self, metric: str, candidates: Sequence[Candidate], rounds: int | None = None
    ) -> list[float]:
        """``metric`` of each; a device may take turns between them, so that they compare better.

        At most ``rounds`` times each where a rough value will do, otherwise as often as the device finds fit.
        """
        return [self.measure(metric, candidate) for candidate in candidates]

    def measure_onnx(self, metric: str, models: Sequence[bytes], rounds: int | None = None) -> list[float]:
        """``metric`` of each of some serialised ONNX models, as ``measure_all`` has it of candidates."""
        raise Unsupported(f"device {self.name} measures architectures of a search space, not ONNX files")

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What values depend on besides the network: hardware, versions, settings, as JSON values."""
        return {"device": self.name}

    def check(self, metric: str) -> None:
        """Unsupported, with reason and remedy, if ``metric`` cannot be measured here and now."""
        if metric not in self.metrics:
            raise Unsupported(f"device {self.name} measures {', '.join(self.metrics)}, not {metric!r}")

    def table(self, metric: str, space: SearchSpace, task: Task, seed: int) -> CostTable | None:
        """``metric`` as a sum over the decisions of ``space``; None where that is not known.

        ``seed`` decides which random networks it is fitted to and tested on.
        """
        return None


class Objective(ABC):
    """One number about a candidate. ``trained`` says whether it depends on the trained weights.

    An objective with ``trained = False`` is a property of the architecture and measured once for each, unless
    it is ``looked_up``: then it is what a training by the candidate's recipe gave, read from a table. One
    with a dataclass field ``device`` is made once per device and named ``metric@device``.
    """

    metric: ClassVar[str]
    unit: ClassVar[str] = ""
    maximise: ClassVar[bool] = False
    trained: ClassVar[bool] = False
    looked_up: ClassVar[bool] = False
    device: Device | None = None

    @abstractmethod
    def measure(self, candidate: Candidate) -> float:
        """The value as a person expects it; must be finite."""

    def table(self, space: SearchSpace, task: Task, seed: int) -> CostTable | None:
        """The value as a sum over the decisions of ``space``, for proposals; None where that is not known."""
        return None

    @property
    def fixed(self) -> bool:
        """Whether the value is a property of the architecture, whatever became of its training."""
        return not (self.trained or self.looked_up)

    @property
    def name(self) -> str:
        """The name in records."""
        return self.metric if self.device is None else f"{self.metric}@{self.device.name}"

    @property
    def reading(self) -> Measure:
        """How to read this objective's values without its code."""
        device = None if self.device is None else self.device.name
        return Measure(self.name, self.unit, self.maximise, device, not self.fixed)


@dataclass(frozen=True)
class Trial:
    """An architecture, how to train it, and optionally the weights that it starts from.

    In the final phase the recipe trains the architecture from scratch, unless it was one for such weights:
    then the run's recipe does.
    """

    architecture: Architecture
    recipe: Recipe
    weights: Mapping[str, Tensor] | None = field(default=None, compare=False)

    @cached_property
    def key(self) -> str:
        """Identifies all three."""
        parts: list[object] = [list(self.architecture), self.recipe.content]
        for name, value in sorted((self.weights or {}).items()):
            # numpy knows no bfloat16, but every dtype has bytes.
            raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            parts += [name, str(value.dtype), list(value.shape), raw]
        return digest(*parts)


@dataclass(frozen=True)
class Problem:
    """What a strategy is given.

    ``objectives`` of trainings come before those of architectures, so the first one is the quality whenever
    there is one. ``recipe`` is the task's with the user's changes. ``folder`` is where a strategy may keep
    checkpoints of its own training.
    """

    space: SearchSpace
    task: Task
    objectives: Sequence[Objective]
    recipe: Recipe
    seed: int
    folder: Path
    compute: str = "cpu"


class Evaluate(Protocol):
    """How a strategy has trials trained and measured; known trials are answered from the records."""

    def __call__(self, trials: Iterable[Trial]) -> list[Record]:
        """Records in the order of ``trials``, when all are done; fewer if the budget ends."""
        ...

    def as_completed(self, trials: Iterable[Trial]) -> Iterator[Record]:
        """Records as they are done; the next trial is drawn whenever a worker is free."""
        ...

    def spend(self, passes: float) -> bool:
        """Report training done outside trials, in passes over the training split by an average architecture.

        False once the budget is used up: stop, and propose what there is.
        """
        ...


class Strategy(ABC):
    """How to look for good architectures. ``yardstick`` says that others are measured against it."""

    yardstick: ClassVar[bool] = False

    @abstractmethod
    def search(self, problem: Problem, evaluate: Evaluate) -> None:
        """Have trials evaluated until done; everything worth knowing ends in the records."""

    def check(self, problem: Problem) -> None:  # noqa: B027 - most have nothing to refuse
        """UsageError if ``search`` cannot work on the problem, as far as a moment's work can tell.

        Unsupported where the space lacks a power, such as a supernet.
        """

    def workload(self, problem: Problem) -> Workload | None:
        """What ``search`` is about to do; None if it cannot be foretold."""
        return None


class Executor(ABC):
    """Where trials run."""

    @abstractmethod
    def run(self, jobs: Iterable[Job]) -> Iterator[Record]:
        """Results as completed; draws the next job only when it can be started."""
