"""Compiled loops give what array calls give, to a few roundings, for every family and policy."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dgmm
from dgmm import arrays, compiled
from dgmm.arrays import COMPILED, resolve_device
from dgmm.backend import Backend, CompiledBackend, backend_of
from dgmm.compiled.elementary import log_loop
from dgmm.compiled.loops import compiled_once, jit
from dgmm.compiled.softmax import tally_loop
from dgmm.covariance import family_names
from dgmm.data.dataset import Rows
from dgmm.expectation import BatchPass, RowPass, plan_batch
from dgmm.features import Layout
from dgmm.guard import Level
from dgmm.posterior import Annealed, Classification, Expectation, KnownLabels, Stochastic
from dgmm.testing.families import frames_around
from tests.numerics.problems import random_mixture, rows_of

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="numba is not installed"
)

PLAIN, LOOPS = Backend(np), CompiledBackend(np)
DTYPES = ("float64", "float32")
# A run of rows that is not full, exactly one, one and a bit, many.
LENGTHS = (1, 127, 128, 131, 1000)


def _joint(seed, n_components, n_rows, dtype, scale=20.0):
    rng = np.random.default_rng(seed)
    return (-scale * rng.standard_exponential((n_components, n_rows))).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_rows", LENGTHS)
@pytest.mark.parametrize("n_components", [1, 2, 17])
def test_responsibilities_are_those_of_array_calls(n_components, n_rows, dtype):
    joint = _joint(n_rows, n_components, n_rows, dtype)
    plain, loops = joint.copy(), joint.copy()
    top, total = PLAIN.softmax(plain)
    found_top, found_total = LOOPS.softmax(loops)
    unit = np.finfo(dtype).eps
    np.testing.assert_array_equal(found_top, top)
    np.testing.assert_allclose(found_total, total, rtol=4 * unit)
    np.testing.assert_allclose(loops, plain, rtol=8 * unit, atol=np.finfo(dtype).tiny)


@given(st.floats(-700, 0), st.sampled_from(DTYPES))
def test_the_exponential_is_right_to_two_units(x, dtype):
    x = np.array(x, dtype)
    joint = np.array([[0.0], [x]], dtype)
    _, total = LOOPS.softmax(joint)
    exact = np.exp(x.astype("longdouble"))
    if x >= (-708 if dtype == "float64" else -87):
        assert joint[1, 0] == pytest.approx(
            float(exact / (1 + exact)), rel=4 * float(np.finfo(dtype).eps)
        )
    elif x >= -89:
        # About the end of the normal numbers.
        assert 0.0 <= joint[1, 0] <= 2e-38
    else:
        assert joint[1, 0] == 0.0
    assert total[0] == pytest.approx(float(1 + exact), rel=2 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 3, 4])
def test_a_row_that_is_not_finite_stays_so(place, bad, dtype):
    joint = _joint(3, 5, 200, dtype)
    joint[place, 130] = bad
    with np.errstate(all="ignore"):
        top, total = LOOPS.softmax(joint)
    finite = np.isfinite(top + np.log(total))
    assert not finite[130]
    assert finite.sum() == 199


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_component_without_density_gets_nothing(dtype):
    joint = _joint(4, 3, 150, dtype)
    joint[1] = -np.inf
    LOOPS.softmax(joint)
    assert np.all(joint[1] == 0.0)
    np.testing.assert_allclose(joint.sum(axis=0), 1.0, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_features", [1, 2, 5, 16])
def test_features_are_those_of_array_calls(n_features, dtype):
    layout = Layout(n_features)
    for size in (layout.linear, layout.scalar, layout.diagonal, layout.full):
        plain = np.full((size, 300), 7.0, dtype)
        plain[layout.means] = np.random.default_rng(size).standard_normal((n_features, 300))
        loops = plain.copy()
        PLAIN.fill_features(plain, size, layout)
        LOOPS.fill_features(loops, size, layout)
        np.testing.assert_allclose(loops, plain, rtol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stored", ["float64", "float32", "float16", "int16", ">f8"])
def test_centred_rows_are_those_of_array_calls(stored, dtype):
    rng = np.random.default_rng(9)
    x = (100 * rng.standard_normal((300, 5))).astype(stored)
    x.flags.writeable = False
    origin = rng.standard_normal(5)
    for rows in (x, np.asfortranarray(x), x[::2]):
        plain, loops = np.empty((2, 5, len(rows)), dtype)
        PLAIN.centre(rows, origin, plain)
        LOOPS.centre(rows, origin, loops)
        np.testing.assert_array_equal(loops, plain)


@pytest.mark.parametrize("level", list(Level))
@pytest.mark.parametrize("name", family_names())
def test_statistics_and_values_of_rows(name, level):
    mixture = random_mixture(np.random.default_rng(5), name, 3, 4)
    x = rows_of(mixture, 3000, 5, level.dtype)
    kernels = plan_batch([mixture], [level], frames_around(mixture))
    weights = np.random.default_rng(6).integers(0, 3, 3000).astype(float)
    limit = 2e-5 if level is Level.FLOAT32 else 1e-12
    for rows in (Rows(x), Rows(x, weight=weights), Rows(np.asfortranarray(x))):
        plain, loops = (
            task.evaluate(rows, task.workspace()).members[0]
            for task in (BatchPass(kernels), BatchPass(kernels, device=COMPILED))
        )
        np.testing.assert_allclose(loops.moments, plain.moments, rtol=limit, atol=limit * 3000)
        assert loops.log_likelihood == pytest.approx(plain.log_likelihood, rel=limit)
    for output in ("log_density", "responsibilities", "labels"):
        plain, loops = (
            task.evaluate(Rows(x), task.workspace())
            for task in (
                RowPass(kernels[0], output, "float64"),
                RowPass(kernels[0], output, "float64", COMPILED),
            )
        )
        np.testing.assert_allclose(loops, plain, rtol=10 * limit, atol=10 * limit)


@pytest.mark.parametrize(
    "policy",
    [
        Expectation(),
        Classification(),
        Annealed(2.0),
        Stochastic((1, 2)),
        KnownLabels(Expectation()),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_policies(policy):
    joint = _joint(7, 4, 500, "float64", scale=3.0)
    labels = np.where(np.arange(500) % 5 == 0, 2, -1)
    rows = Rows(np.zeros((500, 1)), labels=labels)
    plain, loops = joint.copy(), joint.copy()
    expected, found = policy(plain, rows, PLAIN), policy(loops, rows, LOOPS)
    np.testing.assert_allclose(loops, plain, rtol=1e-13, atol=1e-300)
    np.testing.assert_allclose(found.log_density, expected.log_density, rtol=1e-13)
    np.testing.assert_allclose(found.log_assignment, expected.log_assignment, atol=1e-14)


@pytest.mark.parametrize("name", family_names())
def test_a_fit_has_the_same_bits_on_any_number_of_threads(name):
    x = rows_of(random_mixture(np.random.default_rng(8), name, 3, 4), 40_000, 8, "float64")
    fits = [
        dgmm.GaussianMixture(
            3, covariance_type=name, device=device, random_state=0, max_iter=5, tol=0.0,
            engine=dgmm.LocalEngine(n_threads=threads),
        ).fit(x)
        for device, threads in ((COMPILED, 1), (COMPILED, 3), ("cpu", 2))
    ]  # fmt: skip
    np.testing.assert_array_equal(fits[0].covariances_, fits[1].covariances_)
    assert fits[0].lower_bounds_ == fits[1].lower_bounds_
    assert fits[0].record_.device == COMPILED
    np.testing.assert_allclose(fits[0].lower_bounds_, fits[2].lower_bounds_, rtol=1e-10)


def test_auto_compiles_where_it_pays(monkeypatch):
    monkeypatch.setattr(arrays, "_gpu_count", lambda: 0)
    assert resolve_device("auto", 10**9) == COMPILED
    assert resolve_device("auto", 10**4) == "cpu"
    assert resolve_device("cpu", 10**9) == "cpu"
    assert isinstance(backend_of(COMPILED), CompiledBackend)


def test_without_numba_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert resolve_device("auto", 10**9) == "cpu"
    with pytest.raises(dgmm.MissingDependencyError, match=r"dgmm\[compiled\]"):
        compiled.require()


def test_of_several_threads_one_compiles():
    made, both = [], threading.Barrier(2)

    @compiled_once
    def make(name):
        made.append(name)
        # Would be passed at once if another thread came this far.
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.2)
        return object()

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(make, ["loop", "loop"])
    assert made == ["loop"]
    assert first is second


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_lie_where_no_number_begins(dtype):
    mixture = random_mixture(np.random.default_rng(5), "full", 3, 4)
    x = rows_of(mixture, 300, 5, dtype)
    crooked = np.frombuffer(b"." + x.tobytes(), dtype, offset=1).reshape(x.shape)
    assert not crooked.flags.aligned
    kernels = plan_batch([mixture], [Level.FLOAT64], frames_around(mixture))
    for policy in (Expectation(), Classification()):
        task = BatchPass(kernels, policy, device=COMPILED)
        found, right = (task.evaluate(Rows(one), task.workspace()) for one in (crooked, x))
        np.testing.assert_array_equal(found.members[0].moments, right.members[0].moments)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_logarithm_is_right_to_three_units(dtype):
    log = log_loop(dtype)

    @jit()
    def of_all(x, out):
        for j in range(x.size):
            out[j] = log(x[j])

    rng = np.random.default_rng(8)
    above = [10.0**-k * rng.standard_exponential(2000) for k in (-4, -1, 0, 1, 3, 6)]
    x = (1.0 + np.concatenate([[0.0], *above])).astype(dtype)
    found = np.empty_like(x)
    of_all(x, found)
    exact = np.log(x.astype("longdouble"))
    unit = np.spacing(np.maximum(exact, np.finfo(dtype).tiny).astype(dtype))
    assert found[0] == 0.0
    assert float(np.max(np.abs(found - exact) / unit)) < 3.0
    of_all(np.full(1, np.nan, dtype), found[:1])
    assert np.isnan(found[0])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tallies_are_sums_of_logarithms(dtype, weighted):
    rng = np.random.default_rng(9)
    top = (10 * rng.normal(size=333)).astype(dtype)
    total = (1 + 5 * rng.random(333)).astype(dtype)
    weights = rng.random(333) if weighted else np.empty(0)
    counts = weights if weighted else np.ones(333)
    density, sums = np.empty_like(top), np.array([1.0, 2.0, 3.0, -np.inf])
    logarithm = np.log(total.astype(float))
    tally_loop(dtype)(top, total.copy(), weights, density, sums)
    right = top + logarithm
    np.testing.assert_allclose(density, right, atol=1e-5 if dtype == "float32" else 1e-14)
    expected = [1 + counts @ right, 2 - counts @ logarithm, 3 + counts.sum(), density.max()]
    np.testing.assert_allclose(sums, expected, rtol=1e-5 if dtype == "float32" else 1e-13)
