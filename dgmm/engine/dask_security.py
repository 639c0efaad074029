"""Certificates of a cluster that is started here."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from dgmm.errors import EngineError, InvalidParameterError, MissingDependencyError

if TYPE_CHECKING:
    from distributed import Security

__all__ = ["check_security", "encryption", "holds_keys"]

_ROLES = ("client", "scheduler", "worker")

# A key may stand behind its certificate.
_KINDS = ("cert", "key")


def check_security(security: object, client: object) -> None:
    """Refuse what is neither None, True nor a ``Security``, and any for a cluster that runs.

    Raises
    ------
    InvalidParameterError
    """
    if security is None:
        return
    if client is not None:
        raise InvalidParameterError(
            "security is for a cluster that the engine starts, and client is one that runs: give "
            "it to the client, Client(address, security=...), or leave the client out"
        )
    if security is not True and not hasattr(security, "get_connection_args"):
        raise InvalidParameterError(
            f"security={type(security).__name__}; it must be None, True or a distributed.Security"
        )


def encryption(security: Security | bool | None) -> dict[str, Any]:
    """Options of :class:`distributed.LocalCluster`.

    Parameters
    ----------
    security : distributed.Security, True or None
        True is the certificates of Dask's configuration (``distributed.comm.tls``) or, if it names
        none, one for this cluster alone, which is made here and never leaves memory. None leaves
        it to ``distributed.comm.require-encryption`` of that configuration.

    Raises
    ------
    MissingDependencyError
        If one has to be made, and ``cryptography`` is not installed.
    EngineError
        If a role lacks its certificate, or a file cannot be read or is not what it should be.
    """
    if security is None:
        return {}
    from distributed import Security

    if security is True:
        configured: Any = Security(require_encryption=True)
        security = _temporary() if configured.tls_ca_file is None else configured
    _check_files(security)
    return {"security": security, "protocol": "tls://"}


def holds_keys(security: object) -> bool:
    """True for keys in memory, which must not be written anywhere; False for names of files."""
    keys = (getattr(security, f"tls_{role}_{kind}", None) for role in _ROLES for kind in _KINDS)
    return any("\n" in key for key in keys if isinstance(key, str))


def _temporary() -> Security:
    from distributed import Security

    try:
        return Security.temporary()
    except ImportError as error:
        raise MissingDependencyError(
            "making certificates for a cluster needs cryptography: pip install 'dgmm[tls]', or "
            "pass certificates of your own"
        ) from error


def _check_files(security: Any) -> None:
    """See now what each process would otherwise fail by while it starts, many lines long."""
    for role in _ROLES:
        try:
            context = security.get_connection_args(role)["ssl_context"]
        except ssl.SSLError as error:
            raise EngineError(
                f"the TLS files for the {role} of the cluster do not fit: "
                f"{error.reason or error}; check that the key belongs to the certificate, and that "
                "both are PEM"
            ) from error
        except OSError as error:
            raise EngineError(
                f"cannot read the TLS files for the {role} of the cluster: {error}"
            ) from error
        if context is None:
            raise EngineError(
                f"TLS for a cluster needs tls_ca_file and tls_{role}_cert (and tls_{role}_key): "
                "give them to Security, or to distributed.comm.tls of Dask's configuration"
            )
