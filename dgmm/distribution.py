"""What can be asked of a mixture as a probability distribution: the methods of ``dgmm.Mixture``.

Each is a few lines here, with its documentation; the work is in the module that it names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import numpy as np

from dgmm import conditional, density, divergence, merging, sampling
from dgmm.errors import InvalidParameterError
from dgmm.seeds import seed_entropy

if TYPE_CHECKING:
    from dgmm.mixture import Mixture

__all__ = ["Distribution"]

Array = np.ndarray[Any, Any]


class Distribution:
    """Densities, distances, marginals, conditionals, divergences, merging and sampling.

    Rows are given in memory, as arrays (n_rows, n_features) of real numbers; for data of any size
    use the methods of :class:`dgmm.GaussianMixture`. All raise InvalidParameterError if a
    covariance is not symmetric and positive definite.
    """

    @property
    def _mixture(self) -> Mixture:
        return cast("Mixture", self)

    # ------------------------------------------------------------------ rows

    def log_prob(self, x: Any) -> Array:
        """Log density of every row.

        Parameters
        ----------
        x : array of shape (n_rows, n_features)

        Returns
        -------
        array of shape (n_rows,)
            In nats.

        Raises
        ------
        InvalidDataError
            If the rows are of another width, or one has no finite density (NaN, infinity).
        """
        return density.log_density(self._mixture, x)

    def responsibilities(self, x: Any) -> Array:
        """Posterior probability of every component for every row: (n_rows, n_components).

        Parameters and errors as in :meth:`log_prob`.
        """
        return density.responsibilities(self._mixture, x)

    def predict(self, x: Any) -> Array:
        """The component of the highest posterior probability: (n_rows,), int64.

        Parameters and errors as in :meth:`log_prob`.
        """
        return density.labels(self._mixture, x)

    def mahalanobis(self, x: Any) -> Array:
        """Mahalanobis distances to the means of all components: (n_rows, n_components).

        √((x − μ_k)ᵀ Σ_k⁻¹ (x − μ_k)), in standard deviations; not squared.
        """
        return density.mahalanobis(self._mixture, x)

    def outlier_score(self, x: Any) -> Array:
        """How unusual every row is: its surprise −log p(x), in nats, shape (n_rows,).

        Higher is more unusual. It ranks rows by density, so a row between two components scores
        high, and its level depends on the units of the data; :meth:`tail_probability` does not.
        """
        return -density.log_density(self._mixture, x)

    def tail_probability(self, x: Any) -> Array:
        """How probable a row at least as far out is: shape (n_rows,), between 0 and 1.

        The χ² probability (n_features degrees of freedom) of a Mahalanobis distance greater than
        the row's to its nearest component. For rows of one Gaussian it is uniform on (0, 1), so a
        threshold of 0.001 flags one in a thousand; where components overlap, fewer.
        """
        return density.tail_probability(self._mixture, x)

    # ------------------------------------------------------- some of the features

    def marginal(self, features: Any) -> Mixture:
        """The distribution of some features, the others integrated out.

        Parameters
        ----------
        features : int, str or sequence of them
            Indices or names, in the order that the result shall have.

        Returns
        -------
        Mixture
            Of the same family.

        Raises
        ------
        InvalidParameterError
            If a feature is unknown or named twice.
        """
        return conditional.marginal(self._mixture, features)

    def conditional(self, features: Any, values: Any) -> Mixture:
        """The distribution of the other features, given the values of some.

        Weights become the responsibilities of the components for ``values``; means move along the
        regression on them, and covariances shrink to what it leaves unexplained.

        Parameters
        ----------
        features : int, str or sequence of them
            The features that are known.
        values : float or array of shape (n_given,)
            In the order of ``features``.

        Returns
        -------
        Mixture
            Of the remaining features, in their order, and of the same family: in all six, what is
            left of a covariance has its shape, and does not depend on ``values``.

        Raises
        ------
        InvalidParameterError
            If a feature is unknown or named twice, none is left, or values are not finite.
        """
        return conditional.conditional(self._mixture, features, values)

    @overload
    def regress(
        self, x: Any, given: Any, *, targets: Any = ..., return_covariance: Literal[False] = ...
    ) -> Array: ...

    @overload
    def regress(
        self, x: Any, given: Any, *, targets: Any = ..., return_covariance: Literal[True]
    ) -> tuple[Array, Array]: ...

    def regress(
        self, x: Any, given: Any, *, targets: Any = None, return_covariance: bool = False
    ) -> Array | tuple[Array, Array]:
        """Expected values of some features for rows of others: Gaussian mixture regression.

        Parameters
        ----------
        x : array of shape (n_rows, n_given)
            Values of the known features.
        given : int, str or sequence of them
            Which features the columns of ``x`` are.
        targets : int, str or sequence of them, optional
            The features to predict, by default all others in their order.
        return_covariance : bool, default=False

        Returns
        -------
        means : array of shape (n_rows, n_targets)
            E[y | x].
        covariances : array of shape (n_rows, n_targets, n_targets)
            Cov[y | x], only with ``return_covariance=True``.

        Raises
        ------
        InvalidParameterError, InvalidDataError
            As :meth:`conditional` and :meth:`log_prob`.
        """
        return conditional.regress(
            self._mixture, x, given, targets, return_covariance=return_covariance
        )

    # ---------------------------------------------------------- other mixtures

    def kl_divergence(
        self,
        other: Mixture,
        *,
        method: str = "auto",
        n_samples: int = 100_000,
        random_state: Any = None,
    ) -> divergence.Divergence:
        """Kullback-Leibler divergence KL(self ‖ other), in nats.

        Parameters
        ----------
        other : Mixture
            Of as many features; components and family may differ.
        method : {"auto", "exact", "monte_carlo", "variational"}, default="auto"
            ``exact`` is for single Gaussians. ``monte_carlo`` averages log p − log q over draws of
            this mixture. ``variational`` is the closed approximation of Hershey & Olsen (2007): no
            bound, and below zero where overlapping components are set against few. ``auto`` is
            exact where that exists and Monte Carlo elsewhere.
        n_samples : int, default=100_000
            Draws of Monte Carlo.
        random_state : int, RandomState or Generator, optional

        Returns
        -------
        Divergence
            ``value``, ``standard_error`` and ``method``; ``float()`` gives the value.
        """
        return divergence.divergence(self._mixture, other, method, n_samples, random_state)

    def merge_components(
        self, first: int | Sequence[Sequence[int]], second: int | None = None
    ) -> Mixture:
        """Some components made one, with their weight, mean and covariance.

        Parameters
        ----------
        first, second : int
            Two components; or, as ``first`` alone, a sequence of groups of components.

        Returns
        -------
        Mixture
            A group takes the place of its least member. Weights and means are those of the group in
            every family; covariances too where each component has its own, within the family (diag
            keeps variances, spherical the total variance). A tied covariance grows by the scatter
            of the merged means, which keeps the covariance of the whole mixture.

        Raises
        ------
        InvalidParameterError
            If a component is unknown or in two groups.
        """
        if isinstance(first, int | np.integer):
            if second is None:
                raise InvalidParameterError("one component given; give two, or groups of them")
            return merging.merge_components(self._mixture, [[int(first), int(second)]])
        if second is not None:
            raise InvalidParameterError("give two components or groups of components, not both")
        return merging.merge_components(self._mixture, first)

    def with_covariance_type(self, covariance_type: str) -> Mixture:
        """The same densities, their covariances written as another family.

        Possible where that family is more general: tied to per component, spherical to diag to
        full.

        Raises
        ------
        InvalidParameterError
            If the covariances are none of that family's.
        """
        return merging.in_family(self._mixture, covariance_type)

    # ---------------------------------------------------------------- sampling

    def sample(
        self,
        n_samples: int = 1,
        *,
        component: int | None = None,
        confidence: float | None = None,
        std_range: tuple[float, float] | None = None,
        out: Any = None,
        random_state: Any = None,
    ) -> tuple[Any, Any]:
        """Draw rows.

        Parameters
        ----------
        n_samples : int, default=1
        component : int, optional
            Draw from this component alone.
        confidence : float, optional
            Draw inside the ellipsoids that hold this share of each component: squared Mahalanobis
            distance up to the χ² quantile.
        std_range : (float, float), optional
            Draw where a ≤ Mahalanobis distance ≤ b from the mean of the row's component; b may be
            infinite. Both are drawn from directly, not by rejection, so a range of any probability
            costs the same.
        out : path, URL or Zarr array, or a pair of them, optional
            Where to stream rows, or rows and labels, so that any number needs a few megabytes.
        random_state : int, RandomState or Generator, optional
            The same seed gives the same rows, in memory or streamed.

        Returns
        -------
        X : array of shape (n_samples, n_features)
            NumPy, or the Zarr array.
        y : array of shape (n_samples,), int64
            The component of each row, None for streamed rows without a place for labels. Rows come
            in pieces of at most 65,536 and 8 MiB, and are grouped by component within a piece.

        Raises
        ------
        InvalidParameterError
            If an argument is out of range.
        """
        mixture = self._mixture
        wanted = sampling.check_draw(mixture, component, confidence, std_range)
        seed = np.random.SeedSequence(seed_entropy(random_state), spawn_key=(2,))
        return sampling.sample_rows(mixture, n_samples, seed, wanted, out=out)
