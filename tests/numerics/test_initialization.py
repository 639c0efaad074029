"""Starts: valid for every family, and functions of the rows, the method and the seed alone."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.random import SeedSequence
from numpy.testing import assert_allclose, assert_array_equal
from threadpoolctl import threadpool_info, threadpool_limits

from dgmm import initialization
from dgmm.covariance import family_names, family_of
from dgmm.data.dataset import Rows
from dgmm.initialization import INIT_PARAMS, initial_mixture, sample_size, working_bytes
from dgmm.maximization import MaximizationOptions
from tests.numerics.problems import blobs, profile_of, profile_task

METHODS = pytest.mark.parametrize("method", INIT_PARAMS)


def sample_of(x, size=None):
    return profile_of(x, size=len(x) if size is None else size).sample


def start(sample, name="full", k=3, *, method="kmeans", reg_covar=1e-6, seed=0):
    return initial_mixture(
        sample,
        family_of(name),
        k,
        method=method,
        options=MaximizationOptions(reg_covar=reg_covar),
        seed=SeedSequence(seed),
    )


@METHODS
@pytest.mark.parametrize("name", family_names())
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_every_method_starts_every_family(name, method, dtype):
    x = (10 * blobs(1)).astype(dtype)
    mixture = start(sample_of(x), name, method=method)
    assert mixture.covariance_type == name
    assert not mixture.singular_components
    assert mixture.weights.min() > 0
    # The start is an M-step: its mean is that of the rows.
    assert_allclose(mixture.weights @ mixture.means, x.mean(axis=0), rtol=1e-6, atol=1e-6)


@METHODS
@pytest.mark.parametrize("name", family_names())
def test_an_offset_moves_a_start_and_nothing_else(name, method):
    x = np.round(blobs(2), 2) * 128
    near, far = sample_of(x), sample_of(x + 2.0**30)
    ours, theirs = (start(sample, name, method=method, seed=3) for sample in (near, far))
    assert_allclose(theirs.means - 2.0**30, ours.means, atol=1e-3)
    assert_allclose(theirs.covariances, ours.covariances, rtol=1e-5, atol=1e-3)


def test_kmeans_finds_well_separated_clusters():
    x = blobs(3, reach=40.0)
    ours = start(sample_of(x), "full")
    labels = np.argmin(np.linalg.norm(x[:, None] - ours.means, axis=2), axis=1)
    for k in range(3):
        assert_allclose(ours.means[k], x[labels == k].mean(axis=0), rtol=1e-9, atol=1e-9)
        expected = np.cov(x[labels == k].T, bias=True) + 1e-6 * np.eye(3)
        assert_allclose(ours.covariances[k], expected, rtol=1e-9, atol=1e-9)


@METHODS
def test_the_number_of_threads_does_not_change_a_bit(method):
    x = blobs(4, n_rows=5000, n_features=8)
    sample, found = sample_of(x), []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(start(sample, k=5, method=method, seed=7))
    assert_array_equal(found[0].means, found[1].means)
    assert_array_equal(found[0].covariances, found[1].covariances)


def test_kmeans_sums_in_one_thread(monkeypatch):
    seen = []

    class Probe(initialization.KMeans):
        def fit(self, *arguments, **options):
            seen.extend(pool["num_threads"] for pool in threadpool_info())
            return super().fit(*arguments, **options)

    monkeypatch.setattr(initialization, "KMeans", Probe)
    with threadpool_limits(2):
        start(sample_of(blobs(4)))
    assert set(seen) == {1}


@METHODS
def test_a_start_depends_on_its_own_seed_alone(method):
    sample = sample_of(blobs(5))
    few = [SeedSequence(9, spawn_key=(1, restart)) for restart in range(2)]
    many = [SeedSequence(9, spawn_key=(1, restart)) for restart in range(5)]
    family = family_of("diag")

    def means(seed):
        return initial_mixture(
            sample, family, 4, method=method, options=MaximizationOptions(), seed=seed
        ).means

    first = [means(seed) for seed in few]
    rest = [means(seed) for seed in reversed(many)][::-1]
    assert_array_equal(first, rest[:2])
    assert not np.array_equal(rest[0], rest[1])


@METHODS
def test_as_many_rows_as_components(method):
    mixture = start(sample_of(blobs(6, n_rows=5)), "spherical", k=5, method=method)
    assert not mixture.singular_components


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("method", ["kmeans", "k-means++", "random_from_data"])
@pytest.mark.parametrize("name", family_names())
def test_components_that_found_no_rows_are_as_wide_as_the_data(name, method):
    x = np.repeat(np.array([[0.0, 0.0], [4.0, 2.0]]), 50, axis=0)
    mixture = start(sample_of(x), name, k=3, method=method)
    empty = np.flatnonzero(mixture.weights == 0)
    assert len(empty) >= 1
    assert_allclose(mixture.means[empty], np.tile([2.0, 1.0], (len(empty), 1)))
    if not mixture.family.is_tied:
        shape = mixture.family.shape
        wide = shape.project(np.array([[4.0, 2.0], [2.0, 1.0]])) / shape.divisor(2)
        expected = shape.add_to_diagonal(wide, 1e-6)
        for k in empty:
            assert_allclose(mixture.covariances[k], expected, rtol=1e-12)


def test_the_sample_is_a_function_of_the_problem():
    assert sample_size(8, 16) == 65536
    assert sample_size(64, 16) == 2**20 // 64
    assert sample_size(10**6, 16) == 32 * 16
    sizes = [sample_size(64, k) for k in (1, 10, 100, 1000)]
    assert sizes == sorted(sizes)


def traced_peak(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_memory_of_a_start_is_what_was_reserved():
    for method in INIT_PARAMS:
        sample = sample_of(blobs(7, n_rows=20000, n_features=16, dtype="float32"))
        start(sample, k=8, method=method)  # imports and caches
        peak = traced_peak(lambda: start(sample, k=8, method=method))  # noqa: B023
        assert peak <= working_bytes(20000, 16, 8, family_of("full")), method


@pytest.mark.parametrize("name", family_names())
def test_many_features_take_what_the_family_needs(name):
    n_rows, d, k = 60, 400, 12
    sample = sample_of(np.random.default_rng(8).normal(size=(n_rows, d)))
    start(sample, k=k, method="points", name=name)
    peak = traced_peak(lambda: start(sample, k=k, method="points", name=name))
    # Memory that is refused and not used is no better than memory that was not foreseen.
    assert working_bytes(n_rows, d, k, family_of(name)) / 4 <= peak
    assert peak <= working_bytes(n_rows, d, k, family_of(name))


def weighted_sample(x, weight):
    task = profile_task(x, size=len(x), weighted=True)
    return task.evaluate(Rows(x, weight=weight), None).sample


def test_weights_as_unequal_as_can_be_start_all_the_same():
    x = blobs(9)
    sample = weighted_sample(x, np.where(np.arange(len(x)) % 2, 1e-300, 1e300))
    for method in INIT_PARAMS:
        assert not start(sample, method=method).singular_components


def test_rows_are_drawn_by_weight():
    x = np.arange(8.0)[:, None]
    shares = np.array([1.0, 1, 1, 1, 1, 1, 1, 7])
    drawn = [initialization._rows_by_share(x, 1, SeedSequence(seed), shares) for seed in range(600)]
    # The last row weighs as much as all others, and is drawn half of the time.
    assert 0.43 < np.mean([rows[0] == 7 for rows in drawn]) < 0.57
    assert sorted(initialization._rows_by_share(x, 8, SeedSequence(0), shares)) == list(range(8))
