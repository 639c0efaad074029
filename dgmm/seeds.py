"""The one seed behind everything random, from scikit-learn's ``random_state``."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgmm.errors import InvalidParameterError

__all__ = ["seed_entropy"]


def seed_entropy(random_state: Any) -> int:
    """The one seed of a fit, from scikit-learn's ``random_state``.

    Raises
    ------
    InvalidParameterError
        If it is neither None, a non-negative integer, a ``RandomState`` nor a ``Generator``.
    """
    if random_state is None:
        return int(np.random.SeedSequence().entropy)  # type: ignore[arg-type]
    is_integer = isinstance(random_state, int | np.integer) and not isinstance(random_state, bool)
    if is_integer and random_state >= 0:
        return int(random_state)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**63 - 1))
    raise InvalidParameterError(
        f"random_state={random_state!r}; it must be None, a non-negative integer, "
        "a numpy.random.RandomState or a numpy.random.Generator"
    )
