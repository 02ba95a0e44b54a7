"""A run's outcome is recomputed from its folder."""

import json
from dataclasses import asdict, replace

import pytest

from nasfw import results
from nasfw.diagnostics import Agreement, Diagnostics, Moment, Rating
from nasfw.records import Records
from nasfw.results import RANDOM, RECORDS, RESULT, SPENT, SUMMARY, Summary, read
from nasfw.supernets import FILE, Training
from nasfw.values import CostTable, Measure, Measured, Recipe, Record, UsageError, digest

MEASURES = (Measure("accuracy", maximise=True, trained=True), Measure("size", "B"))
PLAIN = {"conv": "plain"}
SUMMARY_OF_RUN = Summary("digits", "dash", "a cpu", MEASURES, {"s": PLAIN}, (0, 1, 2), 3, True, "abc")
SHORT, LONG = Recipe(epochs=2, fraction=0.5, lr=0.3), Recipe(epochs=9, lr=0.3)


def searched(name, accuracy, size, recipe=SHORT, **more):
    values = {"accuracy": accuracy, "size": size}
    return Record(f"v-{name}", "search", "s", {"conv": name}, recipe, False, values, 1.0, **more)


def final(name, accuracy, size, seed=0, recipe=LONG, error=None):
    values = {} if error else {"accuracy": accuracy, "size": size}
    recipe = replace(recipe, seed=seed)
    return Record(f"t-{name}-{seed}", "final", "s", {"conv": name}, recipe, False, values, 2.0, error)


def folder_of(path, *records, random=()):
    path.mkdir(exist_ok=True)
    SUMMARY_OF_RUN.write(path)
    for place, content in ((path, records), (path / RANDOM, random)):
        place.mkdir(exist_ok=True)
        with Records(place / RECORDS, write=True) as store:
            for record in content:
                store.append(record)
    return path


FOUND = (searched("good", 0.9, 20.0), searched("small", 0.7, 5.0), searched("bad", 0.6, 30.0))


def test_the_summary_is_read_as_written(tmp_path):
    SUMMARY_OF_RUN.write(tmp_path)
    assert Summary.read(tmp_path) == SUMMARY_OF_RUN
    assert [p.name for p in tmp_path.iterdir()] == [SUMMARY]


def test_devices_are_kept_with_what_they_depend_on(tmp_path):
    devices = {"Board 3": {"device": "Board 3", "threads": 2, "cards": ["a", None]}}
    summary = replace(SUMMARY_OF_RUN, devices=devices)
    summary.write(tmp_path)
    assert Summary.read(tmp_path) == summary
    assert read(tmp_path).plain_data()["devices"] == devices


def test_summaries_from_before_there_were_devices_are_read(tmp_path):
    SUMMARY_OF_RUN.write(tmp_path)
    content = json.loads((tmp_path / SUMMARY).read_text())
    del content["devices"], content["least"]
    (tmp_path / SUMMARY).write_text(json.dumps(content))
    assert Summary.read(tmp_path) == SUMMARY_OF_RUN


def test_a_folder_without_a_run_is_said_to_be_one(tmp_path):
    with pytest.raises(UsageError, match=r"holds no run: it has no problem\.json"):
        read(tmp_path)
    (tmp_path / SUMMARY).write_text('{"task": ')
    with pytest.raises(UsageError, match=r"problem\.json is damaged"):
        read(tmp_path)


def test_without_final_trainings_the_front_is_that_of_the_search(tmp_path):
    outcome = read(folder_of(tmp_path, *FOUND, replace(FOUND[2], key="x", values={}, error="no")))
    assert outcome.phase == "search"
    assert [n.choices["conv"] for n in outcome.front] == ["good", "small"]
    assert outcome.pick == outcome.front[0]
    assert outcome.plain is outcome.random is None
    assert (outcome.trials, outcome.failed) == (4, 1)
    assert outcome.against(outcome.plain) is None


def test_an_empty_run_has_no_pick(tmp_path):
    outcome = read(folder_of(tmp_path))
    assert outcome.front == []
    assert outcome.pick is None
    assert outcome.hypervolume == 0.0
    json.dumps(outcome.plain_data(), allow_nan=False)


