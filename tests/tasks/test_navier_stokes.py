"""Navier-Stokes: the solver against exact solutions and symmetries, the start against its closed form."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from nasfw.tasks import navier_stokes
from nasfw.tasks.navier_stokes import Flow, NavierStokes, force, gaussian_field, solve
from nasfw.values import UsageError

PI = np.pi
SMALL = NavierStokes(resolution=8, time=1.0, samples=20, test_samples=5)
SEVERAL = replace(SMALL, steps=3)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NASFW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def grid(n):
    return np.meshgrid(np.arange(n) / n, np.arange(n) / n, indexing="ij")


def starts(samples=3, n=32, scale=3.0):
    """Starts quicker than those of the task, so that little time shows much."""
    return scale * gaussian_field(samples, n, np.random.default_rng(0))


def after(start, viscosity, time, *arguments, **settings):
    return solve(start, viscosity, [time], *arguments, **settings)[:, 0]


@pytest.mark.parametrize("viscosity", [1.0, 0.1, 0.001])
def test_eddies_of_one_size_decay_exactly(viscosity):
    """Taylor and Green: where -Laplace w = q w there is no advection, and w decays as exp(-viscosity q t)."""
    x, y = grid(24)
    cells = np.cos(4 * PI * x) * np.sin(6 * PI * y)
    # 5^2 + 0^2 = 3^2 + 4^2: a flow that is no product.
    mixed = np.sin(10 * PI * x) + np.cos(2 * PI * (3 * x - 4 * y)) + np.sin(2 * PI * (4 * x + 3 * y))
    for w, square in ((cells, 4 + 9), (mixed, 25)):
        decay = np.exp(-viscosity * 4 * PI**2 * square * 0.3)
        np.testing.assert_allclose(after(w[None], viscosity, 0.3)[0], w * decay, atol=1e-13)


@pytest.mark.parametrize("viscosity", [1.0, 0.01, 0.001])
def test_a_force_alone_brings_about_the_linear_solution(viscosity):
    """A shear has no advection: w = f / (viscosity q) (1 - exp(-viscosity q t)) with q = 8 pi^2."""
    times = [0.5, 1.0, 3.0]
    found = solve(np.zeros((1, 16, 16)), viscosity, times, force(16))[0]
    damping = viscosity * 8 * PI**2
    for w, time in zip(found, times, strict=True):
        np.testing.assert_allclose(
            w, force(16) / damping * (1 - np.exp(-damping * time)), rtol=1e-9, atol=1e-12
        )


def test_a_force_that_balances_advection_and_viscosity_keeps_the_flow():
    """w = sin 2 pi x + 2 cos 4 pi y has u = -sin(4 pi y) / 2 pi, v = -cos(2 pi x) / 2 pi."""
    x, y = grid(32)
    w = np.sin(2 * PI * x) + 2 * np.cos(4 * PI * y)
    u, v = Flow(32).velocity(np.fft.rfft2(w))
    np.testing.assert_allclose(u, -np.sin(4 * PI * y) / (2 * PI), atol=1e-14)
    np.testing.assert_allclose(v, -np.cos(2 * PI * x) / (2 * PI), atol=1e-14)
    advection = 3 * np.cos(2 * PI * x) * np.sin(4 * PI * y)
    damping = 0.1 * 4 * PI**2 * (np.sin(2 * PI * x) + 8 * np.cos(4 * PI * y))
    errors = [
        np.abs(after(w[None], 0.1, 1.0, advection + damping, courant=c)[0] - w).max()
        for c in (0.5, 0.25, 0.125)
    ]
    assert errors[-1] < 1e-6
    assert (np.log2(np.array(errors[:-1]) / errors[1:]) > 3.5).all()


def test_advection_is_its_definition():
    """-u . grad w, point by point, of a field so smooth that no product of its modes is cut."""
    n = 48
    flow = Flow(n)
    w = np.fft.rfft2(starts(2, n)) * (flow.square <= (2 * PI * 5) ** 2)
    down, across = np.fft.fftfreq(n, 1 / n)[:, None], np.arange(n // 2 + 1)
    along_x, along_y = (np.fft.irfft2(2j * PI * k * w, (n, n)) for k in (down, across))
    u, v = flow.velocity(w)
    found = np.fft.irfft2(flow.advection((u, v)), (n, n))
    np.testing.assert_allclose(found, -(u * along_x + v * along_y), atol=1e-12)
    divergence = 2j * PI * (down * np.fft.rfft2(u) + across * np.fft.rfft2(v))
    np.testing.assert_allclose(np.fft.irfft2(divergence, (n, n)), 0, atol=1e-12)


def test_the_solver_is_of_fourth_order_in_time():
    start = starts(scale=10.0)
    exact = after(start, 0.01, 1.0, courant=0.05)
    errors = [np.abs(after(start, 0.01, 1.0, courant=c) - exact).max() for c in (1.0, 0.5, 0.25)]
    assert (np.log2(np.array(errors[:-1]) / errors[1:]) > 3.7).all()
    assert errors[0] < 1e-3 * np.abs(exact).max()


def test_the_solver_converges_faster_than_any_order_in_space():
    def end(n):
        x, y = grid(n)
        w = np.sin(2 * PI * x) * np.cos(2 * PI * y) + np.cos(2 * PI * (x + 2 * y) + 1)
        return after(2 * w[None], 0.005, 1.0, courant=n / 256)[0, :: n // 16, :: n // 16]

    exact = end(128)
    errors = [np.abs(end(n) - exact).max() for n in (16, 32, 64)]
    assert errors[1] < errors[0] / 2**3
    assert errors[2] < errors[1] / 2**8


def test_without_force_energy_and_enstrophy_only_fall_and_the_mean_stays():
    start = starts() + 0.3
    maps = np.concatenate([start[:, None], solve(start, 0.001, np.linspace(0.5, 4.0, 8))], axis=1)
    velocity = np.stack(Flow(32).velocity(np.fft.rfft2(maps)))
    energy = (velocity**2).sum(0).mean((-2, -1))
    enstrophy = ((maps - 0.3) ** 2).mean((-2, -1))
    assert (np.diff(energy, axis=1) < 0).all()
    assert (np.diff(enstrophy, axis=1) < 0).all()
    np.testing.assert_allclose(maps.mean((-2, -1)), 0.3, atol=1e-12)


def test_energy_falls_at_the_rate_of_the_enstrophy():
    """d/dt of the mean of |u|^2 / 2 is -viscosity times the mean of w^2: by Simpson's rule over 65 times."""
    times = np.linspace(0, 1, 65)[1:]
    start = starts(1)
    maps = np.concatenate([start[:, None], solve(start, 0.01, times)], axis=1)[0]
    energy = (np.stack(Flow(32).velocity(np.fft.rfft2(maps))) ** 2).sum(0).mean((-2, -1)) / 2
    enstrophy = (maps**2).mean((-2, -1))
    weights = np.array([1, *[4, 2] * 31, 4, 1]) / (3 * 64)
    assert energy[0] - energy[-1] == pytest.approx(0.01 * weights @ enstrophy, rel=1e-6)


