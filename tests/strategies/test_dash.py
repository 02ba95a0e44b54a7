"""DASH: its gradient by the formula, its proposals by brute force, and runs that kills cannot change."""

import logging
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nasfw.contracts import (
    Candidate,
    CostTable,
    Diverged,
    Objective,
    Problem,
    Recipe,
    SearchSpace,
    Supernet,
    Unsupported,
    UsageError,
)
from nasfw.engine import Budget, search
from nasfw.executors import Serial
from nasfw.records import Records, front
from nasfw.strategies.dash import Dash
from nasfw.testing import Free, Price, ToySpace, ToyTask, Wrong

PLAIN_STEP = Recipe(
    epochs=1, batch_size=1000, lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant", seed=0
)


@dataclass(frozen=True)
class Fielded(ToySpace):
    """The toy space, with a receptive field for every option."""

    def supernet(self) -> Supernet:
        made = super().supernet()
        made.fields = lambda: FIELDS  # type: ignore[method-assign]
        return made


FIELDS = [torch.tensor([1.0, 3.0, 5.0]), torch.tensor([2.0, 2.0, 9.0])]


def problem(folder=Path(), *objectives, recipe=None, space=None, task=None, seed=3):
    task = task or ToyTask()
    space = space or ToySpace(task)
    return Problem(space, task, objectives or (Wrong(), Price()), recipe or task.recipe, seed, Path(folder))


def learnt(folder, *objectives, scales=(0.0, 1.0, 2.0)):
    """A problem on which 15 epochs teach the mixture not to use the scale 0."""
    task = ToyTask(samples=600, epochs=15)
    return problem(folder, *objectives, task=task, space=ToySpace(task, scales), recipe=task.recipe)


def run(folder, dash, p, budget=None):
    folder.mkdir(exist_ok=True)
    p = replace(p, folder=folder)
    with Records(folder / "r.jsonl", write=True) as records:
        search(p, "toy", dash, records, Serial(), budget or Budget())
        return list(records)


def after_one_step(folder, recipe=PLAIN_STEP, space=None, **parameters):
    """(logits, supernet weights) after one step, always from the same start and with the same noise."""
    torch.manual_seed(0)
    p = problem(folder, recipe=recipe, space=space or Fielded(ToyTask()))
    search = Dash(epochs=1, fraction=1.0, **parameters).train(p, Free())
    (folder / "checkpoints" / "supernet.pt").unlink()
    return (
        torch.cat([a.detach().double() for a in search.outer]),
        torch.cat([w.detach().double().flatten() for w in search.weights]),
    )


def gradients(folder, **parameters):
    """The treated gradients of logits and weights, from what one step of plain SGD changed."""
    still = replace(PLAIN_STEP, lr=1e-30)
    start_logits, start_weights = after_one_step(folder, still, mixture_lr=1e-30, clip=1e9)
    logits, weights = after_one_step(folder, mixture_lr=0.5, **parameters)
    return (start_logits - logits) / 0.5, (start_weights - weights) / 0.1


def test_without_options_the_gradient_is_only_clipped(tmp_path):
    """One factor for all: the joint norm of weights and mixture becomes the bound."""
    free = torch.cat(gradients(tmp_path, clip=1e9))
    for clip in (0.01, 0.1):
        clipped = torch.cat(gradients(tmp_path, clip=clip))
        torch.testing.assert_close(clipped, clip * free / free.norm(), rtol=2e-3, atol=1e-6)
    torch.testing.assert_close(torch.cat(gradients(tmp_path, clip=10 * free.norm().item())), free)


@pytest.mark.parametrize("scale", [2.0, 10.0])
def test_grad_scale_normalises_each_decisions_gradient(tmp_path, scale):
    """g / (s (|g| + 1e-8)) has the direction of g and the norm 1 / s."""
    free, weights = gradients(tmp_path, clip=1e9)
    scaled, same = gradients(tmp_path, clip=1e9, grad_scale=scale)
    torch.testing.assert_close(same, weights)
    for g, h in zip(free.split(3), scaled.split(3), strict=True):
        torch.testing.assert_close(h, g / (scale * (g.norm() + 1e-8)), rtol=1e-3, atol=1e-6)


