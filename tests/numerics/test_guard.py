"""What the guard promises: how wrong a row's log density may be, by kernel, against an oracle.

Promises hold for rows that a mixture explains. A row t standard deviations away has a density of
−t²/2, which no arithmetic keeps to an absolute error: there they grow with t² (``distance``).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgmm import em, guard
from dgmm.covariance import family_names
from dgmm.data.dataset import Rows
from dgmm.em import Chain, Context, frames_of
from dgmm.frame import Frame
from dgmm.guard import Frames, Level, condition, safe_level
from dgmm.maximization import MaximizationOptions, maximize
from dgmm.mixture import Mixture
from dgmm.testing.families import evaluate, row_values
from tests.numerics.problems import (
    SerialSession,
    context_of,
    oracle,
    profile_of,
    random_mixture,
    rows_of,
)

UNIT = 2.0**-24
FAMILIES = pytest.mark.parametrize("name", family_names())


def distance(mixture, density):
    """Mean squared standardised coordinate of each row, at least 1."""
    return np.maximum(1.0, 2.0 * (mixture.peak_log_density - density) / mixture.n_features)


def worst(mixture, x, least):
    """The level that the guard chooses, and the largest error over what the level promises."""
    frames = frames_of(profile_of(x), x.dtype)
    level = safe_level(mixture, frames, least)
    density = oracle(mixture, x)[0].astype(np.float64)
    error = np.abs(row_values(mixture, x, level, "log_density", frames) - density)
    promise = 1e-6
    if level is Level.FLOAT32:
        promise = 10 * UNIT * condition(mixture, frames.at(level, mixture.family.shape))
    return level, float(np.max(error / (promise * distance(mixture, density))))


# ------------------------------------------------------------------------------------ the promises


@FAMILIES
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_float64_at_an_offset_of_a_million(name, offset):
    mixture = random_mixture(np.random.default_rng(1), name, 4, 6, offset=offset)
    assert worst(mixture, rows_of(mixture, 400, 1), Level.FLOAT64)[1] <= 1


@FAMILIES
def test_float64_with_clusters_a_thousand_deviations_apart(name):
    mixture = random_mixture(np.random.default_rng(2), name, 4, 6, reach=1e3)
    assert worst(mixture, rows_of(mixture, 400, 2), Level.FLOAT64)[1] <= 1


@FAMILIES
@pytest.mark.parametrize("size", [1e6, 1e8, 1e10])
def test_float64_with_ill_conditioned_covariances(name, size):
    mixture = random_mixture(np.random.default_rng(3), name, 4, 6, condition=size)
    assert worst(mixture, rows_of(mixture, 400, 3), Level.FLOAT64)[1] <= 1


@settings(max_examples=300)
@given(
    name=st.sampled_from(family_names()),
    seed=st.integers(0, 2**32 - 1),
    n_components=st.integers(1, 5),
    n_features=st.sampled_from([2, 3, 4, 8, 16, 32, 64]),
    digits=st.floats(0, 8),
    reach=st.floats(0.1, 30),
    offset=st.sampled_from([0.0, 0.0, 1e3]),
    dtype=st.sampled_from(["float32", "float32", "float64"]),
)
def test_any_mixture_goes_to_a_kernel_that_keeps_its_promise(
    name, seed, n_components, n_features, digits, reach, offset, dtype
):
    mixture = random_mixture(
        np.random.default_rng(seed),
        name,
        n_components,
        n_features,
        condition=10**digits,
        reach=reach,
        offset=offset,
    )
    x = rows_of(mixture, 120, seed, dtype)
    least = Level.FLOAT32 if dtype == "float32" else Level.FLOAT64
    level, ratio = worst(mixture, x, least)
    assert ratio <= 1, level


@FAMILIES
def test_rows_far_from_every_component(name):
    mixture = random_mixture(np.random.default_rng(4), name, 3, 8, condition=100.0)
    x = 30 * rows_of(mixture, 300, 4, "float32")
    assert worst(mixture, x, Level.FLOAT32)[1] <= 1


@FAMILIES
@pytest.mark.parametrize("units", [1e-12, 1e12])
def test_units_that_make_the_normalising_constant_large(name, units):
    # ½ log det is then 64 · 28 nats, of which float32 keeps three decimals.
    mixture = random_mixture(np.random.default_rng(5), name, 3, 64, reach=0.5)
    far = Mixture(mixture.weights, mixture.means * units, mixture.covariances * units**2, name)
    level, ratio = worst(far, rows_of(far, 200, 5, "float32"), Level.FLOAT32)
    assert level is Level.FLOAT32
    assert ratio <= 1


# ------------------------------------------------------------------------- photographs, the demo's


@pytest.fixture(scope="module")
def patches():
    """8×8 patches of a photograph, in grey: covariances of condition 1e4 and more."""
    images = pytest.importorskip("sklearn.datasets").load_sample_images().images
    grey = (images[1].astype(np.float32) / 255.0).mean(axis=2)
    windows = np.lib.stride_tricks.sliding_window_view(grey, (8, 8))[::9, ::11]
    return windows.reshape(-1, 64).astype(np.float32)


@FAMILIES
def test_image_patches(name, patches):
    context = context_of(patches)
    assert np.linalg.cond(context.profile.covariance) > 1e4
    rng = np.random.default_rng(0)
    covariances = np.stack([context.profile.covariance] * 4)
    start = random_mixture(rng, name, 4, 64)
    shape = start.family.shape
    stored = shape.project(covariances) / shape.divisor(64)
    means = patches[rng.choice(len(patches), 4, replace=False)]
    stored = stored[0] if start.family.is_tied else stored
    chains = [Chain(Mixture(np.full(4, 0.25), means, stored, name), Level.FLOAT32)]
    list(
        em.iterate(
            context, chains, tol=0.0, options=MaximizationOptions(reg_covar=1e-6), max_iter=4
        )
    )
    _, ratio = worst(chains[0].mixture, patches[::8], chains[0].level)
    assert ratio <= 1
    bounds = np.array(chains[0].lower_bounds)
    assert np.all(np.diff(bounds) > -1e-4)


# ---------------------------------------------------------------------------- choosing and latching


def test_the_whitened_frame_is_what_lets_correlated_rows_stay_in_float32():
    mixture = random_mixture(np.random.default_rng(6), "full", 1, 8, condition=1e6)
    x = rows_of(mixture, 2000, 6, "float32")
    frames = frames_of(profile_of(x), x.dtype)
    assert safe_level(mixture, frames, Level.FLOAT32) is Level.FLOAT32
    plain = Frames(frames.plain, frames.plain)
    assert safe_level(mixture, plain, Level.FLOAT32) > Level.FLOAT32


def test_the_guard_never_goes_below_the_least_level():
    mixture = random_mixture(np.random.default_rng(7), "diag", 2, 3)
    frames = Frames(Frame(np.zeros(3)), Frame(np.zeros(3)))
    for least in Level:
        assert safe_level(mixture, frames, least) is least


def test_rows_whose_squares_overflow_are_not_for_float32():
    mixture = random_mixture(np.random.default_rng(8), "diag", 2, 3)
    x = np.full((4, 3), 1e20, dtype=np.float32) * np.arange(4, dtype=np.float32)[:, None]
    frames = frames_of(profile_of(x), x.dtype)
    assert not frames.float32_fits
    assert safe_level(mixture, frames, Level.FLOAT32) > Level.FLOAT32


@FAMILIES
def test_a_chain_never_returns_to_a_faster_kernel_once_warm(name, monkeypatch):
    x = rows_of(random_mixture(np.random.default_rng(9), name, 3, 4), 600, 9, "float32")
    context = context_of(x)
    start = random_mixture(np.random.default_rng(10), name, 3, 4)
    # Refused at the start, which counts for nothing, and again later, which does.
    limits = [0.0, 4e3, 4e3, 4e3, 0.0, 4e3, 4e3]
    chains, levels = [Chain(start, Level.FLOAT32)], []
    for limit in limits:
        monkeypatch.setitem(guard._LIMITS, Level.FLOAT32, limit)
        list(em.iterate(context, chains, tol=0.0, options=MaximizationOptions(), max_iter=1))
        levels.append(chains[0].level)
        chains = [replace(chains[0], status="running")]
    assert levels == [Level.FLOAT32] * 4 + [Level.FLOAT64] * 3


def test_a_density_above_the_peak_is_evaluated_again_by_a_safer_kernel(monkeypatch):
    # Thin components across each other: no one frame suits both, and float32 loses nats.
    rng = np.random.default_rng(11)
    mixture = random_mixture(rng, "full", 4, 8, condition=1e9, reach=0.3)
    x = rows_of(mixture, 2000, 11, "float32")
    context = context_of(x)
    (truth,) = em.evaluate(context, [mixture], [Level.CENTRED])[0]
    assert safe_level(mixture, context.frames, Level.FLOAT32) > Level.FLOAT32
    monkeypatch.setitem(guard._LIMITS, Level.FLOAT32, np.inf)
    (blind,) = evaluate([mixture], Rows(x), [Level.FLOAT32], frames=context.frames)
    assert blind.peak > mixture.peak_log_density + 1
    (found,), (level,) = em.evaluate(context, [mixture], [Level.FLOAT32])
    assert level > Level.FLOAT32
    assert found.log_likelihood == pytest.approx(truth.log_likelihood, rel=1e-6)


def test_only_the_mixtures_that_breach_are_evaluated_again(monkeypatch):
    rng = np.random.default_rng(11)
    thin = random_mixture(rng, "full", 4, 8, condition=1e9, reach=0.3)
    x = rows_of(thin, 2000, 11, "float32")
    context = context_of(x)
    good = random_mixture(rng, "diag", 3, 8, condition=1.0)
    monkeypatch.setitem(guard._LIMITS, Level.FLOAT32, np.inf)
    _, levels = em.evaluate(context, [good, thin, good], [Level.FLOAT32] * 3)
    assert levels[0] is levels[2] is Level.FLOAT32
    assert levels[1] > Level.FLOAT32
    assert context.session.members[:2] == [3, 1]


# ------------------------------------------------------------------------- tied, linear features


TIED = pytest.mark.parametrize("name", [n for n in family_names() if n.startswith("tied")])


@TIED
@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_features=st.sampled_from([2, 4, 8, 16, 32]),
    digits=st.floats(0, 6),
    reach=st.floats(0.1, 30),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_linear_features_keep_the_promise_of_their_own_guard(
    name, seed, n_features, digits, reach, dtype
):
    rng = np.random.default_rng(seed)
    mixture = random_mixture(rng, name, 4, n_features, condition=10**digits, reach=reach)
    x = rows_of(mixture, 400, seed, dtype)
    context = context_of(x)
    least = Level.FLOAT32 if dtype == "float32" else Level.FLOAT64
    (found,), (level,) = em.evaluate(context, [mixture], [least])
    density, responsibilities = oracle(mixture, x)
    frame = context.frames.at(level, mixture.family.shape)
    size = condition(mixture, frame, quadratic=False)
    unit = UNIT if level is Level.FLOAT32 else 0.0
    error = 10 * unit * (size + n_features) + 1e-6
    assert found.log_likelihood / len(x) == pytest.approx(float(density.mean()), abs=error)
    counts = responsibilities.sum(axis=1).astype(np.float64)
    assert found.counts / len(x) == pytest.approx(counts / len(x), abs=error)


@TIED
def test_the_m_step_from_linear_features_is_as_good_as_its_guard(name):
    # W = T − Σ n m mᵀ loses |m|²/σ² of the digits of T: exactly what the guard bounds.
    for reach in (0.5, 5.0, 15.0):
        mixture = random_mixture(np.random.default_rng(12), name, 4, 8, reach=reach)
        x = rows_of(mixture, 1000, 12, "float32")
        (found,), (level,) = em.evaluate(context_of(x), [mixture], [Level.FLOAT32])
        (truth,) = evaluate([mixture], Rows(x), [Level.CENTRED])
        ours, best = (maximize(one, mixture.family).mixture for one in (found, truth))
        scale = np.max(np.abs(best.covariances))
        assert np.max(np.abs(ours.covariances - best.covariances)) <= 2e-3 * scale, level
        assert not ours.singular_components


def test_profiles_without_off_diagonals_serve_the_families_without():
    x = rows_of(random_mixture(np.random.default_rng(13), "diag", 3, 4), 500, 13)
    profile = profile_of(x, dense=False)
    context = Context(SerialSession(x), frames_of(profile, x.dtype), profile)
    mixture = random_mixture(np.random.default_rng(14), "tied_diag", 3, 4)
    (narrow,), _ = em.evaluate(context, [mixture], [Level.FLOAT64])
    (wide,), _ = em.evaluate(context_of(x), [mixture], [Level.FLOAT64])
    assert narrow.log_likelihood == pytest.approx(wide.log_likelihood, rel=1e-12)


@FAMILIES
@pytest.mark.parametrize("units", [1e-22, 1e-16, 1e16, 1e18])
def test_units_at_the_ends_of_float32s_range(name, units):
    mixture = random_mixture(np.random.default_rng(15), name, 3, 8)
    far = Mixture(mixture.weights, mixture.means * units, mixture.covariances * units**2, name)
    assert worst(far, rows_of(far, 200, 15, "float32"), Level.FLOAT32)[1] <= 1


@pytest.mark.parametrize("n_components", [1, 3])
@pytest.mark.parametrize("size", [1e8, 1e10, 1e12])
def test_the_total_scatter_of_ill_conditioned_rows(n_components, size):
    # With means at the origin the linear coefficients vanish and say nothing; tr(P T) does.
    rng = np.random.default_rng(1)
    mixture = random_mixture(rng, "tied_full", n_components, 6, condition=size, reach=0.5)
    x = rows_of(mixture, 500, 1)
    (found,), (level,) = em.evaluate(context_of(x), [mixture], [Level.FLOAT64])
    assert (level is Level.CENTRED) == (size > 1e9)
    assert abs(found.log_likelihood / len(x) - float(oracle(mixture, x)[0].mean())) <= 1e-6
