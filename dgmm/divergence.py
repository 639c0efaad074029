"""Kullback-Leibler divergence between mixtures: exact, by Monte Carlo, or approximated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from dgmm.density import check_covariances, log_density
from dgmm.errors import InvalidParameterError
from dgmm.sampling import Draw, pieces
from dgmm.seeds import seed_entropy

if TYPE_CHECKING:
    from dgmm.mixture import Mixture

__all__ = ["Divergence", "divergence"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Divergence:
    """A divergence and how well it is known.

    Parameters
    ----------
    value : float
        In nats.
    standard_error : float or None
        Of a Monte Carlo estimate; 0 for an exact value, None for an approximation of unknown error.
    method : {"exact", "monte_carlo", "variational"}
    """

    value: float
    standard_error: float | None
    method: str

    def __float__(self) -> float:
        return self.value


def divergence(
    mixture: Mixture, other: Mixture, method: str, n_samples: Any, random_state: Any
) -> Divergence:
    """KL(mixture ‖ other); see :meth:`dgmm.Mixture.kl_divergence`."""
    if not hasattr(other, "n_features"):
        raise InvalidParameterError(f"{other!r} is no dgmm.Mixture, which a divergence needs")
    if other.n_features != mixture.n_features:
        raise InvalidParameterError(
            f"the mixtures have {mixture.n_features} and {other.n_features} features; a divergence "
            "needs as many in both"
        )
    ours, theirs = mixture.feature_names, other.feature_names
    if ours is not None and theirs is not None and ours != theirs:
        raise InvalidParameterError(
            f"the mixtures have the features {list(ours)} and {list(theirs)}; a divergence "
            "needs the same in the same order: take marginal(features) of one of them"
        )
    check_covariances(mixture)
    check_covariances(other)
    single = mixture.n_components == other.n_components == 1
    if method == "auto":
        method = "exact" if single else "monte_carlo"
    if method == "exact":
        if not single:
            raise InvalidParameterError(
                "there is no exact divergence of mixtures of several components; use "
                "method='monte_carlo' or 'variational'"
            )
        return Divergence(float(_between_components(mixture, other)[0, 0]), 0.0, method)
    if method == "variational":
        return Divergence(_variational(mixture, other), None, method)
    if method == "monte_carlo":
        return _monte_carlo(mixture, other, n_samples, random_state)
    raise InvalidParameterError(
        f"method={method!r}; it must be one of auto, exact, monte_carlo, variational"
    )


def _between_components(f: Mixture, g: Mixture) -> Array:
    """KL(f_a ‖ g_b) of all pairs of components: shape (K_f, K_g).

    ½ (‖W_b R_a‖² + ‖W_b (μ_a − μ_b)‖² − D) + ½ log det Σ_b − ½ log det Σ_a, with Σ_a = R_a R_aᵀ
    and W_b the inverse factor of Σ_b.
    """
    d = f.n_features
    spread = f.family.shape.dense(f.family.per_component(f.factors, f.n_components), d)
    whiteners = g.family.per_component(g.whiteners, g.n_components)
    found = np.empty((f.n_components, g.n_components))
    for a in range(f.n_components):
        for b in range(g.n_components):
            # The columns of R_a as rows, each whitened; so is the shift of the means.
            rows = np.vstack([spread[a].T, f.means[a] - g.means[b]])
            white = g.family.shape.times(whiteners[b], rows)
            found[a, b] = 0.5 * (np.sum(white**2) - d)
    return found + f.log_normalizers[:, None] - g.log_normalizers[None, :]


def _variational(f: Mixture, g: Mixture) -> float:
    """Σ_a π_a log (Σ_a' π_a' exp −KL(f_a ‖ f_a') / Σ_b ω_b exp −KL(f_a ‖ g_b)).

    Hershey & Olsen (2007), "Approximating the Kullback Leibler divergence between Gaussian mixture
    models", ICASSP.
    """
    inside = logsumexp(f.log_weights[None, :] - _between_components(f, f), axis=1)
    across = logsumexp(g.log_weights[None, :] - _between_components(f, g), axis=1)
    live = f.weights > 0
    return float(f.weights[live] @ (inside - across)[live])


def _monte_carlo(f: Mixture, g: Mixture, n_samples: Any, random_state: Any) -> Divergence:
    if not isinstance(n_samples, int | np.integer) or n_samples < 2:
        raise InvalidParameterError(
            f"n_samples={n_samples!r}; it must be an integer of at least 2, for a standard error"
        )
    seed = np.random.SeedSequence(seed_entropy(random_state), spawn_key=(3,))
    count, mean, scatter = 0, 0.0, 0.0
    for x, _ in pieces(f, int(n_samples), seed, Draw()):
        ratio = log_density(f, x) - log_density(g, x)
        # Chan's merge: the values may be large and their spread small.
        shift, n = float(ratio.mean()) - mean, len(ratio)
        scatter += float(ratio.var()) * n + shift**2 * count * n / (count + n)
        count += n
        mean += shift * n / count
    error = float(np.sqrt(scatter / (count - 1) / count))
    return Divergence(mean, error, "monte_carlo")
