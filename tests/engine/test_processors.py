"""Workers whose processors compute other last bits are pointed out, and only they."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from distributed import Client, LocalCluster

import dgmm
from dgmm.engine.dask import DaskEngine
from dgmm.engine.feed import Reads
from dgmm.engine.processor import kind_of_processor, processor_here, warn_of_mixed
from dgmm.engine.worker import NodeResult, merge_nodes
from dgmm.testing.engines import ToyTask, Trace, serial_oracle, toy


def test_the_kind_names_the_loops_of_blas_and_of_numpy() -> None:
    kind = kind_of_processor()
    assert f"NumPy {np.__version__}" in kind
    assert list(processor_here()) == [kind]


def test_the_warning_names_every_kind_and_a_machine_of_it() -> None:
    with pytest.warns(dgmm.MixedProcessorsWarning) as caught:
        warn_of_mixed({"openblas Haswell": "node-1", "openblas SkylakeX": "node-7"})
    message = str(caught[0].message)
    assert (
        "2 kinds of loops: openblas Haswell (on node-1); openblas SkylakeX (on node-7)" in message
    )
    assert "OPENBLAS_CORETYPE" in message


def test_kinds_of_all_ranges_come_together() -> None:
    nodes = [
        NodeResult(Trace(1.0, 1, kind), {}, Reads(), {kind: "node-1"})
        for kind in ("one", "two", "one")
    ]
    merged = merge_nodes(nodes, ((0, 1), (0, 2)))
    assert set(merged.processors) == {"one", "two", kind_of_processor()}


@pytest.fixture(scope="module")
def mixed() -> Iterator[Client]:
    """Two workers, one of which takes the loops of an older processor."""
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
        worker(cluster.scheduler_address, "Haswell"),
        worker(cluster.scheduler_address, "Sandybridge"),
    ):
        client.wait_for_workers(2, timeout=60)
        yield client


@contextmanager
def worker(scheduler: str, kind: str) -> Iterator[None]:
    command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler, "--no-nanny"]
    options = ["--nthreads", "1", "--no-dashboard"]
    environment = {**os.environ, "OPENBLAS_CORETYPE": kind}
    with subprocess.Popen(
        [*command, *options], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield
        finally:
            process.terminate()


on_openblas = pytest.mark.skipif(
    platform.machine() != "x86_64" or "openblas" not in kind_of_processor(),
    reason="the kernels of OpenBLAS for x86-64 are asked for",
)


@on_openblas
def test_a_cluster_of_two_kinds_is_warned_of_once_a_session(mixed: Client) -> None:
    with DaskEngine(mixed).session(toy()) as session:
        with pytest.warns(dgmm.MixedProcessorsWarning, match="Haswell.*Sandybridge"):
            session.run(ToyTask())
        assert len(session.counters.processors) == 2
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert session.run(ToyTask()).total == serial_oracle(toy(), ToyTask()).total
