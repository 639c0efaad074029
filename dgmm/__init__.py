"""Gaussian mixtures for data that does not fit in memory.

The public names. Each is imported when it is first asked for, so that ``import dgmm`` costs
nothing and pulls in nothing: a command that prints its help, a worker that unpickles a block and a
program which only wants the exceptions do not wait for scikit-learn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dgmm.data.opening import open_dataset
    from dgmm.engine.dask import DaskEngine
    from dgmm.engine.gpu_cluster import gpu_cluster
    from dgmm.engine.local import LocalEngine
    from dgmm.errors import (
        CheckpointError,
        CheckpointMismatchError,
        ComplexDataError,
        ConstantFeatureWarning,
        DamagedBlockError,
        DataChangedError,
        DeadlyBlockError,
        DgmmError,
        DgmmWarning,
        EmptyComponentError,
        EmptyComponentWarning,
        EngineError,
        FitStoppedError,
        InvalidDataError,
        InvalidDtypeError,
        InvalidParameterError,
        MemoryLimitError,
        MissingChunkError,
        MissingDependencyError,
        MixedProcessorsWarning,
        ModelFileError,
        NoWorkersError,
        SchedulerLostError,
        SingularMixtureError,
        SourceError,
        StalledError,
        StoreUnavailableError,
    )
    from dgmm.estimator import GaussianMixture, NotFittedError
    from dgmm.mixture import Mixture
    from dgmm.selection import Selection, select_model
    from dgmm.suggestions import suggest_priors

__all__ = [
    "CheckpointError",
    "CheckpointMismatchError",
    "ComplexDataError",
    "ConstantFeatureWarning",
    "DamagedBlockError",
    "DaskEngine",
    "DataChangedError",
    "DeadlyBlockError",
    "DgmmError",
    "DgmmWarning",
    "EmptyComponentError",
    "EmptyComponentWarning",
    "EngineError",
    "FitStoppedError",
    "GaussianMixture",
    "InvalidDataError",
    "InvalidDtypeError",
    "InvalidParameterError",
    "LocalEngine",
    "MemoryLimitError",
    "MissingChunkError",
    "MissingDependencyError",
    "MixedProcessorsWarning",
    "Mixture",
    "ModelFileError",
    "NoWorkersError",
    "NotFittedError",
    "SchedulerLostError",
    "Selection",
    "SingularMixtureError",
    "SourceError",
    "StalledError",
    "StoreUnavailableError",
    "__version__",
    "gpu_cluster",
    "open_dataset",
    "select_model",
    "suggest_priors",
]

__version__ = "0.1.0.dev0"

# Where each name lives; those not listed are exceptions.
_HOMES = {
    "DaskEngine": "dgmm.engine.dask",
    "GaussianMixture": "dgmm.estimator",
    "LocalEngine": "dgmm.engine.local",
    "Mixture": "dgmm.mixture",
    "NotFittedError": "dgmm.estimator",
    "Selection": "dgmm.selection",
    "gpu_cluster": "dgmm.engine.gpu_cluster",
    "open_dataset": "dgmm.data.opening",
    "select_model": "dgmm.selection",
    "suggest_priors": "dgmm.suggestions",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'dgmm' has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "dgmm.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
