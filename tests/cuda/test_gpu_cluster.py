"""Workers that see one GPU each, and end when it is lost."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os

import pytest
from distributed import Client

import dgmm
from dgmm.engine import device_worker
from dgmm.engine.device_worker import WorkerDevice
from dgmm.engine.gpu_cluster import worker_specification
from tests.cuda.emulator import CUDARuntimeError, OutOfMemoryError


def _visible():
    return os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.skipif(
    importlib.util.find_spec("dask_cuda") is not None, reason="dask-cuda needs the devices"
)
def test_every_worker_sees_a_device_of_its_own():
    with dgmm.gpu_cluster(2) as cluster, Client(cluster) as client:
        assert sorted(client.run(_visible).values()) == ["0", "1"]
        assert set(client.nthreads().values()) == {1}


@pytest.mark.skipif(
    importlib.util.find_spec("dask_cuda") is not None, reason="dask-cuda needs the devices"
)
def test_what_they_say_can_be_encrypted():
    pytest.importorskip("cryptography")
    with dgmm.gpu_cluster(2, security=True) as cluster, Client(cluster) as client:
        assert cluster.scheduler_address.startswith("tls://")
        addresses = client.scheduler_info()["workers"]
        assert len(addresses) == 2
        assert all(one.startswith("tls://") for one in addresses)
        assert sorted(client.run(_visible).values()) == ["0", "1"]
    with pytest.raises(dgmm.InvalidParameterError, match="security=str"):
        dgmm.gpu_cluster(2, security="yes")


def test_workers_share_out_the_devices_that_this_process_sees(monkeypatch):
    def seen():
        return [one["options"]["env"] for one in worker_specification(2).values()]

    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5ebe9f43")
    assert [one["CUDA_VISIBLE_DEVICES"] for one in seen()] == ["3", "GPU-5ebe9f43"]
    # The numbers are the caller's, and so is the order that they count in.
    assert {one["CUDA_DEVICE_ORDER"] for one in seen()} == {"FASTEST_FIRST"}
    with pytest.raises(dgmm.InvalidParameterError, match="n_gpus=3"):
        dgmm.gpu_cluster(3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [one["CUDA_VISIBLE_DEVICES"] for one in seen()] == ["0", "1"]
    assert {one["CUDA_DEVICE_ORDER"] for one in seen()} == {"PCI_BUS_ID"}


def test_a_worker_whose_device_is_lost_ends(monkeypatch):
    ended = []
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: "a nanny")
    monkeypatch.setattr(device_worker.os, "_exit", lambda code: ended.append(code) or _stop())
    with pytest.raises(SystemExit):
        WorkerDevice().guard(_raises(CUDARuntimeError(700)))
    assert ended == [69]


def test_a_process_of_the_users_own_does_not_end():
    with pytest.raises(dgmm.EngineError, match="start a new process"):
        WorkerDevice().guard(_raises(CUDARuntimeError(700)))


def test_other_errors_are_raised_as_they_are():
    with pytest.raises(OutOfMemoryError):
        WorkerDevice().guard(_raises(OutOfMemoryError()))
    with pytest.raises(KeyError):
        WorkerDevice().guard(_raises(KeyError()))


def _raises(error):
    def call():
        raise error

    return call


def _stop():
    raise SystemExit
