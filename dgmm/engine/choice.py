"""From an ``engine=`` argument to an engine."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from dgmm.data.dataset import Dataset
from dgmm.engine.base import Engine
from dgmm.engine.local import LocalEngine
from dgmm.errors import InvalidParameterError

__all__ = ["engine_for", "engine_from"]


def engine_from(value: Engine | str | None) -> Engine:
    """The engine that an ``engine=`` argument means.

    Parameters
    ----------
    value : {None, "local", "dask"} or Engine
        None is ``"local"``. ``"dask"`` is one engine of this process: the default client's
        cluster or, without one, a cluster on this machine that lives until the process ends.

    Raises
    ------
    InvalidParameterError
        For anything else.
    """
    if value is None or (isinstance(value, str) and value == "local"):
        return LocalEngine()
    if isinstance(value, str) and value == "dask":
        return _shared_dask_engine()
    if not isinstance(value, (str, type)) and callable(getattr(value, "session", None)):
        return value
    raise InvalidParameterError(
        f"engine={value!r}; it must be None, 'local', 'dask' or an engine such as "
        "dgmm.LocalEngine(n_threads=4) or dgmm.DaskEngine(client)"
    )


def engine_for(value: Engine | str | None, dataset: Dataset) -> Engine:
    """The engine for a dataset: :func:`engine_from`, except that a Dask array stays on its cluster.

    Without an engine asked for, the blocks of a Dask array are evaluated on the cluster that it is
    persisted on or, if it is not, on that of the current default client, which is where Dask itself
    would compute them.
    """
    if value is None and hasattr(dataset.origin, "__dask_graph__"):
        client = _client_of(dataset)
        if client is not None:
            from dgmm.engine.dask import DaskEngine

            return DaskEngine(client)
    return engine_from(value)


def _client_of(dataset: Dataset) -> Any:
    futures = getattr(dataset.blocks[0], "futures", ()) if dataset.blocks else ()
    if futures:
        return futures[0].client
    if "distributed" not in sys.modules:
        return None
    from dgmm.engine.dask import current_client

    return current_client()


@cache
def _shared_dask_engine() -> Engine:
    from dgmm.engine.dask import DaskEngine

    return DaskEngine()
