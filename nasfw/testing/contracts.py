"""One class of tests for each of the six contracts."""

from __future__ import annotations

import contextlib
import math
import pickle
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nasfw import notation
from nasfw.contracts import (
    Candidate,
    Device,
    Executor,
    Objective,
    Problem,
    Recipe,
    Record,
    SearchSpace,
    Strategy,
    Supernet,
    Task,
    Unsupported,
)
from nasfw.engine import Budget, search
from nasfw.executors import Serial
from nasfw.junctions import is_member
from nasfw.mixtures import one_hot, uniform
from nasfw.records import Records
from nasfw.testing.toys import Echo, ToySpace, ToyTask, Wrong

_SPLITS = ("train", "valid", "full", "test")


def _is_plain_plugin(plugin: Any) -> None:
    """Frozen, comparable to its own copy, and ready to be sent to another process."""
    for field in fields(plugin)[:1]:
        with pytest.raises(FrozenInstanceError):
            setattr(plugin, field.name, None)
    assert type(pickle.loads(pickle.dumps(plugin))) is type(plugin)


class TaskContract:
    """Override the fixture ``task``."""

    @pytest.fixture
    def task(self) -> Task:
        """The task under test."""
        raise NotImplementedError("override the fixture 'task'")

    def test_is_a_plain_plugin(self, task: Task) -> None:
        _is_plain_plugin(task)

    @pytest.mark.parametrize("split", _SPLITS)
    def test_batches_hold_every_sample_once(self, task: Task, split: Any) -> None:
        sizes = [len(x) for x, _ in task.batches(split, 7)]
        assert sum(sizes) == task.size(split) > 0
        assert max(sizes) <= 7

    def test_train_and_valid_make_full(self, task: Task) -> None:
        assert task.size("train") + task.size("valid") == task.size("full")

    @pytest.mark.parametrize("split", _SPLITS)
    def test_inputs_have_the_declared_shape_and_are_finite(self, task: Task, split: Any) -> None:
        for x, _ in task.batches(split):
            assert tuple(x.shape[1:]) == task.input_shape
            assert x.dtype == torch.float32
            assert torch.isfinite(x).all()

    def test_order_without_generator_is_fixed(self, task: Task) -> None:
        once, again = ([x for x, _ in task.batches("train", 5)] for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))

    def test_generator_decides_the_order(self, task: Task) -> None:
        def first(seed: int) -> torch.Tensor:
            x, _ = next(iter(task.batches("train", 5, torch.Generator().manual_seed(seed))))
            return x

        assert torch.equal(first(1), first(1))
        if task.size("train") > 20:
            assert any(not torch.equal(first(1), first(seed)) for seed in (2, 3, 4))

    def test_loss_is_a_differentiable_scalar(self, task: Task) -> None:
        x, y = next(iter(task.batches("train", 4)))
        output = torch.zeros(len(x), *task.output_shape, requires_grad=True)
        loss = task.loss(output, y)
        assert loss.shape == ()
        assert torch.isfinite(loss)
        (gradient,) = torch.autograd.grad(loss, output)
        assert torch.isfinite(gradient).all()

    def test_error_of_the_whole_split_is_finite(self, task: Task) -> None:
        targets = torch.cat([y for _, y in task.batches("valid")])
        generator = torch.Generator().manual_seed(0)
        outputs = torch.randn(len(targets), *task.output_shape, generator=generator)
        assert math.isfinite(task.error(outputs, targets))

    def test_recipe_is_a_recipe(self, task: Task) -> None:
        assert isinstance(task.recipe, Recipe)


