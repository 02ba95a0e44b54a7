"""Digits, Darcy, Burgers: solvers against exact solutions, data against their definition, the cache."""

import logging
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from nasfw import caches
from nasfw.tasks import burgers, cache, darcy
from nasfw.tasks.burgers import Burgers
from nasfw.tasks.darcy import Darcy
from nasfw.tasks.digits import Digits
from nasfw.values import UsageError

SMALL_DARCY = Darcy(resolution=8, samples=20, test_samples=5)
SMALL_BURGERS = Burgers(resolution=16, viscosity=0.1, samples=20, test_samples=5)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NASFW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def centres(n):
    return (np.arange(n) + 0.5) / n


def darcy_error(h, w, exact, a, source):
    x, y = np.meshgrid(centres(h), centres(w), indexing="ij")
    return np.abs(darcy.solve(a(x, y), source(x, y)) - exact(x, y)).max()


def order(errors):
    return np.log2(np.array(errors[:-1]) / errors[1:])


def test_darcy_is_of_second_order_for_smooth_coefficients():
    """u = sin(pi x) sin(2 pi y), a = 1 + x y: the source is what the equation says."""
    s, c, pi = np.sin, np.cos, np.pi

    def source(x, y):
        flow = y * pi * c(pi * x) * s(2 * pi * y) + x * 2 * pi * s(pi * x) * c(2 * pi * y)
        return 5 * pi**2 * (1 + x * y) * s(pi * x) * s(2 * pi * y) - flow

    errors = [
        darcy_error(n, n + n // 2, lambda x, y: s(pi * x) * s(2 * pi * y), lambda x, y: 1 + x * y, source)
        for n in (8, 16, 32, 64)
    ]
    assert (order(errors) > 1.9).all()


def test_darcy_is_of_second_order_across_two_materials():
    """u = sin(2 pi x) sin(pi y) / a with a = 3 | 12: u and the flow a u_x are continuous at x = 1/2."""

    def a(x, y):
        return np.where(x < 0.5, 3.0, 12.0)

    def wave(x, y):
        return np.sin(2 * np.pi * x) * np.sin(np.pi * y)

    errors = [
        darcy_error(n, n, lambda x, y: wave(x, y) / a(x, y), a, lambda x, y: 5 * np.pi**2 * wave(x, y))
        for n in (8, 16, 32, 64)
    ]
    assert (order(errors) > 1.9).all()


def test_darcy_pressure_has_no_interior_minimum_and_scales():
    a = darcy.coefficient(16, np.random.default_rng(0))
    u = darcy.solve(a)
    assert (u > 0).all()
    np.testing.assert_allclose(darcy.solve(2 * a), u / 2, rtol=1e-9)
    np.testing.assert_allclose(darcy.solve(a.T), u.T, rtol=1e-9)
    np.testing.assert_allclose(darcy.solve(a, 3.0), 3 * u, rtol=1e-9)
    # Less conductive material everywhere holds more pressure.
    assert (darcy.solve(np.full((16, 16), 12.0)) <= u).all()
    assert (u <= darcy.solve(np.full((16, 16), 3.0))).all()


def test_darcy_balances_source_and_outflow():
    """The flow through the boundary is the integral of the source: 1."""
    a = darcy.coefficient(12, np.random.default_rng(1))
    u = darcy.solve(a)
    flow = sum(2 * (line_a * line_u).sum() for line_a, line_u in zip(edges(a), edges(u), strict=True))
    assert flow == pytest.approx(1.0, abs=1e-10)


def edges(field):
    return field[0], field[-1], field[:, 0], field[:, -1]


def test_gaussian_field_of_darcy_has_its_covariance():
    rng = np.random.default_rng(0)
    n = 6
    draws = np.stack([darcy.gaussian_field(n, rng).ravel() for _ in range(20000)])
    x, k = centres(n), np.arange(n)
    basis = np.where(k == 0, 1, np.sqrt(2)) * np.cos(np.pi * x[:, None] * k)
    spectrum = 1 / (np.pi**2 * (k[:, None] ** 2 + k**2) + 9) ** 2
    expected = np.einsum("ik,jl,kl,mk,nl->ijmn", basis, basis, spectrum, basis, basis).reshape(n * n, n * n)
    np.testing.assert_allclose(draws.T @ draws / len(draws), expected, atol=0.04 * expected.max())


def cole_hopf(x, t, viscosity):
    """-2 viscosity phi_x / phi; phi = 2 + cos(2 pi x) exp(-4 pi^2 viscosity t) solves the heat equation."""
    decay = np.exp(-4 * np.pi**2 * viscosity * t)
    return 4 * np.pi * viscosity * np.sin(2 * np.pi * x) * decay / (2 + np.cos(2 * np.pi * x) * decay)


@pytest.mark.parametrize("viscosity", [1.0, 0.1, 0.01])
def test_burgers_is_the_exact_solution(viscosity):
    x = np.arange(64) / 64
    end = burgers.solve(cole_hopf(x, 0, viscosity)[None], viscosity)[0]
    np.testing.assert_allclose(end, cole_hopf(x, 1, viscosity), atol=1e-7)


def test_burgers_converges_with_order_four_in_time():
    x = np.arange(64) / 64
    start = 2 * np.sin(2 * np.pi * x)[None]
    exact = burgers.solve(start, 0.05, courant=0.02)
    errors = [np.abs(burgers.solve(start, 0.05, courant=c) - exact).max() for c in (1.0, 0.5, 0.25)]
    assert (order(errors) > 3.7).all()


def test_burgers_converges_faster_than_any_order_in_space():
    def end(n):
        start = np.sin(2 * np.pi * np.arange(n) / n)[None]
        return burgers.solve(start, 0.01, courant=n / 1024)[0, :: n // 32]

    exact = end(512)
    errors = [np.abs(end(n) - exact).max() for n in (32, 64, 128)]
    assert (order(errors) > [3, 8]).all()


def test_burgers_keeps_momentum_and_loses_energy():
    start = burgers.gaussian_field(8, 256, np.random.default_rng(0)) + 0.3
    at = [burgers.solve(start, 0.01, time=t) for t in (0.05, 0.2, 0.5, 1.0)]
    energies = np.stack([(u**2).mean(1) for u in [start, *at]])
    assert (np.diff(energies, axis=0) < 0).all()
    assert all(np.allclose(u.mean(1), start.mean(1), atol=1e-12) for u in at)
    assert all((np.abs(u).max(1) <= np.abs(start).max(1) + 1e-3).all() for u in at)


def test_burgers_of_tiny_waves_is_the_heat_equation():
    x = np.arange(32) / 32
    start = 1e-7 * (np.sin(2 * np.pi * x) + np.cos(6 * np.pi * x))[None]
    decayed = 1e-7 * (
        np.sin(2 * np.pi * x) * np.exp(-4 * np.pi**2 * 0.05)
        + np.cos(6 * np.pi * x) * np.exp(-36 * np.pi**2 * 0.05)
    )
    np.testing.assert_allclose(burgers.solve(start, 0.05)[0], decayed, atol=1e-13)


def test_burgers_moves_with_the_observer():
    """Adding a constant c to u moves the solution by c t: Galilean invariance."""
    x = np.arange(128) / 128
    still = burgers.solve(np.sin(2 * np.pi * x)[None], 0.05)
    moved = burgers.solve(np.sin(2 * np.pi * x)[None] + 0.25, 0.05)
    np.testing.assert_allclose(moved - 0.25, np.roll(still, 32, axis=1), atol=1e-8)


def test_gaussian_field_of_burgers_has_its_variance_and_no_mean():
    draws = burgers.gaussian_field(20000, 64, np.random.default_rng(0))
    k = np.arange(1, 22)
    np.testing.assert_allclose(draws.mean(1), 0, atol=1e-12)
    np.testing.assert_allclose(draws.var(0), 2 * (625 / ((2 * np.pi * k) ** 2 + 25) ** 2).sum(), rtol=0.05)


def test_digits_are_scikit_learns():
    task = Digits()
    assert (task.input_shape, task.output_shape) == ((1, 8, 8), (10,))
    assert [task.size(s) for s in ("train", "valid", "full", "test")] == [1150, 288, 1438, 359]
    assert task.metric == "error"
    assert Digits(1) != task
    assert not torch.equal(next(iter(Digits(1).batches("test")))[1], next(iter(task.batches("test")))[1])


@pytest.mark.parametrize("task", [SMALL_DARCY, SMALL_BURGERS], ids=["darcy", "burgers"])
def test_generated_tasks_are_dense_regression(task):
    task = replace(task)
    assert task.input_shape == task.output_shape
    assert task.metric == task.arrays.metric == "relative_l2"
    assert [task.size(s) for s in ("train", "valid", "test")] == [16, 4, 5]
    x, y = next(iter(task.batches("test")))
    assert x.shape == y.shape == (5, *task.input_shape)
    assert task.error(y, y) == 0
    assert task.description.endswith(".")
    assert "arrays" not in task.description
    copy = pickle.loads(pickle.dumps(task))
    assert copy == task
    assert "arrays" not in vars(copy)


@pytest.mark.parametrize("task", [SMALL_DARCY, SMALL_BURGERS], ids=["darcy", "burgers"])
def test_generated_data_are_seeded_and_kept(task, own_cache, monkeypatch):
    first = replace(task).arrays.fingerprint()
    (file,) = own_cache.iterdir()
    written = file.stat().st_mtime_ns
    assert replace(task).arrays.fingerprint() == first
    assert file.stat().st_mtime_ns == written
    assert replace(task, seed=1).arrays.fingerprint() != first
    assert len(list(own_cache.iterdir())) == 2
    monkeypatch.setenv("NASFW_CACHE", str(own_cache / "other"))
    assert replace(task).arrays.fingerprint() == first


def test_burgers_data_solve_the_equation():
    made = replace(SMALL_BURGERS, resolution=64).arrays
    again = burgers.solve(made.x.astype(float), 0.1)
    np.testing.assert_allclose(made.y, again, atol=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [{"resolution": 2}, {"samples": 0}, {"test_samples": 0}, {"seed": -1}, {"viscosity": 0.0}],
)
def test_sizes_that_make_no_task_are_refused(arguments):
    with pytest.raises(UsageError, match=f"{next(iter(arguments))} is"):
        Burgers(**arguments)


def test_damaged_cache_is_made_anew_and_said(own_cache, caplog):
    first = replace(SMALL_DARCY).arrays.fingerprint()
    (file,) = own_cache.iterdir()
    whole = file.read_bytes()
    for content in (b"", b"nonsense", whole[:700], whole[:300] + bytes(60) + whole[360:]):
        file.write_bytes(content)
        caplog.clear()
        caches.warn_once.cache_clear()
        assert replace(SMALL_DARCY).arrays.fingerprint() == first
        assert caplog.text.count("is damaged and is made anew") == 1
        assert file.read_bytes() == whole


def test_cache_that_cannot_be_written_is_said_once(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NASFW_CACHE", str(tmp_path / "file" / "cache"))
    caches.warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert replace(SMALL_DARCY).size("test") == 5
    assert caplog.text.count("the cache") == 1


def test_interrupted_writing_leaves_nothing(own_cache):
    def make():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.cached("broken", [1], make)
    assert not own_cache.exists() or not list(own_cache.iterdir())
