"""Names of columns, with the words of scikit-learn where they disagree."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.mixture import GaussianMixture as Reference

import dgmm

X = np.random.default_rng(0).normal(size=(200, 3))
NAMES = ["a", "b", "c"]


class Table:
    """The least that is read as a data frame."""

    def __init__(self, values: np.ndarray, columns: list[Any]) -> None:
        self.values, self.columns = values, columns

    def to_numpy(self) -> np.ndarray:
        return self.values


def _pandas(values: np.ndarray, columns: list[Any]) -> Any:
    return pd.DataFrame(values, columns=columns)


def _polars(values: np.ndarray, columns: list[Any]) -> Any:
    return pl.DataFrame(values, schema=columns)


MAKERS = [Table, _pandas, _polars]
FRAMES = [_pandas, _polars]
Maker = Callable[[np.ndarray, list[Any]], Any]


@pytest.mark.parametrize("make", MAKERS)
def test_names_are_kept_and_the_same_names_pass(make: Maker) -> None:
    table = make(X, NAMES)
    model = dgmm.GaussianMixture(2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(table)
        assert model.feature_names_in_.tolist() == NAMES
        np.testing.assert_array_equal(
            model.predict(table), dgmm.GaussianMixture(2, random_state=0).fit(X).predict(X)
        )
        model.partial_fit(table)
    assert model.mixture_.feature_names == tuple(NAMES)
    assert not hasattr(model.fit(X), "feature_names_in_")


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "names", [["a", "b", "d"], ["b", "a", "c"], ["a", "b", "c", "d"], list("stuvwxyz"), ["a"]]
)
@pytest.mark.parametrize("method", ["predict", "score", "bic", "partial_fit"])
def test_other_names_are_refused(make: Maker, names: list[str], method: str) -> None:
    theirs = _their_message(names)
    table = make(np.ones((5, len(names))), names)
    model = dgmm.GaussianMixture(2, random_state=0).fit(make(X, NAMES))
    with pytest.raises(dgmm.InvalidDataError) as caught:
        getattr(model, method)(table)
    assert str(caught.value) == theirs


def _their_message(names: list[str]) -> str:
    """What scikit-learn says, from a mixture of its own that is told the names."""
    from sklearn.utils import validation

    reference = Reference().fit(X)
    reference.feature_names_in_ = np.array(NAMES, dtype=object)
    validate = getattr(validation, "_check_feature_names", None)
    if validate is None:
        pytest.skip("this scikit-learn checks names elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "_get_feature_names", lambda _: np.array(names, dtype=object))
        # Its words are what is wanted.
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            validate(reference, X, reset=False)
    return str(caught.value)


def test_names_on_one_side_alone_are_warned_of() -> None:
    named, plain = (dgmm.GaussianMixture(random_state=0).fit(x) for x in (Table(X, NAMES), X))
    for method in ("predict", "score", "score_samples", "aic", "partial_fit"):
        # At the line of the caller, not at one of ours.
        with pytest.warns(UserWarning, match="does not have valid feature names") as seen:
            getattr(named, method)(X)
        assert seen[0].filename == __file__
        with pytest.warns(UserWarning, match="was fitted without feature names"):
            getattr(plain, method)(Table(X, NAMES))


def test_numbers_are_no_names_and_some_names_are_an_error() -> None:
    assert not hasattr(dgmm.GaussianMixture().fit(Table(X, [0, 1, 2])), "feature_names_in_")
    with pytest.raises(dgmm.InvalidDtypeError, match="only supported if all input features"):
        dgmm.GaussianMixture().fit(Table(X, ["a", 1, 2]))


def test_a_column_of_text_is_named() -> None:
    values = np.array([[1.0, "x"], [2.0, "y"]], dtype=object)
    with pytest.raises(dgmm.InvalidDtypeError, match=r"str at row 0, feature 1.*columns: a, b"):
        dgmm.GaussianMixture().fit(Table(values, ["a", "b"]))


def test_tables_of_mixed_numbers_fit() -> None:
    table = pd.DataFrame({"i": np.arange(50), "f": X[:50, 0], "b": X[:50, 1] > 0})
    assert dgmm.GaussianMixture().fit(table).n_features_in_ == 3
    table["i"] = table["i"].astype("Int64")
    assert dgmm.GaussianMixture().fit(table).n_features_in_ == 3
    table.loc[3, "i"] = pd.NA
    with pytest.raises((dgmm.InvalidDtypeError, dgmm.InvalidDataError), match="row 3"):
        dgmm.GaussianMixture().fit(table)


# --------------------------------------------------------------- frames, all that takes rows


# Frames hold columns, arrays rows: products round differently in the last place.
@pytest.mark.parametrize("make", FRAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_a_frame_gives_what_its_array_gives(make: Maker, dtype: str) -> None:
    x, close = (100 * X).astype(dtype), 1e-4 if dtype == "float32" else 1e-9
    frame, model = make(x, NAMES), dgmm.GaussianMixture(2, random_state=0)
    named, plain = model.fit(frame), dgmm.GaussianMixture(2, random_state=0).fit(x)
    assert named.means_.dtype == plain.means_.dtype
    for name in ("means_", "covariances_", "weights_"):
        np.testing.assert_allclose(getattr(named, name), getattr(plain, name), rtol=close)
    for name in ("predict", "predict_proba", "score_samples", "score", "bic", "aic"):
        found = getattr(named, name)(frame)
        assert type(found) is type(getattr(plain, name)(x))
        np.testing.assert_allclose(found, getattr(plain, name)(x), rtol=close, atol=close)
    batches = [dgmm.GaussianMixture(2, random_state=0) for _ in range(2)]
    for part in np.array_split(x, 2):
        batches[0].partial_fit(make(part, NAMES))
        batches[1].partial_fit(part)
    np.testing.assert_allclose(batches[0].means_, batches[1].means_, rtol=close)


@pytest.mark.parametrize("make", FRAMES)
def test_a_selection_keeps_the_names(make: Maker, tmp_path: Path) -> None:
    found = dgmm.select_model(make(X, NAMES), [1, 2], random_state=0)
    plain = dgmm.select_model(X, [1, 2], random_state=0)
    assert [row.bic for row in found.table] == pytest.approx([row.bic for row in plain.table])
    best = found.best_
    assert best.feature_names_in_.tolist() == NAMES
    assert best.mixture_.marginal(["c", "a"]).feature_names == ("c", "a")
    with pytest.raises(dgmm.InvalidDataError, match="feature names should match"):
        best.predict(make(X, ["c", "b", "a"]))
    best.save(tmp_path / "m.safetensors")
    loaded = dgmm.GaussianMixture.load(tmp_path / "m.safetensors")
    assert loaded.mixture_.feature_names == tuple(NAMES)


@pytest.mark.parametrize("make", FRAMES)
def test_weights_and_labels_are_columns_of_frames(make: Maker) -> None:
    weight, labels = np.arange(200) % 3, np.where(np.arange(200) < 40, np.arange(200) % 2, -1)
    expected = dgmm.GaussianMixture(2, random_state=0).fit(X, sample_weight=weight, labels=labels)
    beside = make(np.column_stack([weight, labels]), ["w", "l"])
    found = dgmm.GaussianMixture(2, random_state=0)
    found.fit(make(X, NAMES), sample_weight=beside["w"], labels=beside["l"])
    np.testing.assert_allclose(found.means_, expected.means_)
    within = make(np.column_stack([X, weight]), [*NAMES, "w"])
    found = dgmm.GaussianMixture(2, random_state=0).fit(within, sample_weight="w", labels=labels)
    np.testing.assert_allclose(found.means_, expected.means_)
    assert found.feature_names_in_.tolist() == NAMES


def test_missing_values_of_polars_are_named() -> None:
    frame = pl.DataFrame({"a": [1, 2, None], "b": [1.0, 2.0, 3.0]})
    with pytest.raises(dgmm.InvalidDataError, match="row 2, feature 0 is nan"):
        dgmm.GaussianMixture().fit(frame)


def test_a_query_is_no_frame_yet() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(dgmm.InvalidParameterError, match=r"polars LazyFrame.*collect\(\)"):
            dgmm.GaussianMixture().fit(_polars(X, NAMES).lazy())


def test_a_fit_that_goes_on_takes_no_column_for_another() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal([0.0, 9.0], 1.0, (60, 2)), columns=["a", "b"])
    model = dgmm.GaussianMixture(2, random_state=0, warm_start=True).fit(frame)
    model.fit(frame)
    with pytest.raises(dgmm.InvalidParameterError, match="pass them in that order"):
        model.fit(frame[["b", "a"]])
    assert list(model.feature_names_in_) == ["a", "b"]
    model.set_params(warm_start=False).fit(frame[["b", "a"]])
