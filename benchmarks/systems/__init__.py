"""The systems that are measured, each behind :class:`benchmarks.systems.base.System`.

Each runs in a process of its own (:mod:`benchmarks.systems.host`), under an interpreter that has
it; where none has, it is left out and the tables say why. A new system is a module here and a line
in :data:`REGISTRY`.
"""

from __future__ import annotations

import importlib.util

# Name in the tables, module and class.
REGISTRY = {
    "dgmm": ("benchmarks.systems.ours", "Plain"),
    "dgmm compiled": ("benchmarks.systems.ours", "Compiled"),
    "scikit-learn": ("benchmarks.systems.scikit_learn", "ScikitLearn"),
    "tgmm": ("benchmarks.systems.tgmm_torch", "Tgmm"),
    "pomegranate": ("benchmarks.systems.pomegranate_torch", "Pomegranate"),
    "Spark": ("benchmarks.systems.spark", "Spark"),
}

# Those of dgmm's own environment; the others may live in one of their own.
OWN = ("dgmm", "dgmm compiled", "scikit-learn")
PEERS = ("tgmm", "pomegranate", "Spark")


def compiled_device() -> str:
    """dgmm's compiled loops where numba is installed, NumPy alone elsewhere."""
    return "cpu" if importlib.util.find_spec("numba") is None else "cpu-compiled"
