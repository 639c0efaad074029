"""The starts of all restarts, of one fit or of many candidates that share the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from dgmm.acceleration.lbfgs import n_pairs
from dgmm.em import Context
from dgmm.fixed import Fixed
from dgmm.guard import Level
from dgmm.initialization import mixture_from, starting_weights, working_bytes
from dgmm.maximization import MaximizationOptions
from dgmm.mixture import Mixture
from dgmm.parameters import FitParameters
from dgmm.profile import ProfilePass
from dgmm.scalable_kmeans import METHOD, StartRequest, candidate_bytes, parallel_starts
from dgmm.small_em import METHOD as SMALL_EM
from dgmm.small_em import small_em_bytes, small_em_start

__all__ = ["checkpoint_bytes", "reserved_bytes", "restart_seed", "start_finders"]

Find = Callable[[], Mixture]


def restart_seed(seeds: np.random.SeedSequence, restart: int) -> np.random.SeedSequence:
    """The seed of a restart, whatever the number of restarts is."""
    return np.random.SeedSequence(seeds.entropy, spawn_key=(1, restart))


def reserved_bytes(candidates: Sequence[FitParameters], task: ProfilePass) -> int:
    """What the driver needs beside the passes: the sample, the starts, the M-steps.

    Parameters
    ----------
    candidates : sequence of FitParameters
        All that share the passes.
    task : ProfilePass
    """
    d = task.n_features
    n_sampled = (1 + task.labelled) * task.sample_size
    # Starts are made one after the other.
    total = task.sample_bytes + max(
        working_bytes(n_sampled, d, one.n_components, one.family) for one in candidates
    )
    total += max(
        (
            small_em_bytes(d, one.n_components, task.itemsize, one.family, n_sampled)
            for one in candidates
            if one.init_params == SMALL_EM
        ),
        default=0,
    )
    for one in candidates:
        covariances = 8 * int(np.prod(one.family.covariances_shape(one.n_components, d)))
        drawn = candidate_bytes(d, one.n_components) if one.init_params == METHOD else 0
        # Covariances, factors, inverses, precisions, coefficients and scatters of each restart.
        kept = 0 if one.acceleration is None else accelerator_bytes(one, d)
        total += one.n_init * (8 * covariances + drawn + kept)
    return total


def accelerator_bytes(parameters: FitParameters, n_features: int) -> int:
    """What the driver keeps of each accelerated restart: pairs, points, candidates."""
    k, d = parameters.n_components, n_features
    size = k + k * d + parameters.family.n_parameters(k, d)
    covariances = int(np.prod(parameters.family.covariances_shape(k, d)))
    # A pair being added is a copy of them all; points have their mixtures' factors and inverses.
    return 8 * (4 * n_pairs(size, several=True) * size + 24 * covariances)


def checkpoint_bytes(parameters: FitParameters, n_features: int) -> int:
    """What writing or reading a checkpoint takes: the restarts' parameters, twice as bytes."""
    k, d = parameters.n_components, n_features
    covariances = int(np.prod(parameters.family.covariances_shape(k, d)))
    kept = 0 if parameters.acceleration is None else accelerator_bytes(parameters, d)
    return 2 * parameters.n_init * (2 * 8 * (k + k * d + covariances) + kept)


def start_finders(
    candidates: Sequence[FitParameters],
    context: Context,
    level: Level,
    seeds: Sequence[Sequence[np.random.SeedSequence]],
    options: Sequence[MaximizationOptions],
) -> list[list[Find]]:
    """For each candidate and restart, a function without arguments that makes its start.

    Candidates that differ in their family alone share what comes before the M-step.

    Parameters
    ----------
    candidates : sequence of FitParameters
        All with the same ``init_params``.
    context : Context
    level : Level
    seeds : sequence of sequence of SeedSequence
        For each candidate, the seeds of its restarts.
    options : sequence of MaximizationOptions
        For each candidate, of the M-steps that make mixtures; what is held is not held yet.
    """
    # Held values are put into a start when it is there.
    options = [replace(one, fixed=Fixed()) for one in options]
    known = context.profile.known
    # Rows whose component is known say where the components are, whatever the method.
    seeded = known is not None and len(known.rows) > 0
    kinds: dict[Any, type[_Sampled | _Parallel | _ShortRuns]] = {
        METHOD: _Parallel,
        SMALL_EM: _ShortRuns,
    }
    method = candidates[0].init_params
    shared = kinds.get(method, _Sampled) if isinstance(method, str) and not seeded else _Sampled
    starts = shared(candidates, context, level, seeds, options)
    return [
        [partial(starts.find, i, restart) for restart in range(len(ours))]
        for i, ours in enumerate(seeds)
    ]


class _Sampled:
    """Starts from the sample; the latest assignment of its rows is kept for the next family."""

    def __init__(
        self,
        candidates: Sequence[FitParameters],
        context: Context,
        level: Level,
        seeds: Any,
        options: Sequence[MaximizationOptions],
    ) -> None:
        del level
        self._options = options
        self._candidates, self._seeds = candidates, seeds
        self._sample, self._known = context.profile.sample, context.profile.known
        self._weight = context.profile.weight
        self._latest: dict[Any, Any] = {}

    def find(self, candidate: int, restart: int) -> Mixture:
        parameters, seed = self._candidates[candidate], self._seeds[candidate][restart]
        k = parameters.n_components
        key = (k, seed.entropy, seed.spawn_key)
        if key not in self._latest:
            # One entry only: it holds a number for every sampled row.
            self._latest = {
                key: starting_weights(
                    self._sample,
                    k,
                    method=parameters.init_params,
                    seed=seed,
                    known=self._known,
                )
            }
        return mixture_from(
            self._sample,
            parameters.family,
            k,
            self._latest[key],
            self._options[candidate],
            self._weight,
        )


class _ShortRuns:
    """Starts where short runs on the sample have led."""

    def __init__(
        self,
        candidates: Sequence[FitParameters],
        context: Context,
        level: Level,
        seeds: Any,
        options: Sequence[MaximizationOptions],
    ) -> None:
        self._candidates, self._context, self._level = candidates, context, level
        self._seeds, self._options = seeds, options

    def find(self, candidate: int, restart: int) -> Mixture:
        parameters = self._candidates[candidate]
        return small_em_start(
            self._context.profile,
            parameters.family,
            parameters.n_components,
            level=self._level,
            options=self._options[candidate],
            seed=self._seeds[candidate][restart],
        )


class _Parallel:
    """Starts from all rows, found together when the first of them is asked for."""

    def __init__(
        self,
        candidates: Sequence[FitParameters],
        context: Context,
        level: Level,
        seeds: Any,
        options: Sequence[MaximizationOptions],
    ) -> None:
        self._options = options
        self._candidates, self._context, self._level = candidates, context, level
        self._seeds = seeds
        self._found: dict[tuple[int, int], Mixture] | None = None

    def find(self, candidate: int, restart: int) -> Mixture:
        if self._found is None:
            self._found = self._all()
        return self._found[candidate, restart]

    def _all(self) -> dict[tuple[int, int], Mixture]:
        names = [(i, r) for i, ours in enumerate(self._seeds) for r in range(len(ours))]
        requests = [
            StartRequest(
                self._candidates[i].family, self._candidates[i].n_components, self._seeds[i][r]
            )
            for i, r in names
        ]
        options = [self._options[i] for i, _ in names]
        found = parallel_starts(self._context, requests, self._level, options)
        return dict(zip(names, found, strict=True))
