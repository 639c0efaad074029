"""Variants of EM: which posterior policy each restart follows at each iteration, and what it keeps.

===== ======================================= ==================================================
name  a row counts for                        ``lower_bound_``, per row; result
===== ======================================= ==================================================
em    all components, by responsibility       log-likelihood; the last iterate
cem   its likeliest component                 classification log-likelihood; the last iterate
sem   one component drawn by responsibility   log-likelihood; the likeliest iterate that was seen
===== ======================================= ==================================================

Dempster, Laird and Rubin 1977; Celeux and Govaert 1992; Celeux and Diebolt 1985. Annealing tempers
the responsibilities of the first iterations (Ueda and Nakano 1998).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from dgmm.errors import InvalidParameterError
from dgmm.mixture import Mixture
from dgmm.posterior import (
    Annealed,
    Classification,
    Expectation,
    KnownLabels,
    PosteriorPolicy,
    Stochastic,
)
from dgmm.statistics import SufficientStatistics

__all__ = ["ALGORITHMS", "Algorithm", "check_annealing"]

ALGORITHMS = ("em", "cem", "sem")

# The place of the draws among the streams of a fit's seed (0: sample, 1: starts, 2: new rows).
_STREAM = 3

# Of a standard deviation: enough to leave a saddle in a few iterations, too little to matter else.
_KICK = 0.05


@dataclass(frozen=True)
class Algorithm:
    """How a fit alternates between posterior and parameters.

    Parameters
    ----------
    name : {"em", "cem", "sem"}
    temperatures : tuple of float
        Of the first iterations; 1 from then on.
    entropy : int
        The seed of the fit.
    labelled : bool
        True if some rows' components are known.
    n_init : int, optional
        Where chains of several candidates follow each other: how many there are of each. Restarts
        of one number draw alike, so that a candidate goes as it would go alone.
    """

    name: str = "em"
    temperatures: tuple[float, ...] = ()
    entropy: int = 0
    labelled: bool = False
    n_init: int | None = None

    def policy(self, chain: int, iteration: int) -> PosteriorPolicy:
        """The policy of a chain at its iteration, both counted from 0."""
        policy = self._unlabelled(self._restart(chain), iteration)
        return KnownLabels(policy) if self.labelled else policy

    @property
    def final_policy(self) -> PosteriorPolicy:
        """That of the likelihood of a result, with the labels that are known."""
        return KnownLabels(Expectation()) if self.labelled else Expectation()

    def _restart(self, chain: int) -> int:
        return chain if self.n_init is None else chain % self.n_init

    def _unlabelled(self, restart: int, iteration: int) -> PosteriorPolicy:
        annealed = iteration < len(self.temperatures)
        temperature = self.temperatures[iteration] if annealed else 1.0
        if self.name == "cem":
            return Classification()
        if self.name == "sem":
            key = np.random.SeedSequence(self.entropy, spawn_key=(_STREAM, restart, iteration))
            first, second = key.generate_state(2, np.uint64)
            return Stochastic((int(first), int(second)), temperature)
        return Expectation() if temperature == 1.0 else Annealed(temperature)

    def lower_bound(self, statistics: SufficientStatistics) -> float:
        """What the algorithm increases, per unit of weight, in nats."""
        total = statistics.log_likelihood
        if self.name == "cem":
            total += statistics.log_assignment
        return total / statistics.weight

    def may_stop(self, iteration: int) -> bool:
        """True if a small change at this iteration, counted from 0, means convergence."""
        if self.name == "sem":
            return False
        # The change is due to the M-step before, which has to have been at temperature 1.
        return not self.temperatures or iteration > len(self.temperatures)

    def perturbed(
        self, mixture: Mixture, chain: int, iteration: int, *, held: Any = None
    ) -> Mixture:
        """A mixture whose means are moved a little after an annealed iteration.

        Those of the components that ``held`` (a mask) names stay where they are.

        At a high temperature all components fall together, and what is equal stays equal when the
        temperature falls, although the likelihood has no maximum there any more (Rose 1998,
        section II-C).
        """
        tempered = self.name == "em" and iteration < len(self.temperatures)
        if not tempered or mixture.singular_components:
            return mixture
        key = (_STREAM, self._restart(chain), iteration)
        seed = np.random.SeedSequence(self.entropy, spawn_key=key)
        shape = mixture.n_components, mixture.n_features
        noise = np.random.default_rng(seed).standard_normal(shape)
        factors = mixture.family.per_component(mixture.factors, mixture.n_components)
        steps = np.concatenate(
            [
                mixture.family.shape.times(factors[k], noise[k : k + 1])
                for k in range(mixture.n_components)
            ]
        )
        means = mixture.means + _KICK * steps
        if held is not None and held.any():
            means = np.where(held[:, None], mixture.means, means)
        return replace(mixture, means=means)

    @property
    def keeps_best(self) -> bool:
        """True if the likeliest iterate is the result, not the last."""
        return self.name == "sem"


def check_annealing(value: Any, algorithm: str, max_iter: int) -> tuple[float, ...]:
    """The temperatures of an ``annealing=`` argument.

    Raises
    ------
    InvalidParameterError
        If they are not finite, at least 1 and decreasing, do not leave an iteration of
        ``max_iter`` at temperature 1, or the algorithm has no use for them.
    """
    if value is None:
        return ()
    try:
        # A string would be iterated digit by digit.
        several = (np.nan,) if isinstance(value, str | bytes) else value
        temperatures = tuple(float(one) for one in several)
    except (TypeError, ValueError):
        temperatures = (np.nan,)
    falling = all(a >= b for a, b in pairwise(temperatures))
    if not falling or not all(1.0 <= one < np.inf for one in temperatures):
        raise InvalidParameterError(
            f"annealing={value!r}; it must be a decreasing sequence of finite temperatures of at "
            "least 1, one for each of the first iterations, such as numpy.geomspace(8, 1, 20)"
        )
    if algorithm == "cem":
        raise InvalidParameterError(
            "annealing is without effect on algorithm='cem': the likeliest component is the same "
            "at every temperature; pass annealing=None, or algorithm='em' or 'sem'"
        )
    if 0 < max_iter <= len(temperatures):
        raise InvalidParameterError(
            f"annealing has {len(temperatures)} temperatures and max_iter={max_iter}; raise "
            "max_iter above their number, so that the fit ends at temperature 1"
        )
    return temperatures