def test_field_penalty_is_added_after_the_scaling(tmp_path):
    plain, _ = gradients(tmp_path, clip=1e9, grad_scale=10.0)
    penalised, _ = gradients(tmp_path, clip=1e9, grad_scale=10.0, field_penalty=0.02)
    torch.testing.assert_close(penalised - plain, 0.02 * torch.cat(FIELDS).double(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("penalty", [0.0, 0.3])
@pytest.mark.parametrize("scale", [None, 5.0])
def test_the_treatment_is_its_formula_for_decisions_of_any_length(scale, penalty):
    """g / (s (|g| + 1e-8)) + c f, number by number; zeros stay finite, what is missing stays so."""
    torch.manual_seed(0)
    logits = [torch.randn(n, dtype=torch.float64, requires_grad=True) for n in (3, 5, 3, 1, 4)]
    fields = [torch.arange(len(a), dtype=torch.float64) for a in logits]
    for a in logits[:4]:
        a.grad = torch.randn_like(a)
    logits[2].grad.zero_()
    expected = []
    for a, f in zip(logits[:4], fields, strict=False):
        norm = math.sqrt(sum(g * g for g in a.grad.tolist()))
        factor = 1.0 if scale is None else 1 / (scale * (norm + 1e-8))
        expected.append([factor * g + penalty * r for g, r in zip(a.grad.tolist(), f.tolist(), strict=True)])
    Dash(grad_scale=scale, field_penalty=penalty)._treat(logits, fields if penalty else None)
    for a, e in zip(logits[:4], expected, strict=True):
        torch.testing.assert_close(a.grad, torch.tensor(e, dtype=torch.float64), rtol=1e-12, atol=1e-14)
    assert logits[4].grad is None


def test_at_a_high_temperature_the_logits_hardly_matter(tmp_path):
    """The softmax of a / T has a gradient of order 1 / T."""
    near, _ = gradients(tmp_path, clip=1e9)
    far, _ = gradients(tmp_path, clip=1e9, temperature=1e3)
    assert 0 < far.norm() < 1e-2 * near.norm()


def test_the_joint_norm_is_clipped_last(tmp_path):
    free = torch.cat(gradients(tmp_path, clip=1e9, grad_scale=0.1, field_penalty=1.0))
    clipped = torch.cat(gradients(tmp_path, grad_scale=0.1, field_penalty=1.0))
    assert free.norm() > 1
    torch.testing.assert_close(clipped, free / free.norm(), rtol=2e-3, atol=1e-6)


def test_a_field_penalty_needs_a_supernet_that_knows_its_fields(tmp_path):
    with pytest.raises(Unsupported, match="receptive fields"):
        after_one_step(tmp_path, space=ToySpace(ToyTask()), field_penalty=1e-5)


def test_a_space_without_supernet_is_refused(tmp_path):
    @dataclass(frozen=True)
    class Alone(ToySpace):
        def supernet(self) -> Supernet:
            return SearchSpace.supernet(self)

    with pytest.raises(Unsupported, match="Alone offers no supernet"):
        run(tmp_path, Dash(epochs=1), problem(space=Alone(ToyTask())))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_mixture_learns_which_option_is_useful(tmp_path, optimizer):
    """A layer scaled by 0 hides its input, so only the scale 1 can tell the classes apart."""
    task = ToyTask(samples=600, epochs=15)
    p = problem(tmp_path, task=task, space=ToySpace(task, (0.0, 1.0)))
    torch.manual_seed(p.seed)
    logits = list(Dash(mixture_optimizer=optimizer).train(p, Free()).outer)
    assert p.space.discretise(logits) == (1.0, 1.0)
    assert all(torch.softmax(a, 0)[1] > 0.6 for a in logits)


def test_the_mixture_learns_not_to_use_what_is_harmful(tmp_path):
    """The same with the useful option first, so that it is no matter of position."""
    task = ToyTask(samples=600, epochs=15)
    p = problem(tmp_path, task=task, space=ToySpace(task, (1.0, 0.0)))
    torch.manual_seed(p.seed)
    logits = list(Dash().train(p, Free()).outer)
    assert p.space.discretise(logits) == (1.0, 1.0)


def test_supernet_training_is_charged_by_its_cost_also_after_a_restart(tmp_path):
    dash, p = Dash(epochs=4, fraction=0.5), problem(tmp_path)
    for expected in ([0.5, 0.5, 0.5, 0.5, 0.0], [2.0]):
        free = Free()
        dash.train(p, free)
        assert free.passes == expected


@dataclass(frozen=True)
class Quoted(Price):
    """A price whose quotation, if it has one, is twice of what is paid; it notes what was asked for."""

    rows: tuple[tuple[float, ...], ...] | None = ((0.0, 2.0, 4.0),) * 2
    asked: list[str] = field(default_factory=list)

    def measure(self, candidate: Candidate) -> float:
        self.asked.append("paid")
        return super().measure(candidate)

    def table(self, space, task, seed):
        self.asked.append("quoted")
        return self.rows and CostTable(self.rows, 5.0, 0.9, 0.1, 6, 6, 1.0)


def test_ranking_takes_costs_from_the_table_where_there_is_one(tmp_path):
    """They are measured for the records alone; the table is made once."""
    for name, rows in (("with", Quoted.rows), ("without", None)):
        quoted = Quoted(rows=rows)
        records = run(tmp_path / name, Dash(), learnt(tmp_path, Wrong(), quoted))
        if rows is None:
            assert quoted.asked.count("paid") > len(records)
        else:
            assert quoted.asked == ["quoted", *["paid"] * len(records)]
        for r in records:
            assert r.values["price1"] == sum(r.architecture)


def test_a_search_that_goes_on_ranks_by_the_table_that_it_began_with(tmp_path):
    p = learnt(tmp_path, Wrong(), Quoted())
    first = run(tmp_path, Dash(), p)
    (tmp_path / "r.jsonl").unlink()
    other = Quoted(rows=((9.0, 1.0, 5.0), (0.0, 3.0, 0.5)))
    again = run(tmp_path, Dash(), replace(p, objectives=[Wrong(), other]))
    assert [r.key for r in again] == [r.key for r in first]
    assert "quoted" not in other.asked


def test_a_search_trains_the_preferred_the_plain_and_no_more_than_the_candidates(tmp_path):
    for count in (1, 2, 3, 6):
        found = run(tmp_path / str(count), Dash(epochs=2, candidates=count), problem())
        architectures = [r.architecture for r in found]
        assert len(set(architectures)) == len(architectures) <= count
        if count > 1:
            assert (0.0, 0.0) in architectures


def test_with_one_objective_what_lies_between_plain_and_preferred_and_the_neighbours_are_trained(tmp_path):
    found = run(tmp_path, Dash(), learnt(tmp_path, Wrong(), scales=(0.0, 1.0)))
    assert [r.architecture for r in found] == [(1.0, 1.0), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0)]
    assert found[0].values["error"] < found[1].values["error"]


def test_every_trial_is_trained_with_the_full_recipe_unless_there_is_a_grid(tmp_path):
    p = problem()
    assert {r.recipe for r in run(tmp_path, Dash(epochs=1, fraction=0.5), p)} == {p.recipe}


def tried(records):
    """Learning rates and other grid values of the grid's trials, in order."""
    return [(r.recipe.lr, r.recipe.momentum) for r in records if r.recipe.epochs == 1]


@pytest.mark.parametrize(
    ("lrs", "expected"),
    [
        # A learning rate of 0 learns nothing, so as the second one it stops the grid.
        ((0.5, 0.0, 0.2), [0.5, 0.0]),
        ((0.0, 0.5, 0.2), [0.0, 0.5, 0.2]),
        ((0.0, 0.5, 1e-9, 0.2), [0.0, 0.5, 1e-9, 0.2]),
        ((0.5,), [0.5]),
    ],
)
def test_the_third_learning_rate_is_tried_only_if_the_second_improved(tmp_path, lrs, expected):
    task = ToyTask(samples=600, epochs=3)
    dash = Dash(epochs=8, lrs=lrs, momenta=(0.9, 0.5), tune_epochs=1)
    found = run(tmp_path, dash, problem(task=task, space=ToySpace(task, (1.0, 2.0))))
    assert tried(found) == [(lr, m) for lr in expected for m in (0.9, 0.5)]


def test_candidates_are_trained_with_the_best_recipe_at_full_length(tmp_path):
    task = ToyTask(samples=600, epochs=3)
    p = problem(task=task, space=ToySpace(task, (1.0, 2.0)))
    dash = Dash(epochs=8, lrs=(0.0, 0.5), weight_decays=(0.0, 0.1), tune_epochs=1, tune_fraction=0.5)
    found = run(tmp_path, dash, p)
    grid = [r for r in found if r.recipe.epochs == 1]
    rest = [r for r in found if r.recipe.epochs != 1]
    best = min(grid, key=lambda r: r.values["error"]).recipe
    assert len(grid) == 4
    assert {r.recipe for r in grid} == {
        replace(p.recipe, epochs=1, fraction=0.5, lr=lr, weight_decay=wd)
        for lr in (0.0, 0.5)
        for wd in (0.0, 0.1)
    }
    assert rest
    assert {r.recipe for r in rest} == {replace(best, epochs=3, fraction=1.0)}
    assert len({r.architecture for r in grid}) == 1


def test_workload_counts_the_grid_and_the_supernets_epochs():
    dash = Dash(epochs=5, fraction=0.5, candidates=4, lrs=(0.1, 0.2), momenta=(0.9, 0.5))
    work = dash.workload(problem())
    assert work.trials == 4 + 4
    assert work.supernet_passes == pytest.approx(2.5, abs=1e-12)


def test_the_front_of_a_known_space_is_found(tmp_path):
    """Where price buys quality one to one, every candidate is on the front, the two ends among them."""

    @dataclass(frozen=True)
    class Distance(Objective):
        """From the useful end: 4 - sum, so a larger price buys quality one to one."""

        metric = "distance"
        trained = True

        def measure(self, candidate: Candidate) -> float:
            return 4.0 - float(sum(float(a) for a in candidate.architecture))

    p = learnt(tmp_path, Distance(), Price())
    found = run(tmp_path, Dash(candidates=9), replace(p, recipe=replace(p.recipe, seed=1)))
    chosen = front(found, [o.reading for o in p.objectives])
    assert len(chosen) == len({r.values["price1"] for r in found}) >= 3
    assert {(0.0, 0.0), found[0].architecture} <= {r.architecture for r in chosen}


@dataclass(frozen=True)
class Fragile(Objective):
    """Fails for one architecture, in either way in which a measurement can."""

    raises: bool = True
    metric = "fragile"
    trained = True

    def measure(self, candidate: Candidate) -> float:
        if candidate.weights is not None and candidate.architecture == (0.0, 0.0):
            if self.raises:
                raise Diverged("the outputs are not finite")
            return math.inf
        return 1.0 + float(candidate.architecture[0])


@pytest.mark.parametrize("raises", [True, False])
def test_a_proposal_that_overflows_with_inherited_weights_is_not_ranked(tmp_path, raises):
    found = run(tmp_path, Dash(), learnt(tmp_path, Fragile(raises), Price()))
    assert all(r.error is None for r in found)
    assert len({r.architecture for r in found}) >= 2


def test_a_supernet_that_diverges_is_said_in_one_sentence(tmp_path):
    p = problem(recipe=Recipe(epochs=3, batch_size=4, lr=1e38, schedule="constant"))
    with pytest.raises(UsageError, match=r"the search in toy diverged: the training loss was"):
        run(tmp_path, Dash(clip=1e38), p)


def test_the_budget_ends_the_supernets_training_with_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found = run(tmp_path, Dash(epochs=1000), problem(), Budget(seconds=0.0))
    assert "the budget ended the supernet's training after epoch 1" in caplog.text
    assert len(found) == 1


def test_fixed_seeds_fix_the_records_and_other_seeds_change_them(tmp_path):
    dash = Dash(epochs=2, lrs=(0.1, 0.3))

    def values(name, seed):
        return [(r.key, r.values) for r in run(tmp_path / name, dash, problem(seed=seed))]

    assert values("a", 1) == values("b", 1) != values("c", 2)


def test_a_killed_supernet_training_ends_with_the_same_mixture(tmp_path):
    """Stopped by the budget after two epochs, in whose checkpoint the schedule goes on."""

    class Stops(Free):
        def spend(self, passes):
            super().spend(passes)
            return len(self.passes) < 2

    dash, outcomes = Dash(epochs=6), []
    for name in "ab":
        p = problem(tmp_path / name)
        if name == "b":
            torch.manual_seed(1)
            dash.train(p, Stops())
        torch.manual_seed(1)
        found = dash.train(p, Free())
        outcomes.append([*found.outer, *found.weights, torch.rand(3)])
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))


