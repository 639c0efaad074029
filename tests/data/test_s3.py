"""Zarr in a bucket, served by moto on this machine."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr

from dgmm.data.opening import open_dataset
from dgmm.data.sink import Replacing, open_sink
from dgmm.errors import (
    DataChangedError,
    InvalidParameterError,
    MissingChunkError,
    SourceError,
    StoreUnavailableError,
)
from dgmm.testing.sources import SourceSuite, read_all, travelled

s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")

SECRET = "a-secret-access-key"  # noqa: S105 (of a server that lives for this module)
BUCKET = "rows"


@pytest.fixture(scope="module")
def options():
    import boto3

    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "an-access-key", "aws_secret_access_key": SECRET}
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
    client.create_bucket(Bucket=BUCKET)
    yield {
        "key": keys["aws_access_key_id"],
        "secret": SECRET,
        "client_kwargs": {"endpoint_url": endpoint, "region_name": "us-east-1"},
        "use_listings_cache": False,
    }
    server.stop()


def write(url, options, values, **kwargs):
    array = zarr.create_array(
        url,
        storage_options=options,
        shape=values.shape,
        dtype=values.dtype,
        overwrite=True,
        **{"chunks": (50, 5), **kwargs},
    )
    array[:] = values
    return array


class TestBucket(SourceSuite):
    dtypes = ("f4", ">f8")

    @pytest.fixture(autouse=True)
    def _server(self, options):
        self.options = options

    def store(self, values, place):
        write(f"s3://{BUCKET}/{place.name}/x", self.options, values)
        return f"s3://{BUCKET}/{place.name}/x"

    def open(self, source, block_bytes):
        return open_dataset(source, block_bytes=block_bytes, storage_options=self.options)


class TestBucketArray(TestBucket):
    def store(self, values, place):
        return write(f"s3://{BUCKET}/{place.name}/x", self.options, values)

    def open(self, source, block_bytes):
        return open_dataset(source, block_bytes=block_bytes)


class TestParquetInABucket(SourceSuite):
    dtypes = ("f4", "i8")

    @pytest.fixture(autouse=True)
    def _server(self, options):
        self.options = options

    def store(self, values, place):
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        url = f"s3://{BUCKET}/{place.name}/rows"
        for number, start in enumerate(range(0, max(len(values), 1), 120)):
            part = values[start : start + 120]
            table = arrow.table({f"x{i}": part[:, i] for i in range(part.shape[1])})
            with s3fs.S3FileSystem(**self.options).open(f"{url}/{number}.parquet", "wb") as file:
                parquet.write_table(table, file, row_group_size=40, write_page_checksum=True)
        return url

    def open(self, source, block_bytes):
        return open_dataset(source, block_bytes=block_bytes, storage_options=self.options)

    def test_what_is_rewritten_or_removed_is_noticed(self, values, tmp_path):
        url = self.store(values, tmp_path)
        dataset = travelled(self.open(url, 1000))
        shown = repr(dataset) + json.dumps(dataset.manifest)
        assert SECRET not in shown
        read_all(dataset)
        self.store(values, tmp_path)
        read_all(dataset)  # the same bytes have the same etag
        self.store(values + 1, tmp_path)
        with pytest.raises(DataChangedError, match=r"block rows 0 to .* changed after") as caught:
            dataset.blocks[0].read()
        assert SECRET not in str(caught.value)
        s3fs.S3FileSystem(**self.options).rm(f"{url}/1.parquet")
        with pytest.raises(DataChangedError, match="and is in no file"):
            dataset.blocks[-1].read()

    def test_a_pattern(self, values, tmp_path):
        dataset = self.open(self.store(values, tmp_path) + "/*.parquet", 1000)
        np.testing.assert_array_equal(read_all(dataset), values)

    def test_an_endpoint_that_cannot_be_reached(self, monkeypatch):
        monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
        far = unreachable(self.options)
        with pytest.raises(StoreUnavailableError, match="cannot list s3://rows") as caught:
            open_dataset(f"s3://{BUCKET}/far.parquet", storage_options=far)
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None


def test_a_chunk_that_is_rewritten_is_noticed(options):
    url = f"s3://{BUCKET}/rewritten"
    values = np.random.default_rng(0).normal(size=(100, 5))
    write(url, options, values)
    dataset = travelled(open_dataset(url, storage_options=options, block_bytes=2000))
    assert SECRET not in json.dumps(dataset.manifest)
    read_all(dataset)
    zarr.open_array(url, storage_options=options, mode="r+")[70] = 0.0
    dataset.blocks[0].read()
    with pytest.raises(DataChangedError, match=rf"{url}: block rows 50 to 99 changed"):
        dataset.blocks[1].read()


def test_missing_chunk(options):
    url = f"s3://{BUCKET}/gaps"
    values = np.ones((100, 5))
    array = write(url, options, values[:0], chunks=(10, 5), shards=(50, 5))
    array.resize((100, 5))
    array[:70] = 1
    with pytest.raises(MissingChunkError, match=rf"{url}: chunk \(7, 0\) in shard c/1/0") as caught:
        read_all(open_dataset(url, storage_options=options))
    assert SECRET not in str(caught.value)


def test_nothing_shows_the_secret(options):
    url = f"s3://{BUCKET}/shown"
    array = write(url, options, np.ones((100, 5)))
    for dataset in (open_dataset(url, storage_options=options), open_dataset(array)):
        shown = repr(dataset) + dataset.fingerprint + dataset.blocks[0].name
        assert SECRET not in shown
        assert options["key"] not in shown
        assert read_all(travelled(dataset)).sum() == 500


def test_the_fingerprint_is_that_of_the_data_not_of_the_key(options):
    url = f"s3://{BUCKET}/keys"
    write(url, options, np.ones((100, 5)))
    other = {**options, "secret": "another-secret-key"}
    one, two = (open_dataset(url, storage_options=o).fingerprint for o in (options, other))
    assert one == two


def test_no_such_array(options):
    with pytest.raises(SourceError, match="s3://rows/nowhere: not a Zarr array") as caught:
        open_dataset(f"s3://{BUCKET}/nowhere", storage_options=options)
    assert SECRET not in str(caught.value)


def test_sink(options):
    url = f"s3://{BUCKET}/out"
    with open_sink(url, (25, 2), "f4", chunk_rows=10, storage_options=options) as sink:
        sink.write(np.ones((13, 2)))
        sink.write(np.ones((12, 2)))
    assert read_all(open_dataset(url, storage_options=options)).sum() == 50


def test_sink_replaces_arrays_alone(options):
    url = f"s3://{BUCKET}/kept"
    write(f"{url}/x", options, np.ones((10, 5)))
    zarr.create_group(url, storage_options=options)
    with pytest.raises(InvalidParameterError, match="kept exists and is not a Zarr array"):
        open_sink(Replacing(url), (25, 2), "f4", storage_options=options)
    with pytest.raises(InvalidParameterError, match="x exists; remove it"):
        open_sink(f"{url}/x", (25, 2), "f4", storage_options=options)
    sink = open_sink(Replacing(f"{url}/x"), (25, 2), "f4", storage_options=options)
    assert sink.array.shape == (25, 2)


def test_an_array_that_was_not_filled_is_taken_away(options):
    url = f"s3://{BUCKET}/unfilled"
    place = {"chunk_rows": 10, "storage_options": options}
    with pytest.raises(ZeroDivisionError), open_sink(url, (25, 2), "f4", **place) as sink:
        sink.write(np.ones((25, 2)))
        raise ZeroDivisionError
    assert s3fs.S3FileSystem(**options).find(f"{BUCKET}/unfilled") == []


def unreachable(options):
    client = {**options["client_kwargs"], "endpoint_url": "http://127.0.0.1:9"}
    settings = {"retries": {"max_attempts": 0}, "connect_timeout": 1}
    return {**options, "client_kwargs": client, "config_kwargs": settings}


def test_an_endpoint_that_cannot_be_reached_is_unavailable(options, monkeypatch):
    url = f"s3://{BUCKET}/far"
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    far = unreachable(options)
    for attempt in (
        lambda: open_dataset(url, storage_options=far),
        lambda: open_sink(url, (25, 2), "f4", storage_options=far),
    ):
        with pytest.raises(StoreUnavailableError, match=f"cannot open {url}: ") as caught:
            attempt()
        assert SECRET not in str(caught.value)
        # The cause could carry what the message does not.
        assert caught.value.__cause__ is None


def test_a_store_that_fails_later_is_unavailable(options, monkeypatch):
    from botocore.exceptions import NoCredentialsError

    url = f"s3://{BUCKET}/later"
    dataset = open_dataset(write(url, options, np.ones((100, 5))))
    array = zarr.open_array(url, storage_options=options, mode="r+")

    async def fail(*args, **kwargs):
        raise NoCredentialsError(secret=SECRET)

    async def leak(*args, **kwargs):
        raise ConnectionError(f"refused to one with {SECRET}")

    monkeypatch.setattr("s3fs.S3FileSystem._cat_file", fail)
    with pytest.raises(StoreUnavailableError, match=r"block rows .* of s3://rows/later: Unable"):
        read_all(dataset)
    monkeypatch.setattr("s3fs.S3FileSystem._pipe_file", leak)
    sink = open_sink(array, (100, 5), "f8")
    with pytest.raises(StoreUnavailableError, match=r"write to .*refused to one with \*") as caught:
        sink.write(np.ones((100, 5)))
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
