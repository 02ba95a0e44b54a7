"""Pictures show what the records say, in readable units, with nothing on top of the data."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nasfw import results
from nasfw.diagnostics import Diagnostics, Moment, Rating
from nasfw.plots.figure import draw, picture
from nasfw.plots.style import Scale, scale_of, spread
from nasfw.records import Records
from nasfw.results import RANDOM, RECORDS, Summary
from nasfw.values import Measure, Measured, Recipe, Record, UsageError

ACCURACY = Measure("accuracy", maximise=True, trained=True)
LATENCY = Measure("latency@a board", "s", device="a board")
SIZE = Measure("parameters")
MEASURES = (ACCURACY, LATENCY, SIZE)
# Architecture: accuracy on validation, accuracies on test, seconds, parameters.
NETWORKS = {
    "best": (0.95, (0.90, 0.96, 0.93), 4e-3, 20e3),
    "dominated": (0.94, (0.80,), 3e-3, 30e3),
    "small": (0.85, (0.85,), 2e-3, 10e3),
    "plain": (None, (0.88, 0.91, 0.89), 5e-3, 40e3),
}


def record(name, phase, accuracy, seconds, size, seed=0):
    details = Measured(seconds, low=0.9 * seconds, high=1.2 * seconds).details
    values = {"accuracy": accuracy, LATENCY.name: seconds, "parameters": size}
    recipe = Recipe(epochs=2, seed=seed)
    key = f"{phase}-{name}-{seed}"
    return Record(key, phase, "s", {"conv": name}, recipe, False, values, 1.0, None, {LATENCY.name: details})


def folder_of(path, measures=MEASURES, final=True, diagnostics=None):
    """A run's folder with the networks above, and one of random search."""
    (path / "s").mkdir(parents=True)
    (path / RANDOM).mkdir()
    defaults = {"s": {"conv": "plain"}}
    Summary("waves", "darts", "a cpu", measures, defaults, (0, 1, 2), 4, True, least=4).write(path)
    if diagnostics is not None:
        diagnostics.write(path / "s")
    with Records(path / RECORDS, write=True) as store:
        for name, (valid, tests, *costs) in NETWORKS.items():
            if valid is not None:
                store.append(record(name, "search", valid, *costs))
            for seed, value in enumerate(tests if final else ()):
                store.append(record(name, "final", value, *costs, seed=seed))
    with Records(path / RANDOM / RECORDS, write=True) as store:
        store.append(record("lucky", "search", 0.9, 3e-3, 25e3))
        store.append(record("lucky", "final", 0.87, 3e-3, 25e3))
    return path


MOMENTS = tuple(Moment(e, 2.0 / 10**e, 1 - 0.1 * e, 0.25, 0.1 * e) for e in range(1, 5))
RATINGS = (Rating({"conv": "best"}, 0.5, True), Rating({"conv": "small"}, 0.3, False))


@pytest.fixture
def drawn(tmp_path):
    """The picture of a run, and its panels by title."""

    def drawn(**given):
        figure = picture(results.read(folder_of(tmp_path / "run", **given)))
        FigureCanvasAgg(figure).draw()
        return figure, {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}

    return drawn


def points(axes, called):
    (line,) = (line for line in axes.get_lines() if line.get_label() == called)
    return np.transpose(line.get_data())


def test_networks_are_where_their_medians_are_in_the_units_of_tables(drawn):
    _, panels = drawn()
    axes = panels["(a) waves, test split"]
    assert axes.get_xlabel() == "latency (ms, lower is better)"
    assert axes.get_ylabel() == "accuracy (%, higher is better)"
    (label,) = (text for text in axes.get_legend_handles_labels()[1] if "chosen on the validation" in text)
    np.testing.assert_allclose(points(axes, label), [[4.0, 93.0]])
    np.testing.assert_allclose(points(axes, "plain backbone"), [[5.0, 89.0]])
    np.testing.assert_allclose(points(axes, "best of random search"), [[3.0, 87.0]])
    np.testing.assert_allclose(points(axes, "front"), [[2.0, 85.0]])
    np.testing.assert_allclose(points(axes, "other networks"), [[3.0, 80.0]])
    other = panels["(b) waves, test split"]
    assert other.get_xlabel() == "parameters (k, lower is better)"
    np.testing.assert_allclose(points(other, "plain backbone"), [[40.0, 89.0]])


