"""Components that are left out are without effect, and what is worth it is decided by the rows."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dgmm
from dgmm.backend import Backend
from dgmm.data.dataset import Rows
from dgmm.errors import InvalidDataError
from dgmm.expectation import BatchPass, plan_batch
from dgmm.features import Layout, fill_features
from dgmm.frame import Frame
from dgmm.guard import Level
from dgmm.mixture import Mixture, density_coefficients
from dgmm.posterior import Classification, Expectation
from dgmm.screened import Screened
from dgmm.screening import Screen, largest_eigenvalues
from dgmm.testing.families import frames_around
from dgmm.tiled import Tiled
from tests.numerics.problems import random_mixture

D, K = 32, 16
PLAIN = Backend(np)


def _mixture(reach, seed=0, d=D, k=K, spread=0.3):
    """Centres ``reach`` standard deviations from the origin in each feature."""
    rng = np.random.default_rng(seed)
    factors = np.eye(d) + spread * rng.standard_normal((k, d, d)) / d**0.5
    means = reach * rng.standard_normal((k, d))
    weights = rng.dirichlet(np.full(k, 3.0))
    return Mixture(weights, means, factors @ np.swapaxes(factors, 1, 2), "full")


def _rows(mixture, n, seed=1):
    return dgmm.GaussianMixture.from_parameters(
        mixture.weights, mixture.means, mixture.covariances, random_state=seed
    ).sample(n)[0]


def _steps(mixture, level=Level.FLOAT64):
    """The screened step of a mixture, and its kernel's tiles."""
    (kernel,) = plan_batch([mixture], [level], frames_around(mixture))
    assert Screened.serves(kernel, kernel.tile_rows(PLAIN), is_compiled=False)
    tiled = Tiled(kernel, [Expectation()], PLAIN)
    return Screened(kernel, tiled, is_compiled=False), tiled


def _evaluate(step, rows):
    ((_, found),) = step.evaluate(rows)
    return found


def _agree(found, right, limit=1e-12):
    scale = limit * np.abs(right.moments).max()
    np.testing.assert_allclose(found.moments, right.moments, rtol=limit, atol=scale)
    for name in ("log_likelihood", "log_assignment", "weight", "peak"):
        value = getattr(right, name)
        assert getattr(found, name) == pytest.approx(value, rel=limit, abs=limit * right.n_rows)
    assert found.n_rows == right.n_rows


def _screens(monkeypatch):
    """Lists the rows of every call of a screen, and whether it was worth it."""
    calls, select = [], Screen.select

    def listed(self, z, most_pairs):
        found = select(self, z, most_pairs)
        calls.append((len(z), found is not None))
        return found

    monkeypatch.setattr(Screen, "select", listed)
    return calls


@pytest.mark.parametrize("reach", [3.0, 1.0, 0.5])
@pytest.mark.parametrize(("level", "limit"), [(Level.FLOAT64, 1e-12), (Level.FLOAT32, 2e-5)])
def test_statistics_are_those_of_tiles(level, limit, reach):
    mixture = _mixture(reach, d=64, k=48)
    x = _rows(mixture, 9000).astype(level.dtype)
    screened, tiled = _steps(mixture, level)
    weight = np.random.default_rng(3).integers(0, 3, len(x)).astype(float)
    for rows in (Rows(x), Rows(x, weight=weight)):
        _agree(_evaluate(screened, rows), _evaluate(tiled, rows), limit)


def test_components_that_coincide_and_rows_that_are_far_out():
    mixture = _mixture(3.0)
    means, covariances = mixture.means.copy(), mixture.covariances.copy()
    means[1], covariances[1] = means[0], covariances[0]
    covariances[2] *= 1e4
    twice = Mixture(mixture.weights, means, covariances, "full")
    x = _rows(mixture, 5000)
    x[7] *= 1e4
    x[4000:4010] += 300.0
    screened, tiled = _steps(twice)
    _agree(_evaluate(screened, Rows(x)), _evaluate(tiled, Rows(x)))


def test_components_without_weight_get_nothing():
    mixture = _mixture(3.0)
    weights = mixture.weights.copy()
    weights[3] = 0.0
    without = Mixture(weights / weights.sum(), mixture.means, mixture.covariances, "full")
    screened, tiled = _steps(without)
    found = _evaluate(screened, Rows(_rows(mixture, 5000)))
    _agree(found, _evaluate(tiled, Rows(_rows(mixture, 5000))))
    assert np.all(found.moments[3] == 0.0)


