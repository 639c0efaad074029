"""The engine of a Dask cluster."""

from __future__ import annotations

import logging
import pickle
import threading
import weakref
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dgmm.data.dataset import Dataset
from dgmm.engine.base import BlockTask
from dgmm.engine.dask_security import check_security, holds_keys
from dgmm.engine.dask_timeouts import Timeouts
from dgmm.errors import DgmmError, EngineError, InvalidParameterError, SchedulerLostError

if TYPE_CHECKING:
    from distributed import Client, Security

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
    n_workers : int, optional
        Processes of the cluster that the engine starts; by default one for each core.
    security : distributed.Security or True, optional
        TLS for the cluster that the engine starts. True is the certificates of Dask's configuration
        or, without any there, a temporary one that only this cluster knows (needs
        ``cryptography``). None: as Dask's configuration has it, which encrypts nothing by default.
    no_workers_timeout : float, default=45
        Seconds that the cluster may be without any worker before a pass fails.
    worker_timeout : float, default=30
        Seconds without a heartbeat after which a worker (stopped, cut off) is given up during a
        pass, so that its share goes to others.
    progress_timeout : float, default=600
        Seconds without a part of a block done after which a pass fails. After half of it, workers
        that got nowhere with their share are given up, and others try within the other half.
    scheduler_timeout : float, default=30
        Seconds that the scheduler may take to answer.

    Raises
    ------
    InvalidParameterError
        For what is no client, a client together with ``n_workers`` or ``security``, or a timeout
        that is none.

    Notes
    -----
    A pickle of the engine drops the client, and is refused if it would hold private keys; a copy of
    the engine is the engine itself.
    """

    def __init__(
        self,
        client: Client | None = None,
        *,
        n_workers: int | None = None,
        security: Security | bool | None = None,
        no_workers_timeout: float = 45.0,
        worker_timeout: float = 30.0,
        progress_timeout: float = 600.0,
        scheduler_timeout: float = 30.0,
    ) -> None:
        if client is not None and not hasattr(client, "scheduler_info"):
            raise InvalidParameterError(
                f"client={client!r} is not a dask.distributed.Client; connect one, "
                "DaskEngine(Client(address)) or DaskEngine(Client(cluster))"
            )
        if getattr(client, "asynchronous", False):
            raise InvalidParameterError("the client is asynchronous; DaskEngine needs a plain one")
        _check_workers(n_workers, client)
        check_security(security, client)
        self.client = client
        self.n_workers = n_workers
        self.security = security
        self.timeouts = Timeouts(
            no_workers_timeout, worker_timeout, progress_timeout, scheduler_timeout
        )
        self._own = _OwnCluster(n_workers, security)

    def session(
        self,
        dataset: Dataset,
        *,
        memory_limit: int | None = None,
        reserved_bytes: int = 0,
        tasks: Sequence[BlockTask[Any]] = (),
    ) -> DaskSession:
        """Open a dataset; see :class:`dgmm.engine.base.Engine`.

        Raises
        ------
        MemoryLimitError
            If not even one block at a time fits in the limit of a worker.
        NoWorkersError, SchedulerLostError
            If the cluster has no workers, or cannot be reached.
        """
        from dgmm.engine.dask_session import DaskSession

        def opened(client: Client, renew: Any = None) -> DaskSession:
            return DaskSession(
                client,
                dataset,
                memory_limit=memory_limit,
                reserved_bytes=reserved_bytes,
                tasks=tasks,
                timeouts=self.timeouts,
                renew=renew,
            )

        # A cluster of somebody else's cannot be replaced from here.
        if (given := self.client or self._current_client()) is not None:
            return opened(given)
        ours = self._own.client()
        try:
            return opened(ours, self._own.another)
        except SchedulerLostError:
            # It died since it was last used.
            return opened(self._own.another(ours), self._own.another)

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
        return isinstance(other, DaskEngine) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        return id(self.client), self.n_workers, self.security, self.timeouts

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if holds_keys(self.security):
            raise pickle.PicklingError(
                "a pickle of this engine would hold the private keys of its security; pass "
                "security=True, or a Security with the names of files"
            )
        own = {"n_workers": self.n_workers, "security": self.security}
        return _unpickled, ({**own, **asdict(self.timeouts)},)

    def _current_client(self) -> Client | None:
        """The default client, unless a cluster of our own is asked for."""
        own = self.n_workers is not None or self.security is not None
        return None if own else current_client()


def current_client() -> Client | None:
    """The default client of this process, None if there is none."""
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None


def _unpickled(arguments: dict[str, Any]) -> DaskEngine:
    return DaskEngine(**arguments)


def _check_workers(n_workers: object, client: Client | None) -> None:
    if n_workers is None:
        return
    if client is not None:
        raise InvalidParameterError(
            "n_workers is for a cluster that the engine starts, and client is one that runs; "
            "leave one of them out"
        )
    if isinstance(n_workers, bool) or not isinstance(n_workers, int) or n_workers < 1:
        raise InvalidParameterError(f"n_workers={n_workers!r}; it must be an integer of at least 1")


class _OwnCluster:
    """A cluster of processes on this machine, started when it is asked for."""

    def __init__(self, n_workers: int | None, security: Security | bool | None) -> None:
        self._n_workers, self._security = n_workers, security
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._finalizer: Any = None

    def client(self) -> Client:
        """Its client; of another cluster, if this one is lost."""
        return self.another(None)

    def another(self, lost: Client | None) -> Client:
        """The client of another cluster than the one of a client that is lost, started once."""
        with self._lock:
            if self._client is not None and (
                self._client is lost or self._client.status != "running"
            ):
                self._close()
            if self._client is None:
                from distributed import Client

                from dgmm.engine.dask_local import start_cluster

                try:
                    cluster = start_cluster(
                        self._n_workers, security=self._security, silence_logs=logging.ERROR
                    )
                except DgmmError:
                    raise
                except (OSError, RuntimeError) as error:
                    raise EngineError(
                        f"cannot start a Dask cluster on this machine: {error}"
                    ) from error
                # Not the default client: what the engine starts is its own affair.
                try:
                    self._client = Client(cluster, set_as_default=False)
                except OSError as error:
                    cluster.close()
                    raise EngineError(
                        f"the Dask cluster that was started does not answer: {error}"
                    ) from error
                self._finalizer = weakref.finalize(self, _close, self._client, cluster)
            return self._client

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        self._client = None
        if self._finalizer is not None:
            self._finalizer()


def _close(client: Any, cluster: Any) -> None:
    try:
        client.close()
    finally:
        from dgmm.engine.dask_local import close_cluster

        # Whatever the client met, its processes must not stay.
        close_cluster(cluster)