class SpaceContract:
    """Override the fixture ``space``, made for ``task``; override ``task`` too if it needs another one."""

    @pytest.fixture
    def task(self) -> Task:
        """The task that ``space`` was made for."""
        return ToyTask()

    @pytest.fixture
    def space(self, task: Task) -> SearchSpace:
        """The space under test."""
        raise NotImplementedError("override the fixture 'space'")

    @pytest.fixture
    def supernet(self, space: SearchSpace) -> Supernet:
        """Its supernet; the tests that need one are skipped if it has none."""
        try:
            return space.supernet()
        except Unsupported as reason:
            pytest.skip(str(reason))

    def _input(self, task: Task) -> torch.Tensor:
        return torch.randn(3, *task.input_shape, generator=torch.Generator().manual_seed(0))

    def test_is_a_plain_plugin(self, space: SearchSpace) -> None:
        _is_plain_plugin(space)

    def test_decisions_are_json_scalars_without_repetition(self, space: SearchSpace) -> None:
        for options in space.decisions.values():
            assert len(set(options)) == len(options) > 0
            assert all(isinstance(o, str | int | float | bool) for o in options)

    def test_size_is_the_number_of_combinations(self, space: SearchSpace) -> None:
        combinations = math.prod(len(o) for o in space.decisions.values())
        assert 1 <= space.size <= combinations
        if not any(j.selects for j in space.junctions):
            assert space.size == combinations

    def test_samples_and_mutants_are_members(self, space: SearchSpace) -> None:
        rng = np.random.default_rng(0)
        sample = space.sample(rng)
        for architecture in (space.default, sample, space.mutate(sample, rng)):
            one_hot(space.decisions, architecture)
            assert is_member(space.junctions, architecture)

    def test_a_mutant_differs_in_one_decision(self, space: SearchSpace) -> None:
        """Or in two, if an edge takes the place of another one."""
        rng = np.random.default_rng(0)
        parent = space.default
        mutant = space.mutate(parent, rng)
        changed = {i for i, (a, b) in enumerate(zip(parent, mutant, strict=True)) if a != b}
        together = [j for j in space.junctions if j.selects and changed <= set(j.decisions)]
        assert len(changed) == (1 if space.size > 1 else 0) or (len(changed) == 2 and together)

    def test_discretising_inverts_one_hot(self, space: SearchSpace) -> None:
        rng = np.random.default_rng(2)
        for architecture in (space.default, space.sample(rng)):
            assert space.discretise(one_hot(space.decisions, architecture)) == architecture

    def test_parsing_inverts_text(self, space: SearchSpace) -> None:
        """Also of the form "name=option, ..." that every space knows."""
        rng = np.random.default_rng(3)
        for architecture in (space.default, *(space.sample(rng) for _ in range(5))):
            plain = notation.text(dict(zip(space.decisions, architecture, strict=True)))
            for text in (space.text(architecture), plain):
                assert space.parse(text) == architecture

    def test_networks_give_the_output_shape(self, space: SearchSpace, task: Task) -> None:
        rng = np.random.default_rng(0)
        for architecture in (space.default, space.sample(rng)):
            output = space.build(architecture).eval()(self._input(task))
            assert tuple(output.shape) == (3, *task.output_shape)

    def test_building_follows_the_torch_seed(self, space: SearchSpace) -> None:
        states = []
        for _ in range(2):
            torch.manual_seed(7)
            states.append(space.build(space.default).state_dict())
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    def test_enlarged_has_the_same_decisions(self, space: SearchSpace) -> None:
        assert dict(space.enlarged().decisions) == dict(space.decisions)

    def test_another_length_of_architecture_is_refused(self, space: SearchSpace) -> None:
        with pytest.raises(ValueError, match="decisions"):
            space.build((*space.default, space.default[0]))

    def test_one_hot_mixture_is_the_standalone_network(
        self, space: SearchSpace, supernet: Supernet, task: Task
    ) -> None:
        rng = np.random.default_rng(1)
        x = self._input(task)
        supernet.eval()
        for architecture in (space.default, space.sample(rng), space.sample(rng)):
            model = space.build(architecture)
            model.load_state_dict(supernet.weights(architecture))
            mixed = supernet(x, one_hot(space.decisions, architecture))
            torch.testing.assert_close(mixed, model.eval()(x), rtol=1e-4, atol=1e-5)

    def test_fields_are_one_number_per_option(self, space: SearchSpace, supernet: Supernet) -> None:
        try:
            fields = supernet.fields()
        except Unsupported as reason:
            pytest.skip(str(reason))
        assert [len(f) for f in fields] == [len(o) for o in space.decisions.values()]

    def test_mixture_gets_a_gradient(self, space: SearchSpace, supernet: Supernet, task: Task) -> None:
        mixture = [torch.full((len(o),), 1 / len(o), requires_grad=True) for o in space.decisions.values()]
        output = supernet(self._input(task), mixture)
        output.square().sum().backward()
        assert all(m.grad is not None and torch.isfinite(m.grad).all() for m in mixture)

    def test_options_that_do_not_matter_change_nothing(
        self, space: SearchSpace, supernet: Supernet, task: Task
    ) -> None:
        """One option is open, and its gradient and another's are the same whatever is not computed."""
        rows = [len(o) for o in space.decisions.values()]
        pairs = [[n - 1, 0][:n] for n in rows]
        found = []
        for around in (contextlib.nullcontext(), supernet.eval().only(pairs)):
            gates = [torch.eye(n)[n - 1].requires_grad_() for n in rows]
            with around:
                output = supernet(self._input(task), gates)
            slopes = torch.autograd.grad(output.square().sum(), gates, materialize_grads=True)
            found += [[output.detach(), *(g[pair] for g, pair in zip(slopes, pairs, strict=True))]]
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)

    def test_a_mixture_of_parameters_stays_its_owners(
        self, space: SearchSpace, supernet: Supernet, task: Task
    ) -> None:
        """And the next one may be of plain tensors."""
        before = [name for name, _ in supernet.named_parameters()]
        supernet(self._input(task), [torch.nn.Parameter(row) for row in uniform(space.decisions)])
        assert [name for name, _ in supernet.named_parameters()] == before
        supernet(self._input(task), uniform(space.decisions))


