"""Selection: the numbers of single fits, in the passes of one of them."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose
from sklearn.mixture import GaussianMixture as Reference

import dgmm
from dgmm.covariance import family_names
from tests.numerics.problems import dense

OPTIONS = {"random_state": 3, "n_init": 2}


def densities(model, x):
    """Log joint densities by the textbook: shape (n_rows, n_components)."""
    mixture = model.mixture_
    columns = []
    for weight, mean, covariance in zip(
        mixture.weights, mixture.means, dense(mixture), strict=False
    ):
        z = x - mean
        squares = np.einsum("ij,jk,ik->i", z, np.linalg.inv(covariance), z)
        logdet = np.linalg.slogdet(2 * np.pi * covariance)[1]
        columns.append(np.log(weight) - 0.5 * (logdet + squares))
    return np.stack(columns, axis=1)


@pytest.mark.usefixtures("uncached")
def test_ten_sizes_of_six_families_read_no_more_than_the_slowest_single_fit(dataset) -> None:
    families, sizes = family_names(), range(1, 11)
    found = dgmm.select_model(
        dataset, sizes, covariance_types=families, random_state=0, memory_limit="1GiB"
    )
    slowest = max(found.table, key=lambda row: row.n_iter)
    alone = dgmm.GaussianMixture(
        slowest.n_components, covariance_type=slowest.covariance_type, random_state=0
    ).fit(dataset)
    ours, theirs = found.best_.record_, alone.record_
    assert len(found.table) == 60
    assert theirs.block_reads == theirs.passes * len(dataset.blocks)
    assert ours.block_reads == ours.passes * len(dataset.blocks)
    assert ours.block_reads <= 1.2 * theirs.block_reads


@pytest.mark.usefixtures("uncached")
@pytest.mark.filterwarnings("ignore:.*did not converge")
def test_on_a_cluster_all_candidates_share_every_read_too(dataset) -> None:
    with (
        # In this process, where nothing is kept between passes.
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        found = dgmm.select_model(
            dataset, range(1, 11), covariance_types=family_names(), random_state=0, max_iter=4,
            tol=0.0, engine=dgmm.DaskEngine(client), memory_limit="1GiB",
        )  # fmt: skip
    record = found.best_.record_
    assert len(found.table) == 60
    # One for the profile and one for the criteria beside the iterations.
    assert record.passes == 2 + 4
    assert record.block_reads == record.passes * len(dataset.blocks)


@pytest.mark.parametrize("name", family_names())
def test_a_candidate_is_the_fit_of_its_own(rows, name) -> None:
    found = dgmm.select_model(rows, [2, 3], covariance_types=family_names(), **OPTIONS)
    (row,) = [r for r in found.table if (r.covariance_type, r.n_components) == (name, 3)]
    alone = dgmm.GaussianMixture(3, covariance_type=name, **OPTIONS).fit(rows)
    evaluation = alone.evaluate(rows)
    assert row.n_iter == alone.n_iter_
    assert_allclose(row.log_likelihood, evaluation.log_likelihood, rtol=1e-9)
    assert_allclose([row.bic, row.aic], [evaluation.bic, evaluation.aic], rtol=1e-9)


@pytest.mark.parametrize("name", family_names())
def test_icl_is_bic_and_twice_the_doubt_about_the_labels(rows, name) -> None:
    found = dgmm.select_model(rows, 4, covariance_types=name, **OPTIONS)
    joint = densities(found.best_, rows)
    doubt = np.log(np.exp(joint - joint.max(axis=1, keepdims=True)).sum(axis=1)).sum()
    (row,) = found.table
    assert row.icl >= row.bic
    assert_allclose(row.icl, row.bic + 2 * doubt, rtol=1e-9)


def test_the_best_is_a_fitted_estimator_with_the_least_bic(rows, tmp_path) -> None:
    found = dgmm.select_model(rows, range(1, 6), covariance_types=("full", "diag"), **OPTIONS)
    assert found.best_row is min(found.table, key=lambda row: row.bic)
    assert (found.best_.n_components, found.best_.covariance_type) == (3, "full")
    assert_allclose(found.best_.bic(rows), found.best_row.bic, rtol=1e-9)
    reference = Reference(3, random_state=0).fit(rows)
    assert_allclose(found.best_row.bic, reference.bic(rows), rtol=1e-4)
    assert len(found.best_.record_.restarts) == 2
    found.best_.save(tmp_path / "m.safetensors")
    assert dgmm.GaussianMixture.load(tmp_path / "m.safetensors").n_components == 3


def test_candidates_that_collapse_are_told_and_passed_over() -> None:
    x = np.repeat(np.random.default_rng(0).normal(size=(4, 2)), 50, axis=0)
    x[:100] += np.random.default_rng(1).normal(size=(100, 2))
    found = dgmm.select_model(x, [1, 5], reg_covar=0.0, random_state=0)
    assert found.best_.n_components == 1
    collapsed = found.table[1]
    assert "not positive definite" in collapsed.reason
    assert np.isnan(collapsed.bic)
    with pytest.raises(dgmm.SingularMixtureError, match="every candidate collapsed"):
        dgmm.select_model(x, [5, 6], reg_covar=0.0, random_state=0)


@pytest.mark.parametrize("method", ["k-means||", "random", "maxdist"])
def test_every_start_serves_a_selection(rows, method) -> None:
    found = dgmm.select_model(
        rows, [2, 3], covariance_types=("full", "tied_diag"), init_params=method, **OPTIONS
    )
    for row in found.table:
        alone = dgmm.GaussianMixture(
            row.n_components, covariance_type=row.covariance_type, init_params=method, **OPTIONS
        ).fit(rows)
        assert_allclose(row.log_likelihood, alone.score(rows), rtol=1e-9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"criterion": "luck"}, "criterion='luck'.*'icl'"),
        ({"holdout": 1.0}, "holdout=1.0.*between 0 and 1"),
        ({"warm_start": True}, "warm_start"),
        ({"n_components": []}, "no candidates"),
        ({"n_components": [0, 1]}, "n_components=0"),
        ({"n_components": "ab"}, "n_components='ab'"),
        ({"n_components": None}, "n_components=None"),
        ({"n_components": [[1]]}, r"n_components=\[1\]"),
        ({"n_components": np.array([[1, 2]])}, r"n_components=\[1, 2\]"),
        ({"covariance_types": None}, "covariance_type=None"),
        ({"covariance_type": "diag"}, "covariance_type='diag'.*covariance_types"),
        ({"criterion": ["bic"]}, r"criterion=\['bic'\]"),
        ({"holdout": "a"}, "holdout='a'"),
        ({"covariance_types": ("full", "round")}, "covariance_type='round'"),
        ({"colour": "blue"}, "colour"),
    ],
    ids=lambda given: str(given)[:20],
)
def test_bad_arguments_are_named(rows, given, message) -> None:
    with pytest.raises(dgmm.InvalidParameterError, match=message):
        dgmm.select_model(rows, **given)


def test_a_selection_is_shown_as_text(rows) -> None:
    found = dgmm.select_model(rows * 1e40, [1, 2], random_state=0, reg_covar=0.0)
    said, _, head, *lines = str(found).splitlines()
    best = found.best_row
    assert said == f"Best: full, {best.n_components} components by bic"
    assert f"2 candidates: full, {best.n_components} components by bic" in repr(found)
    names = head.split()
    assert names[:4] == ["covariance_type", "n_components", "n_parameters", "log_likelihood"]
    for line, row in zip(lines, found.table, strict=True):
        # A difference of 2 in BIC decides, however large it is.
        assert line.split()[names.index("bic")] == f"{row.bic:.2f}"
        assert line.index(f"{row.bic:.2f}") + len(f"{row.bic:.2f}") == head.index("bic") + 3


def test_the_table_goes_to_pandas_and_html(rows) -> None:
    found = dgmm.select_model(rows, [1, 2], random_state=0)
    frame = found.table.to_pandas()
    assert frame["n_components"].tolist() == [1, 2]
    assert frame["bic"].tolist() == [row.bic for row in found.table]
    assert frame["reason"].tolist() == ["", ""]
    assert "2 components by bic" in found._repr_html_()
    assert found.table[:1][0] is found.table[0]


def test_without_pandas_it_says_what_to_install(rows, monkeypatch) -> None:
    found = dgmm.select_model(rows, [1], random_state=0)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(dgmm.MissingDependencyError, match="pandas, which is not installed"):
        found.table.to_pandas()


def test_the_table_is_of_plain_numbers() -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    found = dgmm.select_model(x, [np.int64(1), np.int32(2)], max_iter=2, random_state=0, tol=10.0)
    json.dumps(found.table.to_dicts())
