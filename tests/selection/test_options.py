"""Selections with the estimator's options: each candidate goes as it would go alone."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose, assert_array_equal

import dgmm
from dgmm.covariance import family_names
from dgmm.data.dataset import Dataset
from dgmm.errors import EmptyComponentError, InvalidDataError, InvalidParameterError

SIZES = (2, 3)
PRIORS = {
    "weight_concentration_prior": 3.0,
    "mean_prior": np.zeros(3),
    "mean_precision_prior": 4.0,
    "covariance_prior": 2.0,
    "degrees_of_freedom_prior": 8.0,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "priors": PRIORS,
    "accelerated priors": PRIORS | {"acceleration": "auto"},
    "fixed": {"fixed": {"covariances": True, "means": [0]}},
    "cem": {"algorithm": "cem"},
    "sem": {"algorithm": "sem", "max_iter": 6},
    "annealing": {"annealing": [4.0, 2.0, 1.0]},
    "floor": {"covariance_floor": 0.5},
    "drop": {"empty_components": "drop", "weight_concentration_prior": 0.5},
    "reseed": {"empty_components": "reseed", "algorithm": "cem"},
    "k-means|| and fixed": {"init_params": "k-means||", "fixed": {"weights"}},
    "small_em and priors": {"init_params": "small_em", **PRIORS},
}


def select(x: Any, families: Any, **options: Any) -> dgmm.Selection:
    given = {"random_state": 3, "n_init": 2, "max_iter": 8, "tol": 0.0} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they stop at max_iter
        return dgmm.select_model(x, given.pop("sizes", SIZES), covariance_types=families, **given)


def fit(x: Any, family: str, k: int, labels: Any = None, **options: Any) -> dgmm.GaussianMixture:
    given = {"random_state": 3, "n_init": 2, "max_iter": 8, "tol": 0.0} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dgmm.GaussianMixture(k, covariance_type=family, **given).fit(x, labels=labels)


@pytest.mark.parametrize("name", OPTIONS)
def test_candidates_go_as_they_would_alone(rows: np.ndarray, name: str) -> None:
    options = OPTIONS[name]
    # Short runs of EM on the sample take their time.
    families = ("diag", "tied_full") if name.startswith("small_em") else family_names()
    found = select(rows, families, **options)
    assert len(found.table) == 2 * len(families)
    for row in found.table:
        alone = fit(rows, row.covariance_type, row.n_components, **options)
        # Products of other shapes have other last bits, which a draw or a class may follow.
        assert row.log_likelihood == pytest.approx(alone.score(rows), rel=1e-7)
        assert row.n_parameters == alone.n_parameters_
        assert row.bic == pytest.approx(alone.bic(rows), rel=1e-7)
        assert row.aic == pytest.approx(alone.aic(rows), rel=1e-7)
    best = min(found.table, key=lambda row: row.bic)
    assert found.best_.bic(rows) == pytest.approx(best.bic, rel=1e-9)
    assert found.best_.n_parameters_ == best.n_parameters


@pytest.mark.parametrize("name", ["priors", "sem", "fixed", "drop"])
def test_the_same_out_of_core(rows: np.ndarray, dataset: Dataset, name: str) -> None:
    here, there = (select(x, ("full", "tied_diag"), **OPTIONS[name]) for x in (rows, dataset))
    for one, other in zip(here.table, there.table, strict=True):
        assert_allclose(one.log_likelihood, other.log_likelihood, rtol=1e-9)


@pytest.mark.parametrize("algorithm", ["em", "cem"])
def test_criteria_with_labels_are_of_rows_and_labels(rows: np.ndarray, algorithm: str) -> None:
    labels = np.where(np.arange(len(rows)) % 3 == 0, (rows[:, 0] > 0).astype(int), -1)
    found = select(rows, family_names(), labels=labels, algorithm=algorithm)
    known = labels >= 0
    for row in found.table:
        alone = fit(rows, row.covariance_type, row.n_components, labels, algorithm=algorithm)
        mixture = alone.mixture_
        density, posterior = mixture.log_prob(rows), mixture.responsibilities(rows)
        with np.errstate(divide="ignore"):
            own = density + np.log(posterior[np.arange(len(rows)), labels])
        total = own[known].sum() + density[~known].sum()
        sure = np.log(posterior[~known].max(axis=1)).sum()
        bic = -2 * total + row.n_parameters * np.log(len(rows))
        assert row.log_likelihood * len(rows) == pytest.approx(total, rel=1e-7)
        assert row.bic == pytest.approx(bic, rel=1e-7)
        assert row.icl == pytest.approx(bic - 2 * sure, rel=1e-7)


@pytest.mark.parametrize("options", [{"algorithm": "sem"}, {"labels": True}, PRIORS], ids=str)
def test_rows_held_out_are_not_fitted_to(rows, dataset, options) -> None:
    """What rows that are held out hold changes nothing but their score."""
    labels = None
    if options.pop("labels", False):
        options, labels = {}, np.where(np.arange(len(rows)) % 2 == 0, rows[:, 0] > 0, -1)
    held = {"criterion": "heldout", "holdout": 0.3, "labels": labels}
    found = select(rows, ("full", "spherical"), **held, **options)
    again = select(dataset, ("full", "spherical"), **held, **options)
    for one, other in zip(found.table, again.table, strict=True):
        assert np.isfinite(one.heldout)
        assert_allclose(one.heldout, other.heldout, rtol=1e-8)
        assert_allclose(one.log_likelihood, other.log_likelihood, rtol=1e-8)


def test_a_cluster_gives_the_same_bits(rows, dataset) -> None:
    labels = np.where(np.arange(len(rows)) % 5 == 0, (rows[:, 0] > 0).astype(int), -1)
    options = PRIORS | {"algorithm": "sem", "empty_components": "reseed", "labels": labels}
    here = select(dataset, family_names(), **options)
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, processes=False
        ) as cluster,
        Client(cluster) as client,
    ):
        there = select(dataset, family_names(), engine=dgmm.DaskEngine(client), **options)
    assert repr(here.table.rows) == repr(there.table.rows)
    assert_array_equal(here.best_.means_, there.best_.means_)


def test_a_value_for_each_component_needs_one_size(rows) -> None:
    alpha = np.array([1.0, 2.0, 3.0])
    found = select(rows, ("full", "diag"), sizes=[3], weight_concentration_prior=alpha)
    assert len(found.table) == 2
    with pytest.raises(
        InvalidParameterError, match=r"candidate full with 2 components: weight_concentration.*size"
    ):
        select(rows, ("full",), weight_concentration_prior=alpha)
    with pytest.raises(InvalidParameterError, match=r"full with 2 components: .* see means_init"):
        select(rows, ("full",), means_init=np.zeros((3, 3)))
    with pytest.raises(InvalidParameterError, match=r"full with 2 components: fixed.*component 2"):
        select(rows, ("full",), fixed={"means": [2]})
    with pytest.raises(
        InvalidParameterError, match=r"covariance_prior has shape .*\(full\), .*\(diag\)"
    ):
        select(rows, ("full", "diag"), covariance_prior=np.eye(3), degrees_of_freedom_prior=9.0)
    with pytest.raises(InvalidParameterError, match=r"degrees_of_freedom_prior=2; for .* exceed 2"):
        select(rows, ("diag", "full"), covariance_prior=1.0, degrees_of_freedom_prior=2.0)


def test_labels_lie_below_the_smallest_size(rows) -> None:
    labels = np.full(len(rows), -1)
    labels[7] = 2
    with pytest.raises(InvalidDataError, match="row 7 has 2, and there are 2 components"):
        select(rows, ("full",), labels=labels)


@pytest.mark.parametrize("choice", ["keep", "reseed", "drop"])
def test_the_table_says_what_became_of_empty_components(rows, choice) -> None:
    means = np.vstack([rows[:2], [[600.0] * 3]])
    found = select(
        rows, ("full", "diag"), sizes=[3], means_init=means, weights_init=np.full(3, 1 / 3),
        covariances_init=None, empty_components=choice, init_params="random_from_data",
    )  # fmt: skip
    words = {"keep": "stayed as it was", "reseed": "was given a new place", "drop": "was dropped"}
    for row in found.table:
        assert "2" in row.notes
        assert words[choice] in row.notes
        assert row.notes in found.table.to_pandas()["notes"].tolist()
    calm = select(rows, ("full",))
    assert [row.notes for row in calm.table] == ["", ""]


def test_a_selection_that_loses_a_component_everywhere_says_so(rows) -> None:
    means = np.vstack([rows[:2], [[600.0] * 3]])
    with pytest.raises(EmptyComponentError, match=r"was given up: component 2 was without rows"):
        select(
            rows, ("full",), sizes=[3], means_init=means, weights_init=np.full(3, 1 / 3),
            empty_components="raise",
        )  # fmt: skip


def test_dropped_components_are_no_parameters(rows) -> None:
    means = np.vstack([rows[:2], [[600.0] * 3]])
    start = {"means_init": means, "weights_init": np.full(3, 1 / 3)}
    found = select(
        rows, ("tied_spherical",), sizes=[3], empty_components="drop", covariances_init=1.0, **start
    )
    (row,) = found.table
    assert (row.n_components, len(found.best_.weights_)) == (3, 2)
    assert row.n_parameters == found.best_.n_parameters_ == 1 + 2 * 3 + 1
