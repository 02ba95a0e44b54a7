"""What all one-shot strategies share, and what must be true of each of them."""

import copy
import logging
import math
import os
import re
import signal
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import nasfw
from nasfw import training, workloads
from nasfw.contracts import Objective, Problem, Unsupported, UsageError
from nasfw.diagnostics import FILE, Diagnostics, Moment
from nasfw.engine import Budget, search
from nasfw.executors import Serial
from nasfw.junctions import is_member
from nasfw.mixtures import one_hot
from nasfw.oneshot import Search
from nasfw.plugins import load
from nasfw.proposals import Judge
from nasfw.records import Records
from nasfw.spaces.robust import S4, S5
from nasfw.strategies.darts import Darts
from nasfw.strategies.random import RandomSearch
from nasfw.testing import Echo, Free, Price, ToyCells, ToySpace, ToyTask, Wrong
from nasfw.workloads import Work

REGISTRY = load(entry_points=False)
# What every one-shot strategy does is also what those do that are registered later: they can compute the
# eigenvalues of their mixture, or say that they have none.
NAMES = [e.name for e in REGISTRY.entries("strategy") if hasattr(e.load(), "eigenvalue")]
SMALL = {
    "darts": {"order": "second", "eigenvalue": 2},
    "darts_pt": {"epochs": 2, "tune_epochs": 1},
    "gaea": {"edges": True},
    "pc_darts": {"share": 2},
    "proxyless": {"interval": 1},
    # Any growth of the eigenvalue is too much, so that it starts anew as often as it may.
    "robust_darts": {"mode": "adapt", "factor": 1 + 1e-9, "interval": 1, "rollbacks": 1, "epochs": 11},
    "sd_darts": {"interval": 1},
    "weight_sharing": {"samples": 12, "rounds": 2, "batches": 2, "top": 3},
}
every_strategy = pytest.mark.parametrize("name", NAMES)


class Kill(BaseException):
    """Nothing that a search could handle."""


@dataclass(frozen=True)
class Watched(ToyTask):
    """Notes the first feature of the batches that are drawn, and kills who draws more than it allows."""

    samples: int = 144
    allowed: float = math.inf
    drawn: list[tuple[str, tuple[float, ...]]] = field(default_factory=list, compare=False)

    def batches(self, split, batch_size=256, generator=None):
        for x, y in super().batches(split, batch_size, generator):
            if len(self.drawn) >= self.allowed:
                raise Kill
            self.drawn.append((split, tuple(x[:, 0].tolist())))
            yield x, y


def strategy(name, **parameters):
    return REGISTRY.make("strategy", {name: {"epochs": 3, **SMALL.get(name, {}), **parameters}})


def problem(folder=Path(), *objectives, task=None, space=None, seed=3, **recipe):
    task = task or Watched()
    space = space or ToyCells(task)
    recipe = replace(task.recipe, **recipe)
    return Problem(space, task, objectives or (Wrong(),), recipe, seed, Path(folder))


def run(folder, chosen, p, budget=None):
    """All records of a search in a folder, but for the time that they took."""
    folder.mkdir(exist_ok=True)
    with Records(folder / "r.jsonl", write=True) as records:
        search(replace(p, folder=folder), "toy", chosen, records, Serial(), budget or Budget())
        return [replace(r, seconds=0.0) for r in records]


def started(folder, p=None, settings=None, work=None, space=None):
    """A search under way, with logits to learn."""
    p = replace(p or problem(), folder=Path(folder))
    found = Search(p, Free(), settings or Darts(epochs=2), work or Work(mixed=2.0), space)
    found.outer = found.logits()
    return found


# What each strategy must do.


@dataclass(frozen=True)
class Outcome:
    folder: Path
    batches: int
    records: list
    passes: float

    @property
    def diagnostics(self):
        return (self.folder / FILE).read_bytes()


