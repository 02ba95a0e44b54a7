"""A trial is identified by all its parts, and its record tells what happened."""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from nasfw.contracts import (
    Architecture,
    Candidate,
    Diverged,
    Measured,
    Objective,
    Option,
    Recipe,
    SearchSpace,
    Trial,
    Unsupported,
    UsageError,
)
from nasfw.testing import Echo, ToySpace, ToyTask, Wrong
from nasfw.trials import Setting, evaluate_trial, network_file, seeded


@dataclass(frozen=True)
class Raises(Objective):
    """Fails as it is told."""

    failure: type[BaseException] = MemoryError
    text: str = "no room"
    metric = "raises"

    def measure(self, candidate: Candidate) -> float:
        raise self.failure(self.text)


@dataclass(frozen=True)
class Constant(Objective):
    value: float = 1.0
    metric = "constant"

    def measure(self, candidate: Candidate) -> float:
        return self.value


@dataclass(frozen=True)
class Unbuildable(SearchSpace):
    """A space whose networks cannot be built."""

    @property
    def decisions(self) -> Mapping[str, Sequence[Option]]:
        return {"a": (1, 2)}

    @property
    def default(self) -> Architecture:
        return (1,)

    def build(self, architecture: Architecture) -> nn.Module:
        raise RuntimeError("this space builds nothing")


def setting(folder, *objectives, phase="search", space=None):
    task = ToyTask()
    return Setting(space or ToySpace(task), "toy", task, objectives, phase, folder, "cpu")


def trial(**changes):
    return Trial((1.0, 2.0), replace(ToyTask().recipe, **changes))


WEIGHTS = {"w": torch.arange(4.0), "b": torch.zeros(2)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Trial((1.0, 2.0), Recipe()), Trial((2.0, 1.0), Recipe())),
        (Trial((1,), Recipe()), Trial(("1",), Recipe())),
        (Trial((1,), Recipe()), Trial((True,), Recipe())),
        (Trial((1,), Recipe()), Trial((1, 1), Recipe())),
        (Trial((1,), Recipe()), Trial((1,), Recipe(), WEIGHTS)),
        (Trial((1,), Recipe(), WEIGHTS), Trial((1,), Recipe(), {**WEIGHTS, "w": torch.arange(4.0) + 1e-6})),
        (Trial((1,), Recipe(), WEIGHTS), Trial((1,), Recipe(), {**WEIGHTS, "v": torch.zeros(1)})),
        (Trial((1,), Recipe(), {"w": torch.zeros(2)}), Trial((1,), Recipe(), {"v": torch.zeros(2)})),
        (Trial((1,), Recipe(), {"w": torch.zeros(2, 3)}), Trial((1,), Recipe(), {"w": torch.zeros(3, 2)})),
        (
            Trial((1,), Recipe(), {"w": torch.zeros(2, dtype=torch.float32)}),
            Trial((1,), Recipe(), {"w": torch.zeros(2, dtype=torch.int32)}),
        ),
        (
            Trial((1,), Recipe(), {"w": torch.tensor([1.0, 2.0], dtype=torch.bfloat16)}),
            Trial((1,), Recipe(), {"w": torch.tensor([1.0, 3.0], dtype=torch.bfloat16)}),
        ),
    ],
)
def test_the_key_depends_on_every_part(one, other):
    assert one.key != other.key


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 3},
        {"batch_size": 3},
        {"fraction": 0.5},
        {"optimizer": "adamw"},
        {"lr": 0.2},
        {"momentum": 0.5},
        {"weight_decay": 0.0},
        {"schedule": "step"},
        {"milestones": (1,)},
        {"decay": 0.5},
        {"dropout": 0.0},
        {"clip": 1.0},
        {"seed": 1},
        {"transform_optimizer": "adam"},
        {"transform_lr": 0.0},
        {"transform_momentum": 0.5},
        {"transform_decay": 0.0},
        {"transform_warmup": 1},
        {"transform_cooldown": 1},
    ],
)
def test_the_key_depends_on_every_field_of_the_recipe(change):
    assert Trial((1,), replace(Recipe(), **change)).key != Trial((1,), Recipe()).key