# Imports once, then forks one search for every folder that it reads, so that twenty kills take seconds.
SERVER = """
import os, signal, sys, time
from pathlib import Path
import torch
from test_dash import small_search
torch.set_num_threads(1)
torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
print("ready", flush=True)
for line in sys.stdin:
    folder, delay = line.split()
    child = os.fork()
    if child == 0:
        small_search(Path(folder))
        os._exit(0)
    if delay != "never":
        time.sleep(float(delay))
        # The number is the child's until it is waited for, even if it has ended.
        os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def small_search(folder: Path) -> None:
    """All parts of a DASH run: supernet, ranking, grid, candidates."""
    from nasfw.contracts import Trial
    from nasfw.engine import finish

    task = ToyTask(samples=600, epochs=4)
    p = Problem(ToySpace(task), task, [Wrong(), Price()], task.recipe, 7, folder / "toy")
    dash = Dash(epochs=10, candidates=4, lrs=(0.1, 0.3), tune_epochs=2)
    folder.mkdir(exist_ok=True)
    with Records(folder / "r.jsonl", write=True) as records:
        search(p, "toy", dash, records, Serial(), Budget())
        chosen = front(records.select("search"), [o.reading for o in p.objectives])
        finish(p, "toy", [Trial(r.architecture, r.recipe) for r in chosen], records, Serial())


@pytest.fixture
def searched(served):
    """Search in a folder, in a process that is killed after so many seconds; its exit status."""
    paths = [str(Path(__file__).parent), *(p for p in sys.path if p)]
    ask = served(SERVER, PYTHONPATH=os.pathsep.join(paths), OPENBLAS_NUM_THREADS="1")
    return lambda folder, delay="never": ask(f"{folder} {delay}")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_a_search_killed_at_random_moments_ends_with_the_same_records(tmp_path, searched, kills):
    begun = time.perf_counter()
    assert searched(tmp_path / "undisturbed") == 0
    duration = time.perf_counter() - begun
    expected = contents(tmp_path / "undisturbed")
    assert {r.phase for r in expected} == {"search", "final"}

    rng, killed, folders = np.random.default_rng(0), 0, [tmp_path / "0"]
    while killed < kills:
        if searched(folders[-1], rng.uniform(0.0, duration)) == signal.SIGKILL:
            killed += 1
        else:
            folders.append(tmp_path / str(len(folders)))
    assert searched(folders[-1]) == 0
    for folder in folders:
        assert contents(folder) == expected


def contents(folder: Path) -> Sequence[object]:
    """All that the records say but the time."""
    return [replace(r, seconds=0.0) for r in Records(folder / "r.jsonl")]
