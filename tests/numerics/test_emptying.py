"""Reseeding and dropping components, one step at a time, against the oracle's densities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from dgmm.chains import Chain, Emptied
from dgmm.covariance import family_names
from dgmm.emptying import Emptying, reseeded
from dgmm.fixed import Fixed
from dgmm.guard import Level
from dgmm.maximization import MaximizationOptions
from tests.numerics.problems import blobs, oracle, random_mixture

FREE = MaximizationOptions()
FAMILIES = st.sampled_from(family_names())


def problem(name, seed, n_components=4):
    rng = np.random.default_rng(seed)
    return random_mixture(rng, name, n_components, 3), blobs(seed % 7, n_rows=60)


@given(FAMILIES, st.integers(0, 2**16), st.integers(0, 3))
def test_a_reseeded_component_is_at_the_row_of_the_least_density(name, seed, k):
    mixture, rows = problem(name, seed)
    found = reseeded(mixture, k, rows, FREE)
    density, _ = oracle(mixture, rows)
    assert_array_equal(found.means[k], rows[int(np.argmin(density))])
    others = np.arange(4) != k
    assert_array_equal(found.means[others], mixture.means[others])
    assert found.weights[k] == pytest.approx(0.25)
    assert found.weights.sum() == pytest.approx(1.0)
    # The others keep their proportions.
    share = found.weights[others] / mixture.weights[others]
    assert_allclose(share, share[0], rtol=1e-12)
    assert not found.singular_components


@given(FAMILIES, st.integers(0, 2**16), st.sets(st.integers(0, 3), max_size=3))
def test_what_is_held_stays_to_the_bit(name, seed, held):
    mixture, rows = problem(name, seed)
    every = frozenset(range(4))
    fixed = Fixed(weights=frozenset(held), covariances=every)
    found = reseeded(mixture, 1, rows, MaximizationOptions(fixed=fixed))
    index = sorted(held)
    assert_array_equal(found.weights[index], mixture.weights[index])
    assert_array_equal(found.covariances, mixture.covariances)
    assert found.weights.sum() == pytest.approx(1.0)


@given(FAMILIES, st.integers(0, 2**16), st.sets(st.integers(0, 4), min_size=1, max_size=4))
def test_dropping_what_weighs_nothing_changes_no_density(name, seed, gone):
    mixture, rows = problem(name, seed, 5)
    weights = mixture.weights.copy()
    weights[sorted(gone)] = 0.0
    mixture = replace(mixture, weights=weights / weights.sum())
    chain = Chain(mixture, Level.FLOAT64, lower_bounds=(-3.0,))
    noted = Emptying("drop").noted(chain, gone, FREE)
    found = Emptying("drop").mended(noted, FREE)
    assert found.mixture.n_components == 5 - len(gone)
    assert_allclose(oracle(found.mixture, rows)[0], oracle(mixture, rows)[0], rtol=1e-12)
    assert found.dropped == gone
    assert set(found.kept) == set(range(5)) - gone
    assert not found.has_settled
    # Once more, of what is left: numbers stay those of the start.
    if found.mixture.n_components > 1:
        last = found.mixture.n_components - 1
        again = Emptying("drop").finished(Emptying("drop").noted(found, [last], FREE))
        assert again.emptied[-1] == Emptied(1, found.kept[last], "dropped")


@pytest.mark.parametrize("choice", ["keep", "reseed", "drop"])
def test_nothing_empty_is_nothing_done(choice):
    mixture, rows = problem("full", 0)
    chain = Chain(mixture, Level.FLOAT64, status="converged")
    emptying = Emptying(choice, rows)
    assert emptying.noted(chain, (), FREE) is chain
    assert emptying.mended(chain, FREE) is chain
    assert emptying.finished(chain) is chain


@pytest.mark.parametrize(
    ("choice", "status"),
    [("keep", "converged"), ("reseed", "running"), ("drop", "running"), ("raise", "retired")],
)
def test_what_is_to_change_has_not_converged(choice, status):
    mixture, rows = problem("diag", 0)
    chain = Chain(mixture, Level.FLOAT64, status="converged")
    assert Emptying(choice, rows).noted(chain, [2], FREE).status == status