def test_a_run_whose_front_is_trained_in_part_shows_the_search(tmp_path):
    assert read(folder_of(tmp_path, *FOUND, final("good", 0.95, 80.0))).phase == "search"


def trained():
    good = [final("good", a, 80.0, s) for s, a in enumerate((0.90, 0.97, 0.94))]
    small = [final("small", a, 20.0, s) for s, a in enumerate((0.80, 0.70, 0.75))]
    plain = [final("plain", a, 40.0, s) for s, a in enumerate((0.90, 0.90, 0.93))]
    return [*good, *small, *plain]


def test_final_values_are_medians_over_the_seeds(tmp_path):
    outcome = read(folder_of(tmp_path, *FOUND, *trained()))
    assert outcome.phase == "final"
    good, small = outcome.front
    assert good.median == {"accuracy": 0.94, "size": 80.0}
    assert small.median == {"accuracy": 0.75, "size": 20.0}
    assert good.seeds == (0, 1, 2)
    assert good.values["accuracy"] == (0.90, 0.97, 0.94)
    assert good.validation == {"accuracy": 0.9, "size": 20.0}
    assert outcome.pick == good
    assert outcome.plain.median == {"accuracy": 0.90, "size": 40.0}


def test_the_pick_is_compared_over_the_same_seeds(tmp_path):
    outcome = read(folder_of(tmp_path, *FOUND, *trained()[:-1]))
    comparison = outcome.against(outcome.plain)
    assert outcome.plain.seeds == (0, 1)
    assert comparison == results.evaluation.compare([0.90, 0.97], [0.90, 0.90], True)


def test_hypervolume_is_that_of_the_shown_networks(tmp_path):
    """Costs (-0.94, 80), (-0.75, 20), and the plain (-0.90, 40); reference at 1.1 ranges from the best."""
    outcome = read(folder_of(tmp_path, *FOUND, *trained()))
    a, b = 0.94 - 1.1 * 0.19, 80 - 0 + 0.1 * 60
    assert outcome.reference == pytest.approx([a, b], abs=1e-12)
    area = (0.94 - a) * (b - 80) + (0.75 - a) * (80 - 20)
    assert outcome.hypervolume == pytest.approx(area, abs=1e-12)


def test_a_final_training_that_fails_does_not_hide_the_others(tmp_path):
    failed = [final("good", 0, 0, s, error="out of memory") for s in range(3)]
    outcome = read(folder_of(tmp_path, *FOUND, *failed, *trained()[3:]))
    assert outcome.phase == "final"
    assert [n.choices["conv"] for n in outcome.front] == ["small"]
    assert outcome.pick.choices["conv"] == "small"
    assert outcome.failed == 3


def test_what_fills_up_a_short_front_is_awaited_and_may_surprise(tmp_path):
    """The third is behind on the validation split, and the best on the test split."""
    folder = folder_of(tmp_path, *FOUND, *trained())
    replace(SUMMARY_OF_RUN, least=3).write(folder)
    assert read(folder).phase == "search"
    with Records(folder / RECORDS, write=True) as store:
        store.append(final("bad", 0.99, 10.0))
    outcome = read(folder)
    assert outcome.phase == "final"
    assert [n.choices["conv"] for n in outcome.front] == ["bad"]
    # What was chosen on the validation split stays the pick.
    assert outcome.pick.choices["conv"] == "good"


def test_a_seed_that_fails_is_left_out_of_its_network(tmp_path):
    records = trained()
    records[1] = final("good", 0, 0, 1, error="out of memory")
    good = read(folder_of(tmp_path, *FOUND, *records)).front[0]
    assert good.seeds == (0, 2)
    assert good.values["accuracy"] == (0.90, 0.94)


def test_a_final_training_belongs_to_the_search_by_its_recipe(tmp_path):
    """Length and seed may differ, the learning rate not."""
    other = [replace(r, recipe=replace(r.recipe, lr=0.1)) for r in trained()]
    assert read(folder_of(tmp_path, *FOUND, *other)).phase == "search"