def test_bars_are_the_seeds_and_the_interval_of_what_is_measured(drawn):
    _, panels = drawn()
    segments = [s for c in panels["(a) waves, test split"].collections for s in c.get_segments()]
    for ends in ([[4.0, 90.0], [4.0, 96.0]], [[3.6, 93.0], [4.8, 93.0]]):
        assert any(np.shape(s) == (2, 2) and np.allclose(s, ends) for s in segments)


def test_the_staircase_is_what_is_not_dominated(drawn):
    """From the cheapest on; its corners dominate nothing of the front."""
    _, panels = drawn()
    (stairs,) = (
        line for line in panels["(a) waves, test split"].get_lines() if line.get_drawstyle() == "steps-post"
    )
    np.testing.assert_allclose(np.transpose(stairs.get_data()), [[2.0, 85.0], [4.0, 93.0]])


def test_one_objective_is_drawn_network_by_network_best_on_top(drawn):
    _, panels = drawn(measures=(ACCURACY,))
    ((title, axes),) = panels.items()
    assert title == "(a) waves, test split"
    assert axes.get_xlabel() == "accuracy (%, higher is better)"
    heights = {}
    for text in axes.get_legend_handles_labels()[1]:
        for x, y in points(axes, text):
            heights[float(y)] = float(x)
    assert [heights[y] for y in sorted(heights)] == sorted(heights.values())


def test_without_final_trainings_the_search_is_drawn(drawn):
    _, panels = drawn(final=False)
    axes = panels["(a) waves, validation split"]
    assert sum(len(points(axes, text)) for text in axes.get_legend_handles_labels()[1]) == 3


def test_time_series_are_drawn_epoch_by_epoch(drawn):
    _, panels = drawn(diagnostics=Diagnostics(MOMENTS, RATINGS))
    mixture = panels["(c) s: mixture"]
    np.testing.assert_allclose(points(mixture, "entropy"), [[m.epoch, m.entropy] for m in MOMENTS])
    np.testing.assert_allclose(points(mixture, "skip connections"), [[m.epoch, 0.25] for m in MOMENTS])
    assert mixture.get_ylim()[0] <= 0 < 1 <= mixture.get_ylim()[1]
    (loss,) = panels["(d) s: training"].get_lines()
    np.testing.assert_allclose(loss.get_ydata(), [m.loss for m in MOMENTS])
    assert panels["(d) s: training"].get_yscale() == "log"
    (eigenvalue,) = panels["(e) s: sharpness"].get_lines()
    np.testing.assert_allclose(eigenvalue.get_ydata(), [m.eigenvalue for m in MOMENTS])
    assert panels["(e) s: sharpness"].get_yscale() == "linear"
    scatter = panels["(f) s: inherited weights"]
    np.testing.assert_allclose(points(scatter, "1 drawn uniformly"), [[50.0, 95.0]])
    np.testing.assert_allclose(points(scatter, "1 proposed"), [[30.0, 85.0]])


def test_what_is_not_known_has_no_panel(drawn):
    _, panels = drawn(diagnostics=Diagnostics((Moment(1, loss=2.0),)))
    assert list(panels)[2:] == ["(c) s: training"]


def test_kendalls_tau_is_in_the_title(drawn):
    values = {**{name: valid for name, (valid, *_) in NETWORKS.items() if valid}, "lucky": 0.9}
    ratings = tuple(Rating({"conv": name}, -value, True) for name, value in values.items())
    _, panels = drawn(diagnostics=Diagnostics((), ratings))
    assert list(panels)[2:] == ["(c) s: Kendall's τ = \N{MINUS SIGN}1.00"]


