"""Single bits flipped in stored data, and what a hostile file declares."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

import dgmm
from dgmm.data.opening import open_dataset
from dgmm.errors import (
    DamagedBlockError,
    DgmmError,
    InvalidDataError,
    InvalidDtypeError,
    SourceError,
)
from dgmm.testing.sources import read_all
from tests.data.zarr_arrays import write

FLIPS = 60
VALUES = np.random.default_rng(0).normal(size=(400, 3)).astype("f4")


def flips(seed, ranges, count=FLIPS):
    """Seeded (byte, bit) pairs within ranges of bytes."""
    positions = np.concatenate([np.arange(*one) for one in ranges])
    rng = np.random.default_rng(seed)
    chosen = rng.choice(positions, count, replace=len(positions) < count)
    return zip(chosen.tolist(), rng.integers(8, size=count).tolist(), strict=True)


def outcome(source):
    """The exception that opening or reading raises, else the values and names."""
    try:
        dataset = open_dataset(source)
        return read_all(dataset), dataset.feature_names
    except DgmmError as error:
        return error


def flip(path, byte, bit):
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(bytes(data))


def zarr_cases():
    for codec in (Crc32cCodec(), ZstdCodec(checksum=True)):
        for shards in (None, (200, 3)):
            name = f"v3-{type(codec).__name__}-{'shards' if shards else 'chunks'}"
            yield pytest.param({"compressors": (codec,), "shards": shards}, id=name)
    numcodecs = pytest.importorskip("numcodecs")
    v2 = {"zarr_format": 2, "compressors": None}
    yield pytest.param({**v2, "filters": [numcodecs.CRC32C()]}, id="v2-crc32c")
    zstd = {"compressors": numcodecs.Zstd(checksum=True)}
    yield pytest.param({**v2, **zstd}, id="v2-zstd")


@pytest.mark.parametrize("options", list(zarr_cases()))
def test_every_flip_in_checksummed_zarr_is_detected(tmp_path, options):
    write(tmp_path / "x", VALUES, chunks=(100, 3), **options)
    names = {".zarray", ".zattrs", "zarr.json", ".zgroup"}
    chunks = sorted(p for p in (tmp_path / "x").rglob("*") if p.is_file() and p.name not in names)
    sizes = [path.stat().st_size for path in chunks]
    starts = np.cumsum([0, *sizes])
    for byte, bit in flips(1, [(0, int(starts[-1]))]):
        chunk = int(np.searchsorted(starts, byte, side="right")) - 1
        flip(chunks[chunk], byte - int(starts[chunk]), bit)
        assert isinstance(outcome(tmp_path / "x"), DamagedBlockError), (chunks[chunk], byte, bit)
        flip(chunks[chunk], byte - int(starts[chunk]), bit)
    np.testing.assert_array_equal(outcome(tmp_path / "x")[0], VALUES)


class TestParquet:
    @pytest.fixture(
        params=[{}, {"data_page_version": "2.0", "compression": "none"}, {"use_dictionary": False}]
    )
    def path(self, request, tmp_path):
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        table = pa.table({f"x{i}": VALUES[:, i] for i in range(3)})
        parquet.write_table(
            table,
            tmp_path / "x.parquet",
            row_group_size=100,
            write_page_checksum=True,
            **request.param,
        )
        return tmp_path / "x.parquet"

    def payload(self, path):
        """Bytes that are surely in a page, and not in the header before it, which has no checksum.

        A data page ends its column chunk; a dictionary of 400 bytes begins it.
        """
        from pyarrow import parquet

        metadata = parquet.read_metadata(path)
        for group in range(metadata.num_row_groups):
            for column in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(column)
                first = chunk.dictionary_page_offset or chunk.data_page_offset
                end = first + chunk.total_compressed_size
                yield end - 64, end
                if chunk.dictionary_page_offset is not None:
                    yield first + 64, first + 300

    def footer(self, path):
        data = path.read_bytes()
        return len(data) - 8 - int.from_bytes(data[-8:-4], "little"), len(data)

    def test_every_flip_in_the_pages_is_detected(self, path):
        for byte, bit in flips(2, list(self.payload(path))):
            flip(path, byte, bit)
            assert isinstance(outcome(path), DamagedBlockError), (byte, bit)
            flip(path, byte, bit)

    def test_a_flip_anywhere_else_is_detected_or_harmless(self, path):
        """In the headers of pages and in the footer, which have no checksum."""
        start, stop = self.footer(path)
        everywhere = [*flips(3, [(0, start)]), *flips(4, [(start, stop)])]
        for byte, bit in everywhere:
            flip(path, byte, bit)
            found = outcome(path)
            if not isinstance(found, DgmmError):
                values, names = found
                np.testing.assert_array_equal(values, VALUES)
                assert names == ("x0", "x1", "x2")
            flip(path, byte, bit)


def test_huge_shapes_are_refused_before_anything_is_made_of_them(tmp_path):
    write(tmp_path / "x", VALUES, chunks=(100, 3))
    document = json.loads((tmp_path / "x/zarr.json").read_text())
    for shape in ([2**50, 3], [2**62, 3]):
        (tmp_path / "x/zarr.json").write_text(json.dumps({**document, "shape": shape}))
        with pytest.raises(InvalidDataError, match="more than 4194304 blocks"):
            open_dataset(tmp_path / "x")
    # One chunk of a size that nothing could hold: the memory limit speaks before it is read.
    for row in (1, 2, 3):
        shutil.rmtree(tmp_path / f"x/c/{row}")
    document["chunk_grid"]["configuration"]["chunk_shape"] = [2**36, 3]
    (tmp_path / "x/zarr.json").write_text(json.dumps({**document, "shape": [2**36, 3]}))
    with pytest.raises(dgmm.MemoryLimitError):
        dgmm.GaussianMixture(1).fit(tmp_path / "x")
    document["chunk_grid"]["configuration"]["chunk_shape"] = [2**60, 3]
    (tmp_path / "x/zarr.json").write_text(json.dumps({**document, "shape": [2**60, 3]}))
    with pytest.raises(InvalidDataError, match="declares 1152921504606846976 rows, more than"):
        open_dataset(tmp_path / "x")


@pytest.mark.parametrize("place", ["filters", "compressor"])
def test_nothing_is_unpickled(tmp_path, place):
    write(tmp_path / "x", VALUES, chunks=(400, 3), zarr_format=2, compressors=None)
    document = json.loads((tmp_path / "x/.zarray").read_text())
    codec = {"id": "pickle", "protocol": 4}
    document[place] = [codec] if place == "filters" else codec
    (tmp_path / "x/.zarray").write_text(json.dumps(document))
    with pytest.raises((SourceError, InvalidDtypeError), match=r"by pickling|cannot open"):
        open_dataset(tmp_path / "x")


def test_keys_do_not_leave_the_folder(tmp_path):
    write(tmp_path / "x", VALUES, chunks=(400, 3))
    document = json.loads((tmp_path / "x/zarr.json").read_text())
    document["chunk_key_encoding"] = {"name": "default", "configuration": {"separator": "/../../"}}
    (tmp_path / "x/zarr.json").write_text(json.dumps(document))
    with pytest.raises(SourceError, match="cannot open"):
        open_dataset(tmp_path / "x")


# ------------------------------------------------------------------------------- special files


def _pieces(folder: Path, kind: str) -> tuple[Path, Path]:
    """A source, and one of the files that it is in."""
    x = np.random.default_rng(0).normal(size=(60, 2))
    if kind == "npy":
        np.save(folder / "x.npy", x)
        return folder / "x.npy", folder / "x.npy"
    if kind.startswith("zarr"):
        options = {"shards": (20, 2)} if kind == "zarr shard" else {}
        zarr.create_array(folder / "x", data=x, chunks=(10, 2), **options)
        return folder / "x", folder / "x" / ("zarr.json" if kind == "zarr metadata" else "c/1/0")
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (folder / "rows").mkdir()
    for name in ("0.parquet", "1.parquet"):
        parquet.write_table(pa.table({"a": x[:, 0], "b": x[:, 1]}), folder / "rows" / name)
    source = folder / "rows" / "1.parquet"
    return (source if kind == "parquet" else folder / "rows"), source


_PIECES = ("npy", "zarr metadata", "zarr chunk", "zarr shard", "parquet", "parquet in a folder")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("special", ["pipe", "device"])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", _PIECES)
def test_a_pipe_or_device_is_refused_and_not_waited_for(
    kind: str, late: bool, special: str, tmp_path: Path
) -> None:
    source, piece = _pieces(tmp_path, kind)
    dataset = dgmm.open_dataset(source) if late else None
    piece.unlink()
    if special == "pipe":
        os.mkfifo(piece)
    else:
        piece.symlink_to("/dev/zero")
    if dataset is None:
        with pytest.raises(dgmm.SourceError, match="a pipe, a socket or a device"):
            dgmm.GaussianMixture(2).fit(source)
    elif kind != "zarr metadata":
        with pytest.raises(dgmm.SourceError, match="a pipe, a socket or a device"):
            dgmm.GaussianMixture(2).fit(dataset)
