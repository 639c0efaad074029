"""From options to an engine: threads, a Dask cluster started here, or one that runs already."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from dgmm.cli.cluster_options import certificates, security_of_own, timeouts
from dgmm.cli.output import redact
from dgmm.errors import EngineError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["engine_of"]

_CONNECT_SECONDS = 30


@contextmanager
def engine_of(options: Mapping[str, Any]) -> Iterator[Any]:
    """The engine that the options ask for; what was started for it is stopped afterwards."""
    engine, n_threads = options["engine"], options["n_threads"]
    scheduler, n_workers = options["scheduler"], options["n_workers"]
    _check(engine, n_threads, scheduler, n_workers)
    files = certificates(options)
    if engine != "dask" and scheduler is None and n_workers is None:
        from dgmm.engine.local import LocalEngine

        yield LocalEngine(n_threads)
        return
    from dgmm.engine.dask import DaskEngine

    if scheduler is None:
        security = security_of_own(options, files)
        with DaskEngine(n_workers=n_workers, security=security, **timeouts(options)) as engine:
            yield engine
        return
    with _connect(scheduler, files) as client:
        yield DaskEngine(client, **timeouts(options))


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


def _connect(address: str, files: Mapping[str, str]) -> Client:
    from distributed import Client

    try:
        security = _security(address, files)
        return Client(address, timeout=_CONNECT_SECONDS, set_as_default=False, security=security)
    except ssl.SSLError as error:
        raise EngineError(
            f"no TLS with the Dask scheduler {redact(address)}: {error.reason or error}; check "
            "that its certificate and --tls-cert are signed by --tls-ca-file, and that --tls-key "
            "belongs to --tls-cert"
        ) from error
    # distributed raises TypeError and ValueError as well for addresses it cannot read.
    except (OSError, ValueError, TypeError) as error:
        raise EngineError(
            f"cannot reach the Dask scheduler {redact(address)} within {_CONNECT_SECONDS} s "
            f"({type(error).__name__}); check the address and that it runs"
        ) from error


def _security(address: str, files: Mapping[str, str]) -> Any:
    """What the client shows and asks to see; None leaves it to Dask's own configuration."""
    import dask
    from distributed.security import Security

    if files:
        return Security(
            tls_ca_file=files["tls_ca_file"],
            tls_client_cert=files["tls_cert"],
            tls_client_key=files.get("tls_key"),
            require_encryption=True,
        )
    if address.startswith("tls://") and not dask.config.get("distributed.comm.tls.ca-file", None):
        raise click.UsageError(
            "a tls:// scheduler needs --tls-ca-file, --tls-cert and --tls-key, or "
            "distributed.comm.tls in Dask's configuration"
        )
    return None
