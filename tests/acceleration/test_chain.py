"""Accelerated chains: nothing is lost, less is evaluated, and the state is a plain value."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dgmm.acceleration import AccelerationState, Accelerator
from dgmm.acceleration.coordinates import Coordinates, Metric
from dgmm.acceleration.gap import gap_estimate
from dgmm.acceleration.lbfgs import direction
from dgmm.acceleration.point import point_of
from dgmm.acceleration.regime import COMPUTING, READING, REGIMES, schedule_of
from dgmm.covariance import family_names
from dgmm.em import Chain, iterate
from dgmm.fixed import Fixed
from dgmm.guard import Level
from dgmm.maximization import MaximizationOptions
from dgmm.mixture import Mixture
from tests.acceleration.cases import (
    KINDS,
    K,
    mixture_of,
    objective_of,
    options_of,
    rows,
    statistics_of,
)
from tests.numerics.problems import blobs, context_of
from tests.numerics.test_em import start_of, with_repeated_rows

FAMILIES = pytest.mark.parametrize("name", family_names())


def accelerated(x, chains, options, regime=COMPUTING, *, tol=1e-9, max_iter=300, groups=None):
    sizes = [len(chains)] if groups is None else groups
    accelerator = Accelerator(float(len(x)), regime, schedule_of(regime, sizes))
    context = context_of(x)
    events = list(
        iterate(context, chains, tol=tol, options=options, max_iter=max_iter,
                accelerator=accelerator)
    )  # fmt: skip
    return context.session.members, events


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("kind", KINDS)
@FAMILIES
def test_the_certified_bound_never_falls_and_is_kept(name, kind, regime):
    x = rows(5)
    options = options_of(kind, name, len(x))
    chains = [Chain(mixture_of(5, name, x), Level.FLOAT64)]
    accelerated(x, chains, options, regime, max_iter=12)
    (chain,) = chains
    assert np.all(np.diff(chain.lower_bounds) >= 0.0)
    assert objective_of(x, chain.mixture, options) >= chain.lower_bound - 1e-10
    if options.covariance_floor:
        least = chain.mixture.family.shape.least_eigenvalue(chain.mixture.covariances)
        assert np.min(least) >= options.covariance_floor * (1 - 1e-12)
    start = mixture_of(5, name, x)
    for one in options.fixed.means:
        assert_array_equal(chain.mixture.means[one], start.means[one])
    if options.fixed.covariances:
        held = ... if start.family.is_tied else sorted(options.fixed.covariances)
        assert_array_equal(chain.mixture.covariances[held], start.covariances[held])


@pytest.mark.parametrize(
    ("name", "regime"),
    [("full", COMPUTING), ("spherical", READING), ("tied_full", COMPUTING), ("diag", READING)],
)
def test_it_takes_fewer_evaluations_to_as_high_an_optimum(name, regime):
    x = blobs(1, n_rows=500, n_features=4, n_components=6, reach=1.0)
    options = MaximizationOptions()
    em, ours = ([Chain(start_of(name, x, 0, 6), Level.FLOAT64)] for _ in range(2))
    list(iterate(context_of(x), em, tol=1e-9, options=options, max_iter=250))
    members, _ = accelerated(x, ours, options, regime, tol=1e-6)
    assert ours[0].status == "converged"
    assert len(ours[0].lower_bounds) < 0.6 * len(em[0].lower_bounds)
    # Another optimum is possible, a much worse one is not what these problems have.
    assert ours[0].lower_bound > em[0].lower_bound - 0.02
    assert ours[0].record.evaluations == sum(members)
    assert 0.0 <= ours[0].record.gap < 1e-6


def test_without_an_accelerator_nothing_is_known_of_gaps():
    x = rows(6)
    chains = [Chain(mixture_of(6, "full", x), Level.FLOAT64)]
    list(iterate(context_of(x), chains, tol=0.0, options=MaximizationOptions(), max_iter=5))
    assert chains[0].record.gap is None
    assert chains[0].record.evaluations == 5


# ------------------------------------------------------------------------------------- the state


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def plain(value):
    """The same through JSON, arrays as exact lists."""

    def lists(one):
        if isinstance(one, np.ndarray):
            return {"shape": one.shape, "values": one.ravel().tolist(), "bool": one.dtype == bool}
        raise TypeError(type(one))

    def arrays(one):
        if one.keys() == {"shape", "values", "bool"}:
            return np.array(one["values"], dtype=bool if one["bool"] else float).reshape(
                one["shape"]
            )
        return one

    return json.loads(json.dumps(value, default=lists), object_hook=arrays)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("name", ["full", "tied_spherical"])
def test_a_chain_goes_on_from_a_plain_value_to_the_same_bits(name, regime):
    x, options = rows(7), MaximizationOptions()
    whole = [Chain(mixture_of(7, name, x), Level.FLOAT64)]
    accelerated(x, whole, options, regime, tol=0.0, max_iter=24)
    halves = [Chain(mixture_of(7, name, x), Level.FLOAT64)]
    accelerated(x, halves, options, regime, tol=0.0, max_iter=11)
    state = halves[0].acceleration.to_state()
    read = AccelerationState.from_state(plain(state))
    assert same(read.to_state(), state)
    halves[0] = replace(halves[0], acceleration=read, status="running")
    accelerated(x, halves, options, regime, tol=0.0, max_iter=13)
    assert halves[0].lower_bounds == whole[0].lower_bounds
    assert_array_equal(halves[0].mixture.covariances, whole[0].mixture.covariances)


# ------------------------------------------------------------------------------------- the parts


def test_the_direction_is_that_of_the_dense_update():
    rng = np.random.default_rng(8)
    size, pairs = 6, 4
    root = rng.standard_normal((size, size))
    curvature = root @ root.T + np.eye(size)
    steps = rng.standard_normal((pairs, size))
    slopes = steps @ curvature
    scale = rng.uniform(0.5, 2.0, size)
    inverse = np.diag(scale)
    for s, y in zip(steps, slopes, strict=True):
        left = np.eye(size) - np.outer(s, y) / (s @ y)
        inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ y)
    gradient = rng.standard_normal(size)
    found = direction(gradient, steps, slopes, lambda one: scale * one)
    assert_allclose(found, inverse @ gradient, rtol=1e-10)


def test_the_gap_is_known_where_em_has_one_rate():
    # Two known components: the weights alone move, along one line, so that EM has one rate.
    rng = np.random.default_rng(9)
    x = np.concatenate([rng.normal(0, 1, (300, 1)), rng.normal(1.0, 1, (700, 1))])
    options = MaximizationOptions(fixed=Fixed(means=frozenset({0, 1}),
                                              covariances=frozenset({0, 1})))  # fmt: skip
    mixture = Mixture([0.5, 0.5], [[0.0], [1.0]], np.ones((2, 1, 1)))
    points = []
    for _ in range(120):
        points.append(point_of(mixture, statistics_of(x, mixture), Level.FLOAT64, options))
        mixture = points[-1].image
    best = points[-1].objective
    for before, point in pairwise(points[5:21]):
        coordinates = point.coordinates
        metric = Metric.of(coordinates, point.mixture, point.shares)
        step = coordinates.pack(point.mixture) - coordinates.pack(before.mixture)
        image_step = coordinates.pack(point.image) - coordinates.pack(before.image)
        found = gap_estimate(point.gain, metric, step, image_step, np.nan)
        assert found == pytest.approx(best - point.objective, rel=0.1)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("name", ["full", "tied_diag"])
def test_the_reported_gap_is_of_the_order_of_the_true_one(name, regime):
    x = rows(10)
    options = MaximizationOptions()
    short, long = ([Chain(mixture_of(10, name, x), Level.FLOAT64)] for _ in range(2))
    accelerated(x, short, options, regime, tol=1e-4)
    accelerated(x, long, options, regime, tol=1e-10, max_iter=600)
    assert short[0].status == "converged"
    assert long[0].lower_bound - short[0].lower_bound < 3e-4
    assert 0.0 <= short[0].record.gap < 1e-4


# ----------------------------------------------------------------------------- the hard passages


def test_a_collapsing_chain_retires_as_under_em():
    x = with_repeated_rows()
    start = start_of("full", x)
    start = replace(start, means=np.concatenate([start.means[:2], x[-1:]]),
                    covariances=np.stack([np.eye(3)] * 3))  # fmt: skip
    good = replace(start, means=x[:3], covariances=np.stack([np.cov(x.T)] * 3))
    chains = [Chain(start, Level.FLOAT64), Chain(good, Level.FLOAT64)]
    accelerated(x, chains, MaximizationOptions(), max_iter=3)
    assert chains[0].status == "retired"
    assert "component 2" in chains[0].reason
    assert chains[1].status == "max_iter"


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("name", ["full", "spherical", "tied_full"])
def test_an_empty_component_stays_where_it_is(name, regime):
    x = blobs(11)
    start = start_of(name, x)
    means = start.means.copy()
    means[1] = 1e6
    chains = [Chain(replace(start, means=means), Level.FLOAT64)]
    accelerated(x, chains, MaximizationOptions(), regime, tol=1e-6)
    assert chains[0].empty == {1}
    assert_allclose(chains[0].mixture.means[1], means[1], rtol=0)
    assert chains[0].mixture.weights[1] == 0.0
    assert chains[0].status == "converged"


@FAMILIES
def test_everything_held_is_an_optimum(name):
    x = rows(12)
    everything = frozenset(range(K))
    options = MaximizationOptions(fixed=Fixed(everything, everything, everything))
    start = mixture_of(12, name, x)
    chains = [Chain(start, Level.FLOAT64)]
    accelerated(x, chains, options, tol=1e-6, max_iter=10)
    assert chains[0].status == "converged"
    assert_array_equal(chains[0].mixture.means, start.means)


@pytest.mark.parametrize("regime", REGIMES)
@FAMILIES
def test_float32_reaches_what_float64_does(name, regime):
    x = blobs(13, n_rows=800, n_features=4, n_components=4, reach=1.5, dtype="float32")
    narrow, wide = (
        [Chain(start_of(name, x, 0, 4), level)] for level in (Level.FLOAT32, Level.FLOAT64)
    )
    for chains in (narrow, wide):
        accelerated(x, chains, MaximizationOptions(), regime, tol=1e-4)
        assert chains[0].status == "converged"
    assert narrow[0].record.kernel == "float32"
    assert narrow[0].lower_bound == pytest.approx(wide[0].lower_bound, abs=2e-4)


def test_a_point_that_is_lower_is_refused_and_em_goes_on():
    x, options = rows(14), MaximizationOptions()
    chains = [Chain(mixture_of(14, "full", x), Level.FLOAT64)]
    accelerated(x, chains, options, tol=0.0, max_iter=6)
    state = chains[0].acceleration
    coordinates = Coordinates.of(state.base.image)
    far = coordinates.unpack(coordinates.pack(state.base.image) + 1.0, state.base.image)
    bad = replace(state, trials=(replace(state.trials[0], kind="lbfgs", mixture=far),))
    chains[0] = replace(chains[0], acceleration=bad, status="running")
    accelerated(x, chains, options, tol=0.0, max_iter=1)
    after = chains[0].acceleration
    assert after.base is state.base
    assert [one.kind for one in after.trials] == ["em"]
    assert after.banned > 0
    assert after.refused == state.refused + 1
    assert chains[0].lower_bound == state.best


def test_where_reading_binds_the_best_two_of_many_go_on():
    x = blobs(15, n_rows=300, n_components=6, n_features=3, reach=1.0)
    chains = [Chain(start_of("full", x, seed, 6), Level.FLOAT64) for seed in range(5)]
    members, events = accelerated(x, chains, MaximizationOptions(), READING, tol=1e-12, max_iter=54)
    assert members[:5] == [5] * 5
    out = [chain for chain in chains if chain.status == "halved"]
    assert len(out) == 3
    assert min(c.lower_bound for c in chains if c not in out) >= max(
        c.lower_bounds[49] for c in out
    )
    assert all("gave way after 50 passes" in chain.reason for chain in out)
    assert sum(event.kind == "retired" for event in events) == 3
    assert max(members[51:]) == 8


def test_em_that_falls_is_evaluated_again_by_a_safer_kernel():
    x = blobs(16, dtype="float32")
    chains = [Chain(start_of("full", x), Level.FLOAT32)]
    accelerated(x, chains, MaximizationOptions(), tol=0.0, max_iter=4)
    state = chains[0].acceleration
    em = replace(state.trials[0], kind="em", mixture=state.base.image)
    # A bound that float32 made too high.
    chains[0] = replace(
        chains[0], acceleration=replace(state, best=state.best + 1.0, trials=(em,)),
        status="running",
    )  # fmt: skip
    accelerated(x, chains, MaximizationOptions(), tol=0.0, max_iter=1)
    after = chains[0].acceleration
    assert (after.least_level, after.base) == (Level.FLOAT64, None)
    chains[0] = replace(chains[0], status="running")
    accelerated(x, chains, MaximizationOptions(), tol=1e-6, max_iter=200)
    assert chains[0].status == "converged"
    assert chains[0].record.kernel == "float64"
    assert np.all(np.isfinite(chains[0].lower_bounds))