def test_several_mixtures_in_one_kernel():
    mixtures = [_mixture(3.0, seed) for seed in (0, 1)]
    kernels = plan_batch(mixtures, [Level.FLOAT64] * 2, frames_around(mixtures[0]))
    (kernel,) = kernels
    x = _rows(mixtures[0], 6000)
    task = BatchPass(kernels)
    assert isinstance(task.workspace()[0], Screened)
    found = task.evaluate(Rows(x), task.workspace()).members
    right = dict(Tiled(kernel, [Expectation()] * 2, PLAIN).evaluate(Rows(x)))
    for member, one in right.items():
        _agree(found[member.index], one)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 4.0), st.sampled_from([1, 2, 5, 9]))
def test_bounds_are_bounds(seed, reach, d):
    rng = np.random.default_rng(seed)
    mixture = random_mixture(rng, "full", 4, d, reach=10.0**reach)
    theta = density_coefficients(mixture, Frame(mixture.means.mean(axis=0)))
    screen = Screen.of(theta, Layout(d))
    assert screen is not None
    z = rng.standard_normal((50, d)) * 10.0 ** rng.uniform(-1, 5, (50, 1))
    features = np.ones((Layout(d).full, len(z)))
    features[Layout(d).means] = z.T
    fill_features(features, Layout(d).full, Layout(d), np)
    exact, bounds = (theta @ features).T, screen.upper_bounds(z)
    slack = 1e-9 * (1.0 + np.abs(theta) @ np.abs(features)).T
    assert np.all(bounds >= exact - slack)
    for k in range(4):
        np.testing.assert_allclose(screen.values(k, z), exact[:, k], atol=1.0, rtol=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_eigenvalues_are_bounded_and_not_by_much(seed, d):
    rng = np.random.default_rng(seed)
    matrices = rng.standard_normal((3, d, d)) * 10.0 ** rng.uniform(-100, 100)
    matrices = matrices @ np.swapaxes(matrices, 1, 2)
    largest = np.linalg.eigvalsh(matrices)[:, -1]
    found = largest_eigenvalues(matrices)
    assert np.all(found >= largest * (1.0 - 1e-12))
    assert np.all(found <= largest * d ** (1.0 / 64.0) * (1.0 + 1e-12))


def test_rows_for_which_most_components_matter_are_not_screened(monkeypatch):
    mixture = _mixture(0.1)
    x = _rows(mixture, 4096 * 12)
    calls = _screens(monkeypatch)
    screened, tiled = _steps(mixture)
    _agree(_evaluate(screened, Rows(x)), _evaluate(tiled, Rows(x)))
    assert not calls
    # What matters is counted in the last tile that went through the kernel.
    (kernel,) = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    (responsibilities,) = kernel.log_joint(x[-100:], kernel.workspace(PLAIN), PLAIN)
    Expectation()(responsibilities, Rows(x[-100:]), PLAIN)
    _evaluate(tiled, Rows(x[-100:]))
    assert tiled.n_above(1e-3) == [np.sum(responsibilities > 1e-3) / 100]
    _evaluate(tiled, Rows(x[:0]))
    assert tiled.n_above(1e-3) is None


def test_tiles_of_which_bounds_leave_too_much_go_through_the_kernel(monkeypatch):
    mixture = _mixture(0.1)
    x = _rows(mixture, 4096 * 40)
    calls = _screens(monkeypatch)
    # As if few mattered, which only weak bounds would hide.
    monkeypatch.setattr(Tiled, "n_above", lambda *_: [1.0])
    screened, tiled = _steps(mixture)
    _agree(_evaluate(screened, Rows(x)), _evaluate(tiled, Rows(x)))
    # Of a tile after 1, 2, 4, 8 and 16 that were not looked at.
    assert [worth for _, worth in calls] == [False] * len(calls)
    assert 5 <= len(calls) <= 7
    assert all(n <= 600 for n, _ in calls)


def test_tiles_that_are_worth_it_are_found_again(monkeypatch):
    mixture = _mixture(3.0)
    x = _rows(mixture, 4096 * 12)
    # Between all components.
    x[4096 * 3 : 4096 * 6] *= 0.01
    screened, tiled = _steps(mixture)
    calls = _screens(monkeypatch)
    found = _evaluate(screened, Rows(x))
    assert {worth for n, worth in calls if n > 600} == {True, False}
    assert calls[-1][1]
    _agree(found, _evaluate(tiled, Rows(x)))


def test_short_parts_and_other_posteriors_are_not_screened(monkeypatch):
    mixture = _mixture(3.0)
    calls = _screens(monkeypatch)
    screened, tiled = _steps(mixture)
    rows = Rows(_rows(mixture, 500))
    _agree(_evaluate(screened, rows), _evaluate(tiled, rows), 0.0)
    assert not calls
    kernels = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    assert isinstance(BatchPass(kernels, Classification()).workspace()[0], Tiled)


@pytest.mark.parametrize("name", ["full", "diag", "spherical", "tied_diag"])
def test_what_is_served(name):
    def served(k, d):
        mixture = random_mixture(np.random.default_rng(0), name, k, d)
        (kernel,) = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
        return isinstance(BatchPass((kernel,)).workspace()[0], Screened)

    assert served(16, 32) is (name == "full")
    assert not served(8, 8)
    assert not served(2, 64)


def test_many_restarts_take_no_more_memory_than_before():
    mixtures = [_mixture(3.0, seed, d=64, k=48) for seed in range(6)]
    levels = [Level.FLOAT64] * len(mixtures)
    one, many = (
        BatchPass(plan_batch(some, levels[: len(some)], frames_around(mixtures[0])))
        for some in (mixtures[:1], mixtures)
    )
    assert isinstance(one.workspace()[0], Screened)
    assert isinstance(many.workspace()[0], Tiled)
    dense = many.kernels[0].workspace_bytes(PLAIN)
    assert many.buffer_bytes - dense <= 8 * many.kernels[0].tile_rows(PLAIN) * (64 + 6)


@pytest.mark.parametrize("place", [0, 5000, 8999])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_bad_row_is_named(value, place):
    mixture = _mixture(3.0)
    x = _rows(mixture, 9000)
    x[place, 3] = value
    screened, _ = _steps(mixture)
    with pytest.raises(InvalidDataError, match=f"row {70 + place}"):
        _evaluate(screened, Rows(x, first_row=70))


def test_rows_of_weight_zero_may_hold_anything_and_be_all_there_is():
    mixture = _mixture(3.0)
    x, weight = _rows(mixture, 9000), np.ones(9000)
    x[:4500], weight[:4500] = np.nan, 0.0
    screened, tiled = _steps(mixture)
    _agree(_evaluate(screened, Rows(x, weight=weight)), _evaluate(tiled, Rows(x[4500:])))
    nothing = _evaluate(screened, Rows(x, weight=np.zeros(9000)))
    assert nothing.n_rows == 0
    assert np.all(nothing.moments == 0.0)


def test_the_bits_do_not_depend_on_the_parts_before():
    mixture = _mixture(1.0)
    x = _rows(mixture, 20_000)
    edges = [0, 6000, 15_000, 20_000]
    parts = [Rows(x).part(start, stop) for start, stop in pairwise(edges)]
    screened, _ = _steps(mixture)
    forwards = [_evaluate(screened, part) for part in parts]
    backwards = [_evaluate(_steps(mixture)[0], part) for part in reversed(parts)][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(one.moments, other.moments)
        assert one.log_likelihood == other.log_likelihood


@pytest.mark.parametrize("reach", [3.0, 0.1])
def test_memory_is_what_was_projected(reach):
    mixture = _mixture(reach, d=64, k=48)
    task = BatchPass(plan_batch([mixture], [Level.FLOAT64], frames_around(mixture)))
    rows = Rows(_rows(mixture, 12_000))
    tracemalloc.start()
    try:
        task.evaluate(rows, task.workspace())
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert used <= task.workspace_bytes + 2 * task.result_bytes


def test_a_fit_takes_it_and_reaches_what_tiles_reach(monkeypatch):
    mixture = _mixture(3.0)
    x = _rows(mixture, 40_000)
    calls = _screens(monkeypatch)

    def fit(n_threads):
        model = dgmm.GaussianMixture(
            K, max_iter=3, tol=0.0, device="cpu", random_state=0, means_init=mixture.means + 0.1,
            precisions_init=np.linalg.inv(mixture.covariances),
            engine=dgmm.LocalEngine(n_threads=n_threads),
        )  # fmt: skip
        with pytest.warns(match="did not converge"):
            return model.fit(x)

    found = fit(1)
    assert any(worth for _, worth in calls)
    np.testing.assert_array_equal(fit(2).covariances_, found.covariances_)
    monkeypatch.setattr(Screened, "serves", staticmethod(lambda *_, **__: False))
    right = fit(2)
    np.testing.assert_allclose(found.lower_bounds_, right.lower_bounds_, rtol=1e-12)
    np.testing.assert_allclose(found.covariances_, right.covariances_, rtol=1e-9, atol=1e-12)