def test_the_best_of_random_search_is_beside_the_front(tmp_path):
    lucky = [searched("lucky", 0.8, 9.0, LONG), searched("other", 0.5, 1.0, LONG), final("lucky", 0.85, 36.0)]
    outcome = read(folder_of(tmp_path, *FOUND, *trained(), random=lucky))
    assert outcome.random.choices["conv"] == "lucky"
    assert outcome.random.median["accuracy"] == 0.85
    assert outcome.random_trials == 2
    assert [n.choices["conv"] for n in outcome.front] == ["good", "small"]


def test_seconds_are_those_of_searches_that_were_never_interrupted(tmp_path):
    folder_of(tmp_path, *FOUND)
    for place, content, expected in (
        (tmp_path, None, (None, None)),
        (tmp_path, {"seconds": 7.5}, (7.5, None)),
        (tmp_path / RANDOM, {"seconds": 3.0}, (7.5, 3.0)),
        (tmp_path, {"seconds": None}, (None, 3.0)),
    ):
        if content is not None:
            (place / "s").mkdir(exist_ok=True)
            (place / "s" / SPENT).write_text(json.dumps(content))
        outcome = read(tmp_path)
        assert (outcome.seconds, outcome.random_seconds) == expected


def test_everything_is_there_as_strict_json(tmp_path):
    outcome = read(folder_of(tmp_path, *FOUND, *trained()))
    data = json.loads(json.dumps(outcome.plain_data(), allow_nan=False))
    assert data["split"] == "test"
    assert [n["name"] for n in data["front"]] == [n.name for n in outcome.front]
    assert data["comparisons"]["random"] is None
    assert data["comparisons"]["plain"]["verdict"] == outcome.against(outcome.plain).verdict


def test_names_of_networks_tell_architectures_and_recipes_apart(tmp_path):
    outcome = read(folder_of(tmp_path, *FOUND, *trained()))
    one = outcome.front[0]
    others = [outcome.front[1], replace(one, recipe=SHORT), replace(one, space="t")]
    assert len({n.name for n in (one, *others)}) == 4
    assert replace(one, seeds=(0,)).name == one.name
    assert len(one.name) == 8


def test_an_architecture_in_its_notation_goes_with_its_network(tmp_path):
    """In the search and after it; where there is none, nothing stands in its place."""
    drawn = [replace(r, text=f"<{r.choices['conv']}>") for r in FOUND]
    ends = [replace(r, text=f"<{r.choices['conv']}>") for r in trained()]
    for name, records in (("search", drawn), ("final", [*drawn, *ends])):
        outcome = read(folder_of(tmp_path / name, *records))
        assert outcome.phase == name
        assert outcome.pick.text == "<good>"
        assert {n["text"] for n in outcome.plain_data()["front"]} == {"<good>", "<small>"}
    old = read(folder_of(tmp_path / "old", *FOUND, *trained()))
    assert old.pick.text is None
    assert "text" not in old.plain_data()["pick"]


def test_the_pick_may_be_the_plain_backbone_itself(tmp_path):
    """It is trained once, and is its own yardstick."""
    outcome = read(folder_of(tmp_path, searched("plain", 0.9, 20.0), final("plain", 0.8, 40.0)))
    assert outcome.pick == outcome.plain
    assert outcome.against(outcome.plain).verdict == "tied"
    assert len(outcome.front) == 1


def test_equal_networks_keep_the_first_on_the_front(tmp_path):
    found = (searched("one", 0.9, 20.0), searched("two", 0.8, 10.0))
    outcome = read(folder_of(tmp_path, *found, final("one", 0.7, 40.0), final("two", 0.7, 40.0)))
    assert [n.choices["conv"] for n in outcome.front] == ["one"]
    assert outcome.pick.choices["conv"] == "one"


def test_a_network_without_common_seeds_is_not_compared(tmp_path):
    outcome = read(folder_of(tmp_path, FOUND[0], final("good", 0.9, 8.0, 0), final("plain", 0.9, 8.0, 1)))
    assert outcome.against(outcome.plain) is None


