"""The EM loop: its objective, its agreement with scikit-learn, and how restarts leave it."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.mixture import GaussianMixture as Reference

from dgmm.covariance import family_names, family_of
from dgmm.em import ILL_DEFINED, Chain, best_chain, iterate
from dgmm.errors import SingularMixtureError
from dgmm.guard import Level
from dgmm.maximization import MaximizationOptions
from dgmm.mixture import Mixture
from dgmm.testing.families import row_values
from tests.numerics.problems import blobs, context_of, random_mixture

SKLEARN = {"full": "full", "diag": "diag", "spherical": "spherical", "tied_full": "tied"}


def start_of(name, x, seed=0, n_components=3):
    """A start with the data's own scale and random rows as means."""
    rng = np.random.default_rng(seed)
    family = family_of(name)
    k, d = n_components, x.shape[1]
    covariances = np.stack([np.cov(x.T).reshape(d, d)] * k)
    stored = family.shape.project(covariances) / family.shape.divisor(d)
    means = x[rng.choice(len(x), k, replace=False)]
    return Mixture(np.full(k, 1 / k), means, stored[0] if family.is_tied else stored, name)


def run(context, chains, *, tol=0.0, reg_covar=0.0, max_iter=30):
    options = MaximizationOptions(reg_covar=reg_covar)
    return list(iterate(context, chains, tol=tol, options=options, max_iter=max_iter))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", family_names())
def test_the_lower_bound_never_falls(name, dtype):
    x = blobs(1, dtype=dtype)
    level = Level.FLOAT32 if dtype == "float32" else Level.FLOAT64
    chains = [Chain(start_of(name, x, seed), level) for seed in range(3)]
    run(context_of(x), chains)
    for chain in chains:
        assert np.all(np.diff(chain.lower_bounds) >= -{"float32": 1e-5, "float64": 1e-12}[dtype])
        assert chain.lower_bounds[-1] > chain.lower_bounds[0]


@pytest.mark.parametrize("name", family_names())
def test_float32_follows_float64(name):
    x = blobs(2, dtype="float32")
    context = context_of(x)
    narrow, wide = (
        [Chain(start_of(name, x), Level.FLOAT32)],
        [Chain(start_of(name, x), Level.FLOAT64)],
    )
    run(context, narrow, max_iter=10)
    run(context, wide, max_iter=10)
    assert narrow[0].level is Level.FLOAT32
    assert_allclose(narrow[0].lower_bounds, wide[0].lower_bounds, atol=1e-5)


