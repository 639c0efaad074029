"""The M-step that an accelerator needs: one that maximises what it is judged by.

Adding ``reg_covar`` to the diagonal after the maximisation is not a step uphill on any objective.
The penalty −½ ε' Σ_c tr Σ_c⁻¹ has the exact maximiser (scatter_c + ε' I) / n_c, which is the same
ridge where a covariance stands for its even share of the rows: ε' = reg_covar · rows / covariances.
For the tied families, whose one covariance stands for all rows, it is ``reg_covar`` itself.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dgmm.covariance import CovarianceFamily
from dgmm.maximization import MaximizationOptions

__all__ = ["monotone_options"]


def monotone_options(
    options: MaximizationOptions,
    family: CovarianceFamily,
    n_components: int,
    n_features: int,
    weight: float,
) -> MaximizationOptions:
    """The options with ``reg_covar`` as a penalty, for which EM never falls.

    Parameters
    ----------
    options : MaximizationOptions
    family : CovarianceFamily
    n_components, n_features : int
    weight : float
        Σ w of the rows that are fitted to.
    """
    if not options.reg_covar:
        return options
    share = weight / (1 if family.is_tied else n_components)
    unit = family.shape.divisor(n_features) * family.shape.identity(n_features)
    ridge = options.reg_covar * share * unit
    scale = np.broadcast_to(ridge, family.covariances_shape(n_components, n_features))
    priors = options.priors
    if priors.covariance is not None:
        scale = scale + priors.covariance
    return replace(options, reg_covar=0.0, priors=replace(priors, covariance=scale))