def test_a_flow_without_viscosity_worth_the_name_keeps_energy_and_enstrophy():
    start = starts()
    maps = np.stack([start, after(start, 1e-12, 1.0, courant=0.25)])
    energy = (np.stack(Flow(32).velocity(np.fft.rfft2(maps))) ** 2).sum((0, 3, 4))
    np.testing.assert_allclose(energy[1], energy[0], rtol=1e-6)
    np.testing.assert_allclose((maps[1] ** 2).sum((1, 2)), (maps[0] ** 2).sum((1, 2)), rtol=1e-6)
    assert np.abs(maps[1] - maps[0]).max() > 0.3


@pytest.mark.parametrize(
    "change",
    [
        lambda w: np.roll(w, (5, -3), (1, 2)),
        lambda w: np.rot90(w, axes=(1, 2)),
        # A mirror turns eddies round.
        lambda w: -w[:, ::-1],
        lambda w: -w.swapaxes(1, 2),
    ],
    ids=["shift", "turn", "mirror", "swap"],
)
def test_the_flow_has_the_symmetries_of_the_square(change):
    start = starts()
    np.testing.assert_allclose(after(change(start), 0.002, 1.0), change(after(start, 0.002, 1.0)), atol=1e-6)


def test_twice_as_quick_and_twice_as_viscous_is_the_same_in_half_the_time():
    start = starts()
    np.testing.assert_allclose(after(2 * start, 0.004, 0.5), 2 * after(start, 0.002, 1.0), atol=1e-6)


