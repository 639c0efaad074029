"""Priors, held parameters and the floor: every M-step is a maximum, and the objective never falls.

The oracle is the expected complete log posterior, written with scipy's densities.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from dgmm.covariance import family_names, family_of
from dgmm.data.dataset import Rows
from dgmm.em import Chain, iterate
from dgmm.fixed import Fixed
from dgmm.guard import Level
from dgmm.maximization import MaximizationOptions, maximize
from dgmm.mixture import Mixture
from dgmm.priors import Priors
from dgmm.testing.families import evaluate
from tests.numerics.problems import blobs, context_of, dense, oracle, random_mixture, rows_of

FAMILIES = pytest.mark.parametrize("name", family_names())
KINDS = pytest.mark.parametrize("kind", ["niw", "covariance", "mean", "none"])
K, D = 4, 3


def priors_of(name, kind, rng, *, weights=True):
    """Priors strong enough to matter beside a few hundred rows, other for each component."""
    family = family_of(name)
    given = {"weight_concentration": rng.uniform(1.0, 40.0, K)} if weights else {}
    if kind in ("niw", "mean"):
        given["mean"] = 3.0 * rng.standard_normal((K, D))
        given["mean_precision"] = rng.uniform(5.0, 80.0, K)
    if kind in ("niw", "covariance"):
        scale = random_mixture(rng, name, K, D).covariances
        given["covariance"] = 60.0 * scale
        nu = rng.uniform(D + 1.0, 60.0, K)
        given["degrees_of_freedom"] = nu[0] if family.is_tied else nu
    return Priors(**given)


def log_covariance_prior(name, covariance, psi, nu):
    if covariance.ndim == 2:
        return stats.invwishart(nu, psi).logpdf(covariance)
    return float(np.sum(stats.invgamma(nu / 2, scale=psi / 2).logpdf(covariance)))


def log_prior(mixture, priors):
    """By scipy's densities; with a mean prior alone without its determinant (see dgmm.priors)."""
    total = 0.0
    if priors.weight_concentration is not None:
        total += float((priors.weight_concentration - 1) @ np.log(mixture.weights))
    if priors.covariance is not None:
        tied = mixture.family.is_tied
        stored = (mixture.covariances, priors.covariance, priors.degrees_of_freedom)
        covariances = [stored] if tied else list(zip(*stored, strict=True))
        total += sum(log_covariance_prior(mixture.covariance_type, *one) for one in covariances)
    if priors.mean is not None:
        for k, wide in enumerate(dense(mixture)):
            kappa = priors.mean_precision[k]
            normal = stats.multivariate_normal(priors.mean[k], wide / kappa, allow_singular=True)
            total += normal.logpdf(mixture.means[k])
            if priors.covariance is None:
                total += 0.5 * np.linalg.slogdet(2 * np.pi * wide / kappa)[1]
    return total


def expected_log_posterior(mixture, priors, x, responsibilities):
    total = log_prior(mixture, priors)
    parts = zip(mixture.weights, mixture.means, dense(mixture), responsibilities, strict=True)
    for weight, mean, wide, share in parts:
        density = stats.multivariate_normal(mean, wide).logpdf(x)
        total += float(share @ (np.log(weight) + density))
    return total


def perturbed(mixture, rng, size, fixed=None):
    """A mixture nearby, of the same family, with held parameters as they are."""
    fixed = Fixed() if fixed is None else fixed
    shape = mixture.family.shape
    means = mixture.means + size * rng.standard_normal(mixture.means.shape)
    factors = mixture.factors * np.exp(size * rng.standard_normal(mixture.factors.shape))
    if shape.divisor(D) == 1 and mixture.factors.shape[-2:] == (D, D):
        factors = factors + size * np.tril(rng.standard_normal(factors.shape))
        covariances = factors @ np.swapaxes(factors, -1, -2)
    else:
        covariances = factors**2
    weights = mixture.weights * np.exp(size * rng.standard_normal(K))
    held = {one: fixed.mask(one, K) for one in ("weights", "means", "covariances")}
    means[held["means"]] = mixture.means[held["means"]]
    if mixture.family.is_tied and fixed.covariances:
        covariances = mixture.covariances
    elif not mixture.family.is_tied:
        covariances[held["covariances"]] = mixture.covariances[held["covariances"]]
    free = ~held["weights"]
    weights[~free] = mixture.weights[~free]
    weights[free] *= (1.0 - weights[~free].sum()) / weights[free].sum()
    return Mixture(weights, means, covariances, mixture.covariance_type)


