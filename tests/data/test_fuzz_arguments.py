"""Anything in any argument of ``open_dataset`` gives rows, or an error of ours."""

from __future__ import annotations

import inspect
import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import dgmm
from dgmm.errors import DgmmError, InvalidDataError, InvalidParameterError
from dgmm.testing.sources import read_all
from tests.data.zarr_arrays import write

X = np.random.default_rng(0).normal(size=(40, 2))
OPTIONS = sorted(set(inspect.signature(dgmm.open_dataset).parameters) - {"source"})

numbers = st.one_of(
    st.integers(-3, 2**70),
    st.floats(),
    st.sampled_from([np.float32(1), np.int8(2), 1 + 2j, True, False]),
)
objects = st.sampled_from(
    [object(), int, Ellipsis, range(3), {1, 2}, lambda *a: a, itertools.count(), X, X[:, 0]]
)
values = st.one_of(
    st.none(),
    numbers,
    objects,
    st.text(max_size=6),
    st.binary(max_size=4),
    st.sampled_from(["raise", "skip", "fill", "1 MiB", "1e999GB", "9" * 400 + "B", "x"]),
    st.lists(st.one_of(numbers, st.text(max_size=2)), max_size=4),
    st.dictionaries(st.one_of(st.text(max_size=3), numbers), numbers, max_size=2),
    arrays(np.float64, array_shapes(max_dims=3, max_side=3)),
    arrays(st.sampled_from([np.dtype("U2"), np.dtype(object), np.dtype("M8[s]")]), (2,)),
)


@pytest.fixture(params=["array", "npy", "zarr", "parquet", "url"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "array":
        return X
    place = tmp_path / f"x.{request.param}"
    if request.param == "npy":
        np.save(place, X)
    elif request.param == "parquet":
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pa.table({"x": X[:, 0], "y": X[:, 1]}), place)
    else:
        write(place, X, chunks=(10, 2))
    return f"simplecache::file://{place}" if request.param == "url" else place


def check(source: Any, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = dgmm.open_dataset(source, **options)
            assert read_all(dataset).shape == dataset.shape
        except DgmmError:
            pass


@pytest.mark.parametrize("name", OPTIONS)
@settings(max_examples=25)
@given(value=values)
def test_anything_in_an_option(name: str, value: Any, source: Any) -> None:
    check(source, **{name: value})


@settings(max_examples=150)
@given(value=values)
def test_anything_in_the_place_of_rows(
    value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check(value)


def test_names_of_columns_are_text_and_come_to_an_end(tmp_path: Path) -> None:
    for columns in (3, [b"x"], itertools.count(), X):
        with pytest.raises(InvalidParameterError, match="columns must be a list of names"):
            dgmm.open_dataset(tmp_path / "x.parquet", columns=columns)


@pytest.mark.parametrize("most", [0.01, 1.0])
def test_when_every_row_is_bad_it_is_said(most: float) -> None:
    bad = dgmm.open_dataset(np.full((40, 2), np.nan), on_bad_rows="skip", max_skipped=most)
    said = "all 40 rows would be skipped, and nothing is left: 40 bad rows"
    with pytest.raises(InvalidDataError, match=said):
        dgmm.GaussianMixture(2).fit(bad)
    with pytest.raises(InvalidDataError, match=said):
        dgmm.GaussianMixture(2, random_state=0).fit(X).score(bad)
