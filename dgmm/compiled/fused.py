"""A whole E-step as one loop over runs of a few hundred rows, which never leave the first caches.

Where components and features are few, array calls spend more on being called, and on waiting for
the interpreter's lock, than on arithmetic. The arithmetic here is that of
:class:`~dgmm.kernels.FeatureKernel`, in runs instead of tiles.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from dgmm.arrays import aligned_empty
from dgmm.compiled.loops import (
    Loop,
    array_types,
    centre_loop,
    compiled_once,
    jit,
    prefetch_loop,
    products_loop,
    signature,
)
from dgmm.compiled.products import add_outer, add_product, padded
from dgmm.compiled.softmax import N_TALLIED, softmax_loop, tally_loop
from dgmm.features import Layout

__all__ = ["FusedStep"]

Array = np.ndarray[Any, Any]

# Rows of a run. Measured from 64 to 2048: shorter ones lose to what a block of products costs
# beyond its arithmetic, longer ones to the cache. Whole lines of it in either dtype, but no power
# of two of them: rows of features 2,048 bytes apart would share few of its sets.
_RUN = 272

# Features and responsibilities of a run have to stay near the second cache.
_MOST_BYTES = 1360 * 2**10

# Beyond, BLAS, which shares a loaded feature among more components, is as fast or faster: with
# AVX-512, whose registers hold as much as the loops need, and without.
_MOST_COMPONENTS, _MOST_ON_NARROW = 64, 32

_NO_WEIGHTS = np.empty(0)


class FusedStep:
    """Sums of responsibilities times features for mixtures that share a frame, in one loop.

    Parameters
    ----------
    theta : array of shape (n_stacked, n_coefficients)
        Coefficients of the mixtures, one below the other, in the dtype of the products.
    sizes : sequence of int
        Components of each mixture.
    origin : array of shape (n_features,)
        Of the frame.
    whitening : array of shape (n_features, n_features), optional
        Applied to centred rows, in float64.
    most_rows : int, default=16384
        Of a call of :meth:`add`.
    """

    def __init__(
        self,
        theta: Array,
        sizes: Sequence[int],
        origin: Array,
        whitening: Array | None = None,
        *,
        most_rows: int = 16384,
    ) -> None:
        n_features, dtype = len(origin), theta.dtype
        layout = Layout(n_features)
        side = 0 if whitening is None else padded(n_features)
        n_products = max(0, theta.shape[1] - layout.scalar)
        self._dtype = dtype.name
        self._origin = np.asarray(origin, np.float64)
        self._has_norm = theta.shape[1] >= layout.scalar
        self._shape = theta.shape
        self._theta = _filled(theta, padded(theta.shape[0]), padded(theta.shape[1]))
        self._bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.intp)
        self._factors = layout.first_factors(n_products)
        self._whitening = np.zeros((0, 0)) if whitening is None else _filled(whitening, side, side)
        self._whitened = _zeros((2, side, _RUN), np.float64)
        self._features = _zeros((self._theta.shape[1], _RUN), dtype)
        self._features[0] = 1.0
        self._joint = _zeros((self._theta.shape[0], _RUN), dtype)
        self._largest = _zeros((2, _RUN), dtype)
        self._sums = np.zeros(self._theta.shape)
        # Kept, because large arrays cost a page fault for every 4 KiB whenever they are made anew.
        self._density = np.empty((len(sizes), most_rows), dtype)
        self._tallies = np.empty((len(sizes), N_TALLIED))
        self._loops: dict[np.dtype[Any], tuple[Loop, Array]] = {}

    @staticmethod
    def fits(n_stacked: int, n_coefficients: int, itemsize: int) -> bool:
        """True if a run stays in the cache and BLAS would not be faster."""
        values = padded(n_stacked) + padded(n_coefficients)
        return n_stacked <= _most_components() and values * _RUN * itemsize <= _MOST_BYTES

    @staticmethod
    def nbytes(n_stacked: int, n_coefficients: int, n_features: int, itemsize: int) -> int:
        """Bytes of what one of these holds."""
        k, f, side = padded(n_stacked), padded(n_coefficients), padded(n_features)
        return itemsize * ((k + f + 2) * _RUN + k * f) + 8 * (k * f + side * (2 * _RUN + side))

    def start(self) -> None:
        """Forget the sums."""
        self._sums[...] = 0.0

    @property
    def sums(self) -> Array:
        """Sums (n_stacked, n_coefficients) since :meth:`start`, in float64."""
        return self._sums[: self._shape[0], : self._shape[1]]

    def add(self, x: Array, weight: Array | None = None) -> tuple[Array, Array]:
        """Add the features of some rows, weighted by their responsibilities, to the sums.

        Parameters
        ----------
        x : array of shape (n_rows, n_features)
            float32 or float64, in C order.
        weight : array of shape (n_rows,), optional

        Returns
        -------
        tallies : array of shape (n_mixtures, 4), float64
            Of the rows given: Σ w log p(x), Σ w log max_k r_k, Σ w, max log p(x).
        density : array of shape (n_mixtures, n_rows)
            log p(x). The next call writes both over.
        """
        step, origin = self._loops.get(x.dtype) or self._loop_for(x.dtype)
        step(
            x, _NO_WEIGHTS if weight is None else np.asarray(weight, np.float64),
            origin, self._whitening, self._theta, self._bounds,
            *self._factors, self._whitened, self._features, self._joint, self._largest,
            self._sums, self._density, self._tallies,
        )  # fmt: skip
        return self._tallies, self._density[:, : x.shape[0]]

    def _loop_for(self, stored: np.dtype[Any]) -> tuple[Loop, Array]:
        """The loop for rows of a dtype, and the origin in the dtype of the difference."""
        is_white = bool(self._whitening.size)
        narrow = self._dtype == stored.name == "float32" and not is_white
        origin = self._origin.astype(np.float32 if narrow else np.float64)
        found = _step(stored.name, self._dtype, is_white, self._has_norm), origin
        self._loops[stored] = found
        return found


@cache
def _most_components() -> int:
    features = importlib.import_module("llvmlite.binding").get_host_cpu_features()
    return _MOST_COMPONENTS if features.get("avx512f") else _MOST_ON_NARROW


@compiled_once
def _load(stored: str, dtype: str, is_white: bool) -> Any:
    """Writes the centred, and perhaps whitened, rows of a run below the constant feature."""
    product = add_product()
    if not is_white:
        centre = centre_loop(stored, dtype)

        @jit()
        def load(x: Any, origin: Any, _whitening: Any, _whitened: Any, z: Any) -> None:
            centre(x, origin, z)

        return load
    centre = centre_loop(stored, "float64")

    @jit()
    def load_white(x: Any, origin: Any, whitening: Any, whitened: Any, z: Any) -> None:
        centred, white = whitened[0], whitened[1]
        centre(x, origin, centred)
        white[:] = 0.0
        product(whitening, centred, white)
        for i in range(z.shape[0]):
            for j in range(z.shape[1]):
                z[i, j] = white[i, j]

    return load_white


@compiled_once
def _step(stored: str, dtype: str, is_white: bool, has_norm: bool) -> Loop:
    """The loop of :meth:`FusedStep.add`."""
    load, fill, softmax = _load(stored, dtype, is_white), products_loop(dtype), softmax_loop(dtype)
    product, outer, tally = add_product(), add_outer(dtype), tally_loop(dtype)
    prefetch = prefetch_loop()

    def step(
        x: Any, weights: Any, origin: Any, whitening: Any, theta: Any, bounds: Any,
        rows: Any, columns: Any, whitened: Any, features: Any, joint: Any, largest: Any,
        sums: Any, density: Any, tallies: Any,
    ) -> None:  # fmt: skip
        n_rows, n_features = x.shape
        first = n_features + 2
        top, total = largest[0], largest[1]
        z = features[1 : n_features + 1]
        tallies[:, :-1] = 0
        tallies[:, -1] = -np.inf
        for start in range(0, n_rows, _RUN):
            stop = min(start + _RUN, n_rows)
            load(x[start:stop], origin, whitening, whitened, z)
            prefetch(x[stop : min(stop + _RUN, n_rows)])
            if has_norm:
                values = features[first : first + rows.size]
                fill(z, rows, columns, features[first - 1], values)
            joint[:] = 0
            product(theta, features, joint)
            for m in range(bounds.size - 1):
                softmax(joint[bounds[m] : bounds[m + 1]], top, total)
                tally(
                    top[: stop - start], total[: stop - start],
                    weights[start:stop] if weights.size else weights,
                    density[m, start:stop], tallies[m],
                )  # fmt: skip
            if weights.size:
                weigh(joint, weights[start:stop])
            # What a short run leaves of the one before it counts for nothing.
            joint[:, stop - start :] = 0
            outer(joint, features, sums)

    @jit()
    def weigh(joint: Any, weights: Any) -> None:
        for k in range(joint.shape[0]):
            for j in range(weights.size):
                joint[k, j] *= weights[j]

    _, vector, matrix = array_types(dtype)
    _, doubles, double_matrix = array_types("float64")
    _, index, _ = array_types("intp")
    places = index.copy(readonly=True)
    _, _, read = array_types(stored)
    narrow = stored == dtype == "float32" and not is_white
    compiled: Loop = jit(
        signature(
            read.copy(readonly=True), doubles, vector if narrow else doubles, double_matrix, matrix,
            index, places, places, double_matrix.copy(ndim=3), matrix, matrix, matrix,
            double_matrix, matrix, double_matrix,
        )
    )(step)  # fmt: skip
    return compiled


def _zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    out = aligned_empty(shape, dtype)
    out[...] = 0
    return out


def _filled(matrix: Array, n_rows: int, n_columns: int) -> Array:
    """The matrix with zeros below and to the right of it."""
    out = np.zeros((n_rows, n_columns), matrix.dtype)
    out[: matrix.shape[0], : matrix.shape[1]] = matrix
    return out
