"""From options to an engine: threads, a Dask cluster started here, or one that runs already."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import click

from dgmm.cli.output import redact
from dgmm.errors import EngineError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["engine_of"]

# Without a limit of its own, distributed would wait for workers for ever.
_NO_WORKERS_TIMEOUT = "120s"
_CONNECT_SECONDS = 30


@contextmanager
def engine_of(options: Mapping[str, Any]) -> Iterator[Any]:
    """The engine that the options ask for; what was started for it is stopped afterwards."""
    engine, n_threads = options["engine"], options["n_threads"]
    scheduler, n_workers = options["scheduler"], options["n_workers"]
    _check(engine, n_threads, scheduler, n_workers)
    if engine != "dask" and scheduler is None and n_workers is None:
        from dgmm.engine.local import LocalEngine

        yield LocalEngine(n_threads)
        return
    from dgmm.engine.dask import DaskEngine

    with ExitStack() as stack:
        client = _connect(stack, scheduler) if scheduler else _start(stack, n_workers)
        yield DaskEngine(client)


def _check(
    engine: str | None, n_threads: int | None, scheduler: str | None, n_workers: int | None
) -> None:
    if scheduler is not None and n_workers is not None:
        raise click.UsageError("--scheduler uses a running cluster and --n-workers starts one")
    on_cluster = scheduler is not None or n_workers is not None
    if engine == "local" and on_cluster:
        raise click.UsageError("--scheduler and --n-workers go with --engine dask")
    if n_threads is not None and (engine == "dask" or on_cluster):
        raise click.UsageError("--n-threads goes with --engine local; workers know their own")


def _connect(stack: ExitStack, address: str) -> Client:
    from distributed import Client

    try:
        return stack.enter_context(Client(address, timeout=_CONNECT_SECONDS, set_as_default=False))
    # distributed raises TypeError and ValueError as well for addresses it cannot read.
    except (OSError, ValueError, TypeError) as error:
        raise EngineError(
            f"cannot reach the Dask scheduler {redact(address)} within {_CONNECT_SECONDS} s "
            f"({type(error).__name__}); check the address and that it runs"
        ) from error


def _start(stack: ExitStack, n_workers: int | None) -> Client:
    import dask
    from distributed import Client, LocalCluster

    stack.enter_context(
        dask.config.set({"distributed.scheduler.no-workers-timeout": _NO_WORKERS_TIMEOUT})
    )
    try:
        cluster = LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1 if n_workers else None,
            # This machine alone. The scheduler always starts a web server: on any free port then,
            # and without the pages that nobody asked for.
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.ERROR,
        )
    except (OSError, RuntimeError) as error:
        raise EngineError(f"cannot start a Dask cluster on this machine: {error}") from error
    stack.enter_context(cluster)
    # A worker that dies while it starts is replaced by nobody else.
    workers = len(cluster.worker_spec)
    cluster.adapt(minimum=workers, maximum=workers)
    return stack.enter_context(Client(cluster, set_as_default=False))
