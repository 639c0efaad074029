"""Checkpoints in object stores: in memory, and in a bucket that moto serves on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dgmm.checkpoint import Checkpoints
from dgmm.checkpoint.places import Bucket
from dgmm.data.location import Location
from dgmm.errors import CheckpointError, SourceError, StoreUnavailableError
from tests.checkpoint.fits import Cut, cut_at, estimator, rows, same_bits

s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
SECRET = "a-secret-access-key"  # noqa: S105 (of a server that lives for this module)
X = rows(n_rows=120, n_features=2)


@pytest.fixture(scope="module")
def options() -> Iterator[dict[str, Any]]:
    import boto3

    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "an-access-key", "aws_secret_access_key": SECRET}
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
    client.create_bucket(Bucket="fits")
    yield {
        "key": keys["aws_access_key_id"],
        "secret": SECRET,
        "client_kwargs": {"endpoint_url": endpoint, "region_name": "us-east-1"},
    }
    server.stop()


@pytest.fixture(params=["memory", "s3"])
def place(request: pytest.FixtureRequest) -> Checkpoints:
    name = request.node.name.replace("[", "-").rstrip("]")
    if request.param == "memory":
        return Checkpoints(f"memory://fits/{name}")
    return Checkpoints(f"s3://fits/{name}", storage_options=request.getfixturevalue("options"))


def fitted(place: Checkpoints | None, **arguments: Any) -> Any:
    return estimator(**{"max_iter": 5, "checkpoint_every": 1, **arguments}, checkpoint=place).fit(X)


def bucket(place: Checkpoints) -> Bucket:
    return Bucket(Location.of(place.place, place.storage_options))


def test_resumed_is_uninterrupted(place: Checkpoints) -> None:
    with pytest.raises(Cut):
        cut_at(estimator(max_iter=5, checkpoint=place, checkpoint_every=1), 3).fit(X)
    again = fitted(place, resume="must")
    same_bits(again, fitted(None))
    assert any("resumed from iteration 3" in note for note in again.record_.notes)
    # Three, and a marker for each.
    assert sorted(bucket(place)._names()) == [
        f"checkpoint-{number:08d}.{kind}"
        for number in (4, 5, 6)
        for kind in ("commit", "safetensors")
    ]


def test_what_has_no_marker_is_not_there(place: Checkpoints) -> None:
    gm = fitted(place)
    store = bucket(place)
    store._files.rm_file(store._commit(6))
    again = fitted(place)
    same_bits(again, gm)
    assert any("resumed from iteration 4" in note for note in again.record_.notes)


@pytest.mark.parametrize("part", ["data", "marker"])
def test_damage_falls_back(place: Checkpoints, part: str) -> None:
    gm = fitted(place)
    store = bucket(place)
    path = store._data(6) if part == "data" else store._commit(6)
    content = bytearray(store._files.cat_file(path))
    content[len(content) // 2] ^= 1
    store._files.pipe_file(path, bytes(content))
    with pytest.warns(RuntimeWarning, match="a newer checkpoint cannot be used"):
        same_bits(fitted(place), gm)


@pytest.mark.parametrize(
    "marker", [b"", b"[]", b"{}", b"\xff", b'{"bytes":"9","sha256":7}', b"[" * 900, b"x" * 10**6]
)
def test_markers_that_are_none(marker: bytes) -> None:
    place = Checkpoints("memory://fits/markers")
    store = bucket(place)
    store.write(1, b"anything")
    store._files.pipe_file(store._commit(1), marker)
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        place.open().newest()


def test_failures_name_the_place_and_no_secret(options: dict[str, Any]) -> None:
    place = Checkpoints("s3://no-such-bucket/x", storage_options=options)
    with pytest.raises(SourceError, match="s3://no-such-bucket/x") as caught:
        fitted(place)
    assert SECRET not in str(caught.value) + repr(place) + repr(place.open().place.name)
    assert "key" not in repr(Checkpoints("s3://a-key:a-secret@bucket/x?token=a-key"))
    elsewhere = {"client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}
    elsewhere["config_kwargs"] = {"retries": {"max_attempts": 0}, "connect_timeout": 1}
    with pytest.raises(StoreUnavailableError, match="s3://fits/x"):
        fitted(Checkpoints("s3://fits/x", storage_options=options | elsewhere))


@pytest.mark.parametrize("name", ["s3://fits", "s3://fits/"])
def test_a_whole_bucket_is_no_place_of_one_fit(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match=r"names no prefix; .* such as s3:.*/checkpoints"):
        Checkpoints(name, storage_options=options).open()