def test_the_key_depends_on_nothing_else():
    """Neither on the order of the weights, nor on their place in memory, nor on the process."""
    w = torch.arange(6.0).reshape(2, 3)
    one = Trial((1,), Recipe(), {"a": w.t(), "b": torch.tensor(1.0), "c": torch.empty(0)})
    other = Trial(
        (1,),
        Recipe(),
        {"c": torch.empty(0), "b": nn.Parameter(torch.tensor(1.0)), "a": w.t().contiguous()},
    )
    assert one.key == other.key
    assert Trial((3, "k", True, 0.5), Recipe()).key == "4d7ad43dfd610882"


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float64, torch.bool, torch.uint8, torch.complex64]
)
def test_weights_of_every_dtype_have_a_key(dtype):
    keys = {Trial((1,), Recipe(), {"w": torch.tensor(v).to(dtype)}).key for v in (0, 1)}
    assert len(keys) == 2


def test_seeded_repeats_inside_and_leaves_the_stream_outside_alone():
    def draw(seed):
        with seeded(seed):
            return torch.rand(3)

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(1)
    assert torch.equal(draw(1), torch.rand(3))


def test_the_torch_stream_is_left_alone_by_a_trial(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    evaluate_trial(setting(tmp_path, Wrong(), Echo()), trial(), {}, "")
    assert torch.equal(torch.rand(3), expected)


def test_a_record_says_what_was_done(tmp_path):
    t = trial(seed=4)
    r = evaluate_trial(setting(tmp_path, Wrong(), Echo()), t, {}, "")
    assert (r.key, r.phase, r.space, r.recipe, r.inherited, r.error) == (
        t.key,
        "search",
        "toy",
        t.recipe,
        False,
        None,
    )
    assert r.choices == {"first": 1.0, "second": 2.0}
    assert set(r.values) == {"error", "echo"}
    assert r.values["echo"] == 3.0
    assert r.seconds > 0


@dataclass(frozen=True)
class Noted(ToySpace):
    """With a notation of its own for all but the default."""

    def text(self, architecture):
        return super().text(architecture) if architecture == self.default else f"<{architecture[0]}>"


def test_a_record_has_the_text_of_spaces_with_a_notation(tmp_path):
    def said(space, t, *objectives):
        return evaluate_trial(setting(tmp_path, *objectives, space=space), t, {}, "").text

    noted = Noted(ToyTask())
    assert said(noted, trial(), Echo()) == "<1.0>"
    assert said(noted, trial(), Raises()) == "<1.0>"
    assert said(noted, Trial(noted.default, Recipe()), Echo()) is None
    assert said(ToySpace(ToyTask()), trial(), Echo()) is None


def test_the_seed_decides_the_values(tmp_path):
    def errors(seed):
        s = setting(tmp_path / str(seed), Wrong())
        return evaluate_trial(s, trial(seed=seed), {}, "").values

    assert errors(0) == errors(0)
    assert len({errors(seed)["error"] for seed in range(5)}) > 1


def test_nothing_is_built_unless_an_objective_needs_it(tmp_path):
    t = Trial((2,), Recipe())
    r = evaluate_trial(setting(tmp_path, Echo(), space=Unbuildable()), t, {}, "")
    assert r.values == {"echo": 2.0}
    with pytest.raises(RuntimeError, match="builds nothing"):
        evaluate_trial(setting(tmp_path, Wrong(), space=Unbuildable()), t, {}, "")


def test_known_values_are_not_measured_again(tmp_path):
    r = evaluate_trial(setting(tmp_path, Raises(), Echo()), trial(), {"raises": 7.0}, "")
    assert r.values == {"raises": 7.0, "echo": 3.0}


def test_known_values_keep_how_they_were_measured(tmp_path):
    value = Measured(7.0, low=6.0, high=9.0, repetitions=5, clock="a stopwatch")
    r = evaluate_trial(setting(tmp_path, Raises(), Echo()), trial(), {"raises": value}, "")
    assert r.values == {"raises": 7.0, "echo": 3.0}
    assert type(r.values["raises"]) is float
    assert r.measured == {"raises": value.details}
    assert r.value("raises").details == value.details


@dataclass(frozen=True)
class Untrainable(ToyTask):
    def loss(self, output, target):
        raise AssertionError("it is trained")


@pytest.mark.parametrize("value", [Raises(Unsupported, "the board is off"), Constant(math.inf)])
def test_what_cannot_be_measured_is_noticed_before_a_training(tmp_path, value):
    s = replace(setting(tmp_path, Wrong(), value), task=Untrainable())
    assert evaluate_trial(s, trial(), {}, "").error is not None
    with pytest.raises(AssertionError, match="it is trained"):
        evaluate_trial(replace(s, objectives=(Wrong(), Constant())), trial(), {}, "")


@dataclass(frozen=True)
class Gambles(Objective):
    """Draws random numbers, as a device may for the inputs of the network."""

    metric = "gambles"

    def measure(self, candidate: Candidate) -> float:
        return float(torch.rand(100).sum())


def test_a_measurement_does_not_change_the_training(tmp_path):
    """Whether it took place or was known from before: what is resumed must not differ."""
    values = [
        evaluate_trial(setting(tmp_path / name, Wrong(), *more, phase="final"), trial(epochs=3), known, "")
        for name, more, known in (
            ("a", (), {}),
            ("b", (Gambles(),), {}),
            ("c", (Gambles(),), {"gambles": 1.0}),
        )
    ]
    assert len({r.values["error"] for r in values}) == 1
    one, *others = (load_file(network_file(tmp_path / n, r.key)) for n, r in zip("abc", values, strict=True))
    assert all(torch.equal(one[name], other[name]) for other in others for name in one)


@dataclass(frozen=True)
class Weights(Objective):
    """The sum of the weights, before or after they were trained."""

    metric = "weights"

    def measure(self, candidate: Candidate) -> float:
        return float(sum(p.detach().abs().sum() for p in candidate.model.parameters()))


def test_a_trial_measures_its_own_network(tmp_path):
    """A candidate builds one network, which is measured untrained, then trained and judged."""
    r = evaluate_trial(setting(tmp_path, Wrong(), Weights()), trial(), {}, "")
    with seeded(0):
        untrained = ToySpace(ToyTask()).build((1.0, 2.0))
    assert r.values["weights"] == float(sum(p.detach().abs().sum() for p in untrained.parameters()))


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Raises(MemoryError, ""), "out of memory"),
        (Raises(MemoryError, "17 GB"), "17 GB"),
        (Raises(torch.OutOfMemoryError, "CUDA out of memory"), "CUDA out of memory"),
        (Raises(RuntimeError, "[enforce fail] can't allocate memory"), "out of memory: .*allocate memory"),
        (Raises(Diverged, "loss was nan"), "loss was nan"),
        (Raises(Unsupported, "the board is off"), "^Unsupported: the board is off$"),
        (Constant(math.nan), "constant gave nan"),
        (Constant(math.inf), "constant gave inf"),
    ],
)
def test_memory_and_divergence_and_a_missing_device_make_a_failed_record(tmp_path, objective, message):
    r = evaluate_trial(setting(tmp_path, Echo(), objective), trial(), {}, "")
    assert r.values == r.measured == {}
    assert r.error is not None
    assert re.search(message, r.error)


