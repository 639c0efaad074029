"""The engine of a Dask cluster."""

from __future__ import annotations

import threading
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dgmm.data.dataset import Dataset
from dgmm.errors import InvalidParameterError

if TYPE_CHECKING:
    from distributed import Client

    from dgmm.engine.dask_session import DaskSession

__all__ = ["DaskEngine"]


class DaskEngine:
    """Runs passes on the workers of a Dask cluster.

    Parameters
    ----------
    client : distributed.Client, optional
        The cluster. None: that of the current default client or, if there is none, a cluster of
        processes on this machine, which the engine starts when it is first used and closes with
        :meth:`close` (or when it is no longer referenced).
    no_workers_timeout : float, default=60
        Seconds that the cluster may be without any worker before a pass fails.

    Notes
    -----
    A pickle of the engine drops the client; a copy of the engine is the engine itself.
    """

    def __init__(self, client: Client | None = None, *, no_workers_timeout: float = 60.0) -> None:
        if client is not None and not hasattr(client, "scheduler_info"):
            raise InvalidParameterError(
                f"client={client!r} is not a dask.distributed.Client; connect one, "
                "DaskEngine(Client(address)) or DaskEngine(Client(cluster))"
            )
        if getattr(client, "asynchronous", False):
            raise InvalidParameterError("the client is asynchronous; DaskEngine needs a plain one")
        self.client = client
        self.no_workers_timeout = no_workers_timeout
        self._own = _OwnCluster()

    def session(
        self, dataset: Dataset, *, memory_limit: int | None = None, reserved_bytes: int = 0
    ) -> DaskSession:
        """Open a dataset; see :class:`dgmm.engine.base.Engine`.

        Raises
        ------
        MemoryLimitError
            If not even one block at a time fits in the limit of a worker.
        EngineError
            If the cluster has no workers.
        """
        from dgmm.engine.dask_session import DaskSession

        return DaskSession(
            self._find_client(),
            dataset,
            memory_limit=memory_limit,
            reserved_bytes=reserved_bytes,
            no_workers_timeout=self.no_workers_timeout,
        )

    def close(self) -> None:
        """Close the cluster that the engine started, if it did."""
        self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        address = getattr(getattr(self.client, "scheduler", None), "address", None)
        return f"DaskEngine(client={address})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DaskEngine) and self.client is other.client

    def __hash__(self) -> int:
        return hash((DaskEngine, id(self.client)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.no_workers_timeout,)

    def _find_client(self) -> Client:
        return self.client or current_client() or self._own.client()


def current_client() -> Client | None:
    """The default client of this process, None if there is none."""
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None


def _unpickled(no_workers_timeout: float) -> DaskEngine:
    return DaskEngine(no_workers_timeout=no_workers_timeout)


class _OwnCluster:
    """A cluster of processes on this machine, started when it is asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._finalizer: Any = None

    def client(self) -> Client:
        with self._lock:
            if self._client is None:
                from distributed import Client, LocalCluster

                cluster = LocalCluster(
                    threads_per_worker=1, host="127.0.0.1", dashboard_address=None
                )
                # A worker that dies while it starts is replaced by nobody else.
                n_workers = len(cluster.worker_spec)
                cluster.adapt(minimum=n_workers, maximum=n_workers)
                # Not the default client: what the engine starts is its own affair.
                self._client = Client(cluster, set_as_default=False)
                self._finalizer = weakref.finalize(self, _close, self._client, cluster)
            return self._client

    def close(self) -> None:
        with self._lock:
            self._client = None
            if self._finalizer is not None:
                self._finalizer()


def _close(client: Any, cluster: Any) -> None:
    client.close()
    cluster.close()