def assert_a_maximum(best, previous, x, priors, fixed=None):
    _, responsibilities = oracle(previous, x)
    responsibilities = responsibilities.astype(float)
    rng = np.random.default_rng(9)
    top = expected_log_posterior(best, priors, x, responsibilities)
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(3):
            other = perturbed(best, rng, size, fixed)
            assert expected_log_posterior(other, priors, x, responsibilities) < top
    # A maximum is flat: to first order nothing changes along any of these directions.
    rng_up, rng_down = np.random.default_rng(5), np.random.default_rng(5)
    up = perturbed(best, rng_up, 1e-5, fixed)
    down = perturbed(best, rng_down, -1e-5, fixed)
    values = [expected_log_posterior(one, priors, x, responsibilities) for one in (up, down)]
    assert abs(values[0] - values[1]) / 2e-5 < 1e-2


def problem(name, seed=0, n_rows=300):
    rng = np.random.default_rng(seed)
    truth = random_mixture(rng, name, K, D, reach=2.0)
    x = rows_of(truth, n_rows, seed)
    mixture = random_mixture(rng, name, K, D, reach=2.0)
    return rng, mixture, x


@KINDS
@FAMILIES
def test_the_m_step_is_the_mode(name, kind):
    rng, mixture, x = problem(name)
    priors = priors_of(name, kind, rng)
    (found,) = evaluate([mixture], Rows(x), [Level.FLOAT64], quadratic=False)
    options = MaximizationOptions(priors=priors)
    best = maximize(found, mixture.family, options, previous=mixture).mixture
    assert_a_maximum(best, mixture, x, priors)
    (centred,) = evaluate([mixture], Rows(x), [Level.CENTRED], quadratic=False)
    same = maximize(centred, mixture.family, options, previous=mixture).mixture
    for one in ("weights", "means", "covariances"):
        assert_allclose(getattr(same, one), getattr(best, one), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "fixed",
    [
        Fixed(means=frozenset({0, 2})),
        Fixed(means=frozenset(range(K)), weights=frozenset({1})),
        Fixed(covariances=frozenset(range(K))),
        Fixed(weights=frozenset({0}), covariances=frozenset({1})),
    ],
    ids=["means", "all means", "covariances", "one covariance"],
)
@pytest.mark.parametrize("kind", ["none", "niw"])
@FAMILIES
def test_the_m_step_is_the_mode_of_what_is_free(name, kind, fixed):
    rng, mixture, x = problem(name, 1)
    if mixture.family.is_tied and len(fixed.covariances) == 1:
        fixed = replace(fixed, covariances=frozenset())
    priors = priors_of(name, kind, rng, weights=kind == "niw")
    (found,) = evaluate([mixture], Rows(x), [Level.FLOAT64], quadratic=False)
    options = MaximizationOptions(reg_covar=0.0, priors=priors, fixed=fixed)
    best = maximize(found, mixture.family, options, previous=mixture).mixture
    assert_a_maximum(best, mixture, x, priors, fixed)
    for one in ("weights", "means"):
        held = fixed.mask(one, K)
        assert_array_equal(getattr(best, one)[held], getattr(mixture, one)[held])
    if fixed.covariances:
        kept = ... if mixture.family.is_tied else fixed.mask("covariances", K)
        assert_array_equal(best.covariances[kept], mixture.covariances[kept])


@FAMILIES
def test_a_floor_gives_the_best_covariances_above_it(name):
    rng, mixture, x = problem(name, 2)
    (found,) = evaluate([mixture], Rows(x), [Level.FLOAT64], quadratic=False)
    plain = maximize(found, mixture.family).mixture
    floor = float(np.median(np.linalg.eigvalsh(dense(plain))))
    options = MaximizationOptions(covariance_floor=floor)
    best = maximize(found, mixture.family, options, previous=mixture).mixture
    assert np.linalg.eigvalsh(dense(best)).min() >= floor * (1 - 1e-12)
    _, responsibilities = oracle(mixture, x)
    responsibilities = responsibilities.astype(float)
    top = expected_log_posterior(best, Priors(), x, responsibilities)
    below = 0
    for size in (1e-3, 1e-2, 1e-1) * 10:
        other = perturbed(best, rng, size)
        other = replace(other, covariances=options.regularise(other.covariances, other.family))
        below += expected_log_posterior(other, Priors(), x, responsibilities) < top
    assert below == 30


