"""A worker of a cluster with an emulated device."""

from __future__ import annotations

import numpy as np
import pytest
from distributed import Client, LocalCluster

import dgmm
from tests.cuda.emulator import needs_compiler
from tests.numerics.problems import random_mixture, rows_of

pytestmark = needs_compiler

X = rows_of(random_mixture(np.random.default_rng(3), "full", 3, 5, reach=6.0), 200, 3)


@pytest.fixture
def client():
    # One process, so that the worker finds the emulation.
    options = {"processes": False, "n_workers": 1, "threads_per_worker": 1}
    with LocalCluster(dashboard_address=None, **options) as cluster, Client(cluster) as client:
        yield client


def _fit(data, **options):
    model = dgmm.GaussianMixture(3, random_state=0, max_iter=3, tol=0.0, device="cuda", **options)
    with pytest.warns(UserWarning, match="did not converge"):
        return model.fit(data)


def test_a_cluster_gives_the_bits_of_this_process(client, cupy, tmp_path):
    there = cupy()
    np.save(tmp_path / "rows.npy", X)
    data = dgmm.open_dataset(tmp_path / "rows.npy", block_bytes=50 * 40)
    right = _fit(data)
    there.streams.clear()
    found = _fit(data, engine=dgmm.DaskEngine(client))
    np.testing.assert_array_equal(found.covariances_, right.covariances_)
    assert found.lower_bounds_ == right.lower_bounds_
    # Each block was copied once, for the profile and all iterations.
    copied = [event for stream in there.streams for event in stream.events if event[0] == "copy"]
    assert len(copied) == 4
    labels = found.predict(X)
    np.testing.assert_array_equal(labels, right.predict(X))
