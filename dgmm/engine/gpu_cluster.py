"""A Dask cluster on this machine with one worker for each GPU."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from typing import TYPE_CHECKING, Any

from dgmm.devices import gpu_count, why_no_gpu
from dgmm.engine.dask_security import check_security, encryption
from dgmm.errors import InvalidParameterError, MissingDependencyError

if TYPE_CHECKING:
    from distributed import Security

__all__ = ["gpu_cluster", "worker_specification"]


def gpu_cluster(
    n_gpus: int | None = None, *, security: Security | bool | None = None, **options: Any
) -> Any:
    """Start a cluster with one worker and one thread for each GPU of this machine.

    That of ``dask-cuda`` where it is installed; otherwise plain workers, each of which sees one
    device (``CUDA_VISIBLE_DEVICES``). A worker that dies is started again by its nanny.

    Parameters
    ----------
    n_gpus : int, optional
        By default all that there are.
    security : distributed.Security or True, optional
        Encrypt what its processes say to each other, as ``security`` of :class:`dgmm.DaskEngine`
        does. ``Client(cluster)`` finds the certificates.
    **options
        For ``dask_cuda.LocalCUDACluster`` or ``distributed.SpecCluster``.

    Returns
    -------
    distributed.SpecCluster
        For ``distributed.Client``; close it, or use it as a context manager.

    Raises
    ------
    MissingDependencyError
        If there is no GPU.
    InvalidParameterError
        If there are fewer than ``n_gpus`` in ``CUDA_VISIBLE_DEVICES``, or ``security`` is none.
    EngineError
        If certificates are missing, or files of them cannot be read.

    Examples
    --------
    >>> from distributed import Client                                   # doctest: +SKIP
    >>> engine = dgmm.DaskEngine(Client(dgmm.gpu_cluster()))             # doctest: +SKIP
    """
    count = gpu_count() if n_gpus is None else n_gpus
    check_security(security, None)
    names = visible_names()
    if names and count > len(names):
        raise InvalidParameterError(
            f"n_gpus={count}, and CUDA_VISIBLE_DEVICES={','.join(names)} shows {len(names)}"
        )
    if not count:
        raise MissingDependencyError(
            f"a cluster of GPUs needs one: {why_no_gpu()}; install the driver and "
            'pip install "dgmm[cuda12]" or "dgmm[cuda13]"'
        )
    if importlib.util.find_spec("dask_cuda") is not None:
        cluster = importlib.import_module("dask_cuda").LocalCUDACluster
        return cluster(n_workers=count, threads_per_worker=1, **encryption(security), **options)
    from distributed import SpecCluster

    found = encryption(security)
    protocol, keys = found.get("protocol"), found.get("security")
    of_each = {} if keys is None else {"protocol": protocol, "security": keys}

    # What a worker writes is its own log's; the caller's terminal is for warnings.
    options = {"silence_logs": logging.WARNING} | options
    if keys is not None:
        options = {"security": keys} | options
    return SpecCluster(
        workers=worker_specification(count, **of_each), scheduler=_scheduler(**of_each), **options
    )


def worker_specification(n_gpus: int, **options: Any) -> dict[int, dict[str, Any]]:
    """Workers for ``distributed.SpecCluster``, each of which sees one device.

    One of those that this process sees: ``CUDA_VISIBLE_DEVICES`` of a job on a shared machine names
    what is its own.

    Parameters
    ----------
    n_gpus : int
    **options
        Of each worker.
    """
    from distributed import Nanny

    names = visible_names()
    # Unless this process was told otherwise, devices are numbered as nvidia-smi numbers them.
    order = os.environ.get("CUDA_DEVICE_ORDER", "FASTEST_FIRST" if names else "PCI_BUS_ID")
    return {
        number: {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "host": "127.0.0.1",
                "dashboard_address": None,
                **options,
                "env": {
                    "CUDA_VISIBLE_DEVICES": names[number] if names else str(number),
                    "CUDA_DEVICE_ORDER": order,
                },
            },
        }
        for number in range(n_gpus)
    }


def visible_names() -> list[str]:
    """Devices that ``CUDA_VISIBLE_DEVICES`` names; empty if it does not."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [name.strip() for name in names if name.strip()]


def _scheduler(**options: Any) -> dict[str, Any]:
    from distributed import Scheduler

    place = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "dashboard": False}
    return {"cls": Scheduler, "options": {**place, **options}}
