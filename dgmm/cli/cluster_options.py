"""Options of clusters: certificates, and how long is waited for what does not answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

__all__ = ["certificates", "cluster_options", "timeouts"]

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(exists=True, dir_okay=False)
_SECONDS = click.FloatRange(min=0, min_open=True, max=1e9)
_CERTIFICATES = ("tls_ca_file", "tls_cert", "tls_key")
_TIMEOUTS = ("no_workers_timeout", "worker_timeout", "progress_timeout", "scheduler_timeout")

_OPTIONS = (
    click.option(
        "--tls-ca-file",
        type=_FILE,
        help="The authority that signed the certificates of a tls:// scheduler and its workers.",
    ),
    click.option("--tls-cert", type=_FILE, help="The certificate of this client."),
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
    scheduler = options["scheduler"] or ""
    if given and not scheduler.startswith("tls://"):
        raise click.UsageError("--tls-ca-file, --tls-cert and --tls-key go with a tls:// scheduler")
    if given and not {"tls_ca_file", "tls_cert"} <= set(given):
        raise click.UsageError("TLS needs --tls-ca-file and --tls-cert (and --tls-key)")
    return given
