"""What the last bits of a result depend on beside data, seed and arguments."""

from __future__ import annotations

import numpy as np

from dgmm import __version__

__all__ = ["surroundings"]


def surroundings() -> dict[str, str]:
    """The libraries of this process, and the kernels that its BLAS has chosen for the processor."""
    from threadpoolctl import threadpool_info

    found = {
        f"{one['internal_api']} {one.get('version')} {one.get('architecture', '')}".strip()
        for one in threadpool_info()
        if one["user_api"] == "blas"
    }
    return {"dgmm": __version__, "numpy": np.__version__, "BLAS": ", ".join(sorted(found))}
