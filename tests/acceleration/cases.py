"""Problems for accelerators: a family, rows, and options of every kind."""

from __future__ import annotations

import numpy as np

from dgmm.acceleration.objective import ExpectedPosterior
from dgmm.acceleration.options import monotone_options
from dgmm.covariance import family_of
from dgmm.em import evaluate
from dgmm.fixed import Fixed
from dgmm.guard import Level
from dgmm.maximization import MaximizationOptions
from dgmm.priors import Priors
from tests.numerics.problems import blobs, context_of, random_mixture

K, D = 4, 3
KINDS = ("plain", "priors", "fixed", "floor", "reg_covar")


def rows(seed=0, n_rows=400):
    return blobs(seed, n_rows=n_rows, n_features=D, n_components=K, reach=1.5)


def options_of(kind, name, n_rows):
    """Options of a kind for K components of D features."""
    family = family_of(name)
    options = MaximizationOptions()
    if kind == "priors":
        shape = family.covariances_shape(K, D)
        unit = family.shape.project(np.eye(D))
        priors = Priors(
            weight_concentration=np.array([1.0, 2.0, 3.0, 1.5]),
            mean=np.full((K, D), 0.5),
            mean_precision=np.array([0.0, 5.0, 20.0, 1.0]),
            covariance=np.broadcast_to(3.0 * unit, shape).copy(),
            degrees_of_freedom=np.full(() if family.is_tied else (K,), D + 3.0),
        )
        options = MaximizationOptions(priors=priors)
    elif kind == "fixed":
        held = frozenset(range(K)) if family.is_tied else frozenset({1})
        fixed = Fixed(frozenset({0}), frozenset({2, 3}), held)
        options = MaximizationOptions(fixed=fixed)
    elif kind == "floor":
        options = MaximizationOptions(covariance_floor=0.6)
    elif kind == "reg_covar":
        options = MaximizationOptions(reg_covar=0.3)
    return monotone_options(options, family, K, D, float(n_rows))


def mixture_of(seed, name, x):
    """A random mixture of the rows' scale."""
    return random_mixture(np.random.default_rng(seed), name, K, D, reach=1.0)


def statistics_of(x, mixture, level=Level.FLOAT64):
    (found,), _ = evaluate(_context(x), [mixture], [level])
    return found


_CONTEXTS = {}


def _context(x):
    """One profile for all passes over an array."""
    key = x.tobytes()
    if key not in _CONTEXTS:
        _CONTEXTS[key] = context_of(x, n_parts=1)
    return _CONTEXTS[key]


def expected_of(x, mixture, options):
    return ExpectedPosterior(statistics_of(x, mixture), mixture, options)


def objective_of(x, mixture, options):
    """ℓ per row, with the log prior."""
    found = statistics_of(x, mixture)
    return (found.log_likelihood + options.priors.log_density(mixture)) / found.weight