@KINDS
@FAMILIES
@pytest.mark.parametrize("restriction", ["", "fixed", "floor"])
def test_the_objective_is_the_log_posterior_and_never_falls(name, kind, restriction):
    x = blobs(3, n_rows=400)
    rng, start, _ = problem(name, 3, n_rows=4)
    priors = priors_of(name, kind, rng)
    fixed = Fixed(means=frozenset({1}), weights=frozenset({0})) if restriction == "fixed" else None
    options = MaximizationOptions(
        covariance_floor=0.3 if restriction == "floor" else 0.0,
        priors=priors,
        fixed=fixed or Fixed(),
    )
    start = replace(start, covariances=options.regularise(start.covariances, start.family))
    chains = [Chain(start, Level.FLOAT64)]
    list(iterate(context_of(x), chains, tol=0.0, options=options, max_iter=12))
    bounds = np.array(chains[0].lower_bounds)
    assert np.all(np.diff(bounds) >= -1e-12)
    # The constants of the densities are left out, so that only differences can be compared.
    density, _ = oracle(start, x)
    first = bounds[0] - (float(density.sum()) + log_prior(start, priors)) / len(x)
    list(iterate(context_of(x), chains, tol=0.0, options=options, max_iter=0))
    again = [Chain(chains[0].mixture, Level.FLOAT64)]
    list(iterate(context_of(x), again, tol=0.0, options=options, max_iter=1))
    density, _ = oracle(chains[0].mixture, x)
    plain = float(density.sum()) / len(x)
    last = again[0].lower_bound - plain - log_prior(chains[0].mixture, priors) / len(x)
    assert last == pytest.approx(first, abs=1e-9)
    assert again[0].log_likelihood == pytest.approx(plain, abs=1e-9)


@FAMILIES
def test_an_empty_component_goes_to_the_mode_of_its_prior(name):
    rng, mixture, x = problem(name, 4)
    weights = np.r_[0.0, mixture.weights[1:]] / mixture.weights[1:].sum()
    mixture = replace(mixture, weights=weights)
    priors = priors_of(name, "niw", rng)
    (found,) = evaluate([mixture], Rows(x), [Level.FLOAT64], quadratic=False)
    step = maximize(found, mixture.family, MaximizationOptions(priors=priors), previous=mixture)
    assert step.empty == (0,)
    assert_array_equal(step.mixture.means[0], priors.mean[0])
    excess = priors.weight_concentration - 1.0
    assert step.mixture.weights[0] == pytest.approx(excess[0] / (len(x) + excess.sum()))
    if not mixture.family.is_tied:
        nu = priors.degrees_of_freedom[0]
        q = {"full": nu + D + 2, "diag": nu + 3, "spherical": nu + D + 2}[name]
        assert_allclose(step.mixture.covariances[0], priors.covariance[0] / q, rtol=1e-12)


@FAMILIES
def test_an_empty_component_keeps_the_covariance_that_no_prior_determines(name):
    rng, mixture, x = problem(name, 5)
    weights = np.r_[0.0, mixture.weights[1:]] / mixture.weights[1:].sum()
    mixture = replace(mixture, weights=weights)
    priors = priors_of(name, "mean", rng, weights=False)
    (found,) = evaluate([mixture], Rows(x), [Level.FLOAT64], quadratic=False)
    step = maximize(found, mixture.family, MaximizationOptions(0.5, 0.0, priors), previous=mixture)
    assert_array_equal(step.mixture.means[0], priors.mean[0])
    assert step.mixture.weights[0] == 0.0
    if not mixture.family.is_tied:
        assert_array_equal(step.mixture.covariances[0], mixture.covariances[0])


@FAMILIES
def test_a_component_whose_mean_prior_counts_for_nothing_has_none(name):
    rng, mixture, x = problem(name, 6)
    priors = priors_of(name, "niw", rng)
    some = replace(priors, mean_precision=np.r_[0.0, priors.mean_precision[1:]])
    elsewhere = replace(some, mean=np.r_[1e3 + np.zeros((1, D)), some.mean[1:]])
    (found,) = evaluate([mixture], Rows(x), [Level.FLOAT64], quadratic=False)
    one, other = (
        maximize(found, mixture.family, MaximizationOptions(priors=each)).mixture
        for each in (some, elsewhere)
    )
    assert_array_equal(one.means, other.means)
    assert_array_equal(one.covariances, other.covariances)
    if not mixture.family.is_tied:
        alone = replace(priors, mean=None, mean_precision=None)
        without = maximize(found, mixture.family, MaximizationOptions(priors=alone)).mixture
        assert_allclose(one.covariances[0], without.covariances[0], rtol=1e-13)


