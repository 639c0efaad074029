"""The arguments of an estimator that a model file keeps, and how they come back.

Kept is what a fit of the same kind needs, so that one read back, fitted again, does what the one
written would have done. Not kept is where and how passes run (``engine``, ``device``,
``memory_limit``), which is a matter of the machine, nor anything of checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dgmm.dispatch import host_float64
from dgmm.fixed import Fixed

__all__ = ["RUNNING", "restored_arguments", "saved_arguments"]

Array = np.ndarray[Any, Any]

RUNNING = (
    "engine",
    "device",
    "dtype",
    "memory_limit",
    "verbose",
    "verbose_interval",
    "checkpoint",
    "checkpoint_every",
    "resume",
)
"""Arguments that say where and how passes run, not what a fit does; :func:`load_state` keeps them.

``dtype`` is in a model file all the same, for the model that is read.
"""

# In every file.
_PLAIN = ("tol", "reg_covar", "max_iter", "n_init", "init_params", "warm_start", "random_state")
# In those that were written since there is such an argument; else its default comes back.
_LATER = (
    "algorithm",
    "annealing",
    "halve_after",
    "acceleration",
    "empty_components",
    "step_size",
    "step_offset",
    "forgetting",
)
_PRIORS = (
    "weight_concentration_prior",
    "mean_prior",
    "mean_precision_prior",
    "covariance_prior",
    "degrees_of_freedom_prior",
)
# Where the values of a held parameter may have been given.
_STARTS = {
    "weights": ("weights_init",),
    "means": ("means_init",),
    "covariances": ("covariances_init", "precisions_init"),
}


def saved_arguments(estimator: Any) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arguments of a fitted estimator: arrays, and plain facts.

    Starts are kept where they are what a parameter is held at.
    """
    facts = {name: getattr(estimator, name) for name in (*_PLAIN, *_LATER)}
    # A model file holds no code: where a function was given, the default comes back.
    for name, default in (("init_params", "kmeans"), ("step_size", 0.7)):
        facts[name] = default if callable(facts[name]) else facts[name]
    facts["random_state"] = _seed(estimator.random_state)
    facts["dtype"] = None if estimator.dtype is None else np.dtype(estimator.dtype).name
    if estimator.annealing is not None:
        facts["annealing"] = [float(one) for one in estimator.annealing]
    if estimator.covariance_floor is not None:
        facts["covariance_floor"] = float(estimator.covariance_floor)
    arrays = _priors_of(estimator)
    held = _written(estimator._fixed, estimator.mixture_.n_components)
    if held:
        facts["fixed"] = held
        for name in held:
            arrays |= {start: getattr(estimator, start) for start in _STARTS[name]}
    given = {name: value for name, value in arrays.items() if value is not None}
    plain = {name: _plain(value) for name, value in facts.items()}
    return {name: host_float64(value) for name, value in given.items()}, plain


def restored_arguments(tensors: Mapping[str, Array], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that :func:`saved_arguments` put into a model file, but for ``dtype``.

    Raises
    ------
    KeyError
        If one is missing that every file has.
    """
    names = (*_PRIORS, *(start for starts in _STARTS.values() for start in starts))
    arrays: dict[str, Any] = {
        name: tensors[name] if tensors[name].ndim else float(tensors[name])
        for name in names
        if name in tensors
    }
    optional = (*_LATER, "covariance_floor", "fixed")
    return (
        {name: facts[name] for name in _PLAIN}
        | {name: facts[name] for name in optional if name in facts}
        | arrays
    )


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, which JSON can hold."""
    return value.item() if isinstance(value, np.generic) else value


def _seed(random_state: Any) -> int | None:
    return int(random_state) if isinstance(random_state, (int, np.integer)) else None


def _priors_of(estimator: Any) -> dict[str, Any]:
    """The priors given, without those of components that were dropped."""
    given = {name: getattr(estimator, name) for name in _PRIORS}
    family, dropped = estimator.mixture_.family, list(estimator._dropped)
    own = 0 if family.is_tied else len(family.covariances_shape(1, 1))
    # How many axes each has where it has a value for every component.
    axes = dict(zip(_PRIORS, (1, 2, 1, own, 0 if family.is_tied else 1), strict=True))
    for name, value in given.items():
        if dropped and value is not None and 0 < np.ndim(value) == axes[name]:
            given[name] = np.delete(np.asarray(value), dropped, axis=0)
    return given


def _written(fixed: Fixed, n_components: int) -> dict[str, Any]:
    """The argument ``fixed`` that gives this, in one spelling whatever the caller's was."""
    held = {name: sorted(getattr(fixed, name)) for name in _STARTS}
    return {
        name: True if len(components) == n_components else components
        for name, components in held.items()
        if components
    }
