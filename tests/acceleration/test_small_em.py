"""Starts by short runs on the sample."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import dgmm
from dgmm import small_em
from dgmm.covariance import family_names, family_of
from dgmm.guard import Level
from dgmm.maximization import MaximizationOptions
from dgmm.priors import Priors
from dgmm.row_sample import Sample
from tests.numerics.problems import blobs, profile_of

SEED = np.random.SeedSequence(5, spawn_key=(1, 0))


@pytest.fixture(scope="module")
def x():
    return blobs(31, n_rows=1200, n_features=3, n_components=6, reach=1.5)


def start_on(x, name, options=None, seed=SEED, size=500, **profile):
    return small_em.small_em_start(
        profile_of(x, size, **profile), family_of(name), 6, level=Level.FLOAT64,
        options=options or MaximizationOptions(), seed=seed,
    )  # fmt: skip


@pytest.mark.parametrize("name", family_names())
def test_it_begins_higher_than_k_means_does(x, name):
    start = start_on(x, name)
    kmeans = dgmm.GaussianMixture(6, covariance_type=name, max_iter=1, random_state=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kmeans.fit(x)
    assert np.mean(start.log_prob(x)) > kmeans.lower_bound_


def test_a_posterior_without_an_upper_bound_is_climbed_by_em_alone(x, monkeypatch):
    def refused(*_):
        raise AssertionError("accelerated")

    monkeypatch.setattr(small_em, "Accelerator", refused)
    priors = [Priors(weight_concentration=np.full(6, alpha)) for alpha in (0.5, 2.0)]
    start = start_on(x, "full", MaximizationOptions(priors=priors[0]))
    assert not start.singular_components
    with pytest.raises(AssertionError, match="accelerated"):
        start_on(x, "full", MaximizationOptions(priors=priors[1]))


def test_another_seed_tries_other_starts_and_the_same_one_the_same(x):
    one, again = start_on(x, "full"), start_on(x, "full")
    assert_array_equal(one.covariances, again.covariances)
    other = start_on(x, "full", seed=np.random.SeedSequence(5, spawn_key=(1, 1)))
    assert not np.array_equal(one.means, other.means)


def test_the_sample_counts_for_all_rows(x):
    # A prior worth as many rows as there are: on 250 rows that count for themselves it would
    # leave next to nothing of the data.
    sample = small_em._fewer(profile_of(x, 250).sample, family_of("full"), 6)
    rows = small_em._rows(sample, float(len(x)))
    assert rows.n_rows == 250
    assert rows.weight.sum() == pytest.approx(len(x))
    whole = small_em._rows(profile_of(x, len(x)).sample, float(len(x)))
    assert whole.weight is None


def test_fewer_rows_are_those_of_a_smaller_sample(x, monkeypatch):
    monkeypatch.setattr(small_em, "_LEAST_ROWS", 200)
    monkeypatch.setattr(small_em, "_ROWS_PER_PARAMETER", 1)
    fewer = small_em._fewer(profile_of(x, 1000).sample, family_of("diag"), 6)
    assert isinstance(fewer, Sample)
    assert_array_equal(fewer.rows, profile_of(x, 200).sample.rows)
    assert_array_equal(fewer.x, x[fewer.rows])


def test_where_every_run_collapses_k_means_start_is_left(x, monkeypatch):
    monkeypatch.setattr(small_em, "_MOST", 0)
    flat = np.repeat(x[:1], 50, axis=0)
    found = start_on(np.concatenate([flat, x[:20]]), "full")
    assert found.n_components == 6


def test_it_saves_passes_and_threads_change_nothing(x):
    options = {"tol": 1e-5, "max_iter": 500, "random_state": 0, "engine": dgmm.LocalEngine(1)}
    small = dgmm.GaussianMixture(6, init_params="small_em", **options).fit(x)
    plain = dgmm.GaussianMixture(6, **options).fit(x)
    assert small.record_.passes < plain.record_.passes
    assert small.lower_bound_ > plain.lower_bound_ - 1e-3
    again = dgmm.GaussianMixture(
        6, init_params="small_em", **options | {"engine": dgmm.LocalEngine(3)}
    ).fit(x)
    assert_array_equal(again.covariances_, small.covariances_)


def test_weights_labels_and_held_parameters_go_with_it(x):
    weight = np.random.default_rng(0).uniform(0.0, 2.0, len(x))
    labels = np.full(len(x), -1)
    labels[:60] = np.arange(60) % 6
    options = {"init_params": "small_em", "tol": 1e-2, "random_state": 0}
    dgmm.GaussianMixture(6, **options).fit(x, sample_weight=weight)
    dgmm.GaussianMixture(6, **options).fit(x, labels=labels)
    held = np.arange(18.0).reshape(6, 3)
    model = dgmm.GaussianMixture(6, fixed={"means"}, means_init=held, max_iter=300, **options)
    assert_array_equal(model.fit(x).means_, held)


def test_candidates_of_a_selection_take_it(x):
    found = dgmm.select_model(
        x, [2, 6], covariance_types=("full", "tied_diag"), init_params="small_em",
        acceleration="auto", tol=1e-3, max_iter=200, random_state=0,
    )  # fmt: skip
    assert found.best_row.n_components == 6


def test_what_it_takes_is_projected(x):
    sizes = [small_em.small_em_bytes(d, 8, 8, family_of("full"), 10**6) for d in (4, 16, 64)]
    assert sizes == sorted(sizes)
    with pytest.raises(dgmm.MemoryLimitError):
        dgmm.GaussianMixture(8, init_params="small_em", memory_limit="4MiB").fit(x)


def test_options_of_the_fit_hold_in_the_runs(x):
    start = start_on(x, "diag", replace(MaximizationOptions(), covariance_floor=0.5))
    assert np.min(start.covariances) >= 0.5
