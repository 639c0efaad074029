"""Selection by weighted rows: a weight of 2 is a row twice, wherever the weights come from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose

import dgmm
from dgmm.covariance import family_names
from dgmm.data.dataset import Rows
from dgmm.shared_fit import Batch
from tests.numerics.problems import blobs

X = blobs(31, n_rows=900, n_features=3, n_components=3, reach=6.0)
COPIES = np.random.default_rng(5).integers(0, 4, len(X))
CENTRES = X[:4] + 0.1
NUMBERS = ("log_likelihood", "bic", "aic", "icl")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(params=["local", "dask"])
def engine(request: pytest.FixtureRequest) -> Any:
    if request.param == "local":
        return dgmm.LocalEngine(2)
    return dgmm.DaskEngine(request.getfixturevalue("client"))


def selected(x, family="full", sample_weight=None, **options):
    """From starts that repeated rows share: a sample draws rows by number."""
    options = {"init_params": lambda _, k, __: CENTRES[:k], "tol": 1e-5, "max_iter": 30} | options
    return dgmm.select_model(
        x, [2, 3], covariance_types=family, sample_weight=sample_weight, random_state=0, **options
    )


def assert_same_table(ours, theirs, rtol=1e-9):
    assert [row.n_iter for row in ours.table] == [row.n_iter for row in theirs.table]
    for name in NUMBERS:
        expected = [getattr(row, name) for row in theirs.table]
        assert_allclose([getattr(row, name) for row in ours.table], expected, rtol=rtol)


@pytest.mark.parametrize("family", family_names())
def test_an_integer_weight_is_a_number_of_copies(engine, family) -> None:
    blocks = dgmm.open_dataset(X, block_bytes=7200)
    ours = selected(blocks, family, COPIES, engine=engine)
    theirs = selected(np.repeat(X, COPIES, axis=0), family)
    assert_same_table(ours, theirs)
    assert_allclose(ours.best_.means_, theirs.best_.means_, rtol=1e-7)
    assert ours.best_row.bic == pytest.approx(ours.best_.bic(X, COPIES), rel=1e-9)
    assert ours.best_row.aic == pytest.approx(ours.best_.aic(X, COPIES), rel=1e-9)


@pytest.mark.parametrize("family", family_names())
def test_rows_held_out_are_scored_by_their_weights(engine, family) -> None:
    weight = np.random.default_rng(6).exponential(size=len(X)) * (COPIES > 0)
    dataset = dgmm.open_dataset(X, block_bytes=7200)
    found = selected(dataset, family, weight, criterion="heldout", holdout=0.3, engine=engine)
    held = Batch((), (), (), dataset, 0.3).split(np.random.SeedSequence(0)).held(Rows(X))
    densities = found.best_.score_samples(X)
    row = found.best_row
    assert 0.2 < held.mean() < 0.4
    for name, side in (("heldout", held), ("log_likelihood", ~held)):
        expected = np.average(densities[side], weights=weight[side])
        assert getattr(row, name) == pytest.approx(expected, rel=1e-9)
    total = weight[~held] @ densities[~held]
    bic = -2 * total + row.n_parameters * np.log(weight[~held].sum())
    assert row.bic == pytest.approx(bic, rel=1e-9)


@pytest.mark.parametrize("kind", ["zarr", "dask", "number of a column", "name of a column"])
def test_weights_come_from_anywhere(engine, kind, tmp_path) -> None:
    truth = selected(X, sample_weight=COPIES)
    rows: Any = X
    weight: Any = COPIES.astype(float)
    if kind == "zarr":
        zarr.create_array(tmp_path / "w.zarr", data=weight, chunks=97)
        weight = str(tmp_path / "w.zarr")
    elif kind == "dask":
        weight = da.from_array(weight, chunks=97)
    else:
        rows, weight = np.column_stack([X, weight]), 3
        if kind.startswith("name"):
            rows, weight = Frame(rows), "count"
    assert_same_table(selected(rows, sample_weight=weight, engine=engine), truth)


class Frame:
    """As much of a data frame as it takes."""

    def __init__(self, values) -> None:
        self.columns, self._values = ["x", "y", "z", "count"], values

    def to_numpy(self):
        return self._values


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.zeros(900), "only 0 rows have a positive sample_weight"),
        (np.r_[np.ones(2), np.zeros(898)], "only 2 rows .* up to 3 components"),
        (np.r_[np.ones(10), -1.0, np.ones(889)], "sample_weight is negative: row 10"),
        (np.ones(899), "899 values for 900 rows"),
    ],
)
def test_bad_weights_are_refused(weight, message) -> None:
    with pytest.raises(dgmm.InvalidDataError, match=message):
        selected(X, sample_weight=weight)


def test_weights_are_given_once() -> None:
    dataset = dgmm.open_dataset(X).with_weights(COPIES)
    assert_same_table(selected(dataset), selected(X, sample_weight=COPIES))
    with pytest.raises(dgmm.InvalidParameterError, match="carries weights already"):
        selected(dataset, sample_weight=COPIES)