def test_going_on_from_where_it_stopped_is_the_same():
    start = starts()
    way = solve(start, 0.002, [0.4, 1.0], force(32))
    np.testing.assert_allclose(way[:, 0], after(start, 0.002, 0.4, force(32)), atol=1e-12)
    np.testing.assert_allclose(way[:, 1], after(way[:, 0], 0.002, 0.6, force(32)), atol=1e-6)


@pytest.mark.parametrize("n", [8, 9, 12, 16])
def test_the_start_has_the_variance_of_its_spectrum(n):
    draws = gaussian_field(20000, n, np.random.default_rng(0))
    modes = np.fft.fft2(draws) / n**2
    k = np.fft.fftfreq(n, 1 / n)
    square = k[:, None] ** 2 + k**2
    expected = 7**3 * (4 * PI**2 * square + 49) ** -2.5
    cut = 3 * abs(k) >= n
    expected[cut[:, None] | cut | (square == 0)] = 0
    np.testing.assert_allclose((np.abs(modes) ** 2).mean(0), expected, rtol=0.05, atol=1e-20)
    np.testing.assert_allclose(draws.var(0), np.full((n, n), expected.sum()), rtol=0.06)
    np.testing.assert_allclose(draws.mean((1, 2)), 0, atol=1e-12)


def test_the_task_solves_the_equation_on_a_finer_grid(monkeypatch):
    """Eight points show what sixteen times as many per axis give, for the start that they share."""
    made = replace(SMALL, time=2.0, samples=10, test_samples=1).arrays
    start = gaussian_field(11, 32, np.random.default_rng(0))
    np.testing.assert_allclose(made.x, start[:10, ::4, ::4], atol=1e-7)
    modes = np.fft.rfft2(start) * 16
    finer = np.zeros((11, 128, 65), complex)
    finer[:, :16, :17], finer[:, -16:, :17] = modes[:, :16], modes[:, 16:]
    exact = after(np.fft.irfft2(finer, (128, 128))[:10], 0.001, 2.0, force(128))[:, ::16, ::16]
    missed = np.linalg.norm(made.y - exact) / np.linalg.norm(exact)
    assert missed < 2e-4


def test_one_step_is_a_task_of_maps_and_several_are_one_of_three_axes():
    one, several = replace(SMALL), replace(SEVERAL)
    assert one.input_shape == one.output_shape == (1, 8, 8)
    assert several.input_shape == several.output_shape == (1, 3, 8, 8)
    assert one.metric == one.arrays.metric == several.arrays.metric == "relative_l2"
    assert [one.size(s) for s in ("train", "valid", "test")] == [16, 4, 5]
    np.testing.assert_allclose(several.arrays.y[:, -1], one.arrays.y, atol=1e-5)
    for step in range(3):
        np.testing.assert_array_equal(several.arrays.x[:, step], one.arrays.x)
    x, y = next(iter(several.batches("test")))
    assert x.shape == y.shape == (5, 1, 3, 8, 8)
    assert several.error(y, y) == 0


@pytest.mark.parametrize("task", [SMALL, SEVERAL], ids=["one", "several"])
def test_data_are_seeded_and_kept(task, own_cache):
    task = replace(task)
    first = task.arrays.fingerprint()
    (file,) = own_cache.iterdir()
    written = file.stat().st_mtime_ns
    assert replace(task).arrays.fingerprint() == first
    assert file.stat().st_mtime_ns == written
    assert replace(task, seed=1).arrays.fingerprint() != first
    file.unlink()
    assert replace(task).arrays.fingerprint() == first
    assert pickle.loads(pickle.dumps(task)) == task


@pytest.mark.parametrize("together", [1, 7, 1000])
def test_samples_do_not_depend_on_those_solved_beside_them(together, monkeypatch):
    """Only on their steps of time, which are as long as the quickest of them allows."""
    whole = replace(SMALL).arrays.y
    monkeypatch.setattr(navier_stokes, "_POINTS", together * 32**2)
    np.testing.assert_allclose(replace(SMALL, samples=20)._make()["maps"][:20, 0], whole, atol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"resolution": 2},
        {"samples": 0},
        {"test_samples": 0},
        {"seed": -1},
        {"viscosity": 0.0},
        {"viscosity": 2.0},
        {"time": 0.0},
        {"time": float("nan")},
        {"steps": 0},
    ],
    ids=str,
)
def test_parameters_that_make_no_task_are_refused(arguments):
    with pytest.raises(UsageError, match=f"{next(iter(arguments))} is"):
        NavierStokes(**arguments)