def test_nothing_covers_anything(drawn):
    """Neither the legends nor the texts around the axes lie on other axes, or on each other."""
    figure, panels = drawn(diagnostics=Diagnostics(MOMENTS, RATINGS))
    renderer = figure.canvas.get_renderer()
    whole = figure.bbox
    boxes = [axes.get_window_extent(renderer) for axes in panels.values()]
    legends = [*figure.legends, *(a.get_legend() for a in panels.values() if a.get_legend())]
    texts = [t for a in panels.values() for t in (a._left_title, a.xaxis.label, a.yaxis.label)]
    around = [x.get_window_extent(renderer) for x in (*legends, *texts)]
    for box in (*boxes, *around):
        assert whole.x0 - 1 <= box.x0 <= box.x1 <= whole.x1 + 1
        assert whole.y0 - 1 <= box.y0 <= box.y1 <= whole.y1 + 1
    for one, other in [*combinations(around, 2), *((a, b) for a in around for b in boxes)]:
        wide = min(one.x1, other.x1) - max(one.x0, other.x0)
        high = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert min(wide, high) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "start"), [("a.svg", b"<?xml"), ("a.PNG", b"\x89PNG"), ("a.pdf", b"%PDF")])
def test_the_suffix_says_the_format_and_the_same_run_gives_the_same_file(tmp_path, name, start):
    result = results.read(folder_of(tmp_path / "run", diagnostics=Diagnostics(MOMENTS, RATINGS)))
    for place in ("one", "two"):
        draw(result, tmp_path / place / name)
    one, two = ((tmp_path / place / name).read_bytes() for place in ("one", "two"))
    assert one.startswith(start)
    assert one == two
    assert [p.name for p in (tmp_path / "one").iterdir()] == [name]


def test_a_run_without_records_has_nothing_to_draw(tmp_path):
    folder = folder_of(tmp_path / "run", final=False)
    (folder / RECORDS).unlink()
    with pytest.raises(UsageError, match="has nothing to draw yet"):
        draw(results.read(folder), tmp_path / "a.svg")
    assert not (tmp_path / "a.svg").exists()


def test_networks_of_two_spaces_have_two_colours(tmp_path):
    folder = folder_of(tmp_path / "run")
    summary = Summary.read(folder)
    replace(summary, defaults={**summary.defaults, "t": {"conv": "plain"}}).write(folder)
    with Records(folder / RECORDS, write=True) as store:
        for phase in ("search", "final"):
            store.append(replace(record("tiny", phase, 0.6, 1e-3, 1e3), space="t"))
    axes = picture(results.read(folder)).axes[0]
    colours = {}
    for line in axes.get_lines():
        if line.get_label().startswith(("front of", "other networks of")):
            colours.setdefault(line.get_label().split()[-1], set()).add(line.get_color())
    assert set(colours) == {"s", "t"}
    assert not colours["s"] & colours["t"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.0, 19.0], "linear"),
        ([1.0, 21.0], "log"),
        ([0.0, 21.0], "linear"),
        ([1e-5, 1.0], "log"),
        ([], "linear"),
    ],
)
def test_axes_are_logarithmic_where_values_differ_by_orders_of_magnitude(values, kind):
    axes = Figure().subplots()
    spread(axes, "y", values)
    assert axes.get_yscale() == kind


def test_a_scale_is_that_of_the_largest_value():
    scale = scale_of(LATENCY, [2e-5, 3e-3])
    assert scale == Scale(1e-3, "ms")
    np.testing.assert_allclose(scale([2e-5, 3e-3]), [0.02, 3.0])
    assert scale.label("latency") == "latency (ms)"
    assert scale_of(Measure("x"), []).label("x") == "x"