@pytest.fixture(scope="module", params=NAMES)
def undisturbed(request, tmp_path_factory):
    """A strategy's name, and how a search by it goes."""
    folder, task, budget = tmp_path_factory.mktemp(request.param), Watched(samples=96), Budget()
    records = run(folder, strategy(request.param), problem(task=task), budget)
    return request.param, Outcome(folder, len(task.drawn), records, budget.passes)


def test_a_search_that_is_killed_thrice_ends_as_if_it_had_not_been(tmp_path, undisturbed):
    """Same records, diagnostics and training charged, wherever a batch was the last one.

    Twice within the second epochs of what there is to train, and then wherever it happens to be.
    """
    name, expected = undisturbed
    anywhere = np.random.default_rng(len(name)).integers(1, expected.batches // 2)
    for allowed in (5, 5, int(anywhere)):
        with pytest.raises(Kill):
            run(tmp_path, strategy(name), problem(task=Watched(samples=96, allowed=allowed)))
    budget = Budget()
    assert run(tmp_path, strategy(name), problem(task=Watched(samples=96)), budget) == expected.records
    assert (tmp_path / FILE).read_bytes() == expected.diagnostics
    assert budget.passes == pytest.approx(expected.passes, rel=1e-9)


def test_what_is_rated_as_drawn_is_what_random_search_draws(tmp_path, undisturbed):
    """So that the yardstick tells how far the ratings rank as standalone trainings do."""
    _, found = undisturbed
    ratings = Diagnostics.read(found.folder).ratings
    yardstick = run(tmp_path, RandomSearch(trials=16), problem(epochs=0))
    drawn = [tuple(r.choices.values()) for r in ratings if r.drawn]
    assert drawn == [r.architecture for r in yardstick]
    assert {tuple(r.choices.values()) for r in ratings} == {*drawn, *(r.architecture for r in found.records)}


def test_candidates_are_members_and_trained_by_the_recipe(undisturbed):
    _, found = undisturbed
    junctions, recipe = problem().space.junctions, problem().recipe
    architectures = [r.architecture for r in found.records]
    assert 2 <= len(architectures) == len(set(architectures)) <= 6
    assert all(is_member(junctions, a) for a in architectures)
    assert {r.recipe for r in found.records} == {recipe}


def trained(name, p):
    """A strategy's search after its training."""
    torch.manual_seed(p.seed)
    found = strategy(name, epochs=2).train(p, Free())
    return found[0] if isinstance(found, tuple) else found


@every_strategy
def test_the_seed_decides_the_training_to_the_last_bit(tmp_path, name):
    """And another one makes it another training."""
    found = [trained(name, problem(tmp_path / n, seed=s)) for n, s in (("a", 1), ("b", 1), ("c", 2))]
    states = [[*search.outer, *search.weights] for search in found]
    assert all(torch.equal(a, b) for a, b in zip(states[0], states[1], strict=True))
    assert found[0].history == found[1].history
    assert found[0].history.moments[0].loss != found[2].history.moments[0].loss


@every_strategy
def test_only_the_weights_steps_change_the_batch_statistics(tmp_path, name):
    """The stem's batch norm, which every mixture passes, counts the batches that it learnt from."""
    found = trained(name, problem(tmp_path))
    state = found.supernet.state_dict()
    assert int(state["cell.stem.1.num_batches_tracked"]) == found.schedule.last_epoch > 0


@every_strategy
def test_the_budget_ends_the_training_with_a_warning_and_a_member_is_trained(tmp_path, name, caplog):
    p = problem()
    with caplog.at_level(logging.WARNING):
        (record,) = run(tmp_path, strategy(name, epochs=100), p, Budget(seconds=0.0))
    assert "the budget ended the supernet's training after epoch 1" in caplog.text
    assert is_member(p.space.junctions, record.architecture)
    assert record.recipe == p.recipe


@every_strategy
def test_edges_that_are_not_mixed_have_no_weight(tmp_path, name):
    found = trained(name, problem(tmp_path, space=ToyCells(Watched(), mixed=False)))
    if not len(found.outer):
        return
    assert [len(row) for row in found.mixture] == [4] * 5 + [2]
    assert [float(row[0]) for row in found.mixture[:5]] == [0.0] * 5
    assert all(float(row.sum()) > 0 for row in found.mixture[:2])


@every_strategy
def test_a_training_that_diverges_is_said_in_one_sentence(tmp_path, name):
    with pytest.raises(UsageError, match=r"the search in toy diverged: the training loss was"):
        run(tmp_path, strategy(name, clip=1e38), problem(lr=1e38, schedule="constant"))


class Shaping(nn.Linear):
    """A layer whose weights are a transform."""

    def transforms(self):
        return [self.weight]


@dataclass(frozen=True)
class Shaped(ToyCells):
    """Cells that end in a layer with a transform."""

    def build(self, architecture):
        return self._shaped(super().build(architecture))

    def supernet(self):
        found = super().supernet()
        self._shaped(found.cell)
        return found

    @staticmethod
    def _shaped(cell):
        cell.head = Shaping(cell.head.in_features, cell.head.out_features)
        nn.init.eye_(cell.head.weight)
        nn.init.zeros_(cell.head.bias)
        return cell


OF_TRANSFORMS = {"transform_optimizer": "adam", "transform_lr": 0.01, "transform_warmup": 1}


@every_strategy
def test_transforms_of_a_supernet_are_trained_by_their_own_optimiser_and_warm_up(tmp_path, name):
    """Where the warm-up is longer than the training, they are what they were at the start."""

    def head(warmup):
        task = Watched()
        recipe = {**OF_TRANSFORMS, "transform_warmup": warmup}
        found = trained(name, problem(tmp_path / str(warmup), task=task, space=Shaped(task), **recipe))
        weights, transforms = found.optimiser.param_groups
        assert "betas" in transforms
        assert "betas" not in weights
        assert found.rate == weights["lr"]
        return found.supernet.cell.head

    start, resting, moved = Shaped(Watched()).supernet().cell.head, head(10**6), head(0)
    assert torch.equal(resting.weight, start.weight)
    assert not torch.equal(resting.bias, start.bias)
    assert not torch.equal(moved.weight, start.weight)


@pytest.mark.parametrize("name", ["darts", "darts_pt", "robust_darts", "weight_sharing"])
def test_a_killed_search_with_transforms_ends_as_if_it_had_not_been(tmp_path, name):
    def found(folder, allowed=math.inf):
        task = Watched(samples=96, allowed=allowed)
        return run(folder, strategy(name), problem(task=task, space=Shaped(task), **OF_TRANSFORMS))

    expected = found(tmp_path / "undisturbed")
    for allowed in (5, 9):
        with pytest.raises(Kill):
            found(tmp_path / "killed", allowed)
    assert found(tmp_path / "killed") == expected


def test_no_device_is_wired_in():
    """What a search computes on is the problem's to say."""
    folder = Path(nasfw.__file__).parent
    files = [*(folder / "strategies").glob("*.py"), *(folder / "spaces").glob("*.py")]
    files += [folder / "oneshot.py", folder / "proposals.py", folder / "mixtures.py", folder / "bilevel.py"]
    assert len(files) > 20
    for file in files:
        # Shapes alone are asked of the device "meta".
        wired = r"\.cuda\(|(?:\.to|device)\(\s*[\"'](?!meta)|device=\s*[\"'](?!meta)"
        assert not re.findall(wired, file.read_text()), file


# Killed for real, at any moment.


SERVER = """
import os, signal, sys, time
from pathlib import Path
import torch
from test_oneshot import killed_search
torch.set_num_threads(1)
torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
print("ready", flush=True)
for line in sys.stdin:
    name, folder, delay = line.split()
    child = os.fork()
    if child == 0:
        killed_search(name, Path(folder))
        os._exit(0)
    if delay != "never":
        time.sleep(float(delay))
        # The number is the child's until it is waited for, even if it has ended.
        os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def killed_search(name, folder):
    run(folder, strategy(name), problem())


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.parametrize("name", ["darts", "darts_pt", "robust_darts"])
def test_a_search_killed_at_random_moments_ends_with_the_same_records(tmp_path, served, name):
    paths = [str(Path(__file__).parent), *(p for p in sys.path if p)]
    ask = served(SERVER, PYTHONPATH=os.pathsep.join(paths), OPENBLAS_NUM_THREADS="1")

    def content(folder):
        records = [replace(r, seconds=0.0) for r in Records(folder / "r.jsonl")]
        return records, (folder / FILE).read_bytes()

    begun = time.perf_counter()
    assert ask(f"{name} {tmp_path / 'undisturbed'} never") == 0
    duration = time.perf_counter() - begun
    expected = content(tmp_path / "undisturbed")
    rng, killed, folders = np.random.default_rng(0), 0, [tmp_path / "0"]
    while killed < 6:
        if ask(f"{name} {folders[-1]} {rng.uniform(0.0, duration)}") == signal.SIGKILL:
            killed += 1
        else:
            folders.append(tmp_path / str(len(folders)))
    assert ask(f"{name} {folders[-1]} never") == 0
    for folder in folders:
        assert content(folder) == expected


# The search itself.


def test_the_mixture_meets_other_validation_batches_in_every_step_and_another_order_in_every_epoch(tmp_path):
    """All samples of the split in an epoch, once each; the training batches are shuffled on their own."""
    task = Watched()
    found = started(tmp_path, problem(task=task))
    orders = []
    for _ in found.epochs(count=3):
        task.drawn.clear()
        steps = sum(1 for _ in found.pairs())
        valid = [batch for split, batch in task.drawn if split == "valid"]
        assert steps == len(valid) == len(set(valid)) == 3
        samples = [s for batch in valid for s in batch]
        assert sorted(samples) == sorted(whole("valid"))
        orders.append(tuple(samples))
    assert len(set(orders)) == 3


def test_strategies_train_the_mixture_on_all_of_the_validation_split(tmp_path):
    task = Watched()
    Darts(epochs=2).train(problem(tmp_path, task=task), Free())
    for split in ("train", "valid"):
        batches = [batch for s, batch in task.drawn if s == split]
        assert len(batches) == len(set(batches)) == 6
        for epoch in (batches[:3], batches[3:]):
            assert sorted(s for batch in epoch for s in batch) == sorted(whole(split))


def whole(split):
    return [v for x, _ in ToyTask(samples=144).batches(split) for v in x[:, 0].tolist()]


def test_a_long_training_split_goes_round_the_validation_split_in_other_orders(tmp_path):
    @dataclass(frozen=True)
    class Lopsided(Watched):
        """Twice as many batches to train on as to validate with."""

        def batches(self, split, batch_size=256, generator=None):
            for _ in range(2 if split == "train" else 1):
                yield from super().batches(split, batch_size, generator)

        def size(self, split):
            return super().size(split) * (2 if split == "train" else 1)

    task = Lopsided()
    found = started(tmp_path, problem(task=task))
    assert sum(1 for _ in found.pairs()) == 6
    valid = [batch for split, batch in task.drawn if split == "valid"]
    for turn in (valid[:3], valid[3:]):
        assert sorted(s for batch in turn for s in batch) == sorted(whole("valid"))
    assert valid[:3] != valid[3:]


@pytest.mark.parametrize("mixed", [True, False])
def test_logits_are_those_of_the_options_that_may_be_mixed(tmp_path, mixed):
    found = started(tmp_path, problem(space=ToyCells(Watched(), mixed=mixed)))
    edge = 4 if mixed else 3
    assert [len(a) for a in found.outer] == [edge] * 5 + [2]
    mixture = found.relax(list(found.outer))
    assert [len(row) for row in mixture] == [4] * 5 + [2]
    for row, logits in zip(mixture, found.outer, strict=True):
        assert float(row.detach().sum()) == pytest.approx(1.0, abs=1e-6)
        torch.testing.assert_close(row[len(row) - len(logits) :], torch.softmax(logits, 0))
    if not mixed:
        assert all(float(row[0].detach()) == 0.0 for row in mixture[:5])


@pytest.mark.parametrize("work", [Work(mixed=2.0), Work(paths=3.0), Work(mixed=0.5, paths=1.0)])
def test_training_is_charged_by_what_a_step_costs(tmp_path, work):
    """A mixture of toy cells costs 2 and a path 1; an epoch of half of the batches is half a pass."""
    settings = Darts(epochs=3, fraction=0.5)
    found = started(tmp_path, settings=settings, work=work)
    for _ in found.epochs():
        pass
    each = 0.5 * (2 * work.mixed + work.paths)
    assert found.evaluate.passes == [each] * 3 + [0.0]


def test_two_options_cost_two_paths_where_the_others_are_saved(tmp_path):
    """One of them forward only; or else all options forward only."""
    supernet = problem().space.supernet()
    supernet.drawn_cost = 1.5
    assert Work(drawn=2.0).cost(supernet) == 2 * 1.5
    assert Work(pairs=3.0).cost(supernet) == pytest.approx(3 * (1.5 + 0.4 * 2.0))
    supernet.drawn_cost = None
    assert Work(drawn=2.0, paths=1.0).cost(supernet) == 3 * 1.0
    saving = S5(arrays((1, 6, 6))).supernet()
    assert Work(pairs=3.0).cost(saving) == pytest.approx(3 * 4 / 3 * saving.drawn_cost)


def arrays(shape, samples=16):
    """Random arrays of such a shape, with so many of them in the validation split."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64 + samples, *shape)), rng.integers(0, 2, 64 + samples)
    return nasfw.ArraysTask(x[:64], y[:64], x_valid=x[64:], y_valid=y[64:])


@pytest.mark.parametrize("samples", [256, 257, 258])
def test_a_last_sample_alone_has_no_statistics_of_its_own(tmp_path, samples):
    """It is judged with the batch before it, also where a map has but one position."""
    task = arrays((1, 4), samples)
    space = S5(task, channels=2)
    found = started(tmp_path, problem(tmp_path, task=task, space=space, batch_size=16))
    error, loss = found.judged(found.mixture)
    assert 0.0 <= error <= 1.0
    assert math.isfinite(loss)


def test_looking_at_noise_changes_nothing_in_the_search(tmp_path):
    """And all products are of one function, so that the same state has the same eigenvalue."""
    task = arrays((1, 6, 6), 16)
    found = started(tmp_path, problem(tmp_path, task=task, space=S4(task, layers=3, channels=2, nodes=2)))
    before = torch.get_rng_state()
    first = found.sharpness()
    assert torch.equal(torch.get_rng_state(), before)
    assert found.sharpness() == first
    torch.manual_seed(1)
    assert found.sharpness() != first


def test_epochs_done_before_a_restart_are_charged_as_well(tmp_path):
    """Before the next one, so also if that never ends."""
    first = started(tmp_path)
    for epoch in first.epochs(count=5):
        if epoch == 3:
            break
    assert sum(first.evaluate.passes) == 3 * 4.0
    second = started(tmp_path)
    for _ in second.epochs(count=5):
        break
    assert second.evaluate.passes == [12.0]
    third = started(tmp_path)
    assert list(third.epochs(count=5)) == [3, 4]
    assert sum(third.evaluate.passes) == 5 * 4.0
    fourth = started(tmp_path)
    assert list(fourth.epochs(count=5)) == []
    assert fourth.evaluate.passes == [20.0]
    assert fourth.epoch == third.epoch


def test_the_weights_learn_by_the_recipe_with_a_bounded_gradient(tmp_path):
    """One step of plain SGD is the learning rate times the gradient, scaled to the bound."""
    p = problem(lr=0.5, momentum=0.0, weight_decay=0.0, schedule="constant")
    for clip in (1e9, 0.01):
        torch.manual_seed(0)
        found = started(tmp_path, p, Darts(epochs=2, clip=clip))
        batch = next(found.batches())
        before = [w.detach().clone() for w in found.weights]
        free = torch.autograd.grad(found.loss(batch, found.mixture), found.weights, materialize_grads=True)
        norm = float(torch.cat([g.flatten() for g in free]).norm())
        found.learn(batch, found.mixture)
        for w, b, g in zip(found.weights, before, free, strict=True):
            torch.testing.assert_close(b - w, 0.5 * g * min(1.0, clip / norm), rtol=1e-3, atol=1e-6)


def test_an_additional_loss_is_learnt_but_not_reported(tmp_path):
    p = problem(lr=0.5, momentum=0.0, weight_decay=0.0, schedule="constant")
    found = started(tmp_path, p, Darts(epochs=2, clip=1e9))
    batch = next(found.batches())
    loss, output = found.loss(batch, found.mixture), found.supernet(batch[0], found.mixture)
    whole = found.task.loss(output, batch[1]) + 3 * output.square().mean()
    gradients = torch.autograd.grad(whole, found.weights, materialize_grads=True)
    before = [w.detach().clone() for w in found.weights]
    found.learn(batch, found.mixture, lambda z: 3 * z.square().mean())
    for w, b, g in zip(found.weights, before, gradients, strict=True):
        torch.testing.assert_close(b - w, 0.5 * g, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.total, loss.detach())
    assert found.seen == 1


def test_statistics_are_kept_only_inside_and_also_after_an_error(tmp_path):
    found = started(tmp_path)
    x, _ = next(found.batches())

    def counts():
        return [int(v) for n, v in found.supernet.state_dict().items() if n.endswith("tracked")]

    def fails():
        with found.statistics_kept():
            found.supernet(x, found.mixture)
            raise ZeroDivisionError

    before = counts()
    with pytest.raises(ZeroDivisionError):
        fails()
    assert counts() == before
    found.supernet(x, found.mixture)
    assert counts() == [c + 1 for c in before]


def test_a_mixture_is_judged_on_the_whole_validation_split(tmp_path):
    """Error and mean loss over all samples, in batches of any size, without a trace in the statistics."""
    found = started(tmp_path)
    state = copy.deepcopy(found.supernet.state_dict())
    (x, y), *_ = found.task.batches("valid")
    with torch.no_grad():
        output = copy.deepcopy(found.supernet)(x, found.mixture)
    error, loss = found.judged(found.mixture)
    assert error == found.task.error(output, y)
    assert loss == pytest.approx(float(found.task.loss(output, y)), rel=1e-6)
    assert all(torch.equal(v, state[n]) for n, v in found.supernet.state_dict().items())


def test_the_sharpness_is_the_largest_eigenvalue_of_the_hessian(tmp_path):
    """That of a validation batch's loss in all logits jointly, by torch's second derivatives; it is real."""
    torch.manual_seed(0)
    found = started(tmp_path, problem(space=Precise(Watched())), Darts(epochs=2))
    found.outer = nn.ParameterList(torch.randn(len(a), dtype=torch.float64) for a in found.outer)
    x, y = next(found.valid_batches())
    sizes = [len(a) for a in found.outer]

    def loss(flat):
        return found.task.loss(found.supernet(x.double(), found.relax(flat.split(sizes))), y)

    hessian = torch.autograd.functional.hessian(loss, torch.cat([a.detach() for a in found.outer]))
    assert hessian.shape == (22, 22)
    top = float(torch.linalg.eigvalsh(hessian)[-1])
    assert top > 0
    assert found.sharpness() == pytest.approx(top, rel=2e-2)
    assert found.history.moments[-1] == Moment(1, eigenvalue=found.history.moments[-1].eigenvalue)


@dataclass(frozen=True)
class Precise(ToyCells):
    """Computes in double precision whatever it is given."""

    def supernet(self):
        made = super().supernet().double()
        forward = made.forward
        made.forward = lambda x, mixture: forward(x.double(), [m.double() for m in mixture])
        return made


def test_every_epoch_leaves_a_moment(tmp_path):
    """Loss, entropy, skips and the preferred architecture; the eigenvalue as often as it is asked for."""
    found = started(tmp_path, settings=Darts(epochs=4, eigenvalue=2))
    for _ in found.epochs():
        losses = []
        for batch in found.batches():
            losses.append(found.loss(batch, found.mixture).item())
            found.learn(batch, found.mixture)
    moments = found.history.moments
    assert [m.epoch for m in moments] == [1, 2, 3, 4]
    assert [m.eigenvalue is not None for m in moments] == [False, True, False, True]
    assert moments[-1].loss == pytest.approx(np.mean(losses), rel=1e-5)
    preferred = found.problem.space.discretise(found.mixture)
    assert {m.preferred for m in moments} == {preferred}
    assert moments[0].entropy == pytest.approx(1.0, abs=1e-4)
    assert moments[0].skips == sum(o == "skip" for o in preferred) / 5
    assert Diagnostics.read(tmp_path) == Diagnostics(tuple(moments))


def test_the_trail_has_the_last_six_preferred_ones_the_latest_first(tmp_path):
    found = started(tmp_path)
    passed = list("abcbdefghh")
    found.history.moments = [Moment(i, preferred=(o,)) for i, o in enumerate(passed)]
    found.history.moments.insert(3, Moment(99))
    assert found.trail() == [("h",), ("g",), ("f",), ("e",), ("d",), ("b",)]


GOOD = ("linear", "bent", "linear", "bent", "none", 2.0)
BLIND = ("skip", "skip", "skip", "skip", "none", 1.0)


class Strays:
    """Trains the good and the blind path alike, and prefers the good one, but at the end the blind one."""

    def search(self, problem, evaluate):
        found = Search(problem, evaluate, Darts(epochs=12, candidates=8), Work(paths=2.0))
        good, blind = (one_hot(problem.space.decisions, a) for a in (GOOD, BLIND))
        found.outer = nn.ParameterList(10 * row for row in good)
        for epoch in found.epochs():
            for batch in found.batches():
                found.learn(batch, good)
                found.learn(batch, blind)
            if epoch == 10:
                found.outer = nn.ParameterList(10 * row for row in blind)
        found.finish()


def test_a_better_architecture_on_the_way_is_trained_too_and_wins(tmp_path):
    """The outcome is not the last one that the mixture preferred, but the best."""
    task = ToyTask(samples=600, epochs=12)
    records = run(tmp_path, Strays(), problem(task=task, seed=1))
    assert records[0].architecture == BLIND
    values = {r.architecture: r.values["error"] for r in records}
    assert values[GOOD] < values[BLIND]


def test_a_supernet_with_partial_channels_is_rated_under_the_one_hot_mixture(tmp_path):
    """It has no weights for standalone networks; its statistics are those of the path, and a copy's."""
    p = problem(tmp_path)
    space = p.space.partial(2)
    torch.manual_seed(0)
    supernet = space.supernet()
    with pytest.raises(Unsupported):
        supernet.weights(p.space.default)
    architecture = ("bent", "skip", "none", "linear", "bent", 2.0)
    state = copy.deepcopy(supernet.state_dict())
    model = Judge(p, supernet).candidate(architecture).model
    assert all(torch.equal(v, state[n]) for n, v in supernet.state_dict().items())

    mixture = one_hot(p.space.decisions, architecture)
    generator = torch.Generator().manual_seed(p.seed)
    other = copy.deepcopy(supernet)
    batches = list(training.batches(p.task, "train", p.recipe, generator, "cpu"))
    for module in other.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.reset_running_stats()
            module.momentum = None
    for x, _ in batches:
        other.train()(x, mixture)
    x, _ = next(iter(p.task.batches("valid")))
    torch.testing.assert_close(model(x), other.eval()(x, mixture), rtol=1e-5, atol=1e-6)
    assert not model.training


def test_a_quality_that_needs_no_training_is_not_rated(tmp_path):
    task = ToyTask()
    run(tmp_path, Darts(epochs=1), problem(tmp_path, Echo(), task=task, space=ToySpace(task)))
    assert Diagnostics.read(tmp_path).ratings == ()


def test_ratings_are_the_first_objectives_values_with_the_supernets_weights(tmp_path):
    """Which is what the judge says of them, and not what their own training gives."""

    class Keeps(Darts):
        def search(self, problem, evaluate):
            kept.append(self.train(problem, evaluate))
            kept[0].finish()

    kept, p = [], problem(tmp_path)
    run(tmp_path, Keeps(epochs=2), p)
    ratings = Diagnostics.read(tmp_path).ratings
    judge = Judge(replace(p, folder=tmp_path), kept[0].supernet)
    for rating in ratings:
        candidate = judge.candidate(tuple(rating.choices.values()))
        assert rating.value == Wrong().measure(candidate)
    assert len({r.value for r in ratings}) > 2


def test_a_search_that_collapsed_says_so(tmp_path, caplog):
    found = started(tmp_path)
    with torch.no_grad():
        for row in list(found.outer)[:5]:
            row[1] = 5.0
    for _ in found.epochs():
        pass
    with caplog.at_level(logging.WARNING):
        found.finish()
    assert "skip connections take 80 % of the edges" in caplog.text


def test_the_work_ahead_is_trials_and_the_supernets_steps(tmp_path):
    settings = Darts(epochs=5, fraction=0.5, candidates=6)
    alone, traded = problem(tmp_path), problem(tmp_path, Wrong(), Price())
    work = workloads.workload(alone, settings, Work(mixed=2.0, paths=3.0), extra=7.0, mixed=0.5)
    # Forty networks are rated, on all of train and valid, forward only.
    rated = (24 + 16) * (alone.task.size("train") + alone.task.size("valid")) / (3 * alone.task.size("train"))
    assert work.passes == pytest.approx(6 * 2.0 + 3.0 * 2.5 + 7.0 + rated)
    assert (work.trials, work.supernet_passes, work.path_passes) == (6, 2.0 * 2.5 + 0.5, 3.0 * 2.5)
    looks = workloads.workload(alone, replace(settings, eigenvalue=2), Work()).supernet_passes
    # Two of them, of 24 gradients each, when there are two steps in half a pass.
    assert looks == pytest.approx(2 * 24 * 0.5 / started(tmp_path, settings=settings).steps)
    assert workloads.workload(traded, settings, Work()).trials == 6
    assert workloads.workload(traded, Darts(candidates=2), Work()).trials == 2
    recipe = workloads.recipe_of(alone, settings)
    assert recipe == replace(alone.recipe, epochs=5, fraction=0.5, seed=alone.seed)
    assert workloads.recipe_of(alone, Darts()) == replace(alone.recipe, seed=alone.seed)


@dataclass(frozen=True)
class Table(Objective):
    """What trainings gave, as somebody wrote it down."""

    metric = "written"
    looked_up = True

    def measure(self, candidate):
        return 1.0


@every_strategy
def test_a_quality_that_is_looked_up_is_refused(name):
    """The table would tell the supernet's ratings what only a training may find out."""
    space = ToyCells(ToyTask())
    p = Problem(space, space.task, [Table(), Price()], space.task.recipe, 0, Path())
    with pytest.raises(Unsupported, match="written is looked"):
        load(entry_points=False).make("strategy", name).check(p)
