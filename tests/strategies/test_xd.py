"""Training operations, and folding each into the nearest that has a name."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from nasfw.contracts import Problem
from nasfw.flops import forward_flops
from nasfw.folding import Report
from nasfw.objectives.quality import Error
from nasfw.objectives.size import Flops
from nasfw.spaces import xd
from nasfw.strategies.xd import XD, Folded
from nasfw.tasks.arrays import ArraysTask
from nasfw.testing import Free, ToySpace, ToyTask, Wrong
from nasfw.values import Unsupported

OPTIONS = ("k1d1", "skip", "zero", "fourier", "xd")


@pytest.fixture(scope="module")
def task():
    """Series of 8 points, of two kinds by the sign of what a small kernel finds in them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 1, 8)).astype(np.float32)
    return ArraysTask(x, (x[:, 0, 1] * x[:, 0, 2] > 0).astype(int), kind="classification")


@pytest.fixture
def problem(task, tmp_path):
    space = xd.XD(task, backbone="pde", channels=4, depth=2, options=OPTIONS)
    recipe = replace(task.recipe, epochs=2)
    return Problem(space, task, [Error(), Flops()], recipe, 3, tmp_path)


def folded(strategy, problem):
    trained = strategy.train(problem, Free())
    return Folded(trained, problem, strategy._folds(problem, trained))


def test_a_folded_network_differs_from_the_trained_one_only_where_it_is_folded(problem):
    torch.manual_seed(0)
    found = folded(XD(), problem)
    space, own = problem.space, found.trained.state_dict()
    assert own.keys() == found.weights(space.universal).keys()
    names = list(space.decisions)
    architecture = ("conv", *space.universal[1:])
    state = found.weights(architecture)
    assert {k for k in state if k.startswith(f"{names[0]}.")} == {f"{names[0]}.weight", f"{names[0]}.bias"}
    for key, value in state.items():
        if not key.startswith(f"{names[0]}."):
            assert torch.equal(value, own[key])
    space.build(architecture).load_state_dict(state)


def test_with_transforms_at_rest_folding_to_the_convolution_changes_no_output(task, tmp_path):
    """Then the operation is the convolution still, so nothing is lost."""
    space = xd.XD(task, backbone="pde", channels=4, depth=2, options=("xd",))
    recipe = replace(task.recipe, epochs=2, transform_lr=0.0)
    problem = Problem(space, task, [Error()], recipe, 3, tmp_path)
    torch.manual_seed(0)
    found = folded(XD(), problem)
    x, _ = next(iter(task.batches("valid")))
    with torch.no_grad():
        torch.testing.assert_close(found.network(space.default)(x), found.trained(x), rtol=1e-4, atol=1e-4)
    report, gains = XD().replaced(problem, Free(), found)
    assert all(rows[0].distance < 1e-3 for rows in report.replacements.values())
    assert all(abs(row).max() < 1e-3 for row in gains)


def test_replacements_cost_what_the_replaced_network_loses(problem):
    torch.manual_seed(0)
    strategy = XD()
    found = folded(strategy, problem)
    report, gains = strategy.replaced(problem, Free(), found)
    space = problem.space
    base = space.universal

    def loss(model):
        with torch.no_grad():
            outputs = [(model(x), y) for x, y in problem.task.batches("valid")]
        return sum(float(problem.task.loss(o, y)) * len(o) for o, y in outputs) / problem.task.size("valid")

    assert report.loss == pytest.approx(loss(found.trained), rel=1e-5)
    name = list(space.decisions)[1]
    for row in report.replacements[name]:
        model = found.network((base[0], row.option, *base[2:]))
        assert row.loss == pytest.approx(loss(model), rel=1e-5)
        position = list(space.decisions[name]).index(row.option)
        assert gains[1][position] == pytest.approx(min(0.0, report.loss - row.loss), abs=1e-6)


def test_proposals_fold_one_layer_after_the_other(problem):
    torch.manual_seed(0)
    strategy = XD()
    report, _ = strategy.replaced(problem, Free(), folded(strategy, problem))
    found = strategy.found(problem, report)
    assert found[0] == problem.space.universal
    stepwise = found[: len(problem.space.decisions) + 1]
    for before, after in pairwise(stepwise):
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    # Besides, that of the smallest operations that do no harm.
    for further in found[len(stepwise) :]:
        for option, rows in zip(further, report.replacements.values(), strict=True):
            (row,) = [r for r in rows if r.option == option]
            assert row.loss <= 1.01 * report.loss
            assert all(r.weights >= row.weights for r in rows if r.loss <= 1.01 * report.loss)


@pytest.mark.parametrize(("tuning", "epochs"), [(0.0, 0), (0.5, 1)])
def test_candidates_go_on_from_the_weights_that_they_were_ranked_with(problem, tuning, epochs):
    torch.manual_seed(0)
    asked = []

    class Asking(Free):
        def __call__(self, trials):
            asked.extend(trials)
            return []

    strategy = XD(candidates=3, proposals=4, tuning=tuning)
    strategy.search(problem, Asking())
    assert 1 <= len(asked) <= 3
    assert len({t.architecture for t in asked}) == len(asked)
    for trial in asked:
        # At the rates of trained weights, not of fresh ones.
        assert trial.recipe == replace(problem.recipe, epochs=epochs, lr=0.001, schedule="cosine")
        problem.space.build(trial.architecture).load_state_dict(trial.weights)


def test_a_report_is_kept_and_read(problem, tmp_path):
    torch.manual_seed(0)
    strategy = XD()
    report, _ = strategy.replaced(problem, Free(), folded(strategy, problem))
    report.write(tmp_path)
    assert Report.read(tmp_path) == report
    (tmp_path / "folding.json").write_text("[]")
    assert Report.read(tmp_path) is None
    assert Report.read(tmp_path / "nowhere") is None


def test_the_training_of_operations_is_charged_with_its_arithmetic(problem):
    """In passes of the plain backbone: one with twice its operations counts twice."""
    torch.manual_seed(0)
    evaluate = Free()
    XD(epochs=3).train(problem, evaluate)
    space, shape = problem.space, problem.task.input_shape
    ratio = forward_flops(space.build(space.universal), shape) / forward_flops(
        space.build(space.default), shape
    )
    assert evaluate.passes == [pytest.approx(3 * ratio)]


def test_a_space_without_such_operations_is_refused(tmp_path):
    toys = ToyTask()
    problem = Problem(ToySpace(toys), toys, [Wrong()], toys.recipe, 0, tmp_path)
    with pytest.raises(Unsupported, match="ToySpace has no operations that can become all others"):
        XD().check(problem)


def test_a_space_whose_options_lack_xd_is_refused(task, tmp_path):
    problem = Problem(xd.XD(task, options=("skip",)), task, [Error()], task.recipe, 0, tmp_path)
    with pytest.raises(Unsupported, match="without an option xd"):
        XD().check(problem)