def test_measures_where_lower_is_better_pick_the_lowest(tmp_path):
    measures = (Measure("error", trained=True), Measure("size", "B"))
    replace(SUMMARY_OF_RUN, measures=measures).write(tmp_path)
    with Records(tmp_path / RECORDS, write=True) as store:
        for name, error in (("a", 0.3), ("b", 0.1), ("c", 0.2)):
            record = searched(name, 0.0, 1.0)
            store.append(replace(record, values={"error": error, "size": 1.0}))
    assert read(tmp_path).pick.choices["conv"] == "b"


@pytest.mark.parametrize(
    "content", ["[]", "{}", "3", '{"task": 1}', '{"measures": [{"a": 1}], "seeds": []}', "\udcff"]
)
def test_a_damaged_summary_is_named(tmp_path, content):
    (tmp_path / SUMMARY).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=r"problem\.json is damaged"):
        read(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", "{"])
def test_a_damaged_clock_is_no_clock(tmp_path, content):
    folder_of(tmp_path, *FOUND)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / SPENT).write_text(content)
    assert read(tmp_path).seconds is None


def test_a_run_is_done_while_its_result_follows_from_its_records(tmp_path):
    folder_of(tmp_path, *FOUND, *trained())
    assert not results.done(tmp_path)
    (tmp_path / RESULT).write_text(json.dumps(read(tmp_path).plain_data()))
    assert results.done(tmp_path)
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert results.done(moved)
    lines = (moved / RECORDS).read_text().splitlines(keepends=True)
    (moved / RECORDS).write_text("".join(lines[:-1]))
    assert not results.done(moved)
    (moved / RESULT).write_text("{")
    assert not results.done(moved)


TRAINING = Training({"conv": "8 x 8: matrix 1.2 ms; fourier 3 ms"}, 0.012, 2**29, "in all")


def test_the_supernets_training_is_read_where_there_is_one(tmp_path):
    outcome = read(folder_of(tmp_path, *FOUND))
    assert outcome.supernets == {}
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / FILE).write_text(json.dumps(asdict(TRAINING)))
    outcome = read(tmp_path)
    assert outcome.supernets == {"s": TRAINING}
    data = json.loads(json.dumps(outcome.plain_data(), allow_nan=False))
    assert data["supernets"]["s"]["layers"] == TRAINING.layers


def test_figures_of_a_supernet_make_no_other_outcome(tmp_path):
    """A finished run stays so, also one whose result was written without such figures."""
    folder_of(tmp_path, *FOUND, *trained())
    written = read(tmp_path).plain_data()
    del written["supernets"]
    (tmp_path / RESULT).write_text(json.dumps(written))
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / FILE).write_text(json.dumps(asdict(TRAINING)))
    assert results.done(tmp_path)


def rated(*values):
    """Diagnostics with a rating for each of FOUND, and for some that only random search trains."""
    names = ["good", "small", "bad", "one", "two", "three"]
    pairs = zip(names, values, strict=False)
    return Diagnostics((Moment(1, entropy=0.5),), tuple(Rating({"conv": n}, v, True) for n, v in pairs))


DRAWN = [searched(name, a, 9.0, LONG) for name, a in (("one", 0.3), ("two", 0.2), ("three", 0.1))]


def test_ratings_are_held_against_the_trainings_of_the_search_and_of_random_search(tmp_path):
    """FOUND and DRAWN are in the order of their accuracies."""
    folder_of(tmp_path, *FOUND, random=DRAWN)
    assert read(tmp_path).diagnoses == {}
    (tmp_path / "s").mkdir()
    rated(6.0, 5.0, 4.0, 3.0, 2.0, 1.0).write(tmp_path / "s")
    outcome = read(tmp_path)
    assert outcome.diagnoses["s"].drawn == Agreement(pytest.approx(1.0, abs=1e-12), 6)
    data = json.loads(json.dumps(outcome.plain_data(), allow_nan=False))
    assert data["diagnostics"]["s"]["agreement"] == {"tau": pytest.approx(1.0, abs=1e-12), "count": 6}
    assert data["diagnostics"]["s"]["moments"][0]["entropy"] == 0.5


