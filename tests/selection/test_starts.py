"""Starts that are new to the estimator: farthest points, callables, and k-means|| on all rows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import dgmm
from dgmm.covariance import family_names, family_of
from dgmm.data.dataset import Rows
from dgmm.guard import Level
from dgmm.initialization import initial_mixture
from dgmm.maximization import MaximizationOptions
from dgmm.scalable_kmeans import CandidateCounts, CandidateRound, StartRequest, parallel_starts
from tests.numerics.problems import SerialSession, blobs, context_of, profile_of

SEED = np.random.SeedSequence


def starts(x, *requests, n_parts=3, context=None):
    context = context_of(x, n_parts) if context is None else context
    wanted = [StartRequest(family_of(name), k, SEED(seed)) for name, k, seed in requests]
    return parallel_starts(
        context, wanted, Level.FLOAT64, [MaximizationOptions(reg_covar=1e-6)] * len(wanted)
    )


def rare_cluster():
    """A far cluster of 40 rows in 20,000: a sample of 64 has none of it."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=(20000, 3))
    x[7000:7040] = 60.0 + rng.normal(size=(40, 3))
    return x


@pytest.mark.parametrize("name", family_names())
def test_the_start_is_the_m_step_of_the_nearest_centres(name) -> None:
    x = blobs(1, reach=30.0)
    (ours,) = starts(x, (name, 3, 0))
    labels = np.argmin(np.linalg.norm(x[:, None] - ours.means, axis=2), axis=1)
    assert_allclose(ours.weights, np.bincount(labels) / len(x), rtol=1e-12)
    means = np.array([x[labels == k].mean(axis=0) for k in range(3)])
    assert_allclose(ours.means, means, rtol=1e-9, atol=1e-9)
    scatters = np.array([np.cov(x[labels == k].T, bias=True) for k in range(3)])
    family = family_of(name)
    shape = family.shape
    expected = shape.project(scatters) / shape.divisor(3)
    if family.is_tied:
        expected = np.tensordot(ours.weights, expected, axes=1)
    assert_allclose(ours.covariances, shape.add_to_diagonal(expected, 1e-6), rtol=1e-7, atol=1e-9)


def test_all_rows_are_seen() -> None:
    x = rare_cluster()
    (ours,) = starts(x, ("spherical", 2, 0))
    rare = np.argmin(ours.weights)
    assert_allclose(ours.weights[rare] * len(x), 40, rtol=1e-9)
    assert_allclose(ours.means[rare], x[7000:7040].mean(axis=0), rtol=1e-9)
    sampled = profile_of(x, size=64).sample
    options = {"method": "kmeans", "options": MaximizationOptions(), "seed": SEED(0)}
    assert initial_mixture(sampled, family_of("spherical"), 2, **options).means.max() < 50


def test_parts_do_not_matter_and_restarts_share_every_pass() -> None:
    x = blobs(2, n_rows=3000)
    contexts = [context_of(x, n_parts) for n_parts in (1, 3, 11)]
    requests = [("full", 4, 0), ("diag", 4, 0), ("full", 4, 1), ("tied_full", 2, 5)]
    found = [starts(x, *requests, context=context) for context in contexts]
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert_allclose(one.means, other.means, rtol=1e-9)
            assert_allclose(one.weights, other.weights, rtol=1e-12)
    # Seven passes for all of them, beside the profile's none.
    assert len(contexts[0].session.members) == 7
    assert_allclose(found[0][0].means, found[0][1].means)
    assert not np.allclose(found[0][0].means, found[0][2].means)
    # A restart does not depend on its company.
    assert_allclose(starts(x, ("full", 4, 1))[0].means, found[0][2].means, rtol=1e-9)


def test_rows_are_drawn_by_their_squared_distance() -> None:
    x = np.repeat([[0.0], [1.0], [3.0]], [500, 450, 50], axis=0)
    counts = np.zeros(3)
    for seed in range(400):
        task = CandidateRound(np.zeros(1), (np.zeros((1, 1)),), (1,), (seed,))
        drawn = SerialSession(x).run(task).total.draws[0]
        counts[np.searchsorted([0.0, 1.0, 3.0], drawn.x[0, 0])] += 1
    # 450 rows at a squared distance of 1 and 50 at 9: an even chance, ± 3 standard deviations.
    assert counts[0] == 0
    assert abs(counts[1] - 200) < 30


def test_candidates_are_weighted_by_the_rows_nearest_to_them() -> None:
    rng = np.random.default_rng(3)
    x, points = rng.normal(size=(2500, 4)), rng.normal(size=(700, 4))
    (found,) = SerialSession(x).run(CandidateCounts(np.zeros(4), (points,))).total.counts
    nearest = np.argmin(((x[:, None] - points) ** 2).sum(axis=2), axis=1)
    assert_array_equal(found, np.bincount(nearest, minlength=700))


