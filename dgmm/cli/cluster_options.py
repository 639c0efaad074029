"""Options of clusters: certificates, and how long is waited for what does not answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

__all__ = ["certificates", "cluster_options", "security_of_own", "timeouts"]

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(exists=True, dir_okay=False)
_SECONDS = click.FloatRange(min=0, min_open=True, max=1e9)
_CERTIFICATES = ("tls_ca_file", "tls_cert", "tls_key")
_TIMEOUTS = ("no_workers_timeout", "worker_timeout", "progress_timeout", "scheduler_timeout")

_OPTIONS = (
    click.option(
        "--tls",
        is_flag=True,
        help="Encrypt the cluster that is started here, by a certificate made for it alone if "
        "there are no others.",
    ),
    click.option(
        "--tls-ca-file",
        type=_FILE,
        help="The authority that signed the certificates of a tls:// scheduler and its workers.",
    ),
    click.option(
        "--tls-cert", type=_FILE, help="The certificate of this client, or of a cluster of its own."
    ),
    click.option("--tls-key", type=_FILE, help="Its private key, if the file does not hold both."),
    click.option(
        "--no-workers-timeout",
        type=_SECONDS,
        metavar="SECONDS",
        help="How long a cluster may be without workers (45 by default).",
    ),
    click.option(
        "--worker-timeout",
        type=_SECONDS,
        metavar="SECONDS",
        help="How long a worker may be silent before others do its share (30 by default).",
    ),
    click.option(
        "--progress-timeout",
        type=_SECONDS,
        metavar="SECONDS",
        help="How long a pass may get nowhere (600 by default).",
    ),
    click.option(
        "--scheduler-timeout",
        type=_SECONDS,
        metavar="SECONDS",
        help="How long the scheduler may be silent (30 by default).",
    ),
)


def cluster_options(command: F) -> F:
    """Add them to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def timeouts(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the engine, from the options that have a value."""
    return {name: options[name] for name in _TIMEOUTS if options[name] is not None}


def certificates(options: Mapping[str, Any]) -> dict[str, str]:
    """The files for TLS that are given; none, or enough of them.

    Raises
    ------
    click.UsageError
    """
    given = {name: options[name] for name in _CERTIFICATES if options[name] is not None}
    scheduler = options["scheduler"]
    starts_one = scheduler is None and (
        options["n_workers"] is not None or options["engine"] == "dask"
    )
    if options["tls"] and not starts_one:
        raise click.UsageError(
            "--tls goes with --n-workers or --engine dask; a running scheduler has it where its "
            "address begins with tls://"
        )
    if given and not starts_one and not (scheduler or "").startswith("tls://"):
        raise click.UsageError(
            "--tls-ca-file, --tls-cert and --tls-key go with a tls:// scheduler, --n-workers or "
            "--engine dask"
        )
    if given and not {"tls_ca_file", "tls_cert"} <= set(given):
        raise click.UsageError("TLS needs --tls-ca-file and --tls-cert (and --tls-key)")
    return given


def security_of_own(options: Mapping[str, Any], files: Mapping[str, str]) -> Any:
    """The ``security`` of an engine that starts a cluster, from what :func:`certificates` gives."""
    if not files:
        return True if options["tls"] else None
    from distributed.security import Security

    pair = {"cert": files["tls_cert"], "key": files.get("tls_key")}
    return Security(
        tls_ca_file=files["tls_ca_file"],
        require_encryption=True,
        **{
            f"tls_{role}_{kind}": name
            for role in ("client", "scheduler", "worker")
            for kind, name in pair.items()
        },
    )
