"""Self-distillation: the distance by its closed form, and which earlier states teach."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from nasfw.contracts import Problem
from nasfw.strategies.darts import Darts
from nasfw.strategies.sd_darts import SdDarts, _Past, distance
from nasfw.testing import Free, ToyCells, ToyTask, Wrong

LABELS = torch.tensor([0, 2, 1, 1, 0])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("teachers", [1, 3])
def test_the_distance_is_that_of_kullback_and_leibler_from_the_vote(temperature, teachers):
    """T^2 KL(mean softmax(z_v / T) || softmax(z / T)), a mean over the batch, as torch has it."""
    z, answers = draw(5, 3), [draw(5, 3, seed=1 + v) for v in range(teachers)]
    voted = torch.stack([torch.softmax(a / temperature, 1) for a in answers]).mean(0)
    expected = F.kl_div(torch.log_softmax(z / temperature, 1), voted, reduction="batchmean")
    found = distance(z, LABELS, answers, temperature)
    torch.testing.assert_close(found, temperature**2 * expected, rtol=1e-12, atol=1e-15)
    assert found > 0


def test_equal_answers_are_at_no_distance():
    z = draw(5, 3)
    assert float(distance(z, LABELS, [z, z], 2.0)) == pytest.approx(0.0, abs=1e-15)
    assert float(distance(z, z + 1, [z, z], 2.0)) == 0.0


def test_answers_that_are_certain_are_no_difficulty():
    """A probability of 0 adds nothing."""
    z = draw(1, 3)
    certain = torch.tensor([[1e6, 0.0, 0.0]], dtype=torch.float64)
    expected = -torch.log_softmax(z, 1)[0, 0]
    torch.testing.assert_close(distance(z, LABELS[:1], [certain], 1.0), expected)


def test_other_targets_have_the_squared_distance_from_the_mean():
    z, answers = draw(5, 3), [draw(5, 3, seed=1), draw(5, 3, seed=2)]
    expected = (z - (answers[0] + answers[1]) / 2).square().mean()
    for target in (draw(5, 3, seed=3), torch.ones(5, 3, dtype=torch.long), "no tensor"):
        torch.testing.assert_close(distance(z, target, answers, 2.0), expected)


def test_dense_labels_are_distilled_position_by_position():
    """The classes are on the second axis; the divergence sums over them and is a mean over all positions."""
    z, answer = draw(2, 3, 4), draw(2, 3, 4, seed=1)
    labels = torch.zeros(2, 4, dtype=torch.long)
    one_by_one = [distance(z[:, :, k], labels[:, k], [answer[:, :, k]], 2.0) for k in range(4)]
    torch.testing.assert_close(distance(z, labels, [answer], 2.0), torch.stack(one_by_one).mean())


def test_the_gradient_reaches_the_answers_of_the_student_alone(tmp_path):
    """Weights and mixture of earlier states get none, though the supernet is the same object."""
    search = trained(SdDarts(epochs=1), problem(tmp_path))
    past = _Past()
    past.keep(search, 3)
    batch = next(search.batches())
    state = copy.deepcopy(search.supernet.state_dict())
    (answer,) = past.answers(search, batch)
    assert not answer.requires_grad
    assert all(not t.requires_grad for part in past.states[0] for t in part)
    assert all(torch.equal(v, state[n]) for n, v in search.supernet.state_dict().items())


def problem(folder, task=None, **recipe):
    task = task or ToyTask()
    return Problem(ToyCells(task), task, [Wrong()], replace(task.recipe, **recipe), 3, Path(folder))


def trained(strategy, p):
    torch.manual_seed(0)
    return strategy.train(p, Free())


def test_a_state_answers_what_it_answered_then(tmp_path):
    """After later steps too: it is a copy, and the statistics are those of the batch."""
    search = trained(SdDarts(epochs=1), problem(tmp_path))
    batch = next(search.batches())
    with torch.no_grad():
        before = search.supernet(batch[0], search.mixture)
    past = _Past()
    past.keep(search, 2)
    with torch.no_grad():
        for row in search.outer:
            row += torch.arange(len(row))
    search.learn(batch, search.mixture)
    (answer,) = past.answers(search, batch)
    torch.testing.assert_close(answer, before)
    with torch.no_grad():
        assert (search.supernet(batch[0], search.mixture) - before).abs().max() > 0.01


def test_the_latest_states_are_kept(tmp_path):
    search, past = trained(SdDarts(epochs=1), problem(tmp_path)), _Past()
    for value in range(5):
        with torch.no_grad():
            search.weights[0].fill_(value)
        past.keep(search, 3)
    assert [float(weights[0].max()) for weights, _ in past.states] == [2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("interval", "teachers", "expected"),
    [(1, 2, [0, 1, 2, 2, 2, 2]), (2, 3, [0, 0, 1, 1, 2, 2]), (3, 1, [0, 0, 0, 1, 1, 1])],
)
def test_there_is_a_new_teacher_every_interval_and_so_many_at_most(tmp_path, interval, teachers, expected):
    """Counted by the runs of the supernet beside those of mixture and weights, two in each step."""
    search_runs = []

    class Counts(Free):
        """Notes after every epoch how often the supernet ran."""

        def spend(self, passes):
            search_runs.append(len(runs))
            return super().spend(passes)

    runs: list[int] = []

    @dataclass(frozen=True)
    class Counted(ToyCells):
        def supernet(self):
            made = super().supernet()
            made.register_forward_hook(lambda *_: runs.append(1))
            return made

    task = ToyTask()
    p = Problem(Counted(task), task, [Wrong()], replace(task.recipe, batch_size=100), 3, tmp_path)
    torch.manual_seed(0)
    SdDarts(epochs=6, interval=interval, teachers=teachers).train(p, Counts())
    per_epoch = [b - a for a, b in zip([0, *search_runs], search_runs, strict=False)]
    assert [n - 2 for n in per_epoch[:6]] == expected


def test_before_the_first_teacher_and_without_strength_it_is_darts(tmp_path):
    """To the last bit."""
    found = [
        trained(SdDarts(epochs=3, interval=3), problem(tmp_path / "late")),
        trained(SdDarts(epochs=3, interval=1, strength=0.0), problem(tmp_path / "weak")),
        trained(Darts(epochs=3), problem(tmp_path / "darts")),
        trained(SdDarts(epochs=3, interval=1, strength=5.0), problem(tmp_path / "taught")),
    ]
    states = [[*s.outer, *s.weights] for s in found]
    for state in states[:2]:
        assert all(torch.equal(a, b) for a, b in zip(state, states[2], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(states[3], states[2], strict=True))


def test_strong_teachers_hold_the_answers_back(tmp_path):
    """From the same start, a step with a large weight of the teachers changes the answers less."""
    changes = []
    for strength in (0.0, 100.0):
        strategy = SdDarts(epochs=2, interval=1, strength=strength, clip=0.5)
        search = trained(strategy, problem(tmp_path / str(strength), lr=0.05, momentum=0.0))
        past = _Past()
        past.load_state_dict(_kept(tmp_path / str(strength)))
        (x, _), *_ = search.task.batches("train")
        (then,) = past.answers(search, (x, None))
        with torch.no_grad():
            changes.append(float((search.supernet(x, search.mixture) - then).norm()))
    assert changes[1] < 0.8 * changes[0]


def _kept(folder):
    """The earlier states in a search's checkpoint."""
    content = torch.load(folder / "checkpoints" / "supernet.pt", weights_only=True)
    return content["parts"]["past"]


def test_answers_are_charged_from_the_first_teacher_on(tmp_path):
    """Of five epochs two have none, two have one and one has two: a third of a gradient each."""
    p, free = problem(tmp_path), Free()
    SdDarts(epochs=5, interval=2, teachers=3).train(p, free)
    # A mixture of toy cells costs 2.
    assert sum(free.passes) == pytest.approx(2 * (5 * 2 + 4 / 3))
    assert SdDarts(epochs=5, interval=2).workload(p).supernet_passes == pytest.approx(5 * 2 + 4 / 3)