@dataclass(frozen=True)
class _WithoutSupernet(ToySpace):
    def supernet(self) -> Supernet:
        return SearchSpace.supernet(self)


class StrategyContract:
    """Override the fixture ``strategy``; keep it to a few short trials.

    Override ``space``, and ``task`` with it, if the strategy searches none but spaces of a special kind.
    """

    @pytest.fixture
    def strategy(self) -> Strategy:
        """The strategy under test."""
        raise NotImplementedError("override the fixture 'strategy'")

    @pytest.fixture
    def task(self) -> Task:
        """What networks are trained on."""
        return ToyTask()

    @pytest.fixture
    def space(self, task: Task) -> SearchSpace:
        """What is searched."""
        return ToySpace(task)

    @pytest.fixture
    def objectives(self) -> Sequence[Objective]:
        """What is measured; the first depends on trained weights."""
        return [Wrong(), Echo()]

    @pytest.fixture
    def problem(
        self, space: SearchSpace, task: Task, objectives: Sequence[Objective], tmp_path: Path
    ) -> Problem:
        """What the strategy is given."""
        return Problem(space, task, objectives, task.recipe, 3, tmp_path / "toy")

    def _search(
        self, strategy: Strategy, problem: Problem, folder: Path, budget: Budget | None = None
    ) -> list[Record]:
        problem = replace(problem, folder=folder / "toy")
        with Records(folder / "records.jsonl", write=True) as records:
            search(problem, "toy", strategy, records, Serial(), budget or Budget())
            return list(records)

    def test_is_a_plain_plugin(self, strategy: Strategy) -> None:
        _is_plain_plugin(strategy)

    def test_evaluates_members_of_the_space(
        self, strategy: Strategy, problem: Problem, tmp_path: Path
    ) -> None:
        records = self._search(strategy, problem, tmp_path)
        assert records
        for record in records:
            one_hot(problem.space.decisions, record.architecture)

    def test_the_seed_decides_everything(self, strategy: Strategy, problem: Problem, tmp_path: Path) -> None:
        runs = []
        for name in "ab":
            (tmp_path / name).mkdir()
            runs.append([(r.key, r.values) for r in self._search(strategy, problem, tmp_path / name)])
        assert runs[0] == runs[1]

    def test_a_second_run_in_the_folder_adds_nothing(
        self, strategy: Strategy, problem: Problem, tmp_path: Path
    ) -> None:
        first = [r.key for r in self._search(strategy, problem, tmp_path)]
        assert [r.key for r in self._search(strategy, problem, tmp_path)] == first

    def test_torch_stream_outside_is_left_alone(
        self, strategy: Strategy, problem: Problem, tmp_path: Path
    ) -> None:
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        self._search(strategy, problem, tmp_path)
        assert torch.equal(torch.rand(3), expected)

    def test_its_check_refuses_what_it_cannot_search(
        self, strategy: Strategy, problem: Problem, tmp_path: Path
    ) -> None:
        """A space without a supernet, if it needs one, and nothing that it can search."""
        strategy.check(problem)
        task = ToyTask()
        space = _WithoutSupernet(task)
        problem = Problem(space, task, [Wrong(), Echo()], task.recipe, 3, tmp_path / "toy")
        foretold, met = None, None
        try:
            strategy.check(problem)
        except Unsupported as reason:
            foretold = str(reason)
        with Records(tmp_path / "records.jsonl", write=True) as records:
            try:
                search(problem, "toy", strategy, records, Serial(), Budget(trials=1))
            except Unsupported as reason:
                met = str(reason)
        assert foretold == met

    def test_budget_of_trials_is_kept(self, strategy: Strategy, problem: Problem, tmp_path: Path) -> None:
        assert len(self._search(strategy, problem, tmp_path, Budget(trials=1))) <= 1


