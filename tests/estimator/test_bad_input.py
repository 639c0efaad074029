"""Bad input never gives a result: a clear error says what, where and what to do."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr

import dgmm
from dgmm.covariance import family_names

X = np.random.default_rng(0).normal(size=(300, 3))


def spoiled(row: int, feature: int, value: float) -> np.ndarray:
    x = X.copy()
    x[row, feature] = value
    return x


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 137, 299])
def test_a_row_that_is_not_finite_is_named(value: float, row: int) -> None:
    dataset = dgmm.open_dataset(spoiled(row, 1, value), block_bytes=2400)
    with pytest.raises(dgmm.InvalidDataError, match=rf"row {row}, feature 1 is {value}"):
        dgmm.GaussianMixture(2).fit(dataset)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples", "score", "bic"])
def test_a_row_that_is_not_finite_is_named_when_scoring(method: str) -> None:
    model = dgmm.GaussianMixture(2, random_state=0).fit(X)
    with pytest.raises(dgmm.InvalidDataError, match=r"row 137, feature 2 is nan"):
        getattr(model, method)(spoiled(137, 2, np.nan))


def test_a_row_that_is_not_finite_is_named_in_a_zarr_store(tmp_path: Path) -> None:
    array = zarr.create_array(str(tmp_path / "x.zarr"), shape=X.shape, chunks=(50, 3), dtype="f8")
    array[:] = spoiled(260, 0, np.inf)
    with pytest.raises(dgmm.InvalidDataError, match="row 260, feature 0"):
        dgmm.GaussianMixture(2).fit(str(tmp_path / "x.zarr"))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.array([["a", "b"]] * 5), dgmm.InvalidDtypeError, "not a real number"),
        (np.array([[object()]] * 5), dgmm.InvalidDtypeError, "not a real number"),
        (X.astype(complex), dgmm.InvalidDtypeError, "complex128"),
        (X[:0], dgmm.InvalidDataError, r"0 sample.*more rows"),
        (X[:, :0], dgmm.InvalidDataError, r"0 feature.*at least one column"),
        (X[0], dgmm.InvalidDataError, r"shape|dimension"),
        (X[None], dgmm.InvalidDataError, r"shape|dimension"),
        (X[:3], dgmm.InvalidDataError, r"n_samples >= n_components.*lower n_components"),
        (X * 1e200, dgmm.InvalidDataError, "rescale"),
    ],
)
def test_data_that_cannot_be_fitted(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        dgmm.GaussianMixture(4).fit(x)
    assert isinstance(caught.value, dgmm.DgmmError)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("n_components", 0),
        ("n_components", 2.0),
        ("n_components", True),
        ("covariance_type", "fulll"),
        ("covariance_type", None),
        ("tol", -1.0),
        ("tol", np.nan),
        ("reg_covar", -1e-6),
        ("max_iter", -1),
        ("n_init", 0),
        ("init_params", "best"),
        ("random_state", -1),
        ("random_state", "seed"),
        ("random_state", True),
        ("random_state", np.True_),
        ("engine", "spark"),
        ("engine", 3),
        ("device", "tpu"),
        ("device", "cuda:x"),
        ("device", None),
        ("verbose", -1),
        ("verbose", None),
        ("verbose", "loud"),
        ("verbose_interval", 0),
        ("warm_start", "yes"),
        ("warm_start", None),
        ("means_init", "abc"),
        ("dtype", "float16"),
        ("memory_limit", "lots"),
        ("memory_limit", 0),
        ("weights_init", [0.5, 0.6]),
        ("weights_init", [0.5]),
        ("weights_init", [-0.5, 1.5]),
        ("means_init", np.zeros((2, 2))),
        ("means_init", np.full((2, 3), np.nan)),
        ("precisions_init", -np.ones((2, 3, 3))),
        ("precisions_init", np.triu(np.ones((2, 3, 3)))),
    ],
)
def test_an_argument_out_of_range_is_named(argument: str, value: Any) -> None:
    model = dgmm.GaussianMixture(**{"n_components": 2, argument: value})
    with pytest.raises(dgmm.InvalidParameterError, match=argument):
        model.fit(X)


def test_a_wrong_number_of_features_is_refused() -> None:
    model = dgmm.GaussianMixture(2, random_state=0).fit(X)
    with pytest.raises(dgmm.InvalidDataError, match=r"2 features.*expecting 3.*pass the columns"):
        model.predict(X[:, :2])


def test_nothing_works_before_a_fit() -> None:
    from sklearn.exceptions import NotFittedError

    model = dgmm.GaussianMixture(2)
    for use in (lambda: model.predict(X), model.sample, lambda: model.save("x")):
        with pytest.raises(NotFittedError) as caught:
            use()
        assert isinstance(caught.value, dgmm.DgmmError)


def test_a_constant_column_fits_and_is_reported() -> None:
    x = np.column_stack([X, np.full(len(X), 7.0)])
    with pytest.warns(dgmm.ConstantFeatureWarning, match=r"column 3 \(7\) is constant"):
        model = dgmm.GaussianMixture(2, random_state=0).fit(x)
    assert any("feature 3 is constant (7)" in note for note in model.record_.notes)
    np.testing.assert_allclose(model.covariances_[:, 3, 3], 1e-6, rtol=1e-3)
    np.testing.assert_allclose(model.means_[:, 3], 7.0)


FAR = {"weights_init": [0.5, 0.4, 0.1], "means_init": [[0.0] * 3, [1.0] * 3, [1e3] * 3]}


@pytest.mark.parametrize("family", family_names())
@pytest.mark.parametrize("options", [{}, {"algorithm": "cem"}, {"acceleration": "reading"}])
def test_a_component_without_rows_is_warned_of(family: str, options: dict[str, Any]) -> None:
    model = dgmm.GaussianMixture(3, covariance_type=family, random_state=0, **FAR, **options)
    with pytest.warns(dgmm.EmptyComponentWarning, match="2 w(as|ere) without rows"):
        model.fit(X)
    assert model.weights_[2] == 0.0
    assert any("2 were without rows" in note for note in model.record_.notes)


@pytest.mark.parametrize("family", family_names())
def test_a_batch_that_empties_a_component_is_warned_of_once(family: str) -> None:
    model = dgmm.GaussianMixture(3, covariance_type=family, random_state=0, **FAR)
    with pytest.warns(dgmm.EmptyComponentWarning, match="component 2 was without rows"):
        model.partial_fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error", dgmm.EmptyComponentWarning)
        model.partial_fit(X)
    assert model.weights_[2] == 0.0


def test_a_selected_mixture_with_an_empty_component_is_warned_of() -> None:
    def apart(sample: np.ndarray, n_components: int, seed: int) -> np.ndarray:
        return np.full((n_components, 3), 1e3) * np.arange(n_components)[:, None]

    with pytest.warns(dgmm.EmptyComponentWarning, match="components 1, 2 were without rows"):
        dgmm.select_model(X, 3, covariance_types="diag", init_params=apart, random_state=0)


def test_stochastic_em_warns_of_the_mixture_that_it_returns() -> None:
    # Two components on one cluster: the smaller dies out after the likeliest iterate.
    x = np.random.default_rng(1).normal(size=(40, 1))
    start = {"weights_init": [0.9, 0.1], "means_init": [[0.0], [1.0]], "random_state": 2}
    model = dgmm.GaussianMixture(2, algorithm="sem", max_iter=60, reg_covar=0.1, **start)
    with warnings.catch_warnings():
        warnings.simplefilter("error", dgmm.EmptyComponentWarning)
        model.fit(x)
    assert model.weights_.min() > 0.0
    assert any("were without rows" in note for note in model.record_.notes)


@pytest.mark.parametrize(
    "fit",
    [
        lambda model, x: model.fit(x),
        lambda model, x: model.fit_predict(x),
        lambda model, x: model.fit(x, sample_weight=np.ones(len(x))),
        lambda _, x: dgmm.select_model(x, [1, 2], n_init=3, random_state=0),
    ],
    ids=["fit", "fit_predict", "weighted", "select_model"],
)
def test_constant_columns_are_warned_of_once_at_the_callers_line(fit) -> None:
    x = np.column_stack([X, np.full((len(X), 2), 7.0)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(dgmm.GaussianMixture(2, n_init=3, random_state=0), Frame(x))
    (warning,) = caught
    assert warning.category is dgmm.ConstantFeatureWarning
    assert issubclass(warning.category, UserWarning)
    assert warning.filename == __file__
    assert "columns 'd' (7), 'e' (7) are constant" in str(warning.message)
    assert "covariance_floor" in str(warning.message)


class Frame:
    """As much of a data frame as it takes."""

    def __init__(self, values) -> None:
        self.columns, self._values = list("abcde")[: values.shape[1]], values

    def __len__(self) -> int:
        return len(self._values)

    def to_numpy(self):
        return self._values


def test_many_constant_columns_are_not_all_listed() -> None:
    x = np.column_stack([X, np.full((len(X), 10), 7.0)])
    with pytest.warns(dgmm.DgmmWarning, match=r"10 \(7\) and 2 more are constant"):
        dgmm.GaussianMixture(2, random_state=0).fit(x)


@pytest.mark.filterwarnings("ignore::dgmm.ConstantFeatureWarning")
def test_a_constant_column_without_a_floor_retires_every_restart() -> None:
    x = np.column_stack([X, np.full(len(X), 7.0)])
    with pytest.raises(
        dgmm.SingularMixtureError, match="ill-defined empirical covariance"
    ) as caught:
        dgmm.GaussianMixture(2, reg_covar=0.0, n_init=3, random_state=0).fit(x)
    assert "restart 2" in str(caught.value)


def test_a_restart_that_collapses_is_retired_and_reported() -> None:
    rng = np.random.default_rng(0)
    clouds = [rng.normal(centre, 1.0, (300, 2)) for centre in (0, 5)]
    x = np.concatenate([*clouds, np.full((4, 2), 30.0)])
    model = dgmm.GaussianMixture(
        2, reg_covar=0.0, n_init=8, init_params="random_from_data", random_state=1
    ).fit(x)
    retired = [i for i, one in enumerate(model.record_.restarts) if one.status == "retired"]
    assert 0 < len(retired) < 8
    for number in retired:
        pattern = rf"restart {number} retired: component \d \(weight 0\.0066\d\) collapsed"
        assert any(re.match(pattern, note) for note in model.record_.notes)
    assert np.all(np.linalg.eigvalsh(model.covariances_) > 0.1)


def test_a_missing_chunk_is_not_the_fill_value(tmp_path: Path) -> None:
    path = str(tmp_path / "x.zarr")
    array = zarr.create_array(path, shape=X.shape, chunks=(50, 3), dtype="f8")
    array[:100] = X[:100]
    with pytest.raises(dgmm.MissingChunkError, match="on_missing_chunk"):
        dgmm.GaussianMixture(2).fit(path)
    dataset = dgmm.open_dataset(path, on_missing_chunk="fill")
    assert dgmm.GaussianMixture(2, random_state=0).fit(dataset).record_.rows == len(X)


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    codecs = [zarr.codecs.Crc32cCodec()]
    array = zarr.create_array(
        str(path), shape=X.shape, chunks=(100, 3), dtype="f8", compressors=codecs
    )
    array[:] = X
    chunk = path / "c" / "1" / "0"
    data = bytearray(chunk.read_bytes())
    data[17] ^= 4
    chunk.write_bytes(bytes(data))
    with pytest.raises(dgmm.DamagedBlockError, match="rows"):
        dgmm.GaussianMixture(2).fit(str(path))


def test_a_group_is_not_an_array(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "g.zarr"), mode="w")
    group.create_array("rows", shape=X.shape, dtype="f8")
    with pytest.raises(dgmm.SourceError, match="rows"):
        dgmm.GaussianMixture(2).fit(str(tmp_path / "g.zarr"))


def test_a_limit_too_small_for_one_block_says_what_to_change(tmp_path: Path) -> None:
    path = str(tmp_path / "x.npy")
    np.save(path, np.zeros((400_000, 16)))
    with pytest.raises(dgmm.MemoryLimitError, match=r"memory_limit is 8 MiB, .* need \d+ MiB"):
        dgmm.GaussianMixture(2, memory_limit="8MiB").fit(path)
    # The limit as it was asked for, not as much as rounding makes of it.
    with pytest.raises(dgmm.MemoryLimitError, match=r"memory_limit is 10 KiB, .* need \d+ MiB"):
        dgmm.GaussianMixture(2, memory_limit="10KiB").fit(path)


def test_dask_arrays_of_unknown_length_are_refused() -> None:
    x = da.from_array(X, chunks=(100, 3))
    with pytest.raises(dgmm.InvalidDataError, match="compute_chunk_sizes"):
        dgmm.GaussianMixture(2).fit(x[x[:, 0] > 0])


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "float16", ">f8", ">f4", "bool"])
def test_dtypes_that_are_converted_by_tile(dtype: str) -> None:
    x = (X * 20).astype(dtype)
    model = dgmm.GaussianMixture(2, random_state=0, reg_covar=1e-3).fit(x)
    native = x.astype("float32" if dtype in ("float16", ">f4") else "float64")
    same = dgmm.GaussianMixture(2, random_state=0, reg_covar=1e-3).fit(native)
    np.testing.assert_allclose(model.means_, same.means_, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(model.predict(x), same.predict(native))


def test_fortran_order_is_accepted() -> None:
    one = dgmm.GaussianMixture(2, random_state=0).fit(X)
    other = dgmm.GaussianMixture(2, random_state=0).fit(np.asfortranarray(X))
    np.testing.assert_allclose(one.means_, other.means_, rtol=1e-12)


@pytest.mark.parametrize(
    ("attribute", "values"),
    [("means_", np.zeros((3, 2))), ("weights_", np.ones(1)), ("covariances_", np.ones((2, 2)))],
)
def test_a_part_of_another_shape_is_named_as_itself(attribute: str, values: Any) -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    model = dgmm.GaussianMixture(2, random_state=0).fit(x)
    before = model.mixture_
    part = attribute.rstrip("_")
    shape = re.escape(str(getattr(before, part).shape))
    with pytest.raises(dgmm.InvalidParameterError, match=f"^{part} of shape .* of shape {shape};"):
        setattr(model, attribute, values)
    assert model.mixture_ is before
