"""Starts by short runs of EM on a sample: "small EM" (Biernacki, Celeux and Govaert 2003).

EM ends where it begins, more or less; which start is good shows after a few iterations, and a
sample shows it as well as all rows do. So each restart makes several starts of its own, runs them
side by side on rows that are in memory anyway, lets the worse half go at every rung (successive
halving, by projected lower bound) and hands on where the last one stops. The full data is read for
the survivors alone, and for what the sample cannot tell.

The sampled rows carry weights that sum to the weight of all rows, so that priors and ``reg_covar``
count for as much as they will. Everything happens on the driver, with one thread: the same bits on
every engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dgmm.acceleration import Accelerator
from dgmm.covariance import CovarianceFamily
from dgmm.data.dataset import Dataset, Rows
from dgmm.data.opening import open_dataset
from dgmm.em import Chain, Context, best_chain, frames_of, iterate
from dgmm.engine.base import Reduced
from dgmm.errors import SingularMixtureError
from dgmm.features import Layout
from dgmm.guard import Level
from dgmm.halving import halving_of
from dgmm.initialization import initial_mixture
from dgmm.maximization import MaximizationOptions
from dgmm.mixture import Mixture
from dgmm.profile import Profile, ProfilePass
from dgmm.row_sample import Sample

__all__ = ["METHOD", "small_em_bytes", "small_em_start"]

Array = np.ndarray[Any, Any]

METHOD = "small_em"

# Starts of each restart; the first is k-means', the others choose centres at random.
_TRIES = 10

# Iterations before the first half of them leaves, and most of any.
_FIRST, _MOST = 5, 80

# Rows of the sample that the runs see: so many for each parameter, and no fewer than that.
_ROWS_PER_PARAMETER, _LEAST_ROWS = 10, 8192


def small_em_start(
    profile: Profile,
    family: CovarianceFamily,
    n_components: int,
    *,
    level: Level,
    options: MaximizationOptions,
    seed: np.random.SeedSequence,
) -> Mixture:
    """The start of one restart.

    Parameters
    ----------
    profile : Profile
        Of all rows, with the sample.
    family : CovarianceFamily
    n_components : int
    level : Level
        The fastest kernel that may be used.
    options : MaximizationOptions
        Of the fit; nothing may be held.
    seed : numpy.random.SeedSequence
        Of this restart alone.

    Returns
    -------
    Mixture
        k-means' start where every run collapsed.
    """
    starts = _starts(profile, family, n_components, options, seed)
    sample = _fewer(profile.sample, family, n_components)
    rows = _rows(sample, profile.weight)
    context = _context(rows, family)
    chains = [Chain(start, level, name=f"try {i}") for i, start in enumerate(starts)]
    # Below 1 the posterior has no upper bound, and accelerated steps would go where it has none.
    alpha = options.priors.weight_concentration
    is_bounded = alpha is None or float(alpha.min()) >= 1.0
    accelerator = Accelerator(profile.weight) if is_bounded else None
    runs = iterate(
        context,
        chains,
        # Nearer to the sample's optimum than that is nearer to nothing of the data's.
        tol=_n_parameters(family, n_components, rows) / (20.0 * rows.n_rows),
        options=options,
        max_iter=_MOST,
        halving=halving_of(_FIRST, [len(chains)]),
        accelerator=accelerator,
    )
    for _ in runs:
        pass
    try:
        return best_chain(chains).mixture
    except SingularMixtureError:
        return starts[0]


def small_em_bytes(
    n_features: int, n_components: int, itemsize: int, family: CovarianceFamily, n_sampled: int
) -> int:
    """Bytes that the short runs take beside the sample: their mixtures, and a pass over it."""
    covariances = n_components * int(np.prod(family.shape.trailing(n_features)))
    moments = n_components * family.shape.block(Layout(n_features))
    wanted = max(_LEAST_ROWS, _ROWS_PER_PARAMETER * (moments + n_components * n_features))
    rows = min(wanted, n_sampled)
    tile = 2**20 + min(8192, rows) * 8 * (n_features + 8)
    return _TRIES * 8 * (12 * covariances + 4 * moments) + 4 * tile + rows * n_features * itemsize


def _starts(
    profile: Profile,
    family: CovarianceFamily,
    n_components: int,
    options: MaximizationOptions,
    seed: np.random.SeedSequence,
) -> list[Mixture]:
    """k-means' start, which is that of ``init_params="kmeans"``, and random ones."""
    own = [
        np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, i))
        for i in range(1, _TRIES)
    ]
    methods = ["kmeans", *["k-means++"] * (_TRIES - 1)]
    return [
        initial_mixture(
            profile.sample,
            family,
            n_components,
            method=method,
            options=options,
            seed=one,
            weight=profile.weight,
        )
        for method, one in zip(methods, [seed, *own], strict=True)
    ]


def _fewer(sample: Sample, family: CovarianceFamily, n_components: int) -> Sample:
    """The sample of the same rows that would have been drawn had it been smaller."""
    free = family.n_parameters(n_components, sample.x.shape[1])
    wanted = max(_LEAST_ROWS, _ROWS_PER_PARAMETER * (free + n_components * sample.x.shape[1]))
    if len(sample.x) <= wanted:
        return sample
    keep = np.sort(np.argsort(sample.keys, kind="stable")[:wanted])
    return replace(sample.only(keep), x=sample.x[keep], size=wanted)


def _n_parameters(family: CovarianceFamily, n_components: int, rows: Rows) -> float:
    d = rows.x.shape[1]
    return float(n_components * (1 + d) + family.n_parameters(n_components, d))


def _rows(sample: Sample, weight: float) -> Rows:
    """The sampled rows, counting for all."""
    each = weight / len(sample.x)
    shares = sample.shares
    if shares is None and each == 1.0:
        return Rows(sample.x)
    return Rows(sample.x, weight=each * (np.ones(len(sample.x)) if shares is None else shares))


def _context(rows: Rows, family: CovarianceFamily) -> Context:
    task = ProfilePass(
        n_rows=rows.n_rows,
        n_features=rows.x.shape[1],
        sample_size=1,
        seed=0,
        itemsize=rows.x.itemsize,
        weighted=rows.weight is not None,
        dense=family.shape.uses_whitening(),
    )
    session: Any = _InMemory(rows)
    profile = session.run(task).total
    return Context(session, frames_of(profile, rows.x.dtype), profile)


@dataclass(frozen=True)
class _InMemory:
    """A session over rows that are here, evaluated in one piece."""

    rows: Rows

    @property
    def dataset(self) -> Dataset:
        """The rows as a dataset: a pass asks how many blocks there are to share."""
        return open_dataset(self.rows.x)

    def run(
        self,
        task: Any,
        *,
        blocks: Sequence[int] | None = None,
        keep: str | None = None,
        again: bool = False,
    ) -> Reduced[Any]:
        return Reduced(task.evaluate(self.rows, task.workspace()))
