"""Sample weights, from the caller to the result: a weight of 2 is a row twice."""

from __future__ import annotations

from collections.abc import Iterator

import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose, assert_array_equal

import dgmm
from dgmm.covariance import family_names, family_of
from dgmm.errors import InvalidDataError, InvalidParameterError

RNG = np.random.default_rng(0)
CENTRES = np.array([[-4.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
X = RNG.normal(size=(1200, 3)) + CENTRES[RNG.integers(3, size=1200)]
COPIES = RNG.integers(0, 4, 1200)
START = {"weights_init": np.full(3, 1 / 3), "means_init": 0.8 * CENTRES}


def precisions(family):
    shape = family_of(family).covariances_shape(3, 3)
    return (
        np.broadcast_to(np.eye(3), shape)
        if len(shape) > 1 and shape[-2:] == (3, 3) and (family_of(family).shape.uses_whitening())
        else np.ones(shape)
    )


def model(family="full", **options):
    given = {**START, "precisions_init": precisions(family)}
    options = {"tol": 0.0, "max_iter": 12, "random_state": 0, **given, **options}
    return dgmm.GaussianMixture(3, covariance_type=family, **options)


@pytest.fixture(autouse=True)
def _fits_need_not_converge(recwarn):
    yield
    assert all("did not converge" in str(warning.message) for warning in recwarn)


def assert_same_fit(ours, truth, rtol=1e-9):
    assert_allclose(ours.lower_bounds_, truth.lower_bounds_, rtol=rtol)
    assert_allclose(ours.weights_, truth.weights_, rtol=rtol)
    assert_allclose(ours.means_, truth.means_, rtol=rtol, atol=rtol)
    assert_allclose(ours.covariances_, truth.covariances_, rtol=10 * rtol, atol=rtol)


@pytest.mark.parametrize("family", family_names())
@pytest.mark.parametrize("algorithm", ["em", "cem"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_integer_weight_is_a_number_of_copies(family, algorithm, dtype):
    x, repeated = X.astype(dtype), np.repeat(X.astype(dtype), COPIES, axis=0)
    ours = model(family, algorithm=algorithm).fit(x, sample_weight=COPIES.astype(float))
    truth = model(family, algorithm=algorithm).fit(repeated)
    tolerance = 1e-9 if dtype == "float64" else 1e-5
    assert_same_fit(ours, truth, tolerance)
    assert ours.bic(x, COPIES) == pytest.approx(truth.bic(repeated), rel=tolerance)
    assert ours.aic(x, COPIES) == pytest.approx(truth.aic(repeated), rel=tolerance)
    assert ours.score(x, sample_weight=COPIES) == pytest.approx(
        truth.score(repeated), rel=tolerance
    )


@pytest.mark.parametrize("family", family_names())
def test_the_m_step_weighs_rows_by_any_number(family):
    weight = np.random.default_rng(1).exponential(size=1200)
    ours = model(family, max_iter=1, reg_covar=0.0).fit(X, sample_weight=weight)
    start = model(family, max_iter=0).fit(X)
    a = start.predict_proba(X) * weight[:, None]
    counts, means = a.sum(axis=0), (a.T @ X) / a.sum(axis=0)[:, None]
    scatters = np.array([((X - m).T * a[:, k]) @ (X - m) for k, m in enumerate(means)])
    chosen = family_of(family)
    pooled = scatters.sum(axis=0) if chosen.is_tied else scatters
    divisor = counts.sum() if chosen.is_tied else counts
    projected = chosen.shape.project(pooled) / chosen.shape.divisor(3)
    expected = projected / np.reshape(
        divisor, np.shape(divisor) + (1,) * (projected.ndim - np.ndim(divisor))
    )
    assert_allclose(ours.weights_, counts / counts.sum(), rtol=1e-10)
    assert_allclose(ours.means_, means, rtol=1e-9, atol=1e-9)
    assert_allclose(ours.covariances_, expected, rtol=1e-9, atol=1e-9)
    exact = np.average(start.score_samples(X), weights=weight)
    assert ours.lower_bound_ == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize("family", family_names())
def test_the_scale_of_the_weights_means_nothing(family):
    weight = np.random.default_rng(2).exponential(size=1200)
    fits = [
        dgmm.GaussianMixture(3, covariance_type=family, random_state=0, max_iter=20).fit(
            X, sample_weight=scale * weight
        )
        for scale in (1.0, 1e-6, 1e9)
    ]
    for other in fits[1:]:
        assert_same_fit(other, fits[0], 1e-8)


def test_a_row_of_weight_zero_may_hold_anything():
    rows, weight = X.copy(), np.ones(1200)
    rows[::7], weight[::7] = np.nan, 0.0
    ours = dgmm.GaussianMixture(3, random_state=0).fit(rows, sample_weight=weight)
    truth = dgmm.GaussianMixture(3, random_state=0).fit(X[weight > 0])
    assert_allclose(
        ours.means_[np.argsort(ours.means_[:, 0])],
        truth.means_[np.argsort(truth.means_[:, 0])],
        atol=1e-2,
    )
    assert np.isfinite(ours.score(rows, sample_weight=weight))
    with pytest.raises(InvalidDataError, match="row 0, feature 0 is nan"):
        dgmm.GaussianMixture(3).fit(rows, sample_weight=weight + 1.0)


def test_a_start_follows_the_weights():
    # Nearly all weight is on two far groups of few rows: that is where two components belong.
    rare = np.arange(1200) < 40
    rows = np.where(rare[:, None], 0.1 * X + np.where(np.arange(1200) % 2, 50, -50)[:, None], X)
    weight = np.where(rare, 1e6, 1e-6)
    gm = dgmm.GaussianMixture(2, random_state=0, max_iter=0).fit(rows, sample_weight=weight)
    assert_allclose(np.sort(gm.means_[:, 0]), [-50, 50], atol=1.0)


@pytest.mark.parametrize("seed", range(3))
def test_a_start_from_part_of_the_rows_is_that_of_repeated_rows_nearly(seed, monkeypatch):
    monkeypatch.setattr("dgmm.initialization._SAMPLE_ROWS", 1600)
    weight = np.where(X[:, 0] > 2, 9.0, 1.0)
    gm = dgmm.GaussianMixture(3, random_state=seed, max_iter=0).fit(X, sample_weight=weight)
    right = weight[X[:, 0] > 2].sum() / weight.sum()
    # k-means may give that group two of the centres.
    assert gm.weights_[gm.means_[:, 0] > 2].sum() == pytest.approx(right, abs=0.06)


@pytest.mark.parametrize("init_params", ["k-means||", "maxdist", lambda x, k, _seed: x[:k]])
def test_every_start_honours_the_weights(init_params):
    rows, weight = X.copy(), np.where(X[:, 0] > 2, 3.0, 1.0)
    rows[::7], weight[::7] = np.nan, 0.0
    gm = dgmm.GaussianMixture(3, init_params=init_params, random_state=0, max_iter=0)
    gm.fit(rows, sample_weight=weight)
    assert_allclose(gm.weights_ @ gm.means_, np.average(X, axis=0, weights=weight), atol=1e-6)


def test_candidates_are_selected_by_weights():
    weight = np.repeat([1.0, 0.0], 600)
    rows = X.copy()
    rows[600:] = np.nan
    options = {"criterion": "heldout", "random_state": 0}
    found = dgmm.select_model(dgmm.open_dataset(rows).with_weights(weight), [1, 3], **options)
    assert found.best_.n_components == 3
    assert found.best_.record_.rows <= 600


# ------------------------------------------------------------------------------ sources and engines


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def small_blocks():
    return dgmm.open_dataset(X, block_bytes=4800)


VARIANTS = {
    "em": {"halve_after": 2, "n_init": 4},
    "annealed": {"annealing": [3.0, 1.5], "n_init": 2},
    "cem": {"algorithm": "cem", "n_init": 2},
    "sem": {"algorithm": "sem", "annealing": [2.0], "n_init": 2},
}


@pytest.mark.parametrize("family", family_names())
@pytest.mark.parametrize("variant", VARIANTS)
def test_threads_and_workers_give_the_same_bits(client, family, variant):
    weight, labels = COPIES * 0.5, np.where(np.arange(1200) % 10, -1, np.arange(1200) % 3)
    rows = small_blocks()
    engines = (dgmm.LocalEngine(1), dgmm.LocalEngine(3), dgmm.DaskEngine(client))
    fits = [
        dgmm.GaussianMixture(
            3, covariance_type=family, random_state=0, max_iter=4, engine=engine,
            **VARIANTS[variant],
        ).fit(rows, sample_weight=weight, labels=labels)
        for engine in engines
    ]  # fmt: skip
    evaluations = [gm.evaluate(rows, weight) for gm in fits]
    for other, evaluation in zip(fits[1:], evaluations[1:], strict=True):
        assert other.record_.restarts == fits[0].record_.restarts
        assert_array_equal(other.means_, fits[0].means_)
        assert_array_equal(other.covariances_, fits[0].covariances_)
        assert evaluation == evaluations[0]


@pytest.mark.parametrize("persisted", [False, True])
def test_rows_that_a_cluster_holds_meet_their_weights_there(client, persisted):
    rows, weight = da.from_array(X, chunks=(150, 3)), da.from_array(COPIES, chunks=410)
    if persisted:
        rows, weight = client.persist(rows), client.persist(weight)
        with client.as_current():
            ours = model().fit(rows, sample_weight=weight)
    else:
        ours = model(engine=dgmm.DaskEngine(client)).fit(rows, sample_weight=weight)
    assert_same_fit(ours, model().fit(X, sample_weight=COPIES))


@pytest.mark.parametrize("kind", ["zarr", "dask", "column", "last column"])
def test_weights_come_from_anywhere(kind, tmp_path):
    rows, weight = X, COPIES.astype(float)
    truth = model().fit(X, sample_weight=weight)
    if kind == "zarr":
        array = zarr.create_array(tmp_path / "w.zarr", shape=1200, chunks=97, dtype="f8")
        array[:] = weight
        weight = str(tmp_path / "w.zarr")
    elif kind == "dask":
        weight = da.from_array(weight, chunks=97)
    else:
        place = 1 if kind == "column" else 3
        rows, weight = np.insert(X, place, weight, axis=1), place if place == 1 else -1
    ours = model().fit(rows, sample_weight=weight)
    assert_same_fit(ours, truth)
    labels = model().fit_predict(rows, sample_weight=weight)
    assert isinstance(labels, np.ndarray)
    assert_array_equal(labels, truth.predict(X))
    assert ours.bic(rows, weight) == pytest.approx(truth.bic(X, COPIES), rel=1e-12)


@pytest.mark.parametrize("kind", ["array", "npy"])
def test_rows_and_weights_that_fit_the_memory_are_read_once(tmp_path, kind):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "w.npy", COPIES.astype(float))
    rows = dgmm.open_dataset(tmp_path / "x.npy", block_bytes=4800)
    weight = COPIES.astype(float) if kind == "array" else tmp_path / "w.npy"
    gm = model(max_iter=3, memory_limit="256MiB").fit(rows, sample_weight=weight)
    assert gm.record_.block_reads == len(rows.blocks)
    assert gm.record_.rows == np.count_nonzero(COPIES)


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.r_[np.ones(700), -1.0, np.ones(499)], "negative: row 700 .*has -1"),
        (np.r_[np.ones(700), np.nan, np.ones(499)], "not finite: row 700 .*has nan"),
        (np.zeros(1200), "zero for every row"),
        (np.full(1200, 1e308), "up to 1e.308, overflow when summed; divide all weights"),
        (np.r_[np.ones(2), np.zeros(1198)], "only 2 rows .*n_components=3"),
        (np.ones(1199), "1199 values for 1200 rows"),
        (np.ones((1200, 2)), "2 columns"),
    ],
)
def test_bad_weights_are_refused(weight, message):
    with pytest.raises(InvalidDataError, match=f"sample_weight.*{message}|{message}"):
        model().fit(X, sample_weight=weight)


def test_weights_that_overflow_only_together_are_refused():
    dataset = dgmm.open_dataset(X[:, :1] / 10.0, block_bytes=800).with_weights(np.full(1200, 3e305))
    with pytest.raises(InvalidDataError, match="sums to inf; divide all weights"):
        model().fit(dataset)


def test_scoring_nothing_is_refused():
    with pytest.raises(InvalidDataError, match="nothing is left to score"):
        model().fit(X).score(X, sample_weight=np.zeros(1200))


def test_the_only_column_cannot_be_the_weight():
    with pytest.raises(InvalidParameterError, match="no feature is left"):
        dgmm.GaussianMixture().fit(X[:, :1], sample_weight=0)
