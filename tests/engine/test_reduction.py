"""More ranges than the driver takes in are merged by the workers, along the same tree."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from distributed import Client, LocalCluster

import dgmm
from dgmm.engine.dask import DaskEngine
from dgmm.engine.local import LocalEngine
from dgmm.testing.engines import ToyTask, serial_oracle, toy

MOST = 16


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Threads alone, in this process: 48 of them get a range each."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=24, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.parametrize("n_blocks", [17, 31, 64, 200, 300])
def test_the_driver_receives_few_nodes_of_many_ranges(client: Client, n_blocks: int) -> None:
    dataset = toy((4, 3) * (n_blocks // 2) + (2,) * (n_blocks % 2))
    expected = serial_oracle(dataset, ToyTask())
    with DaskEngine(client).session(dataset) as session:
        found = session.run(ToyTask(), keep="partition")
        assert len(session._held.shares) > MOST
        assert 1 < session.counters.nodes_received <= MOST
    assert found.total == expected.total
    assert len(found.partitions) == n_blocks


def test_a_fit_has_the_same_bits_and_counts_its_nodes(client: Client) -> None:
    x = np.random.default_rng(0).normal(size=(20_000, 3))
    dataset = dgmm.open_dataset(x, block_bytes=4800)
    found = [
        dgmm.GaussianMixture(
            3, random_state=0, max_iter=3, tol=1e9, engine=engine, memory_limit="512MiB"
        ).fit(dataset)
        for engine in (DaskEngine(client), LocalEngine(2))
    ]
    assert 1 < found[0].record_.nodes_received <= MOST
    np.testing.assert_array_equal(found[0].covariances_, found[1].covariances_)
    assert found[0].lower_bounds_ == found[1].lower_bounds_
