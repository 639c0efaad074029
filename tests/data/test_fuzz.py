"""Metadata that anyone may have written: an error of ours, or rows of the shape that it declares.

A shape or dtype that was changed into another valid one cannot be told from a right one; what it
must not do is raise something else, or take memory for what it merely declares.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dgmm
from dgmm.data.opening import open_dataset
from dgmm.data.row_values import open_column
from dgmm.errors import DamagedBlockError, DgmmError, InvalidDataError, SourceError
from dgmm.testing.sources import read_all
from tests.data.zarr_arrays import write

VALUES = np.random.default_rng(0).normal(size=(40, 3)).astype("f4")
# Rows beyond it are left to the memory limit of a fit.
READABLE = 2**20

ODD = [None, True, -1, 0, 1, 1.5, 2**31, 2**62, 2**64, 10**30, float("nan"), "", "x", "|O", "V10"]
WILD = [*ODD, "float64", [], [1], [3, 3, 3], [2**40, 2**40], {}, {"name": "x"}, [["a", "<i4"]]]
SHAPES = ["(40, 3)", "(40,)", "()", "(-40, 3)", "(40, 0)", "(4611686018427387904, 4)", "(True, 3)"]
SHAPES += ["(40.0, 3)", "(None, 3)", "40", "(10000000000000000000000, 0)", "((40), 3"]


def check(path: Path) -> None:
    try:
        dataset = open_dataset(path)
        if dataset.nbytes < READABLE and all(b.peak_read_bytes < 2**26 for b in dataset.blocks):
            assert read_all(dataset).shape == dataset.shape
    except DgmmError:
        pass


def flipped(data: bytes, flips: list[tuple[int, int]], within: int | None = None) -> bytes:
    changed = bytearray(data)
    for place, bit in flips:
        changed[place % (within or len(changed))] ^= 1 << bit
    return bytes(changed)


flips = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 7)), min_size=1, max_size=4)


def places(document: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything within a document of JSON."""
    pairs = document.items() if isinstance(document, dict) else ()
    pairs = enumerate(document) if isinstance(document, list) else pairs
    return [path for key, one in pairs for path in [(*at, key), *places(one, (*at, key))]]


@pytest.fixture(params=["v3", "v3 in shards", "v2"])
def metadata(request, tmp_path):
    shards = {"shards": (20, 3)} if request.param == "v3 in shards" else {}
    version = 2 if request.param == "v2" else 3
    write(tmp_path / "x", VALUES, chunks=(10, 3), zarr_format=version, **shards)
    return tmp_path / "x" / (".zarray" if version == 2 else "zarr.json")


@settings(max_examples=60)
@given(data=st.data())
def test_anything_in_the_metadata_of_zarr(metadata, data):
    good = metadata.read_bytes()
    document = json.loads(good)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(places(document)))
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        if data.draw(st.booleans()):
            parent[path[-1]] = data.draw(st.sampled_from(WILD))
        else:
            del parent[path[-1]]
        if not places(document):
            break
    try:
        metadata.write_text(json.dumps(document))
        check(metadata.parent)
    finally:
        metadata.write_bytes(good)


@settings(max_examples=40)
@given(flips=flips)
def test_bits_flipped_in_the_metadata_of_zarr(metadata, flips):
    good = metadata.read_bytes()
    try:
        metadata.write_bytes(flipped(good, flips))
        check(metadata.parent)
    finally:
        metadata.write_bytes(good)


@settings(max_examples=150)
@given(flips=flips)
def test_bits_flipped_in_the_header_of_npy(tmp_path, flips):
    np.save(tmp_path / "good.npy", VALUES)
    (tmp_path / "x.npy").write_bytes(flipped((tmp_path / "good.npy").read_bytes(), flips, 128))
    check(tmp_path / "x.npy")


@settings(max_examples=150)
@given(
    dtype=st.sampled_from(["<f4", "<f8", "|O", "<U3", "|V4", "<M8[s]", "<f999999999", "|S0", "x"]),
    order=st.sampled_from(["False", "True", "2"]),
    shape=st.sampled_from(SHAPES),
    version=st.sampled_from([1, 2, 3, 9]),
)
def test_anything_in_the_header_of_npy(tmp_path, dtype, order, shape, version):
    text = f"{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': {shape}}}\n".encode()
    length = len(text).to_bytes(2 if version == 1 else 4, "little")
    head = b"\x93NUMPY" + bytes([version, 0]) + length + text
    (tmp_path / "x.npy").write_bytes(head + VALUES.tobytes())
    check(tmp_path / "x.npy")


@settings(max_examples=100)
@given(flips=flips, length=st.one_of(st.none(), st.integers(0, 2**32 - 1)))
def test_anything_in_the_footer_of_parquet(tmp_path, flips, length):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pa.table({f"x{i}": VALUES[:, i] for i in range(3)})
    parquet.write_table(table, tmp_path / "good.parquet", row_group_size=10)
    good = (tmp_path / "good.parquet").read_bytes()
    size = int.from_bytes(good[-8:-4], "little")
    tail = flipped(good[-8 - size :], flips)
    if length is not None:
        tail = tail[:-8] + length.to_bytes(4, "little") + tail[-4:]
    (tmp_path / "x.parquet").write_bytes(good[: -8 - size] + tail)
    check(tmp_path / "x.parquet")


@pytest.mark.parametrize("shape", ["(True, 3)", "(-40, 3)", "(10000000000000000000000, 0)", "((40"])
def test_headers_that_numpy_stumbles_over_are_damage(tmp_path, shape):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 480)
    with pytest.raises(DamagedBlockError, match=r"truncated or not a \.npy file"):
        open_dataset(path)
    with pytest.raises(DamagedBlockError, match=r"sample_weight: .*truncated or not a \.npy"):
        open_column(path, "sample_weight", 40)


def test_chunks_of_no_columns_are_refused(tmp_path):
    write(tmp_path / "x", VALUES, chunks=(10, 3), zarr_format=2)
    document = json.loads((tmp_path / "x/.zarray").read_text())
    (tmp_path / "x/.zarray").write_text(json.dumps({**document, "chunks": [10, 0]}))
    # zarr 3.4 takes a 0 for a 1, and warns of it: there are no such chunks.
    said = r"chunks of shape \(10, 0\)|chunk \d\.\d of block rows 0 to 39 was never written"
    with warnings.catch_warnings(), pytest.raises(SourceError, match=said):
        warnings.simplefilter("ignore")
        read_all(open_dataset(tmp_path / "x"))


def test_what_is_declared_wide_is_held_to_the_limit_before_anything_is_made_of_it(tmp_path):
    write(tmp_path / "x", VALUES, chunks=(10, 3))
    document = json.loads((tmp_path / "x/zarr.json").read_text())
    for width in (10**7, 2**30):
        (tmp_path / "x/zarr.json").write_text(json.dumps({**document, "shape": [40, width]}))
        with pytest.raises(dgmm.MemoryLimitError):
            dgmm.GaussianMixture(1, memory_limit="512MiB").fit(tmp_path / "x")
    (tmp_path / "x/zarr.json").write_text(json.dumps({**document, "shape": [40, 2**40]}))
    with pytest.raises(InvalidDataError, match="declares 1099511627776 features"):
        open_dataset(tmp_path / "x")


@pytest.mark.parametrize("argument", ["sample_weight", "labels"])
def test_ragged_values_name_their_argument(argument):
    with pytest.raises(InvalidDataError, match=f"{argument}: the values do not make"):
        dgmm.GaussianMixture(1).fit(VALUES, **{argument: [1, [2]]})