def test_a_real_allocation_that_fails_is_a_failed_record(tmp_path):
    @dataclass(frozen=True)
    class Greedy(Objective):
        metric = "greedy"

        def measure(self, candidate: Candidate) -> float:
            return float(torch.empty(2**55, dtype=torch.uint8)[0])

    r = evaluate_trial(setting(tmp_path, Greedy()), trial(), {}, "")
    assert r.error is not None
    assert r.error.startswith("out of memory")


def test_a_training_that_diverges_is_a_failed_record(tmp_path):
    r = evaluate_trial(setting(tmp_path, Wrong()), trial(lr=1e38, epochs=5, schedule="constant"), {}, "")
    assert r.error is not None
    assert "training loss was" in r.error
    assert r.values == {}


@pytest.mark.parametrize(
    "failure", [RuntimeError, ValueError, KeyError, ZeroDivisionError, KeyboardInterrupt, UsageError]
)
def test_any_other_error_surfaces(tmp_path, failure):
    with pytest.raises(failure, match="a bug"):
        evaluate_trial(setting(tmp_path, Raises(failure, "a bug")), trial(), {}, "")


def test_a_trial_starts_from_its_weights(tmp_path):
    """Without epochs the network is measured with exactly what it inherits."""
    task = ToyTask()
    space = ToySpace(task)
    torch.manual_seed(3)
    model = space.build((1.0, 2.0))
    t = Trial((1.0, 2.0), replace(task.recipe, epochs=0), model.state_dict())
    r = evaluate_trial(setting(tmp_path, Wrong()), t, {}, "")
    x, y = zip(*task.batches("valid"), strict=True)
    assert r.inherited
    assert r.values["error"] == task.error(model(torch.cat(x)), torch.cat(y))


