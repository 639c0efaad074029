"""Plots of mixtures, of fits and of selections, by matplotlib.

Plain functions that draw on an ``Axes`` and return it. They need a mixture and, where rows are
shown, a seeded sample of them from one pass over data of any size and source; never all of the
rows. matplotlib (``pip install 'dgmm[plot]'``) is imported when something is drawn.

Each takes a fitted :class:`dgmm.GaussianMixture`, of which it is a method as well, or where no fit
is asked for a :class:`dgmm.Mixture`.
"""

from dgmm.plotting.components import plot_components, plot_density
from dgmm.plotting.curves import plot_convergence, plot_criterion
from dgmm.plotting.responsibilities import plot_responsibilities

__all__ = [
    "PlotMethods",
    "plot_components",
    "plot_convergence",
    "plot_criterion",
    "plot_density",
    "plot_responsibilities",
]


class PlotMethods:
    """The plots of a fitted estimator, as its methods."""

    plot_components = plot_components
    plot_density = plot_density
    plot_responsibilities = plot_responsibilities
    plot_convergence = plot_convergence