@FAMILIES
def test_held_parameters_lose_nothing_to_a_far_offset(name):
    _, mixture, x = problem(name, 7)
    fixed = Fixed(means=frozenset(range(K)))
    options = MaximizationOptions(fixed=fixed)
    found = []
    for offset in (0.0, 1e5):
        moved = replace(mixture, means=mixture.means + offset)
        (one,) = evaluate([moved], Rows(x + offset), [Level.FLOAT64], quadratic=False)
        found.append(maximize(one, mixture.family, options, previous=moved).mixture)
    assert_allclose(found[1].covariances, found[0].covariances, rtol=1e-6, atol=1e-8)


def test_held_parameters_need_a_mixture_to_come_from():
    _, mixture, x = problem("full", 8)
    (found,) = evaluate([mixture], Rows(x), [Level.FLOAT64])
    options = MaximizationOptions(fixed=Fixed(means=frozenset({0})))
    with pytest.raises(ValueError, match="previous"):
        maximize(found, mixture.family, options)


@pytest.mark.parametrize(
    ("fixed", "free"),
    [
        (Fixed(), (2, 9, 18)),
        (Fixed(weights=frozenset({0})), (1, 9, 18)),
        (Fixed(weights=frozenset({0, 1})), (0, 9, 18)),
        (Fixed(weights=frozenset({0, 1, 2})), (0, 9, 18)),
        (Fixed(means=frozenset({1})), (2, 6, 18)),
        (Fixed(covariances=frozenset({0, 1})), (2, 9, 6)),
        (Fixed(frozenset({0, 1, 2}), frozenset({0, 1, 2}), frozenset({0, 1, 2})), (0, 0, 0)),
    ],
)
def test_what_is_held_is_not_counted(fixed, free):
    total = 2 + 9 + 18
    assert total - fixed.n_parameters(family_of("full"), 3, 3) == sum(free)


def test_a_held_tied_covariance_is_counted_once():
    fixed = Fixed(covariances=frozenset({0, 1, 2}))
    assert fixed.n_parameters(family_of("tied_full"), 3, 3) == 6


@FAMILIES
def test_hyperparameters_of_tgmm_translate_as_documented(name):
    # Its update: scatter and shrinkage of the mean over ν + n, D times that for traces.
    rng, mixture, x = problem(name, 9)
    family, nu = mixture.family, 40.0
    kappa, psi = np.full(K, 6.0), priors_of(name, "niw", rng).covariance
    mean = np.broadcast_to(rng.standard_normal(D), (K, D))
    responsibilities = oracle(mixture, x)[1].astype(float)
    counts = responsibilities.sum(axis=1)
    means = responsibilities @ x / counts[:, None]
    wide = np.array([
        (share[:, None] * (x - one)).T @ (x - one)
        for share, one in zip(responsibilities, means, strict=True)
    ])  # fmt: skip
    wide += (kappa * counts / (kappa + counts))[:, None, None] * [
        np.outer(gap, gap) for gap in means - mean
    ]
    stored, p = family.shape.project(wide), family.shape.divisor(D)
    stored, counts = (stored.sum(0), counts.sum()) if family.is_tied else (stored, counts)
    divisor = p * (nu + counts)
    theirs = (psi + stored) / np.reshape(divisor, np.shape(divisor) + (1,) * (
        np.ndim(stored) - np.ndim(divisor)
    ))  # fmt: skip
    ours = {
        "full": nu - D - 2,
        "diag": nu - 3,
        "spherical": D * nu - D - 2,
        "tied_full": nu - K - D - 1,
        "tied_diag": nu - K - 2,
        "tied_spherical": D * nu - D * K - 2,
    }[name]
    degrees = np.array(ours) if family.is_tied else np.full(K, ours)
    priors = Priors(None, mean, kappa, psi, degrees)
    (found,) = evaluate([mixture], Rows(x), [Level.FLOAT64], quadratic=False)
    best = maximize(found, family, MaximizationOptions(priors=priors)).mixture
    assert_allclose(best.covariances, theirs, rtol=1e-9, atol=1e-12)
