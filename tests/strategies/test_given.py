"""What is named is trained, and nothing else."""

from dataclasses import replace

import pytest

from nasfw import config, plugins
from nasfw.contracts import Problem, Recipe
from nasfw.engine import Budget
from nasfw.strategies.given import Given
from nasfw.testing import Echo, ToyCells, ToySpace, ToyTask, Wrong
from nasfw.values import UsageError

TASK = ToyTask()
BOTH = ("first=2.0, second=1.0", {"first": 1, "second": 0})
CELL = "2<-0=linear, 2<-1=skip, 3<-0=none, 3<-1=bent, 3<-2=bent, factor=1.0"


def problem(folder, space=None):
    return Problem(space or ToySpace(TASK), TASK, [Wrong(), Echo()], Recipe(epochs=3), 0, folder)


def trained(records):
    return [r.architecture for r in records]


def test_texts_and_mappings_are_trained_in_their_order(find):
    found = find(Given(BOTH), [Wrong()], space=ToySpace(TASK), epochs=1)
    assert trained(found) == [(2.0, 1.0), (1.0, 0.0)]
    assert {r.recipe for r in found} == {Recipe(epochs=1)}
    assert not any(r.inherited for r in found)


@pytest.mark.parametrize("one", BOTH)
def test_one_needs_no_list(find, one):
    assert trained(find(Given(one), [Echo()], space=ToySpace(TASK))) == trained(
        find(Given((one,)), [Echo()], space=ToySpace(TASK), folder="list")
    )


def test_what_is_meant_twice_is_trained_once(find, tmp_path):
    strategy = Given((*BOTH, "second=1.0, first=2.0"))
    assert len(find(strategy, [Echo()], space=ToySpace(TASK))) == 2
    assert strategy.workload(problem(tmp_path)).trials == 2
    assert strategy.workload(problem(tmp_path)).passes == 6.0


def test_without_names_the_plain_backbone_is_trained(find):
    space = ToyCells(TASK)
    assert trained(find(Given(), [Wrong()], space=space, epochs=1)) == [space.default]


def test_a_search_that_was_ended_goes_on(find):
    """And what was trained already is not trained again."""
    space = ToySpace(TASK)
    (first,) = find(Given(BOTH), [Wrong()], space=space, epochs=1, budget=Budget(trials=1))
    again = find(Given(BOTH), [Wrong()], space=space, epochs=1)
    assert again[0] == first
    assert trained(again) == [(2.0, 1.0), (1.0, 0.0)]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("bent", r"given: 'bent' is no architecture, which is written as '2<-0=none, 2<-1=none, \.\.\.'"),
        ((CELL, "bent"), "given: architecture 2 of 2: 'bent' is no architecture"),
        (
            {"factor": 1.0},
            "given: the architecture has no option for '2<-0' and 4 more; possible there: none",
        ),
        (CELL.replace("1.0", "3"), "given: 'factor' cannot be 3; possible there: 1.0, 2.0"),
        (
            CELL.replace("3<-0=none", "3<-0=skip"),
            "given: of the edges 3<-0, 3<-1, 3<-2 it has 3; in this space it has 2",
        ),
    ],
)
def test_what_the_space_does_not_have_is_refused_before_any_work(named, message, tmp_path):
    Given(CELL).check(problem(tmp_path, ToyCells(TASK)))
    with pytest.raises(UsageError, match=message):
        Given(named).check(problem(tmp_path, ToyCells(TASK)))


GENOTYPE = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1)], normal_concat=range(2, 3), "
    "reduce=[('max_pool_3x3', 0), ('sep_conv_3x3', 1)], reduce_concat=range(2, 3))"
)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (f"strategy.architectures={GENOTYPE}", GENOTYPE),
        (f'strategy.architectures=["{GENOTYPE}"]', (GENOTYPE,)),
        ("strategy.architectures=first=2.0, second=1.0", BOTH[0]),
        ("strategy.architectures=|none~0|", "|none~0|"),
        (
            "strategy.architectures={first: 1, second: x, third: 0.5}",
            {"first": 1, "second": "x", "third": 0.5},
        ),
        ("strategy.architectures=[{first: true}, first=2]", ({"first": True}, "first=2")),
    ],
)
def test_the_command_line_takes_each_form(typed, expected):
    """And options keep their types."""
    registry = plugins.load(entry_points=False)
    settings = config.resolve(["strategy=given", typed, "compute=cpu"], registry)
    found = settings.strategy.parameters["architectures"]
    assert repr(found) == repr(expected)
    again = config.resolve({**settings.plain(), "folder": None}, registry)
    assert again == replace(settings, folder=None)
