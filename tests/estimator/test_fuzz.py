"""Anything in any argument of the estimator gives a result that is one, or an error of ours."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import dgmm

T = TypeVar("T")
X = np.random.default_rng(0).normal(size=(40, 2))
NAMES = sorted(set(inspect.signature(dgmm.GaussianMixture).parameters) - {"self"})

# A number that is meant costs what it asks for, so those of passes stay small.
WORDS = ["em", "cem", "sem", "full", "diag", "tied", "kmeans", "random", "auto", "cpu", "dask "]
numbers = st.one_of(
    st.integers(-3, 12),
    st.floats(width=32),
    st.sampled_from([-(10**30), 1e300, 5e-324, np.float32(1), np.int8(2), 1 + 2j, True, False]),
)
values = st.one_of(
    st.none(),
    numbers,
    st.text(max_size=6),
    st.binary(max_size=4),
    st.sampled_from([*WORDS, object(), int, Ellipsis, range(3), {1, 2}, lambda *a: a, X, X[:, 0]]),
    st.lists(numbers, max_size=4),
    st.dictionaries(st.sampled_from(["weights", "means", "x"]), numbers, max_size=2),
    arrays(np.float64, array_shapes(max_dims=3, max_side=3)),
    arrays(st.sampled_from([np.dtype("U2"), np.dtype(object), np.dtype("M8[s]")]), (2,)),
)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30)
@given(value=values, family=st.sampled_from(["full", "tied_diag"]))
def test_anything_in_an_argument(
    name: str, value: Any, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A text is a good directory for checkpoints.
    monkeypatch.chdir(tmp_path)
    arguments = {"n_components": 2, "covariance_type": family, "max_iter": 3, "random_state": 0}
    model = dgmm.GaussianMixture(**arguments | {name: value})
    if (found := unless_refused(lambda: model.fit(X))) is not None:
        check(found)


def unless_refused(call: Callable[[], T]) -> T | None:
    """What it gives; None if it raised an error of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call()
        except dgmm.DgmmError:
            return None


def check(model: dgmm.GaussianMixture) -> None:
    """It was fitted, to something."""
    assert np.isfinite(model.lower_bound_) or model.max_iter == 0
    np.testing.assert_allclose(model.weights_.sum(), 1, rtol=1e-6)
    assert np.isfinite(model.means_).all()
    assert np.isfinite(model.covariances_).all()


# With a value for each row, so that some are right.
column = st.one_of(
    values,
    arrays(np.float64, len(X)),
    arrays(np.int64, len(X), elements=st.integers(-2, 3)),
    st.lists(numbers, min_size=len(X), max_size=len(X)),
)


@pytest.mark.parametrize("name", ["sample_weight", "labels"])
@settings(max_examples=60)
@given(value=column)
def test_anything_for_the_rows(
    name: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = dgmm.GaussianMixture(3, max_iter=3, random_state=0)
    if (found := unless_refused(lambda: model.fit(X, **{name: value}))) is not None:
        check(found)


SELECTED = ["n_components", "covariance_types", "criterion", "holdout", "n_init", "random_state"]


@pytest.mark.parametrize("name", [*SELECTED, "sample_weight", "labels"])
@settings(max_examples=25)
@given(value=column)
def test_anything_in_a_selection(
    name: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = {"n_components": [1, 2], "criterion": "heldout", "max_iter": 3, "random_state": 0}
    if (
        found := unless_refused(lambda: dgmm.select_model(X, **arguments | {name: value}))
    ) is not None:
        check(found.best_)
        assert all(np.isfinite(row.bic) or row.reason for row in found.table)
