"""Selection on a cluster: the same bits as on threads."""

from __future__ import annotations

import pytest
from distributed import Client, LocalCluster
from numpy.testing import assert_array_equal

import dgmm


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"criterion": "heldout"}, {"init_params": "k-means||"}])
def test_a_cluster_selects_what_threads_select(dataset, options) -> None:
    arguments = {"covariance_types": ("full", "tied_diag"), "n_init": 2, "random_state": 0}
    arguments |= options
    here = dgmm.select_model(dataset, [2, 3], **arguments)
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        Client(cluster) as client,
    ):
        engine = dgmm.DaskEngine(client)
        there = dgmm.select_model(dataset, [2, 3], engine=engine, **arguments)
    assert str(there.table.rows) == str(here.table.rows)
    assert_array_equal(there.best_.means_, here.best_.means_)
