"""A planted secret is in nothing that dgmm shows or writes."""

from __future__ import annotations

import gc
import json
import logging
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dgmm
from dgmm.cli import main
from dgmm.data.location import Location
from dgmm.report import write_report

fsspec = pytest.importorskip("fsspec")
from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402 (after importorskip)

SECRET = "hunter-two-and-a-half"  # noqa: S105 (of a file system in memory)
PLACE = f"guarded://user:{SECRET}@host/rows.npy?token={SECRET}"


class Guarded(MemoryFileSystem):
    """A file system that takes a secret, and can fail with it on its lips."""

    protocol = "guarded"
    store: dict[str, Any] = {}  # noqa: RUF012 (as fsspec's own)
    pseudo_dirs = [""]  # noqa: RUF012
    fails = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        bare = str(path).rpartition("@")[2].removeprefix("guarded://").partition("?")[0]
        return "/" + bare.strip("/")

    def _open(self, path: str, *arguments: Any, **options: Any) -> Any:
        if self.fails:
            raise PermissionError(f"{SECRET} is not welcome at {PLACE}")
        return super()._open(path, *arguments, **options)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    fsspec.register_implementation("guarded", Guarded, clobber=True)
    yield
    Guarded.store.clear()
    Guarded.fails = False


def everything(folder: Path) -> bytes:
    """All that was written, names included."""
    return b"".join(
        str(path).encode() + path.read_bytes() for path in folder.rglob("*") if path.is_file()
    )


def table(place: str) -> str:
    """Rows in Parquet at a place of the guarded file system."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    x = np.random.default_rng(0).normal(size=(200, 2))
    with fsspec.filesystem("guarded", secret=SECRET).open(place, "wb") as file:
        parquet.write_table(pa.table({"a": x[:, 0], "b": x[:, 1]}), file)
    return place


URL = f"guarded://user:{SECRET}@host/rows.parquet"
OPTIONS = {"secret": SECRET}


def test_nothing_of_a_fit_shows_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = dgmm.open_dataset(table(URL), storage_options=OPTIONS)
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gm = dgmm.GaussianMixture(2, random_state=0, checkpoint=tmp_path / "kept").fit(dataset)
        gm.save(tmp_path / "model")
        write_report(tmp_path / "report.html", gm)
    shown = [repr(dataset), dataset.fingerprint, repr(gm), repr(gm.record_)]
    shown += [repr(dataset.manifest), json.dumps(dataset.manifest, default=repr)]
    shown += [block.name + repr(block) for block in dataset.blocks]
    shown += [str(one.message) for one in caught]
    shown += [f"{one.name} {one.getMessage()}" for one in caplog.records if "dgmm" in one.name]
    assert SECRET not in "".join(shown)
    assert SECRET.encode() not in everything(tmp_path)
    # It has to travel to workers, and does so in a pickle alone.
    assert SECRET.encode() in pickle.dumps(dataset.blocks[0])


@pytest.mark.parametrize("place", [f"{URL}/kept", f"https://u:{SECRET}@host/x?sig={SECRET}"])
def test_no_estimator_shows_it(place: str) -> None:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    gm = dgmm.GaussianMixture(2, checkpoint=place)
    for one in (gm, make_pipeline(StandardScaler(), gm), [gm]):
        assert SECRET not in repr(one)
        assert "GaussianMixture" in repr(one)
    for one in (gm, make_pipeline(StandardScaler(), gm)):
        assert SECRET not in one._repr_html_()
        assert "//host" in one._repr_html_()
    assert gm.get_params()["checkpoint"] == place


def test_no_error_shows_it() -> None:
    dataset = dgmm.open_dataset(table(URL), storage_options=OPTIONS)
    Guarded.fails = True
    for use in (
        lambda: dgmm.GaussianMixture(2).fit(dataset),
        lambda: dgmm.open_dataset(URL, storage_options=OPTIONS),
        lambda: dgmm.GaussianMixture(2, checkpoint=f"{URL}/kept").fit(np.eye(3)),
    ):
        with pytest.raises(dgmm.DgmmError) as caught:
            use()
        error: BaseException | None = caught.value
        # What a traceback would show: the chain, in so far as it is not suppressed.
        while error is not None:
            assert SECRET not in f"{error!r} {error}"
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    gc.collect()


def test_no_error_of_a_worker_shows_it() -> None:
    from distributed import Client, LocalCluster

    dataset = dgmm.open_dataset(table(URL), storage_options=OPTIONS)
    Guarded.fails = True
    # In this process, where the file system is registered.
    with (
        LocalCluster(1, processes=False, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
        pytest.raises(dgmm.SourceError) as caught,
    ):
        dgmm.GaussianMixture(2, engine=dgmm.DaskEngine(client)).fit(dataset)
    assert SECRET not in f"{caught.value!r} {caught.value}"


def test_the_command_line_does_not_show_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "model")
    table(URL)
    assert main(["fit", URL, "-k", "2", "--out", out, "--report", f"{out}.html", "-v"]) == 0
    assert main(["inspect", URL]) == 0
    assert main(["inspect", out]) == 0
    Guarded.fails = True
    assert main(["fit", URL, "-k", "2", "--out", out, "--debug"]) == 75
    assert main(["fit", URL, "-k", "2", "--out", URL]) == 2
    printed = capfd.readouterr()
    assert SECRET not in printed.out + printed.err
    assert SECRET.encode() not in everything(tmp_path)


def test_an_address_of_a_scheduler_may_hold_one(capfd: pytest.CaptureFixture[str]) -> None:
    argv = ["fit", "rows.npy", "-k", "2", "--out", "m", "--scheduler"]
    assert main([*argv, f"tls://user:{SECRET}@127.0.0.1:9"]) != 0
    assert SECRET not in "".join(capfd.readouterr())


def test_a_location_is_named_without_it() -> None:
    place = Location.of(PLACE, {"secret": SECRET})
    assert SECRET not in place.name + repr(place) + place.scrub(f"no {SECRET} at {PLACE}")


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@host/x.zarr",
        f"https://user:se/{SECRET}@host/x.zarr",
        f"https://user:p@{SECRET}@host/x.zarr",
        f"https://{SECRET}@host/x.zarr",
        f"https://host/x.zarr?sig={SECRET}",
        f"https://host/x.zarr?sig=AB {SECRET}",
        f"https://host/x.zarr#token={SECRET}",
        f"https://host/x.zarr?a=b#{SECRET}",
    ],
)
def test_a_url_is_shown_without_its_credentials(url: str) -> None:
    place = Location.of(url)
    assert place.name == "https://host/x.zarr"
    assert SECRET not in repr(place) + place.scrub(f"no answer from {url}")


def test_a_path_may_hold_an_at_sign() -> None:
    assert Location.of("s3://bucket/run@2/x.zarr").name == "s3://bucket/run@2/x.zarr"


class Unloadable:
    """Comes out of a pickle as an error: of a library, say, that a worker has not got."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __setstate__(self, state: Any) -> None:
        raise ImportError("no module named storage")


def test_a_worker_that_cannot_load_its_blocks_does_not_log_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from dgmm.engine.dask_graph import PassGraph

    graph = PassGraph("pass")
    key = graph.add_pickled("blocks", pickle.dumps(Unloadable(SECRET)))
    function, content = graph.graph([key])[key]
    assert SECRET.encode() in content
    with caplog.at_level(logging.DEBUG), pytest.raises(ImportError, match="storage"):
        function(content)
    assert SECRET not in caplog.text
