"""Parquet files: formats, columns, partitions, bad files, nulls, memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from dgmm.data.opening import open_dataset
from dgmm.errors import (
    DamagedBlockError,
    DataChangedError,
    InvalidDataError,
    InvalidDtypeError,
    InvalidParameterError,
    MissingDependencyError,
    SourceError,
    StoreUnavailableError,
)
from dgmm.testing.sources import SourceSuite, read_all, travelled

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

NATIVE = ("?", "i1", "u2", "i4", "u8", "i8", "f2", "f4", "f8")


def table_of(values, names=None):
    names = names or [f"x{i}" for i in range(values.shape[1])]
    return pa.table({name: np.ascontiguousarray(values[:, i]) for i, name in enumerate(names)})


def write(place, values, names=None, **options):
    options.setdefault("row_group_size", 20)
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table_of(values, names), place, write_page_checksum=True, **options)


class TestFile(SourceSuite):
    dtypes = NATIVE
    options: ClassVar = {}

    def store(self, values, place):
        write(place / "x.parquet", values, **self.options)
        return place / "x.parquet"


class TestOtherSettings(TestFile):
    options: ClassVar = {"data_page_version": "2.0", "use_dictionary": False, "compression": "zstd"}


class TestAnyName(TestFile):
    def store(self, values, place):
        write(place / "rows.dat", values)
        return place / "rows.dat"


class TestFolder(TestFile):
    """Row groups of several files, the blocks going over their ends."""

    def store(self, values, place):
        for number, start in enumerate(range(0, max(len(values), 1), 90)):
            write(place / "d" / f"part-{number}.parquet", values[start : start + 90])
        (place / "d" / "_SUCCESS").write_text("")
        (place / "d" / ".part-0.parquet.crc").write_bytes(b"crc")
        return place / "d"

    def test_the_fingerprint_sees_shape(self, values, tmp_path):
        one = open_dataset(self.store(values, tmp_path / "a")).fingerprint
        assert open_dataset(self.store(values[:-1], tmp_path / "b")).fingerprint != one


class TestPattern(TestFolder):
    def store(self, values, place):
        return super().store(values, place) / "part-*.parquet"


class TestMemoryUrl(TestFile):
    sees_content = False  # fsspec's clock for files in memory may be too coarse

    def store(self, values, place):
        import fsspec

        with fsspec.open(f"memory://{place.name}/f/x.parquet", "wb") as file:
            pq.write_table(table_of(values), file, row_group_size=20)
        return f"memory://{place.name}/f"


VALUES = np.random.default_rng(0).normal(size=(100, 3))


def test_row_groups_are_joined_and_never_cut(tmp_path):
    write(tmp_path / "x.parquet", VALUES)
    for block_bytes, sizes in [(1, [20] * 5), (1000, [40, 40, 20]), (10**6, [100])]:
        dataset = open_dataset(tmp_path / "x.parquet", block_bytes=block_bytes)
        assert [block.n_rows for block in dataset.blocks] == sizes


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError("Forbidden: 403"), StoreUnavailableError),
        (RuntimeError("session expired"), StoreUnavailableError),
        (ValueError("no such option"), SourceError),
    ],
    ids=["os", "runtime", "value"],
)
@pytest.mark.parametrize("method", ["read", "open"])
def test_what_a_store_raises_is_no_damage(method, error, kind, tmp_path, monkeypatch):
    import fsspec
    from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

    url, unseen = (f"memory://{tmp_path.name}/{name}.parquet" for name in "xy")
    for one in (url, unseen):
        with fsspec.open(one, "wb") as file:
            pq.write_table(table_of(VALUES), file, row_group_size=20)
    dataset = open_dataset(url, on_bad_block="skip")

    def fails(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(MemoryFile if method == "read" else MemoryFileSystem, method, fails)
    with pytest.raises(kind, match=str(error)) as caught:
        dataset.blocks[0].read()
    assert not isinstance(caught.value, DamagedBlockError)
    with pytest.raises(kind, match=str(error)):
        open_dataset(unseen)


def test_a_file_that_cannot_be_looked_at_is_not_one_that_is_gone(tmp_path, monkeypatch):
    write(tmp_path / "x.parquet", VALUES)
    (block,) = open_dataset(tmp_path / "x.parquet").blocks

    def stat(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dgmm.data.stamps.os", SimpleNamespace(stat=stat))
    with pytest.raises(StoreUnavailableError, match=r"look at .*x\.parquet: .*denied"):
        block.read()


def test_opening_reads_footers_alone(tmp_path, monkeypatch):
    write(tmp_path / "x.parquet", VALUES)

    def read(*args, **kwargs):
        raise AssertionError("rows were read")

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", read)
    assert open_dataset(tmp_path / "x.parquet").shape == (100, 3)


class TestColumns:
    @pytest.fixture(autouse=True)
    def _table(self, tmp_path):
        self.path = tmp_path / "x.parquet"
        table = table_of(VALUES, ["b", "a", "c"]).append_column("city", pa.array(["x"] * 100))
        pq.write_table(table.append_column("n", pa.array(range(100), "int32")), self.path)

    def test_those_that_are_named_in_their_order(self):
        dataset = open_dataset(self.path, columns=["c", "b"])
        assert dataset.feature_names == ("c", "b")
        np.testing.assert_array_equal(read_all(dataset), VALUES[:, [2, 0]])

    def test_kinds_are_joined(self):
        assert open_dataset(self.path, columns=["n", "a"]).dtype == np.float64
        assert open_dataset(self.path, columns=["n"]).dtype == np.int32

    def test_text_names_the_numeric_ones(self):
        with pytest.raises(InvalidDtypeError, match=r"'city' has type string.*\['b', 'a', 'c'"):
            open_dataset(self.path)

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            (["nope"], r"names 'nope', which is no column.*'b', 'a', 'c', 'city', 'n'"),
            (["a", "a"], "names 'a' twice"),
            ([], "chooses no column"),
            ("a", "must be a list of names"),
            ([1], "must be a list of names"),
        ],
    )
    def test_bad_choices(self, columns, message):
        with pytest.raises(InvalidParameterError, match=message):
            open_dataset(self.path, columns=columns)

    def test_columns_are_those_of_files(self):
        with pytest.raises(InvalidParameterError, match="those of Parquet files"):
            open_dataset(VALUES, columns=["a"])


@pytest.mark.parametrize(
    ("values", "kind", "hint"),
    [
        ([1, 2], pa.decimal128(9, 2), r"column.cast\('float64'\)"),
        ([[1.0], [2.0]], pa.list_(pa.float64()), "each of its values as a column"),
        ([{"a": 1.0}, {"a": 2.0}], pa.struct({"a": pa.float64()}), "each of its values"),
        ([1, 2], pa.timestamp("s"), "seconds"),
        (["u", "v"], pa.string(), "encode it as numbers"),
    ],
)
def test_other_types_are_refused(tmp_path, values, kind, hint):
    pq.write_table(pa.table({"good": [1.0, 2.0], "odd": pa.array(values, kind)}), tmp_path / "x")
    with pytest.raises(InvalidDtypeError, match=rf"/x: column 'odd' has type .*{hint}.*\['good'\]"):
        open_dataset(tmp_path / "x")
    assert open_dataset(tmp_path / "x", columns=["good"]).shape == (2, 1)


def test_the_index_of_pandas_is_no_feature(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0, 3.0]}, index=[7, 8, 10])
    frame.to_parquet(tmp_path / "x.parquet")
    assert open_dataset(tmp_path / "x.parquet").feature_names == ("a",)


def test_a_null_names_its_place(tmp_path):
    column = pa.array([1.0] * 33 + [None] + [2.0] * 6)
    pq.write_table(
        pa.table({"a": np.arange(40.0), "b": column}), tmp_path / "x.parquet", row_group_size=10
    )
    write(tmp_path / "d" / "0.parquet", np.ones((15, 2)), ["a", "b"])
    (tmp_path / "x.parquet").rename(tmp_path / "d" / "1.parquet")
    message = r"1.parquet: row group 3, row 3 \(row 48 of the dataset\), column 'b' is null"
    with pytest.raises(InvalidDataError, match=message):
        read_all(open_dataset(tmp_path / "d"))


class TestPartitions:
    @pytest.fixture(autouse=True)
    def _folders(self, tmp_path):
        self.place = tmp_path / "d"
        for year in (2023, 2024):
            write(self.place / f"year={year}" / "kind=a%20b" / "0.parquet", VALUES + year)

    def test_folders_are_no_features(self):
        dataset = open_dataset(self.place)
        np.testing.assert_array_equal(
            read_all(dataset), np.concatenate([VALUES + 2023, VALUES + 2024])
        )

    def test_unless_they_are_asked_for(self):
        dataset = open_dataset(self.place, columns=["x1", "year"], block_bytes=10**6)
        np.testing.assert_array_equal(read_all(dataset)[:, 1], np.repeat([2023.0, 2024.0], 100))
        alone = open_dataset(self.place, columns=["year"])
        np.testing.assert_array_equal(read_all(alone)[:, 0], np.repeat([2023.0, 2024.0], 100))

    def test_text_is_refused(self):
        with pytest.raises(InvalidDtypeError, match="kind=a b does not hold a number"):
            open_dataset(self.place, columns=["kind"])

    def test_a_file_beside_the_folders(self):
        write(self.place / "0.parquet", VALUES)
        with pytest.raises(InvalidParameterError, match="names 'year', which is no column"):
            open_dataset(self.place, columns=["year"])
        (self.place / "0.parquet").rename(self.place / "zzz.parquet")
        with pytest.raises(InvalidDataError, match=r"zzz\.parquet differs .* no folder .* year="):
            open_dataset(self.place, columns=["year"])


class TestFilesThatDiffer:
    @pytest.fixture(autouse=True)
    def _first(self, tmp_path):
        self.place = tmp_path / "d"
        write(self.place / "0.parquet", VALUES, ["a", "b", "c"])

    @pytest.mark.parametrize(
        ("values", "names", "message"),
        [
            (VALUES[:, :2], ["a", "b"], "1.parquet differs from .*0.parquet: it has no column 'c'"),
            (VALUES.astype("f4"), ["a", "b", "c"], "'a' has type float, not double"),
            (np.ones((9, 4)), ["a", "b", "c", "d"], r"a column 'd' more.*\['a', 'b', 'c'\]"),
        ],
    )
    def test_names_the_file_and_the_difference(self, values, names, message):
        write(self.place / "1.parquet", values, names)
        with pytest.raises(InvalidDataError, match=message):
            open_dataset(self.place)

    def test_columns_that_are_not_read_may_differ(self):
        write(self.place / "1.parquet", VALUES[:, :2], ["b", "a"])
        dataset = open_dataset(self.place, columns=["a"])
        np.testing.assert_array_equal(
            read_all(dataset)[:, 0], np.concatenate([VALUES[:, 0], VALUES[:, 1]])
        )


class TestRefused:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(SourceError, match=r"none\.parquet: no such file"):
            open_dataset(tmp_path / "none.parquet")
        with pytest.raises(SourceError, match="there is no Parquet file"):
            open_dataset(tmp_path / "*.parquet")
        with pytest.raises(SourceError, match="not a Zarr array"):
            open_dataset(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 50 + b"PAR1", b"x" * 99])
    def test_files_that_are_no_parquet(self, tmp_path, content):
        (tmp_path / "x.parquet").write_bytes(content)
        with pytest.raises(DamagedBlockError, match=r"x\.parquet is truncated or not a Parquet"):
            open_dataset(tmp_path / "x.parquet")

    @pytest.mark.parametrize("log", ["_delta_log/0.json", "metadata/v1.metadata.json"])
    def test_tables_with_a_log(self, tmp_path, log):
        write(tmp_path / "t" / "0.parquet", VALUES)
        (tmp_path / "t" / log).parent.mkdir()
        (tmp_path / "t" / log).write_text("{}")
        with pytest.raises(SourceError, match="table: its log says which of its files count"):
            open_dataset(tmp_path / "t", columns=["x0"])

    def test_columns_of_one_name(self, tmp_path):
        table = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["a", "a"])
        pq.write_table(table, tmp_path / "x.parquet")
        with pytest.raises(InvalidDataError, match=r"several columns of one name \(\['a'\]\)"):
            open_dataset(tmp_path / "x.parquet")

    def test_without_pyarrow(self, tmp_path, monkeypatch):
        write(tmp_path / "x.parquet", VALUES)
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
        with pytest.raises(MissingDependencyError, match=r'pip install "dgmm\[parquet\]"'):
            open_dataset(tmp_path / "x.parquet")


def test_opening_imports_pyarrow_only_for_parquet():
    program = (
        "import sys, numpy, dgmm; dgmm.open_dataset(numpy.ones((3, 2))); "
        "print('pyarrow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_file_that_is_rewritten(tmp_path):
    write(tmp_path / "x.parquet", VALUES)
    block = travelled(open_dataset(tmp_path / "x.parquet").blocks[0])
    block.read()
    write(tmp_path / "x.parquet", VALUES + 1)
    with pytest.raises(DataChangedError, match=r"x\.parquet: block rows 0 to 99 changed after"):
        block.read()
    (tmp_path / "x.parquet").write_bytes(b"short")
    with pytest.raises(DataChangedError, match="and is in one file of 5 bytes"):
        block.read()
    (tmp_path / "x.parquet").unlink()
    with pytest.raises(DataChangedError, match="and is in no file"):
        block.read()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("options", [{}, {"compression": "zstd", "use_dictionary": False}])
def test_reading_stays_within_what_it_says(tmp_path, options):
    values = np.random.default_rng(0).normal(size=(420_000, 8)).astype("f4")
    write(tmp_path / "x.parquet", values, row_group_size=200_000, **options)
    program = Path(__file__).with_name("read_memory.py")
    out = subprocess.run(
        [sys.executable, program, "6.5MB", tmp_path / "x.parquet"],
        capture_output=True,
        text=True,
        check=True,
    )
    measured, projected = map(int, out.stdout.split())
    assert measured <= projected + 2**18
    assert projected < 3 * measured