def test_final_trainings_are_not_what_ratings_foretell(tmp_path):
    """These are on another split, and the search's values on the one that was rated."""
    (tmp_path / "s").mkdir()
    rated(6.0, 5.0, 4.0, 3.0).write(tmp_path / "s")
    worse = [final(r.choices["conv"], 1 - r.values["accuracy"], 9.0) for r in FOUND]
    outcome = read(folder_of(tmp_path, *FOUND, *worse, random=DRAWN))
    assert outcome.diagnoses["s"].drawn == Agreement(pytest.approx(1.0, abs=1e-12), 4)


@pytest.mark.parametrize("content", ["", "[]", "{}", "{", '{"moments": 1, "ratings": [], "notes": []}'])
def test_damaged_diagnostics_are_none(tmp_path, content):
    folder_of(tmp_path, *FOUND)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "diagnostics.json").write_text(content)
    assert read(tmp_path).diagnoses == {}


def test_diagnostics_make_no_other_outcome(tmp_path):
    """A finished run stays so, also one whose result was written without them."""
    folder_of(tmp_path, *FOUND, *trained())
    written = read(tmp_path).plain_data()
    del written["diagnostics"]
    (tmp_path / RESULT).write_text(json.dumps(written))
    (tmp_path / "s").mkdir()
    rated(1.0, 2.0, 3.0).write(tmp_path / "s")
    assert results.done(tmp_path)


VALUE = Measured(20.0, low=19.0, high=23.0, repetitions=9, drift=1.1, clock="a stopwatch")


def measured(record, **sizes):
    """The record, whose size was measured."""
    return replace(record, measured={"size": {**VALUE.details, **sizes}})


def test_how_a_network_was_measured_goes_with_it(tmp_path):
    """As in the search if there is no other training, else as in the final phase, whose networks differ."""
    before = [measured(r, low=1.0) for r in FOUND]
    outcome = read(folder_of(tmp_path / "a", *before))
    assert [n.measured["size"]["low"] for n in outcome.front] == [1.0, 1.0]
    outcome = read(folder_of(tmp_path / "b", *before, *map(measured, trained())))
    assert outcome.phase == "final"
    for network in (*outcome.front, outcome.plain):
        assert network.measured == {"size": VALUE.details}
    data = json.loads(json.dumps(outcome.plain_data(), allow_nan=False))
    assert data["pick"]["measured"]["size"] == VALUE.details


def test_what_was_counted_has_no_details(tmp_path):
    outcome = read(folder_of(tmp_path, *FOUND, *trained()))
    assert all(n.measured == {} for n in (*outcome.front, outcome.plain))
    assert outcome.plain_data()["pick"]["measured"] == {}


COSTS = CostTable(((1.0, 2.0), (0.5,)), 3.0, 0.9, 0.02, 6, 12, 4.5)


def kept(folder, objective, content=None):
    """A lookup table as a search keeps it."""
    (folder / "s").mkdir(exist_ok=True)
    content = {"objective": objective, "table": asdict(COSTS)} if content is None else content
    (folder / "s" / f"costs-{digest(objective)}.json").write_text(json.dumps(content))


def test_tables_that_costs_were_predicted_with_are_read_where_there_are_any(tmp_path):
    outcome = read(folder_of(tmp_path, *FOUND))
    assert outcome.tables == {}
    for objective in ("latency@a", "energy@a"):
        kept(tmp_path, objective)
    outcome = read(tmp_path)
    assert outcome.tables == {"s: latency@a": COSTS, "s: energy@a": COSTS}
    data = json.loads(json.dumps(outcome.plain_data(), allow_nan=False))
    assert CostTable.read(data["tables"]["s: latency@a"]) == COSTS


@pytest.mark.parametrize(
    "content", [[], {}, 3, {"objective": "a"}, {"objective": "a", "table": {"costs": 1}}]
)
def test_a_damaged_table_is_no_table(tmp_path, content):
    folder_of(tmp_path, *FOUND)
    kept(tmp_path, "a", content)
    assert read(tmp_path).tables == {}


def test_tables_make_no_other_outcome(tmp_path):
    """They follow from no record, so a finished run stays so without them."""
    folder_of(tmp_path, *FOUND, *trained())
    kept(tmp_path, "latency@a")
    (tmp_path / RESULT).write_text(json.dumps(read(tmp_path).plain_data()))
    next((tmp_path / "s").glob("costs-*.json")).unlink()
    assert results.done(tmp_path)