class ObjectiveContract:
    """Override the fixture ``objective``, and ``candidate`` if it needs another one."""

    @pytest.fixture
    def objective(self) -> Objective:
        """The objective under test."""
        raise NotImplementedError("override the fixture 'objective'")

    @pytest.fixture
    def candidate(self) -> Candidate:
        """What it is shown."""
        task = ToyTask()
        return Candidate(ToySpace(task), task, (1.0, 2.0))

    def test_is_a_plain_plugin(self, objective: Objective) -> None:
        _is_plain_plugin(objective)

    def test_has_a_name_and_directions(self, objective: Objective) -> None:
        assert objective.metric
        assert objective.metric in objective.name
        assert isinstance(objective.maximise, bool)
        assert isinstance(objective.trained, bool)

    def test_value_is_a_finite_float_that_repeats(self, objective: Objective, candidate: Candidate) -> None:
        value = objective.measure(candidate)
        assert isinstance(value, float)
        assert math.isfinite(value)
        if objective.device is None:
            assert objective.measure(candidate) == value

    def test_the_network_is_left_alone(self, objective: Objective, candidate: Candidate) -> None:
        before = {name: value.clone() for name, value in candidate.model.state_dict().items()}
        objective.measure(candidate)
        after = candidate.model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


class DeviceContract:
    """Override the fixture ``device``, and ``candidate`` if it needs another one."""

    @pytest.fixture
    def device(self) -> Device:
        """The device under test."""
        raise NotImplementedError("override the fixture 'device'")

    @pytest.fixture
    def candidate(self) -> Candidate:
        """What it measures."""
        task = ToyTask()
        return Candidate(ToySpace(task), task, (1.0, 2.0))

    def test_is_a_plain_plugin(self, device: Device) -> None:
        _is_plain_plugin(device)

    def test_has_a_name(self, device: Device) -> None:
        assert device.name.strip()

    def test_measures_what_it_says_in_positive_units(self, device: Device, candidate: Candidate) -> None:
        for metric in device.metrics:
            try:
                device.check(metric)
            except Unsupported as reason:
                # Not here and now, then; but it must say so in the same words when it is asked to measure.
                with pytest.raises(Unsupported, match=re.escape(str(reason))):
                    device.measure(metric, candidate)
                continue
            value = device.measure(metric, candidate)
            assert math.isfinite(value)
            assert value > 0

    def test_several_candidates_give_one_value_each(self, device: Device, candidate: Candidate) -> None:
        for metric in device.metrics:
            with contextlib.suppress(Unsupported):
                device.check(metric)
                assert len(device.measure_all(metric, [candidate, candidate])) == 2

    def test_names_a_metric_that_it_lacks(self, device: Device, candidate: Candidate) -> None:
        with pytest.raises(Unsupported, match="no-such-metric"):
            device.measure("no-such-metric", candidate)


def _record(number: int) -> Record:
    return Record(str(number), "search", "toy", {"first": number}, Recipe(), False, {"echo": 1.0}, 0.0)


class ExecutorContract:
    """Override the fixture ``executor``."""

    @pytest.fixture
    def executor(self) -> Executor:
        """The executor under test."""
        raise NotImplementedError("override the fixture 'executor'")

    def test_is_a_plain_plugin(self, executor: Executor) -> None:
        _is_plain_plugin(executor)

    def test_every_job_gives_one_record(self, executor: Executor) -> None:
        jobs = [partial(_record, i) for i in range(5)]
        assert sorted(r.key for r in executor.run(jobs)) == list("01234")

    def test_no_jobs_give_no_records(self, executor: Executor) -> None:
        assert list(executor.run([])) == []

    def test_draws_lazily(self, executor: Executor) -> None:
        """An endless generator is fine as long as the reader stops."""

        def endless() -> Iterator[partial[Record]]:
            i = 0
            while True:
                yield partial(_record, i)
                i += 1

        found: Iterable[Record] = executor.run(endless())
        assert next(iter(found)).key in {str(i) for i in range(64)}
