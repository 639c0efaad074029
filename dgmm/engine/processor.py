"""The kind of processor that a process computes on, on which the last bits of results depend.

BLAS and NumPy choose their loops by the processor. Where the workers of a cluster chose different
ones, the same fit ends in other last bits whenever their tasks are shared out otherwise.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from dgmm.errors import MixedProcessorsWarning
from dgmm.notices import warn_user

__all__ = ["kind_of_processor", "processor_here", "warn_of_mixed"]

_MOST_LISTED = 8


@cache
def kind_of_processor() -> str:
    """The loops that NumPy and its BLAS run here: ``"openblas Haswell, NumPy 2.4.0 X86_V3"``."""
    pools = [one for one in threadpool_info() if one["user_api"] == "blas"]
    # SciPy's wheels bring a BLAS of their own, loaded in some workers and not yet in others.
    pools = [one for one in pools if "numpy" in one["filepath"]] or pools
    return f"{', '.join(_described(pools)) or 'no known BLAS'}, NumPy {np.__version__} {_loops()}"


def _described(pools: Iterable[Mapping[str, Any]]) -> list[str]:
    names = {f"{one['internal_api']} {one.get('architecture') or ''}".strip() for one in pools}
    return sorted(names)


def _loops() -> str:
    """NumPy's extensions of the instruction set beyond its baseline."""
    found = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", ())
    return " ".join(found) or "baseline"


def processor_here() -> dict[str, str]:
    """The name of this machine, by its kind of processor."""
    return {kind_of_processor(): socket.gethostname()}


def warn_of_mixed(processors: Mapping[str, str]) -> None:
    """Warn that workers of several kinds took part in a pass.

    Parameters
    ----------
    processors : mapping of str to str
        A machine of each kind.
    """
    kinds = sorted(processors)
    listed = "; ".join(f"{kind} (on {processors[kind]})" for kind in kinds[:_MOST_LISTED])
    more = f"; {len(kinds) - _MOST_LISTED} more" if len(kinds) > _MOST_LISTED else ""
    warn_user(
        f"workers computed with {len(kinds)} kinds of loops: {listed}{more}; their last bits "
        "differ, and so will those of the same fit run again: use workers with one kind of "
        "processor and one version of NumPy, or have all choose the same loops "
        "(OPENBLAS_CORETYPE, NPY_DISABLE_CPU_FEATURES)",
        MixedProcessorsWarning,
    )