@dataclass(frozen=True)
class Seen(Objective):
    """Which split the candidate is judged on."""

    metric = "samples"
    trained = True

    def measure(self, candidate: Candidate) -> float:
        return float(("train", "valid", "full", "test").index(candidate.split))


def test_search_judges_on_valid_and_final_on_test(tmp_path):
    found = [
        evaluate_trial(setting(tmp_path, Seen(), phase=p), trial(), {}, "").values["samples"]
        for p in ("search", "final")
    ]
    assert found == [1.0, 3.0]


def test_final_weights_are_kept_and_give_the_recorded_value(tmp_path):
    s = setting(tmp_path, Wrong(), phase="final")
    r = evaluate_trial(s, trial(), {}, "")
    model = s.space.build((1.0, 2.0))
    model.load_state_dict(load_file(network_file(tmp_path, r.key)))
    x, y = zip(*s.task.batches("test"), strict=True)
    assert s.task.error(model(torch.cat(x)), torch.cat(y)) == r.values["error"]
    assert [p.name for p in network_file(tmp_path, r.key).parent.iterdir()] == [f"{r.key}.safetensors"]


def test_search_and_failed_trials_keep_no_weights(tmp_path):
    evaluate_trial(setting(tmp_path, Wrong()), trial(), {}, "")
    evaluate_trial(setting(tmp_path, Wrong(), Constant(math.nan), phase="final"), trial(), {}, "")
    assert not network_file(tmp_path, "x").parent.exists()


@dataclass(frozen=True)
class Doomed(ToyTask):
    """Kills the process that trains for the seventh batch of all."""

    def loss(self, output, target):
        batches.append(1)
        if len(batches) == 7:
            raise KeyboardInterrupt
        return super().loss(output, target)


batches: list[int] = []


def test_a_killed_trial_goes_on_where_it_stopped(tmp_path):
    """Four batches make an epoch. The kill in the second one loses its three batches, not the first epoch."""
    batches.clear()
    task = Doomed()
    t = Trial((1.0, 2.0), replace(task.recipe, epochs=4))
    s = replace(setting(tmp_path / "a", Wrong(), phase="final"), task=task)
    with pytest.raises(KeyboardInterrupt):
        evaluate_trial(s, t, {}, "")
    assert s.checkpoint(t.key).exists()
    resumed = evaluate_trial(s, t, {}, "")
    assert len(batches) == 7 + 3 * 4
    other = replace(s, folder=tmp_path / "b")
    undisturbed = evaluate_trial(other, t, {}, "")
    assert resumed.values == undisturbed.values
    one, two = (load_file(network_file(f, t.key)) for f in (s.folder, other.folder))
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_networks_that_share_weights_can_be_kept(tmp_path):
    @dataclass(frozen=True)
    class Tied(ToySpace):
        def build(self, architecture: Architecture) -> nn.Module:
            layer = nn.Linear(4, 4)
            return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(4, 3))

    r = evaluate_trial(setting(tmp_path, Wrong(), phase="final", space=Tied(ToyTask())), trial(), {}, "")
    kept = load_file(network_file(tmp_path, r.key))
    assert torch.equal(kept["0.weight"], kept["2.weight"])


def test_logging_is_left_to_the_engine(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        evaluate_trial(setting(tmp_path, Echo()), trial(), {}, "")
    assert caplog.text == ""
