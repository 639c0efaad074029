"""Every kind of bad input on the command line: a line that names it, a code, and no model."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

X = np.random.default_rng(0).normal(size=(300, 3))


def saved(x: Any) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        np.save(folder / "rows.npy", x, allow_pickle=True)
        return folder / "rows.npy"

    return save


def stored(folder: Path) -> Path:
    array = zarr.create_array(
        str(folder / "rows.zarr"),
        shape=X.shape,
        chunks=(50, 3),
        dtype="f8",
        compressors=[zarr.codecs.Crc32cCodec()],
    )
    array[:] = X
    return folder / "rows.zarr"


def sparse(folder: Path) -> Path:
    path = stored(folder)
    (path / "c" / "2" / "0").unlink()
    return path


def with_value(value: float) -> np.ndarray:
    x = X.copy()
    x[137, 2] = value
    return x


def damaged(folder: Path) -> Path:
    path = stored(folder)
    chunk = path / "c" / "3" / "0"
    chunk.write_bytes(bytes(1) + chunk.read_bytes()[1:])
    return path


def truncated(folder: Path) -> Path:
    path = saved(X)(folder)
    path.write_bytes(path.read_bytes()[:-100])
    return path


def group(folder: Path) -> Path:
    zarr.open_group(folder / "g.zarr", mode="w").create_array("rows", shape=X.shape, dtype="f8")
    return folder / "g.zarr"


def text_file(folder: Path) -> Path:
    (folder / "rows.csv").write_text("1,2\n3,4\n")
    return folder / "rows.csv"


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nan": (saved(with_value(np.nan)), "row 137, feature 2 is nan"),
    "infinite": (saved(with_value(-np.inf)), "row 137, feature 2 is -inf"),
    "one-dimensional": (saved(X[:, 0]), "got 1D array"),
    "three-dimensional": (saved(X[None]), "got 3D array"),
    "strings": (saved(X.astype(str)), "not a real number"),
    "objects": (saved(X.astype(object)), "dtype object"),
    "complex": (saved(X.astype(complex)), "complex128"),
    "dates": (saved(np.zeros((9, 2), "M8[s]")), "datetime64"),
    "empty": (saved(X[:0]), "0 sample(s)"),
    "without columns": (saved(X[:, :0]), "0 feature(s)"),
    "too few rows": (saved(X[:2]), "n_samples = 2"),
    "huge": (saved(X * 1e200), "rescale"),
    "a missing chunk": (sparse, "chunk c/2/0"),
    "a damaged chunk": (damaged, "damaged in c/3/0 (rows 150 to 199)"),
    "a truncated file": (truncated, "truncated"),
    "a group": (group, "is a Zarr group, not an array; arrays in it: rows"),
    "a text file": (text_file, "rows.csv is neither"),
    "nothing": (lambda folder: folder / "nothing.zarr", "no such file"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_data_ends_with_65(bad: str, tmp_path: Path, dgmm: Any) -> None:
    make, words = BAD[bad]
    run = dgmm("fit", make(tmp_path), "-k", 3, "--out", tmp_path / "m", "-q")
    assert run.code == 65, run.err
    assert words in run.err
    assert run.err.count("\n") == 1
    assert run.out == ""
    assert not (tmp_path / "m").exists()


GOOD: dict[str, Callable[[Path], Path]] = {
    "integers": saved((X * 20).astype("i4")),
    "booleans": saved(X > 0),
    "float16": saved(X.astype("f2")),
    "big-endian": saved(X.astype(">f8")),
    "Fortran order": saved(np.asfortranarray(X)),
}


@pytest.mark.parametrize("good", GOOD)
def test_other_numbers_are_accepted(good: str, tmp_path: Path, dgmm: Any) -> None:
    start = ("--init-params", "random_from_data", "--reg-covar", 1e-3)
    run = dgmm("fit", GOOD[good](tmp_path), "-k", 2, "--out", tmp_path / "m", "-q", *start)
    assert run.code == 0, run.err
    assert run.record["rows"] == 300


def test_a_sparse_store_is_filled_where_one_says_so(tmp_path: Path, dgmm: Any) -> None:
    fill = ("--on-missing-chunk", "fill", "--init-params", "random_from_data")
    run = dgmm("fit", sparse(tmp_path), "-k", 1, "--out", tmp_path / "m", "-q", *fill)
    assert (run.code, run.record["rows"]) == (0, 300)


def test_a_constant_column_fits_and_is_a_note(tmp_path: Path, dgmm: Any) -> None:
    path = saved(np.column_stack([X, np.full(300, 7.0)]))(tmp_path)
    run = dgmm("fit", path, "-k", 1, "--out", tmp_path / "m")
    assert run.code == 0
    assert "feature 3 is constant (7)" in run.err


def test_a_limit_that_is_too_small_is_usage(tmp_path: Path, dgmm: Any) -> None:
    options = ("--out", tmp_path / "m", "-q", "--memory-limit", "8MiB")
    run = dgmm("fit", stored(tmp_path), "-k", 2, *options)
    assert run.code == 2
    assert "--memory-limit is 8 MiB" in run.err


def of_version(data: bytes, version: int) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    ours = json.loads(header["__metadata__"]["dgmm"])
    header["__metadata__"]["dgmm"] = json.dumps(ours | {"version": version})
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


CHANGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda data: data[:-9], "is truncated"),
    "altered": (lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], "was altered"),
    "newer": (lambda data: of_version(data, 99), "version 99"),
    "no model": (lambda data: b"P" * len(data), "not a dgmm model"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("command", ["score", "predict", "inspect"])
def test_a_model_that_is_not_whole_ends_with_65(
    change: str, command: str, tmp_path: Path, dgmm: Any
) -> None:
    rows, model = saved(X)(tmp_path), tmp_path / "m.safetensors"
    assert dgmm("fit", rows, "-k", 1, "--out", model, "-q").code == 0
    alter, words = CHANGES[change]
    model.write_bytes(alter(model.read_bytes()))
    arguments = {
        "score": [model, rows],
        "predict": [model, rows, "--out", tmp_path / "labels.zarr"],
        "inspect": [model],
    }[command]
    run = dgmm(command, *arguments, "-q")
    assert run.code == 65, run.err
    assert words in run.err
    assert not (tmp_path / "labels.zarr").exists()
