"""One door to every source, and the sizes that it takes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgmm.data.location import Location
from dgmm.data.opening import open_dataset
from dgmm.data.planning import equal_ranges, joined_ranges
from dgmm.errors import InvalidParameterError, SourceError
from dgmm.sizes import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1, 1),
        (np.int64(5), 5),
        ("7", 7),
        ("16MiB", 16 * 2**20),
        ("16 mib", 16 * 2**20),
        ("1.5GB", 1_500_000_000),
        ("2k", 2000),
        ("3Ki", 3072),
        ("10 B", 10),
    ],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("value", ["", "MiB", "3x", "-1", "1e3", None, 1.5, True, 0, "0MB", "nan"])
def test_bad_sizes(value):
    with pytest.raises(InvalidParameterError, match="block_bytes must be"):
        parse_bytes(value, "block_bytes")


def test_sizes_are_shown():
    assert [format_bytes(n) for n in (5, 16 * 2**20, 3 * 2**29)] == ["5 B", "16 MiB", "1.5 GiB"]


@given(
    sizes=st.lists(st.integers(0, 20), max_size=30),
    row_bytes=st.integers(1, 9),
    block_bytes=st.integers(1, 200),
)
def test_joined_units(sizes, row_bytes, block_bytes):
    ranges = list(joined_ranges(sizes, row_bytes, block_bytes))
    edges = set(np.cumsum([0, *sizes]).tolist())
    assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges)][: len(ranges)]
    assert sum(stop - start for start, stop in ranges) == sum(sizes)
    assert all({start, stop} <= edges for start, stop in ranges)
    for start, stop in ranges:
        inside = [edge for edge in edges if start < edge < stop]
        assert (stop - start) * row_bytes <= block_bytes or not inside


@given(
    n_units=st.integers(0, 40),
    unit=st.integers(1, 30),
    row_bytes=st.integers(1, 9),
    block_bytes=st.integers(1, 500),
)
def test_equal_units_are_joined_units(n_units, unit, row_bytes, block_bytes):
    ranges = list(equal_ranges(0, n_units * unit, unit, row_bytes, block_bytes))
    assert ranges == list(joined_ranges([unit] * n_units, row_bytes, block_bytes))


def test_a_dataset_is_returned_as_it_is():
    dataset = open_dataset(np.zeros((3, 2)))
    assert open_dataset(dataset, block_bytes=1) is dataset


@pytest.mark.parametrize("source", [5, {}, None, object(), b"x"])
def test_unknown_kinds_list_what_is_accepted(source):
    with pytest.raises(InvalidParameterError, match=r"pass a two-dimensional NumPy array.*Zarr"):
        open_dataset(source)


def test_options_are_checked(tmp_path):
    with pytest.raises(InvalidParameterError, match="on_missing_chunk must be 'raise' or 'fill'"):
        open_dataset(np.zeros((3, 2)), on_missing_chunk="ignore")
    with pytest.raises(InvalidParameterError, match="is a local path"):
        open_dataset(tmp_path, storage_options={"anon": True})
    with pytest.raises(InvalidParameterError, match="the source is an object"):
        open_dataset(np.zeros((3, 2)), storage_options={"anon": True})


def test_paths_that_are_nothing(tmp_path):
    with pytest.raises(SourceError, match="nowhere: no such file"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="not a Zarr array"):
        open_dataset(tmp_path)
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(SourceError, match=r"x\.csv is neither.*pass a two-dimensional"):
        open_dataset(tmp_path / "x.csv")
    with pytest.raises(SourceError, match="read from local paths"):
        open_dataset("memory://x.npy")


def test_secrets_are_not_shown():
    url = "s3://user:hunter22@host/data?X-Signature=abcdef123"
    place = Location.of(url, {"key": "AKIAEXAMPLE", "client_kwargs": {"token": "tok-secret"}})
    shown = repr(place) + place.name + place.scrub(f"no access: {url} AKIAEXAMPLE tok-secret")
    for secret in ("hunter22", "abcdef123", "AKIAEXAMPLE", "tok-secret"):
        assert secret not in shown
    assert place.name == "s3://host/data"


def test_opening_arrays_imports_nothing_heavy():
    code = (
        "import sys, numpy; from dgmm.data.opening import open_dataset;"
        "open_dataset(numpy.zeros((3, 2))).blocks[0].read();"
        "print([m for m in ('dask', 'distributed', 'zarr', 'fsspec') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
