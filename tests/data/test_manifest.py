"""What identifies data, and what happens to a fit whose data change under it."""

from __future__ import annotations

import json
import os

import cloudpickle
import numpy as np
import pytest
from distributed import Client, LocalCluster

import dgmm
from dgmm.data.manifest import difference
from dgmm.data.opening import open_dataset
from dgmm.errors import DataChangedError
from dgmm.testing.sources import travelled
from tests.data.zarr_arrays import CHECKED, write

VALUES = np.random.default_rng(0).normal(size=(400, 3))
BLOCK = 100 * 3 * 8


def parquet_folder(place, values):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    place.mkdir(exist_ok=True)
    for number in range(4):
        part = values[100 * number : 100 * number + 100]
        table = pa.table({f"x{i}": part[:, i] for i in range(3)})
        parquet.write_table(table, place / f"{number}.parquet")
    return place


SOURCES = {
    "npy": lambda place, values: np.save(place / "x.npy", values) or place / "x.npy",
    "zarr": lambda place, values: (
        write(place / "x", values, chunks=(50, 2), **CHECKED) and place / "x"
    ),
    "shards": lambda place, values: (
        write(place / "x", values, chunks=(50, 3), shards=(200, 3)) and place / "x"
    ),
    "v2": lambda place, values: (
        write(place / "x", values, chunks=(50, 3), zarr_format=2) and place / "x"
    ),
    "parquet": lambda place, values: parquet_folder(place / "x", values),
}


@pytest.fixture(params=list(SOURCES))
def store(request, tmp_path):
    return lambda values: SOURCES[request.param](tmp_path, values)


def opened(source):
    return open_dataset(source, block_bytes=BLOCK)


class TestManifest:
    def test_it_is_json_and_stable(self, store):
        source = store(VALUES)
        one, two = opened(source).manifest, opened(source).manifest
        assert json.loads(json.dumps(one)) == two
        assert travelled(opened(source)).manifest == one
        assert difference(json.loads(json.dumps(one)), two) is None
        assert [block["n_rows"] for block in one["blocks"]] == [100] * 4
        assert all(block["files"]["n_bytes"] > 0 for block in one["blocks"])

    def test_it_names_the_difference(self, store):
        source = store(VALUES)
        before = opened(source).manifest
        store(VALUES + 1)
        assert "block rows 0 to 99 was in" in difference(before, opened(source).manifest)
        wider = {**before, "shape": [400, 4], "fingerprint": "other"}
        assert difference(before, wider) == "shape was [400, 3] and is [400, 4]"

    def test_rows_in_memory_have_no_files(self):
        manifest = open_dataset(VALUES).manifest
        assert manifest["blocks"] == [{"first_row": 0, "n_rows": 400, "files": None}]
        other = open_dataset(VALUES + 1).manifest
        assert difference(manifest, other).startswith("the fingerprint was ")

    def test_weights_belong_to_it(self, store, tmp_path):
        np.save(tmp_path / "w.npy", np.ones(400))
        dataset = opened(store(VALUES))
        before = dataset.with_weights(tmp_path / "w.npy")
        np.save(tmp_path / "w.npy", np.full(400, 2.0))
        after = dataset.with_weights(tmp_path / "w.npy")
        assert "block rows 0 to 99 was" in difference(before.manifest, after.manifest)
        with pytest.raises(DataChangedError, match=r"w\.npy: block rows 0 to 399 changed"):
            before.blocks[0].read()

    def test_blocks_stay_small(self, tmp_path):
        write(tmp_path / "x", VALUES, chunks=(1, 1))
        (block,) = open_dataset(tmp_path / "x").blocks
        assert block.stamp.n_files == 1200
        assert len(cloudpickle.dumps(block)) < 2500


class Rewriter:
    """Stores other data when a fit reports its third iteration."""

    def __init__(self, change):
        self.change = change

    def __call__(self, event):
        if event.kind == "iteration" and event.iteration == 3:
            self.change()


def fit_while(change, dataset, engine=None):
    # A limit under which no block is cached, so that each pass reads all of them.
    model = dgmm.GaussianMixture(2, random_state=0, tol=0.0, max_iter=20, engine=engine)
    model._on_event = Rewriter(change)
    return model.fit(dataset)


@pytest.fixture
def uncached(monkeypatch):
    monkeypatch.setattr("dgmm.engine.cache.BlockCache.offer", lambda *_: None)


def test_a_fit_whose_data_change_is_an_error(store, uncached):
    source = store(VALUES)
    with pytest.raises(DataChangedError, match=r"/x(\.npy)?: block rows \d+ to \d+ changed after"):
        fit_while(lambda: store(VALUES + 1), opened(source))


@pytest.mark.parametrize("change", ["truncated", "removed", "touched"])
def test_whatever_the_change(tmp_path, uncached, change):
    source = SOURCES["parquet"](tmp_path, VALUES)
    path = source / "2.parquet"

    def spoil():
        if change == "truncated":
            path.write_bytes(path.read_bytes()[:500])
        elif change == "removed":
            path.unlink()
        else:
            os.utime(path, ns=(0, 0))

    with pytest.raises(DataChangedError, match="block rows 200 to 299 changed"):
        fit_while(spoil, opened(source))


@pytest.mark.parametrize("kind", ["zarr", "parquet"])
def test_on_workers_as_well(tmp_path, kind, uncached):
    source = SOURCES[kind](tmp_path, VALUES)
    later = VALUES + 1
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
        pytest.raises(DataChangedError, match=r"block rows \d+ to \d+ changed after"),
    ):
        engine = dgmm.DaskEngine(client)
        fit_while(lambda: SOURCES[kind](tmp_path, later), opened(source), engine)
