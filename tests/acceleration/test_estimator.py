"""``GaussianMixture(acceleration=...)``: the same bits everywhere, said in the record."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from numpy.testing import assert_array_equal

import dgmm
from dgmm.acceleration.regime import choose_regime, operations_per_byte
from dgmm.covariance import family_names, family_of
from dgmm.features import Layout
from tests.numerics.problems import blobs

OPTIONS = {"n_init": 3, "init_params": "random_from_data", "tol": 1e-6, "random_state": 0}


@pytest.fixture(scope="module")
def x():
    return blobs(21, n_rows=1500, n_features=3, n_components=5, reach=1.2)


def fitted(x, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dgmm.GaussianMixture(5, **OPTIONS | {"max_iter": 30} | options).fit(x)


@pytest.mark.parametrize("regime", ["computing", "reading"])
def test_any_number_of_threads_has_the_same_bits(x, tmp_path, regime):
    zarr.create_array(tmp_path / "x.zarr", data=x, chunks=(200, 3))
    data = dgmm.open_dataset(tmp_path / "x.zarr", block_bytes=2**14)
    one, three = (fitted(data, acceleration=regime, engine=dgmm.LocalEngine(n)) for n in (1, 3))
    assert one.lower_bounds_ == three.lower_bounds_
    assert_array_equal(one.covariances_, three.covariances_)
    assert one.record_.evaluations == three.record_.evaluations
    assert one.record_.acceleration == regime


@pytest.mark.slow
@pytest.mark.parametrize("regime", ["computing", "reading"])
def test_a_cluster_has_the_bits_of_threads(x, tmp_path, regime):
    zarr.create_array(tmp_path / "x.zarr", data=x, chunks=(200, 3))
    data = dgmm.open_dataset(tmp_path / "x.zarr", block_bytes=2**14)
    here = fitted(data, acceleration=regime, max_iter=15)
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        Client(cluster) as client,
    ):
        there = fitted(data, acceleration=regime, max_iter=15, engine=dgmm.DaskEngine(client))
    assert here.lower_bounds_ == there.lower_bounds_
    assert_array_equal(here.means_, there.means_)


@pytest.mark.parametrize("name", family_names())
def test_the_result_is_as_high_as_its_certified_bound_says(x, name):
    weight = np.random.default_rng(0).uniform(0.2, 3.0, len(x))
    model = dgmm.GaussianMixture(5, covariance_type=name, acceleration="auto", tol=1e-5,
                                 reg_covar=0.0, max_iter=400, random_state=0)  # fmt: skip
    model.fit(x, sample_weight=weight)
    assert model.converged_
    assert model.score(x, sample_weight=weight) >= model.lower_bound_ - 1e-10
    assert np.all(np.diff(model.lower_bounds_) >= 0.0)
    (restart,) = model.record_.restarts
    assert restart.gap < 1e-5
    assert restart.evaluations == model.n_iter_ == model.record_.passes - 1


def test_known_components_stay_known(x):
    labels = np.full(len(x), -1)
    labels[:200] = dgmm.GaussianMixture(5, random_state=0).fit_predict(x)[:200]
    model = dgmm.GaussianMixture(5, acceleration="auto", tol=1e-5, max_iter=300, random_state=0)
    model.fit(x, labels=labels)
    assert model.converged_
    assert np.all(np.diff(model.lower_bounds_) >= 0.0)


def test_by_default_nothing_is_accelerated(x):
    model = fitted(x)
    assert model.record_.acceleration == ""
    assert all(one.gap is None for one in model.record_.restarts)
    assert model.record_.evaluations == sum(one.n_iter for one in model.record_.restarts)


@pytest.mark.parametrize(
    "options", [{"algorithm": "cem"}, {"algorithm": "sem"}, {"annealing": (4.0, 2.0)}]
)
def test_variants_go_without_and_say_so(x, options):
    plain, ours = fitted(x, **options), fitted(x, acceleration="auto", **options)
    assert ours.record_.acceleration == "none"
    assert ours.lower_bounds_ == plain.lower_bounds_
    with pytest.raises(dgmm.InvalidParameterError, match="acceleration='reading' cannot be used"):
        fitted(x, acceleration="reading", **options)


@pytest.mark.parametrize("value", ["fast", True, 1])
def test_only_known_values_are_taken(x, value):
    with pytest.raises(dgmm.InvalidParameterError, match="acceleration"):
        fitted(x, acceleration=value)


@pytest.mark.parametrize("regime", ["computing", "reading"])
def test_candidates_of_a_selection_are_accelerated_together(x, regime):
    found = dgmm.select_model(
        x, [2, 4], covariance_types=("diag", "tied_diag"), acceleration=regime, tol=1e-3,
        n_init=2, max_iter=200, random_state=0,
    )  # fmt: skip
    plain = dgmm.select_model(
        x, [2, 4], covariance_types=("diag", "tied_diag"), tol=1e-5, n_init=2, max_iter=300,
        random_state=0,
    )  # fmt: skip
    assert found.best_.record_.acceleration == regime
    assert found.best_row.covariance_type == plain.best_row.covariance_type
    for ours, theirs in zip(found.table, plain.table, strict=True):
        assert ours.log_likelihood > theirs.log_likelihood - 0.02
    assert found.best_.record_.passes < plain.best_.record_.passes


def test_a_warm_start_goes_on(x):
    model = dgmm.GaussianMixture(5, acceleration="auto", tol=1e-3, warm_start=True,
                                 max_iter=300, random_state=0).fit(x)  # fmt: skip
    before = model.lower_bound_
    model.set_params(tol=1e-7).fit(x)
    assert model.converged_
    assert model.lower_bound_ >= before


def test_the_regime_follows_from_counts():
    per_byte = operations_per_byte([(family_of("full"), 16)], 16, 8)
    assert per_byte == 4 * Layout(16).full * 16 / 128
    assert choose_regime(resident=True, n_bytes=2**40, per_byte=1.0) == "computing"
    assert choose_regime(resident=False, n_bytes=2**20, per_byte=1.0) == "computing"
    assert choose_regime(resident=False, n_bytes=2**40, per_byte=1.0) == "reading"
    assert choose_regime(resident=False, n_bytes=2**40, per_byte=1000.0) == "computing"