def test_weights_of_rows_count_as_repeated_rows() -> None:
    x = np.random.default_rng(4).normal(size=(300, 2))
    weight = np.random.default_rng(5).integers(0, 3, 300).astype(float)
    points = x[:9]
    task = CandidateCounts(np.zeros(2), (points,))
    weighted = task.evaluate(Rows(x, weight=weight), None).counts[0]
    repeated = task.evaluate(Rows(np.repeat(x, weight.astype(int), axis=0)), None).counts[0]
    assert_array_equal(weighted, repeated)
    none = CandidateRound(np.zeros(2), (points,), (300,), (0,)).evaluate(
        Rows(x, weight=weight), None
    )
    assert weight[none.draws[0].rows].min() > 0


def test_fewer_distinct_rows_than_components() -> None:
    x = np.repeat([[0.0, 0.0], [4.0, 2.0]], 50, axis=0)
    (ours,) = starts(x, ("full", 4, 0))
    assert np.isclose(ours.weights.sum(), 1.0)
    assert_allclose(np.unique(ours.means[ours.weights > 0].round(9), axis=0), [[0, 0], [4, 2]])


def test_an_offset_moves_the_start_and_nothing_else() -> None:
    x = np.round(blobs(2), 2) * 128
    near, far = starts(x, ("full", 3, 0))[0], starts(x + 2.0**30, ("full", 3, 0))[0]
    assert_allclose(far.means - 2.0**30, near.means, atol=1e-2)


def test_threads_change_no_bit_and_a_fit_counts_the_passes_of_its_start(store) -> None:
    dataset = dgmm.open_dataset(store, block_bytes=500 * 24)
    options = {"init_params": "k-means||", "n_init": 3, "random_state": 0}
    found = [
        dgmm.GaussianMixture(3, engine=dgmm.LocalEngine(n), **options).fit(dataset) for n in (1, 3)
    ]
    for gm in found:
        longest = max(one.n_iter for one in gm.record_.restarts)
        assert gm.record_.passes == 1 + 7 + longest
    assert_array_equal(found[0].means_, found[1].means_)
    assert_array_equal(found[0].covariances_, found[1].covariances_)


def test_farthest_first_visits_every_cluster() -> None:
    centres = np.array([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0], [50.0, 50.0]])
    rng = np.random.default_rng(0)
    x = np.repeat(centres, (5, 900, 20, 60), axis=0) + rng.uniform(-1, 1, (985, 2))
    for seed in range(5):
        mixture = initial_mixture(
            profile_of(x, size=len(x)).sample,
            family_of("diag"),
            4,
            method="maxdist",
            options=MaximizationOptions(reg_covar=1e-6),
            seed=SEED(seed),
        )
        assert_allclose(np.sort(mixture.weights * len(x)), [5, 20, 60, 900])


# -------------------------------------------------------------------------------------- callables


def test_a_callable_is_given_the_rows_and_a_seed_of_its_own() -> None:
    x = blobs(9).astype("float32") + 100
    calls = []

    def method(sample, n_components, seed):
        calls.append((sample.copy(), n_components, seed))
        sample[:] = 0.0  # its own copy
        return calls[-1][0][[0, 1, 2]]

    gm = dgmm.GaussianMixture(3, init_params=method, n_init=2, random_state=0).fit(x)
    assert gm.converged_
    (first, k, seed), (_, _, other) = calls
    assert_allclose(first, x)
    assert (first.dtype, k, type(seed)) == (np.float64, 3, int)
    assert seed != other


def test_means_are_where_the_rows_go_to() -> None:
    x = blobs(10, reach=40.0)
    known = initial_mixture(
        profile_of(x, size=600).sample, family_of("full"), 3, method="kmeans",
        options=MaximizationOptions(),
        seed=SEED(0),
    )  # fmt: skip
    for result in (known.means, np.eye(3)[np.argmin(((x[:, None] - known.means) ** 2).sum(2), 1)]):
        ours = initial_mixture(
            profile_of(x, size=600).sample,
            family_of("full"),
            3,
            method=lambda *_, result=result: result,
            options=MaximizationOptions(),
            seed=SEED(1),
        )
        assert_allclose(ours.means, known.means, rtol=1e-9)
        assert_allclose(ours.covariances, known.covariances, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.zeros((2, 3)), r"shape \(2, 3\).*\(3, 3\).*\(600, 3\)"),
        (np.full((3, 3), np.nan), "not finite"),
        (np.full((600, 3), 0.5), "do not sum to 1"),
        (np.tile([2.0, -1.0, 0.0], (600, 1)), "negative"),
    ],
)
def test_what_a_callable_returns_is_checked(result, message) -> None:
    with pytest.raises(dgmm.InvalidParameterError, match=message):
        dgmm.GaussianMixture(3, init_params=lambda *_: result).fit(blobs(0))


def test_unknown_methods_are_named() -> None:
    with pytest.raises(dgmm.InvalidParameterError, match=r"'luck'.*k-means\|\|.*callable"):
        dgmm.GaussianMixture(3, init_params="luck").fit(blobs(0))


def test_a_model_started_by_a_callable_is_saved_without_it(tmp_path) -> None:
    gm = dgmm.GaussianMixture(2, init_params=lambda x, k, _: x[:k]).fit(blobs(1))
    gm.save(tmp_path / "m.safetensors")
    loaded = dgmm.GaussianMixture.load(tmp_path / "m.safetensors")
    assert loaded.init_params == "kmeans"
    assert_array_equal(loaded.means_, gm.means_)