@pytest.mark.parametrize("reg_covar", [0.0, 1e-6, 1e-2])
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("name", SKLEARN)
def test_the_trace_is_scikit_learns(name, offset, reg_covar):
    x = blobs(3, n_rows=800, n_features=4) + offset
    start = start_of(name, x, 5)
    shape = start.family.shape
    theirs = Reference(
        3,
        covariance_type=SKLEARN[name],
        tol=0.0,
        reg_covar=reg_covar,
        max_iter=25,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=shape.precision(shape.invert(start.factors)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(x)
    chains = [Chain(start, Level.FLOAT64)]
    run(context_of(x), chains, reg_covar=reg_covar, max_iter=25)
    n = theirs.n_iter_
    assert_allclose(
        chains[0].lower_bounds[: len(theirs.lower_bounds_)], theirs.lower_bounds_, rtol=1e-9
    )
    if n == 25:
        assert_allclose(chains[0].mixture.means, theirs.means_, rtol=1e-6)
        assert_allclose(chains[0].mixture.covariances, theirs.covariances_, rtol=1e-5, atol=1e-8)


def test_the_number_of_iterations_is_scikit_learns():
    x = blobs(3, n_rows=800, n_features=4)
    start = start_of("full", x, 5)
    theirs = Reference(
        3,
        tol=1e-3,
        reg_covar=0.0,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=np.linalg.inv(start.covariances),
    ).fit(x)
    chains = [Chain(start, Level.FLOAT64)]
    run(context_of(x), chains, tol=1e-3, max_iter=100)
    assert chains[0].status == "converged"
    assert len(chains[0].lower_bounds) == theirs.n_iter_
    assert chains[0].lower_bound == pytest.approx(theirs.lower_bound_, rel=1e-9)


def test_converged_chains_leave_the_batch():
    x = blobs(4)
    chains = [Chain(start_of("full", x, seed), Level.FLOAT64) for seed in range(6)]
    context = context_of(x)
    run(context, chains, tol=1e-4, max_iter=200)
    iterations = [len(chain.lower_bounds) for chain in chains]
    assert {chain.status for chain in chains} == {"converged"}
    assert len(set(iterations)) > 1
    expected = [sum(n > done for n in iterations) for done in range(max(iterations))]
    assert context.session.members == expected


def test_a_chain_of_a_batch_goes_where_it_goes_alone():
    x = blobs(5)
    starts = [start_of(name, x, seed) for seed, name in enumerate(family_names())]
    together = [Chain(start, Level.FLOAT64) for start in starts]
    run(context_of(x), together, max_iter=15)
    for start, chain in zip(starts, together, strict=True):
        alone = [Chain(start, Level.FLOAT64)]
        run(context_of(x, n_parts=1), alone, max_iter=15)
        assert_allclose(chain.lower_bounds, alone[0].lower_bounds, rtol=1e-11)
        assert_allclose(chain.mixture.means, alone[0].mixture.means, rtol=1e-8, atol=1e-8)


def with_repeated_rows(seed=6):
    """Rows among which one stands 40 times, far away: a component on it has no covariance."""
    return np.concatenate([blobs(seed), np.full((40, 3), 500.0)])


def collapsing_start(x):
    start = start_of("full", x)
    means = np.concatenate([start.means[:2], x[-1:]])
    covariances = np.stack([np.eye(3)] * 3)
    return replace(start, means=means, covariances=covariances)


def test_a_singular_restart_retires_while_the_others_go_on():
    x = with_repeated_rows()
    good = replace(start_of("full", x), covariances=np.stack([np.cov(x.T)] * 3))
    chains = [
        Chain(collapsing_start(x), Level.FLOAT64),
        Chain(replace(good, means=x[:3]), Level.FLOAT64),
    ]
    context = context_of(x)
    events = run(context, chains, max_iter=3)
    assert [chain.status for chain in chains] == ["retired", "max_iter"]
    assert "component 2" in chains[0].reason
    assert "not positive definite" in chains[0].reason
    (retired,) = (event for event in events if event.kind == "retired")
    assert "restart 0" in retired.message
    assert context.session.members == [2, 1, 1]
    assert best_chain(chains) is chains[1]


def test_a_start_that_is_singular_is_never_evaluated():
    x = blobs(7)
    start = replace(start_of("full", x), covariances=np.zeros((3, 3, 3)))
    chains, context = [Chain(start, Level.FLOAT64)], context_of(x)
    events = run(context, chains)
    assert [event.kind for event in events] == ["retired"]
    assert context.session.members == []


def test_when_all_restarts_retire_the_error_holds_scikit_learns_sentence():
    x = with_repeated_rows()
    chains = [Chain(collapsing_start(x), Level.FLOAT64) for _ in range(2)]
    run(context_of(x), chains)
    with pytest.raises(SingularMixtureError) as caught:
        best_chain(chains)
    assert ILL_DEFINED in str(caught.value)
    assert "restart 1: component 2" in str(caught.value)
    with pytest.raises(ValueError, match="ill-defined empirical covariance") as theirs:
        Reference(3, reg_covar=0.0, means_init=collapsing_start(x).means,
                  precisions_init=np.stack([np.eye(3)] * 3)).fit(x)  # fmt: skip
    assert str(theirs.value) in str(caught.value)


def test_reg_covar_keeps_such_a_restart():
    x = with_repeated_rows()
    chains = [Chain(collapsing_start(x), Level.FLOAT64)]
    run(context_of(x), chains, reg_covar=1e-6, max_iter=5)
    assert chains[0].status == "max_iter"
    assert_allclose(chains[0].mixture.covariances[2], 1e-6 * np.eye(3), rtol=1e-6, atol=1e-12)


def test_without_iterations_the_start_is_the_result():
    x = blobs(8)
    start, context = start_of("diag", x), context_of(x)
    chains = [Chain(start, Level.FLOAT64)]
    assert run(context, chains, max_iter=0) == []
    assert chains[0].mixture is start
    assert (chains[0].status, chains[0].lower_bounds) == ("max_iter", ())
    assert best_chain(chains) is chains[0]
    assert context.session.members == []


def test_a_warm_start_compares_with_the_bound_it_came_with():
    x = blobs(9)
    context = context_of(x)
    chains = [Chain(start_of("full", x), Level.FLOAT64)]
    run(context, chains, tol=1e-6, max_iter=500)
    warm = [Chain(chains[0].mixture, Level.FLOAT64, lower_bound=chains[0].lower_bound)]
    run(context, warm, tol=1e-3, max_iter=500)
    assert (warm[0].status, len(warm[0].lower_bounds)) == ("converged", 1)


def test_events_tell_the_best_bound_and_its_gain():
    x = blobs(10)
    chains = [Chain(start_of("full", x, seed), Level.FLOAT64) for seed in range(4)]
    events = run(context_of(x), chains, tol=1e-3, max_iter=50)
    bounds = [event.lower_bound for event in events]
    assert [event.iteration for event in events] == list(range(1, len(events) + 1))
    assert events[0].change == np.inf
    assert_allclose([event.change for event in events[1:]], np.diff(bounds), atol=1e-12)
    assert events[-1].active == 0


def test_an_empty_component_is_reported_and_stays():
    x = blobs(11)
    start = start_of("full", x)
    means = start.means.copy()
    means[1] = 1e6
    start = replace(start, means=means)
    chains = [Chain(start, Level.FLOAT64)]
    run(context_of(x), chains, max_iter=4)
    assert chains[0].empty == {1}
    assert_allclose(chains[0].mixture.means[1], means[1], rtol=0)
    assert chains[0].mixture.weights[1] == 0
    assert np.all(np.isfinite(chains[0].lower_bounds))


@pytest.mark.parametrize("n_parts", [1, 2, 7])
def test_how_rows_are_cut_changes_rounding_alone(n_parts):
    x = blobs(12)
    whole, parts = ([Chain(start_of("full", x), Level.FLOAT64)] for _ in range(2))
    run(context_of(x, n_parts=1), whole, max_iter=10)
    run(context_of(x, n_parts=n_parts), parts, max_iter=10)
    assert_allclose(parts[0].lower_bounds, whole[0].lower_bounds, rtol=1e-12)


def test_equivariant_under_affine_maps():
    # Full covariances: any invertible map. The other families scale, which their suite covers.
    rng = np.random.default_rng(13)
    x, mixing, shift = blobs(13), rng.standard_normal((3, 3)), np.array([1e3, -1e3, 5.0])
    start = start_of("full", x)
    mapped = replace(
        start,
        means=start.means @ mixing.T + shift,
        covariances=mixing @ start.covariances @ mixing.T,
    )
    ours, theirs = [Chain(start, Level.FLOAT64)], [Chain(mapped, Level.FLOAT64)]
    run(context_of(x), ours, max_iter=10)
    run(context_of(x @ mixing.T + shift), theirs, max_iter=10)
    log_det = np.linalg.slogdet(mixing)[1]
    assert_allclose(np.array(theirs[0].lower_bounds) + log_det, ours[0].lower_bounds, rtol=1e-8)
    back = ours[0].mixture.means @ mixing.T + shift
    assert_allclose(theirs[0].mixture.means, back, rtol=1e-6)


def test_scikit_learn_scores_our_mixture_as_we_do():
    x = blobs(14, n_features=5)
    for name, theirs in SKLEARN.items():
        mixture = random_mixture(np.random.default_rng(14), name, 3, 5)
        reference = Reference(3, covariance_type=theirs)
        reference.weights_, reference.means_ = mixture.weights, mixture.means
        reference.covariances_ = mixture.covariances
        family = mixture.family
        reference.precisions_cholesky_ = family.precisions_cholesky(mixture.factors)
        ours = row_values(mixture, x, Level.FLOAT64, "log_density")
        assert_allclose(ours, reference.score_samples(x), rtol=1e-10)
        assert mixture.n_parameters == reference._n_parameters()
