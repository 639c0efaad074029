"""Distances, outlier scores and regressions of data of any size: those of rows in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose, assert_array_equal

import dgmm
from dgmm.answers import AnswerPass, Distances, Regressed
from dgmm.conditional import regression_of
from dgmm.covariance import family_names
from dgmm.data.dataset import Rows
from dgmm.errors import InvalidDataError, InvalidParameterError
from tests.numerics.problems import random_mixture, rows_of

FAMILIES = pytest.mark.parametrize("family", family_names())
NAMES = ("mahalanobis", "outlier_score", "tail_probability")
METHODS = pytest.mark.parametrize("name", NAMES)


def model_of(family: str, **options: Any) -> dgmm.GaussianMixture:
    one = random_mixture(np.random.default_rng(0), family, 3, 4)
    return dgmm.GaussianMixture.from_parameters(
        one.weights, one.means, one.covariances, covariance_type=family, **options
    )


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return rows_of(model_of("full").mixture_, 3000, 1)


@pytest.fixture(scope="module")
def store(rows: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("answers") / "rows.zarr"
    zarr.create_array(path, data=rows, chunks=(700, 4))
    return path


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", processes=False
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@METHODS
@FAMILIES
def test_every_kind_of_source_gives_the_values_of_the_mixture(
    family, name, rows, store, tmp_path
) -> None:
    gm = model_of(family)
    truth = getattr(gm.mixture_, name)(rows)
    method = getattr(gm, name)
    here = method(rows)
    assert isinstance(here, np.ndarray)
    assert_allclose(here, truth, rtol=1e-9, atol=1e-10)
    streamed = method(store, out=tmp_path / "out.zarr")
    assert isinstance(streamed, zarr.Array)
    assert_allclose(streamed[:], truth, rtol=1e-9, atol=1e-10)
    for source in (store, da.from_array(rows, chunks=(900, 3))):
        lazy = method(source)
        assert isinstance(lazy, da.Array)
        assert lazy.shape == truth.shape
        assert_allclose(lazy.compute(), truth, rtol=1e-9, atol=1e-10)


@FAMILIES
@pytest.mark.parametrize("with_covariance", [False, True])
@pytest.mark.parametrize("targets", [None, [3]])
def test_regressions_of_every_kind_of_source(
    family, with_covariance, targets, rows, tmp_path
) -> None:
    gm, given = model_of(family), [2, 0]
    x = np.ascontiguousarray(rows[:, given])
    asked = {"targets": targets, "return_covariance": with_covariance}
    truth = gm.mixture_.regress(x, given, **asked)
    zarr.create_array(tmp_path / "x.zarr", data=x, chunks=(700, 2))
    out: Any = tmp_path / "m.zarr"
    if with_covariance:
        out = (out, tmp_path / "c.zarr")
    found = [
        gm.regress(x, given, **asked),
        gm.regress(tmp_path / "x.zarr", given, **asked),
        gm.regress(da.from_array(x, chunks=(800, 1)), given, **asked),
        gm.regress(tmp_path / "x.zarr", given, **asked, out=out),
    ]
    kinds = (np.ndarray, da.Array, da.Array, zarr.Array)
    for kind, one in zip(kinds, found, strict=True):
        pairs = zip(one, truth, strict=True) if with_covariance else [(one, truth)]
        for values, expected in pairs:
            assert isinstance(values, kind)
            assert values.shape == expected.shape
            assert_allclose(np.asarray(values[:]), expected, rtol=1e-10, atol=1e-12)


def test_a_regression_of_one_gaussian_is_least_squares(rows) -> None:
    """The oracle: a fit of one component, and the line through the same rows."""
    gm = dgmm.GaussianMixture(1, reg_covar=0.0).fit(rows)
    design = np.column_stack([rows[:, 1:], np.ones(len(rows))])
    coefficients, residual, *_ = np.linalg.lstsq(design, rows[:, 0])
    means, covariances = gm.regress(rows[:, 1:], [1, 2, 3], return_covariance=True)
    assert_allclose(means[:, 0], design @ coefficients, rtol=1e-8, atol=1e-8)
    assert_allclose(covariances[:, 0, 0], residual[0] / len(rows), rtol=1e-8)


@pytest.mark.parametrize("name", [*NAMES, "predict", "predict_proba", "score_samples"])
@FAMILIES
def test_a_cluster_and_any_number_of_threads_give_the_same_bits(
    client, family, name, store, tmp_path
) -> None:
    engines = [dgmm.LocalEngine(1), dgmm.LocalEngine(3), dgmm.DaskEngine(client)]
    found = [
        getattr(model_of(family, engine=engine), name)(store, out=tmp_path / f"{i}.zarr")[:]
        for i, engine in enumerate(engines)
    ]
    assert_array_equal(found[0], found[1])
    assert_array_equal(found[0], found[2])


@FAMILIES
def test_regressions_have_the_same_bits_on_every_engine(client, family, rows, tmp_path) -> None:
    x = tmp_path / "x.zarr"
    zarr.create_array(x, data=np.ascontiguousarray(rows[:, [2, 0]]), chunks=(700, 2))
    found = []
    for i, engine in enumerate([dgmm.LocalEngine(1), dgmm.LocalEngine(3), dgmm.DaskEngine(client)]):
        out = (tmp_path / f"m{i}.zarr", tmp_path / f"c{i}.zarr")
        gm = model_of(family, engine=engine)
        pair = gm.regress(x, [2, 0], return_covariance=True, out=out)
        found.append([one[:] for one in pair])
    for other in found[1:]:
        for one, truth in zip(other, found[0], strict=True):
            assert_array_equal(one, truth)


def test_float32_means_give_float32_values(rows) -> None:
    one = model_of("full").mixture_
    gm = dgmm.GaussianMixture.from_parameters(
        one.weights, one.means.astype(np.float32), one.covariances
    )
    for name in NAMES:
        assert getattr(gm, name)(rows).dtype == np.float32


@METHODS
def test_rows_that_are_skipped_have_no_value(name, rows) -> None:
    gm, x = model_of("full"), rows.copy()
    x[[3, 2999], 1] = np.nan
    found = getattr(gm, name)(dgmm.open_dataset(x, on_bad_rows="skip"))
    bad = np.isnan(np.asarray(found)).reshape(len(x), -1).all(axis=1)
    assert_array_equal(np.flatnonzero(bad), [3, 2999])
    good = np.delete(np.arange(len(x)), [3, 2999])
    assert_allclose(
        np.asarray(found)[good], getattr(gm.mixture_, name)(rows[good]), rtol=1e-9, atol=1e-10
    )


@METHODS
@pytest.mark.parametrize("value", [np.nan, np.inf, -1e300])
def test_bad_rows_are_named(name, value, rows) -> None:
    x = rows.copy()
    x[1234, 2] = value
    if name == "tail_probability" and value == -1e300:
        assert model_of("full").tail_probability(x)[1234] == 0.0
        return
    with pytest.raises(InvalidDataError, match="row 1234"):
        getattr(model_of("full"), name)(x)


@METHODS
@pytest.mark.parametrize("shape", [(5, 3), (0, 4)])
def test_other_shapes_are_refused(name, shape) -> None:
    with pytest.raises(InvalidDataError):
        getattr(model_of("full"), name)(np.zeros(shape))


def test_what_is_not_fitted_answers_nothing() -> None:
    gm, x = dgmm.GaussianMixture(2), np.zeros((3, 2))
    for name in NAMES:
        with pytest.raises(dgmm.NotFittedError):
            getattr(gm, name)(x)
    with pytest.raises(dgmm.NotFittedError):
        gm.regress(x, [0])


@pytest.mark.parametrize(
    ("x", "given", "options", "error", "message"),
    [
        (np.zeros((3, 1)), [4], {}, InvalidParameterError, "feature 4 is not known"),
        (np.zeros((3, 1)), "a", {}, InvalidParameterError, "has no names"),
        (np.zeros((3, 2)), [1, 1], {}, InvalidParameterError, "twice"),
        (np.zeros((3, 1)), [1], {"targets": [1]}, InvalidParameterError, "at once"),
        (np.zeros((3, 4)), [0, 1, 2, 3], {}, InvalidParameterError, "none is left"),
        (np.zeros((3, 4)), [0, 1], {}, InvalidDataError, "4 columns and 2 features"),
        (np.full((3, 1), np.nan), [0], {}, InvalidDataError, "row 0, feature 0 is nan"),
        (np.zeros((3, 1)), [0], {"return_covariance": True, "out": "x"}, InvalidParameterError,
         "pair of places"),
    ],
)  # fmt: skip
def test_regressions_that_mean_nothing(x, given, options, error, message) -> None:
    with pytest.raises(error, match=message):
        model_of("full").regress(x, given, **options)


def test_names_of_columns_are_those_of_the_given_features(rows) -> None:
    frame = pd.DataFrame(rows, columns=list("abcd"))
    gm = dgmm.GaussianMixture(3, random_state=0).fit(frame)
    found = gm.regress(frame[["c", "a"]], ["c", "a"])
    assert_allclose(found, gm.mixture_.regress(rows[:, [2, 0]], [2, 0]))
    with pytest.raises(InvalidDataError, match="feature names"):
        gm.regress(frame[["a", "c"]], ["c", "a"])


@pytest.mark.parametrize("n_rows", [1, 2047, 2049, 30_000])
def test_slices_do_not_show(n_rows, rows) -> None:
    """Rows are answered a slice at a time; a slice is smaller for wide questions."""
    x = np.resize(rows, (n_rows, 4))
    mixture = random_mixture(np.random.default_rng(1), "full", 40, 4)
    task = AnswerPass(Distances(mixture), "float64")
    assert_allclose(task.evaluate(Rows(x), None), mixture.mahalanobis(x), rtol=1e-13)
    question = Regressed(regression_of(mixture, [0, 1]), with_covariance=True)
    both = AnswerPass(question, "float64").evaluate(Rows(x[:, :2]), None)
    means, covariances = mixture.regress(x[:, :2], [0, 1], return_covariance=True)
    assert_allclose(both[:, :, 0], means, rtol=1e-12, atol=1e-12)
    assert_allclose(both[:, :, 1:], covariances, rtol=1e-12, atol=1e-12)
